//! The first step: what happened is taken in, and what time makes of it.

use std::collections::HashMap;
use std::sync::Arc;

use watchfire_model::Timestamp;
use watchfire_store::{LabelSet, Outbox};

use super::{Groups, Settings};
use crate::stages::fleet::Fleet;
use crate::stages::group::{Fingerprint, Group, GroupId, GroupName, Member, number};
use crate::stages::notice::{Event, Notice, notices};
use crate::stages::route::Target;

impl Groups {
    pub(super) fn fires(&mut self, labels: &LabelSet, fingerprint: &str) {
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
        let settled = self.storms.settle(fleet, now);
        self.bounds_changed |= settled.changed;
        for notice in settled.notices {
            self.put(settings, notice, now);
        }
        if settled.released {
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
}
