//! A case as it is run: times resolved, series spread out, devices known.

use std::collections::BTreeMap;

use watchfire_model::call::Level;
use watchfire_model::rule::ConditionSet;
use watchfire_model::{DeviceSpec, Duration, Limits, Selector, Severity, Timestamp, Value};

use crate::before::Before;
use crate::blob::Field;

/// One case.
///
/// ```yaml
/// name: the deadband holds the alert
/// parameters: { metric: temperature, high: 80, deadband: 5 }
/// condition: { on_delay: 30s }        # optional, as in a deployment: what lies between trigger and alert
/// select: { type: press }             # optional, as in a deployment; also `limits` and `pass`
/// start: 2026-01-01T00:00:00Z         # optional: what 0s is
/// devices:                            # optional: those of the time line are registered anyway, at 0s
///   - { id: press-1, type: press, site: lyon, labels: { line: "3" }, interval: 10s }
/// state:                              # optional: what an earlier version of the rule had kept, which it migrates
///   version: 1
///   blobs: [ { device: press-1, slot: 0, fields: [ 5 ] } ]
/// timeline:                           # in order of `at`: when the log receives it
///   - { at: 10s, readings: { press-1: { temperature: 81, mode: auto, open: false } } }
///   - { at: 20s, measured: 15s, readings: { press-1: { temperature: 78 } } }  # event time, where it differs
///   - { at: 1m, every: 10s, until: 5m, readings: { press-1: { temperature: { from: 70, to: 90 } } } }
///   - { at: 5m, file: recording.csv }  # recorded readings beside the case, the first of them at `at`
///   - { at: 6m, register: [ { id: press-2, type: press } ] }
///   - { at: 7m, delete: [ press-2 ] }
///   - { at: 8m, reset: { device: press-1, key: temperature.high } }  # what an operator does when latched
///   - { at: 9m, deploy: { parameters: { metric: temperature, high: 90 } } }  # a further version of the rule
///   - { at: 10m, replace: true }      # another instance, as after a restart
///   - { at: 1h }                      # nothing comes, time passes
/// expect:                             # all changes, in order of time; left out: any
///   - { at: 10s, trigger: { device: press-1, key: temperature.high, severity: major } }
///   - { at: 30s, within: 5s, clear: { device: press-1, key: temperature.high } }
/// never:                              # what must not be triggered; each member left out means any
///   - { device: press-2 }
/// publishes:                          # all rows of the output stream; left out: any
///   - { at: 10s, device: site-1, metrics: { load: 3.5 } }
/// samples:                            # rows that must be among them; metrics that are not named are not looked at
///   - { at: 10s, within: 5s, device: site-1, metrics: { load: 3.5 }, tolerance: 0.1 }
/// keeps:                              # all state at the end; left out: any
///   - { device: press-1, slot: 0, fields: [ 6, 7.5, true ] }
///   - { device: press-2, slot: window, bytes: "0500000000000000" }
/// logs:                               # all messages, in their order; left out: any
///   - { at: 10s, level: info, text: the limit is 80 }
/// fails:                              # calls that must fail, each with a part of what is said; left out: none
///   - { at: 20s, device: press-1, text: not a temperature }
/// ```
///
/// A time is a span since the start (`250ms`, `90s`, `5m`, `2h`, `1d`, a number of seconds) or a time
/// (RFC 3339). Between two steps everything that is due (timers, silence, schedules, delays) happens at its
/// time. `every` and `until` repeat a step, `until` included; `{ from, to }` goes evenly from one value to the
/// other meanwhile, and `value`, `steps`, `sine` and `noise` are added to it, as `docs/writing-rules.md` has it.
///
/// What is expected is a change of an alert: `trigger` (it begins, or its severity changes), `clear` (it
/// ends), `latched` (it cleared, and waits for a reset) or `realarm`. A trigger of what stands with the same
/// severity is no change. `severity`, `summary` and single `details` are compared where they are given. `at` is
/// the event time of the row that the rule named, delays included, else the time of the callback; `within`
/// allows it to be that much later.
///
/// State is compared byte by byte: as `bytes` in hexadecimal, or as `fields` in the order of their layout. There a whole
/// number stands for 8 bytes, one with a point for a double, a flag for one byte, and `"5 u32"` says its kind. A slot is
/// a number, or the name that the rule gave it.
///
/// Rows that a call fails on are left out, as on a server, and the others are evaluated as if those had not come. A
/// failure that `fails` does not name is one of the case.
///
/// `refused: TEXT` in the place of everything expected: the rule does not start, and says TEXT.
#[derive(Clone, Debug)]
pub struct Case {
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) start: Timestamp,
    pub(crate) parameters: serde_json::Value,
    pub(crate) condition: ConditionSet,
    pub(crate) select: Selector,
    pub(crate) limits: Limits,
    pub(crate) pass: Vec<String>,
    pub(crate) devices: Vec<DeviceSpec>,
    pub(crate) before: Option<Before>,
    /// In order of time.
    pub(crate) actions: Vec<Action>,
    pub(crate) expect: Option<Vec<Expected>>,
    pub(crate) never: Vec<Never>,
    pub(crate) publishes: Option<Vec<ExpectedRow>>,
    pub(crate) samples: Vec<ExpectedRow>,
    pub(crate) keeps: Option<Vec<Kept>>,
    pub(crate) logs: Option<Vec<Logged>>,
    pub(crate) fails: Vec<Fails>,
    pub(crate) refused: Option<String>,
}

impl Case {
    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that it was read from, as it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    pub(crate) fn offset(&self, at: Timestamp) -> String {
        if at < self.start { format!("-{}", self.start.since(at)) } else { at.since(self.start).to_string() }
    }
}

/// Something that happens to the log.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    pub at: Timestamp,
    pub what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Reading(Row),
    Register(Vec<DeviceSpec>),
    Delete(String),
    Reset {
        device: String,
        key: String,
    },
    /// The same module with these parameters.
    Deploy(serde_json::Value),
    /// The instance is discarded.
    Replace,
    Nothing,
}

/// A reading: what comes in, or what an output stream carries.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// In the file, from 1; 0: it is in none.
    pub line: u64,
    pub at: Timestamp,
    pub device: String,
    pub metrics: BTreeMap<String, Value>,
}

/// A row of the output stream that must be there.
#[derive(Clone, Debug)]
pub(crate) struct ExpectedRow {
    pub row: Row,
    pub within: Duration,
    /// How far a number may be away.
    pub tolerance: f64,
}

/// A change of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Trigger,
    Clear,
    Latched,
    Realarm,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Trigger => "trigger",
            Self::Clear => "clear",
            Self::Latched => "latched",
            Self::Realarm => "realarm",
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub line: u64,
    pub at: Timestamp,
    pub within: Duration,
    pub kind: Kind,
    pub device: String,
    pub key: String,
    pub severity: Option<Severity>,
    pub summary: Option<String>,
    pub details: BTreeMap<String, Value>,
}

#[derive(Clone, Debug)]
pub(crate) struct Never {
    pub line: u64,
    pub device: Option<String>,
    pub key: Option<String>,
    pub severity: Option<Severity>,
}

/// A blob of state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    /// In the file, from 1; 0: it is in none.
    pub line: u64,
    pub device: String,
    pub slot: u32,
    pub bytes: Vec<u8>,
    /// What it is made of, where the file says so.
    pub layout: Vec<Field>,
}

/// A log message of the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    /// In the file, from 1; 0: it is in none.
    pub line: u64,
    pub at: Timestamp,
    pub level: Level,
    pub text: String,
}

/// A call that must fail.
#[derive(Clone, Debug)]
pub(crate) struct Fails {
    pub line: u64,
    pub at: Timestamp,
    pub device: Option<String>,
    /// A part of what is said.
    pub text: String,
}
