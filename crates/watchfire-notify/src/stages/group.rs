//! A group: what its receiver was told, what is held back, what is still to be told, and when.
//!
//! It knows label sets by their fingerprints, and alerts by their ids: what they say is read from the store when they are
//! told, so that a hundred thousand alerts that stand need no text in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use watchfire_model::{Duration, Timestamp};

use crate::stages::escalation::Progress;
use crate::stages::hold::Hold;
use crate::stages::interval::Times;
use crate::stages::notice::Notice;
use crate::stages::route::{Target, Timers};

/// The name of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName {
    /// Who is told.
    pub receiver: String,
    /// Which group.
    pub key: String,
}

/// The name, shared by all that find the group.
pub type GroupId = Arc<GroupName>;

/// A fingerprint as a number.
pub type Fingerprint = u64;

/// The number of a fingerprint as it is written.
pub fn number(fingerprint: &str) -> Fingerprint {
    u64::from_str_radix(fingerprint, 16).unwrap_or_default()
}

/// What the store keeps of a group itself; what it told and is to tell are rows of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// What its alerts have in common.
    pub labels: BTreeMap<String, String>,
    /// When it is told.
    pub timers: Timers,
    /// Time intervals of its route.
    #[serde(default, skip_serializing_if = "Times::is_always")]
    pub times: Times,
    /// The escalation of its route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation: Option<String>,
    /// How far that is.
    #[serde(default, skip_serializing_if = "Progress::is_empty")]
    pub progress: Progress,
    /// When what waits is told.
    pub due: Option<Timestamp>,
    /// When the last delivery was made.
    pub last: Option<Timestamp>,
    /// The last delivery was a repetition, with this id: a newer one makes it moot.
    pub repetition: Option<String>,
    /// Notices of no alert of the store, such as those of a storm: what of them fires and was told.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub own: BTreeMap<String, Notice>,
    /// And what is to be told of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_pending: Vec<Notice>,
}

/// A label set that a group told, or that waits there to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Whose label set it is.
    pub alert: String,
    /// Since when it is as it is.
    pub since: Timestamp,
    /// People were told that it fires.
    pub told: bool,
    /// What holds back what is to be told; empty: nothing does, it is told when the group is due. `None`: nothing is to
    /// be told.
    pub held: Option<Vec<Hold>>,
}

impl Member {
    /// Whether it is to be told and nothing holds it.
    pub fn is_free(&self) -> bool {
        self.held.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether something holds it.
    pub fn is_held(&self) -> bool {
        self.held.as_ref().is_some_and(|held| !held.is_empty())
    }
}

/// Something that is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    /// With all that is said.
    Here(Box<Notice>),
    /// To be read from the store.
    Kept {
        /// The place of the transition.
        transition: i64,
        /// Whether it fires.
        fires: bool,
        /// Of the label set.
        fingerprint: Fingerprint,
    },
}

impl Pending {
    /// Of the label set.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Here(notice) => number(&notice.fingerprint),
            Self::Kept { fingerprint, .. } => *fingerprint,
        }
    }

    fn fires(&self) -> bool {
        match self {
            Self::Here(notice) => notice.fires(),
            Self::Kept { fires, .. } => *fires,
        }
    }

    /// Its text is given up where the store has it.
    pub fn put_away(&mut self) {
        if let Self::Here(notice) = self
            && let Some(transition) = notice.transition
        {
            let (fires, fingerprint) = (notice.fires(), number(&notice.fingerprint));
            *self = Self::Kept { transition, fires, fingerprint };
        }
    }
}

/// A notification group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What the store knows it by.
    pub id: i64,
    /// Its name.
    pub name: GroupId,
    /// What is kept of it.
    pub body: Body,
    /// What was told and what waits, by fingerprint. In boxes: most groups have one.
    pub members: BTreeMap<Fingerprint, Box<Member>>,
    /// What is to be told, in order.
    pub pending: Vec<Pending>,
    /// Pending notices that the store has, from the first.
    pub stored: usize,
    /// The bound on messages lets nothing of it out before then.
    pub waits_until: Option<Timestamp>,
    /// Something of it is told whatever the bound on messages says.
    pub bypasses: bool,
}

/// Why a notice is made, in Alertmanager's words where it has such.
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
    /// Somebody did something.
    Response,
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
            Self::Response => "response changed",
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
    pub fn new(id: i64, name: GroupId, target: &Target) -> Self {
        Self {
            id,
            name,
            body: Body {
                labels: target.group_labels.clone(),
                timers: target.timers,
                times: target.times.clone(),
                escalation: target.escalation.clone(),
                progress: Progress::default(),
                due: None,
                last: None,
                repetition: None,
                own: BTreeMap::new(),
                own_pending: Vec::new(),
            },
            members: BTreeMap::new(),
            pending: Vec::new(),
            stored: 0,
            waits_until: None,
            bypasses: false,
        }
    }

    /// Takes something that is to be told.
    pub fn add(&mut self, notice: Notice, now: Timestamp) {
        self.pending.push(Pending::Here(Box::new(notice)));
        self.is_due(now);
    }

    /// Something waits: the group is told when its timers say so.
    pub fn is_due(&mut self, now: Timestamp) {
        let timers = self.body.timers;
        let due = match self.body.last {
            None => now + timers.wait,
            Some(last) => (last.min(now) + timers.interval).max(now),
        };
        self.body.due.get_or_insert(due);
    }

    /// The clock was set back by so much, to `now`; says whether that changes anything. Nothing waits for longer than its
    /// timers say, also where nobody saw how far that was.
    pub fn set_back(&mut self, by: Duration, now: Timestamp) -> bool {
        let body = &mut self.body;
        let before = (body.due, body.last, body.progress.next());
        let longest = now + body.timers.wait.max(body.timers.interval);
        body.due = body.due.map(|due| (due - by).min(longest));
        body.last = body.last.map(|last| (last - by).min(now));
        body.progress.set_back(by);
        self.waits_until = self.waits_until.map(|until| until - by);
        before != (body.due, body.last, body.progress.next())
    }

    /// When something is to be done next: what waits is told, or a repetition, or a step of the escalation.
    pub fn next(&self) -> Option<Timestamp> {
        let repeat = self.body.timers.repeat;
        let told = || self.members.values().any(|member| member.told);
        let repetition = || Some(self.body.last.filter(|_| repeat.0 > 0 && told())? + repeat);
        let told = self.body.due.or_else(repetition);
        let told = told.map(|told| self.waits_until.map_or(told, |until| until.max(told)));
        told.into_iter().chain(self.body.progress.next()).min()
    }

    /// Whether it is time to tell something.
    pub fn tells(&self, now: Timestamp) -> bool {
        let repeat = self.body.timers.repeat;
        let repetition = || self.body.last.filter(|_| repeat.0 > 0).map(|last| last + repeat);
        self.body.due.or_else(repetition).is_some_and(|due| due <= now)
    }

    /// Nobody has to be told anything of it any more.
    pub fn ended(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty()
    }

    /// Whether a resolve of this label set comes after its firing, told or not.
    pub fn knows(&self, fingerprint: Fingerprint) -> bool {
        self.members.contains_key(&fingerprint)
            || self.pending.iter().any(|pending| pending.fires() && pending.fingerprint() == fingerprint)
    }

    /// Whether people were told that it fires.
    pub fn told(&self, fingerprint: Fingerprint) -> bool {
        self.members.get(&fingerprint).is_some_and(|member| member.told)
    }

    /// What fires on unchanged, as far as there is room: alerts by their ids.
    pub fn standing(&self, most: usize) -> impl Iterator<Item = (Fingerprint, &Member)> {
        self.members
            .iter()
            .filter(|(_, member)| member.told)
            .map(|(key, member)| (*key, &**member))
            .take(most)
    }
}
