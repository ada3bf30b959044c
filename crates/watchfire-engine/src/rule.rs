//! A rule at work in one partition.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use watchfire_alert::Condition;
use watchfire_model::call::{DeviceSet, Instance, Module, Silence, Subscription};
use watchfire_model::{DeviceHandle, Duration, KeyedState, Offset, RuleSpec, RuleVersion, Timestamp};

use crate::breaker::{Outage, Tail, Window};
use crate::cron::Cron;
use crate::snapshot::Snapshots;
use crate::status::RuleStats;

/// A rule in a partition: given in the order of first deployments, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RuleId(pub u32);

/// Conditions by device, and of a device by key in order.
pub(crate) type Conditions = BTreeMap<DeviceHandle, Vec<(Box<str>, Condition)>>;

/// A timer that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetTimer {
    /// What the rule asked for.
    pub at: Timestamp,
    /// When it fires: not before the first record later than the one that set it.
    pub due: Timestamp,
}

/// By device and tag.
pub(crate) type Timers = BTreeMap<(DeviceHandle, u32), SetTimer>;

/// A schedule of a rule.
#[derive(Clone, Debug)]
pub(crate) struct RunningSchedule {
    pub name: String,
    pub text: (String, Option<String>),
    pub cron: Cron,
    pub next: Option<Timestamp>,
}

pub(crate) struct Rule {
    pub id: RuleId,
    pub name: Arc<str>,
    pub version: RuleVersion,
    pub spec: Arc<RuleSpec>,
    pub parameters: Arc<serde_json::Value>,
    pub module: Option<Arc<dyn Module>>,
    pub instance: Option<Box<dyn Instance>>,
    pub subscription: Subscription,
    pub paused: bool,
    /// It is out, or behind because it was.
    pub outage: Option<Box<Outage>>,
    /// Place of its stream in the partition, and of its group there.
    pub stream: usize,
    pub group: u32,
    pub state: KeyedState,
    pub state_version: u32,
    pub conditions: Conditions,
    /// The entry of each device in the due queue, for its delays.
    pub delays: BTreeMap<DeviceHandle, Timestamp>,
    pub timers: Timers,
    /// Devices that fell silent and were not heard of since.
    pub silent: DeviceSet,
    pub schedules: Vec<RunningSchedule>,
    /// As it was when its last versions were left.
    pub snapshots: Snapshots,
    /// Callbacks at the record that is being evaluated.
    pub callbacks: (Offset, u32),
    /// What has changed since the last checkpoint beside keyed state.
    pub dirty: Dirty,
    pub stats: RuleStats,
    /// Tries that are left to look for rows that make a call fail.
    pub credit: u32,
    /// Nanoseconds in calls and tries that failed, of the callback that is being made.
    pub wasted: u64,
    /// What its breaker looks at.
    pub window: Window,
    /// The latest of what it has missed.
    pub tail: Tail,
    /// It was tried, and what came of that is not in the log yet.
    pub trying: bool,
}

/// Parts of a rule that a checkpoint writes as a whole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dirty {
    pub head: bool,
    pub conditions: bool,
    pub timers: bool,
    /// The state is another one altogether.
    pub state_replaced: bool,
}

impl Dirty {
    pub const ALL: Self = Self { head: true, conditions: true, timers: true, state_replaced: true };
}

/// Where the condition of a key stands, or would stand.
fn place_of(keys: &[(Box<str>, Condition)], key: &str) -> Result<usize, usize> {
    keys.binary_search_by(|(other, _)| (**other).cmp(key))
}

impl Rule {
    /// Whether nothing goes on in it: timers and silence wait, and no delay runs.
    pub fn stands(&self) -> bool {
        self.paused || self.outage.is_some()
    }

    /// Whether its breaker is open.
    pub fn is_open(&self) -> bool {
        self.outage.as_ref().is_some_and(|outage| outage.is_open())
    }

    /// How long a device may say nothing.
    pub fn patience(&self, interval: Option<Duration>) -> Option<Duration> {
        match self.subscription.silence {
            Silence::Off => None,
            Silence::Registry => interval.map(|interval| Duration(interval.0.saturating_mul(2))),
            Silence::After(span) => Some(span),
        }
        .map(|span| span.max(Duration(1)))
    }

    /// The state of a device by slot, as hex digits.
    pub fn state_of(&self, device: DeviceHandle) -> BTreeMap<u32, String> {
        let mut slots = BTreeMap::new();
        for slot in self.state.slots() {
            let blob = self.state.get(slot, device);
            if !blob.is_empty() {
                let mut hex = String::with_capacity(blob.len() * 2);
                for byte in blob {
                    // Writing to a String does not fail.
                    let _ = write!(hex, "{byte:02x}");
                }
                slots.insert(slot, hex);
            }
        }
        slots
    }

    /// The number of the next callback at this record.
    pub fn next_callback(&mut self, offset: Offset) -> u32 {
        if self.callbacks.0 != offset {
            self.callbacks = (offset, 0);
        }
        self.callbacks.1 += 1;
        self.callbacks.1 - 1
    }

    /// The condition of a device and key.
    pub fn condition(&mut self, device: DeviceHandle, key: &str) -> Option<&mut Condition> {
        let keys = self.conditions.get_mut(&device)?;
        let place = place_of(keys, key).ok()?;
        Some(&mut keys[place].1)
    }

    /// Whether there is a condition of a device and key.
    pub fn has_condition(&self, device: DeviceHandle, key: &str) -> bool {
        self.conditions.get(&device).is_some_and(|keys| place_of(keys, key).is_ok())
    }

    /// The condition of a device and key, made if there is none.
    pub fn condition_or_new(&mut self, device: DeviceHandle, key: &str) -> &mut Condition {
        let keys = self.conditions.entry(device).or_default();
        let place = match place_of(keys, key) {
            Ok(place) => place,
            Err(place) => {
                keys.insert(place, (key.into(), Condition::default()));
                place
            }
        };
        &mut keys[place].1
    }

    /// Forgets conditions of a device that are over.
    pub fn tidy(&mut self, device: DeviceHandle, clock: Timestamp) {
        let Some(keys) = self.conditions.get_mut(&device) else { return };
        let spec = &self.spec;
        keys.retain(|(key, condition)| !condition.is_over(spec.condition.of(key), clock));
        if keys.is_empty() {
            self.conditions.remove(&device);
        }
    }
}
