//! Where results flow to. A sink is a reader of the log with a cursor of its own: while its service is down nothing
//! but its lag grows, and nothing else notices.
//!
//! [`contract`] is what a sink implements; everything that sinks have in common is here, once: [`chunk`] is what
//! one takes of the log, [`feed`] reads it, [`run`] sees each chunk through, over failures and restarts.
//!
//! Every sink has the same anatomy: `config.rs` is its section of the configuration, `encode.rs` turns a chunk into
//! the bytes of its service, `write.rs` commits them together with the cursor, `retry.rs` says what an error of the
//! service means. What notification needs of a service as well is in `watchfire-outbound`. `docs/sinks.md` says how the
//! next one is written.

pub mod chunk;
pub mod contract;
mod events;
pub mod feed;
pub mod http;
pub mod kafka;
mod kept;
pub mod mqtt;
pub mod run;
mod section;
pub mod status;
pub mod timescale;

pub use contract::{Failure, Lane, LaneId, Place, Refusal, Sink};
pub use run::{Running, Surroundings, start};
pub use section::{ConfigError, Start};
pub use status::{LaneState, LaneStatus, SinkStatus};
