//! All groups, and what a flush makes of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sha2::{Digest as _, Sha256};
use watchfire_model::Timestamp;
use watchfire_store::{Flush, GroupRow, NewDelivery, Outbox};

use crate::channel::payload;
use crate::stages::group::{Group, GroupId, Reason, Telling};
use crate::stages::notice::{Notice, notices};
use crate::stages::route::Router;

/// What decisions depend on, beside alerts and time.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The tree of routes.
    pub router: Router,
    /// The base of links.
    pub public_url: Option<String>,
    /// How many alerts one message lists, by receiver.
    pub max_alerts: HashMap<String, usize>,
}

/// The groups as they are, with what finds them.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    groups: HashMap<GroupId, Group>,
    /// Groups that were told, or are to be told, of a label set.
    by_fingerprint: HashMap<String, BTreeSet<GroupId>>,
    due: BTreeSet<(Timestamp, GroupId)>,
}

/// What a flush decided: what the store is to write, and what is true once it did.
#[derive(Debug, Default)]
pub struct Plan {
    /// For the store.
    pub flush: Flush,
    changed: BTreeMap<GroupId, Group>,
}

impl Groups {
    /// The groups that the store kept; a body that cannot be read is left out and named.
    pub fn restore(rows: &[GroupRow]) -> (Self, Vec<String>) {
        let mut groups = Self::default();
        let mut damaged = Vec::new();
        for row in rows {
            match serde_json::from_str::<Group>(&row.body) {
                Ok(group) => groups.put(group),
                Err(error) => damaged.push(format!("{} {}: {error}", row.receiver, row.group_key)),
            }
        }
        (groups, damaged)
    }

    /// When something is to be told next.
    pub fn next(&self) -> Option<Timestamp> {
        self.due.first().map(|(time, _)| *time)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Decides what these transitions and the time make of the groups. Changes nothing: see
    /// [`Groups::accept`].
    pub fn plan(&self, settings: &Settings, outbox: &[Outbox], now: Timestamp) -> Plan {
        let mut changed: BTreeMap<GroupId, Group> = BTreeMap::new();
        // Groups that learn of a label set within this plan.
        let mut learnt: HashMap<String, BTreeSet<GroupId>> = HashMap::new();
        let mut flush = Flush::default();
        for item in outbox {
            flush.routed.push(item.sequence);
            for notice in notices(item, settings.public_url.as_deref()) {
                if notice.fires() {
                    for target in settings.router.route(&notice.labels) {
                        let id = (target.receiver.clone(), target.group_key.clone());
                        let group = changed.entry(id.clone()).or_insert_with(|| {
                            self.groups.get(&id).cloned().unwrap_or_else(|| Group::new(&target))
                        });
                        group.timers = target.timers;
                        group.add(notice.clone(), now);
                        learnt.entry(notice.fingerprint.clone()).or_default().insert(id);
                    }
                    continue;
                }
                // A resolve goes to those who were told of the firing, whatever the routes say by now.
                let told = self.by_fingerprint.get(&notice.fingerprint).into_iter().flatten();
                let learnt = learnt.get(&notice.fingerprint).into_iter().flatten();
                let ids: BTreeSet<&GroupId> = told.chain(learnt).collect();
                for id in ids {
                    let group = match changed.get_mut(id) {
                        Some(group) => group,
                        None => match self.groups.get(id) {
                            Some(group) => changed.entry(id.clone()).or_insert_with(|| group.clone()),
                            None => continue,
                        },
                    };
                    if group.knows(&notice.fingerprint) {
                        group.add(notice.clone(), now);
                    }
                }
            }
        }
        for (time, id) in &self.due {
            if *time > now {
                break;
            }
            if let Some(group) = self.groups.get(id) {
                changed.entry(id.clone()).or_insert_with(|| group.clone());
            }
        }
        for group in changed.values_mut() {
            let max_alerts = settings.max_alerts.get(&group.receiver).copied().unwrap_or(usize::MAX);
            // Nobody is told again who cannot be told: what waits for such a receiver expires.
            let gone = !settings.max_alerts.contains_key(&group.receiver);
            for telling in group.tell(now, max_alerts) {
                if gone && telling.reason == Reason::Repeat {
                    continue;
                }
                flush.superseded.extend(group.repetition.take());
                let delivery = delivery(group, &telling, settings.public_url.as_deref(), now);
                if telling.reason == Reason::Repeat {
                    group.repetition = Some(delivery.id.clone());
                }
                flush.deliveries.push(delivery);
            }
        }
        for (id, group) in &changed {
            if !group.ended() {
                let body = serde_json::to_string(group).unwrap_or_default();
                flush.groups.push(GroupRow { receiver: id.0.clone(), group_key: id.1.clone(), body });
            } else if self.groups.contains_key(id) {
                flush.ended.push(id.clone());
            }
        }
        Plan { flush, changed }
    }

    /// The store wrote the plan: from now on it is how things are.
    pub fn accept(&mut self, plan: Plan) {
        for (id, group) in plan.changed {
            self.remove(&id);
            if !group.ended() {
                self.put(group);
            }
        }
    }

    fn put(&mut self, group: Group) {
        let id = group.id();
        for fingerprint in fingerprints(&group) {
            self.by_fingerprint.entry(fingerprint.to_string()).or_default().insert(id.clone());
        }
        if let Some(time) = group.next() {
            self.due.insert((time, id.clone()));
        }
        self.groups.insert(id, group);
    }

    fn remove(&mut self, id: &GroupId) {
        let Some(group) = self.groups.remove(id) else { return };
        for fingerprint in fingerprints(&group) {
            if let Some(ids) = self.by_fingerprint.get_mut(fingerprint) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_fingerprint.remove(fingerprint);
                }
            }
        }
        if let Some(time) = group.next() {
            self.due.remove(&(time, id.clone()));
        }
    }
}

fn fingerprints(group: &Group) -> HashSet<&str> {
    let pending = group.pending.iter().map(|notice| notice.fingerprint.as_str());
    group.told.keys().map(String::as_str).chain(pending).collect()
}

/// Its id follows from what it tells, so that no two messages share one.
fn delivery(group: &Group, telling: &Telling, public_url: Option<&str>, now: Timestamp) -> NewDelivery {
    let mut sha = Sha256::new();
    for part in [&group.receiver, &group.key] {
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
    let id: String = sha.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let payload = payload::message(group, telling, public_url);
    let about: &[Notice] =
        if telling.reason == Reason::Repeat { &telling.standing } else { &telling.changed };
    NewDelivery {
        id,
        receiver: group.receiver.clone(),
        group_key: group.key.clone(),
        status: payload.status.clone(),
        reason: telling.reason.as_str().into(),
        payload: serde_json::to_string(&payload).unwrap_or_default(),
        alerts: about.iter().map(|notice| notice.alert.clone()).collect(),
        caused_at: telling.changed.iter().filter_map(|notice| notice.recorded_at).min(),
    }
}
