//! Notification against a real store and real HTTP receivers.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod channels;
mod deliver;
mod email;
mod forward;
mod groups;
mod holds;
mod outlets;
mod receiver;
mod signed;
