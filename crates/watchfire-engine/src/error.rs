//! What can go wrong with the loop as a whole. What goes wrong with a rule is a record, not an error.

use watchfire_log::{AppendError, LogError};

/// The loop cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The log cannot be read.
    #[error("the partition loop cannot read the log")]
    Log(#[from] LogError),
    /// The log does not take what the loop has to append.
    #[error("the partition loop cannot append to the log")]
    Append(#[from] AppendError),
    /// A checkpoint cannot be read or written.
    #[error("checkpoint {path}: {what}")]
    Checkpoint {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The log begins behind the checkpoint: what lies between is not kept any more.
    #[error("partition {partition} needs the log from offset {wanted} on, which begins at {first}")]
    Behind {
        /// The partition.
        partition: u16,
        /// What the checkpoint needs.
        wanted: u64,
        /// What there is.
        first: u64,
    },
    /// A thread could not be started.
    #[error("cannot start a thread of the partition loop")]
    Thread(#[source] std::io::Error),
    /// A thread of it is in a long call, or has too much to do, and did not answer in time.
    #[error("the partition loop does not answer now")]
    Busy,
    /// It was stopped, or a thread of it has ended.
    #[error("the partition loop is not running")]
    Stopped,
}
