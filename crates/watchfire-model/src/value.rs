//! What a metric, an attribute or a detail can be.

use serde::{Deserialize, Serialize};

/// One value. In JSON a number, a boolean or a string.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A flag.
    Boolean(bool),
    /// A finite number.
    Number(f64),
    /// A text.
    Text(String),
}

/// The kind of a column. A metric that one device sends as a number and another as a text is two columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// IEEE 754 double.
    Number,
    /// UTF-8.
    Text,
    /// True or false.
    Boolean,
}
