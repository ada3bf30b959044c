//! The store against a real file.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod alerts;
mod lifecycle;
mod plant;
mod quality;
mod responses;
mod retention;
mod service;
mod silences;
mod tables;
