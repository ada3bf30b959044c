//! Sinks against the real services that they are for.

mod database;
mod outage;
mod past;
mod world;
