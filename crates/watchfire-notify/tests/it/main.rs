//! Notification against a real store and real HTTP receivers.

mod deliver;
mod groups;
mod receiver;
