//! A group: what its receiver was told, what is still to be told, and when.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use watchfire_model::Timestamp;
use watchfire_store::LabelSet;

use crate::stages::notice::Notice;
use crate::stages::route::{Target, Timers};

/// Receiver and group key.
pub type GroupId = (String, String);

/// A notification group, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Who is told.
    pub receiver: String,
    /// Which group.
    pub key: String,
    /// What its alerts have in common.
    pub labels: LabelSet,
    /// When it is told.
    pub timers: Timers,
    /// What fires, as far as deliveries were made for it, by fingerprint.
    pub told: BTreeMap<String, Notice>,
    /// What is to be told, in order.
    pub pending: Vec<Notice>,
    /// When `pending` is told.
    pub due: Option<Timestamp>,
    /// When the last delivery was made.
    pub last: Option<Timestamp>,
    /// The last delivery was a repetition, with this id: a newer one makes it moot.
    pub repetition: Option<String>,
}

/// Why a notice is made, in Alertmanager's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The group has not been told of before.
    First,
    /// Something fires that did not.
    New,
    /// Something was resolved, not all.
    SomeResolved,
    /// Nothing fires any more.
    AllResolved,
    /// Nothing changed for long.
    Repeat,
}

impl Reason {
    /// As Alertmanager writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first notification",
            Self::New => "new alerts added",
            Self::SomeResolved => "some alerts resolved",
            Self::AllResolved => "all alerts resolved",
            Self::Repeat => "repeat interval elapsed",
        }
    }
}

/// One message to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telling {
    /// Why.
    pub reason: Reason,
    /// What changed, in order.
    pub changed: Vec<Notice>,
    /// What fires on unchanged.
    pub standing: Vec<Notice>,
    /// How many of those were left out.
    pub truncated: usize,
}

impl Group {
    /// A group that nobody was told of.
    pub fn new(target: &Target) -> Self {
        Self {
            receiver: target.receiver.clone(),
            key: target.group_key.clone(),
            labels: target.group_labels.clone(),
            timers: target.timers,
            told: BTreeMap::new(),
            pending: Vec::new(),
            due: None,
            last: None,
            repetition: None,
        }
    }

    /// Its name.
    pub fn id(&self) -> GroupId {
        (self.receiver.clone(), self.key.clone())
    }

    /// Takes something that is to be told.
    pub fn add(&mut self, notice: Notice, now: Timestamp) {
        self.pending.push(notice);
        let due = match self.last {
            None => now + self.timers.wait,
            Some(last) => (last + self.timers.interval).max(now),
        };
        self.due.get_or_insert(due);
    }

    /// When something is to be told next: what is pending, or a repetition.
    pub fn next(&self) -> Option<Timestamp> {
        self.due.or_else(|| {
            let last = self.last.filter(|_| !self.told.is_empty() && self.timers.repeat.0 > 0)?;
            Some(last + self.timers.repeat)
        })
    }

    /// Nobody has to be told anything of it any more.
    pub fn ended(&self) -> bool {
        self.told.is_empty() && self.pending.is_empty()
    }

    /// Whether a resolve of this label set would come after its firing.
    pub fn knows(&self, fingerprint: &str) -> bool {
        self.told.contains_key(fingerprint)
            || self.pending.iter().any(|notice| notice.fires() && notice.fingerprint == fingerprint)
    }

    /// What is told now, if its time has come: messages in order. No message has two states of one label
    /// set, so what was raised and resolved while the group waited is told as two.
    pub fn tell(&mut self, now: Timestamp, max_alerts: usize) -> Vec<Telling> {
        if self.next().is_none_or(|next| next > now) {
            return Vec::new();
        }
        let mut tellings = Vec::new();
        let mut changed: Vec<Notice> = Vec::new();
        let mut seen: HashSet<String> = HashSet::new();
        for notice in std::mem::take(&mut self.pending) {
            let known = self.told.contains_key(&notice.fingerprint) || seen.contains(&notice.fingerprint);
            if !notice.fires() && !known {
                // Its firing was never told here.
                continue;
            }
            if seen.contains(&notice.fingerprint) || changed.len() >= max_alerts {
                tellings.push(self.message(std::mem::take(&mut changed), max_alerts));
                seen.clear();
                if !notice.fires() && !self.told.contains_key(&notice.fingerprint) {
                    continue;
                }
            }
            seen.insert(notice.fingerprint.clone());
            changed.push(notice);
        }
        if !changed.is_empty() {
            tellings.push(self.message(changed, max_alerts));
        } else if tellings.is_empty() && self.due.is_none() {
            let mut standing: Vec<Notice> = self.told.values().cloned().collect();
            let truncated = standing.len().saturating_sub(max_alerts);
            standing.truncate(max_alerts);
            tellings.push(Telling { reason: Reason::Repeat, changed: Vec::new(), standing, truncated });
        }
        self.due = None;
        if !tellings.is_empty() {
            self.last = Some(now);
        }
        tellings
    }

    fn message(&mut self, changed: Vec<Notice>, max_alerts: usize) -> Telling {
        let first = self.last.is_none() && self.told.is_empty();
        let mut standing: Vec<Notice> = self
            .told
            .values()
            .filter(|notice| changed.iter().all(|other| other.fingerprint != notice.fingerprint))
            .cloned()
            .collect();
        let room = max_alerts.saturating_sub(changed.len());
        let truncated = standing.len().saturating_sub(room);
        standing.truncate(room);
        let fires = changed.iter().any(Notice::fires);
        for notice in &changed {
            if notice.fires() {
                self.told.insert(notice.fingerprint.clone(), notice.clone());
            } else {
                self.told.remove(&notice.fingerprint);
            }
        }
        let reason = match (first, fires, self.told.is_empty()) {
            (true, ..) => Reason::First,
            (_, true, _) => Reason::New,
            (_, _, true) => Reason::AllResolved,
            _ => Reason::SomeResolved,
        };
        Telling { reason, changed, standing, truncated }
    }
}
