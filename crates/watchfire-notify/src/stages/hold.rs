//! Whether a notice is held back, and by what: one question over all stages that may say so.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use watchfire_model::Timestamp;
use watchfire_store::{LabelSet, Outbox};

use crate::stages::inhibit::Inhibitor;
use crate::stages::interval::{Intervals, Times};
use crate::stages::silence::Silences;
use crate::stages::storm::{self, Storms};

/// Something that holds a notice back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Hold {
    /// Somebody shelved the alert.
    Shelved,
    /// The device or the rule is out of service, or suppressed by design.
    Suppressed,
    /// A silence.
    Silence {
        /// Its id.
        id: String,
    },
    /// Another alert that says more.
    Inhibition {
        /// The fingerprint of the other.
        source: String,
    },
    /// The route tells nothing at this time.
    Interval {
        /// The time interval that mutes, or those outside of which it is not active.
        name: String,
    },
    /// The parent of the device is in a storm, or down.
    Storm(storm::Held),
}

impl Hold {
    /// The stage that it comes from, as decisions name it.
    pub fn stage(&self) -> &'static str {
        match self {
            Self::Shelved => "shelved",
            Self::Suppressed => "suppressed",
            Self::Silence { .. } => "silence",
            Self::Inhibition { .. } => "inhibition",
            Self::Interval { .. } => "interval",
            Self::Storm(_) => "storm",
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shelved => write!(f, "the alert is shelved"),
            Self::Suppressed => write!(f, "the device or the rule is out of service"),
            Self::Silence { id } => write!(f, "silence {id}"),
            Self::Inhibition { source } => write!(f, "inhibited by the alert with the fingerprint {source}"),
            Self::Interval { name } => write!(f, "the route tells nothing at this time: {name}"),
            Self::Storm(held) if held.down => write!(f, "{} {} is down", held.parent, held.value),
            Self::Storm(held) => write!(f, "a storm of {} {}", held.parent, held.value),
        }
    }
}

/// What people did to an alert, as far as it matters to notices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Somebody looks after it.
    pub acknowledged: bool,
    /// Nobody wants to hear of it now.
    pub shelved: bool,
    /// By design, or out of service.
    pub suppressed: bool,
}

impl Flags {
    /// Whether nothing was done to it.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Takes in what happened. Says whether that was about flags at all.
    pub fn take(&mut self, event: &Outbox) -> bool {
        match event.kind.as_str() {
            "acknowledged" => self.acknowledged = true,
            "unacknowledged" => self.acknowledged = false,
            "shelved" => self.shelved = true,
            "unshelved" => self.shelved = false,
            "suppressed" => self.suppressed = true,
            "unsuppressed" => self.suppressed = false,
            // The next alert of the same condition is another one.
            "resolved" => *self = Self::default(),
            _ => return false,
        }
        true
    }
}

/// All that may hold a notice back.
#[derive(Clone, Copy, Debug)]
pub struct Holds<'a> {
    /// By alert, of those that have any.
    pub flags: &'a HashMap<String, Flags>,
    /// The silences.
    pub silences: &'a Silences,
    /// What fires and inhibits.
    pub inhibitor: &'a Inhibitor,
    /// The time intervals.
    pub intervals: &'a Intervals,
    /// The storms.
    pub storms: &'a Storms,
}

impl Holds<'_> {
    /// What holds a label set of an alert back that goes over a route with these times. Empty: nothing.
    pub fn on(
        &self,
        alert: &str,
        fingerprint: &str,
        labels: &LabelSet,
        times: &Times,
        now: Timestamp,
    ) -> Vec<Hold> {
        let flags = self.flags.get(alert).copied().unwrap_or_default();
        let mut holds = Vec::new();
        holds.extend(flags.shelved.then_some(Hold::Shelved));
        holds.extend(flags.suppressed.then_some(Hold::Suppressed));
        holds.extend(self.silences.holding(labels, now).into_iter().map(|id| Hold::Silence { id }));
        let sources = self.inhibitor.inhibited_by(labels, fingerprint);
        holds.extend(sources.into_iter().map(|source| Hold::Inhibition { source }));
        holds.extend(times.muted(self.intervals, now).map(|name| Hold::Interval { name }));
        holds.extend(self.storms.holds(labels).map(Hold::Storm));
        holds
    }

    /// When the answer may change without anything happening.
    pub fn next_edge(&self, now: Timestamp) -> Option<Timestamp> {
        self.silences.next_edge(now).into_iter().chain(self.intervals.next_edge(now)).min()
    }
}
