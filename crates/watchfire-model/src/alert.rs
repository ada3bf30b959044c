//! Alerts: severities, what a condition is configured with, and the transitions that the partition loop
//! hands to whoever keeps alerts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::device::DeviceSpec;
use crate::external::External;
use crate::id::{DeviceHandle, Digest, PartitionId, Position, RuleVersion};
use crate::time::{Duration, Timestamp};
use crate::value::Value;

/// How bad it is, from the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For the record.
    Info,
    /// Look at it some time.
    Warning,
    /// Look at it today.
    Minor,
    /// Act soon.
    Major,
    /// Act now.
    Critical,
}

impl Severity {
    /// All, from the least.
    pub const ALL: [Self; 5] = [Self::Info, Self::Warning, Self::Minor, Self::Major, Self::Critical];

    /// As written in labels and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Minor => "minor",
            Self::Major => "major",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Severity {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|severity| severity.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no severity: info, warning, minor, major or critical"))
    }
}

/// What lies between a rule's trigger and an alert (ISA-18.2 names).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConditionOptions {
    /// The trigger must stand this long before the alert is raised.
    pub on_delay: Duration,
    /// And so many readings in a row, of those that the rule says it with: each trigger counts, a clear begins anew. 0 and 1:
    /// the first is enough.
    #[serde(skip_serializing_if = "is_zero_times")]
    pub minimum_repeat: u32,
    /// The longest pause between two of them; after a longer one the count begins anew. `None`:
    /// [`ConditionOptions::LONGEST_PAUSE`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_within: Option<Duration>,
    /// The clear must stand this long before the alert is resolved.
    pub off_delay: Duration,
    /// A cleared alert stays active until an operator resets it.
    pub latched: bool,
    /// Many raises in a short time are one chattering alert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chatter: Option<Chatter>,
    /// An alert that stands this long is announced again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realarm: Option<Duration>,
}

impl ConditionOptions {
    /// The pause after which nobody would call a trigger the next one in a row. Long enough for a device that reports
    /// once a day and missed a day; without an end a condition that was said once would be kept for ever.
    pub const LONGEST_PAUSE: Duration = Duration::from_secs(2 * 24 * 60 * 60);

    /// The longest pause between triggers that `minimum_repeat` counts.
    pub fn longest_pause(&self) -> Duration {
        self.repeat_within.unwrap_or(Self::LONGEST_PAUSE)
    }
}

/// When a condition chatters: `count` raises within `window`. While it does, the alert stays active; it
/// resolves once the condition was clear for a whole window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Chatter {
    /// Raises; default 3.
    pub count: u32,
    /// Time; default one minute.
    pub window: Duration,
}

impl Default for Chatter {
    fn default() -> Self {
        Self { count: 3, window: Duration::from_secs(60) }
    }
}

/// One named value of an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    /// Its name.
    pub name: String,
    /// The value.
    pub value: Value,
}

/// One alert from raise to resolve: 16 hex digits, the beginning of the SHA-256 of the id of the transition
/// that raised it. So it is the same in every replay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AlertId(pub String);

impl AlertId {
    /// The alert that this transition raises.
    pub fn raised_by(transition: &str) -> Self {
        Self(Digest::of(transition.as_bytes()).hex()[..16].to_string())
    }
}

impl fmt::Display for AlertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A change in the life of an alert. Inserted by its id first: a replay that makes it again changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// The id of the effect that it is: see [`EffectId`].
    pub id: String,
    /// The alert.
    pub alert: AlertId,
    /// What happened.
    pub kind: TransitionKind,
    /// The rule.
    pub rule: String,
    /// Its version when this happened.
    pub rule_version: RuleVersion,
    /// The device, as registered when this happened.
    pub device: DeviceSpec,
    /// Its handle in its partition.
    pub handle: DeviceHandle,
    /// The key; with rule and device the identity of the condition.
    pub key: String,
    /// From now on.
    pub severity: Severity,
    /// For people.
    pub summary: String,
    /// Numbers and texts behind the summary.
    pub details: Vec<Detail>,
    /// When it happened, by the clock of the device (event time, delays included).
    pub at: Timestamp,
    /// When the log received what caused it.
    pub logged_at: Timestamp,
    /// The record that caused it.
    pub position: Position,
    /// With `Raised` only: what the verdict rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Box<Evidence>>,
    /// With alerts of others: what is known of it. `None`: a rule of ours made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<Box<External>>,
}

/// What happened to an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TransitionKind {
    /// It began.
    Raised,
    /// It goes on with another severity.
    SeverityChanged {
        /// The severity before.
        from: Severity,
    },
    /// The condition cleared, but the alert is latched and stays active until it is reset.
    Cleared,
    /// It stands for so long that people are told again.
    Realarmed,
    /// It ended.
    Resolved {
        /// Why.
        reason: ResolveReason,
    },
}

/// Why an alert ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResolveReason {
    /// The rule cleared it.
    Cleared,
    /// An operator reset a latched alert or cleared it by force.
    Operator,
    /// The rule was removed.
    RuleRemoved,
    /// The rule does not select the device any more.
    Deselected,
    /// The device was deleted.
    DeviceDeleted,
    /// The rule went back to a version that had not raised it.
    RolledBack,
}

/// What a verdict rests on: enough to evaluate it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The module.
    pub module: Digest,
    /// The parameters of the rule.
    pub parameters: serde_json::Value,
    /// The record that triggered it.
    pub position: Position,
    /// The callback: `batch`, `timers`, `silence` or `schedule NAME`.
    pub callback: String,
    /// The time of the log at the callback.
    pub now: Timestamp,
    /// The device as it was then, as far as a rule sees it: among the labels of the alert, its own stand in the place of
    /// those that are called the same. Missing in what was written before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceSpec>,
    /// The state of the device before the callback, by slot, as hex digits.
    pub state_before: std::collections::BTreeMap<u32, String>,
    /// Slots of that state that are too large to be kept with an alert.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state_left_out: Vec<u32>,
    /// The stream that the rows are of.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stream: String,
    /// The rows of the device in the record: event time and metrics. The last 32 of them, up to the one that is named.
    pub rows: Vec<EvidenceRow>,
    /// As many others, before and behind them, are not kept.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_left_out: u64,
    /// The row that the rule named, as an index into `rows`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<usize>,
    /// With the callback `timers`: those of the device that were due.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timers: Vec<EvidenceTimer>,
    /// With the callback `silence`: event time of the last reading of the device, if it ever sent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reading: Option<Timestamp>,
    /// What the rule said. Missing in what was written before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

fn is_zero_times(number: &u32) -> bool {
    *number == 0
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a rule said of a condition that stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// How bad.
    pub severity: Severity,
    /// For people.
    pub summary: String,
    /// Values.
    pub details: Vec<Detail>,
}

/// A timer of the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceTimer {
    /// Which of the device's timers.
    pub tag: u32,
    /// When it was due.
    pub at: Timestamp,
}

/// A reading of the evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvidenceRow {
    /// When the device says it measured.
    pub time: Timestamp,
    /// What it said, by metric.
    pub metrics: std::collections::BTreeMap<String, Value>,
}

/// What names an effect: the same in every replay, different for every two effects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EffectId<'a> {
    /// The record that caused it.
    pub position: Position,
    /// The rule.
    pub rule: &'a str,
    /// What in it.
    pub cause: Cause<'a>,
}

/// The part of an effect id within a record and rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cause<'a> {
    /// Something that a callback did.
    Callback {
        /// Which of the callbacks of this rule at this record, from 0.
        callback: u32,
        /// Which of its effects, from 0.
        ordinal: u32,
    },
    /// A delay of a condition that elapsed.
    Delay {
        /// The device.
        device: DeviceHandle,
        /// The key of the condition.
        key: &'a str,
        /// Which of the condition's steps at this record, from 0.
        step: u32,
    },
    /// Something that was said of an alert of others.
    External {
        /// Its place in the record, from 0.
        ordinal: u32,
    },
    /// The end of an alert of others that was not said again, or an operator's reset of it.
    ExternalEnd {
        /// Of its labels.
        fingerprint: &'a str,
    },
    /// A control record: a rule removed, a device deleted, an operator's reset.
    Control {
        /// The device.
        device: DeviceHandle,
        /// The key of the condition.
        key: &'a str,
    },
}

impl fmt::Display for EffectId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/", self.position, self.rule)?;
        match &self.cause {
            Cause::Callback { callback, ordinal } => write!(f, "{callback}/{ordinal}"),
            Cause::Delay { device, key, step } => write!(f, "delay/{}/{key}/{step}", device.0),
            Cause::External { ordinal } => write!(f, "said/{ordinal}"),
            Cause::ExternalEnd { fingerprint } => write!(f, "end/{fingerprint}"),
            Cause::Control { device, key } => write!(f, "control/{}/{key}", device.0),
        }
    }
}

/// Whoever keeps alerts, as the partition loop sees it. Implemented by the store.
pub trait AlertKeeper: Send + Sync {
    /// Hands over what came of a stretch of one partition's log, in order. Blocks while the queue is full.
    /// Gives a number that grows with each call.
    fn submit(&self, changes: AlertChanges) -> u64;
    /// The number up to which everything is committed.
    fn committed(&self) -> u64;
    /// Blocks until `number` is committed or the timeout is over; gives [`AlertKeeper::committed`].
    fn wait_committed(&self, number: u64, timeout: std::time::Duration) -> u64;
}

/// What the loop hands to the keeper of alerts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AlertChanges {
    /// Durable before the checkpoint that covers them.
    pub transitions: Vec<Transition>,
    /// Of alerts that go on unchanged: kept when there is time for it, newest only.
    pub updates: Vec<AlertUpdate>,
    /// Once for each partition, when it is level after a start: what the keeper must agree with.
    pub recovered: Option<Recovered>,
}

/// Every alert that a partition holds as raised, after everything handed over before it. The keeper compares: what
/// it does not have is added, what nobody would ever resolve is resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// The partition.
    pub partition: PartitionId,
    /// The time of its log.
    pub at: Timestamp,
    /// A transition for each, to be used where the keeper lacks the alert: `Raised`, or `Cleared` of one that is
    /// latched, whose severity need not be the one that was told.
    pub active: Vec<Transition>,
}

/// A repeated trigger of an alert that is active already.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertUpdate {
    /// The alert.
    pub alert: AlertId,
    /// Event time of the latest trigger.
    pub last_seen: Timestamp,
    /// Triggers since it was raised, the first included.
    pub count: u64,
    /// Of the latest trigger.
    pub summary: String,
    /// Of the latest trigger.
    pub details: Vec<Detail>,
}
