//! From triggers and clears, through the condition machine, to transitions.

use std::collections::BTreeMap;

use watchfire_alert::{Condition, Moment, Phase, Step, Trigger};
use watchfire_model::alert::{AlertId, Cause, EffectId, Recovered, ResolveReason, TransitionKind};
use watchfire_model::call::AlertEffect;
use watchfire_model::{Batch, DeviceHandle, DeviceSpec, Position, Timestamp, Transition};

use super::call::{Call, Of};
use super::evidence::{Pending, finite, keep_evidence};
use super::{Here, Output, Partition};
use crate::due::{Due, Kind};
use crate::rule::{Conditions, Rule};
use crate::status::RuleEventKind;

impl Partition {
    pub(super) fn alert_effects(
        &mut self,
        here: Here,
        rule: &mut Rule,
        call: &Call,
        alerts: Vec<AlertEffect>,
        out: &mut Vec<Output>,
    ) {
        let mut touched = Vec::with_capacity(alerts.len());
        let mut said = Pending::new();
        for (ordinal, effect) in alerts.into_iter().enumerate() {
            let cause = Cause::Callback { callback: call.number, ordinal: ordinal as u32 };
            let (AlertEffect::Trigger { device, row, .. } | AlertEffect::Clear { device, row, .. }) = effect;
            if self.deleted.contains(device) {
                continue;
            }
            let Some((moment, row)) = self.moment(here, rule, call, device, row) else { continue };
            touched.push(device);
            match effect {
                AlertEffect::Trigger { key, severity, summary, details, .. } => {
                    rule.stats.triggers += 1;
                    self.event(here, rule, call.now, || RuleEventKind::Trigger {
                        device: self.device_id(device),
                        key: key.clone(),
                        severity,
                        summary: summary.clone(),
                    });
                    let trigger = Trigger { severity, summary, details: finite(details) };
                    self.trigger(here, rule, call, device, &key, moment, row, trigger, cause, &mut said, out);
                }
                AlertEffect::Clear { key, .. } => {
                    rule.stats.clears += 1;
                    self.event(here, rule, call.now, || RuleEventKind::Clear {
                        device: self.device_id(device),
                        key: key.clone(),
                    });
                    self.clear(here, rule, call, device, &key, moment, row, cause, &mut said, out);
                }
            }
        }
        rule.dirty.conditions = true;
        said.retain(|(device, key), _| rule.condition(*device, key).is_some_and(|one| one.is_pending()));
        keep_evidence(here, rule, call, &self.registry, said);
        touched.sort_unstable();
        touched.dedup();
        let batch = call.rows.as_ref().filter(|_| call.of == Of::Here).map(|rows| rows.batch().clone());
        for device in touched {
            self.advance(here, rule, device, batch.as_deref(), call.now, out);
            if let Some(track) = self.streams[rule.stream].tracks.get(device.0 as usize) {
                rule.tidy(device, track.clock_at(call.now));
            }
        }
    }

    fn device_id(&self, device: DeviceHandle) -> String {
        self.registry.get(device).map(|device| device.spec.id.clone()).unwrap_or_default()
    }

    /// When an effect happens, and the row of the batch that it is of.
    fn moment(
        &self,
        here: Here,
        rule: &Rule,
        call: &Call,
        device: DeviceHandle,
        row: Option<u32>,
    ) -> Option<(Moment, Option<u32>)> {
        let track = self.streams[rule.stream].tracks.get(device.0 as usize)?;
        let rows = call.rows.as_ref();
        let row = row.and_then(|row| rows?.row_of_batch(row));
        // A row of another device says nothing of the clock of this one.
        let row = row.filter(|row| rows.is_some_and(|rows| rows.batch().devices[*row as usize] == device));
        Some(match (row, rows) {
            (Some(row), Some(rows)) => {
                let at = rows.batch().times[row as usize].min(here.time);
                let clock = match call.of {
                    Of::Here => self.clocks[row as usize],
                    Of::Redo | Of::Earlier(_) => track.clock_at(here.time),
                };
                (Moment { clock, at }, Some(row))
            }
            _ => (Moment { clock: track.clock_at(call.now), at: call.now }, None),
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn trigger(
        &mut self,
        here: Here,
        rule: &mut Rule,
        call: &Call,
        device: DeviceHandle,
        key: &str,
        moment: Moment,
        row: Option<u32>,
        trigger: Trigger,
        cause: Cause<'_>,
        pending: &mut Pending,
        out: &mut Vec<Output>,
    ) {
        self.catch_up(here, rule, call, device, key, moment, row, pending, out);
        let spec = rule.spec.clone();
        let options = spec.condition.of(key);
        let condition = rule.condition_or_new(device, key);
        match condition.trigger(options, moment, trigger) {
            Some(step) => {
                if let Step::Raised(_) = step {
                    pending.remove(&(device, Box::from(key)));
                    let this = Pending::from([((device, key.into()), row)]);
                    keep_evidence(here, rule, call, &self.registry, this);
                }
                self.make(here, rule, device, key, step, &cause, out);
            }
            None if condition.is_pending() => {
                pending.insert((device, key.into()), row);
            }
            None if condition.is_raised() => {
                let update = (rule.id, device, Box::from(key));
                // Repeats of one condition tend to come one behind the other.
                if self.updates.last() != Some(&update) {
                    self.updates.push(update);
                }
            }
            None => {}
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn clear(
        &mut self,
        here: Here,
        rule: &mut Rule,
        call: &Call,
        device: DeviceHandle,
        key: &str,
        moment: Moment,
        row: Option<u32>,
        cause: Cause<'_>,
        pending: &mut Pending,
        out: &mut Vec<Output>,
    ) {
        if rule.condition(device, key).is_none() {
            return;
        }
        self.catch_up(here, rule, call, device, key, moment, row, pending, out);
        let spec = rule.spec.clone();
        let step = rule.condition_or_new(device, key).clear(spec.condition.of(key), moment);
        if let Some(step) = step {
            self.make(here, rule, device, key, step, &cause, out);
        }
    }

    /// Takes the delays of a condition that are over by a moment: those that rows before it moved past too.
    #[allow(clippy::too_many_arguments)]
    fn catch_up(
        &mut self,
        here: Here,
        rule: &mut Rule,
        call: &Call,
        device: DeviceHandle,
        key: &str,
        moment: Moment,
        row: Option<u32>,
        pending: &mut Pending,
        out: &mut Vec<Output>,
    ) {
        let spec = rule.spec.clone();
        let due = rule.condition(device, key).and_then(|condition| condition.due(spec.condition.of(key)));
        if due.is_none_or(|due| due > moment.clock) {
            return;
        }
        if let Some(said) = pending.remove_entry(&(device, Box::from(key))) {
            keep_evidence(here, rule, call, &self.registry, Pending::from([said]));
        }
        let rows = call.rows.as_ref().filter(|_| call.of == Of::Here);
        let upto = row.map_or(usize::MAX, |row| row as usize);
        let batch = rows.map(|rows| rows.batch().clone());
        self.take_delays(here, rule, device, key, batch.as_deref(), upto, moment.clock, out);
    }

    /// Takes the delays of one condition up to what the clock of its device says. Re-alarm depends on where
    /// it is looked at, so it is looked at row by row, whatever rows a record holds. Gives whether there was one.
    #[allow(clippy::too_many_arguments)]
    fn take_delays(
        &mut self,
        here: Here,
        rule: &mut Rule,
        device: DeviceHandle,
        key: &str,
        batch: Option<&Batch>,
        upto: usize,
        clock: Timestamp,
        out: &mut Vec<Output>,
    ) -> bool {
        let spec = rule.spec.clone();
        let options = spec.condition.of(key);
        let Some(condition) = rule.condition(device, key) else { return false };
        if condition.due(options).is_none_or(|due| due > clock) {
            return false;
        }
        rule.dirty.conditions = true;
        let mut clocks = Vec::new();
        if let (Some(batch), true) = (batch, options.realarm.is_some()) {
            let rows = batch.devices.iter().enumerate().take(upto.saturating_add(1));
            clocks.extend(rows.filter(|(_, other)| **other == device).map(|(row, _)| self.clocks[row]));
        }
        clocks.push(clock);
        for clock in clocks {
            while let Some(step) =
                rule.condition(device, key).and_then(|condition| condition.advance(options, clock))
            {
                let number = self.steps.entry((rule.id, device, key.into())).or_insert(0);
                let cause = Cause::Delay { device, key, step: *number };
                *number += 1;
                self.make(here, rule, device, key, step, &cause, out);
            }
        }
        true
    }

    /// The clock of a device has moved, or conditions of it have changed: takes the delays that are over by
    /// `now`, a time of the log, and notes when the next one is.
    pub(super) fn advance(
        &mut self,
        here: Here,
        rule: &mut Rule,
        device: DeviceHandle,
        batch: Option<&Batch>,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        let Some(track) = self.streams[rule.stream].tracks.get(device.0 as usize).copied() else { return };
        let clock = track.clock_at(now);
        let keys: Vec<Box<str>> =
            rule.conditions.get(&device).into_iter().flatten().map(|(key, _)| key.clone()).collect();
        let mut happened = false;
        for key in &keys {
            happened |= self.take_delays(here, rule, device, key, batch, usize::MAX, clock, out);
        }
        // Only where something happened: a look that was too early must leave no trace, for a replay from
        // a checkpoint does not look there.
        if happened {
            rule.tidy(device, clock);
        }
        self.date(rule, device);
    }

    /// Notes when the next delay of a device under a rule is over.
    pub(super) fn date(&mut self, rule: &mut Rule, device: DeviceHandle) {
        let spec = &rule.spec;
        // Nothing goes on in a rule that is paused or out: its delays begin anew with it.
        let waits = !rule.stands();
        let next = rule
            .conditions
            .get(&device)
            .filter(|_| waits)
            .into_iter()
            .flatten()
            .filter_map(|(key, condition)| condition.due(spec.condition.of(key)))
            .min();
        let stream = &mut self.streams[rule.stream];
        let Some(track) = stream.tracks.get(device.0 as usize) else { return };
        let next = next.map(|due| track.log_time_of(due));
        stream.set_dated(device, rule.id, next.is_some());
        let entry = |at| Due { at, kind: Kind::Delay, rule: rule.id, device, tag: 0 };
        match (rule.delays.get(&device).copied(), next) {
            // Too early is found out when its time comes.
            (Some(noted), Some(next)) if noted <= next => {}
            (noted, next) => {
                if let Some(noted) = noted {
                    self.due.remove(&entry(noted));
                    rule.delays.remove(&device);
                }
                if let Some(next) = next {
                    self.due.push(entry(next));
                    rule.delays.insert(device, next);
                }
            }
        }
    }

    /// Makes a transition of a step.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn make(
        &mut self,
        here: Here,
        rule: &mut Rule,
        device: DeviceHandle,
        key: &str,
        step: Step,
        cause: &Cause<'_>,
        out: &mut Vec<Output>,
    ) {
        let id = EffectId { position: here.position, rule: &rule.name, cause: cause.clone() }.to_string();
        let Some(spec) = self.registry.get(device).map(|device| device.spec.clone()) else { return };
        let (name, version) = (rule.name.clone(), rule.version);
        let Some(condition) = rule.condition(device, key) else { return };
        out.push(Output::Transition(Box::new(transition(
            here, id, &name, version, spec, device, key, condition, step,
        ))));
        rule.dirty.conditions = true;
    }

    /// Every alert that is raised, for the keeper to compare with what it has. A transition each, of which only the
    /// kind is not as it once was told: when exactly it was raised nobody remembers but the keeper.
    pub fn recovered(&self) -> Recovered {
        let position = Position {
            epoch: self.setup.epoch,
            partition: self.setup.id,
            offset: self.next.saturating_sub(1),
        };
        let mut active = Vec::new();
        for rule in self.rules.iter().flatten() {
            for (&handle, conditions) in &rule.conditions {
                let Some(device) = self.registry.get(handle) else { continue };
                for (key, condition) in conditions {
                    let Some(alert) = condition.alert().filter(|_| condition.is_raised()) else { continue };
                    let latched = matches!(condition.phase(), Phase::Latched { .. });
                    active.push(Transition {
                        id: format!("recovered/{position}/{alert}"),
                        alert: alert.clone(),
                        kind: if latched { TransitionKind::Cleared } else { TransitionKind::Raised },
                        rule: rule.name.to_string(),
                        rule_version: rule.version,
                        device: device.spec.clone(),
                        handle,
                        key: key.to_string(),
                        severity: condition.severity(),
                        summary: condition.summary().to_string(),
                        details: condition.details().to_vec(),
                        at: condition.last_seen(),
                        logged_at: self.time,
                        position,
                        evidence: None,
                        external: None,
                    });
                }
            }
        }
        active.extend(self.external.recovered(position, self.time));
        Recovered { partition: self.setup.id, at: self.time, active }
    }

    /// Ends everything that is raised of a rule: for one device or (`None`) for all.
    pub(super) fn end_conditions(
        &mut self,
        here: Here,
        rule: &mut Rule,
        device: Option<DeviceHandle>,
        reason: ResolveReason,
        out: &mut Vec<Output>,
    ) {
        let devices: Vec<_> = match device {
            Some(device) => vec![device],
            None => rule.conditions.keys().copied().collect(),
        };
        for device in devices {
            let keys: Vec<Box<str>> =
                rule.conditions.get(&device).into_iter().flatten().map(|(key, _)| key.clone()).collect();
            for key in keys {
                let step =
                    rule.condition(device, &key).and_then(|condition| condition.remove(reason, here.time));
                if let Some(step) = step {
                    let cause = Cause::Control { device, key: &key };
                    self.make(here, rule, device, &key, step, &cause, out);
                }
            }
            rule.conditions.remove(&device);
            rule.dirty.conditions = true;
            self.date(rule, device);
        }
    }

    /// After a rollback: conditions as they were in the snapshot, alerts as they are now. What is raised
    /// now and was not then ends; what was raised then and is not now begins.
    pub(super) fn reconcile(&mut self, here: Here, rule: &mut Rule, then: Conditions, out: &mut Vec<Output>) {
        let mut now = std::mem::take(&mut rule.conditions);
        let mut pairs: BTreeMap<(DeviceHandle, Box<str>), (Option<Condition>, Option<Condition>)> =
            BTreeMap::new();
        for (device, keys) in then {
            for (key, condition) in keys {
                pairs.entry((device, key)).or_default().0 = Some(condition);
            }
        }
        for (device, keys) in std::mem::take(&mut now) {
            for (key, condition) in keys {
                pairs.entry((device, key)).or_default().1 = Some(condition);
            }
        }
        let selections = &self.streams[rule.stream].selections;
        let keep: Vec<bool> =
            pairs.keys().map(|(device, _)| selections.contains(rule.group, *device)).collect();
        for (((device, key), (then, now)), keep) in pairs.into_iter().zip(keep) {
            let then = then.filter(|_| keep);
            let raised_now = now.as_ref().is_some_and(Condition::is_raised);
            let cause = Cause::Control { device, key: &key };
            match (then, now) {
                (Some(then), _) if then.is_raised() && !raised_now => {
                    let at = here.time;
                    *rule.condition_or_new(device, &key) = then;
                    self.make(here, rule, device, &key, Step::Raised(at), &cause, out);
                }
                (Some(then), Some(now)) if then.is_raised() => {
                    // The alert goes on as it is now; where the condition was is what the rule knows.
                    let (from, to) = (now.severity(), then.severity());
                    let alert = now.alert().cloned();
                    let condition = rule.condition_or_new(device, &key);
                    *condition = then;
                    if let Some(alert) = alert {
                        condition.set_alert(alert);
                    }
                    if from != to {
                        let step = Step::SeverityChanged { from, at: here.time };
                        self.make(here, rule, device, &key, step, &cause, out);
                    }
                }
                (then, Some(mut now)) if raised_now => {
                    let step = now.remove(ResolveReason::RolledBack, here.time);
                    *rule.condition_or_new(device, &key) = now;
                    if let Some(step) = step {
                        self.make(here, rule, device, &key, step, &cause, out);
                    }
                    if let Some(then) = then {
                        *rule.condition_or_new(device, &key) = then;
                    }
                }
                (Some(then), _) => *rule.condition_or_new(device, &key) = then,
                (None, _) => {}
            }
        }
        rule.dirty.conditions = true;
    }
}

#[allow(clippy::too_many_arguments)]
fn transition(
    here: Here,
    id: String,
    rule: &str,
    rule_version: u32,
    device: DeviceSpec,
    handle: DeviceHandle,
    key: &str,
    condition: &mut Condition,
    step: Step,
) -> Transition {
    let mut evidence = None;
    let kind = match step {
        Step::Raised(_) => {
            condition.set_alert(AlertId::raised_by(&id));
            evidence = condition.take_evidence();
            TransitionKind::Raised
        }
        Step::SeverityChanged { from, .. } => TransitionKind::SeverityChanged { from },
        Step::Cleared(_) => TransitionKind::Cleared,
        Step::Realarmed(_) => TransitionKind::Realarmed,
        Step::Resolved { reason, .. } => TransitionKind::Resolved { reason },
    };
    Transition {
        alert: condition.alert().cloned().unwrap_or_else(|| AlertId::raised_by(&id)),
        id,
        kind,
        rule: rule.into(),
        rule_version,
        device,
        handle,
        key: key.into(),
        severity: condition.severity(),
        summary: condition.summary().to_string(),
        details: condition.details().to_vec(),
        at: step.at(),
        logged_at: here.time,
        position: position_of(here),
        evidence,
        external: None,
    }
}

fn position_of(here: Here) -> Position {
    here.position
}
