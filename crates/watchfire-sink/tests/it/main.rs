//! Sinks against the real services that they are for.

mod database;
mod http;
mod mqtt;
mod faults;
mod outage;
mod past;
mod topics;
mod world;
