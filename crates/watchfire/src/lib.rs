//! The wiring: one binary that assembles every step of the life of a reading. [`serve`] does so on one page:
//! begin there.

pub mod adapters;
pub mod authenticator;
pub mod backups;
mod breakers;
pub mod check;
pub mod commands;
pub mod config;
pub mod demo;
pub mod heartbeat;
pub mod limits;
pub mod logs;
pub mod project;
pub mod replay;
pub mod restore;
pub mod scenario;
pub mod serve;
pub mod shipped;
pub mod simulate;
mod sinks;
mod sources;
pub mod telemetry;
