//! The API over a real store, a log in memory, and stand-ins for the engine, the host and the notifier.

// Helpers of tests fail as tests do; clippy knows only the functions marked as tests.
#![allow(clippy::unwrap_used)]

mod alertmanager;
mod answers;
mod calls;
mod letters;
mod lifecycle;
mod links;
mod recorded;
mod server;
mod silences;
mod versions;
mod why;
