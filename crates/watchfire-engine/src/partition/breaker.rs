//! A rule that keeps failing is taken out of its partition, tried again, and put back; and what it missed is evaluated.
//!
//! While it is out it stands as a paused rule does, and is called for nothing. What it does not see is remembered as a
//! stretch of the log. After a while the next rows that would be its own are tried: the effects of that are thrown away,
//! since they come behind all that it missed. What came of the try is a record, and counts from where that stands.
//!
//! Then it catches up. Somebody reads what it missed out of the log, in slices, and appends each as a redo, which is
//! evaluated as any other, between the records of everybody else ([`crate::catch_up`]). Rows that come meanwhile are
//! missed as well; those that came while the last slice was on its way are kept in memory, and evaluated with it. So
//! there is one place in the log at which the rule is level and goes on, and each row is evaluated once.

use std::collections::BTreeMap;
use std::sync::Arc;

use watchfire_log::{Breaker, BreakerChange, Record, Redo, Slice};
use watchfire_model::breaker::OnRecovery;
use watchfire_model::call::{CallFailure, Callback, DeviceSet, FailureKind, Rows};
use watchfire_model::{Duration, Offset, RuleVersion, Timestamp};
use watchfire_telemetry::metrics;

use super::call::Of;
use super::{Here, Output, Partition};
use crate::breaker::{Missed, Outage, Window};
use crate::rule::Rule;
use crate::status::{BreakerStatus, RuleEventKind};

/// A rule that waits for a slice of what it missed.
#[derive(Clone, Debug)]
pub(crate) struct Behind {
    pub rule: Arc<str>,
    pub version: RuleVersion,
    pub stream: Arc<str>,
    /// What it misses begins here ...
    pub from: Offset,
    /// ... and what was evaluated ends here.
    pub upto: Offset,
    /// Since this record its version and what it selects are as they are.
    pub as_of: Offset,
    pub selected: Arc<DeviceSet>,
    /// Patterns; empty: all.
    pub metrics: Arc<[String]>,
    /// It was not out, but another version ran that was taken back.
    pub taken_back: bool,
}

/// Where a version was left.
#[derive(Clone, Copy)]
pub(super) struct Left {
    /// The record at which it was.
    pub offset: Offset,
    /// Where what it missed then begins, if it was out or caught up.
    pub missed: Option<Offset>,
}

/// What the log has to keep for a rule: everything from here on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub rule: Arc<str>,
    pub from: Offset,
    /// As of [`Behind`].
    pub taken_back: bool,
}

impl Partition {
    /// Takes a rule out.
    pub(super) fn open(&mut self, here: Here, rule: &mut Rule, change: &BreakerChange) {
        let BreakerChange::Opened { why, kind, reason, wait, .. } = change else { return };
        self.stand_still(rule);
        let before = rule.outage.take();
        let outage = Outage {
            since: before.as_ref().map_or(here.time, |before| before.since),
            why: why.clone(),
            kind: *kind,
            reason: reason.clone(),
            retry_at: Some(here.time + *wait),
            wait: *wait,
            tries: before.as_ref().map_or(0, |before| before.tries),
            missed: before.as_ref().map_or_else(Missed::default, |before| before.missed),
            as_of: before.as_ref().map_or(0, |before| before.as_of),
            taken_back: false,
            choice: before.and_then(|before| before.choice),
        };
        rule.outage = Some(Box::new(outage));
        rule.window = Window::default();
        rule.tail.begin(here.position.offset + 1);
        rule.trying = false;
        rule.instance = None;
        rule.dirty.head = true;
        self.event(here, rule, here.time, || RuleEventKind::BreakerOpened { reason: reason.clone() });
        if !here.replay {
            metrics().rules.breaker_opened.get_or_create(&[("rule", rule.name.to_string())]).inc();
            tracing::error!(
                rule = %rule.name, position = %here.position, %wait,
                "the rule is out, {why}; the last one said: {reason}"
            );
        }
    }

    /// Rows that a rule does not see because it is out, or not yet because it catches up.
    pub(super) fn missed(&mut self, here: Here, rule: &mut Rule, callback: Callback, out: &mut Vec<Output>) {
        // Nothing else is due in a rule that stands.
        let (Callback::Batch(rows), Some(outage)) = (callback, &mut rule.outage) else { return };
        outage.missed.note(here.position.offset, rows.len());
        rule.dirty.head = true;
        let retry_at = outage.retry_at;
        if !here.replay {
            let label = [("rule", rule.name.to_string())];
            metrics().rules.missed_rows.get_or_create(&label).inc_by(rows.len() as u64);
        }
        let Some(retry_at) = retry_at else { return rule.tail.push(here.position.offset, rows) };
        // A try is no part of a replay: what came of it is in the log, or it did not come to anything.
        if !here.replay && !rule.paused && !rule.trying && here.time >= retry_at {
            self.try_again(here, rule, rows, out);
        }
    }

    fn try_again(&mut self, here: Here, rule: &mut Rule, rows: Arc<Rows>, out: &mut Vec<Output>) {
        let Some(outage) = &rule.outage else { return };
        let wait = rule.spec.breaker.wait_after(outage.wait);
        let limits = rule.spec.limits.clone();
        let begun = self.tries.as_mut().map_or(Ok(()), |tries| tries.begin(&rule.name, rule.version));
        let tried = match begun {
            Ok(()) => {
                let (tried, _) = self.try_call(rule, here.time, rows, limits, false);
                if let Some(tries) = &mut self.tries {
                    tries.end(&rule.name);
                }
                tried
            }
            Err(message) => Err(CallFailure::new(FailureKind::Trapped, message)),
        };
        let change = match tried {
            Ok(()) => BreakerChange::Closed,
            Err(failure) => BreakerChange::StaysOpen { kind: failure.kind, reason: failure.message, wait },
        };
        rule.trying = true;
        let (rule, version) = (rule.name.to_string(), rule.version);
        out.push(Output::Own(Record::Breaker(Box::new(Breaker { rule, version, change }))));
    }

    /// What the log says of a breaker, at its place.
    pub(super) fn breaker_changed(&mut self, here: Here, breaker: &Breaker) {
        let Some(&id) = self.rule_ids.get(breaker.rule.as_str()) else { return };
        self.with_rule(id, |partition, rule| {
            let Some(outage) = &mut rule.outage else { return };
            match &breaker.change {
                // It opened where it says.
                BreakerChange::Opened { .. } => {}
                BreakerChange::Lost { range } => {
                    let from = outage.missed.from.filter(|from| *from < range.next);
                    let Some(from) = from else { return };
                    outage.missed.from = Some(range.next);
                    outage.missed.lost += range.next - from;
                    rule.dirty.head = true;
                }
                // Another version was tried, and is not what runs.
                _ if rule.version != breaker.version || !outage.is_open() => {}
                BreakerChange::StaysOpen { kind, reason, wait } => {
                    (outage.kind, outage.reason, outage.wait) = (*kind, reason.clone(), *wait);
                    outage.retry_at = Some(here.time + *wait);
                    outage.tries += 1;
                    (rule.trying, rule.dirty.head) = (false, true);
                }
                BreakerChange::Closed => partition.close(here, rule),
            }
        });
    }

    /// The breaker closes: the rule catches up, or goes on.
    fn close(&mut self, here: Here, rule: &mut Rule) {
        let Some(outage) = &mut rule.outage else { return };
        outage.retry_at = None;
        (rule.trying, rule.dirty.head, rule.window) = (false, true, Window::default());
        let choice = outage.choice.unwrap_or(rule.spec.breaker.on_recovery);
        if choice == OnRecovery::CatchUp && outage.missed.from.is_some() {
            rule.tail.begin(here.position.offset + 1);
        } else {
            self.recover(here, rule);
        }
        self.event(here, rule, here.time, || RuleEventKind::BreakerClosed);
    }

    /// Another version runs: it has not failed yet. Of another stream it has missed nothing.
    pub(super) fn repaired(&mut self, here: Here, rule: &mut Rule, other_stream: bool) {
        (rule.window, rule.trying) = (Window::default(), false);
        selects_otherwise(here, rule);
        match &mut rule.outage {
            None => {}
            Some(_) if other_stream => self.recover(here, rule),
            Some(outage) if outage.is_open() => self.close(here, rule),
            // It may select other rows than those that were kept.
            Some(_) => rule.tail.begin(here.position.offset + 1),
        }
    }

    /// A version that comes back because the one behind it was taken back has missed what came since it was left, and
    /// before that what it missed while it was out: it catches up with all of it.
    pub(super) fn fall_behind(&mut self, here: Here, rule: &mut Rule, left: Left, withdrawn: RuleVersion) {
        let (from, was_out) = match left.missed {
            Some(from) => (from, true),
            None => (left.offset + 1, false),
        };
        if from >= here.position.offset {
            return;
        }
        self.stand_still(rule);
        let reason = format!("version {withdrawn} was taken back, because it could not start everywhere");
        rule.outage = Some(Box::new(Outage {
            since: here.time,
            why: reason.clone(),
            kind: FailureKind::Refused,
            reason,
            retry_at: None,
            wait: Duration::ZERO,
            tries: 0,
            missed: Missed { from: Some(from), ..Missed::default() },
            as_of: here.position.offset + 1,
            taken_back: !was_out,
            choice: Some(OnRecovery::CatchUp),
        }));
        rule.tail.begin(here.position.offset + 1);
        rule.dirty.head = true;
    }

    /// What an operator wants to become of what a rule missed.
    pub(super) fn choose(&mut self, here: Here, name: &str, choice: OnRecovery) {
        let Some(&id) = self.rule_ids.get(name) else { return };
        self.with_rule(id, |partition, rule| {
            let Some(outage) = &mut rule.outage else { return };
            rule.dirty.head = true;
            match choice {
                OnRecovery::CatchUp => {
                    outage.choice = Some(OnRecovery::CatchUp);
                    if outage.is_open() {
                        outage.retry_at = Some(here.time);
                    }
                }
                OnRecovery::Skip if outage.is_open() => outage.missed = Missed::default(),
                OnRecovery::Skip => partition.recover(here, rule),
            }
        });
    }

    /// A slice of what a rule missed. It counts only where it begins with what the rule misses next, and was chosen for
    /// the rule as it is.
    pub(super) fn slice(&mut self, here: Here, redo: &Redo, range: Slice, out: &mut Vec<Output>) {
        let Some(&id) = self.rule_ids.get(redo.rule.as_str()) else { return };
        self.with_rule(id, |partition, rule| {
            let Some(outage) = &mut rule.outage else { return };
            let wanted = !rule.paused && !outage.is_open() && outage.missed.from == Some(range.from);
            if !wanted || range.next <= range.from || range.as_of < outage.as_of {
                return;
            }
            outage.missed.from = Some(range.next);
            rule.dirty.head = true;
            let rows = partition.rows_of_redo(rule, redo);
            partition.catch_up_with(here, rule, rows, Of::Redo, out);
            if !rule.tail.reaches(range.next) {
                return;
            }
            // What came behind it until now is at hand: with that the rule is level.
            while !rule.is_open() {
                let Some((offset, rows)) = rule.tail.pop() else { return partition.recover(here, rule) };
                if offset < range.next {
                    continue;
                }
                if let Some(outage) = &mut rule.outage {
                    outage.missed.from = Some(offset + 1);
                }
                let rows = partition.still_selected(rule, &rows);
                partition.catch_up_with(here, rule, rows, Of::Earlier(offset), out);
            }
        });
    }

    fn catch_up_with(
        &mut self,
        here: Here,
        rule: &mut Rule,
        rows: Option<Arc<Rows>>,
        of: Of,
        out: &mut Vec<Output>,
    ) {
        let Some(rows) = rows else { return };
        let count = rows.len() as u64;
        if let Some(outage) = &mut rule.outage {
            outage.missed.caught_up += count;
        }
        if !here.replay {
            let label = [("rule", rule.name.to_string())];
            metrics().rules.caught_up_rows.get_or_create(&label).inc_by(count);
        }
        self.call_rule(here, rule, Callback::Batch(rows), here.time, of, out);
    }

    /// The rows of devices that are still selected; `None`: none.
    fn still_selected(&self, rule: &Rule, rows: &Arc<Rows>) -> Option<Arc<Rows>> {
        let selections = &self.streams[rule.stream].selections;
        let devices = (0_u32..).zip(rows.devices());
        let left: Vec<u32> = devices
            .filter(|(_, device)| selections.contains(rule.group, **device))
            .map(|(row, _)| row)
            .collect();
        match left.len() {
            0 => None,
            all if all == rows.len() => Some(rows.clone()),
            _ => Some(Arc::new(rows.pick(&left))),
        }
    }

    /// The rule is level, or what it missed is passed over: it goes on with what comes.
    fn recover(&mut self, here: Here, rule: &mut Rule) {
        rule.outage = None;
        rule.tail.begin(here.position.offset + 1);
        rule.dirty.head = true;
        if !rule.paused {
            self.go_on(here, rule);
        }
        if !here.replay {
            tracing::info!(rule = %rule.name, position = %here.position, "the rule is back");
        }
        self.event(here, rule, here.time, || RuleEventKind::Recovered);
    }

    /// A rule that is paused is not called, and nothing goes on in it: timers and silence wait until it is
    /// resumed, delays of conditions begin anew then, since nobody looked meanwhile, and schedules that were missed
    /// are. The same holds for one that is out. A pause of such a one only keeps it from being tried and from catching
    /// up: what comes meanwhile it misses as before.
    pub(super) fn pause(&mut self, here: Here, name: &str, paused: bool) {
        let Some(&id) = self.rule_ids.get(name) else { return };
        self.with_rule(id, |partition, rule| {
            if std::mem::replace(&mut rule.paused, paused) == paused {
                return;
            }
            rule.dirty.head = true;
            if paused {
                partition.stand_still(rule);
            } else if rule.outage.is_none() {
                partition.go_on(here, rule);
            }
        });
    }

    fn stand_still(&mut self, rule: &mut Rule) {
        self.due.remove_rule(rule.id);
        rule.delays.clear();
    }

    fn go_on(&mut self, here: Here, rule: &mut Rule) {
        for schedule in &mut rule.schedules {
            schedule.next = schedule.cron.next_after(here.time);
        }
        for timer in rule.timers.values_mut() {
            timer.due = timer.due.max(Timestamp(here.time.0.saturating_add(1)));
        }
        rule.dirty.timers = true;
        self.begin_delays_anew(here, rule);
        self.wire(here.time, rule);
    }

    /// Nobody looked until now: what is pending begins again. Clocks of devices went on meanwhile, so a delay would be
    /// over by the first look without anybody having seen the condition stand for so long.
    pub(super) fn begin_delays_anew(&self, here: Here, rule: &mut Rule) {
        for (device, conditions) in &mut rule.conditions {
            let Some(track) = self.streams[rule.stream].tracks.get(device.0 as usize) else { continue };
            for (_, condition) in conditions {
                condition.begin_delay_anew(track.clock_at(here.time));
            }
        }
        rule.dirty.conditions = true;
    }

    /// The rules that wait for a slice.
    pub(crate) fn behind(&self) -> Vec<Behind> {
        let of = |rule: &Rule| {
            let outage = rule.outage.as_ref().filter(|outage| !outage.is_open() && !rule.paused)?;
            let stream = &self.streams[rule.stream];
            Some(Behind {
                rule: rule.name.clone(),
                version: rule.version,
                stream: stream.name.clone(),
                from: outage.missed.from?,
                upto: self.next,
                as_of: outage.as_of,
                selected: stream.selections.devices(rule.group),
                metrics: rule.subscription.metrics.as_slice().into(),
                taken_back: outage.taken_back,
            })
        };
        self.rules.iter().flatten().filter_map(|rule| of(rule)).collect()
    }

    /// What the log has to keep for rules that are out or catch up.
    pub(crate) fn needed(&self) -> Vec<Kept> {
        let of = |rule: &Rule| {
            let outage = rule.outage.as_ref()?;
            Some(Kept { rule: rule.name.clone(), from: outage.missed.from?, taken_back: outage.taken_back })
        };
        self.rules.iter().flatten().filter_map(|rule| of(rule)).collect()
    }

    /// Rules whose breaker is open (1), and those that catch up (2).
    pub(crate) fn breakers(&self) -> BTreeMap<String, i64> {
        let state = |outage: &Outage| if outage.is_open() { 1 } else { 2 };
        let of = |rule: &Rule| Some((rule.name.to_string(), state(rule.outage.as_deref()?)));
        self.rules.iter().flatten().filter_map(|rule| of(rule)).collect()
    }

    /// The version of a rule that runs here.
    pub(crate) fn version_of(&self, rule: &str) -> Option<watchfire_model::RuleVersion> {
        let id = self.rule_ids.get(rule)?;
        self.rules[id.0 as usize].as_ref().map(|rule| rule.version)
    }

    /// What is to be said of the breaker of a rule, unless it is closed and the rule level.
    pub(super) fn breaker_status(&self, rule: &Rule) -> Option<BreakerStatus> {
        let outage = rule.outage.as_deref()?;
        let missed = outage.missed;
        Some(BreakerStatus {
            since: outage.since,
            why: outage.why.clone(),
            kind: outage.kind,
            reason: outage.reason.clone(),
            retry_at: outage.retry_at,
            tries: outage.tries,
            from: missed.from,
            upto: self.next,
            records: missed.records,
            rows: missed.rows,
            caught_up: missed.caught_up,
            lost: missed.lost,
            on_recovery: outage.choice.unwrap_or(rule.spec.breaker.on_recovery),
        })
    }
}

/// The version of a rule or the devices that it selects are others from here on.
pub(super) fn selects_otherwise(here: Here, rule: &mut Rule) {
    if let Some(outage) = &mut rule.outage {
        outage.as_of = here.position.offset + 1;
        rule.dirty.head = true;
    }
}
