//! The second step: what is to be looked at next, and what has to be read for it.

use watchfire_model::Timestamp;

use super::{Groups, Settings, Wanted, Work};
use crate::stages::cap::Allowed;
use crate::stages::group::{GroupId, Pending};

/// Groups of one round.
const ROUND: usize = 500;

/// Alerts that one round looks at again.
const LOOKED_AT: usize = 5000;

/// Deliveries of one flush, about: each holds its message.
const DELIVERIES: usize = 2000;

impl Groups {
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
}
