//! The sources from outside: real clients and abusive ones, over real sockets.

// Helpers of tests fail as tests do; clippy knows only the functions marked as tests.
#![allow(clippy::unwrap_used)]

mod abuse;
mod certificates;
mod http;
mod intake;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
mod kafka_faults;
#[cfg(feature = "kafka")]
mod kafka_secured;
mod mqtt;
mod mqtt_source;
mod mutation;
mod packets;
mod setup;
mod subscribers;
mod tls;
