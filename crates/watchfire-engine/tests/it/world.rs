//! Partitions driven by hand over a log in memory, and rules that remember what they were called for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use watchfire_engine::{Image, Lookahead, Output, Partition, PartitionSetup};
use watchfire_log::record::Skipped;
use watchfire_log::{Append, Log, LogReader, Record, Redo};
use watchfire_model::alert::{AlertChanges, AlertKeeper};
use watchfire_model::call::{
    AlertEffect, CallFailure, Callback, Effects, FailureKind, Rows, Subscription, Timer, TimerEffect,
};
use watchfire_model::state::Blobs;
use watchfire_model::{
    Actor, Batch, BatchBuilder, Control, DeviceHandle, DeviceSpec, Digest, Duration, PartitionId, Position,
    READINGS, RuleSpec, RuleVersion, Severity, Timestamp, Transition, TransitionKind,
};
use watchfire_testkit::{Guest, MemoryLog, NativeModule, NativeModules, RecordingKeeper};

pub const T0: Timestamp = Timestamp(1_767_225_600_000_000); // 2026-01-01T00:00:00Z

pub fn at(seconds: i64) -> Timestamp {
    Timestamp(T0.0 + seconds * 1_000_000)
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What a checkpoint file holds.
pub type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

pub struct World {
    pub log: Arc<MemoryLog>,
    pub keeper: Arc<RecordingKeeper>,
    pub modules: Arc<NativeModules>,
    pub lanes: Vec<Lane>,
    /// Each capture, as the pairs that all captures so far add up to.
    pub checkpoints: Vec<(usize, u64, Pairs)>,
}

pub struct Lane {
    pub partition: Partition,
    reader: Box<dyn LogReader>,
    /// As a checkpoint file would hold it.
    saved: Pairs,
}

impl World {
    pub fn new(partitions: u16) -> Self {
        Self::over(MemoryLog::new(partitions, T0), Arc::default(), &[])
    }

    /// Fresh partitions over a log, each from its saved pairs if there are any.
    pub fn over(log: Arc<MemoryLog>, modules: Arc<NativeModules>, saved: &[Pairs]) -> Self {
        let keeper = Arc::new(RecordingKeeper::new());
        let lanes = (0..log.partitions())
            .map(|id| {
                let id = PartitionId(id);
                let setup = PartitionSetup {
                    id,
                    partitions: log.partitions(),
                    epoch: log.epoch(),
                    modules: modules.clone(),
                    events: None,
                };
                let saved = saved.get(usize::from(id.0)).cloned().unwrap_or_default();
                let mut partition = if saved.is_empty() {
                    Partition::new(setup)
                } else {
                    let mut image = Image::new(setup);
                    for (key, value) in &saved {
                        image.add(key, value).expect("pairs are read back");
                    }
                    image.finish().expect("the checkpoint is whole")
                };
                let from = partition.next_offset();
                let known = Lookahead::read(&*log, id, from).unwrap();
                partition.look_ahead(known, log.range(id).1);
                Lane { partition, reader: log.reader(id, from).unwrap(), saved }
            })
            .collect();
        Self { log, keeper, modules, lanes, checkpoints: Vec::new() }
    }

    /// Evaluates until every partition is level with the log.
    pub fn run(&mut self) {
        loop {
            let mut busy = false;
            for i in 0..self.lanes.len() {
                while self.step(i) {
                    busy = true;
                }
            }
            if !busy {
                return;
            }
        }
    }

    fn step(&mut self, i: usize) -> bool {
        let lane = &mut self.lanes[i];
        let Some(entry) = lane.reader.next().unwrap() else { return false };
        let mut out = Vec::new();
        lane.partition.apply(&entry, &mut out);
        for output in out {
            match output {
                Output::Transition(transition) => {
                    let transitions = vec![*transition];
                    self.keeper.submit(AlertChanges { transitions, ..AlertChanges::default() });
                }
                Output::Own(record) => drop(self.log.put(entry.position.partition, [record])),
                Output::Derived(records) => drop(self.log.append(Append::Records(records)).unwrap()),
            }
        }
        if entry.record == Record::CheckpointMark {
            let capture = lane.partition.capture();
            for prefix in &capture.removed {
                lane.saved.retain(|key, _| !key.starts_with(prefix));
            }
            for (key, value) in capture.changed {
                if value.is_empty() {
                    lane.saved.remove(&key)
                } else {
                    lane.saved.insert(key, value)
                };
            }
            // What changed since the last one, added up, is everything there is.
            assert!(lane.saved == lane.partition.dump(), "a change was not noted as one");
            self.checkpoints.push((i, capture.next, lane.saved.clone()));
        }
        true
    }

    pub fn put(&mut self, record: Record) {
        self.log.put(PartitionId(0), [record]);
        self.run();
    }

    /// A control record for every partition.
    pub fn control(&mut self, control: Control) {
        let record = Record::Control(Box::new(control));
        let records = (0..self.lanes.len() as u16).map(|id| (PartitionId(id), record.clone())).collect();
        drop(self.log.append(Append::Records(records)).unwrap());
        self.run();
    }

    /// The failures of a rule in a partition that left rows.
    pub fn failed(&self, partition: PartitionId, rule: &str) -> Vec<Skipped> {
        let records = self.log.records();
        let here = records.iter().filter(|entry| entry.position.partition == partition);
        let skipped = here.filter_map(|entry| match &entry.record {
            Record::Skipped(skipped) if skipped.rule == rule && !skipped.rows.is_empty() => Some(skipped),
            _ => None,
        });
        skipped.map(|skipped| (**skipped).clone()).collect()
    }

    /// The record by which a rule gets the rows once more that it failed on: of readings, or of a redo.
    pub fn redo_of(&self, partition: PartitionId, skipped: &Skipped) -> Record {
        let failed = Position { epoch: self.log.epoch(), partition, offset: skipped.offset };
        let records = self.log.records();
        let entry = records.iter().find(|entry| entry.position == failed).unwrap();
        let (stream, batch) = match &entry.record {
            Record::Readings { stream, batch, .. } => (stream, batch),
            Record::Redo(redo) => (&redo.stream, &redo.batch),
            other => panic!("{other:?} has no rows"),
        };
        let rows = Rows::new(stream.clone(), batch.clone(), Some(skipped.rows.clone()), Arc::new([]));
        let mut b = BatchBuilder::new();
        for ((device, time), x) in rows.devices().iter().zip(rows.times()).zip(&*rows.numbers("x")) {
            b.begin(*device, *time);
            b.number("x", *x).unwrap();
            b.commit();
        }
        let (rule, stream, by) = (skipped.rule.clone(), stream.clone(), Actor::default());
        Record::Redo(Box::new(Redo {
            rule,
            stream,
            failed,
            missed: None,
            upto: None,
            by,
            batch: b.finish().into(),
        }))
    }

    pub fn devices(&mut self, ids: &[&str]) {
        let devices = ids.iter().map(|id| device(id, "press")).collect();
        self.control(Control::DevicesPut { devices, by: Actor::default() });
    }

    pub fn deploy(&mut self, spec: RuleSpec, version: RuleVersion) {
        self.control(deployed(spec, version));
    }

    /// Readings of one partition, each (device, seconds of event time, value of `x`), in one record.
    pub fn readings(&mut self, rows: &[(u32, i64, f64)]) {
        self.put(readings(rows));
    }

    pub fn tick(&mut self, seconds: i64) {
        self.log.set_now(at(seconds));
        self.put(Record::Tick);
    }

    /// What was raised and so on, as `time device/key kind`.
    pub fn told(&self) -> Vec<String> {
        self.keeper.transitions().iter().map(told).collect()
    }

    pub fn dumps(&self) -> Vec<Pairs> {
        self.lanes.iter().map(|lane| lane.partition.dump()).collect()
    }
}

pub fn told(transition: &Transition) -> String {
    let kind = match &transition.kind {
        TransitionKind::Raised => "raised".to_string(),
        TransitionKind::SeverityChanged { from } => format!("{from}>{}", transition.severity),
        TransitionKind::Cleared => "cleared".into(),
        TransitionKind::Realarmed => "again".into(),
        TransitionKind::Resolved { reason } => format!("{reason:?}"),
    };
    let seconds = (transition.at.0 - T0.0) as f64 / 1e6;
    format!("{seconds} {}/{} {kind}", transition.device.id, transition.key)
}

pub fn device(id: &str, kind: &str) -> DeviceSpec {
    DeviceSpec { id: id.into(), kind: kind.into(), ..DeviceSpec::default() }
}

pub fn deployed(spec: RuleSpec, version: RuleVersion) -> Control {
    Control::RuleDeployed { spec: Box::new(spec), version, discard_state: false, by: Actor::default() }
}

pub fn rule(name: &str, module: Digest, more: serde_json::Value) -> RuleSpec {
    let mut spec = serde_json::json!({"name": name, "module": module});
    spec.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    serde_json::from_value(spec).unwrap()
}

pub fn readings(rows: &[(u32, i64, f64)]) -> Record {
    Record::Readings { stream: READINGS.into(), origin: None, batch: Arc::new(batch(rows)) }
}

pub fn batch(rows: &[(u32, i64, f64)]) -> Batch {
    let mut b = BatchBuilder::new();
    for &(device, time, x) in rows {
        b.begin(DeviceHandle(device), at(time));
        b.number("x", x).unwrap();
        b.commit();
    }
    b.finish()
}

pub fn trigger(device: DeviceHandle, key: &str, severity: Severity, row: Option<u32>) -> AlertEffect {
    let summary = format!("{key} on {}", device.0);
    AlertEffect::Trigger { device, key: key.into(), severity, summary, details: vec![], row }
}

pub fn clear(device: DeviceHandle, key: &str, row: Option<u32>) -> AlertEffect {
    AlertEffect::Clear { device, key: key.into(), row }
}

pub fn set(device: DeviceHandle, tag: u32, at: Timestamp) -> TimerEffect {
    TimerEffect::Set(Timer { device, tag, at })
}

pub fn one_state(slot: u32, device: DeviceHandle, state: &[u8]) -> (u32, Vec<DeviceHandle>, Blobs) {
    let mut blobs = Blobs::default();
    blobs.push(state);
    (slot, vec![device], blobs)
}

pub fn trap<T>(message: &str) -> Result<T, CallFailure> {
    Err(CallFailure::new(FailureKind::Trapped, message))
}

/// `x` above 10 triggers `hot` (above 100: as critical), up to 10 clears it; each row with `x`.
pub fn threshold(guest: &mut Guest<'_>) -> Result<Effects, CallFailure> {
    let mut effects = Effects::default();
    if let Callback::Batch(rows) = guest.callback {
        for (row, (&device, &x)) in rows.devices().iter().zip(rows.numbers("x").iter()).enumerate() {
            let row = Some(row as u32);
            if x > 10.0 {
                let severity = if x > 100.0 { Severity::Critical } else { Severity::Warning };
                effects.alerts.push(trigger(device, "hot", severity, row));
            } else if !x.is_nan() {
                effects.alerts.push(clear(device, "hot", row));
            }
        }
    }
    Ok(effects)
}

/// What rules were called for, as `seconds rule callback`.
#[derive(Clone, Default)]
pub struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    pub fn note(&self, name: &str, guest: &Guest<'_>) {
        let seconds = (guest.context.now.0 - T0.0) as f64 / 1e6;
        let what = match guest.callback {
            Callback::Batch(rows) => format!("batch {}", rows.len()),
            Callback::Timers(timers) => {
                format!("timers {:?}", timers.iter().map(|t| (t.device.0, t.tag)).collect::<Vec<_>>())
            }
            Callback::Silence(devices) => {
                format!("silence {:?}", devices.iter().map(|d| d.device.0).collect::<Vec<_>>())
            }
            Callback::Schedule { name, at } => {
                assert_eq!(*at, guest.context.now);
                format!("schedule {name}")
            }
        };
        self.0.lock().unwrap().push(format!("{seconds} {name} {what}"));
    }
}

/// Adds a module that notes its calls and answers with `answer`.
pub fn noted(
    world: &World,
    calls: &Calls,
    name: &'static str,
    subscription: Subscription,
    answer: impl Fn(&mut Guest<'_>) -> Result<Effects, CallFailure> + Send + Sync + Clone + 'static,
) -> Digest {
    let calls = calls.clone();
    world.modules.add(NativeModule::new(name, subscription, move |guest| {
        calls.note(name, guest);
        answer(guest)
    }))
}
