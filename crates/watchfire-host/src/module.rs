//! A module that was described: makes instances and migrates state.

use std::sync::{Arc, Weak};

use wasmtime::Store;
use watchfire_model::call::{
    CallFailure, FailureKind, Instance, Manifest, Module, Schedule, Setup, Silence, Subscription,
};
use watchfire_model::state::Blobs;
use watchfire_model::time::Duration;
use watchfire_model::{Digest, Limits};

use crate::bindings::{handler, types};
use crate::check::RefusalError;
use crate::compile::Compiled;
use crate::data::{Data, Phase};
use crate::engine::{Mode, TICK, Ticker};
use crate::failure;
use crate::host::Inner;
use crate::instance::RunningInstance;

/// See [`Module`].
pub(crate) struct LoadedModule {
    host: Weak<Inner>,
    ticker: Arc<Ticker>,
    digest: Digest,
    manifest: Manifest,
    plain: Arc<Compiled>,
}

impl LoadedModule {
    /// Asks the module what it is, in an instance that is thrown away.
    pub(crate) fn describe(
        host: Weak<Inner>,
        digest: Digest,
        plain: Arc<Compiled>,
    ) -> Result<Self, RefusalError> {
        let ticker = host.upgrade().ok_or(RefusalError::Unknown(digest))?.ticker.clone();
        let limits = Limits::default();
        let what = "describe";
        let mut store = new_store(&plain, Phase::Describe, limits.clone(), Arc::default(), false);
        let described = plain.pre.instantiate(&mut store).and_then(|instance| {
            let handler = plain.handler.load(&mut store, &instance)?;
            handler.call_describe(&mut store)
        });
        let manifest = described.map_err(|error| {
            let messages = store.data_mut().take_messages();
            let name = format!("{digest}");
            RefusalError::Describe(failure::of_error(&error, &name, what, &limits, false, &messages))
        })?;
        let manifest = check_manifest(manifest).map_err(RefusalError::Manifest)?;
        Ok(Self { host, ticker, digest, manifest, plain })
    }

    fn compiled(&self, limits: &Limits) -> Result<Arc<Compiled>, CallFailure> {
        if limits.fuel.is_none() {
            return Ok(self.plain.clone());
        }
        let failed = |text: String| CallFailure::new(FailureKind::Load, text);
        let host = self.host.upgrade().ok_or_else(|| failed("the rule host has stopped".into()))?;
        host.compiled(self.digest, Mode::Fuel).map_err(|error| failed(error.to_string()))
    }
}

impl Module for LoadedModule {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn start(&self, setup: &Setup) -> Result<(Box<dyn Instance>, Subscription), CallFailure> {
        let compiled = self.compiled(&setup.limits)?;
        let limits = &setup.limits;
        let mut store =
            new_store(&compiled, Phase::Start, limits.clone(), setup.parameters.clone(), setup.replay);
        let started = compiled.pre.instantiate(&mut store).and_then(|instance| {
            let handler = compiled.handler.load(&mut store, &instance)?;
            Ok((handler.call_start(&mut store)?, handler, instance))
        });
        let messages = store.data_mut().take_messages();
        let (answer, handler, instance) = started.map_err(|error| {
            failure::of_error(&error, &setup.rule, "start", limits, setup.replay, &messages)
        })?;
        for message in messages {
            tracing::debug!(rule = setup.rule, text = message.text, "start logged");
        }
        let refused = |kind, text: String| {
            Err(CallFailure::new(kind, failure::cut(format!("rule {}, start: {text}", setup.rule))))
        };
        let subscription = match answer {
            Ok(subscription) => match subscription_from(subscription) {
                Ok(subscription) => subscription,
                Err(text) => return refused(FailureKind::Output, text),
            },
            Err(text) => return refused(FailureKind::Refused, text),
        };
        if subscription.silence != Silence::Off && compiled.silence.is_none() {
            return refused(
                FailureKind::Load,
                "it asks for silence but does not export silence-handler".into(),
            );
        }
        if !subscription.schedules.is_empty() && compiled.schedules.is_none() {
            return refused(
                FailureKind::Load,
                "it has schedules but does not export schedule-handler".into(),
            );
        }
        let instance = RunningInstance::new(setup, store, &compiled, &instance, handler, self.ticker.clone())
            .map_err(|error| {
                CallFailure::new(FailureKind::Load, format!("rule {}: {error:#}", setup.rule))
            })?;
        Ok((Box::new(instance), subscription))
    }

    fn migrate(
        &self,
        limits: &Limits,
        old_version: u32,
        slot: u32,
        states: Blobs,
    ) -> Result<Blobs, CallFailure> {
        let name = format!("{} {}", self.manifest.name, self.manifest.version);
        let what = format!("migrate (slot {slot}, {} states)", states.lengths.len());
        let compiled = self.compiled(limits)?;
        let Some(migration) = &compiled.migration else {
            let text =
                format!("{name} does not export state-migration: state of version {old_version} is lost");
            return Err(CallFailure::new(FailureKind::Load, text));
        };
        let entries = states.lengths.len();
        // A migration runs once, over much state at a time, before the rule is active: as a replay, it gets
        // ten times the time.
        let mut store = new_store(&compiled, Phase::Migrate, limits.clone(), Arc::default(), true);
        let states = types::Blobs { lengths: states.lengths, data: states.data };
        let migrated = compiled.pre.instantiate(&mut store).and_then(|instance| {
            let migration = migration.load(&mut store, &instance)?;
            migration.call_migrate(&mut store, old_version, slot, &states)
        });
        let messages = store.data_mut().take_messages();
        let answer =
            migrated.map_err(|error| failure::of_error(&error, &name, &what, limits, true, &messages))?;
        let refused = |text: String| {
            Err(CallFailure::new(FailureKind::Refused, failure::cut(format!("{name}, {what}: {text}"))))
        };
        match answer {
            Err(text) => refused(text),
            Ok(blobs) => {
                let blobs = Blobs { lengths: blobs.lengths, data: blobs.data };
                if blobs.lengths.len() != entries || !blobs.is_consistent() {
                    return refused(
                        "it must answer with as many states, whose lengths add up to their data".into(),
                    );
                }
                Ok(blobs)
            }
        }
    }
}

/// A store with its limits set, for one instance.
pub(crate) fn new_store(
    compiled: &Compiled,
    phase: Phase,
    limits: Limits,
    parameters: Arc<serde_json::Value>,
    replay: bool,
) -> Store<Data> {
    let (ticks, fuel) = (ticks(&limits, replay), limits.fuel);
    let mut data = Data::new(phase, limits, parameters);
    data.hears_timers = compiled.timers.is_some();
    let mut store = Store::new(compiled.pre.engine(), data);
    store.limiter(|data| &mut data.memory);
    store.set_epoch_deadline(ticks);
    if let Some(fuel) = fuel {
        // Refused only where the engine does not count, which this one does.
        let _ = store.set_fuel(fuel);
    }
    store
}

/// The time limit in epochs. One more than fits: the epoch that runs is partly over.
pub(crate) fn ticks(limits: &Limits, replay: bool) -> u64 {
    let tick = Duration(TICK.as_micros() as u64);
    let factor = if replay { 10 } else { 1 };
    limits.time.0.saturating_mul(factor).div_ceil(tick.0).saturating_add(1).min(u64::MAX / 4)
}

/// Bytes of the schema of parameters, which is parsed and kept for each module.
const LARGEST_SCHEMA: usize = 256 << 10;

fn check_manifest(manifest: handler::Manifest) -> Result<Manifest, String> {
    watchfire_model::RuleSpec::check_name(&manifest.name)?;
    if manifest.version.is_empty() || manifest.version.len() > 64 {
        return Err("its version must have 1 to 64 bytes".into());
    }
    if manifest.description.len() > 4096 {
        return Err("its description is longer than 4096 bytes".into());
    }
    let parameters = if manifest.parameters.len() > LARGEST_SCHEMA {
        let length = manifest.parameters.len();
        return Err(format!(
            "the schema of its parameters has {length} bytes, the limit is {LARGEST_SCHEMA}"
        ));
    } else if manifest.parameters.trim().is_empty() {
        serde_json::Value::Null
    } else {
        let schema = serde_json::from_str(&manifest.parameters)
            .map_err(|error| format!("the schema of its parameters is no JSON: {error}"))?;
        crate::parameters::check_schema(&schema)?;
        schema
    };
    Ok(Manifest {
        name: manifest.name,
        version: manifest.version,
        description: manifest.description,
        parameters,
        state_version: manifest.state_version,
    })
}

/// Patterns of metrics in a subscription: each column of each batch is compared with all of them.
const PATTERNS: usize = 1024;

/// Schedules of a subscription: each of them is kept in every partition.
const SCHEDULES: usize = 64;

/// The longest name, pattern or schedule in a subscription, in bytes.
const LONGEST: usize = 256;

fn subscription_from(subscription: handler::Subscription) -> Result<Subscription, String> {
    let handler::Subscription { metrics, schedules, silence, .. } = subscription;
    for (what, count, limit) in
        [("metrics", metrics.len(), PATTERNS), ("schedules", schedules.len(), SCHEDULES)]
    {
        if count > limit {
            return Err(format!("it subscribes to {count} {what}, the limit is {limit}"));
        }
    }
    let texts = schedules
        .iter()
        .flat_map(|schedule| [&schedule.name, &schedule.cron].into_iter().chain(&schedule.zone));
    if let Some(text) = metrics.iter().chain(texts).find(|text| text.len() > LONGEST) {
        let length = text.len();
        return Err(format!("its subscription has a text of {length} bytes, the limit is {LONGEST}"));
    }
    Ok(Subscription {
        metrics,
        silence: match silence {
            handler::Silence::Off => Silence::Off,
            handler::Silence::Registry => Silence::Registry,
            handler::Silence::After(span) => Silence::After(Duration(span)),
        },
        schedules: schedules
            .into_iter()
            .map(|schedule| Schedule { name: schedule.name, cron: schedule.cron, zone: schedule.zone })
            .collect(),
    })
}
