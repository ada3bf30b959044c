//! The whole way of a reading but the network: bytes in memory, decode, the durable log, rules as components, alerts
//! committed. CPU of all threads, against serde_json into a struct of the same bytes alone.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use watchfire_decode::{Framing, Shape};
use watchfire_engine::{Engine, EngineOptions};
use watchfire_host::{Host, HostOptions, validate_parameters};
use watchfire_ingest::contract::{BoxFuture, RegisterError, Registrar};
use watchfire_ingest::intake::{Content, Payload};
use watchfire_ingest::{Intake, IntakeOptions, Principal, Source, Submitted, UnknownDevices};
use watchfire_log::{Append, Clock, EmbeddedLog, Log, LogOptions, Record, SystemClock};
use watchfire_model::alert::AlertChanges;
use watchfire_model::call::Modules;
use watchfire_model::device::Registries;
use watchfire_model::{Actor, Control, DeviceSpec, Digest, PartitionId, RuleSpec, Timestamp};
use watchfire_store::{AlertFilter, Store};

use crate::event::{self, DEVICES, Event, METRICS};
use crate::figure::{Figure, alternate, cpu};
use crate::{Options, disk};

/// Readings of a round.
const EVENTS: usize = 200_000;
const ROUNDS: usize = 7;
/// Readings handed over at once, and how many of these are on their way: what some hundred busy connections have.
const SUBMIT: usize = 512;
const ON_THEIR_WAY: usize = 64;
/// One value of so many is beyond every limit: 1 of 10 000 readings raises an alert, which at 150 000 a second is
/// a plant in trouble already.
const SPIKES: u64 = 50_000;

pub fn run(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let plant = Plant::new(options, devices(|_| String::new()), &one_type())?;
    let payloads = |begin: Timestamp| {
        event::payloads_at(EVENTS, begin.0 as u64, SPIKES, |i| Timestamp(begin.0 + i as i64 * 1000))
    };
    let pair = plant.measure(payloads, |bytes| serde_json::from_slice::<Event<'_>>(bytes).is_ok())?;
    let alerts = plant.end()?;
    let figure = format!(
        "bytes to committed alerts, 10 threshold rules and ewma-anomaly, CPU against serde_json into a struct \
         ({alerts} alerts)"
    );
    let met = |_, ratio| Some(ratio <= 2.5);
    figures.push(Figure::against("pipeline", figure, "ns/reading", pair, "<= 2.5x", met));

    let kind = |number: u32| format!("type{:02}", number % TYPES);
    let plant = Plant::new(options, devices(kind), &rules_of_types())?;
    let pair =
        plant.measure(payloads_of_types, |bytes| serde_json::from_slice::<OfSomeType<'_>>(bytes).is_ok())?;
    let alerts = plant.end()?;
    let figure = format!("the same with 50 device types of 20 metrics each ({alerts} alerts)");
    figures.push(Figure::against("pipeline", figure, "ns/reading", pair, "report", |_, _| None));
    Ok(())
}

/// Types of devices; no two have a metric in common.
const TYPES: u32 = 50;

fn metric_of(number: usize, kind: u32) -> String {
    format!("metric{number:02}_type{kind:02}")
}

fn rules_of_types() -> Vec<(&'static str, Value)> {
    let mut rules: Vec<_> = (0..10)
        .map(|rule| {
            let limits: Vec<_> = (0..TYPES)
                .filter(|kind| kind % 10 == rule)
                .map(|kind| json!({"metric": metric_of(0, kind), "high": 100.0, "deadband": 2.0}))
                .collect();
            ("threshold", json!({ "limits": limits }))
        })
        .collect();
    rules.push(("ewma-anomaly", json!({"metrics": ["metric00*"]})));
    rules
}

fn payloads_of_types(begin: Timestamp) -> Vec<Vec<u8>> {
    let mut random = event::Random(begin.0 as u64);
    (0..EVENTS / 4)
        .map(|i| {
            let number = (random.bits() % u64::from(DEVICES)) as u32;
            let time = event::stamp(Timestamp(begin.0 + i as i64 * 4000));
            let metrics: Vec<String> = (0..20)
                .map(|metric| {
                    let spike = if random.bits().is_multiple_of(SPIKES * 2) { 90.0 } else { 0.0 };
                    format!("\"{}\":{:.2}", metric_of(metric, number % TYPES), 20.0 + random.noise() + spike)
                })
                .collect();
            let device = event::device(number);
            let metrics = metrics.join(",");
            format!(r#"{{"device":"{device}","time":"{time}","metrics":{{{metrics}}}}}"#).into_bytes()
        })
        .collect()
}

fn devices(kind: impl Fn(u32) -> String) -> Vec<DeviceSpec> {
    (0..DEVICES)
        .map(|number| DeviceSpec { id: event::device(number), kind: kind(number), ..DeviceSpec::default() })
        .collect()
}

/// Two limits on each metric, and the anomaly of one.
fn one_type() -> Vec<(&'static str, Value)> {
    let mut rules = Vec::new();
    for (i, metric) in METRICS.iter().enumerate() {
        let usual = 20.0 + 10.0 * i as f64;
        rules.push(("threshold", json!({"metric": metric, "high": usual + 50.0, "deadband": 2.0})));
        rules.push(("threshold", json!({"metric": metric, "low": usual - 10.0, "deadband": 2.0})));
    }
    rules.push(("ewma-anomaly", json!({"metrics": ["temperature"]})));
    rules
}

/// A reading of twenty metrics out of a thousand: names as they come, for no struct has a thousand fields.
#[derive(Deserialize)]
#[allow(dead_code, reason = "what is measured is filling them")]
struct OfSomeType<'a> {
    device: &'a str,
    time: &'a str,
    #[serde(borrow)]
    metrics: Pairs<'a>,
}

#[allow(dead_code, reason = "what is measured is filling it")]
struct Pairs<'a>(Vec<(&'a str, f64)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<(&'de str, f64)>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("metrics")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::with_capacity(20);
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(Visitor).map(Self)
    }
}

/// Everything but the network.
struct Plant {
    runtime: Runtime,
    log: Arc<EmbeddedLog>,
    store: Store,
    engine: Engine,
    intake: Arc<Intake>,
    source: Source,
    /// Where the time of readings begins: each round is later than the one before, as it would be.
    began: Timestamp,
    _folder: TempDir,
}

/// Every device is registered already.
struct Nobody;

impl Registrar for Nobody {
    fn register(&self, _: Vec<String>) -> BoxFuture<'_, Result<(), RegisterError>> {
        Box::pin(async { Err(RegisterError::Refused("all devices are known".into())) })
    }
}

impl Plant {
    fn new(options: &Options, devices: Vec<DeviceSpec>, rules: &[(&str, Value)]) -> Result<Self> {
        let folder = disk::folder()?;
        let clock = Arc::new(SystemClock);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let entered = runtime.enter();
        let small = LogOptions { reserve_bytes: 0, ..LogOptions::default() };
        let (log, _) = EmbeddedLog::open(&folder.path().join("log"), small, clock.clone())?;
        let store = runtime.block_on(Store::open(&folder.path().join("watchfire.db"), clock.clone()))?;
        let host = Host::new(HostOptions::default())?;

        let mut registries = Registries::new(log.partitions());
        for device in &devices {
            let partition = registries.partition_of(&device.id);
            registries.0[usize::from(partition.0)].put(device.clone());
        }
        let mut controls = vec![Control::DevicesPut { devices, by: Actor::default() }];
        for (i, (name, parameters)) in rules.iter().enumerate() {
            controls.push(deployment(&host, &format!("{name}-{i}"), &options.component(name)?, parameters)?);
        }
        for control in controls {
            let record = Record::Control(Box::new(control));
            let records = (0..log.partitions()).map(|id| (PartitionId(id), record.clone())).collect();
            runtime.block_on(log.append(Append::Records(records))?.durable())?;
        }
        let spine: Arc<dyn Log> = log.clone();
        let state = EngineOptions::new(folder.path().join("state"));
        let engine = Engine::start(spine.clone(), Arc::new(host), store.keeper(), state)?;
        runtime.block_on(engine.wait_level())?;
        let directory = Arc::new(RwLock::new(Arc::new(registries)));
        let intake = Intake::new(spine, directory, Arc::new(Nobody), IntakeOptions::default());
        let source = Source::new("bench", UnknownDevices::Refuse);
        let began = clock.wall() - watchfire_model::Duration::from_secs(7200);
        drop(entered);
        Ok(Self { runtime, log, store, engine, intake, source, began, _folder: folder })
    }

    /// Nanoseconds of CPU for each reading: all of it, and the reference.
    fn measure(
        &self,
        payloads: impl Fn(Timestamp) -> Vec<Vec<u8>>,
        reference: impl Fn(&[u8]) -> bool,
    ) -> Result<(f64, f64)> {
        let current = RefCell::new(Vec::new());
        let mut failed = None;
        let mut round = 0;
        let pair = alternate(
            ROUNDS,
            || {
                round += 1;
                *current.borrow_mut() = payloads(Timestamp(self.began.0 + round * 300_000_000));
                let payloads = current.borrow();
                let began = cpu();
                failed = self.take(&payloads).err().or(failed.take());
                (cpu() - began) * 1e9 / payloads.len() as f64
            },
            || {
                let payloads = current.borrow();
                let began = cpu();
                for payload in &*payloads {
                    std::hint::black_box(reference(payload));
                }
                (cpu() - began) * 1e9 / payloads.len() as f64
            },
        );
        failed.map_or(Ok(pair), Err)
    }

    /// Takes readings in, and returns once they are durable, evaluated, and their alerts committed.
    fn take(&self, payloads: &[Vec<u8>]) -> Result<()> {
        self.runtime.block_on(async {
            let mut flying = VecDeque::new();
            for part in payloads.chunks(SUBMIT) {
                let content = Content::Items(Shape::Event, Framing::Auto);
                let part: Vec<Payload<'_>> = part
                    .iter()
                    .map(|bytes| Payload { address: "bench", bytes, content: content.clone() })
                    .collect();
                if flying.len() >= ON_THEIR_WAY
                    && let Some(first) = flying.pop_front()
                {
                    durable(first).await?;
                }
                flying.push_back(self.intake.submit(&self.source, &Principal::Anonymous, &part).await?);
            }
            for submitted in flying {
                durable(submitted).await?;
            }
            self.engine.wait_level().await?;
            Ok(())
        })
    }

    /// Takes everything down; the number of alerts that are in the store then.
    fn end(self) -> Result<u64> {
        self.engine.stop();
        let _entered = self.runtime.enter();
        let keeper = self.store.keeper();
        // What is handed over last comes last: once it is committed, everything is.
        let last = keeper.submit(AlertChanges::default());
        let committed = keeper.wait_committed(last, Duration::from_secs(30));
        ensure!(committed >= last, "the alerts were not committed");
        let mut alerts = 0;
        let mut filter = AlertFilter { limit: 1000, ..AlertFilter::default() };
        loop {
            let page = self.runtime.block_on(self.store.alerts(&filter))?;
            alerts += page.items.len() as u64;
            match page.next {
                Some(next) => filter.cursor = Some(next),
                None => break,
            }
        }
        ensure!(alerts > 0, "no alert was raised");
        self.runtime.block_on(self.store.close());
        self.log.close();
        Ok(alerts)
    }
}

async fn durable(submitted: Submitted) -> Result<()> {
    submitted.durable().await?;
    let taken = submitted.verdicts.iter().all(|verdict| verdict.accepted == 1);
    ensure!(taken, "readings were refused: {:?}", submitted.verdicts.iter().find(|v| v.accepted != 1));
    Ok(())
}

/// A rule of a component, as the control plane puts it into the log.
pub fn deployment(host: &Host, rule: &str, component: &Path, parameters: &Value) -> Result<Control> {
    let bytes = std::fs::read(component).with_context(|| format!("read {}", component.display()))?;
    host.add(&bytes).with_context(|| format!("add {}", component.display()))?;
    let digest = Digest::of(&bytes);
    let loaded = host.get(digest).map_err(|failure| anyhow!("{failure}"))?;
    let filled = validate_parameters(loaded.manifest(), parameters);
    let filled = filled.map_err(|problems| anyhow!("{rule}: {problems:?}"))?;
    let spec = json!({"name": rule, "module": digest, "parameters": filled});
    let spec: RuleSpec = serde_json::from_value(spec)?;
    Ok(Control::RuleDeployed { spec: Box::new(spec), version: 1, discard_state: false, by: Actor::default() })
}
