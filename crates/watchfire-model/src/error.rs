//! Errors in words.

use std::error::Error;
use std::fmt::Write as _;

/// An error and its sources, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a String does not fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}
