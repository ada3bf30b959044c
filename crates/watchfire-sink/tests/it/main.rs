//! Sinks against the real services that they are for.

// Helpers of tests fail as tests do; clippy knows only the functions marked as tests.
#![allow(clippy::unwrap_used)]

mod database;
mod faults;
mod http;
mod hypertables;
mod mqtt;
mod outage;
mod past;
mod secured;
mod topics;
mod world;
