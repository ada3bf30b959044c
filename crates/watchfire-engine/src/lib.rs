//! The partition loop: what turns the records of the log into callbacks of rules, and what rules want done
//! into alerts, derived rows, state and timers.
//!
//! [`Partition`] is all of its logic, a plain value that is given records in order; [`Engine`] drives
//! partitions with threads, releases what came of records in their order, and takes checkpoints.

mod breaker;
mod bytes;
mod catch_up;
mod checkpoint;
mod cron;
mod cycle;
mod deaths;
mod due;
mod engine;
mod error;
mod lookahead;
mod partition;
mod release;
mod rerun;
mod rule;
mod selection;
mod shard;
mod snapshot;
mod status;
mod stream;
mod trial;

pub use catch_up::append_missed;
pub use checkpoint::Checkpoint;
pub use cron::{Cron, CronError};
pub use cycle::{CycleError, check_streams};
pub use engine::{CheckpointPolicy, Engine, EngineOptions};
pub use error::EngineError;
pub use lookahead::Lookahead;
pub use partition::{Capture, Image, Output, Partition, PartitionSetup};
pub use rerun::Rerun;
pub use status::{
    BreakerStatus, DeviceState, EngineStatus, KeptState, LeftState, PartitionStatus, RuleEvent,
    RuleEventKind, RuleStats, RuleStatus,
};
pub use trial::{Trial, TrialFailure};
