//! Silences: what nobody is told of for a while, with Alertmanager's meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use watchfire_model::Timestamp;

/// A condition of a silence on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceMatcher {
    /// The label. One that an alert does not have counts as empty.
    pub name: String,
    /// What it is compared with.
    pub value: String,
    /// The value is a regular expression, anchored at both ends.
    pub is_regex: bool,
    /// The label must match; `false`: it must not.
    pub is_equal: bool,
}

/// A silence, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// A UUID.
    pub id: String,
    /// All must hold.
    pub matchers: Vec<SilenceMatcher>,
    /// It holds from then on ...
    pub starts_at: Timestamp,
    /// ... and before then.
    pub ends_at: Timestamp,
    /// Who wanted it.
    pub created_by: String,
    /// Why.
    pub comment: String,
    /// What tools note with it.
    pub annotations: BTreeMap<String, String>,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// It also ends once the last alert that it matched has resolved.
    pub until_resolved: bool,
}
