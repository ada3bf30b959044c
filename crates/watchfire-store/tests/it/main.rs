//! The store against a real file.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod alerts;
mod retention;
mod silences;
mod tables;
