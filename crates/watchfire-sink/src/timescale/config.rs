//! `[sink.timescale]`.

use std::str::FromStr;

use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;
use watchfire_model::{Duration, Secret, Selector};

use crate::chunk::Takes;
use crate::section::{ConfigError, Start, wrong};

/// A TimescaleDB, or a PostgreSQL without that extension.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimescaleConfig {
    /// `postgres://user:password@host:port/database?sslmode=require`.
    pub url: Secret,
    /// The schema of the tables. Made where it is missing.
    pub schema: String,
    /// Streams that are written, each to a table of its own; `readings` is what devices sent.
    pub streams: Vec<String>,
    /// Devices.
    pub select: Selector,
    /// Metrics, by name or with a `*` at the end; empty: all.
    pub metrics: Vec<String>,
    /// Alerts and their transitions.
    pub alerts: bool,
    /// The registry.
    pub devices: bool,
    /// Where a sink that is new begins.
    pub start: Start,
    /// Whether the extension is used where it is there.
    pub extension: Extension,
    /// Values a second that are expected in each stream: what the spans of chunks and partitions follow from.
    pub expected_rate: f64,
    /// The span of a chunk or partition; not said: it follows from `expected_rate`.
    pub chunk_interval: Option<Duration>,
    /// Chunks older than this are compressed; 0: none is. Needs the extension.
    pub compress_after: Duration,
    /// Readings older than this are dropped; 0: none is.
    pub retain_for: Duration,
    /// Whether minimum, maximum, mean, count and last value of each minute and hour are kept up to date by the server.
    /// Needs the extension.
    pub aggregates: bool,
    /// Whoever operates this installation is told once nothing got through for this long.
    pub alert_after: Duration,
}

/// Whether TimescaleDB is used where it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extension {
    /// Where it is there.
    #[default]
    Auto,
    /// Never.
    Off,
}

impl Default for TimescaleConfig {
    fn default() -> Self {
        let takes = Takes::default();
        Self {
            url: Secret::default(),
            schema: "public".into(),
            streams: takes.streams,
            select: takes.select,
            metrics: takes.metrics,
            alerts: true,
            devices: true,
            start: Start::Earliest,
            extension: Extension::Auto,
            expected_rate: 1000.0,
            chunk_interval: None,
            compress_after: Duration::from_secs(7 * 86_400),
            retain_for: Duration::ZERO,
            aggregates: true,
            alert_after: Duration::from_secs(300),
        }
    }
}

impl std::fmt::Debug for TimescaleConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the address: it holds a password.
        f.debug_struct("TimescaleConfig").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl TimescaleConfig {
    /// Refuses what could not work, before anything is connected to.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.connect_options()?;
        let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if self.schema.is_empty()
            || self.schema.len() > 63
            || !self.schema.chars().all(name)
            || self.schema.starts_with(|c: char| c.is_ascii_digit())
        {
            return Err(wrong("schema", "1 to 63 characters of a-z, 0-9 and '_', the first no digit"));
        }
        let mut tables = std::collections::BTreeMap::new();
        for stream in &self.streams {
            let table = table_of(stream);
            if table.len() > MAX_TABLE {
                return Err(wrong("streams", format!("{stream:?} is too long for the name of a table")));
            }
            if let Some(other) = tables.insert(table, stream) {
                return Err(wrong("streams", format!("{other:?} and {stream:?} would share a table")));
            }
        }
        if !(self.expected_rate.is_finite() && self.expected_rate > 0.0) {
            return Err(wrong("expected_rate", "is not above 0"));
        }
        if self.chunk_interval.is_some_and(|interval| interval < Duration::from_secs(3600)) {
            return Err(wrong(
                "chunk_interval",
                "is below an hour: a late reading of weeks ago would make hundreds",
            ));
        }
        Ok(())
    }

    /// How the server is reached, with the address as it is now.
    pub fn connect_options(&self) -> Result<PgConnectOptions, ConfigError> {
        if self.url.is_empty() {
            return Err(wrong("url", "is missing: postgres://user:password@host:port/database"));
        }
        let url = self.url.read().map_err(|error| wrong("url", error.to_string()))?;
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(wrong("url", "does not begin with postgres://"));
        }
        // What it says of a part that it does not understand may be the password.
        let options = PgConnectOptions::from_str(&url)
            .map_err(|_| wrong("url", "is not of the form postgres://user:password@host:port/database"))?;
        Ok(options.application_name("watchfire"))
    }

    /// What the sink takes of the log.
    pub fn takes(&self) -> Takes {
        Takes {
            streams: self.streams.clone(),
            select: self.select.clone(),
            metrics: self.metrics.clone(),
            alerts: self.alerts,
        }
    }

    /// The span of a chunk or partition: of so many hours that it holds some ten million values, one of those that
    /// divide a day, or a week.
    pub fn interval(&self) -> Duration {
        const VALUES: f64 = 25e6;
        self.chunk_interval.unwrap_or_else(|| {
            let seconds = VALUES / self.expected_rate;
            let spans = [7 * 86_400, 86_400, 12 * 3600, 6 * 3600];
            let span = spans.into_iter().find(|span| seconds >= *span as f64).unwrap_or(3600);
            Duration::from_secs(span)
        })
    }
}

/// Room for what is put behind the name: `_1m`, and the time of a partition.
const MAX_TABLE: usize = 63 - "_p20260101000000".len();

/// The table of a stream.
pub fn table_of(stream: &str) -> String {
    if *stream == *watchfire_model::READINGS {
        return stream.to_string();
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("derived_{}", stream.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<(), String> {
        let config: TimescaleConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())
    }

    #[test]
    fn what_could_not_work_is_refused_with_the_key_and_without_the_password() {
        let with = |more: &str| config(&format!("url = 'postgres://u:secret@localhost/db'\n{more}"));
        assert_eq!(with(""), Ok(()));
        for (text, key) in [
            ("schema = 'a;b'", "schema"),
            ("streams = ['a-b', 'a_b']", "streams"),
            ("expected_rate = 0", "expected_rate"),
            ("chunk_interval = '1s'", "chunk_interval"),
            ("compress = true", "compress"),
        ] {
            let said = with(text).unwrap_err();
            assert!(said.contains(key) && !said.contains("secret"), "{text}: {said}");
        }
        assert!(config("").unwrap_err().starts_with("url: is missing"));
        let said = config("url = 'postgres://u:secret@localhost:port/db'").unwrap_err();
        assert!(said.starts_with("url") && !said.contains("secret"), "{said}");
        let config: TimescaleConfig = toml::from_str("url = 'postgres://u:secret@localhost/db'").unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn chunks_are_shorter_the_more_comes() {
        let interval =
            |rate| TimescaleConfig { expected_rate: rate, ..TimescaleConfig::default() }.interval();
        assert_eq!(interval(1.0), Duration::from_secs(7 * 86_400));
        assert_eq!(interval(200.0), Duration::from_secs(86_400));
        assert_eq!(interval(1000.0), Duration::from_secs(6 * 3600));
        assert_eq!(interval(50_000.0), Duration::from_secs(3600));
    }
}
