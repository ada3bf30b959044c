//! Alerts of others: each stands from the record that first says it until its end, which later ones move on. A function
//! of the log alone, as everything here: what was not said again ends at the first record behind its end.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use watchfire_model::alert::{
    AlertId, AlertUpdate, Cause, EffectId, ResolveReason, Transition, TransitionKind,
};
use watchfire_model::external::{ExternalAlert, ExternalAlerts};
use watchfire_model::{DeviceHandle, DeviceSpec, Duration, Position, Timestamp};

use super::{Here, Output};

/// What stands in the place of a rule's name in the ids of transitions. That of a rule is never followed by these causes.
const NAME: &str = "external";

/// An alert of others that is active.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Standing {
    alert: AlertId,
    /// As it was said last.
    said: ExternalAlert,
    starts_at: Timestamp,
    ends_at: Timestamp,
    /// The end was not said: one that is counts more.
    timeout: bool,
    /// The log's time when it was said last.
    last_seen: Timestamp,
    /// How often it was said.
    count: u64,
}

/// The alerts of others that are active in a partition, by fingerprint.
#[derive(Debug, Default)]
pub(crate) struct Externals {
    standing: BTreeMap<Box<str>, Standing>,
    ends: BTreeSet<(Timestamp, Box<str>)>,
    /// Of these people may be told something new without a transition.
    updated: BTreeSet<Box<str>>,
    /// Changed since the last checkpoint.
    dirty: BTreeSet<Box<str>>,
}

impl Externals {
    /// When the first of them ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(time, _)| *time)
    }

    /// Ends those whose end has come.
    pub fn run_due(&mut self, here: Here, out: &mut Vec<Output>) {
        while let Some((at, _)) = self.ends.first().filter(|(at, _)| *at <= here.time) {
            let at = *at;
            let Some((_, fingerprint)) = self.ends.pop_first() else { return };
            let cause = Cause::ExternalEnd { fingerprint: &fingerprint };
            self.resolve(here, &fingerprint, at, ResolveReason::Cleared, cause, out);
        }
    }

    /// Takes what somebody said.
    pub fn take(&mut self, here: Here, said: &ExternalAlerts, out: &mut Vec<Output>) {
        for (ordinal, alert) in said.alerts.iter().enumerate() {
            self.say(here, alert, ordinal as u32, out);
        }
    }

    fn say(&mut self, here: Here, said: &ExternalAlert, ordinal: u32, out: &mut Vec<Output>) {
        let cause = Cause::External { ordinal };
        let ends_at = said.ends_at.unwrap_or(here.time + said.resolve_timeout);
        // Without a start, one that is over began when it ended, and one that is not begins now. What begins in the
        // future begins now too: it is said to be there.
        let starts_at = said.starts_at.or(said.ends_at).unwrap_or(here.time).min(here.time);
        let fingerprint: Box<str> = said.fingerprint.as_str().into();
        let over = ends_at <= here.time;
        let Some(standing) = self.standing.get_mut(&fingerprint) else {
            // One that is over and that nobody was told of is nothing to tell.
            if !over {
                let id = id_of(here, &cause);
                let standing = Standing {
                    alert: AlertId::raised_by(&id),
                    said: said.clone(),
                    starts_at,
                    ends_at,
                    timeout: said.ends_at.is_none(),
                    last_seen: here.time,
                    count: 1,
                };
                let (kind, at) = (TransitionKind::Raised, starts_at.min(ends_at));
                out.push(transition(here.position, here.time, id, kind, &standing, at));
                self.ends.insert((ends_at, fingerprint.clone()));
                self.dirty.insert(fingerprint.clone());
                self.standing.insert(fingerprint, standing);
            }
            return;
        };
        if over {
            self.ends.remove(&(standing.ends_at, fingerprint.clone()));
            self.resolve(here, &fingerprint, ends_at, ResolveReason::Cleared, cause, out);
            return;
        }
        // As Alertmanager merges (alert.Merge): the earliest start; an end that was said and is later stays.
        let keeps = standing.ends_at > ends_at && !standing.timeout;
        if !keeps {
            self.ends.remove(&(standing.ends_at, fingerprint.clone()));
            (standing.ends_at, standing.timeout) = (ends_at, said.ends_at.is_none());
            self.ends.insert((ends_at, fingerprint.clone()));
        }
        standing.starts_at = standing.starts_at.min(starts_at);
        standing.said = said.clone();
        standing.last_seen = here.time;
        standing.count += 1;
        self.updated.insert(fingerprint.clone());
        self.dirty.insert(fingerprint);
    }

    /// An operator ends one, whatever its sender says: it may be said again at once.
    pub fn clear(&mut self, here: Here, rule: &str, device: &str, key: &str, out: &mut Vec<Output>) {
        let Some(standing) = self.standing.get(key) else { return };
        if standing.said.rule() != rule || standing.said.device() != device {
            return;
        }
        self.ends.remove(&(standing.ends_at, key.into()));
        let cause = Cause::ExternalEnd { fingerprint: key };
        self.resolve(here, key, here.time, ResolveReason::Operator, cause, out);
    }

    fn resolve(
        &mut self,
        here: Here,
        fingerprint: &str,
        at: Timestamp,
        reason: ResolveReason,
        cause: Cause<'_>,
        out: &mut Vec<Output>,
    ) {
        let Some(standing) = self.standing.remove(fingerprint) else { return };
        self.updated.remove(fingerprint);
        self.dirty.insert(fingerprint.into());
        let at = at.max(standing.starts_at).min(here.time.max(standing.starts_at));
        let id = id_of(here, &cause);
        let kind = TransitionKind::Resolved { reason };
        out.push(transition(here.position, here.time, id, kind, &standing, at));
    }

    /// Our own downtime: nobody could say meanwhile that they go on.
    pub fn shift(&mut self, span: Duration) {
        self.ends.clear();
        for (fingerprint, standing) in &mut self.standing {
            standing.ends_at = standing.ends_at + span;
            self.ends.insert((standing.ends_at, fingerprint.clone()));
            self.dirty.insert(fingerprint.clone());
        }
    }

    /// The latest of those that were said again since the last call.
    pub fn take_updates(&mut self) -> Vec<AlertUpdate> {
        let updated = std::mem::take(&mut self.updated);
        let standing = updated.iter().filter_map(|fingerprint| self.standing.get(fingerprint));
        standing
            .map(|standing| AlertUpdate {
                alert: standing.alert.clone(),
                last_seen: standing.last_seen,
                count: standing.count,
                summary: standing.said.summary(),
                details: standing.said.details(),
            })
            .collect()
    }

    /// Each that is active, as what the keeper is to compare itself with.
    pub fn recovered(&self, position: Position, time: Timestamp) -> impl Iterator<Item = Transition> {
        self.standing.values().map(move |standing| {
            let id = format!("recovered/{position}/{}", standing.alert);
            make(position, time, id, TransitionKind::Raised, standing, standing.starts_at)
        })
    }

    /// What has changed since the last call: fingerprint and bytes, none where it is over.
    pub fn take_dirty(&mut self) -> Vec<(Box<str>, Vec<u8>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|fingerprint| self.pair(fingerprint)).collect()
    }

    /// Everything, as [`Externals::take_dirty`] gives it.
    pub fn all(&self) -> impl Iterator<Item = (Box<str>, Vec<u8>)> {
        self.standing.keys().map(|fingerprint| self.pair(fingerprint.clone()))
    }

    fn pair(&self, fingerprint: Box<str>) -> (Box<str>, Vec<u8>) {
        let bytes = self.standing.get(&fingerprint).and_then(|standing| serde_json::to_vec(standing).ok());
        (fingerprint, bytes.unwrap_or_default())
    }

    /// Everything is written again.
    pub fn mark_all_dirty(&mut self) {
        self.dirty.extend(self.standing.keys().cloned());
    }

    /// Reads what [`Externals::take_dirty`] gave; `None`: it is not what was written.
    pub fn restore(&mut self, bytes: &[u8]) -> Option<()> {
        let standing: Standing = serde_json::from_slice(bytes).ok()?;
        let fingerprint: Box<str> = standing.said.fingerprint.as_str().into();
        self.ends.insert((standing.ends_at, fingerprint.clone()));
        self.standing.insert(fingerprint, standing);
        Some(())
    }
}

fn id_of(here: Here, cause: &Cause<'_>) -> String {
    EffectId { position: here.position, rule: NAME, cause: cause.clone() }.to_string()
}

fn transition(
    position: Position,
    logged_at: Timestamp,
    id: String,
    kind: TransitionKind,
    standing: &Standing,
    at: Timestamp,
) -> Output {
    Output::Transition(Box::new(make(position, logged_at, id, kind, standing, at)))
}

fn make(
    position: Position,
    logged_at: Timestamp,
    id: String,
    kind: TransitionKind,
    standing: &Standing,
    at: Timestamp,
) -> Transition {
    let said = &standing.said;
    Transition {
        id,
        alert: standing.alert.clone(),
        kind,
        rule: said.rule().into(),
        // None of ours.
        rule_version: 0,
        device: DeviceSpec { id: said.device().into(), ..DeviceSpec::default() },
        // The registry does not know it.
        handle: DeviceHandle(u32::MAX),
        key: said.fingerprint.clone(),
        severity: said.severity(),
        summary: said.summary(),
        details: said.details(),
        at,
        logged_at,
        position,
        evidence: None,
        external: Some(Box::new(said.external())),
    }
}
