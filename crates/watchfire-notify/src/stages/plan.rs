//! All groups, and what a flush makes of them.
//!
//! A flush goes in rounds: [`Groups::take`] takes in what happened, [`Groups::round`] says what has to be read from the
//! store for the next groups, [`Groups::work`] decides on them, and [`Groups::finish`] gives what the store is to write. If
//! that cannot be written, the groups are read from the store again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use watchfire_model::{Duration, Timestamp};
use watchfire_store::{AlertRow, DecisionRow, Flush, LabelSet, Outbox};

use crate::stages::cap::{Allowed, Sent};
use crate::stages::digest::Collected;
use crate::stages::group::{Fingerprint, Group, GroupId};
use crate::stages::hold::{Flags, Holds};
use crate::stages::inhibit::Inhibitor;
use crate::stages::silence::Silences;
use crate::stages::storm::{self, Storms};

mod finish;
mod restore;
mod round;
mod settings;
mod take;
mod tell;
mod work;

pub use settings::{ReceiverSettings, Settings};

/// The setting that keeps when receivers were sent their last messages, and what storms there are.
pub const SETTING: &str = "notify.bounds";

/// What was read from the store for a round.
#[derive(Debug, Default)]
pub struct Found {
    /// By id.
    pub alerts: HashMap<String, AlertRow>,
    /// By the place of the transition.
    pub transitions: HashMap<i64, Outbox>,
}

/// What a round needs of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Ids of alerts.
    pub alerts: BTreeSet<String>,
    /// Places of transitions.
    pub transitions: BTreeSet<i64>,
}

#[derive(Clone, Debug, Default)]
enum Work {
    #[default]
    None,
    LookAgain(Vec<GroupId>),
    Tell(Vec<GroupId>),
}

/// What changed since the store was written last.
#[derive(Clone, Debug, Default)]
struct Dirty {
    members: BTreeSet<Fingerprint>,
    /// What was pending was told.
    emptied: bool,
}

/// The groups as they are, with what finds them.
#[derive(Debug, Default)]
pub struct Groups {
    groups: HashMap<GroupId, Group>,
    /// Groups that know a label set.
    by_fingerprint: HashMap<Fingerprint, Vec<GroupId>>,
    due: BTreeSet<(Timestamp, GroupId)>,
    next_id: i64,
    /// Groups that hold something.
    holding: BTreeSet<GroupId>,
    /// Groups that hold something and are to be looked at again.
    again: BTreeSet<GroupId>,
    /// When something may not be held any more without anything happening.
    edge: Option<Timestamp>,
    flags: HashMap<String, Flags>,
    /// Label sets that fire: each counts once.
    firing: HashSet<Fingerprint>,
    silences: Silences,
    inhibitor: Inhibitor,
    storms: Storms,
    sent: BTreeMap<String, Sent>,
    work: Work,
    dirty: BTreeMap<GroupId, Dirty>,
    collected: BTreeMap<String, Collected>,
    flush: Flush,
    bounds_changed: bool,
}

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
struct Bounds {
    sent: BTreeMap<String, Sent>,
    #[serde(flatten)]
    storms: storm::Kept,
}

impl Groups {
    /// Other settings: what inhibits and what is a storm is worked out anew from the alerts that are active.
    pub fn reconfigure(&mut self, settings: &Settings, active: &[LabelSet]) {
        let kept = self.storms.kept();
        self.configure(settings, active, kept);
        self.again = self.holding.clone();
        // Groups that stand take the times of their routes when they are told again.
        self.edge = None;
    }

    fn configure(&mut self, settings: &Settings, active: &[LabelSet], kept: storm::Kept) {
        self.inhibitor = Inhibitor::new(&settings.inhibit);
        self.storms = Storms::new(&settings.storms);
        self.firing.clear();
        for labels in active {
            self.fires(labels, &watchfire_store::fingerprint(labels));
        }
        self.storms.restore(kept);
    }

    /// Other silences.
    pub fn silence(&mut self, silences: Silences) {
        self.silences = silences;
        self.again = self.holding.clone();
        // One of them may end before whatever ended next.
        self.edge = None;
    }

    /// The clock was set back by so much, to `now`; with nothing, what lies further ahead than it can is brought nearer.
    pub fn set_back(&mut self, by: Duration, now: Timestamp) {
        let ids: Vec<GroupId> = self.groups.keys().cloned().collect();
        for id in ids {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let before = group.next();
            if group.set_back(by, now) {
                self.dirty.entry(id.clone()).or_default();
            }
            self.index(&id, before);
        }
        self.storms.set_back(now);
        self.again = self.holding.clone();
        self.edge = None;
    }

    /// The storms as they hold alerts now, for whoever only looks.
    pub fn storms(&self) -> storm::Standing {
        self.storms.standing()
    }

    /// What may go out to a receiver of so many messages of no group: the bound on its messages counts them too.
    pub fn allows(&self, receiver: &str, count: usize, settings: &Settings, now: Timestamp) -> Allowed {
        let Some(most) = settings.receivers.get(receiver).and_then(|one| one.max_per_minute) else {
            return Allowed::Each;
        };
        self.sent.get(receiver).unwrap_or(&Sent::default()).allowed(count, most, now)
    }

    /// So many of them go out.
    pub fn sends(&mut self, receiver: &str, count: usize, settings: &Settings, now: Timestamp) {
        let Some(most) = settings.receivers.get(receiver).and_then(|one| one.max_per_minute) else { return };
        let sent = self.sent.entry(receiver.to_string()).or_default();
        (0..count).for_each(|_| sent.send(most, now));
        self.bounds_changed |= count > 0;
    }

    /// When something is to be done next.
    pub fn next(&self) -> Option<Timestamp> {
        let soon = (!self.again.is_empty()).then_some(Timestamp(i64::MIN));
        let edge = self.edge.filter(|_| !self.holding.is_empty());
        let due = self.due.first().map(|(time, _)| *time);
        soon.into_iter().chain(edge).chain(due).chain(self.storms.next()).min()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many notices are held back.
    pub fn held(&self) -> usize {
        let groups = self.holding.iter().filter_map(|id| self.groups.get(id));
        groups.map(|group| group.members.values().filter(|member| member.is_held()).count()).sum()
    }

    fn holds<'a>(&'a self, settings: &'a Settings) -> Holds<'a> {
        Holds {
            flags: &self.flags,
            silences: &self.silences,
            inhibitor: &self.inhibitor,
            intervals: &settings.intervals,
            storms: &self.storms,
        }
    }

    fn decide(
        &mut self,
        at: Timestamp,
        alert: &str,
        group: Option<&GroupId>,
        stage: &str,
        outcome: &str,
        detail: String,
    ) {
        let (receiver, group_key) = group.map(|id| (id.receiver.clone(), id.key.clone())).unwrap_or_default();
        let (stage, outcome) = (stage.to_string(), outcome.to_string());
        self.flush.decisions.push(DecisionRow {
            at,
            alert: alert.to_string(),
            receiver,
            group_key,
            stage,
            outcome,
            detail,
        });
    }

    fn due_of(&self, id: &GroupId) -> Option<Timestamp> {
        self.groups.get(id).and_then(Group::next)
    }

    /// After a change of a group that was due at `before`.
    fn index(&mut self, id: &GroupId, before: Option<Timestamp>) {
        let Some(group) = self.groups.get(id) else { return };
        let now = group.next();
        if before != now
            && let Some(time) = before
        {
            self.due.remove(&(time, id.clone()));
        }
        if let Some(time) = now {
            self.due.insert((time, group.name.clone()));
        }
    }

    fn holds_something(&mut self, id: &GroupId, holds: bool) {
        match holds {
            true => drop(self.holding.insert(id.clone())),
            false => drop(self.holding.remove(id)),
        }
    }
}
