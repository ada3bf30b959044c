//! A partition as bytes: what a checkpoint writes, what a start reads, and what tests compare. One key for
//! each thing that changes by itself; everything else (selections, the due queue, instances) follows.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use watchfire_alert::Condition;
use watchfire_model::call::{DeviceSet, Schedule, Silence, Subscription};
use watchfire_model::device::Device;
use watchfire_model::{
    DeviceHandle, Duration, KeyedState, Offset, Registry, RuleSpec, RuleVersion, Timestamp,
};

use super::{Partition, PartitionSetup, search};
use crate::breaker::{Outage, Tail, Window};
use crate::bytes::{Reader, Writer};
use crate::cron::Cron;
use crate::rule::{Conditions, Dirty, Rule, RuleId, RunningSchedule, SetTimer, Timers};
use crate::snapshot::{Snapshot, Snapshots};
use crate::status::RuleStats;
use crate::stream::{REPORTED, Stream, Track};

/// Grows when the bytes change their meaning.
const FORMAT: u32 = 3;

const HEAD: u8 = 0;
const DEVICE: u8 = 1;
const FOREIGN: u8 = 2;
const STREAM: u8 = 3;
const RULE: u8 = 4;
const CONDITIONS: u8 = 5;
const TIMERS: u8 = 6;
const SNAPSHOT: u8 = 7;
const STATE: u8 = 8;
const VALUES: u8 = 9;
/// The state of a snapshot, behind its head.
const KEPT: u8 = 10;
/// An alert of others, by its fingerprint.
const EXTERNAL: u8 = 11;

/// What has changed since the last checkpoint, as bytes by key.
#[derive(Debug, Default)]
pub struct Capture {
    /// The record that a replay goes on with.
    pub next: Offset,
    /// Everything below the key prefix is removed; first. An empty one: everything.
    pub removed: Vec<Vec<u8>>,
    /// In order of key; an empty value removes the key.
    pub changed: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A partition that is being read from a checkpoint.
pub struct Image {
    partition: Partition,
    devices: Vec<Arc<Device>>,
    version: u64,
    seen: bool,
}

#[derive(Serialize, Deserialize)]
struct RuleHead {
    name: String,
    version: RuleVersion,
    spec: RuleSpec,
    paused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outage: Option<Box<Outage>>,
    state_version: u32,
    #[serde(flatten)]
    subscription: SubscriptionHead,
    silent: Vec<u32>,
    /// When each of the schedules is due next, in their order.
    next: Vec<Option<i64>>,
}

/// What a version asks for.
#[derive(Serialize, Deserialize)]
struct SubscriptionHead {
    metrics: Vec<String>,
    /// `None`: off; 0: by the registry; else microseconds.
    silence: Option<u64>,
    schedules: Vec<ScheduleHead>,
}

#[derive(Serialize, Deserialize)]
struct ScheduleHead {
    name: String,
    cron: String,
    zone: Option<String>,
}

impl SubscriptionHead {
    fn of(subscription: &Subscription) -> Self {
        let schedule =
            |s: &Schedule| ScheduleHead { name: s.name.clone(), cron: s.cron.clone(), zone: s.zone.clone() };
        Self {
            metrics: subscription.metrics.clone(),
            silence: match subscription.silence {
                Silence::Off => None,
                Silence::Registry => Some(0),
                Silence::After(span) => Some(span.0.max(1)),
            },
            schedules: subscription.schedules.iter().map(schedule).collect(),
        }
    }

    fn read(self) -> Subscription {
        let schedule = |s: ScheduleHead| Schedule { name: s.name, cron: s.cron, zone: s.zone };
        Subscription {
            metrics: self.metrics,
            silence: match self.silence {
                None => Silence::Off,
                Some(0) => Silence::Registry,
                Some(span) => Silence::After(Duration(span)),
            },
            schedules: self.schedules.into_iter().map(schedule).collect(),
        }
    }
}

fn key(kind: u8, parts: &[u32]) -> Vec<u8> {
    let mut key = vec![kind];
    parts.iter().for_each(|part| key.extend_from_slice(&part.to_be_bytes()));
    key
}

fn external_key(fingerprint: &str) -> Vec<u8> {
    let mut key = key(EXTERNAL, &[]);
    key.extend_from_slice(fingerprint.as_bytes());
    key
}

impl Partition {
    /// Everything that has changed since the last call.
    pub fn capture(&mut self) -> Capture {
        let mut capture = Capture { next: self.next, ..Capture::default() };
        let mut changed = vec![(key(HEAD, &[]), self.head_bytes())];
        let dirty = std::mem::take(&mut self.dirty_devices);
        changed.extend(dirty.iter_from(0).map(|handle| self.device_pair(handle)));
        if std::mem::take(&mut self.foreign_dirty) {
            changed.push((key(FOREIGN, &[]), self.foreign_bytes()));
        }
        changed.extend(
            self.streams
                .iter()
                .enumerate()
                .map(|(place, stream)| (key(STREAM, &[place as u32]), stream_bytes(stream))),
        );
        if std::mem::take(&mut self.rewrite) {
            capture.removed.push(Vec::new());
        }
        for id in std::mem::take(&mut self.removed_rules) {
            for kind in [RULE, CONDITIONS, TIMERS, SNAPSHOT, STATE, KEPT] {
                capture.removed.push(key(kind, &[id.0]));
            }
        }
        for rule in self.rules.iter_mut().flatten() {
            let dirty = std::mem::take(&mut rule.dirty);
            let id = rule.id.0;
            if dirty.head {
                changed.push((key(RULE, &[id]), rule_bytes(rule)));
            }
            if dirty.conditions {
                changed.push((key(CONDITIONS, &[id]), conditions_bytes(&rule.conditions)));
            }
            if dirty.timers {
                changed.push((key(TIMERS, &[id]), timers_bytes(&rule.timers)));
            }
            for version in rule.snapshots.take_gone() {
                capture.removed.extend([key(SNAPSHOT, &[id, version]), key(KEPT, &[id, version])]);
            }
            for snapshot in rule.snapshots.iter_mut() {
                if std::mem::take(&mut snapshot.dirty) {
                    changed.push((key(SNAPSHOT, &[id, snapshot.version]), snapshot_bytes(snapshot)));
                }
                let (version, blobs) = (snapshot.version, snapshot.state.take_dirty().into_iter());
                changed
                    .extend(blobs.map(|(slot, device, blob)| {
                        (key(KEPT, &[id, version, slot, device.0]), blob.into())
                    }));
            }
            if dirty.state_replaced {
                capture.removed.push(key(STATE, &[id]));
                rule.state.take_dirty();
                let all = rule.state.iter();
                changed.extend(
                    all.map(|(slot, device, blob)| (key(STATE, &[id, slot, device.0]), blob.to_vec())),
                );
            } else {
                let some = rule.state.take_dirty().into_iter();
                changed.extend(
                    some.map(|(slot, device, blob)| (key(STATE, &[id, slot, device.0]), blob.into())),
                );
            }
        }
        let external = self.external.take_dirty().into_iter();
        changed.extend(external.map(|(fingerprint, bytes)| (external_key(&fingerprint), bytes)));
        for device in self.values.take_dirty() {
            changed.push((key(VALUES, &[device.0]), self.values.encode(device)));
        }
        changed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        capture.changed = changed;
        self.rows_since_checkpoint = 0;
        capture
    }

    /// The next [`Partition::capture`] gives everything: what the last one gave was not written.
    pub fn mark_all_dirty(&mut self) {
        // What it removed is not known any more.
        self.rewrite = true;
        for i in 0..self.registry.devices().len() {
            self.dirty_devices.set(DeviceHandle(i as u32), true);
        }
        self.foreign_dirty = true;
        for rule in self.rules.iter_mut().flatten() {
            rule.dirty = Dirty::ALL;
            rule.snapshots.mark_all_dirty();
        }
        self.values.mark_all_dirty();
        self.external.mark_all_dirty();
    }

    /// Everything, by key: two partitions with the same bytes behave the same from here on.
    pub fn dump(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut all = BTreeMap::new();
        all.insert(key(HEAD, &[]), self.head_bytes());
        all.insert(key(FOREIGN, &[]), self.foreign_bytes());
        for i in 0..self.registry.devices().len() as u32 {
            let (key, bytes) = self.device_pair(DeviceHandle(i));
            all.insert(key, bytes);
            all.insert(super::persist::key(VALUES, &[i]), self.values.encode(DeviceHandle(i)));
        }
        for (place, stream) in self.streams.iter().enumerate() {
            all.insert(key(STREAM, &[place as u32]), stream_bytes(stream));
        }
        for rule in self.rules.iter().flatten() {
            let id = rule.id.0;
            all.insert(key(RULE, &[id]), rule_bytes(rule));
            all.insert(key(CONDITIONS, &[id]), conditions_bytes(&rule.conditions));
            all.insert(key(TIMERS, &[id]), timers_bytes(&rule.timers));
            for snapshot in rule.snapshots.iter() {
                all.insert(key(SNAPSHOT, &[id, snapshot.version]), snapshot_bytes(snapshot));
                for (slot, device, blob) in snapshot.state.iter() {
                    all.insert(key(KEPT, &[id, snapshot.version, slot, device.0]), blob.to_vec());
                }
            }
            for (slot, device, blob) in rule.state.iter() {
                all.insert(key(STATE, &[id, slot, device.0]), blob.to_vec());
            }
        }
        let external = self.external.all();
        all.extend(external.map(|(fingerprint, bytes)| (external_key(&fingerprint), bytes)));
        all.retain(|_, bytes| !bytes.is_empty());
        all
    }

    fn head_bytes(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u32(FORMAT).u32(self.setup.epoch.0).u32(self.setup.partitions.into());
        w.u64(self.next).i64(self.time.0).u64(self.registry.version()).u32(self.rules.len() as u32);
        w.finish()
    }

    fn device_pair(&self, handle: DeviceHandle) -> (Vec<u8>, Vec<u8>) {
        let device = self.registry.get(handle);
        let bytes = device.and_then(|device| serde_json::to_vec(&**device).ok());
        (key(DEVICE, &[handle.0]), bytes.unwrap_or_default())
    }

    fn foreign_bytes(&self) -> Vec<u8> {
        let mut w = Writer::default();
        for foreign in &self.foreign {
            let mut all: Vec<_> = foreign.handles.iter().map(|(name, handle)| (*handle, name)).collect();
            all.sort_unstable();
            w.u32(foreign.next).u32(all.len() as u32);
            for (handle, name) in all {
                w.u32(handle).text(name);
            }
        }
        w.finish()
    }
}

fn stream_bytes(stream: &Stream) -> Vec<u8> {
    let mut w = Writer::default();
    w.text(&stream.name).u32(stream.tracks.len() as u32);
    for track in &stream.tracks {
        w.i64(track.clock.0).i64(track.reference.0).i64(track.seen.0).i64(track.event.0);
        w.u8(track.flags & REPORTED);
    }
    w.finish()
}

fn rule_bytes(rule: &Rule) -> Vec<u8> {
    let head = RuleHead {
        name: rule.name.to_string(),
        version: rule.version,
        spec: (*rule.spec).clone(),
        paused: rule.paused,
        outage: rule.outage.clone(),
        state_version: rule.state_version,
        subscription: SubscriptionHead::of(&rule.subscription),
        silent: rule.silent.iter_from(0).map(|device| device.0).collect(),
        next: rule.schedules.iter().map(|schedule| schedule.next.map(|next| next.0)).collect(),
    };
    serde_json::to_vec(&head).unwrap_or_default()
}

fn conditions_bytes(conditions: &Conditions) -> Vec<u8> {
    let mut w = Writer::default();
    for (device, keys) in conditions {
        for (key, condition) in keys {
            w.u32(device.0).text(key).bytes(&serde_json::to_vec(condition).unwrap_or_default());
        }
    }
    w.finish()
}

fn timers_bytes(timers: &Timers) -> Vec<u8> {
    let mut w = Writer::default();
    for ((device, tag), timer) in timers {
        w.u32(device.0).u32(*tag).i64(timer.at.0).i64(timer.due.0);
    }
    w.finish()
}

fn snapshot_bytes(snapshot: &Snapshot) -> Vec<u8> {
    let mut w = Writer::default();
    w.u32(snapshot.state_version).u64(snapshot.offset).i64(snapshot.at.0);
    w.bytes(&timers_bytes(&snapshot.timers)).bytes(&conditions_bytes(&snapshot.conditions));
    w.bytes(&serde_json::to_vec(&SubscriptionHead::of(&snapshot.subscription)).unwrap_or_default());
    w.u64(snapshot.missed.unwrap_or(Offset::MAX));
    for device in snapshot.silent.iter_from(0) {
        w.u32(device.0);
    }
    w.finish()
}

fn read_snapshot(version: RuleVersion, bytes: &[u8]) -> Option<Snapshot> {
    let mut r = Reader(bytes);
    let mut snapshot = Snapshot {
        version,
        state_version: r.u32()?,
        offset: r.u64()?,
        at: Timestamp(r.i64()?),
        timers: read_timers(r.bytes()?)?,
        conditions: read_conditions(r.bytes()?)?,
        subscription: serde_json::from_slice::<SubscriptionHead>(r.bytes()?).ok()?.read(),
        missed: Some(r.u64()?).filter(|from| *from < Offset::MAX),
        state: KeyedState::new(),
        silent: DeviceSet::default(),
        dirty: false,
    };
    while !r.is_empty() {
        snapshot.silent.set(DeviceHandle(r.u32()?), true);
    }
    Some(snapshot)
}

fn read_conditions(bytes: &[u8]) -> Option<Conditions> {
    let mut r = Reader(bytes);
    let mut conditions = Conditions::new();
    while !r.is_empty() {
        let device = DeviceHandle(r.u32()?);
        let key = r.text()?.into();
        let condition: Condition = serde_json::from_slice(r.bytes()?).ok()?;
        conditions.entry(device).or_default().push((key, condition));
    }
    Some(conditions)
}

fn read_timers(bytes: &[u8]) -> Option<Timers> {
    let mut r = Reader(bytes);
    let mut timers = Timers::new();
    while !r.is_empty() {
        let key = (DeviceHandle(r.u32()?), r.u32()?);
        timers.insert(key, SetTimer { at: Timestamp(r.i64()?), due: Timestamp(r.i64()?) });
    }
    Some(timers)
}

impl Image {
    /// Nothing read yet.
    pub fn new(setup: PartitionSetup) -> Self {
        let mut partition = Partition::new(setup);
        partition.streams.clear();
        partition.stream_names.clear();
        Self { partition, devices: Vec::new(), version: 0, seen: false }
    }

    /// Reads one pair; they come in order of key. `None`: it is not what was written.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (kind, rest) = key.split_first()?;
        let part = |i: usize| Some(u32::from_be_bytes(rest.get(4 * i..4 * i + 4)?.try_into().ok()?));
        let partition = &mut self.partition;
        if *kind != HEAD && !self.seen {
            return None;
        }
        match *kind {
            HEAD => {
                let mut r = Reader(value);
                // One of an earlier epoch is of the same log: a restore only counts the epoch up.
                if r.u32()? != FORMAT || r.u32()? > partition.setup.epoch.0 {
                    return None;
                }
                if r.u32()? != u32::from(partition.setup.partitions) {
                    return None;
                }
                (partition.next, partition.time) = (r.u64()?, Timestamp(r.i64()?));
                self.version = r.u64()?;
                partition.rules.resize_with(r.u32()? as usize, || None);
                self.seen = true;
            }
            DEVICE => self.devices.push(serde_json::from_slice(value).ok()?),
            FOREIGN => {
                let mut r = Reader(value);
                for foreign in &mut partition.foreign {
                    foreign.next = r.u32()?;
                    for _ in 0..r.u32()? {
                        let handle = r.u32()?;
                        foreign.handles.insert(r.text()?.into(), handle);
                    }
                }
            }
            STREAM => self.stream(value)?,
            RULE => self.rule(part(0)?, value)?,
            CONDITIONS => self.of(part(0)?)?.conditions = read_conditions(value)?,
            TIMERS => self.of(part(0)?)?.timers = read_timers(value)?,
            SNAPSHOT => {
                let snapshot = read_snapshot(part(1)?, value)?;
                self.of(part(0)?)?.snapshots.restore(snapshot);
            }
            STATE => {
                let (slot, device) = (part(1)?, DeviceHandle(part(2)?));
                self.of(part(0)?)?.state.set(slot, device, value);
            }
            VALUES => partition.values.decode(DeviceHandle(part(0)?), value)?,
            EXTERNAL => partition.external.restore(value)?,
            KEPT => {
                let (version, slot, device) = (part(1)?, part(2)?, DeviceHandle(part(3)?));
                self.of(part(0)?)?.snapshots.get_mut(version)?.state.set(slot, device, value);
            }
            _ => return None,
        }
        Some(())
    }

    fn of(&mut self, rule: u32) -> Option<&mut Rule> {
        self.partition.rules.get_mut(rule as usize)?.as_deref_mut()
    }

    fn stream(&mut self, value: &[u8]) -> Option<()> {
        let partition = &mut self.partition;
        if partition.registry.devices().is_empty() && !self.devices.is_empty() {
            let devices = std::mem::take(&mut self.devices);
            partition.registry = Arc::new(Registry::restore(devices, self.version));
        }
        let mut r = Reader(value);
        let name: Arc<str> = r.text()?.into();
        let mut stream = Stream::new(name.clone(), &partition.registry, partition.time);
        if r.u32()? as usize != stream.tracks.len() {
            return None;
        }
        for track in &mut stream.tracks {
            *track = Track {
                clock: Timestamp(r.i64()?),
                reference: Timestamp(r.i64()?),
                seen: Timestamp(r.i64()?),
                event: Timestamp(r.i64()?),
                flags: r.u8()?,
            };
        }
        partition.stream_names.insert(name, partition.streams.len());
        partition.streams.push(stream);
        Some(())
    }

    fn rule(&mut self, id: u32, value: &[u8]) -> Option<()> {
        let partition = &mut self.partition;
        let head: RuleHead = serde_json::from_slice(value).ok()?;
        let name: Arc<str> = head.name.as_str().into();
        let mut silent = DeviceSet::default();
        for device in &head.silent {
            silent.set(DeviceHandle(*device), true);
        }
        let subscription = head.subscription.read();
        let mut schedules = Vec::new();
        for (schedule, next) in subscription.schedules.iter().zip(&head.next) {
            schedules.push(RunningSchedule {
                name: schedule.name.clone(),
                text: (schedule.cron.clone(), schedule.zone.clone()),
                cron: Cron::parse(&schedule.cron, schedule.zone.as_deref()).ok()?,
                next: next.map(Timestamp),
            });
        }
        let stream = partition.stream_names.get(head.spec.input.as_str()).copied()?;
        let rule = Rule {
            id: RuleId(id),
            name: name.clone(),
            version: head.version,
            parameters: Arc::new(head.spec.parameters.clone()),
            spec: Arc::new(head.spec),
            module: None,
            instance: None,
            subscription,
            paused: head.paused,
            outage: head.outage,
            stream,
            group: 0,
            state: KeyedState::new(),
            state_version: head.state_version,
            conditions: BTreeMap::new(),
            delays: BTreeMap::new(),
            timers: BTreeMap::new(),
            silent,
            schedules,
            snapshots: Snapshots::default(),
            callbacks: (0, 0),
            credit: search::CREDIT,
            dirty: Dirty::default(),
            stats: RuleStats::default(),
            wasted: 0,
            window: Window::default(),
            tail: Tail::default(),
            trying: false,
        };
        *partition.rules.get_mut(id as usize)? = Some(Box::new(rule));
        partition.rule_ids.insert(name, RuleId(id));
        Some(())
    }

    /// The partition, with everything that follows from what was read. `None`: nothing was.
    pub fn finish(self) -> Option<Partition> {
        if !self.seen || self.partition.streams.is_empty() {
            return None;
        }
        let mut partition = self.partition;
        // What was read is not to be written again.
        partition.foreign_dirty = false;
        for (i, device) in partition.registry.devices().iter().enumerate() {
            partition.deleted.set(DeviceHandle(i as u32), device.deleted);
        }
        for id in partition.rule_ids() {
            partition.with_rule(id, |partition, rule| {
                rule.state.take_dirty();
                rule.snapshots.iter_mut().for_each(|snapshot| drop(snapshot.state.take_dirty()));
                rule.tail.begin(partition.next);
                rule.group = partition.streams[rule.stream].selections.add(
                    rule.id,
                    &rule.spec.select,
                    &rule.subscription.metrics,
                    &partition.registry,
                );
                partition.wire(partition.time, rule);
            });
        }
        Some(partition)
    }
}
