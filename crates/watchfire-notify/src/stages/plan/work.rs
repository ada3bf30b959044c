//! The third step: groups are decided on.

use watchfire_model::Timestamp;

use super::finish::delivery;
use super::{Found, Groups, Settings, Work};
use crate::stages::cap::Allowed;
use crate::stages::digest::Single;
use crate::stages::group::{GroupId, Reason, Telling, number};
use crate::stages::notice::Event;

impl Groups {
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
        let bypasses = |telling: &Telling| {
            bounded.is_none_or(|(receiver, _)| {
                telling.changed.iter().chain(&telling.standing).any(|notice| receiver.bypasses(notice))
            })
        };
        // What no bound holds back takes along what the group has to tell before it.
        let free = tellings.iter().rposition(bypasses).map_or(0, |last| last + 1);
        for (i, telling) in tellings.into_iter().enumerate() {
            if i >= free
                && let Some((_, most)) = bounded
            {
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
}
