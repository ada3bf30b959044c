//! One callback: what it is given, and what becomes of its effects or of its failure.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use watchfire_log::record::{Skipped, StateBefore};
use watchfire_log::{Breaker, BreakerChange, Record};
use watchfire_model::call::{
    CallFailure, Callback, Context, Effects, FailureKind, Instance, Outcome, Rows, Setup, SilentDevice,
    Timer, TimerEffect,
};
use watchfire_model::{DeviceHandle, Offset, Timestamp};
use watchfire_telemetry::metrics;

use super::search::{self, Found};
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
    /// What was due, where it is that.
    pub timers: Vec<Timer>,
    /// Who fell silent, where somebody did.
    pub silent: Vec<SilentDevice>,
    pub now: Timestamp,
    pub of: Of,
}

/// Where the rows of a callback come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// The record that is being evaluated, if it has rows.
    Here,
    /// The redo that is being evaluated. They were measured earlier, and move no clock.
    Redo,
    /// An earlier record: they move no clock either.
    Earlier(Offset),
}

/// What came of a callback.
enum Made {
    /// It passed, or some of its rows were evaluated and others were at fault.
    Passed(Option<CallFailure>),
    /// It was not made: a replay passes it over.
    Nothing,
    Failed(CallFailure),
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
        self.with_rule(rule, |partition, rule| partition.call_rule(here, rule, callback, now, Of::Here, out));
    }

    pub(super) fn call_rule(
        &mut self,
        here: Here,
        rule: &mut Rule,
        callback: Callback,
        now: Timestamp,
        of: Of,
        out: &mut Vec<Output>,
    ) {
        // What somebody wants to be evaluated again is, and what it is to catch up with.
        if rule.outage.is_some() && of == Of::Here {
            return self.missed(here, rule, callback, out);
        }
        if rule.paused {
            return;
        }
        let schedule = match &callback {
            Callback::Schedule { name, .. } => Some(name.clone()),
            _ => None,
        };
        let (mut timers, mut silent) = (Vec::new(), Vec::new());
        match &callback {
            Callback::Timers(due) => timers.clone_from(due),
            Callback::Silence(devices) => silent.clone_from(devices),
            Callback::Batch(_) | Callback::Schedule { .. } => {}
        }
        let rows = rows_of(&callback).cloned();
        let number = rule.next_callback(here.position.offset);
        let call = Call { number, name: callback.name(), schedule, rows, timers, silent, now, of };
        rule.wasted = 0;
        // Old rows that somebody has evaluated once more say nothing of how the rule does now: live ones must not wait
        // because they fail again. (Slices of what it missed do say it.)
        let by_hand = call.of == Of::Redo && rule.outage.is_none();
        let made = self.make_call(here, rule, callback, call, out);
        if !by_hand || here.replay {
            self.judge(here, rule, number, made, out);
        }
    }

    fn make_call(
        &mut self,
        here: Here,
        rule: &mut Rule,
        mut callback: Callback,
        mut call: Call,
        out: &mut Vec<Output>,
    ) -> Made {
        let number = call.number;
        let known = self.known.skipped(here.position.offset, &rule.name, number);
        if let Some(last) = known.last() {
            // It failed when it was made. What the instance may keep of a failed call is not replayed.
            rule.stats.failures += known.len() as u64;
            rule.stats.last_failure = Some(last.reason.clone());
            rule.instance = None;
            // Rows that were at fault were left out, and the others evaluated.
            let Some(rows) = call.rows.as_ref().and_then(|rows| without(rows, known)) else {
                return Made::Nothing;
            };
            call.rows = Some(rows.clone());
            callback = Callback::Batch(rows);
        }
        if let Some(watch) = &mut self.watch
            && let Err(message) = watch.begin(here.position.offset, &rule.name, number)
        {
            let failure = CallFailure::new(FailureKind::Trapped, message);
            rule.instance = None;
            self.skip(here, rule, &call, call.rows.as_deref(), failure, out);
            return Made::Nothing;
        }
        let made = match self.attempt(here, rule, callback, &call) {
            Ok(effects) => {
                rule.credit = (rule.credit + search::REFILL).min(search::CREDIT);
                self.effects(here, rule, &call, effects, out);
                Made::Passed(None)
            }
            Err(failure) => self.failed(here, rule, call, failure, out),
        };
        if let Some(watch) = &mut self.watch {
            watch.end();
        }
        made
    }

    /// Decides whether the breaker of a rule opens behind a callback. It depends on how long calls take and on what the
    /// process saw before, so a replay does not decide: it does what the log says.
    fn judge(&mut self, here: Here, rule: &mut Rule, number: u32, made: Made, out: &mut Vec<Output>) {
        if here.replay {
            if let Some(change) = self.known.opened(here.position.offset, &rule.name, number).cloned() {
                self.open(here, rule, &change);
            }
            return;
        }
        let options = &rule.spec.breaker;
        // While it is out it is called only because somebody wants to know whether it passes now.
        if !options.enabled || rule.is_open() {
            return;
        }
        let (passed, failure) = match made {
            Made::Passed(failure) => (true, failure),
            Made::Failed(failure) => (false, Some(failure)),
            Made::Nothing => return,
        };
        rule.window.note(here.time, options.span, passed, rule.wasted);
        let Some(CallFailure { kind, message: reason }) = failure else { return };
        let Some(why) = rule.window.verdict(options) else { return };
        let wait = match &rule.outage {
            Some(outage) => options.wait_after(outage.wait),
            None => options.wait,
        };
        let offset = here.position.offset;
        let change = BreakerChange::Opened { offset, callback: number, why, kind, reason, wait };
        self.open(here, rule, &change);
        let (rule, version) = (rule.name.to_string(), rule.version);
        out.push(Output::Own(Record::Breaker(Box::new(Breaker { rule, version, change }))));
    }

    /// Makes the call. Nothing of a failure is left.
    fn attempt(
        &mut self,
        here: Here,
        rule: &mut Rule,
        callback: Callback,
        call: &Call,
    ) -> Result<Effects, CallFailure> {
        let rows = call.rows.as_ref().map_or(0, |rows| rows.len());
        let outcome = self.invoke(here, rule, callback, call.now)?;
        rule.stats.note(rows, outcome.cost.nanoseconds);
        if outcome.result.is_err() {
            rule.wasted = rule.wasted.saturating_add(outcome.cost.nanoseconds);
        }
        for message in outcome.messages {
            self.event(here, rule, call.now, || RuleEventKind::Message {
                level: message.level,
                text: message.text,
            });
        }
        let effects = outcome.result?;
        self.check_kept(rule, &effects).map_err(|what| {
            let message = format!("rule {}, {} of {rows} rows: {what}", rule.name, call.name);
            CallFailure::new(FailureKind::Output, message)
        })?;
        Ok(effects)
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

    /// A call failed: what of its rows is at fault is left out, and the others are evaluated as if it had not come.
    fn failed(
        &mut self,
        here: Here,
        rule: &mut Rule,
        call: Call,
        failure: CallFailure,
        out: &mut Vec<Output>,
    ) -> Made {
        // A replay passes the call over, so nothing of it may live on in the memory of the instance.
        rule.instance = None;
        let Some(rows) = call.rows.clone().filter(|rows| rows.len() > 1) else {
            self.skip(here, rule, &call, call.rows.as_deref(), failure.clone(), out);
            return Made::Failed(failure);
        };
        let Found { good, poison, rest } = self.search(here, rule, &call, &rows, &failure);
        // Where it fails on all of them it is not the rows: they stay together.
        if good.is_empty() {
            self.skip(here, rule, &call, Some(&rows), failure.clone(), out);
            return Made::Failed(failure);
        }
        for (row, failure) in poison {
            self.skip(here, rule, &call, Some(&rows.pick(&[row])), failure, out);
        }
        if !rest.is_empty() {
            let message = format!(
                "{} (which of these {} rows are at fault was not found in the time and tries that there are for it)",
                failure.message,
                rest.len()
            );
            let failure = CallFailure::new(failure.kind, message);
            self.skip(here, rule, &call, Some(&rows.pick(&rest)), failure, out);
        }
        let good = Arc::new(rows.pick(&good));
        let call = Call { rows: Some(good.clone()), ..call };
        match self.attempt(here, rule, Callback::Batch(good.clone()), &call) {
            Ok(effects) => {
                self.effects(here, rule, &call, effects, out);
                Made::Passed(Some(failure))
            }
            Err(failure) => {
                rule.instance = None;
                self.skip(here, rule, &call, Some(&good), failure.clone(), out);
                Made::Failed(failure)
            }
        }
    }

    /// Leaves rows out, or a call that has none.
    fn skip(
        &mut self,
        here: Here,
        rule: &mut Rule,
        call: &Call,
        rows: Option<&Rows>,
        failure: CallFailure,
        out: &mut Vec<Output>,
    ) {
        rule.stats.failures += 1;
        rule.stats.last_failure = Some(failure.message.clone());
        metrics().rules.failed(failure.kind);
        let state_before = rows.map(|rows| state_before(rule, rows.devices())).unwrap_or_default();
        let rows: Vec<u32> = match rows {
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
            rows_at: match call.of {
                Of::Earlier(offset) => Some(offset),
                Of::Here | Of::Redo => None,
            },
            kind: failure.kind,
            reason: failure.message,
            state_before,
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
                if !rule.stands() {
                    self.due.push(entry(due));
                }
                rule.timers.insert(key, SetTimer { at: timer.at, due }).filter(|before| before.due != due)
            }
            TimerEffect::Cancel(_) => rule.timers.remove(&key),
        };
        if let Some(before) = before {
            self.due.remove(&entry(before.due));
        }
    }
}

/// The rows less those that were left out; `None`: nothing is left.
fn without(rows: &Rows, skipped: &[Skipped]) -> Option<Arc<Rows>> {
    let gone: HashSet<u32> = skipped.iter().flat_map(|skipped| &skipped.rows).copied().collect();
    let is_there = |row: &u32| rows.row_of_batch(*row).is_some_and(|row| !gone.contains(&row));
    let left: Vec<u32> = (0..rows.len() as u32).filter(is_there).collect();
    (!left.is_empty()).then(|| Arc::new(rows.pick(&left)))
}

/// Devices whose state is noted with a failure; and of all of it, bytes.
const NOTED: (usize, usize) = (8, 64 << 10);

/// The state of devices, where they are few and it is little.
fn state_before(rule: &Rule, devices: &[DeviceHandle]) -> Vec<StateBefore> {
    let devices: BTreeSet<DeviceHandle> = devices.iter().copied().take(100 * NOTED.0).collect();
    if devices.len() > NOTED.0 {
        return Vec::new();
    }
    let noted = devices.into_iter().map(|device| StateBefore { device, slots: rule.state_of(device) });
    let noted: Vec<_> = noted.filter(|state| !state.slots.is_empty()).collect();
    let bytes: usize = noted.iter().flat_map(|state| state.slots.values()).map(String::len).sum();
    if bytes > 2 * NOTED.1 { Vec::new() } else { noted }
}

/// A failure of the loop's own making, for a rule that cannot be called at all.
pub(super) fn load_failure(message: impl Into<String>) -> CallFailure {
    CallFailure::new(FailureKind::Load, message)
}
