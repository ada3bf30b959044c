//! What becomes due, in the order in which it runs.

use std::collections::BTreeSet;

use watchfire_model::{DeviceHandle, Timestamp};

use crate::rule::RuleId;

/// What is due; in this order where several things are due at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A timer of a rule.
    Timer,
    /// A delay of a condition.
    Delay,
    /// A device that may have fallen silent.
    Silence,
    /// A schedule of a rule.
    Schedule,
}

/// Something that is due. For delays and silence `at` may be too early: what moves it is not noted here with
/// every row; who takes it out looks, and puts it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due {
    pub at: Timestamp,
    pub kind: Kind,
    pub rule: RuleId,
    pub device: DeviceHandle,
    /// Timer: its tag. Schedule: its place in the subscription.
    pub tag: u32,
}

/// The one queue of a partition.
#[derive(Debug, Default)]
pub(crate) struct DueQueue(BTreeSet<Due>);

impl DueQueue {
    pub fn push(&mut self, due: Due) {
        self.0.insert(due);
    }

    pub fn remove(&mut self, due: &Due) -> bool {
        self.0.remove(due)
    }

    pub fn first(&self) -> Option<Due> {
        self.0.first().copied()
    }

    /// Takes the first one, if it is due by then.
    pub fn pop(&mut self, by: Timestamp) -> Option<Due> {
        self.first().filter(|due| due.at <= by)?;
        self.0.pop_first()
    }

    /// Takes the next one, if it is due at the same time, of the same kind and rule.
    pub fn pop_like(&mut self, like: &Due) -> Option<Due> {
        self.first().filter(|due| (due.at, due.kind, due.rule) == (like.at, like.kind, like.rule))?;
        self.0.pop_first()
    }

    /// Forgets everything of a rule.
    pub fn remove_rule(&mut self, rule: RuleId) {
        self.0.retain(|due| due.rule != rule);
    }
}
