//! How the log is appended to and read: the trait that the embedded log implements, and Kafka will.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use watchfire_model::{Batch, Epoch, Offset, PartitionId, Position, Timestamp};

use crate::record::{Consumed, Entry, Record, Reject};

/// What is appended together: it becomes part of one group, and is recovered whole or not at all.
#[derive(Debug)]
pub enum Append {
    /// Rows and rejects from a source. Rows of one partition and stream in one group become one record,
    /// whichever connection they came from; so do rejects.
    Intake {
        /// Rows of the stream `readings`.
        rows: Vec<(PartitionId, Batch)>,
        /// What could not be used.
        rejects: Vec<(PartitionId, Reject)>,
    },
    /// Records as they are, in this order.
    Records(Vec<(PartitionId, Record)>),
    /// As `Intake`, of a source that reads from a place: how far it got stands in the same group.
    Consumed {
        /// Rows of the stream `readings`.
        rows: Vec<(PartitionId, Batch)>,
        /// What could not be used.
        rejects: Vec<(PartitionId, Reject)>,
        /// How far the source got.
        consumed: Vec<Consumed>,
    },
}

/// Why something was not appended. Nothing of it is in the log, or ever will be; with one exception: a
/// ticket that ends in [`AppendError::WriteFailed`] because the log was closed while its disk failed. That
/// group may be on the disk, and then stands in the log from the next start on, once and whole.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AppendError {
    /// The queue before the disk holds as many bytes as it may.
    #[error("the append queue is full")]
    Full,
    /// The reserve of disk for store and checkpoints would be touched.
    #[error("the disk is full up to its reserve")]
    DiskFull,
    /// Appends are paused until the clock is trusted again.
    #[error("appends are paused: the clock jumped forward by {0:?} and is not trusted yet")]
    ClockStep(Duration),
    /// Writing or syncing failed; what was in that group may be tried again.
    #[error("the group could not be written: {0}")]
    WriteFailed(String),
    /// The log is shut down.
    #[error("the log is closed")]
    Closed,
}

/// A promise that something appended becomes durable.
pub struct Ticket {
    /// Counts groups: a ticket of a lower group resolves no later.
    pub group: u64,
    outcome: Pin<Box<dyn Future<Output = Result<Arc<[Position]>, AppendError>> + Send>>,
}

impl Ticket {
    /// A ticket of this group that resolves as the future does.
    pub fn new(
        group: u64,
        outcome: impl Future<Output = Result<Arc<[Position]>, AppendError>> + Send + 'static,
    ) -> Self {
        Self { group, outcome: Box::pin(outcome) }
    }

    /// Waits until it is durable. Gives the positions of [`Append::Records`], in their order; none for
    /// intake, whose rows share records with others.
    pub async fn durable(self) -> Result<Arc<[Position]>, AppendError> {
        self.outcome.await
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("group", &self.group).finish_non_exhaustive()
    }
}

/// The log. No reader sees a record above the synced position.
pub trait Log: Send + Sync + 'static {
    /// Which life of the log this is.
    fn epoch(&self) -> Epoch;
    /// How many partitions there are: fixed for a data folder.
    fn partitions(&self) -> u16;
    /// The clock of the log: what a record appended now would be stamped with, or later.
    fn now(&self) -> Timestamp;
    /// Queues something for the next group. Does not wait for the disk: the ticket does. An error means
    /// that nothing was queued.
    fn append(&self, append: Append) -> Result<Ticket, AppendError>;
    /// Reads a partition from an offset on.
    fn reader(&self, partition: PartitionId, from: Offset) -> Result<Box<dyn LogReader>, LogError>;
    /// As [`Log::reader`], for the one that sets the pace: while it lags, groups are held a little, so that they
    /// grow and cost it less. Who may lag for as long as it likes, such as a sink, must not slow everybody down.
    fn pacing_reader(&self, partition: PartitionId, from: Offset) -> Result<Box<dyn LogReader>, LogError> {
        self.reader(partition, from)
    }
    /// The offset of the first record that is kept, and the one behind the last that is synced.
    fn range(&self, partition: PartitionId) -> (Offset, Offset);
    /// Grows with every group that is synced.
    fn synced_group(&self) -> u64;
    /// Blocks a thread until a group later than `group` is synced, or the timeout is over; gives the newest.
    fn wait_past(&self, group: u64, timeout: Duration) -> u64;
    /// Waits as a task for the same.
    fn synced_past(&self, group: u64) -> Pin<Box<dyn Future<Output = u64> + Send + '_>>;
    /// How far a named reader got: what it still needs is kept. The engine's is called `engine`.
    fn set_cursor(&self, reader: &str, partition: PartitionId, next: Offset);
    /// A named reader is gone for good.
    fn remove_cursor(&self, reader: &str);
    /// An operator says that the wall clock is right: appends that were paused because it jumped, or because at a
    /// start it was far ahead of the last record, go on. Whether they were. A log that has no such pause says no.
    fn confirm_clock(&self) -> bool {
        false
    }
    /// Tells this log from every other, over all of its lives: a copy of it that is restored is the same one. 0 where there
    /// is no such number.
    fn identity(&self) -> u64 {
        0
    }
    /// Why appends are refused at present, if they are.
    fn paused(&self) -> Option<AppendError> {
        None
    }
    /// Every record of all partitions in the order in which it was written, from the group that holds
    /// `from` on. What a start needs to look ahead.
    fn scan(
        &self,
        from: Position,
    ) -> Result<Box<dyn Iterator<Item = Result<Arc<Entry>, LogError>> + Send>, LogError>;
}

/// A place in a partition that moves forward.
pub trait LogReader: Send {
    /// The next record; `None`: level with what is synced.
    fn next(&mut self) -> Result<Option<Arc<Entry>>, LogError>;
    /// The offset that comes next.
    fn offset(&self) -> Offset;
}

/// The log could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Bytes known to have been synced are not what was written.
    #[error("corruption in {file} at byte {at}: {what}")]
    Corrupt {
        /// The segment.
        file: String,
        /// The byte in it.
        at: u64,
        /// What does not fit.
        what: String,
    },
    /// The record was there and is not kept any more.
    #[error("offset {wanted} of partition {partition} is not kept: the first is {first}")]
    Gone {
        /// The partition.
        partition: PartitionId,
        /// What was asked for.
        wanted: Offset,
        /// What there is.
        first: Offset,
    },
    /// Another process has the data folder open.
    #[error("the data folder {0} is in use by another process")]
    InUse(String),
    /// The folder is not of this version or not a log.
    #[error("{0}")]
    Format(String),
    /// The operating system refused.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What it said.
        source: std::io::Error,
    },
}
