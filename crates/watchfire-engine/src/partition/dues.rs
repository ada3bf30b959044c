//! What runs because its time has come.

use watchfire_model::call::{Callback, SilentDevice, Timer};
use watchfire_model::{DeviceHandle, Duration, Timestamp};

use super::call::Of;
use super::{Here, Output, Partition};
use crate::due::{Due, Kind};
use crate::rule::{Rule, RuleId};
use crate::stream::{REPORTED, SILENT};

impl Partition {
    /// Runs what is due by the time of the record, in order.
    pub(super) fn run_due(&mut self, here: Here, out: &mut Vec<Output>) {
        while let Some(due) = self.due.pop(here.time) {
            match due.kind {
                Kind::Timer => self.timers(here, due, out),
                Kind::Delay => {
                    self.with_rule(due.rule, |partition, rule| {
                        rule.delays.remove(&due.device);
                        partition.advance(here, rule, due.device, None, due.at, out);
                    });
                }
                Kind::Silence => self.silence(here, due, out),
                Kind::Schedule => self.schedule(here, due, out),
            }
        }
    }

    /// When, by the time of the log, something is due next. Puts right what was noted too early.
    pub fn next_due(&mut self) -> Option<Timestamp> {
        let end = self.external.next_end();
        let due = self.next_due_of_rules();
        due.into_iter().chain(end).min()
    }

    fn next_due_of_rules(&mut self) -> Option<Timestamp> {
        loop {
            let first = self.due.first()?;
            let actual = match first.kind {
                Kind::Timer | Kind::Schedule => return Some(first.at),
                Kind::Delay => self.delay_due(first),
                Kind::Silence => self.silence_due(first.rule, first.device).map(|due| due.max(first.at)),
            };
            if actual == Some(first.at) {
                return actual;
            }
            self.due.remove(&first);
            if let Some(rule) = self.rules.get_mut(first.rule.0 as usize).and_then(Option::as_mut)
                && first.kind == Kind::Delay
            {
                rule.delays.remove(&first.device);
                if let Some(at) = actual {
                    rule.delays.insert(first.device, at);
                }
            }
            if let Some(at) = actual {
                self.due.push(Due { at, ..first });
            }
        }
    }

    fn delay_due(&self, due: Due) -> Option<Timestamp> {
        let rule = self.rules.get(due.rule.0 as usize)?.as_ref()?;
        let track = self.streams[rule.stream].tracks.get(due.device.0 as usize)?;
        let conditions = rule.conditions.get(&due.device)?.iter();
        let next =
            conditions.filter_map(|(key, condition)| condition.due(rule.spec.condition.of(key))).min()?;
        Some(track.log_time_of(next).max(due.at))
    }

    fn timers(&mut self, here: Here, due: Due, out: &mut Vec<Output>) {
        let mut all = vec![due];
        while let Some(next) = self.due.pop_like(&due) {
            all.push(next);
        }
        self.with_rule(due.rule, |partition, rule| {
            let timers: Vec<Timer> = all
                .iter()
                .filter_map(|due| {
                    let set = rule.timers.remove(&(due.device, due.tag))?;
                    Some(Timer { device: due.device, tag: due.tag, at: set.at })
                })
                .collect();
            rule.dirty.timers = true;
            if !timers.is_empty() {
                partition.call_rule(here, rule, Callback::Timers(timers), due.at, Of::Here, out);
            }
        });
    }

    fn silence(&mut self, here: Here, first: Due, out: &mut Vec<Output>) {
        let mut silent = Vec::new();
        let mut next = Some(first);
        while let Some(due) = next {
            match self.silence_due(due.rule, due.device) {
                // It was heard of meanwhile.
                Some(at) if at > due.at => self.due.push(Due { at, ..due }),
                Some(_) => silent.push(due.device),
                None => {}
            }
            next = self.due.pop_like(&first);
        }
        self.with_rule(first.rule, |partition, rule| {
            let stream = &mut partition.streams[rule.stream];
            let mut devices = Vec::with_capacity(silent.len());
            for device in silent {
                rule.silent.set(device, true);
                if let Some(track) = stream.tracks.get_mut(device.0 as usize) {
                    track.flags |= SILENT;
                    let last = (track.flags & REPORTED != 0).then_some(track.event);
                    devices.push(SilentDevice { device, last });
                }
            }
            rule.dirty.head = true;
            if !devices.is_empty() {
                partition.call_rule(here, rule, Callback::Silence(devices), first.at, Of::Here, out);
            }
        });
    }

    /// When a device counts as silent for a rule; `None`: never, or it is already.
    fn silence_due(&self, rule: RuleId, device: DeviceHandle) -> Option<Timestamp> {
        let rule = self.rules.get(rule.0 as usize)?.as_ref()?;
        self.silence_of(rule, device)
    }

    pub(super) fn silence_of(&self, rule: &Rule, device: DeviceHandle) -> Option<Timestamp> {
        let stream = &self.streams[rule.stream];
        if rule.silent.contains(device) || !stream.selections.contains(rule.group, device) {
            return None;
        }
        let patience = rule.patience(self.registry.get(device)?.spec.interval)?;
        Some(stream.tracks.get(device.0 as usize)?.reference + patience)
    }

    /// Begins to wait for a device to fall silent: at a later record than this one.
    pub(super) fn watch_silence(&mut self, now: Timestamp, rule: &Rule, device: DeviceHandle) {
        if rule.stands() {
            return;
        }
        if let Some(at) = self.silence_of(rule, device) {
            let at = at.max(Timestamp(now.0.saturating_add(1)));
            self.due.push(Due { at, kind: Kind::Silence, rule: rule.id, device, tag: 0 });
        }
    }

    /// A device that is silent for some rule has reported.
    pub(super) fn end_silence(&mut self, place: usize, device: DeviceHandle) {
        let Some(track) = self.streams[place].tracks.get_mut(device.0 as usize) else { return };
        if track.flags & SILENT == 0 {
            return;
        }
        track.flags &= !SILENT;
        let heard = track.reference;
        for id in self.streams[place].silence.clone() {
            self.with_rule(id, |partition, rule| {
                if rule.silent.set(device, false) {
                    rule.dirty.head = true;
                    partition.watch_silence(heard, rule, device);
                }
            });
        }
    }

    fn schedule(&mut self, here: Here, due: Due, out: &mut Vec<Output>) {
        self.with_rule(due.rule, |partition, rule| {
            let Some(schedule) = rule.schedules.get_mut(due.tag as usize) else { return };
            if schedule.next != Some(due.at) {
                return;
            }
            rule.dirty.head = true;
            // Of those that were missed only the latest counts, at its own place in the order.
            if let Some(latest) = schedule.cron.last_until(due.at, here.time) {
                schedule.next = Some(latest);
                partition.due.push(Due { at: latest, ..due });
                return;
            }
            let name = schedule.name.clone();
            schedule.next = schedule.cron.next_after(due.at);
            if let Some(at) = schedule.next {
                partition.due.push(Due { at, ..due });
            }
            let callback = Callback::Schedule { name, at: due.at };
            partition.call_rule(here, rule, callback, due.at, Of::Here, out);
        });
    }

    /// Our own downtime: silence, delays and what others have to say again count that much less. What is noted of them is then too early,
    /// which is found out when its time comes.
    pub(super) fn shift(&mut self, span: Duration) {
        for stream in &mut self.streams {
            stream.shift(span);
        }
        self.external.shift(span);
    }
}
