//! The file of a case: its shape, and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;
use watchfire_model::alert::Chatter;
use watchfire_model::call::Level;
use watchfire_model::rule::ConditionSet;
use watchfire_model::{ConditionOptions, DeviceSpec, Duration, Limits, Selector, Severity, Timestamp, Value};

use crate::blob::{BlobFile, SlotFile};
use crate::case::Case;
use crate::series::SeriesFile;

/// What is wrong with the file of a case, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct CaseError {
    /// As it was given.
    pub file: String,
    /// From 1.
    pub line: u64,
    /// What is wrong.
    pub message: String,
}

impl Case {
    /// Reads a file.
    pub fn read(file: &Path) -> Result<Self, CaseError> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| CaseError {
            file: name.clone(),
            line: 1,
            message: format!("it cannot be read: {error}"),
        })?;
        Self::from_yaml(&text, &name)
    }

    /// Reads a case. `file_name` is what errors and reports call it; recordings that it names lie beside it.
    pub fn from_yaml(text: &str, file_name: &str) -> Result<Self, CaseError> {
        let file: CaseFile = serde_saphyr::from_str(text).map_err(|error| CaseError {
            file: file_name.into(),
            line: error.location().map_or(1, |location| location.line().max(1)),
            message: one_line(&error.without_snippet().to_string()),
        })?;
        crate::spread::case(file, file_name)
    }
}

/// The parser's message without the place, which stands in front already.
fn one_line(message: &str) -> String {
    let text = message.lines().next().unwrap_or_default();
    let place = text.strip_prefix("error: ").unwrap_or(text);
    match place.rsplit_once(" at line ") {
        Some((what, _)) => what.to_string(),
        None => match (place.strip_prefix("line "), place.split_once(": ")) {
            (Some(_), Some((_, what))) => what.to_string(),
            _ => place.to_string(),
        },
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaseFile {
    pub name: String,
    #[serde(default)]
    pub parameters: serde_json::Value,
    #[serde(default)]
    pub condition: ConditionFile,
    #[serde(default)]
    pub select: Selector,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub pass: Vec<String>,
    pub start: Option<Timestamp>,
    #[serde(default)]
    pub devices: Vec<Spanned<DeviceFile>>,
    pub state: Option<StateFile>,
    #[serde(default)]
    pub timeline: Vec<Spanned<Step>>,
    pub expect: Option<Vec<Spanned<ExpectedFile>>>,
    #[serde(default)]
    pub never: Vec<Spanned<NeverFile>>,
    pub publishes: Option<Vec<Spanned<Published>>>,
    #[serde(default)]
    pub samples: Vec<Spanned<Published>>,
    pub keeps: Option<Vec<Spanned<KeptFile>>>,
    pub logs: Option<Vec<Spanned<LoggedFile>>>,
    #[serde(default)]
    pub fails: Vec<Spanned<FailsFile>>,
    pub refused: Option<String>,
}

/// [`ConditionSet`], with unknown members refused.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ConditionFile {
    on_delay: Duration,
    minimum_repeat: u32,
    repeat_within: Option<Duration>,
    off_delay: Duration,
    latched: bool,
    chatter: Option<Chatter>,
    realarm: Option<Duration>,
    keys: BTreeMap<String, OptionsFile>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OptionsFile {
    on_delay: Duration,
    minimum_repeat: u32,
    repeat_within: Option<Duration>,
    off_delay: Duration,
    latched: bool,
    chatter: Option<Chatter>,
    realarm: Option<Duration>,
}

impl From<OptionsFile> for ConditionOptions {
    fn from(file: OptionsFile) -> Self {
        let OptionsFile { on_delay, minimum_repeat, repeat_within, off_delay, latched, chatter, realarm } =
            file;
        Self { on_delay, minimum_repeat, repeat_within, off_delay, latched, chatter, realarm }
    }
}

impl From<ConditionFile> for ConditionSet {
    fn from(file: ConditionFile) -> Self {
        let ConditionFile {
            on_delay,
            minimum_repeat,
            repeat_within,
            off_delay,
            latched,
            chatter,
            realarm,
            keys,
        } = file;
        let all =
            OptionsFile { on_delay, minimum_repeat, repeat_within, off_delay, latched, chatter, realarm };
        Self { all: all.into(), keys: keys.into_iter().map(|(key, options)| (key, options.into())).collect() }
    }
}

/// [`DeviceSpec`], with unknown members refused.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceFile {
    id: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    site: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    interval: Option<Duration>,
}

impl From<DeviceFile> for DeviceSpec {
    fn from(file: DeviceFile) -> Self {
        let DeviceFile { id, kind, site, labels, interval } = file;
        Self { id, kind, site, labels, interval, speaks_for: Vec::new() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    pub at: When,
    pub measured: Option<When>,
    #[serde(default)]
    pub readings: Pairs<Pairs<Metric>>,
    /// Recorded readings, beside the case.
    pub file: Option<PathBuf>,
    pub every: Option<Duration>,
    pub until: Option<When>,
    #[serde(default)]
    pub register: Vec<DeviceFile>,
    #[serde(default)]
    pub delete: Vec<String>,
    pub reset: Option<Reset>,
    pub deploy: Option<Deploy>,
    #[serde(default)]
    pub replace: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reset {
    pub device: String,
    pub key: String,
}

/// Another version of the rule: the same module with other parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deploy {
    pub parameters: serde_json::Value,
}

/// What an earlier version of the rule had kept.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StateFile {
    pub version: u32,
    pub blobs: Vec<Spanned<KeptFile>>,
}

/// A blob of a device: `bytes` or `fields`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptFile {
    pub device: String,
    pub slot: SlotFile,
    pub bytes: Option<String>,
    pub fields: Option<BlobFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoggedFile {
    pub at: When,
    pub level: Level,
    pub text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FailsFile {
    pub at: When,
    pub device: Option<String>,
    pub text: String,
}

/// A value of a metric, or how it goes over a series.
pub(crate) enum Metric {
    Value(Value),
    Series(SeriesFile),
}

impl<'de> Deserialize<'de> for Metric {
    // Not derived: an untagged enum does not say what is wrong within a series.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MetricVisitor;
        impl<'de> Visitor<'de> for MetricVisitor {
            type Value = Metric;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a metric: a number, a flag, a text, or a series such as { from: 70, to: 90 }")
            }
            fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<Metric, E> {
                Ok(Metric::Value(Value::Boolean(flag)))
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Metric, E> {
                self.visit_f64(number as f64)
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Metric, E> {
                self.visit_f64(number as f64)
            }
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Metric, E> {
                Ok(Metric::Value(Value::Number(number)))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Metric, E> {
                Ok(Metric::Value(Value::Text(text.into())))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Metric, A::Error> {
                SeriesFile::deserialize(MapAccessDeserializer::new(map)).map(Metric::Series)
            }
        }
        deserializer.deserialize_any(MetricVisitor)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedFile {
    pub at: When,
    #[serde(default)]
    pub within: Duration,
    pub trigger: Option<Identity>,
    pub clear: Option<Identity>,
    pub latched: Option<Identity>,
    pub realarm: Option<Identity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    pub device: String,
    pub key: String,
    pub severity: Option<Severity>,
    pub summary: Option<String>,
    #[serde(default)]
    pub details: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NeverFile {
    pub device: Option<String>,
    pub key: Option<String>,
    pub severity: Option<Severity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Published {
    pub at: When,
    #[serde(default)]
    pub within: Duration,
    pub device: String,
    pub metrics: BTreeMap<String, Value>,
    #[serde(default)]
    pub tolerance: f64,
}

/// A time of the case.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    Since(Duration),
    At(Timestamp),
}

impl When {
    pub fn after(self, start: Timestamp) -> Timestamp {
        match self {
            Self::Since(span) => start + span,
            Self::At(time) => time,
        }
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WhenVisitor;
        impl Visitor<'_> for WhenVisitor {
            type Value = When;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a span since the start such as 90s, or a time such as 2026-01-01T00:00:00Z")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<When, E> {
                let span = text.parse().map(When::Since);
                span.or_else(|_| text.parse().map(When::At))
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
            fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<When, E> {
                self.visit_str(&seconds.to_string())
            }
            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<When, E> {
                self.visit_str(&seconds.to_string())
            }
            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<When, E> {
                self.visit_str(&seconds.to_string())
            }
        }
        deserializer.deserialize_any(WhenVisitor)
    }
}

/// A map in the order of the file: the order of rows is that in which they are received.
#[derive(Clone, Debug)]
pub(crate) struct Pairs<T>(pub Vec<(String, T)>);

impl<T> Default for Pairs<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for PairsVisitor<T> {
            type Value = Pairs<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<T>, A::Error> {
                let mut pairs: Vec<(String, T)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, T>()? {
                    if pairs.iter().any(|(other, _)| *other == name) {
                        return Err(A::Error::custom(format_args!("{name:?} comes twice")));
                    }
                    pairs.push((name, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor(std::marker::PhantomData))
    }
}
