//! What a rule costs, measured on readings that are made up.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use watchfire_model::call::{
    CallFailure, Callback, Context, DeviceSet, Effects, Instance, Module, Outcome, Rows, Setup, Subscription,
};
use watchfire_model::{
    BatchBuilder, DeviceSpec, Duration, KeyedState, Limits, READINGS, Registry, Timestamp,
};

use crate::series::Random;

/// Devices of the readings that are made up.
const DEVICES: usize = 250;
/// Rows of a call.
const ROWS: usize = 1000;
/// Calls at most, ...
const CALLS: usize = 200;
/// ... those at least, so that a median is one, ...
const LEAST: usize = 11;
/// ... and no more once this is spent.
const SPENT: std::time::Duration = std::time::Duration::from_secs(2);
/// Instances that are started.
const STARTS: usize = 11;
/// When the readings begin: 2026-01-01T00:00:00Z.
const START: Timestamp = Timestamp(1_767_225_600_000_000);

/// What was measured: medians, on this machine.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// Until an instance has started.
    pub start_nanoseconds: u64,
    /// What the rule subscribes to with these parameters.
    pub metrics: Vec<String>,
    /// The columns that were made up: numbers from 0 to 100.
    pub columns: Vec<String>,
    /// Devices that reported in turn.
    pub devices: usize,
    /// Rows of each call.
    pub rows: usize,
    /// Calls that were measured; those before the median counts are among them.
    pub calls: usize,
    /// Of one call; `None`: it failed.
    pub call_nanoseconds: Option<u64>,
    /// What the call that failed said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Memory of the instance at the end, in bytes.
    pub memory: u64,
    /// State that it keeps of these devices at the end, in bytes.
    pub state: u64,
    /// Effects of the call that had most.
    pub effects: usize,
}

/// Measures a module with these parameters, which have their defaults already. An error: it does not start.
pub(crate) fn measure(module: &dyn Module, parameters: serde_json::Value) -> Result<Cost, CallFailure> {
    let setup = Setup {
        rule: module.manifest().name.clone(),
        parameters: Arc::new(parameters),
        limits: Limits::default(),
        replay: false,
    };
    let mut starts = Vec::new();
    let mut started: Option<(Box<dyn Instance>, Subscription)> = None;
    for _ in 0..STARTS {
        let began = Instant::now();
        started = Some(module.start(&setup)?);
        starts.push(began.elapsed().as_nanos() as u64);
    }
    let (mut instance, subscription) = match started {
        Some(started) => started,
        None => module.start(&setup)?,
    };
    let mut made = Made::new(&subscription.metrics);
    let mut state = KeyedState::new();
    let (mut times, mut failure, mut effects) = (Vec::new(), None, 0);
    let began = Instant::now();
    while times.len() < CALLS && (times.len() < LEAST || began.elapsed() < SPENT) {
        let (rows, now) = made.rows();
        let context = Context {
            now,
            devices: made.registry.clone(),
            selected: made.selected.clone(),
            state: std::mem::take(&mut state),
        };
        let Outcome { state: back, result, cost, .. } = instance.call(Callback::Batch(rows), context);
        state = back;
        match result {
            Ok(done) => {
                times.push(cost.nanoseconds);
                effects = effects.max(count(&done));
                for (slot, devices, blobs) in &done.stores {
                    state.set_many(*slot, devices, blobs);
                }
            }
            Err(failed) => {
                failure = Some(failed.message);
                break;
            }
        }
    }
    Ok(Cost {
        start_nanoseconds: median(&mut starts),
        metrics: subscription.metrics,
        columns: made.columns,
        devices: DEVICES,
        rows: ROWS,
        calls: times.len(),
        call_nanoseconds: failure.is_none().then(|| median(&mut times)),
        failure,
        memory: instance.memory(),
        state: state.bytes(),
        effects,
    })
}

/// As the limit `effects` counts them.
fn count(effects: &Effects) -> usize {
    effects.alerts.len() + effects.emitted.len() + effects.derived.len() + effects.timers.len()
}

fn median(all: &mut [u64]) -> u64 {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// Devices and readings that are made up.
struct Made {
    columns: Vec<String>,
    patterns: Arc<[String]>,
    registry: Arc<Registry>,
    selected: Arc<DeviceSet>,
    random: Random,
    now: Timestamp,
}

impl Made {
    /// A column for each metric; for `temp*` one that it means, and for all metrics one that is called `value`.
    fn new(metrics: &[String]) -> Self {
        let mut columns: Vec<String> = metrics.iter().map(|pattern| pattern.replace('*', "value")).collect();
        if columns.is_empty() {
            columns.push("value".into());
        }
        columns.dedup();
        let (mut registry, mut selected) = (Registry::default(), DeviceSet::default());
        for number in 0..DEVICES {
            let spec = DeviceSpec {
                id: format!("device-{number}"),
                interval: Some(Duration::from_secs(1)),
                ..DeviceSpec::default()
            };
            selected.set(registry.put(spec).0, true);
        }
        Self {
            columns,
            patterns: metrics.into(),
            registry: Arc::new(registry),
            selected: Arc::new(selected),
            random: Random::new(1),
            now: START,
        }
    }

    /// The next rows: each device reports once a second.
    fn rows(&mut self) -> (Arc<Rows>, Timestamp) {
        let mut batch = BatchBuilder::new();
        for turn in 0..ROWS / DEVICES {
            let at = self.now + Duration::from_secs(turn as u64);
            for device in self.selected.iter_from(0) {
                batch.begin(device, at);
                for column in &self.columns {
                    // Names that two patterns were made into: the first one counts.
                    let _ = batch.number(column, 100.0 * self.random.unit());
                }
                batch.commit();
            }
        }
        self.now = self.now + Duration::from_secs((ROWS / DEVICES) as u64);
        let rows = Rows::new(READINGS.into(), Arc::new(batch.finish()), None, self.patterns.clone());
        (Arc::new(rows), self.now)
    }
}
