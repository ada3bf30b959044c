//! Sinks against the real services that they are for.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod database;
mod http;
mod mqtt;
mod faults;
mod outage;
mod past;
mod topics;
mod world;
