//! The contract between the partition loop and the rule host, free of wasmtime types: the loop gives an
//! instance what a callback may see, and gets back what the callback wants done. What is here mirrors
//! `wit/rule.wit`, whose comments say what each thing means to a rule.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::alert::{Detail, Severity};
use crate::device::Registry;
use crate::id::{DeviceHandle, Digest};
use crate::rule::Limits;
use crate::state::{Blobs, KeyedState};
use crate::time::{Duration, Timestamp};
use crate::value::Value;

mod rows;

pub use rows::Rows;

/// What a module says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The name of the module.
    pub name: String,
    /// Its version, by its author's counting.
    pub version: String,
    /// One or two sentences.
    pub description: String,
    /// JSON Schema of the parameters; `null`: takes none.
    pub parameters: serde_json::Value,
    /// Version of the layout of its state, from 1; 0: keeps none.
    pub state_version: u32,
}

/// What a rule wants to be called for.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Subscription {
    /// Patterns of metrics; empty: all.
    pub metrics: Vec<String>,
    /// When a device counts as silent.
    pub silence: Silence,
    /// When it is called whatever comes.
    pub schedules: Vec<Schedule>,
}

/// When a device counts as silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Silence {
    /// Never.
    #[default]
    Off,
    /// After twice the interval that the registry expects of it.
    Registry,
    /// After this long.
    After(Duration),
}

/// A time at which a rule is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What the rule calls it.
    pub name: String,
    /// Five-field cron in its Unix meaning.
    pub cron: String,
    /// IANA time zone; `None`: UTC.
    pub zone: Option<String>,
}

/// A module that is ready to run.
pub trait Module: Send + Sync {
    /// What it is known by.
    fn digest(&self) -> Digest;
    /// What it says of itself.
    fn manifest(&self) -> &Manifest;
    /// Makes an instance and calls `start`. An error is what the module or the host objects to.
    fn start(&self, setup: &Setup) -> Result<(Box<dyn Instance>, Subscription), CallFailure>;
    /// Calls `migrate` in an instance of its own, which was not started.
    fn migrate(
        &self,
        limits: &Limits,
        old_version: u32,
        slot: u32,
        states: Blobs,
    ) -> Result<Blobs, CallFailure>;
}

/// Where the loop finds the modules that control records name.
pub trait Modules: Send + Sync {
    /// The module, compiled. Blocks while it is being compiled; that happens at start only, since a module
    /// is compiled before a control record names it.
    fn get(&self, digest: Digest) -> Result<Arc<dyn Module>, CallFailure>;
}

/// What an instance is made with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The rule, for error messages and logs.
    pub rule: String,
    /// A JSON object, valid against the schema, defaults filled in.
    pub parameters: Arc<serde_json::Value>,
    /// What it may cost.
    pub limits: Limits,
    /// Calls get ten times the time: what passed once must pass in a replay on a slower machine.
    pub replay: bool,
}

/// A module at work for one rule version in one partition.
pub trait Instance: Send {
    /// Calls one callback. After a failure of any kind but [`FailureKind::Refused`] the instance is dead
    /// and every further call fails.
    fn call(&mut self, callback: Callback, context: Context) -> Outcome;
    /// Bytes of linear memory in use.
    fn memory(&self) -> u64;
}

/// What happened that the rule is called for.
#[derive(Clone, Debug)]
pub enum Callback {
    /// Readings.
    Batch(Arc<Rows>),
    /// Timers of the rule that are due at one time.
    Timers(Vec<Timer>),
    /// Devices that fell silent at one time.
    Silence(Vec<SilentDevice>),
    /// A schedule of the rule.
    Schedule {
        /// Its name.
        name: String,
        /// When it was due.
        at: Timestamp,
    },
}

impl Callback {
    /// As named in errors, evidence and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Batch(_) => "batch",
            Self::Timers(_) => "timers",
            Self::Silence(_) => "silence",
            Self::Schedule { .. } => "schedule",
        }
    }
}

/// A one-shot timer of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timer {
    /// The device.
    pub device: DeviceHandle,
    /// Which of the device's timers.
    pub tag: u32,
    /// When it is due.
    pub at: Timestamp,
}

/// A device that fell silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SilentDevice {
    /// The device.
    pub device: DeviceHandle,
    /// Event time of its last reading; `None`: never any since it was registered.
    pub last: Option<Timestamp>,
}

/// What a callback may see beside what it is called for. The loop keeps no second reference to `devices`
/// and `selected` that it would change while the call runs.
#[derive(Debug)]
pub struct Context {
    /// The time of the log.
    pub now: Timestamp,
    /// The registry of the partition.
    pub devices: Arc<Registry>,
    /// The devices that the rule selects.
    pub selected: Arc<DeviceSet>,
    /// The state of the rule; comes back in [`Outcome::state`], unchanged.
    pub state: KeyedState,
}

/// What came of a callback.
#[derive(Debug)]
pub struct Outcome {
    /// What was lent in [`Context::state`], unchanged: the loop applies [`Effects::stores`].
    pub state: KeyedState,
    /// What the callback wants done, all or nothing.
    pub result: Result<Effects, CallFailure>,
    /// What it logged, also where it failed.
    pub messages: Vec<Message>,
    /// What it cost.
    pub cost: Cost,
}

/// What a callback wants done, in the order in which it asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// Triggers and clears.
    pub alerts: Vec<AlertEffect>,
    /// An entry for each row; 0: the row is left out of the output stream.
    pub keep: Option<Vec<u8>>,
    /// Columns for the output stream; an entry for each row.
    pub derived: Vec<(String, Vec<f64>)>,
    /// New readings for the output stream.
    pub emitted: Vec<EmittedReading>,
    /// State to store: (slot, devices, an entry for each of them).
    pub stores: Vec<(u32, Vec<DeviceHandle>, Blobs)>,
    /// Timers to set and to cancel.
    pub timers: Vec<TimerEffect>,
}

/// A trigger or a clear. The device is of this partition and the row, if any, of the batch: the host has
/// checked both.
#[derive(Clone, Debug, PartialEq)]
pub enum AlertEffect {
    /// The condition stands.
    Trigger {
        /// The device.
        device: DeviceHandle,
        /// Which condition of the device.
        key: String,
        /// How bad.
        severity: Severity,
        /// For people.
        summary: String,
        /// Values.
        details: Vec<Detail>,
        /// The row of the batch that caused it.
        row: Option<u32>,
    },
    /// The condition does not stand.
    Clear {
        /// The device.
        device: DeviceHandle,
        /// Which condition of the device.
        key: String,
        /// The row of the batch that caused it.
        row: Option<u32>,
    },
}

/// A reading that belongs to no row, for any device by id.
#[derive(Clone, Debug, PartialEq)]
pub struct EmittedReading {
    /// The id of the device.
    pub device: String,
    /// When.
    pub time: Timestamp,
    /// What.
    pub metric: String,
    /// How much.
    pub value: Value,
}

/// A timer set or cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerEffect {
    /// Sets it, or moves it.
    Set(Timer),
    /// Cancels it, if it is set; `at` means nothing.
    Cancel(Timer),
}

/// A log message of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// How bad.
    pub level: Level,
    /// What.
    pub text: String,
}

/// Of a log message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For its author.
    Debug,
    /// For the operator.
    Info,
    /// Something is off.
    Warn,
    /// Something is wrong.
    Error,
}

/// What a call cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Wall time in nanoseconds.
    pub nanoseconds: u64,
    /// Instructions, where fuel is counted.
    pub fuel: u64,
    /// Host calls.
    pub host_calls: u32,
}

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CallFailure {
    /// Which way.
    pub kind: FailureKind,
    /// For the operator: names the limit, the error text of the rule, or the trap with its backtrace.
    pub message: String,
}

/// Which way a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The callback returned an error.
    Refused,
    /// The module trapped: a panic, a bad handle, a row that is not there.
    Trapped,
    /// It ran longer than its limit.
    Time,
    /// It spent its fuel.
    Fuel,
    /// It wanted more memory than its limit.
    Memory,
    /// It recursed too deep.
    Stack,
    /// It asked for more effects, output or host calls than its limit, or to keep more than its limit.
    Output,
    /// It cannot be loaded: no such module, an import outside the contract, a broken component.
    Load,
}

impl CallFailure {
    /// A failure with a message.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// A set of devices of one partition, by handle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceSet {
    words: Vec<u64>,
    len: usize,
}

impl DeviceSet {
    /// Adds or removes a device; returns whether that changed anything.
    pub fn set(&mut self, device: DeviceHandle, member: bool) -> bool {
        let (word, bit) = (device.0 as usize / 64, 1_u64 << (device.0 % 64));
        if word >= self.words.len() {
            if !member {
                return false;
            }
            self.words.resize(word + 1, 0);
        }
        let was = self.words[word] & bit != 0;
        if was != member {
            self.words[word] ^= bit;
            if member { self.len += 1 } else { self.len -= 1 }
        }
        was != member
    }

    /// Whether the device is in the set.
    pub fn contains(&self, device: DeviceHandle) -> bool {
        self.words.get(device.0 as usize / 64).is_some_and(|word| word >> (device.0 % 64) & 1 != 0)
    }

    /// How many devices are in the set.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The devices in order of handle, from the first one that is not below `from`.
    pub fn iter_from(&self, from: u32) -> impl Iterator<Item = DeviceHandle> + '_ {
        let first = from as usize / 64;
        self.words.iter().enumerate().skip(first).flat_map(move |(i, &word)| {
            let mut rest = if i == first { word & (u64::MAX << (from % 64)) } else { word };
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                Some(DeviceHandle((i * 64) as u32 + bit))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_sets_iterate_in_order() {
        let mut set = DeviceSet::default();
        for handle in [130, 3, 64, 63, 5] {
            assert!(set.set(DeviceHandle(handle), true));
            assert!(!set.set(DeviceHandle(handle), true));
        }
        assert!(set.set(DeviceHandle(5), false) && !set.set(DeviceHandle(999), false));
        let from = |n| set.iter_from(n).map(|d| d.0).collect::<Vec<_>>();
        assert_eq!(
            (from(0), from(4), from(64), from(131)),
            (vec![3, 63, 64, 130], vec![63, 64, 130], vec![64, 130], vec![])
        );
        assert_eq!(
            (set.len(), set.contains(DeviceHandle(130)), set.contains(DeviceHandle(5))),
            (4, true, false)
        );
    }
}
