//! What goes wrong with a service, and with the configuration of it.

use std::fmt;

/// A service did not take something. It may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of fault it is: a stable code, such as `unreachable`, `credentials`, `tls`.
    pub code: &'static str,
    /// What the service said.
    pub reason: String,
}

impl Fault {
    /// Of a kind, with what was said.
    pub fn new(code: &'static str, reason: impl fmt::Display) -> Self {
        Self { code, reason: reason.to_string() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.reason)
    }
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The key.
    pub key: &'static str,
    /// What is wrong with its value; without the value, where that may be a secret.
    pub what: String,
}

impl Wrong {
    pub(crate) fn new(key: &'static str, what: impl Into<String>) -> Self {
        Self { key, what: what.into() }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}
