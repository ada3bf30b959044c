//! Alerts. The identity of one is (rule, device, key): triggering an active one updates it, clearing an
//! inactive one does nothing.

use crate::bindings::watchfire::rule::alerts;
use crate::{Detail, Device, Severity, Value};

/// An alert in the making; [`Alert::trigger`] hands it over.
#[must_use = "an alert that is not triggered is nothing"]
pub struct Alert(alerts::Alert);

impl Alert {
    /// An alert of a device. The summary is for people; put numbers into details.
    pub fn new(device: Device, key: &str, severity: Severity, summary: &str) -> Self {
        Self(alerts::Alert {
            device,
            key: key.into(),
            severity,
            summary: summary.into(),
            details: Vec::new(),
            row: None,
            extra: None,
        })
    }

    /// Adds a named value.
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.details.push(Detail { name: name.into(), value: value.into() });
        self
    }

    /// The row of the batch that caused it: gives the alert its time and its reading.
    pub fn row(mut self, row: usize) -> Self {
        self.0.row = Some(row as u32);
        self
    }

    /// Says that the condition stands.
    pub fn trigger(self) {
        alerts::trigger(&self.0);
    }
}

/// Says that a condition does not stand; in `on_batch` with the row that shows it.
pub fn clear(device: Device, key: &str, row: Option<usize>) {
    alerts::clear(device, key, row.map(|row| row as u32));
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

/// Values are IEEE numbers: a count is exact up to 2^53.
impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Number(value as f64)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Number(value.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl Severity {
    /// All, from the least.
    pub const ALL: [Self; 5] = [Self::Info, Self::Warning, Self::Minor, Self::Major, Self::Critical];

    /// As written in parameters and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Minor => "minor",
            Self::Major => "major",
            Self::Critical => "critical",
        }
    }
}

impl<'de> serde::Deserialize<'de> for Severity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        Self::ALL
            .into_iter()
            .find(|severity| severity.name() == text)
            .ok_or_else(|| serde::de::Error::custom("no severity"))
    }
}
