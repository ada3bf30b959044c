//! What the loop says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use watchfire_model::call::{FailureKind, Level};
use watchfire_model::{
    DeviceHandle, Digest, Offset, OnRecovery, PartitionId, Position, RuleVersion, Severity, Timestamp, Value,
};

/// A rule in one partition, in numbers since the process began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleStats {
    /// Callbacks.
    pub calls: u64,
    /// Rows that it saw.
    pub rows: u64,
    /// Callbacks that failed.
    pub failures: u64,
    /// Triggers that it made.
    pub triggers: u64,
    /// Clears that it made.
    pub clears: u64,
    /// Time in callbacks.
    pub nanoseconds: u64,
    /// What its latest failure said.
    pub last_failure: Option<String>,
    times: CallTimes,
}

impl RuleStats {
    pub(crate) fn note(&mut self, rows: usize, nanoseconds: u64) {
        self.calls += 1;
        self.rows += rows as u64;
        self.nanoseconds = self.nanoseconds.saturating_add(nanoseconds);
        self.times.note(nanoseconds);
    }

    /// Adds the numbers of another partition.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.rows += other.rows;
        self.failures += other.failures;
        self.triggers += other.triggers;
        self.clears += other.clears;
        self.nanoseconds = self.nanoseconds.saturating_add(other.nanoseconds);
        if self.last_failure.is_none() {
            self.last_failure.clone_from(&other.last_failure);
        }
        for (mine, others) in self.times.0.iter_mut().zip(&other.times.0) {
            *mine += others;
        }
    }

    /// The time that 99 of 100 callbacks stay below, in nanoseconds, to within an eighth.
    pub fn p99_nanoseconds(&self) -> u64 {
        self.times.quantile(0.99)
    }
}

/// Call times in buckets, eight to each power of two.
#[derive(Clone, Debug, PartialEq)]
struct CallTimes(Vec<u32>);

impl Default for CallTimes {
    fn default() -> Self {
        Self(vec![0; 8 * 40])
    }
}

impl CallTimes {
    fn note(&mut self, nanoseconds: u64) {
        let x = nanoseconds.max(8);
        let power = 63 - x.leading_zeros() as usize;
        let bucket = (power - 3) * 8 + (x >> (power - 3) & 7) as usize;
        let last = self.0.len() - 1;
        self.0[bucket.min(last)] += 1;
    }

    fn quantile(&self, q: f64) -> u64 {
        let all: u64 = self.0.iter().map(|n| u64::from(*n)).sum();
        let wanted = (all as f64 * q).ceil() as u64;
        let mut sum = 0;
        for (bucket, n) in self.0.iter().enumerate() {
            sum += u64::from(*n);
            if *n > 0 && sum >= wanted {
                return (8 + bucket as u64 % 8 + 1) << (bucket / 8);
            }
        }
        0
    }
}

/// A rule that is out of a partition because it kept failing, or behind because it was.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerStatus {
    /// When its breaker opened.
    pub since: Timestamp,
    /// How much failed.
    pub why: String,
    /// Which way the last call failed.
    pub kind: FailureKind,
    /// What it said.
    pub reason: String,
    /// When it is tried again; `None`: the breaker is closed, and the rule catches up.
    pub retry_at: Option<Timestamp>,
    /// Tries that failed.
    pub tries: u32,
    /// What it has not seen begins here ...
    pub from: Option<Offset>,
    /// ... and ends before this one.
    pub upto: Offset,
    /// Records with rows for it since the breaker opened.
    pub records: u64,
    /// Rows of them.
    pub rows: u64,
    /// Rows that it was given since.
    pub caught_up: u64,
    /// Records that are not kept any more, whatever they held.
    pub lost: u64,
    /// What becomes of the rest.
    pub on_recovery: OnRecovery,
}

/// A rule, over all partitions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleStatus {
    /// The version that each partition runs.
    pub versions: BTreeMap<PartitionId, RuleVersion>,
    /// What it runs.
    pub module: Option<Digest>,
    /// It is paused.
    pub paused: bool,
    /// The partitions that it is out of, or behind in.
    pub breakers: BTreeMap<PartitionId, BreakerStatus>,
    /// Bytes of keyed state.
    pub state_bytes: u64,
    /// Bytes of linear memory.
    pub memory: u64,
    /// Devices that it selects.
    pub devices: u64,
    /// Alerts that are raised.
    pub active: u64,
    /// In numbers.
    pub stats: RuleStats,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The offset that is evaluated next.
    pub next: Offset,
    /// Records below were there when the process began: they are replayed.
    pub live_from: Offset,
    /// The offset behind the last record of the log.
    pub end: Offset,
    /// The offset that the last checkpoint goes on from.
    pub checkpoint: Offset,
    /// When the log received the record that was evaluated last.
    pub time: Timestamp,
    /// Why it stands still, if it does.
    pub fault: Option<String>,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineStatus {
    /// By partition; `None`: its thread did not answer in time.
    pub partitions: BTreeMap<PartitionId, Option<PartitionStatus>>,
    /// By name.
    pub rules: BTreeMap<String, RuleStatus>,
    /// Events that were lost because nobody fetched them in time.
    pub events_lost: u64,
}

/// What a rule keeps in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptState {
    /// The partition.
    pub partition: PartitionId,
    /// The version that it runs.
    pub version: RuleVersion,
    /// The layout of its state.
    pub state_version: u32,
    /// Blobs: one for each slot and device.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is kept of versions that were left, in that order.
    pub left: Vec<LeftState>,
    /// Alerts that going back to the version that was asked for would raise, ...
    pub raises: u64,
    /// ... and resolve, where the devices stay selected.
    pub resolves: u64,
}

/// What is kept of a version of a rule that was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftState {
    /// The version.
    pub version: RuleVersion,
    /// When it was left, by the time of the log.
    pub at: Timestamp,
    /// The layout of its state.
    pub state_version: u32,
    /// Blobs: one for each slot and device.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is known of a device from its readings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceState {
    /// Its handle.
    pub handle: Option<DeviceHandle>,
    /// When the log received its last reading.
    pub last_seen: Option<Timestamp>,
    /// When that was measured.
    pub last_event_time: Option<Timestamp>,
    /// The last value of each metric, with its event time.
    pub values: BTreeMap<String, (Timestamp, Value)>,
}

/// Something that a rule did, for who watches it.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleEvent {
    /// The rule.
    pub rule: Arc<str>,
    /// Its version.
    pub version: RuleVersion,
    /// The record.
    pub position: Position,
    /// The time of the log at the callback.
    pub now: Timestamp,
    /// What it did.
    pub kind: RuleEventKind,
}

/// What a rule did.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleEventKind {
    /// It logged something.
    Message {
        /// How bad.
        level: Level,
        /// What.
        text: String,
    },
    /// It triggered.
    Trigger {
        /// The device.
        device: String,
        /// The key.
        key: String,
        /// How bad.
        severity: Severity,
        /// For people.
        summary: String,
    },
    /// It cleared.
    Clear {
        /// The device.
        device: String,
        /// The key.
        key: String,
    },
    /// A callback failed.
    Failure {
        /// `batch`, `timers`, `silence` or `schedule`.
        callback: &'static str,
        /// Which way.
        kind: FailureKind,
        /// What was said.
        message: String,
        /// Rows that it did not get to see.
        rows: usize,
    },
    /// It emitted a reading for a device that is not registered: the reading is dropped.
    UnknownDevice {
        /// The id.
        device: String,
    },
    /// Its breaker opened: it is out of the partition.
    BreakerOpened {
        /// What the last failure said.
        reason: String,
    },
    /// Its breaker closed: it catches up, where that is wanted.
    BreakerClosed,
    /// It goes on with what comes.
    Recovered,
    /// The partition runs another version from here on.
    Activated,
    /// The partition could not start a version.
    Refused {
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_within_an_eighth() {
        let mut stats = RuleStats::default();
        for i in 1..=1000_u64 {
            stats.note(1, i * 1000);
        }
        let p99 = stats.p99_nanoseconds() as f64;
        assert!((990_000.0..=990_000.0 * 1.125).contains(&p99), "{p99}");
        assert_eq!((stats.calls, stats.rows), (1000, 1000));
        stats.note(0, 0);
        stats.note(0, u64::MAX);
    }
}
