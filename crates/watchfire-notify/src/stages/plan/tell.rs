//! What a group has to tell, as messages.

use std::collections::{BTreeSet, HashMap, HashSet};

use watchfire_model::Timestamp;
use watchfire_store::AlertState;

use super::{Found, Groups, Settings};
use crate::stages::group::{Fingerprint, Group, Member, Pending, Reason, Telling, number};
use crate::stages::hold::Hold;
use crate::stages::notice::{Event, Notice, notices, standing};

/// What became of what was pending.
#[derive(Default)]
pub(super) struct Told {
    pub tellings: Vec<Telling>,
    pub touched: BTreeSet<Fingerprint>,
    /// Alert, why, and the first stage that says so.
    pub held: Vec<(String, String, &'static str)>,
    pub dropped: Vec<String>,
}

impl Groups {
    /// What is pending and what is free, as messages. No message has two states of one label set, so what was raised and
    /// resolved while the group waited is told as two.
    pub(super) fn told(
        &self,
        group: &mut Group,
        settings: &Settings,
        found: &Found,
        max_alerts: usize,
        now: Timestamp,
    ) -> Told {
        let public_url = settings.public_url.as_deref();
        let mut all: Vec<Notice> = Vec::new();
        let mut told = Told::default();
        let mut over = Vec::new();
        for (fingerprint, member) in group.members.iter().filter(|(_, member)| member.is_free()) {
            told.touched.insert(*fingerprint);
            match stands(group, *fingerprint, member, found, public_url) {
                // The same alert may be told here more than once: each time is a message of its own.
                Some(notice) => {
                    all.push(Notice { cause: format!("{}#again/{}", notice.cause, now.0), ..notice });
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
                Pending::Here(notice) => all.push(*notice),
                Pending::Kept { transition, fires, .. } => {
                    let item = found.transitions.get(&transition);
                    let of = item.map(|item| notices(item, public_url)).unwrap_or_default();
                    all.extend(of.into_iter().find(|notice| notice.fires() == fires));
                }
            }
        }
        group.body.own_pending.clear();
        let mut changed: Vec<Notice> = Vec::new();
        let mut seen: HashSet<Fingerprint> = HashSet::new();
        // What earlier messages of these told: the store was not asked about it.
        let mut here: HashMap<Fingerprint, Notice> = HashMap::new();
        for notice in all {
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
    pub(super) fn repetition(
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
