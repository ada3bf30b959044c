//! All groups, and what a flush makes of them.
//!
//! A flush goes in rounds: [`Groups::take`] takes in what happened, [`Groups::round`] says what has to be read from the
//! store for the next groups, [`Groups::work`] decides on them, and [`Groups::finish`] gives what the store is to write. If
//! that cannot be written, the groups are read from the store again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use watchfire_model::Timestamp;
use watchfire_store::{
    AlertRow, AlertState, DecisionRow, Flush, GroupRow, GroupRows, LabelSet, MemberRow, NewDelivery, Outbox,
    PendingRow,
};

use crate::channel::payload;
use crate::config::{ConfigError, FallbackConfig, NotifyConfig};
use crate::matcher::Matcher;
use crate::stages::cap::{Allowed, Sent};
use crate::stages::digest::{Collected, Many, Single};
use crate::stages::escalation::EscalationConfig;
use crate::stages::fleet::Fleet;
use crate::stages::group::{
    Body, Fingerprint, Group, GroupId, GroupName, Member, Pending, Reason, Telling, number,
};
use crate::stages::hold::{Flags, Hold, Holds};
use crate::stages::inhibit::Inhibitor;
use crate::stages::interval::Intervals;
use crate::stages::notice::{Event, Notice, notices, standing};
use crate::stages::route::{Router, Target};
use crate::stages::silence::Silences;
use crate::stages::storm::{self, Storms};

/// Groups of one round.
const ROUND: usize = 500;
/// Alerts that one round looks at again.
const LOOKED_AT: usize = 5000;
/// Deliveries of one flush, about: each holds its message.
const DELIVERIES: usize = 2000;
/// The setting that keeps when receivers were sent their last messages, and what storms there are.
pub const SETTING: &str = "notify.bounds";

/// What decisions depend on, beside alerts and time.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The tree of routes.
    pub router: Router,
    /// The base of links.
    pub public_url: Option<String>,
    /// What makes the links of messages.
    pub links: Option<Arc<dyn crate::Links>>,
    /// By name.
    pub receivers: HashMap<String, ReceiverSettings>,
    /// By name.
    pub escalations: HashMap<String, EscalationConfig>,
    /// The time intervals that routes name.
    pub intervals: Intervals,
    /// What inhibits what.
    pub inhibit: Vec<crate::stages::inhibit::InhibitConfig>,
    /// What is one storm.
    pub storms: Vec<storm::StormConfig>,
}

/// What decisions depend on of a receiver.
#[derive(Clone, Debug)]
pub struct ReceiverSettings {
    /// How many alerts one message lists.
    pub max_alerts: usize,
    /// How many messages it is sent in a minute; `None`: any number.
    pub max_per_minute: Option<usize>,
    /// Alerts that the bound does not hold back: any of these lists of matchers.
    pub bypass: Vec<Vec<Matcher>>,
    /// It is told of what people did to an alert.
    pub responses: bool,
    /// Who is told instead once something waits for it for too long.
    pub fallback: Option<FallbackConfig>,
}

impl Settings {
    /// Those of a configuration.
    pub fn new(config: &NotifyConfig) -> Result<Self, ConfigError> {
        let router = Router::new(config)?;
        let place = |name: &str| format!("receiver {name:?}.bypass");
        let mut receivers = HashMap::new();
        for receiver in &config.receivers {
            let bypass = receiver.bypass.iter().map(|all| all.iter().map(|text| text.parse()).collect());
            let bypass = bypass
                .collect::<Result<_, _>>()
                .map_err(|fault| ConfigError { place: place(&receiver.name), fault })?;
            receivers.insert(
                receiver.name.clone(),
                ReceiverSettings {
                    max_alerts: receiver.max_alerts,
                    max_per_minute: receiver.max_per_minute(),
                    bypass,
                    responses: receiver.tells_responses(),
                    fallback: receiver.fallback.clone(),
                },
            );
        }
        Ok(Self {
            router,
            public_url: config.public_url.clone(),
            links: None,
            receivers,
            escalations: config.escalations.iter().map(|one| (one.name.clone(), one.clone())).collect(),
            intervals: Intervals::new(&config.time_intervals)
                .map_err(|fault| ConfigError { place: "time_interval".into(), fault })?,
            inhibit: config.inhibit.clone(),
            storms: config.storms.clone(),
        })
    }
}

impl ReceiverSettings {
    fn bypasses(&self, notice: &Notice) -> bool {
        self.bypass.iter().any(|all| all.iter().all(|matcher| matcher.matches(&notice.labels)))
    }
}

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
    storms: storm::Kept,
}

impl Groups {
    /// The groups that the store kept, with the transitions that are pending in them and what people did to alerts. What
    /// cannot be read is left out and named.
    pub fn restore(
        rows: GroupRows,
        pending: &[Outbox],
        flags: HashMap<String, Flags>,
        bounds: Option<&str>,
        settings: &Settings,
        active: &[LabelSet],
    ) -> (Self, Vec<String>) {
        let mut groups = Self { flags, ..Self::default() };
        let mut damaged = Vec::new();
        let mut ids: HashMap<i64, GroupId> = HashMap::new();
        for row in rows.groups {
            groups.next_id = groups.next_id.max(row.id);
            let body: Body = match serde_json::from_str(&row.body) {
                Ok(body) => body,
                Err(error) => {
                    damaged.push(format!("{} {}: {error}", row.receiver, row.group_key));
                    groups.flush.ended.push(row.id);
                    continue;
                }
            };
            let name = Arc::new(GroupName { receiver: row.receiver, key: row.group_key });
            ids.insert(row.id, name.clone());
            let own = body.own_pending.iter().cloned().map(|notice| Pending::Here(Box::new(notice)));
            let group = Group {
                id: row.id,
                name: name.clone(),
                pending: own.collect(),
                body,
                members: BTreeMap::new(),
                stored: 0,
                waits_until: None,
                bypasses: false,
            };
            groups.groups.insert(name, group);
        }
        for row in rows.members {
            let Some(group) = ids.get(&row.group).and_then(|id| groups.groups.get_mut(id)) else { continue };
            let held = row.held_by.map(|text| serde_json::from_str(&text).unwrap_or_default());
            let member = Member { alert: row.alert, since: row.since, told: row.told, held };
            group.members.insert(number(&row.fingerprint), Box::new(member));
        }
        let known: HashMap<i64, &Outbox> =
            pending.iter().map(|item| (item.transition_sequence, item)).collect();
        for row in rows.pending {
            let Some(group) = ids.get(&row.group).and_then(|id| groups.groups.get_mut(id)) else { continue };
            let Some(item) = known.get(&row.transition) else { continue };
            let fires = row.part == "firing";
            let notice = notices(item, None).into_iter().find(|notice| notice.fires() == fires);
            if let Some(notice) = notice {
                let fingerprint = number(&notice.fingerprint);
                // Before those of its own, in the order of the store.
                let at =
                    group.pending.iter().filter(|pending| matches!(pending, Pending::Kept { .. })).count();
                group.pending.insert(at, Pending::Kept { transition: row.transition, fires, fingerprint });
            }
        }
        let all: Vec<GroupId> = groups.groups.keys().cloned().collect();
        for id in all {
            let Some(group) = groups.groups.get_mut(&id) else { continue };
            group.stored = group.pending.len();
            let mut known: BTreeSet<Fingerprint> = group.members.keys().copied().collect();
            known.extend(group.pending.iter().map(Pending::fingerprint));
            for fingerprint in known {
                groups.by_fingerprint.entry(fingerprint).or_default().push(id.clone());
            }
            let holds = group.members.values().any(|member| member.is_held());
            groups.index(&id, None);
            groups.holds_something(&id, holds);
        }
        groups.again = groups.holding.clone();
        let bounds: Bounds = bounds.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        groups.sent = bounds.sent;
        groups.configure(settings, active, bounds.storms);
        (groups, damaged)
    }

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
    }

    /// The storms as they hold alerts now, for whoever only looks.
    pub fn storms(&self) -> storm::Standing {
        self.storms.standing()
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

    fn fires(&mut self, labels: &LabelSet, fingerprint: &str) {
        if self.firing.insert(number(fingerprint)) {
            self.inhibitor.add(fingerprint, labels);
            self.storms.fires(labels);
        }
    }

    fn resolved(&mut self, labels: &LabelSet, fingerprint: &str) {
        if self.firing.remove(&number(fingerprint)) {
            if self.inhibitor.remove(fingerprint) {
                self.again = self.holding.clone();
            }
            self.storms.resolved(labels);
        }
    }

    /// Takes in what happened, and what time makes of it.
    pub fn take(&mut self, settings: &Settings, fleet: &Fleet, outbox: &[Outbox], now: Timestamp) {
        for item in outbox {
            self.flush.routed.push(item.sequence);
            let mut flags = self.flags.get(&item.alert).copied().unwrap_or_default();
            if flags.take(item) {
                if flags.is_none() {
                    self.flags.remove(&item.alert);
                } else {
                    self.flags.insert(item.alert.clone(), flags);
                }
                if matches!(item.kind.as_str(), "unshelved" | "unsuppressed") {
                    self.look_again(&item.labels);
                }
                // Whoever shelved it did not come back to it (ISA-18.2: it is annunciated again).
                let expired = item.kind == "unshelved" && item.reason.as_deref() == Some("expired");
                if expired && !flags.acknowledged {
                    self.realarm(item, now);
                }
            }
            for notice in notices(item, settings.public_url.as_deref()) {
                if notice.event.is_response() {
                    self.respond(settings, notice, now);
                } else {
                    match notice.fires() {
                        true => self.fires(&notice.labels, &notice.fingerprint),
                        false => self.resolved(&notice.labels, &notice.fingerprint),
                    }
                    self.put(settings, notice, now);
                }
            }
        }
        let mut changed = false;
        for notice in self.storms.settle(fleet, now, &mut changed) {
            self.bounds_changed = true;
            self.put(settings, notice, now);
        }
        if changed {
            self.bounds_changed = true;
            self.again = self.holding.clone();
        }
        let holds = self.holds(settings);
        match self.edge {
            Some(edge) if edge > now => {}
            _ => {
                let next = holds.next_edge(now);
                if self.edge.is_some() {
                    self.again = self.holding.clone();
                }
                self.edge = next;
            }
        }
        self.escalate(settings, now);
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

    /// What goes on unattended is told once more to those who were told of it before.
    fn realarm(&mut self, item: &Outbox, now: Timestamp) {
        let fingerprint = number(&watchfire_store::fingerprint(&item.labels));
        for id in self.by_fingerprint.get(&fingerprint).cloned().unwrap_or_default() {
            if self.groups.get(&id).is_some_and(|group| group.told(fingerprint)) {
                self.decide(now, &item.alert, Some(&id), "shelved", "released", "shelving is over".into());
                self.tell_again(&id, fingerprint, &item.alert, now);
            }
        }
    }

    /// Groups that hold the alert of these labels are looked at again.
    fn look_again(&mut self, labels: &LabelSet) {
        let known = self.by_fingerprint.get(&number(&watchfire_store::fingerprint(labels)));
        self.again.extend(known.into_iter().flatten().filter(|id| self.holding.contains(*id)).cloned());
    }

    /// A condition fires or is resolved.
    fn put(&mut self, settings: &Settings, notice: Notice, now: Timestamp) {
        let fingerprint = number(&notice.fingerprint);
        if notice.fires() {
            let targets = settings.router.route(&notice.labels);
            if targets.is_empty() {
                self.decide(
                    now,
                    &notice.alert,
                    None,
                    "route",
                    "dropped",
                    "no route leads to a receiver".into(),
                );
            }
            for target in targets {
                let id = self.group(&target);
                self.add(&id, settings, notice.clone(), now);
            }
            return;
        }
        // A resolve goes to those who were told of the firing, whatever the routes say by now.
        for id in self.by_fingerprint.get(&fingerprint).cloned().unwrap_or_default() {
            if self.groups.get(&id).is_some_and(|group| group.knows(fingerprint)) {
                self.add(&id, settings, notice.clone(), now);
            }
        }
    }

    /// Somebody did something to an alert: those who were told of it may be told of that too.
    fn respond(&mut self, settings: &Settings, notice: Notice, now: Timestamp) {
        let fingerprint = number(&notice.fingerprint);
        for id in self.by_fingerprint.get(&fingerprint).cloned().unwrap_or_default() {
            let before = self.due_of(&id);
            let Some(group) = self.groups.get_mut(&id) else { continue };
            if notice.event == Event::Acknowledged {
                group.body.progress.stop(&notice.alert);
                self.dirty.entry(id.clone()).or_default();
            }
            let wanted = settings.receivers.get(&id.receiver).is_some_and(|receiver| receiver.responses);
            // That nobody looks after it any more pages everybody again.
            let told = group.told(fingerprint) && (wanted || notice.event != Event::Acknowledged);
            self.index(&id, before);
            if told {
                self.add(&id, settings, notice.clone(), now);
            }
        }
    }

    /// The group of a target; a new one where there is none.
    fn group(&mut self, target: &Target) -> GroupId {
        let name = Arc::new(GroupName { receiver: target.receiver.clone(), key: target.group_key.clone() });
        match self.groups.get_mut(&name) {
            Some(group) => {
                group.body.timers = target.timers;
                group.body.times = target.times.clone();
                group.body.escalation = target.escalation.clone();
                group.name.clone()
            }
            None => {
                self.next_id += 1;
                self.groups.insert(name.clone(), Group::new(self.next_id, name.clone(), target));
                name
            }
        }
    }

    fn add(&mut self, id: &GroupId, settings: &Settings, notice: Notice, now: Timestamp) {
        let before = self.due_of(id);
        let fingerprint = number(&notice.fingerprint);
        let Some(group) = self.groups.get_mut(id) else { return };
        group.bypasses |= settings.receivers.get(&id.receiver).is_some_and(|one| one.bypasses(&notice));
        group.add(notice, now);
        let known = self.by_fingerprint.entry(fingerprint).or_default();
        if !known.contains(id) {
            known.push(id.clone());
        }
        self.dirty.entry(id.clone()).or_default();
        self.index(id, before);
    }

    /// Steps of escalations whose time has come.
    fn escalate(&mut self, settings: &Settings, now: Timestamp) {
        if settings.escalations.is_empty() {
            return;
        }
        let due: Vec<GroupId> =
            self.due.iter().take_while(|(time, _)| *time <= now).map(|(_, id)| id.clone()).collect();
        for id in due {
            let before = self.due_of(&id);
            let Some(group) = self.groups.get_mut(&id) else { continue };
            if group.body.progress.next().is_none_or(|next| next > now) {
                continue;
            }
            let config = group.body.escalation.as_ref().and_then(|name| settings.escalations.get(name));
            // One that the configuration does not know any more is forgotten when the group is looked at.
            let Some(config) = config else { continue };
            let steps = group.body.progress.take(config, now);
            let (name, times) = (config.name.clone(), group.body.times.clone());
            let (labels, timers) = (group.body.labels.clone(), group.body.timers);
            let of_alert: HashMap<String, Fingerprint> = group
                .members
                .iter()
                .filter(|(_, member)| member.told)
                .map(|(fingerprint, member)| (member.alert.clone(), *fingerprint))
                .collect();
            self.dirty.entry(id.clone()).or_default();
            self.index(&id, before);
            for step in steps {
                let Some(fingerprint) = of_alert.get(&step.alert) else { continue };
                for receiver in step.receivers {
                    let target = Target {
                        receiver,
                        group_key: format!("{}#escalation", id.key),
                        group_labels: labels.clone(),
                        timers,
                        times: times.clone(),
                        escalation: None,
                    };
                    let to = self.group(&target);
                    let detail = format!("step {} of {name}: nobody acknowledged", step.step + 1);
                    self.decide(now, &step.alert, Some(&to), "escalation", "told", detail);
                    self.tell_again(&to, *fingerprint, &step.alert, now);
                }
            }
        }
    }

    /// What the alert says is told in this group once more, whether it was or not.
    fn tell_again(&mut self, id: &GroupId, fingerprint: Fingerprint, alert: &str, now: Timestamp) {
        let before = self.due_of(id);
        let Some(group) = self.groups.get_mut(id) else { return };
        let member = group.members.entry(fingerprint).or_insert_with(|| {
            Box::new(Member { alert: alert.to_string(), since: now, told: false, held: None })
        });
        member.held = Some(Vec::new());
        group.is_due(now);
        let known = self.by_fingerprint.entry(fingerprint).or_default();
        if !known.contains(id) {
            known.push(id.clone());
        }
        self.dirty.entry(id.clone()).or_default().members.insert(fingerprint);
        self.index(id, before);
    }

    /// What has to be read for the next groups; `None`: there is nothing to do now.
    pub fn round(&mut self, settings: &Settings, now: Timestamp) -> Option<Wanted> {
        let mut wanted = Wanted::default();
        if !self.again.is_empty() {
            let mut ids = Vec::new();
            while let Some(id) = self.again.pop_first() {
                let Some(group) = self.groups.get(&id) else { continue };
                let held = group.members.values().filter(|member| member.is_held());
                wanted.alerts.extend(held.map(|member| member.alert.clone()));
                ids.push(id);
                if wanted.alerts.len() >= LOOKED_AT {
                    break;
                }
            }
            self.work = Work::LookAgain(ids);
            return Some(wanted);
        }
        if self.flush.deliveries.len() >= DELIVERIES {
            return None;
        }
        let mut ids = Vec::new();
        while ids.is_empty() {
            let due = self.due.iter().take_while(|(time, _)| *time <= now).take(ROUND);
            let due: Vec<GroupId> = due.map(|(_, id)| id.clone()).collect();
            if due.is_empty() {
                return None;
            }
            for id in due {
                match self.waits(&id, settings, now) {
                    Some(until) => self.wait(&id, until, now),
                    None => ids.push(id),
                }
            }
        }
        for id in &ids {
            let Some(group) = self.groups.get(id) else { continue };
            let most = settings.receivers.get(&id.receiver).map_or(0, |receiver| receiver.max_alerts);
            for pending in &group.pending {
                if let Pending::Kept { transition, .. } = pending {
                    wanted.transitions.insert(*transition);
                }
            }
            let free = group.members.values().filter(|member| member.is_free());
            wanted.alerts.extend(free.map(|member| member.alert.clone()));
            wanted.alerts.extend(group.standing(most).map(|(_, member)| member.alert.clone()));
        }
        self.work = Work::Tell(ids);
        Some(wanted)
    }

    /// Until when the bound on messages of its receiver lets nothing of a group out.
    fn waits(&self, id: &GroupId, settings: &Settings, now: Timestamp) -> Option<Timestamp> {
        let most = settings.receivers.get(&id.receiver)?.max_per_minute?;
        let group = self.groups.get(id).filter(|group| !group.bypasses && group.tells(now))?;
        match self.sent.get(&group.name.receiver)?.allowed(1, most, now) {
            Allowed::Not { before } => Some(before),
            Allowed::Each | Allowed::Digest => None,
        }
    }

    fn wait(&mut self, id: &GroupId, until: Timestamp, now: Timestamp) {
        let before = self.due_of(id);
        let Some(group) = self.groups.get_mut(id) else { return };
        let first = group.waits_until.is_none();
        group.waits_until = Some(until);
        let alerts: Vec<String> = if first {
            group
                .pending
                .iter()
                .filter_map(|pending| match pending {
                    Pending::Here(notice) => Some(notice.alert.clone()),
                    Pending::Kept { .. } => None,
                })
                .collect()
        } else {
            Vec::new()
        };
        self.index(id, before);
        for alert in alerts {
            let detail = format!("messages to {} are bounded; the next may go out at {until}", id.receiver);
            self.decide(now, &alert, Some(id), "rate", "held", detail);
        }
    }

    /// Decides on the groups of the round.
    pub fn work(&mut self, settings: &Settings, found: &Found, now: Timestamp) {
        match std::mem::take(&mut self.work) {
            Work::None => {}
            Work::LookAgain(ids) => ids.iter().for_each(|id| self.look(id, settings, found, now)),
            Work::Tell(ids) => ids.iter().for_each(|id| self.tell(id, settings, found, now)),
        }
    }

    /// Looks again at what a group holds.
    fn look(&mut self, id: &GroupId, settings: &Settings, found: &Found, now: Timestamp) {
        let before = self.due_of(id);
        let Some(group) = self.groups.get(id) else { return };
        let mut released = Vec::new();
        let mut held = Vec::new();
        for (fingerprint, member) in group.members.iter().filter(|(_, member)| member.is_held()) {
            let own = group.body.own.get(&format!("{fingerprint:016x}")).map(|notice| &notice.labels);
            let row = found.alerts.get(&member.alert).filter(|row| number(&row.fingerprint) == *fingerprint);
            // An alert that is gone, or has another label set by now: the outbox has what becomes of it.
            let Some(labels) = own.or(row.map(|row| &row.labels)) else { continue };
            let shown = format!("{fingerprint:016x}");
            let holds = self.holds(settings).on(&member.alert, &shown, labels, &group.body.times, now);
            if holds.is_empty() {
                released.push((*fingerprint, member.alert.clone()));
            } else if member.held.as_ref() != Some(&holds) {
                held.push((*fingerprint, holds));
            }
        }
        let Some(group) = self.groups.get_mut(id) else { return };
        let dirty = self.dirty.entry(id.clone()).or_default();
        for (fingerprint, holds) in held {
            if let Some(member) = group.members.get_mut(&fingerprint) {
                member.held = Some(holds);
                dirty.members.insert(fingerprint);
            }
        }
        for (fingerprint, _) in &released {
            if let Some(member) = group.members.get_mut(fingerprint) {
                (member.held, member.since) = (Some(Vec::new()), now);
                dirty.members.insert(*fingerprint);
            }
        }
        if !released.is_empty() {
            group.is_due(now);
        }
        let holds = group.members.values().any(|member| member.is_held());
        self.index(id, before);
        self.holds_something(id, holds);
        for (_, alert) in released {
            self.decide(now, &alert, Some(id), "hold", "released", "nothing holds it any more".into());
        }
    }

    /// Tells what a group has to tell.
    fn tell(&mut self, id: &GroupId, settings: &Settings, found: &Found, now: Timestamp) {
        let before = self.due_of(id);
        let Some(mut group) = self.groups.remove(id) else { return };
        group.waits_until = None;
        if !group.tells(now) {
            // What was due was a step of its escalation.
            if group.body.escalation.as_ref().is_none_or(|name| !settings.escalations.contains_key(name)) {
                group.body.progress = Default::default();
            }
            self.groups.insert(id.clone(), group);
            self.index(id, before);
            return;
        }
        let receiver = settings.receivers.get(&id.receiver);
        let max_alerts = receiver.map_or(usize::MAX, |receiver| receiver.max_alerts);
        let repeats = group.body.due.is_none();
        let told = self.told(&mut group, settings, found, max_alerts, now);
        let mut tellings = told.tellings;
        if tellings.is_empty() && repeats && receiver.is_some() {
            tellings.extend(self.repetition(&group, settings, found, max_alerts, now));
        }
        let config = group.body.escalation.as_ref().and_then(|name| settings.escalations.get(name));
        for notice in tellings.iter().flat_map(|telling| &telling.changed) {
            let acknowledged = self.flags.get(&notice.alert).is_some_and(|flags| flags.acknowledged);
            let begins = !matches!(notice.event, Event::Acknowledged | Event::ShelveExpiring);
            if notice.fires() && begins && !acknowledged {
                if let Some(config) = config {
                    group.body.progress.begin(config, &notice.alert, now);
                }
            } else if !notice.fires() {
                group.body.progress.stop(&notice.alert);
            }
        }
        group.body.due = None;
        group.bypasses = false;
        if !tellings.is_empty() || repeats {
            group.body.last = Some(now);
        }
        let dirty = self.dirty.entry(id.clone()).or_default();
        dirty.emptied |= group.stored > 0 || !told.touched.is_empty();
        dirty.members.extend(&told.touched);
        group.stored = 0;
        for fingerprint in told.touched {
            if !group.knows(fingerprint)
                && let Some(known) = self.by_fingerprint.get_mut(&fingerprint)
            {
                known.retain(|other| other != id);
                if known.is_empty() {
                    self.by_fingerprint.remove(&fingerprint);
                }
            }
        }
        let bounded = receiver.and_then(|receiver| Some((receiver, receiver.max_per_minute?)));
        for telling in tellings {
            let bypasses = bounded.is_none_or(|(receiver, _)| {
                telling.changed.iter().chain(&telling.standing).any(|notice| receiver.bypasses(notice))
            });
            if !bypasses && let Some((_, most)) = bounded {
                let sent = self.sent.entry(id.receiver.clone()).or_default();
                let room =
                    (1..=most).rev().find(|n| sent.allowed(*n, most, now) == Allowed::Each).unwrap_or(1);
                let labels = group.body.labels.clone();
                let single = Single { group: id.clone(), labels, telling };
                self.collected.entry(id.receiver.clone()).or_default().add(single, room);
                continue;
            }
            if let Some((_, most)) = bounded {
                self.sent.entry(id.receiver.clone()).or_default().send(most, now);
                self.bounds_changed = true;
            }
            self.flush.superseded.extend(group.body.repetition.take());
            let delivery = delivery(id, &group.body.labels, &telling, settings, now);
            if telling.reason == Reason::Repeat {
                group.body.repetition = Some(delivery.id.clone());
            }
            self.flush.deliveries.push(delivery);
        }
        let holds = group.members.values().any(|member| member.is_held());
        self.groups.insert(id.clone(), group);
        self.index(id, before);
        self.holds_something(id, holds);
        for (alert, detail, hold) in told.held {
            self.decide(now, &alert, Some(id), hold, "held", detail);
        }
        for alert in told.dropped {
            self.decide(
                now,
                &alert,
                Some(id),
                "hold",
                "dropped",
                "it was over before anybody was told".into(),
            );
        }
    }

    /// What is pending and what is free, as messages. No message has two states of one label set, so what was raised and
    /// resolved while the group waited is told as two.
    fn told(
        &self,
        group: &mut Group,
        settings: &Settings,
        found: &Found,
        max_alerts: usize,
        now: Timestamp,
    ) -> Told {
        let public_url = settings.public_url.as_deref();
        let mut notices: Vec<Notice> = Vec::new();
        let mut told = Told::default();
        let mut over = Vec::new();
        for (fingerprint, member) in group.members.iter().filter(|(_, member)| member.is_free()) {
            told.touched.insert(*fingerprint);
            match stands(group, *fingerprint, member, found, public_url) {
                // The same alert may be told here more than once: each time is a message of its own.
                Some(notice) => {
                    notices.push(Notice { cause: format!("{}#again/{}", notice.cause, now.0), ..notice });
                }
                None => over.push(*fingerprint),
            }
        }
        // It is over, or has another label set by now: the outbox has what is to be told of that.
        for fingerprint in over {
            match group.members.get_mut(&fingerprint) {
                Some(member) if member.told => member.held = None,
                _ => drop(group.members.remove(&fingerprint)),
            }
        }
        for pending in std::mem::take(&mut group.pending) {
            match pending {
                Pending::Here(notice) => notices.push(*notice),
                Pending::Kept { transition, fires, .. } => {
                    let item = found.transitions.get(&transition);
                    let of =
                        item.map(|item| crate::stages::notice::notices(item, public_url)).unwrap_or_default();
                    notices.extend(of.into_iter().find(|notice| notice.fires() == fires));
                }
            }
        }
        group.body.own_pending.clear();
        let mut changed: Vec<Notice> = Vec::new();
        let mut seen: HashSet<Fingerprint> = HashSet::new();
        // What earlier messages of these told: the store was not asked about it.
        let mut here: HashMap<Fingerprint, Notice> = HashMap::new();
        for notice in notices {
            let fingerprint = number(&notice.fingerprint);
            told.touched.insert(fingerprint);
            let was_told = group.told(fingerprint) || seen.contains(&fingerprint);
            if !notice.fires() && !was_told {
                // Its firing was never told here.
                if group.members.remove(&fingerprint).is_some_and(|member| member.is_held()) {
                    group.body.own.remove(&notice.fingerprint);
                    told.dropped.push(notice.alert);
                }
                continue;
            }
            if notice.fires() && notice.event != Event::Acknowledged && notice.event != Event::ShelveExpiring
            {
                let holds = self.holds(settings).on(
                    &notice.alert,
                    &notice.fingerprint,
                    &notice.labels,
                    &group.body.times,
                    now,
                );
                if let Some(first) = holds.first() {
                    let detail = holds.iter().map(Hold::to_string).collect::<Vec<_>>().join("; ");
                    told.held.push((notice.alert.clone(), detail, first.stage()));
                    if notice.transition.is_none() && notice.event != Event::Standing {
                        group.body.own.insert(notice.fingerprint.clone(), notice.clone());
                    }
                    let member =
                        Member { alert: notice.alert, since: now, told: was_told, held: Some(holds) };
                    group.members.insert(fingerprint, Box::new(member));
                    continue;
                }
            }
            if seen.contains(&fingerprint) || changed.len() >= max_alerts {
                let changed = std::mem::take(&mut changed);
                told.tellings.push(message(group, changed, max_alerts, (found, &here), public_url, now));
                here.extend(fired(&told.tellings));
                seen.clear();
                if !notice.fires() && !group.told(fingerprint) {
                    continue;
                }
            }
            seen.insert(fingerprint);
            changed.push(notice);
        }
        if !changed.is_empty() {
            told.tellings.push(message(group, changed, max_alerts, (found, &here), public_url, now));
        }
        told
    }

    /// What stands, told once more: but for what somebody looks after, and what is held by now.
    fn repetition(
        &self,
        group: &Group,
        settings: &Settings,
        found: &Found,
        max_alerts: usize,
        now: Timestamp,
    ) -> Option<Telling> {
        let holds = self.holds(settings);
        let mut standing = Vec::new();
        let mut left_out = 0;
        for (fingerprint, member) in group.members.iter().filter(|(_, member)| member.told) {
            if self.flags.get(&member.alert).is_some_and(|flags| flags.acknowledged) {
                continue;
            }
            if standing.len() >= max_alerts {
                left_out += 1;
                continue;
            }
            let Some(notice) = stands(group, *fingerprint, member, found, settings.public_url.as_deref())
            else {
                continue;
            };
            if holds.on(&member.alert, &notice.fingerprint, &notice.labels, &group.body.times, now).is_empty()
            {
                standing.push(notice);
            }
        }
        (!standing.is_empty()).then_some(Telling {
            reason: Reason::Repeat,
            changed: Vec::new(),
            standing,
            truncated: left_out,
        })
    }

    /// Everything that was decided since the last time, for the store.
    pub fn finish(&mut self, settings: &Settings, now: Timestamp) -> Flush {
        let public_url = settings.public_url.as_deref();
        for (receiver, collected) in std::mem::take(&mut self.collected) {
            let most =
                settings.receivers.get(&receiver).and_then(|one| one.max_per_minute).unwrap_or(usize::MAX);
            let sent = self.sent.entry(receiver.clone()).or_default();
            self.bounds_changed = true;
            match collected {
                Collected::Singles(singles) => {
                    for single in singles {
                        sent.send(most, now);
                        let delivery =
                            delivery(&single.group, &single.labels, &single.telling, settings, now);
                        if let Some(group) = self.groups.get_mut(&single.group) {
                            self.flush.superseded.extend(group.body.repetition.take());
                            if single.telling.reason == Reason::Repeat {
                                group.body.repetition = Some(delivery.id.clone());
                            }
                        }
                        self.flush.deliveries.push(delivery);
                    }
                }
                Collected::Many(many) => {
                    sent.send(most, now);
                    let (delivery, alerts) = digest(&receiver, *many, public_url);
                    for alert in alerts {
                        self.flush.decisions.push(DecisionRow {
                            at: now,
                            alert,
                            receiver: receiver.clone(),
                            group_key: delivery.group_key.clone(),
                            stage: "rate".into(),
                            outcome: "digest".into(),
                            detail: format!("told within the digest {}", delivery.id),
                        });
                    }
                    self.flush.deliveries.push(delivery);
                }
            }
        }
        for (id, dirty) in std::mem::take(&mut self.dirty) {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            if group.ended() {
                self.flush.ended.push(group.id);
                let before = group.next();
                self.groups.remove(&id);
                self.holding.remove(&id);
                self.again.remove(&id);
                if let Some(time) = before {
                    self.due.remove(&(time, id.clone()));
                }
                continue;
            }
            group.pending[group.stored..].iter_mut().for_each(Pending::put_away);
            let row = |pending: &Pending| match pending {
                Pending::Kept { transition, fires, .. } => Some(PendingRow {
                    group: group.id,
                    position: transition * 2 + i64::from(*fires),
                    transition: *transition,
                    part: if *fires { "firing" } else { "resolved" }.into(),
                }),
                Pending::Here(_) => None,
            };
            if dirty.emptied {
                self.flush.emptied.push(group.id);
            }
            self.flush.pending.extend(group.pending[group.stored..].iter().filter_map(row));
            let own = group.pending.iter().filter_map(|pending| match pending {
                Pending::Here(notice) => Some((**notice).clone()),
                Pending::Kept { .. } => None,
            });
            group.body.own_pending = own.collect();
            group.stored = group.pending.len();
            for fingerprint in dirty.members {
                let shown = format!("{fingerprint:016x}");
                match group.members.get(&fingerprint) {
                    Some(member) => self.flush.members.push(MemberRow {
                        group: group.id,
                        fingerprint: shown,
                        alert: member.alert.clone(),
                        since: member.since,
                        told: member.told,
                        held_by: member
                            .held
                            .as_ref()
                            .map(|held| serde_json::to_string(held).unwrap_or_default()),
                    }),
                    None => self.flush.left.push((group.id, shown)),
                }
            }
            self.flush.groups.push(GroupRow {
                id: group.id,
                receiver: id.receiver.clone(),
                group_key: id.key.clone(),
                body: serde_json::to_string(&group.body).unwrap_or_default(),
            });
        }
        if std::mem::take(&mut self.bounds_changed) {
            self.sent.retain(|_, sent| !sent.is_over(now));
            let bounds = Bounds { sent: self.sent.clone(), storms: self.storms.kept() };
            self.flush.settings.push((SETTING, serde_json::to_string(&bounds).unwrap_or_default()));
        }
        std::mem::take(&mut self.flush)
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

/// What became of what was pending.
#[derive(Default)]
struct Told {
    tellings: Vec<Telling>,
    touched: BTreeSet<Fingerprint>,
    /// Alert, why, and the first stage that says so.
    held: Vec<(String, String, &'static str)>,
    dropped: Vec<String>,
}

fn stands(
    group: &Group,
    fingerprint: Fingerprint,
    member: &Member,
    found: &Found,
    public_url: Option<&str>,
) -> Option<Notice> {
    if let Some(own) = group.body.own.get(&format!("{fingerprint:016x}")) {
        return Some(own.clone());
    }
    // What has another label set by now is told as such.
    let row = found.alerts.get(&member.alert)?;
    let same = number(&row.fingerprint) == fingerprint && row.state == AlertState::Active;
    same.then(|| standing(row, public_url))
}

/// What the last of these messages told that fires.
fn fired(tellings: &[Telling]) -> impl Iterator<Item = (Fingerprint, Notice)> {
    let changed = tellings.last().into_iter().flat_map(|telling| &telling.changed);
    changed.filter(|notice| notice.fires()).map(|notice| (number(&notice.fingerprint), notice.clone()))
}

fn message(
    group: &mut Group,
    changed: Vec<Notice>,
    max_alerts: usize,
    (found, here): (&Found, &HashMap<Fingerprint, Notice>),
    public_url: Option<&str>,
    now: Timestamp,
) -> Telling {
    let first = group.body.last.is_none() && !group.members.values().any(|member| member.told);
    let room = max_alerts.saturating_sub(changed.len());
    let about: HashSet<Fingerprint> = changed.iter().map(|notice| number(&notice.fingerprint)).collect();
    let mut standing = Vec::new();
    let mut all = 0;
    for (fingerprint, member) in group.members.iter().filter(|(_, member)| member.told) {
        if about.contains(fingerprint) {
            continue;
        }
        all += 1;
        if standing.len() < room {
            let known = here.get(fingerprint).cloned();
            standing.extend(known.or_else(|| stands(group, *fingerprint, member, found, public_url)));
        }
    }
    let truncated = all - standing.len();
    let responses = changed.iter().all(|notice| notice.event.is_response());
    let fires = changed.iter().any(Notice::fires);
    for notice in &changed {
        let fingerprint = number(&notice.fingerprint);
        if !notice.fires() {
            group.members.remove(&fingerprint);
            group.body.own.remove(&notice.fingerprint);
            continue;
        }
        if notice.transition.is_none() && notice.event != Event::Standing {
            group.body.own.insert(notice.fingerprint.clone(), notice.clone());
        }
        let member = Member { alert: notice.alert.clone(), since: now, told: true, held: None };
        group.members.insert(fingerprint, Box::new(member));
    }
    let reason = match (first, fires, group.members.values().any(|member| member.told)) {
        _ if responses => Reason::Response,
        (true, ..) => Reason::First,
        (_, true, _) => Reason::New,
        (_, _, false) => Reason::AllResolved,
        _ => Reason::SomeResolved,
    };
    Telling { reason, changed, standing, truncated }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Its id follows from what it tells, so that no two messages share one.
fn delivery(
    id: &GroupId,
    labels: &LabelSet,
    telling: &Telling,
    settings: &Settings,
    now: Timestamp,
) -> NewDelivery {
    let mut sha = Sha256::new();
    for part in [&id.receiver, &id.key] {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part);
    }
    for notice in &telling.changed {
        sha.update(&notice.cause);
        sha.update([0]);
    }
    if telling.reason == Reason::Repeat {
        sha.update(now.0.to_le_bytes());
    }
    let mut payload = payload::message(id, labels, telling, settings.public_url.as_deref());
    if let Some(links) = &settings.links {
        payload::add_links(&mut payload, telling, &**links);
    }
    let about: &[Notice] =
        if telling.reason == Reason::Repeat { &telling.standing } else { &telling.changed };
    NewDelivery {
        id: hex(&sha.finalize()),
        receiver: id.receiver.clone(),
        group_key: id.key.clone(),
        status: payload.status.clone(),
        reason: telling.reason.as_str().into(),
        payload: serde_json::to_string(&payload).unwrap_or_default(),
        alerts: about.iter().map(|notice| notice.alert.clone()).collect(),
        caused_at: telling.changed.iter().filter_map(|notice| notice.recorded_at).min(),
    }
}

/// A message for what waited, and the alerts that it is about.
fn digest(receiver: &str, many: Many, public_url: Option<&str>) -> (NewDelivery, Vec<String>) {
    let (summary, telling, alerts, sha) = many.finish();
    let mut of = Sha256::new();
    of.update(receiver);
    of.update(sha);
    let payload = payload::digest(receiver, &summary, &telling, public_url);
    let mut about = alerts.clone();
    about.sort_unstable();
    about.dedup();
    let delivery = NewDelivery {
        id: hex(&of.finalize()),
        receiver: receiver.to_string(),
        group_key: payload.group_key.clone(),
        status: payload.status.clone(),
        reason: "digest".into(),
        payload: serde_json::to_string(&payload).unwrap_or_default(),
        alerts: about.clone(),
        caused_at: telling.changed.iter().filter_map(|notice| notice.recorded_at).min(),
    };
    (delivery, about)
}
