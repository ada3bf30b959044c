//! The last step: what the store is to write.

use sha2::{Digest as _, Sha256};
use watchfire_model::Timestamp;
use watchfire_store::{DecisionRow, Flush, GroupRow, LabelSet, MemberRow, NewDelivery, PendingRow};

use super::{Bounds, Groups, SETTING, Settings};
use crate::channel::payload;
use crate::ids::hex;
use crate::stages::digest::{Collected, Many};
use crate::stages::group::{GroupId, Pending, Reason, Telling};
use crate::stages::notice::Notice;

impl Groups {
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
}

/// Its id follows from what it tells, so that no two messages share one.
pub(super) fn delivery(
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
