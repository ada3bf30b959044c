//! Many messages as one: what a receiver gets once its bound on messages let nothing through for a while.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use watchfire_store::LabelSet;

use crate::stages::group::{GroupId, Reason, Telling};
use crate::stages::notice::Notice;

/// Alerts that a digest lists one by one; of the others it says how many there are.
pub const LISTED: usize = 20;
/// Names that it counts by, the most frequent.
const NAMED: usize = 20;

/// What the digest says in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Groups that it tells of.
    pub groups: u64,
    /// Label sets that began to fire.
    pub firing: u64,
    /// Label sets that were resolved.
    pub resolved: u64,
    /// The same by the name of the alert, the most frequent first; the rest together as `others`.
    pub by_alert: Vec<Count>,
    /// And by site, where devices have one.
    pub by_site: Vec<Count>,
}

/// How often something is in a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// What.
    pub name: String,
    /// Began to fire.
    pub firing: u64,
    /// Were resolved.
    pub resolved: u64,
}

/// A message of a group that may go out by itself or within a digest.
#[derive(Clone, Debug)]
pub struct Single {
    /// The group.
    pub group: GroupId,
    /// What its alerts have in common.
    pub labels: BTreeMap<String, String>,
    /// The message.
    pub telling: Telling,
}

/// What is to go to one receiver whose messages are bounded: kept as single messages while they are few, and in numbers
/// once they are more than may go out.
#[derive(Debug)]
pub enum Collected {
    /// As they are.
    Singles(Vec<Single>),
    /// As one.
    Many(Box<Many>),
}

/// A digest that is being made.
#[derive(Debug, Default)]
pub struct Many {
    groups: BTreeMap<GroupId, ()>,
    counts: Counts,
    listed: Vec<Notice>,
    sha: Sha256,
    about: Vec<String>,
}

#[derive(Debug, Default)]
struct Counts {
    alerts: BTreeMap<String, (u64, u64)>,
    sites: BTreeMap<String, (u64, u64)>,
    firing: u64,
    resolved: u64,
}

impl Counts {
    fn add(&mut self, labels: &LabelSet, fires: bool) {
        let count = |of: &mut (u64, u64)| if fires { of.0 += 1 } else { of.1 += 1 };
        count(self.alerts.entry(labels.get("alertname").cloned().unwrap_or_default()).or_default());
        if let Some(site) = labels.get("site") {
            count(self.sites.entry(site.clone()).or_default());
        }
        if fires {
            self.firing += 1;
        } else {
            self.resolved += 1;
        }
    }

    fn summary(self, groups: u64) -> Summary {
        let counts = |of: BTreeMap<String, (u64, u64)>| {
            let mut all: Vec<Count> =
                of.into_iter().map(|(name, (firing, resolved))| Count { name, firing, resolved }).collect();
            all.sort_by_key(|count| std::cmp::Reverse(count.firing + count.resolved));
            let others = all.split_off(all.len().min(NAMED));
            if !others.is_empty() {
                let sum = |of: fn(&Count) -> u64| others.iter().map(of).sum();
                let (firing, resolved) = (sum(|count| count.firing), sum(|count| count.resolved));
                all.push(Count { name: "others".into(), firing, resolved });
            }
            all
        };
        let Self { alerts, sites, firing, resolved } = self;
        Summary { groups, firing, resolved, by_alert: counts(alerts), by_site: counts(sites) }
    }
}

impl Collected {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::Singles(Vec::new())
    }

    /// Takes a message; with more than `room` of them they become a digest.
    pub fn add(&mut self, single: Single, room: usize) {
        match self {
            Self::Singles(singles) if singles.len() < room => singles.push(single),
            Self::Singles(singles) => {
                let mut many = Box::new(Many::default());
                for single in std::mem::take(singles).into_iter().chain([single]) {
                    many.add(single);
                }
                *self = Self::Many(many);
            }
            Self::Many(many) => many.add(single),
        }
    }
}

impl Default for Collected {
    fn default() -> Self {
        Self::new()
    }
}

impl Many {
    fn add(&mut self, single: Single) {
        let Telling { reason, changed, standing, .. } = single.telling;
        self.groups.insert(single.group, ());
        // A repetition changed nothing: it is what stands that it repeats.
        let told = if reason == Reason::Repeat { standing } else { changed };
        for notice in told {
            self.sha.update(&notice.cause);
            self.sha.update([0]);
            self.about.push(notice.alert.clone());
            self.counts.add(&notice.labels, notice.fires());
            if self.listed.len() < LISTED {
                self.listed.push(notice);
            }
        }
    }

    /// What it says: in numbers, the notices that it lists, how many others there are, the alerts that it is about, and
    /// what its id is made of.
    pub fn finish(self) -> (Summary, Telling, Vec<String>, [u8; 32]) {
        let summary = self.counts.summary(self.groups.len() as u64);
        let truncated = (summary.firing + summary.resolved) as usize - self.listed.len();
        let reason = if summary.firing > 0 { Reason::New } else { Reason::SomeResolved };
        let telling = Telling { reason, changed: self.listed, standing: Vec::new(), truncated };
        (summary, telling, self.about, self.sha.finalize().into())
    }
}

impl Summary {
    /// Of label sets, and whether each fires.
    pub fn of<'a>(groups: u64, all: impl Iterator<Item = (&'a LabelSet, bool)>) -> Self {
        let mut counts = Counts::default();
        all.for_each(|(labels, fires)| counts.add(labels, fires));
        counts.summary(groups)
    }

    /// What another one says, on top.
    pub fn add(&mut self, other: &Self) {
        self.groups += other.groups;
        self.firing += other.firing;
        self.resolved += other.resolved;
        for (all, more) in [(&mut self.by_alert, &other.by_alert), (&mut self.by_site, &other.by_site)] {
            for count in more {
                match all.iter_mut().find(|one| one.name == count.name) {
                    Some(one) => {
                        one.firing += count.firing;
                        one.resolved += count.resolved;
                    }
                    None => all.push(count.clone()),
                }
            }
            all.sort_by_key(|count| std::cmp::Reverse(count.firing + count.resolved));
        }
    }

    /// "Digest: 1204 alerts began and 3 ended in 12 groups (silence 1200, threshold 7)".
    pub fn text(&self) -> String {
        let named: Vec<String> = self
            .by_alert
            .iter()
            .take(5)
            .map(|count| format!("{} {}", count.name, count.firing + count.resolved))
            .collect();
        let more = self.by_alert.len().saturating_sub(5);
        let more = if more > 0 { format!(", {more} other names") } else { String::new() };
        format!(
            "Digest: {} alerts began and {} ended in {} groups ({}{more})",
            self.firing,
            self.resolved,
            self.groups,
            named.join(", ")
        )
    }
}
