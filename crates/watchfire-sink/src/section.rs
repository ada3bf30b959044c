//! What the sections of all sinks have in common.

use serde::Deserialize;
use watchfire_outbound::Wrong;

/// Where a sink that is new begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the first record that the log still holds.
    #[default]
    Earliest,
    /// With what comes from now on.
    Now,
}

/// What is wrong with the section.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key}: {what}")]
pub struct ConfigError {
    /// The key in the section.
    pub key: &'static str,
    /// What is wrong with its value.
    pub what: String,
}

impl From<Wrong> for ConfigError {
    fn from(wrong: Wrong) -> Self {
        Self { key: wrong.key, what: wrong.what }
    }
}

/// The value of a key is no good.
pub(crate) fn wrong(key: &'static str, what: impl Into<String>) -> ConfigError {
    ConfigError { key, what: what.into() }
}
