//! Control records: registry, rules, and what operators do to conditions.

use std::collections::BTreeMap;
use std::sync::Arc;

use watchfire_log::Record;
use watchfire_model::alert::{Cause, ResolveReason};
use watchfire_model::call::{
    CallFailure, DeviceSet, FailureKind, Instance, Module, Schedule, Setup, Silence, Subscription,
};
use watchfire_model::{
    Control, DeviceHandle, DeviceSpec, KeyedState, OnRecovery, PartitionId, RuleSpec, RuleVersion,
};

use super::breaker::selects_otherwise;
use super::call::load_failure;
use super::versions::{Back, Begin, Restored};
use super::{Here, Output, Partition, search};
use crate::breaker::{Tail, Window};
use crate::cron::Cron;
use crate::due::{Due, Kind};
use crate::rule::{Dirty, Rule, RuleId, RunningSchedule};
use crate::selection::Move;
use crate::snapshot::{Snapshot, Snapshots};
use crate::status::{RuleEventKind, RuleStats};
use crate::stream::Track;

/// What a version needs to run, made before anything is changed.
pub(super) struct Prepared {
    /// `None`: it is started when it is called first.
    started: Option<(Arc<dyn Module>, Box<dyn Instance>)>,
    subscription: Subscription,
    schedules: Vec<ReadSchedule>,
    /// What it goes on with; `None`: what is there.
    state: Option<KeyedState>,
    state_version: u32,
}

/// A schedule: its name, as it was written with its zone, and read.
type ReadSchedule = (String, (String, Option<String>), Cron);

fn read_schedules(subscription: &Subscription) -> Result<Vec<ReadSchedule>, CallFailure> {
    let read = |schedule: &Schedule| {
        let cron = Cron::parse(&schedule.cron, schedule.zone.as_deref())
            .map_err(|error| CallFailure::new(FailureKind::Refused, error.to_string()))?;
        Ok((schedule.name.clone(), (schedule.cron.clone(), schedule.zone.clone()), cron))
    };
    subscription.schedules.iter().map(read).collect()
}

impl Partition {
    pub(super) fn control(&mut self, here: Here, control: &Control, out: &mut Vec<Output>) {
        match control {
            Control::DevicesPut { devices, .. } => {
                for spec in devices {
                    self.put_device(here, spec, out);
                }
            }
            Control::DeviceDeleted { id, .. } => self.delete_device(here, id, out),
            Control::RuleDeployed { spec, version, discard_state, .. } => {
                self.deploy(here, spec, *version, *discard_state, out);
            }
            Control::RuleRolledBack { name, from, to, version, spec, state, .. } => {
                let back = Back { name, from: *from, to: *to, version: *version, state: *state };
                self.roll_back(here, back, spec.as_deref(), out);
            }
            Control::RulePaused { name, .. } => self.pause(here, name, true),
            Control::RuleResumed { name, .. } => self.pause(here, name, false),
            Control::RuleRemoved { name, .. } => self.remove_rule(here, name, out),
            Control::RuleCatchUp { name, .. } => self.choose(here, name, OnRecovery::CatchUp),
            Control::RuleMissedSkipped { name, .. } => self.choose(here, name, OnRecovery::Skip),
            Control::ConditionCleared { rule, device, key, force, .. } => {
                self.clear_condition(here, rule, device, key, *force, out);
            }
        }
    }

    fn put_device(&mut self, here: Here, spec: &DeviceSpec, out: &mut Vec<Output>) {
        let owner = PartitionId::of(&spec.id, self.setup.partitions);
        if owner != self.setup.id {
            let foreign = &mut self.foreign[usize::from(owner.0)];
            if !foreign.handles.contains_key(spec.id.as_str()) {
                foreign.handles.insert(spec.id.as_str().into(), foreign.next);
                foreign.next += 1;
                self.foreign_dirty = true;
            }
            return;
        }
        let known = self.registry.find(&spec.id).and_then(|handle| self.registry.get(handle)).cloned();
        let (handle, new) = Arc::make_mut(&mut self.registry).put(spec.clone());
        self.dirty_devices.set(handle, true);
        if new {
            for stream in &mut self.streams {
                stream.tracks.push(Track::registered(here.time));
            }
        }
        self.reselect(here, handle, Some(spec), out);
        // Another interval, and silence comes at another time.
        if known.is_some_and(|known| known.spec.interval != spec.interval) {
            for id in self.rule_ids() {
                self.with_rule(id, |partition, rule| {
                    if rule.subscription.silence == Silence::Registry {
                        partition.watch_silence(here.time, rule, handle);
                    }
                });
            }
        }
    }

    fn delete_device(&mut self, here: Here, id: &str, out: &mut Vec<Output>) {
        let owner = PartitionId::of(id, self.setup.partitions);
        if owner != self.setup.id {
            self.foreign_dirty |= self.foreign[usize::from(owner.0)].handles.remove(id).is_some();
            return;
        }
        let Some(handle) = self.registry.find(id) else { return };
        for rule in self.rule_ids() {
            self.with_rule(rule, |partition, rule| {
                partition.leave(here, rule, handle, ResolveReason::DeviceDeleted, out);
                rule.state.remove_device(handle);
                rule.snapshots.forget(handle);
            });
        }
        Arc::make_mut(&mut self.registry).delete(id);
        self.dirty_devices.set(handle, true);
        self.deleted.set(handle, true);
        self.values.remove(handle);
        self.reselect(here, handle, None, out);
    }

    /// Puts a device into the groups whose selectors take it, and takes it out of the others.
    fn reselect(
        &mut self,
        here: Here,
        device: DeviceHandle,
        spec: Option<&DeviceSpec>,
        out: &mut Vec<Output>,
    ) {
        for place in 0..self.streams.len() {
            let moves = self.streams[place].selections.set_device(device, spec);
            for Move { group, member } in moves {
                for id in self.streams[place].selections.rules(group) {
                    self.with_rule(id, |partition, rule| {
                        selects_otherwise(here, rule);
                        if member {
                            partition.watch_silence(here.time, rule, device);
                        } else {
                            partition.leave(here, rule, device, ResolveReason::Deselected, out);
                        }
                    });
                }
            }
        }
    }

    /// A device is no longer a rule's: its alerts end, its timers are cancelled, its state stays.
    fn leave(
        &mut self,
        here: Here,
        rule: &mut Rule,
        device: DeviceHandle,
        reason: ResolveReason,
        out: &mut Vec<Output>,
    ) {
        self.end_conditions(here, rule, Some(device), reason, out);
        let timers: Vec<_> =
            rule.timers.range((device, 0)..=(device, u32::MAX)).map(|(k, t)| (*k, *t)).collect();
        for (key, timer) in timers {
            rule.timers.remove(&key);
            rule.dirty.timers = true;
            self.due.remove(&Due { at: timer.due, kind: Kind::Timer, rule: rule.id, device, tag: key.1 });
        }
        if rule.silent.set(device, false) {
            rule.dirty.head = true;
        }
    }

    pub(super) fn deploy(
        &mut self,
        here: Here,
        spec: &RuleSpec,
        version: RuleVersion,
        discard_state: bool,
        out: &mut Vec<Output>,
    ) {
        let recorded = self.known.activation(here.position.offset, &spec.name, version);
        let result = match &recorded {
            Some(Err(reason)) => Err(load_failure(reason.clone())),
            _ => {
                let begin = if discard_state { Begin::Empty } else { Begin::Present };
                self.prepare(here, spec, begin)
            }
        };
        match result {
            Ok(prepared) => {
                let spec = Arc::new(spec.clone());
                self.leave_version(here, &spec);
                self.activate(here, spec, version, prepared, None, recorded.is_none(), out);
            }
            Err(failure) => self.refuse(here, &spec.name, version, failure, recorded, out),
        }
    }

    pub(super) fn refuse(
        &mut self,
        here: Here,
        name: &str,
        version: RuleVersion,
        failure: CallFailure,
        recorded: Option<Result<(), String>>,
        out: &mut Vec<Output>,
    ) {
        let reason = failure.message;
        match recorded {
            None => {
                tracing::warn!(rule = name, version, position = %here.position, "refused: {reason}");
                let (rule, offset) = (name.into(), here.position.offset);
                let record = Record::Refused { rule, version, offset, reason: reason.clone() };
                out.push(Output::Own(record));
            }
            // It was activated once and cannot be now: a module that is gone, or another release. What
            // follows of it will fail and be told; the alerts that it raised stand.
            Some(Ok(())) => {
                tracing::error!(rule = name, version, position = %here.position, "was active and cannot start: {reason}");
            }
            Some(Err(_)) => {}
        }
        if let Some(&id) = self.rule_ids.get(name) {
            self.with_rule(id, |partition, rule| {
                partition.event(here, rule, here.time, || RuleEventKind::Refused { reason });
            });
        }
    }

    /// Starts a version and migrates the state to it, and changes nothing yet.
    pub(super) fn prepare(&self, here: Here, spec: &RuleSpec, begin: Begin) -> Result<Prepared, CallFailure> {
        let module = self.setup.modules.get(spec.module)?;
        let setup = Setup {
            rule: spec.name.clone(),
            parameters: Arc::new(spec.parameters.clone()),
            limits: spec.limits.clone(),
            replay: here.replay,
        };
        let (instance, subscription) = module.start(&setup)?;
        let schedules = read_schedules(&subscription)?;
        let state_version = module.manifest().state_version;
        let old = self.rule_ids.get(spec.name.as_str());
        let state = match old.and_then(|id| self.rules[id.0 as usize].as_ref()) {
            Some(old) => self.carry(&*module, spec, old, begin)?,
            None => None,
        };
        Ok(Prepared { started: Some((module, instance)), subscription, schedules, state, state_version })
    }

    /// What a version needs that was left a moment ago, and was not to be: nothing of it can fail.
    pub(super) fn prepare_again(snapshot: &Snapshot) -> Prepared {
        Prepared {
            started: None,
            subscription: snapshot.subscription.clone(),
            // They were read when the version started.
            schedules: read_schedules(&snapshot.subscription).unwrap_or_default(),
            state: Some(snapshot.state.clone()),
            state_version: snapshot.state_version,
        }
    }

    /// Swaps a version in; with `restored`, timers, silence and conditions as they were when it was left. `new`: that is
    /// a record, before everything that comes of it.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn activate(
        &mut self,
        here: Here,
        spec: Arc<RuleSpec>,
        version: RuleVersion,
        prepared: Prepared,
        restored: Option<Restored>,
        new: bool,
        out: &mut Vec<Output>,
    ) {
        if new {
            let (rule, offset) = (spec.name.clone(), here.position.offset);
            out.push(Output::Own(Record::Activated { rule, version, offset }));
        }
        let name: Arc<str> = spec.name.as_str().into();
        let stream = self.stream(&spec.input, here.time);
        let id = match self.rule_ids.get(&name) {
            Some(&id) => id,
            None => {
                let id = RuleId(self.rules.len() as u32);
                self.rules.push(Some(Box::new(Rule {
                    id,
                    name: name.clone(),
                    version,
                    spec: spec.clone(),
                    parameters: Arc::default(),
                    module: None,
                    instance: None,
                    subscription: Subscription::default(),
                    paused: false,
                    outage: None,
                    stream: usize::MAX,
                    group: 0,
                    state: KeyedState::new(),
                    state_version: prepared.state_version,
                    conditions: BTreeMap::new(),
                    delays: BTreeMap::new(),
                    timers: BTreeMap::new(),
                    silent: DeviceSet::default(),
                    schedules: Vec::new(),
                    snapshots: Snapshots::default(),
                    callbacks: (0, 0),
                    credit: search::CREDIT,
                    dirty: Dirty::ALL,
                    stats: RuleStats::default(),
                    wasted: 0,
                    window: Window::default(),
                    tail: Tail::default(),
                    trying: false,
                })));
                self.rule_ids.insert(name, id);
                id
            }
        };
        self.with_rule(id, |partition, rule| {
            let existed = rule.stream != usize::MAX;
            let before = existed.then(|| partition.unwire(rule));
            let other_stream = existed && rule.stream != stream;
            if let Some(state) = prepared.state {
                rule.state = state;
            }
            rule.state_version = prepared.state_version;
            (rule.version, rule.spec) = (version, spec.clone());
            rule.parameters = Arc::new(spec.parameters.clone());
            (rule.module, rule.instance) = prepared.started.unzip();
            let silence = rule.subscription.silence == prepared.subscription.silence;
            rule.subscription = prepared.subscription;
            if !silence {
                rule.silent = DeviceSet::default();
            }
            let old = std::mem::take(&mut rule.schedules);
            rule.schedules = prepared
                .schedules
                .into_iter()
                .map(|(name, text, cron)| {
                    // One that stays keeps its next time, also where it was missed.
                    let kept = old.iter().find(|old| old.name == name && old.text == text);
                    let next = kept.map_or_else(|| cron.next_after(here.time), |kept| kept.next);
                    RunningSchedule { name, text, cron, next }
                })
                .collect();
            rule.dirty = Dirty::ALL;
            rule.group = partition.streams[stream].selections.add(
                rule.id,
                &spec.select,
                &rule.subscription.metrics,
                &partition.registry,
            );
            rule.stream = stream;
            if let Some(before) = before {
                let now = partition.streams[stream].selections.devices(rule.group);
                let left: Vec<_> = before.iter_from(0).filter(|device| !now.contains(*device)).collect();
                for device in left {
                    partition.leave(here, rule, device, ResolveReason::Deselected, out);
                }
            }
            // By the selection of the version that comes back.
            if let Some(restored) = restored {
                partition.restore(here, rule, restored, out);
            }
            partition.wire(here.time, rule);
            partition.repaired(here, rule, other_stream);
            partition.event(here, rule, here.time, || RuleEventKind::Activated);
        });
    }

    /// Takes a rule out of everything that refers to it; gives the devices that it selected.
    fn unwire(&mut self, rule: &mut Rule) -> Arc<DeviceSet> {
        let stream = &mut self.streams[rule.stream];
        let devices = stream.selections.devices(rule.group);
        stream.selections.remove(rule.id, rule.group);
        stream.silence.retain(|other| *other != rule.id);
        let dated: Vec<_> = rule.conditions.keys().copied().collect();
        for device in dated {
            stream.set_dated(device, rule.id, false);
        }
        rule.delays.clear();
        self.due.remove_rule(rule.id);
        devices
    }

    /// Notes everything that a rule waits for.
    pub(super) fn wire(&mut self, now: watchfire_model::Timestamp, rule: &mut Rule) {
        use crate::stream::SILENT;
        let devices = self.streams[rule.stream].selections.devices(rule.group);
        if rule.subscription.silence != Silence::Off {
            if let Err(place) = self.streams[rule.stream].silence.binary_search(&rule.id) {
                self.streams[rule.stream].silence.insert(place, rule.id);
            }
            for device in devices.iter_from(0) {
                if rule.silent.contains(device) {
                    if let Some(track) = self.streams[rule.stream].tracks.get_mut(device.0 as usize) {
                        track.flags |= SILENT;
                    }
                } else {
                    self.watch_silence(now, rule, device);
                }
            }
        }
        if rule.stands() {
            return;
        }
        for (key, timer) in &rule.timers {
            self.due.push(Due { at: timer.due, kind: Kind::Timer, rule: rule.id, device: key.0, tag: key.1 });
        }
        for (place, schedule) in rule.schedules.iter().enumerate() {
            if let Some(at) = schedule.next {
                let (kind, device) = (Kind::Schedule, DeviceHandle(0));
                self.due.push(Due { at, kind, rule: rule.id, device, tag: place as u32 });
            }
        }
        let dated: Vec<_> = rule.conditions.keys().copied().collect();
        for device in dated {
            self.date(rule, device);
        }
    }

    pub(super) fn remove_rule(&mut self, here: Here, name: &str, out: &mut Vec<Output>) {
        let Some(id) = self.rule_ids.remove(name) else { return };
        self.with_rule(id, |partition, rule| {
            partition.end_conditions(here, rule, None, ResolveReason::RuleRemoved, out);
            partition.unwire(rule);
        });
        self.rules[id.0 as usize] = None;
        self.removed_rules.push(id);
    }

    fn clear_condition(
        &mut self,
        here: Here,
        rule: &str,
        device: &str,
        key: &str,
        force: bool,
        out: &mut Vec<Output>,
    ) {
        if force {
            self.external.clear(here, rule, device, key, out);
        }
        let (Some(&id), Some(device)) = (self.rule_ids.get(rule), self.registry.find(device)) else { return };
        self.with_rule(id, |partition, rule| {
            let step = rule.condition(device, key).and_then(|condition| condition.reset(force, here.time));
            if let Some(step) = step {
                let cause = Cause::Control { device, key };
                partition.make(here, rule, device, key, step, &cause, out);
            }
            rule.dirty.conditions = true;
            if let Some(track) = partition.streams[rule.stream].tracks.get(device.0 as usize) {
                rule.tidy(device, track.clock_at(here.time));
            }
            partition.date(rule, device);
        });
    }
}
