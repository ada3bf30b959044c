//! Notification against a real store and real HTTP receivers.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod authority;
mod channels;
mod deliver;
mod driver;
mod email;
mod email_secured;
mod forward;
mod groups;
mod holds;
mod kafka_secured;
mod outage;
mod outlets;
mod receiver;
mod signed;
mod timeline;
