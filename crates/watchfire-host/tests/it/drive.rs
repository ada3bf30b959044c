//! A partition loop in small: a log of readings, timers of none, silence by hand. It cuts the log in
//! different ways and replaces the instance, and compares what comes of it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value as Json;
use watchfire_host::{Host, HostOptions, build, validate_parameters};
use watchfire_model::call::{
    AlertEffect, Callback, Context, DeviceSet, Effects, Instance, Module, Modules, Outcome, Rows, Setup,
    SilentDevice,
};
use watchfire_model::{
    BatchBuilder, DeviceHandle, DeviceSpec, KeyedState, Limits, Registry, Severity, Timestamp,
};

/// One host for all tests of this process.
pub fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| Host::new(HostOptions::default()).unwrap())
}

/// A shipped rule, loaded.
pub fn shipped(name: &str) -> Arc<dyn Module> {
    let bytes = std::fs::read(build::shipped(name).unwrap()).unwrap();
    let report = host().add(&bytes).unwrap();
    host().get(report.digest).unwrap()
}

/// One reading: device, event time in seconds, metrics. NaN-free.
pub type Reading = (u32, f64, Vec<(&'static str, f64)>);

/// What happens in a log.
#[derive(Clone)]
#[allow(dead_code)]
pub enum Event {
    Readings(Vec<Reading>),
    /// Devices fall silent, their last reading at this second; `now` in seconds.
    Silent(f64, Vec<(u32, Option<f64>)>),
}

#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub rows: usize,
    pub fresh: bool,
}

pub const CUTS: [Cut; 5] = [
    Cut { rows: usize::MAX, fresh: false },
    Cut { rows: 1, fresh: false },
    Cut { rows: 3, fresh: false },
    Cut { rows: usize::MAX, fresh: true },
    Cut { rows: 1, fresh: true },
];

/// What a rule said about one condition, in order: the time in seconds, and the severity (`None`: clear).
pub type Said = BTreeMap<(u32, String), Vec<(f64, Option<Severity>)>>;

pub struct Bench {
    pub module: Arc<dyn Module>,
    pub setup: Setup,
    pub registry: Arc<Registry>,
    pub selected: Arc<DeviceSet>,
    pub state: KeyedState,
    pub instance: Box<dyn Instance>,
    pub metrics: Arc<[String]>,
    pub now: Timestamp,
}

impl Bench {
    pub fn new(module: Arc<dyn Module>, parameters: Json, devices: u32) -> Self {
        Self::with_limits(module, parameters, devices, Limits::default())
    }

    pub fn with_limits(module: Arc<dyn Module>, parameters: Json, devices: u32, limits: Limits) -> Self {
        let parameters = validate_parameters(module.manifest(), &parameters).unwrap();
        let setup = Setup { rule: "test".into(), parameters: Arc::new(parameters), limits, replay: false };
        let (mut registry, mut selected) = (Registry::default(), DeviceSet::default());
        for i in 0..devices {
            let (handle, _) = registry.put(DeviceSpec { id: format!("d{i}"), ..DeviceSpec::default() });
            selected.set(handle, true);
        }
        let (instance, subscription) = module.start(&setup).unwrap();
        Self {
            module,
            setup,
            registry: Arc::new(registry),
            selected: Arc::new(selected),
            state: KeyedState::new(),
            instance,
            metrics: subscription.metrics.into(),
            now: Timestamp(0),
        }
    }

    pub fn rows(&self, readings: &[Reading]) -> Arc<Rows> {
        let mut batch = BatchBuilder::new();
        for (device, seconds, metrics) in readings {
            batch.begin(DeviceHandle(*device), Timestamp((seconds * 1e6) as i64));
            for (metric, value) in metrics {
                batch.number(metric, *value).unwrap();
            }
            batch.commit();
        }
        let batch = Arc::new(batch.finish());
        Arc::new(Rows::new("readings".into(), batch, None, self.metrics.clone()))
    }

    /// Calls and leaves the state as it is.
    pub fn outcome(&mut self, callback: Callback) -> Outcome {
        let context = Context {
            now: self.now,
            devices: self.registry.clone(),
            selected: self.selected.clone(),
            state: std::mem::take(&mut self.state),
        };
        let mut outcome = self.instance.call(callback, context);
        self.state = std::mem::take(&mut outcome.state);
        outcome
    }

    /// Calls and applies what was stored.
    pub fn call(&mut self, callback: Callback) -> Effects {
        let effects = self.outcome(callback).result.unwrap();
        for (slot, devices, blobs) in &effects.stores {
            self.state.set_many(*slot, devices, blobs);
        }
        effects
    }

    pub fn replace_instance(&mut self) {
        self.instance = self.module.start(&self.setup).unwrap().0;
    }

    fn note(said: &mut Said, effects: &Effects, rows: Option<&Rows>, now: Timestamp) {
        let at = |row: &Option<u32>| {
            let time = row.and_then(|row| rows.map(|rows| rows.times()[row as usize])).unwrap_or(now);
            time.0 as f64 / 1e6
        };
        for alert in &effects.alerts {
            let (device, key, entry) = match alert {
                AlertEffect::Trigger { device, key, severity, row, .. } => {
                    (device, key, (at(row), Some(*severity)))
                }
                AlertEffect::Clear { device, key, row } => (device, key, (at(row), None)),
            };
            said.entry((device.0, key.clone())).or_default().push(entry);
        }
    }

    /// Runs a log, cut one way.
    pub fn run(&mut self, log: &[Event], cut: Cut) -> Said {
        let mut said = Said::new();
        for event in log {
            match event {
                Event::Readings(readings) => {
                    let last = readings.last().map_or(0.0, |reading| reading.1);
                    self.now = self.now.max(Timestamp((last * 1e6) as i64));
                    for part in readings.chunks(cut.rows.min(readings.len())) {
                        if cut.fresh {
                            self.replace_instance();
                        }
                        let rows = self.rows(part);
                        let effects = self.call(Callback::Batch(rows.clone()));
                        Self::note(&mut said, &effects, Some(&rows), self.now);
                    }
                }
                Event::Silent(now, devices) => {
                    self.now = Timestamp((now * 1e6) as i64);
                    if cut.fresh {
                        self.replace_instance();
                    }
                    let silent = devices.iter().map(|(device, last)| SilentDevice {
                        device: DeviceHandle(*device),
                        last: last.map(|last| Timestamp((last * 1e6) as i64)),
                    });
                    let effects = self.call(Callback::Silence(silent.collect()));
                    Self::note(&mut said, &effects, None, self.now);
                }
            }
        }
        said
    }
}

/// Runs a log against a shipped rule, cut in all ways; they must agree, in state too. Gives what it said.
pub fn prove(rule: &str, parameters: &Json, devices: u32, log: &[Event]) -> Said {
    let module = shipped(rule);
    let mut first: Option<(Said, Vec<(u32, DeviceHandle, Vec<u8>)>)> = None;
    for cut in CUTS {
        let mut bench = Bench::new(module.clone(), parameters.clone(), devices);
        let said = bench.run(log, cut);
        let state: Vec<_> =
            bench.state.iter().map(|(slot, device, blob)| (slot, device, blob.to_vec())).collect();
        match &first {
            None => first = Some((said, state)),
            Some(expected) => assert_eq!(&(said, state), expected, "{rule} {cut:?}"),
        }
    }
    first.unwrap().0
}
