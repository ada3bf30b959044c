//! How somebody is told: one file for each channel. A channel makes one attempt and says what came of it;
//! when and how often is the business of the [`lane`](crate::lane).

use std::time::Duration;

pub mod payload;
pub mod webhook;

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took it.
    Delivered {
        /// What it answered.
        status: u16,
    },
    /// It did not.
    Failed {
        /// Whether it makes sense to try again.
        retry: Retry,
        /// What it answered, if it did.
        status: Option<u16>,
        /// What went wrong, without addresses, headers or bodies: those may hold secrets.
        error: String,
    },
}

/// Whether an attempt is worth repeating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Yes; not before this time, where the receiver said one.
    Later(Option<Duration>),
    /// The receiver will never take it.
    Never,
}
