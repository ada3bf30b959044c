//! What stands in the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use watchfire_model::call::FailureKind;
use watchfire_model::external::ExternalAlerts;
use watchfire_model::{
    Actor, Batch, Control, DeviceHandle, Duration, Epoch, Offset, PartitionId, Position, RuleVersion,
    Timestamp,
};

/// A record at its place. Readers share it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where it stands.
    pub position: Position,
    /// When the log received it; never goes back within a log, the same for all records of a group.
    pub appended_at: Timestamp,
    /// What it is.
    pub record: Record,
}

/// What a record can be.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Rows of one stream. Without an origin: what sources received, rows of all connections of a group.
    Readings {
        /// The stream.
        stream: Arc<str>,
        /// With rows that a rule published: what caused them.
        origin: Option<Box<Origin>>,
        /// The rows.
        batch: Arc<Batch>,
    },
    /// Inputs that could not be used.
    Rejects(Vec<Reject>),
    /// Nothing came, but something is due.
    Tick,
    /// Alerts of others, of this partition.
    External(Box<ExternalAlerts>),
    /// A change that all partitions make at the same place.
    Control(Box<Control>),
    /// This partition runs the rule version, from the record on that said so.
    Activated {
        /// The rule.
        rule: String,
        /// The version.
        version: RuleVersion,
        /// The control record that wanted it (same partition).
        offset: Offset,
    },
    /// This partition could not start the rule version, or migrate its state: it goes on with the old one.
    Refused {
        /// The rule.
        rule: String,
        /// The version.
        version: RuleVersion,
        /// The control record that wanted it (same partition).
        offset: Offset,
        /// Why.
        reason: String,
    },
    /// A call that failed and left nothing behind. A replay makes the same calls but this one.
    Skipped(Box<Skipped>),
    /// Rows that a rule failed on, or missed, for that rule alone. It stands in their partition alone.
    Redo(Box<Redo>),
    /// The breaker of a rule opened or closed in this partition. A replay obeys it and decides nothing.
    Breaker(Box<Breaker>),
    /// Intake stood still: silence and pending delays shift by this span.
    Gap {
        /// When the log last received something.
        from: Timestamp,
        /// When it went on.
        to: Timestamp,
        /// Why.
        reason: GapReason,
    },
    /// Each instance of the partition is discarded here; a checkpoint may follow.
    CheckpointMark,
    /// How far sources have read what they consume, in the same group as the rows and rejects that came of it. It
    /// stands in partition 0, wherever the rows are.
    Consumed(Vec<Consumed>),
}

/// Records of one partition of a topic that a source has read: their rows and rejects are in the same group. So a start
/// goes on where the log ends, and reads nothing twice and passes nothing over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Consumed {
    /// The source, by its name.
    pub source: String,
    /// The topic.
    pub topic: String,
    /// The partition of the topic: not one of ours.
    pub partition: i32,
    /// The offset from which on everything was read ...
    pub from: i64,
    /// ... up to before this one.
    pub next: i64,
    /// What was read before counts no more: the topic was made anew, or begins behind it.
    pub anew: bool,
}

/// What caused the rows of a derived record: two records never have the same origin, so a replay appends
/// only what is not there yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The epoch of the causing record.
    pub epoch: Epoch,
    /// The partition of the causing record.
    pub partition: PartitionId,
    /// The offset of the causing record.
    pub offset: Offset,
    /// The rule.
    pub rule: String,
    /// Which of its callbacks at that record, from 0.
    pub callback: u32,
    /// The output stream.
    pub stream: String,
    /// The partition that the derived record stands in.
    pub target: PartitionId,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The rule.
    pub rule: String,
    /// Its version.
    pub version: RuleVersion,
    /// The record that was being evaluated (same partition).
    pub offset: Offset,
    /// Which of the rule's callbacks at that record, from 0.
    pub callback: u32,
    /// `batch`, `timers`, `silence` or `schedule`.
    pub callback_name: String,
    /// The rows of the record, of its readings or of a redo, that this rule did not get to see; empty: not a
    /// batch.
    pub rows: Vec<u32>,
    /// The record that holds those rows, where it is an earlier one: the end of what a rule had missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_at: Option<Offset>,
    /// Which way it failed.
    pub kind: FailureKind,
    /// What was said.
    pub reason: String,
    /// The state of the devices of those rows before the call, where they are few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state_before: Vec<StateBefore>,
}

/// The state of a device before a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateBefore {
    /// The device.
    pub device: DeviceHandle,
    /// Its blobs by slot, as hex digits.
    pub slots: BTreeMap<u32, String>,
}

/// Rows of one call that failed, evaluated again by that rule alone, or a slice of what the rule missed, in one callback
/// with the time of this record. It holds the rows, so that nobody has to find them: the records that they came with
/// may be gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Redo {
    /// The rule.
    pub rule: String,
    /// The stream that they are of.
    pub stream: Arc<str>,
    /// The record on which the rule failed: readings, or an earlier redo. Of a slice: where it begins.
    pub failed: Position,
    /// Of a slice: the records of which these are all the rows that the rule missed.
    pub missed: Option<Slice>,
    /// Of rows that the rule failed on: the last of the dead letters that they are from. It and those before it of the
    /// same record and rule are used up by this.
    pub upto: Option<String>,
    /// Who wanted it.
    pub by: Actor,
    /// The rows, and no others.
    pub batch: Arc<Batch>,
}

/// A part of what a rule did not get to see. It counts only where it begins with what the rule misses next, so each row
/// is evaluated once, however often the slice stands in the log; and where neither the version nor the devices that it
/// selects have changed since its rows were chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// From this offset on ...
    pub from: Offset,
    /// ... and up to before this one.
    pub next: Offset,
    /// The rows are those for the rule as it was before this record.
    pub as_of: Offset,
    /// The rule was not out: a version that was taken back ran meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub taken_back: bool,
}

/// A stretch of the log that a rule did not get to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissedRange {
    /// From this offset on ...
    pub from: Offset,
    /// ... and up to before this one.
    pub next: Offset,
    /// As of a [`Slice`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub taken_back: bool,
}

/// Something that happened to the breaker of a rule in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// The rule.
    pub rule: String,
    /// Its version.
    pub version: RuleVersion,
    /// What.
    pub change: BreakerChange,
}

/// What happened to a breaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "snake_case")]
pub enum BreakerChange {
    /// It opened behind a callback: the rule saw nothing of what came behind that. A replay opens it there.
    Opened {
        /// The record that was being evaluated (same partition).
        offset: Offset,
        /// Which of the rule's callbacks at that record, from 0.
        callback: u32,
        /// How much failed.
        why: String,
        /// Which way the last one failed.
        kind: FailureKind,
        /// What was said.
        reason: String,
        /// It is tried again after this long.
        wait: Duration,
    },
    /// A try failed: it stays open.
    StaysOpen {
        /// Which way it failed.
        kind: FailureKind,
        /// What was said.
        reason: String,
        /// It is tried again after this long.
        wait: Duration,
    },
    /// A try passed: from here on the rule catches up, or goes on.
    Closed,
    /// Of what the rule has missed this is not kept any more: it was more than the log keeps for a rule.
    Lost {
        /// The records.
        range: MissedRange,
    },
}

/// An input that could not be used, kept whole. Its dead letter has the id `epoch/partition/offset/index`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// The source: `mqtt`, `http`, or the name of a configured one.
    pub source: String,
    /// Where it came in: topic or path.
    pub address: String,
    /// The device that sent it or was named in it, where that is known.
    pub device: Option<String>,
    /// Who sent it, by kind and name, such as `device:press-1`: a replay may do what that one may, and no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Which item of its payload, from 0; `None`: the payload as a whole.
    pub index: Option<u32>,
    /// A stable code, such as `not-json`, `metric-not-finite`, `unknown-device`.
    pub code: String,
    /// What is wrong and where, for people.
    pub reason: String,
    /// The item, or the payload: the bytes as they came.
    #[serde(skip)]
    pub payload: Vec<u8>,
}

/// Why intake stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The engine was not running.
    Stopped,
    /// The disk was full.
    DiskFull,
    /// The wall clock jumped forward and was not trusted until it was stable or confirmed.
    ClockStep,
    /// Writing failed.
    WriteFailed,
}
