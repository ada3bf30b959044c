//! `[sink.http]`.

use std::collections::BTreeMap;

use serde::Deserialize;
use watchfire_model::{Duration, Secret, Selector};
use watchfire_outbound::Target;

use crate::chunk::Takes;
use crate::section::{ConfigError, Start};

/// A service that takes batches of events by HTTP.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSinkConfig {
    /// `http://` or `https://`.
    pub url: Secret,
    /// Sent with each request, such as `Authorization`.
    pub headers: BTreeMap<String, Secret>,
    /// For a whole request.
    pub timeout: Duration,
    /// Events of a request, at most.
    pub request_rows: usize,
    /// Bytes of its body, at most; an event that is larger goes alone.
    pub request_bytes: usize,
    /// Streams that are pushed; `readings` is what devices sent.
    pub streams: Vec<String>,
    /// Devices.
    pub select: Selector,
    /// Metrics, by name or with a `*` at the end; empty: all.
    pub metrics: Vec<String>,
    /// Transitions of alerts.
    pub alerts: bool,
    /// Where a sink that is new begins.
    pub start: Start,
    /// Whoever operates this installation is told once nothing got through for this long.
    pub alert_after: Duration,
}

impl Default for HttpSinkConfig {
    fn default() -> Self {
        let takes = Takes::default();
        Self {
            url: Secret::default(),
            headers: BTreeMap::new(),
            timeout: Duration::from_secs(10),
            request_rows: 500,
            // Half of what nginx takes where nobody told it otherwise.
            request_bytes: 512 << 10,
            streams: takes.streams,
            select: takes.select,
            metrics: takes.metrics,
            alerts: true,
            start: Start::Earliest,
            alert_after: Duration::from_secs(300),
        }
    }
}

impl std::fmt::Debug for HttpSinkConfig {
    /// Address and headers may hold secrets: neither is printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpSinkConfig").field("streams", &self.streams).finish_non_exhaustive()
    }
}

/// A request must end well before the whole of a write is given up (two minutes).
const SLOWEST: Duration = Duration::from_secs(60);

impl HttpSinkConfig {
    /// Refuses what could not work, before anything is connected to.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, what: &str| Err(ConfigError { key, what: what.into() });
        if self.url.is_empty() {
            return wrong("url", "is missing");
        }
        if let Err(fault) = self.target().check() {
            let keys = ["url", "headers", "timeout"];
            let (named, what) = fault.split_once(": ").unwrap_or(("url", &fault));
            let key = keys.into_iter().find(|key| *key == named).unwrap_or("url");
            return wrong(key, what);
        }
        if self.timeout > SLOWEST {
            return wrong("timeout", "is above 60s");
        }
        if !(1..=100_000).contains(&self.request_rows) {
            return wrong("request_rows", "is from 1 to 100000");
        }
        if !(1024..=64 << 20).contains(&self.request_bytes) {
            return wrong("request_bytes", "is from 1024 to 67108864");
        }
        Ok(())
    }

    /// Where requests go.
    pub fn target(&self) -> Target<'_> {
        Target { url: &self.url, headers: &self.headers, timeout: self.timeout.to_std(), reserved: &[] }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_work_is_refused_with_the_key_and_without_a_secret() {
        let config = |text: &str| -> Result<(), String> {
            let config: HttpSinkConfig = toml::from_str(text).map_err(|error| error.to_string())?;
            config.check().map_err(|error| error.to_string())
        };
        let with = |more: &str| config(&format!("url = 'https://u:secret@localhost/secret'\n{more}"));
        assert_eq!(with(""), Ok(()));
        for (text, key) in [
            ("timeout = '0s'", "timeout"),
            ("timeout = '2m'", "timeout"),
            ("request_rows = 0", "request_rows"),
            ("request_bytes = 10", "request_bytes"),
            ("headers = { 'a b' = 'secret' }", "headers"),
            ("headers = { authorization = \"secret\\n\" }", "headers"),
            ("headers = { Idempotency-Key = 'secret' }", "headers"),
            ("batch = 7", "batch"),
        ] {
            let said = with(text).unwrap_err();
            assert!(said.contains(key) && !said.contains("\"secret"), "{text}: {said}");
        }
        assert!(config("").unwrap_err().starts_with("url: is missing"));
        assert!(config("url = 'ftp://secret@h'").unwrap_err().starts_with("url: begins with"));
        let config: HttpSinkConfig =
            toml::from_str("url = 'http://secret@h/'\nheaders = { authorization = 'secret' }").unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }
}
