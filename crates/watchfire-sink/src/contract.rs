//! What a sink implements.
//!
//! A sink has lanes: one for each partition of the log, and one for the transitions of alerts, which the store puts in
//! an order of their own. Lanes know nothing of each other, so order holds within a partition, and a device is always
//! in the same one.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use watchfire_model::{Epoch, PartitionId};
use watchfire_outbound::Fault;

use crate::chunk::{Chunk, Row};

/// What a lane carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaneId {
    /// A partition of the log.
    Partition(PartitionId),
    /// Transitions of alerts, in the commit order of the store.
    Alerts,
}

impl LaneId {
    /// The number under which a service keeps its cursor: the partition, or -1 for alerts.
    pub fn number(self) -> i32 {
        match self {
            Self::Partition(partition) => i32::from(partition.0),
            Self::Alerts => -1,
        }
    }
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(partition) => write!(f, "partition {partition}"),
            Self::Alerts => f.write_str("alerts"),
        }
    }
}

/// Up to where a lane is written: what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The life of the log that `next` belongs to.
    pub epoch: Epoch,
    /// Of a partition: the offset of the next record. Of alerts: one more than the sequence of the last transition.
    pub next: u64,
}

/// A service that results flow to.
pub trait Sink: Send + Sync + 'static {
    /// How one of its lanes is written.
    type Lane: Lane;
    /// A lane, not connected yet.
    fn lane(&self, id: LaneId) -> Self::Lane;
    /// What is in force at the service, for people: version, extension. `None`: not known yet.
    fn in_force(&self) -> Option<String>;
}

/// One lane of a sink.
pub trait Lane: Send + Sync + 'static {
    /// Turns chunks into the bytes of the service. It runs on a thread of its own, ahead of the writing.
    type Encoder: Encoder<Encoded = Self::Encoded>;
    /// What an encoder makes.
    type Encoded: Send + Sync;

    /// A fresh encoder.
    fn encoder(&self) -> Self::Encoder;

    /// Connects, prepares the service, and says how far this lane is written; `None`: nothing ever was. After a failed
    /// [`Lane::write`] this is what tells whether it was committed.
    fn open(&mut self) -> impl Future<Output = Result<Option<Place>, Failure>> + Send;

    /// Writes a chunk without the rows in `without`, and that the lane is written up to its end: both or neither, as
    /// far as the service can. `after` is where the lane was before; `None`: nowhere.
    fn write(
        &mut self,
        chunk: &Chunk,
        encoded: &Self::Encoded,
        after: Option<Place>,
        without: &BTreeSet<Row>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Whether [`Lane::open`] asks the service itself: who then gets a place has reached it.
    fn asks(&self) -> bool {
        true
    }

    /// How long the service asked to be left alone, with the failure that came last; the next attempt waits for that
    /// long at least.
    fn pause(&self) -> Option<Duration> {
        None
    }
}

/// Turns a chunk into the bytes of a service.
pub trait Encoder: Send + 'static {
    /// The bytes, and where in them each row is.
    type Encoded;
    /// What there is to write of a chunk.
    fn encode(&mut self, chunk: &Chunk) -> Self::Encoded;
}

/// A row that a service refuses for what it is: no other attempt will make it pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub row: Row,
    /// What the service said.
    pub reason: String,
}

/// Why a chunk was not written. Nothing of it counts as written.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Failure {
    /// It is tried again after a while, for as long as it takes.
    #[error("{reason}")]
    Retry {
        /// What kind of fault it is: a stable code, such as `unreachable`, `credentials`, `disk-full`.
        code: &'static str,
        /// What the service said.
        reason: String,
    },
    /// Without these rows it may pass.
    #[error("{} rows are refused", .0.len())]
    Refused(Vec<Refusal>),
}

impl Failure {
    /// A fault that may pass.
    pub fn retry(code: &'static str, reason: impl fmt::Display) -> Self {
        Self::Retry { code, reason: reason.to_string() }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Retry { code: fault.code, reason: fault.reason }
    }
}
