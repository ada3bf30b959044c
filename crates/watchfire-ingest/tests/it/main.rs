//! The sources from outside: real clients and abusive ones, over real sockets.

// Helpers of tests fail as tests do; clippy knows only the functions marked as tests.
#![allow(clippy::unwrap_used)]

mod abuse;
mod certificates;
mod http;
mod intake;
mod mqtt;
mod mutation;
mod packets;
mod setup;
mod subscribers;
mod tls;
