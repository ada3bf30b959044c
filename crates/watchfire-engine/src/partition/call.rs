//! One callback: what it is given, and what becomes of its effects or of its failure.

use std::sync::Arc;

use watchfire_log::Record;
use watchfire_log::record::Skipped;
use watchfire_model::Timestamp;
use watchfire_model::call::{
    CallFailure, Callback, Context, Effects, FailureKind, Instance, Outcome, Rows, Setup, Timer, TimerEffect,
};
use watchfire_telemetry::metrics;

use super::{Here, Output, Partition, rows_of};
use crate::due::{Due, Kind};
use crate::rule::{Rule, RuleId, SetTimer};
use crate::status::RuleEventKind;

/// A callback that is being made.
pub(crate) struct Call {
    /// Which of the rule's callbacks at this record.
    pub number: u32,
    pub name: &'static str,
    /// The schedule, where it is one.
    pub schedule: Option<String>,
    pub rows: Option<Arc<Rows>>,
    pub now: Timestamp,
    /// The rows are of an earlier record: they move no clock.
    pub redo: bool,
}

impl Partition {
    pub(super) fn call(
        &mut self,
        here: Here,
        rule: RuleId,
        callback: Callback,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        self.with_rule(rule, |partition, rule| partition.call_rule(here, rule, callback, now, false, out));
    }

    pub(super) fn call_rule(
        &mut self,
        here: Here,
        rule: &mut Rule,
        callback: Callback,
        now: Timestamp,
        redo: bool,
        out: &mut Vec<Output>,
    ) {
        if rule.paused {
            return;
        }
        let schedule = match &callback {
            Callback::Schedule { name, .. } => Some(name.clone()),
            _ => None,
        };
        let rows = rows_of(&callback).cloned();
        let number = rule.next_callback(here.position.offset);
        let call = Call { number, name: callback.name(), schedule, rows, now, redo };
        if let Some(skipped) = self.known.skipped(here.position.offset, &rule.name, number) {
            // It failed when it was made. What the instance may keep of a failed call is not replayed.
            rule.stats.failures += 1;
            rule.stats.last_failure = Some(skipped.reason.clone());
            rule.instance = None;
            return;
        }
        if let Some(watch) = &mut self.watch
            && let Err(message) = watch.begin(here.position.offset, &rule.name, number)
        {
            let failure = CallFailure::new(FailureKind::Trapped, message);
            return self.failed(here, rule, &call, failure, out);
        }
        let rows = call.rows.as_ref().map_or(0, |rows| rows.len());
        let outcome = self.invoke(here, rule, callback, now);
        if let Some(watch) = &mut self.watch {
            watch.end();
        }
        match outcome {
            Ok(outcome) => {
                rule.stats.note(rows, outcome.cost.nanoseconds);
                for message in outcome.messages {
                    self.event(here, rule, now, || RuleEventKind::Message {
                        level: message.level,
                        text: message.text,
                    });
                }
                match outcome.result {
                    Ok(effects) => match self.check_kept(rule, &effects) {
                        Ok(()) => self.effects(here, rule, &call, effects, out),
                        Err(what) => {
                            let message = format!("rule {}, {} of {rows} rows: {what}", rule.name, call.name);
                            let failure = CallFailure::new(FailureKind::Output, message);
                            self.failed(here, rule, &call, failure, out);
                        }
                    },
                    Err(failure) => self.failed(here, rule, &call, failure, out),
                }
            }
            Err(failure) => self.failed(here, rule, &call, failure, out),
        }
    }

    fn invoke(
        &mut self,
        here: Here,
        rule: &mut Rule,
        callback: Callback,
        now: Timestamp,
    ) -> Result<Outcome, CallFailure> {
        let mut instance = match rule.instance.take() {
            Some(instance) => instance,
            None => self.instance(rule, here.replay)?,
        };
        let context = Context {
            now,
            devices: self.registry.clone(),
            selected: self.streams[rule.stream].selections.devices(rule.group),
            state: std::mem::take(&mut rule.state),
        };
        let mut outcome = instance.call(callback, context);
        rule.state = std::mem::take(&mut outcome.state);
        if outcome.result.is_ok() {
            rule.instance = Some(instance);
        }
        Ok(outcome)
    }

    /// A fresh instance of a rule.
    fn instance(&self, rule: &mut Rule, replay: bool) -> Result<Box<dyn Instance>, CallFailure> {
        let module = match &rule.module {
            Some(module) => module.clone(),
            None => {
                let module = self.setup.modules.get(rule.spec.module)?;
                rule.module.insert(module).clone()
            }
        };
        let setup = Setup {
            rule: rule.name.to_string(),
            parameters: rule.parameters.clone(),
            limits: rule.spec.limits.clone(),
            replay,
        };
        module.start(&setup).map(|(instance, _)| instance)
    }

    fn failed(
        &mut self,
        here: Here,
        rule: &mut Rule,
        call: &Call,
        failure: CallFailure,
        out: &mut Vec<Output>,
    ) {
        // A replay passes the call over, so nothing of it may live on in the memory of the instance.
        rule.instance = None;
        rule.stats.failures += 1;
        rule.stats.last_failure = Some(failure.message.clone());
        metrics().rules.failed(failure.kind);
        let rows: Vec<u32> = match &call.rows {
            Some(rows) => (0..rows.len() as u32).filter_map(|row| rows.row_of_batch(row)).collect(),
            None => Vec::new(),
        };
        tracing::warn!(
            rule = %rule.name,
            position = %here.position,
            callback = call.name,
            rows = rows.len(),
            kind = ?failure.kind,
            "the call failed and left nothing behind: {}",
            failure.message
        );
        let (kind, message, count) = (failure.kind, failure.message.clone(), rows.len());
        self.event(here, rule, call.now, || RuleEventKind::Failure {
            callback: call.name,
            kind,
            message,
            rows: count,
        });
        out.push(Output::Own(Record::Skipped(Box::new(Skipped {
            rule: rule.name.to_string(),
            version: rule.version,
            offset: here.position.offset,
            callback: call.number,
            callback_name: call.name.into(),
            rows,
            kind: failure.kind,
            reason: failure.message,
        }))));
    }

    fn effects(
        &mut self,
        here: Here,
        rule: &mut Rule,
        call: &Call,
        mut effects: Effects,
        out: &mut Vec<Output>,
    ) {
        // The evidence of an alert holds the state from before the callback, so the state comes last.
        let alerts = std::mem::take(&mut effects.alerts);
        if !alerts.is_empty() {
            self.alert_effects(here, rule, call, alerts, out);
        }
        if rule.spec.output.is_some() {
            self.publish(here, rule, call, &effects, out);
        }
        for (slot, devices, blobs) in &effects.stores {
            if self.deleted.is_empty() {
                rule.state.set_many(*slot, devices, blobs);
                continue;
            }
            for (device, blob) in devices.iter().zip(blobs.iter()) {
                if !self.deleted.contains(*device) {
                    rule.state.set(*slot, *device, blob);
                }
            }
        }
        for timer in effects.timers {
            let (TimerEffect::Set(Timer { device, .. }) | TimerEffect::Cancel(Timer { device, .. })) = timer;
            if !self.deleted.contains(device) {
                self.timer_effect(here, rule, timer);
            }
        }
    }

    fn timer_effect(&mut self, here: Here, rule: &mut Rule, effect: TimerEffect) {
        rule.dirty.timers = true;
        let (TimerEffect::Set(timer) | TimerEffect::Cancel(timer)) = effect;
        let key = (timer.device, timer.tag);
        let entry = |due| Due { at: due, kind: Kind::Timer, rule: rule.id, device: key.0, tag: key.1 };
        let before = match effect {
            TimerEffect::Set(_) => {
                // A timer set at this record fires at a later one: a rule cannot keep the loop busy with
                // timers at one place.
                let due = timer.at.max(Timestamp(here.time.0.saturating_add(1)));
                self.due.push(entry(due));
                rule.timers.insert(key, SetTimer { at: timer.at, due }).filter(|before| before.due != due)
            }
            TimerEffect::Cancel(_) => rule.timers.remove(&key),
        };
        if let Some(before) = before {
            self.due.remove(&entry(before.due));
        }
    }
}

/// A failure of the loop's own making, for a rule that cannot be called at all.
pub(super) fn load_failure(message: impl Into<String>) -> CallFailure {
    CallFailure::new(FailureKind::Load, message)
}
