//! Rules, called through the rule host as the partition loop calls them.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use watchfire_host::validate_parameters;
use watchfire_model::call::{Callback, Context, DeviceSet, Instance, Module, Rows, Setup};
use watchfire_model::{Batch, DeviceHandle, KeyedState, Limits, READINGS, Registry};

use crate::event::{self, BEGIN, DEVICES};

/// A rule as the loop has it: an instance and the state that outlives it.
pub struct Rule {
    /// What is called.
    pub instance: Box<dyn Instance>,
    /// What it stored.
    pub state: KeyedState,
}

/// The devices that every rule here selects.
pub struct Fleet {
    devices: Arc<Registry>,
    selected: Arc<DeviceSet>,
}

impl Fleet {
    /// All of them, in one partition.
    pub fn new() -> Self {
        let devices = Arc::new(event::registries().0.remove(0));
        let mut selected = DeviceSet::default();
        for handle in 0..DEVICES {
            selected.set(DeviceHandle(handle), true);
        }
        Self { devices, selected: Arc::new(selected) }
    }

    /// Calls a rule with rows and keeps what it stores; gives how many triggers and clears it made.
    pub fn call(&self, rule: &mut Rule, rows: &Arc<Rows>) -> Result<usize> {
        let context = Context {
            now: BEGIN,
            devices: self.devices.clone(),
            selected: self.selected.clone(),
            state: std::mem::take(&mut rule.state),
        };
        let outcome = rule.instance.call(Callback::Batch(rows.clone()), context);
        rule.state = outcome.state;
        let effects = outcome.result.map_err(|failure| anyhow!("{failure}"))?;
        for (slot, devices, blobs) in &effects.stores {
            rule.state.set_many(*slot, devices, blobs);
        }
        Ok(effects.alerts.len())
    }
}

/// What an instance is made with.
pub fn setup(module: &dyn Module, parameters: &serde_json::Value) -> Result<Setup> {
    let parameters =
        validate_parameters(module.manifest(), parameters).map_err(|problems| anyhow!("{problems:?}"))?;
    Ok(Setup {
        rule: "bench".into(),
        parameters: Arc::new(parameters),
        // All devices in one instance, and Python keeps what it knows of each as objects: with five averages of each of
        // 15 000 that is more than the 64 MiB that a rule has by itself.
        limits: Limits { memory: 256 << 20, ..Limits::default() },
        replay: false,
    })
}

/// Starts a rule, without any state yet.
pub fn rule(module: &Arc<dyn Module>, parameters: serde_json::Value) -> Result<Rule> {
    let setup = setup(&**module, &parameters)?;
    let (instance, _) = module.start(&setup).map_err(|failure| anyhow!("{failure}"))?;
    Ok(Rule { instance, state: KeyedState::new() })
}

/// All rows of a batch, seen by a rule of these metrics.
pub fn rows(batch: &Arc<Batch>, metrics: &[&str]) -> Arc<Rows> {
    let metrics: Arc<[String]> = metrics.iter().map(|metric| metric.to_string()).collect();
    Arc::new(Rows::new(READINGS.into(), batch.clone(), None, metrics))
}
