//! The log of the rule: `watchfire rule tail` shows it, and each message has its time.

pub use crate::bindings::watchfire::rule::log::{Level, write};

/// For whoever writes the rule.
pub fn debug(message: &str) {
    write(Level::Debug, message);
}

/// What happened.
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// What somebody should look at.
pub fn warn(message: &str) {
    write(Level::Warn, message);
}

/// What went wrong.
pub fn error(message: &str) {
    write(Level::Error, message);
}
