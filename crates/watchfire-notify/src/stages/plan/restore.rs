//! The groups as the store kept them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use watchfire_store::{GroupRows, LabelSet, Outbox};

use super::{Bounds, Groups, Settings};
use crate::stages::group::{Body, Fingerprint, Group, GroupId, GroupName, Member, Pending, number};
use crate::stages::hold::Flags;
use crate::stages::notice::notices;

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
}
