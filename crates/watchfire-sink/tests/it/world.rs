//! A log, a store and a registry, filled by hand, with a ledger of what was put in.

use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use watchfire_log::embedded::LogOptions;
use watchfire_log::{Append, EmbeddedLog, Log, Record, SystemClock};
use watchfire_model::alert::{AlertChanges, Detail, Transition, TransitionKind};
use watchfire_model::control::Actor;
use watchfire_model::device::Registries;
use watchfire_model::{
    AlertId, BatchBuilder, Control, DeviceHandle, DeviceSpec, PartitionId, Position, Severity, Timestamp,
    Value,
};
use watchfire_services::{Postgres, or_skip};
use watchfire_sink::timescale::{self, TimescaleConfig};
use watchfire_sink::{Running, SinkStatus, Surroundings};
use watchfire_store::Store;

/// Each of these functions is a test against PostgreSQL, and another one against PostgreSQL with TimescaleDB where the
/// machine has that: what a sink promises holds for both.
macro_rules! on_both {
    ($($skip:literal => $test:ident,)*) => {
        mod plain {
            use watchfire_services::{Postgres, or_skip};
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let Some(postgres) = or_skip($skip, Postgres::start()) else { return };
                super::$test(postgres).await;
            })*
        }
        mod timescale {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let Some(postgres) = $crate::world::with_timescale(&[]) else { return };
                super::$test(postgres).await;
            })*
        }
    };
}
pub(crate) use on_both;

/// A server with the extension compiled for this machine, which few machines have: how many tests are left out without
/// it is counted under one name.
pub fn with_timescale(settings: &[(&str, &str)]) -> Option<Postgres> {
    or_skip("native-timescaledb", Postgres::start_with_timescale(settings))
}

pub const PARTITIONS: u16 = 2;

/// 2026-01-01T00:00:00Z.
pub const START: i64 = 1_767_225_600_000_000;

pub struct World {
    pub folder: TempDir,
    pub log: Arc<EmbeddedLog>,
    pub store: Store,
    pub registries: Arc<RwLock<Arc<Registries>>>,
    /// Readings so far: the time of the next.
    count: i64,
}

/// Small segments, which go as soon as nobody needs them.
pub fn options() -> LogOptions {
    LogOptions {
        partitions: PARTITIONS,
        segment_bytes: 1 << 20,
        reserve_bytes: 1 << 20,
        retain_for: Duration::ZERO,
        retention_delay: Duration::ZERO,
        // A tick is nothing to write: it would only make a lane look behind for a while.
        heartbeat: Duration::from_secs(3600),
        ..LogOptions::default()
    }
}

impl World {
    pub async fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap(), options(), Arc::default()).await
    }

    async fn open(folder: TempDir, options: LogOptions, registries: Arc<RwLock<Arc<Registries>>>) -> Self {
        let (log, _) = EmbeddedLog::open(&folder.path().join("log"), options, Arc::new(SystemClock)).unwrap();
        let store = Store::open(&folder.path().join("watchfire.db"), Arc::new(SystemClock)).await.unwrap();
        if registries.read().unwrap().0.is_empty() {
            *registries.write().unwrap() = Arc::new(Registries::new(PARTITIONS));
        }
        Self { folder, log, store, registries, count: 0 }
    }

    /// As after an end of the process, or with `new_epoch` after the restore of a backup.
    pub async fn reopen(self, new_epoch: bool) -> Self {
        self.log.close();
        self.store.close().await;
        let Self { folder, log, store, registries, count } = self;
        drop((log, store));
        let options = LogOptions { new_epoch, ..options() };
        Self { count, ..Self::open(folder, options, registries).await }
    }

    /// Goes back to a copy of the folder: what a restore does.
    pub fn copy_to(&self, to: &Path) {
        copy(self.folder.path(), to);
    }

    pub fn surroundings(&self) -> Surroundings {
        let registries = self.registries.clone();
        Surroundings {
            log: self.log.clone(),
            store: self.store.clone(),
            directory: Arc::new(move || registries.read().unwrap().clone()),
            clock: Arc::new(SystemClock),
        }
    }

    pub async fn append(&self, records: Vec<(PartitionId, Record)>) -> Arc<[Position]> {
        self.log.append(Append::Records(records)).unwrap().durable().await.unwrap()
    }

    pub async fn control(&self, control: Control) {
        {
            let mut registries = self.registries.write().unwrap();
            let registries = Arc::make_mut(&mut registries);
            let own = |registries: &mut Registries, id: &str| usize::from(registries.partition_of(id).0);
            match &control {
                Control::DevicesPut { devices, .. } => {
                    for device in devices {
                        let partition = own(registries, &device.id);
                        registries.0[partition].put(device.clone());
                    }
                }
                Control::DeviceDeleted { id, .. } => {
                    let partition = own(registries, id);
                    registries.0[partition].delete(id);
                }
                _ => {}
            }
        }
        let records = (0..PARTITIONS).map(|p| (PartitionId(p), Record::Control(Box::new(control.clone()))));
        self.append(records.collect()).await;
    }

    /// Registers `device-0` to `device-N`, even ones at the site `lyon`, odd ones at `oslo`.
    pub async fn register(&self, devices: usize) {
        let devices = (0..devices)
            .map(|i| DeviceSpec {
                id: format!("device-{i}"),
                kind: "press".into(),
                site: if i % 2 == 0 { "lyon" } else { "oslo" }.into(),
                ..DeviceSpec::default()
            })
            .collect();
        self.control(Control::DevicesPut { devices, by: Actor::default() }).await;
    }

    pub fn find(&self, id: &str) -> (PartitionId, DeviceHandle) {
        self.registries.read().unwrap().find(id).unwrap()
    }

    /// A reading with these metrics, of this stream. Gives its time.
    pub async fn reading(&mut self, stream: &str, device: &str, metrics: &[(&str, Value)]) -> Timestamp {
        let time = Timestamp(START + self.count * 1000);
        self.count += 1;
        self.reading_at(stream, device, time, metrics).await;
        time
    }

    pub async fn reading_at(&self, stream: &str, device: &str, time: Timestamp, metrics: &[(&str, Value)]) {
        let (partition, handle) = self.find(device);
        let mut builder = BatchBuilder::new();
        builder.begin(handle, time);
        for (metric, value) in metrics {
            match value {
                Value::Number(number) => builder.number(metric, *number).unwrap(),
                Value::Text(text) => builder.text(metric, text).unwrap(),
                Value::Boolean(flag) => builder.boolean(metric, *flag).unwrap(),
            }
        }
        builder.commit();
        let batch = Arc::new(builder.finish());
        self.append(vec![(partition, Record::Readings { stream: stream.into(), origin: None, batch })]).await;
    }

    /// Many readings of all devices: `records` records with `rows` rows each, of a number `n` that counts up and
    /// of another one now and then. Gives how many values that makes.
    pub async fn many(&mut self, devices: usize, records: usize, rows: usize) -> usize {
        let mut values = 0;
        for _ in 0..records {
            let mut builders = [BatchBuilder::new(), BatchBuilder::new()];
            for _ in 0..rows {
                let n = self.count;
                self.count += 1;
                let (partition, handle) = self.find(&format!("device-{}", n as usize % devices));
                let builder = &mut builders[usize::from(partition.0)];
                builder.begin(handle, Timestamp(START + n * 1000));
                builder.number("n", n as f64).unwrap();
                values += 1;
                if n % 7 == 0 {
                    builder.number("seventh", n as f64 / 7.0).unwrap();
                    values += 1;
                }
                builder.commit();
            }
            let records = (0..).map(PartitionId).zip(builders).filter(|(_, builder)| !builder.is_empty());
            let records = records.map(|(partition, builder)| {
                let batch = Arc::new(builder.finish());
                (partition, Record::Readings { stream: "readings".into(), origin: None, batch })
            });
            self.append(records.collect()).await;
        }
        values
    }

    pub async fn transition(&self, device: &str, step: u64, kind: TransitionKind) {
        let position = Position { epoch: self.log.epoch(), partition: PartitionId(0), offset: step };
        let at = Timestamp(START + step as i64 * 1_000_000);
        let transition = Transition {
            id: format!("{position}/hot/{device}"),
            alert: AlertId::raised_by(device),
            kind,
            rule: "hot".into(),
            rule_version: 3,
            device: DeviceSpec { id: device.into(), ..DeviceSpec::default() },
            handle: DeviceHandle(0),
            key: String::new(),
            severity: Severity::Major,
            summary: "Bearing too hot".into(),
            details: vec![Detail { name: "value".into(), value: Value::Number(91.5) }],
            at,
            logged_at: at,
            position,
            evidence: None,
            external: None,
        };
        let keeper = self.store.keeper();
        let changes = AlertChanges { transitions: vec![transition], ..AlertChanges::default() };
        tokio::task::spawn_blocking(move || {
            let number = keeper.submit(changes);
            assert!(keeper.wait_committed(number, Duration::from_secs(30)) >= number);
        })
        .await
        .unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub fn config(postgres: &Postgres, more: &str) -> TimescaleConfig {
    let config: TimescaleConfig = toml::from_str(&format!("url = '{}'\n{more}", postgres.url())).unwrap();
    config.check().unwrap();
    config
}

pub async fn sink(world: &World, config: &TimescaleConfig) -> Running {
    timescale::start(config.clone(), world.surroundings(), tokio_util::sync::CancellationToken::new())
        .await
        .unwrap()
}

/// Waits until something is so; fails after five minutes with what there is instead. A broker
/// that comes back on a machine that compiles meanwhile takes more than one.
pub async fn until<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> Result<(), T>) {
    let began = Instant::now();
    loop {
        match look() {
            Ok(()) => return,
            Err(is) if began.elapsed() > Duration::from_secs(300) => panic!("{what}: {is:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Waits until every lane wrote what there is.
pub async fn level(sink: &Running) -> SinkStatus {
    until("the sink is level", || {
        let status = sink.status();
        let level = status
            .lanes
            .iter()
            .all(|lane| lane.behind == 0 && lane.code.is_none() && (lane.next > 0 || lane.lane == "alerts"));
        if level { Ok(()) } else { Err(status) }
    })
    .await;
    sink.status()
}

/// Waits until some lane says this code.
pub async fn says(sink: &Running, code: &str) {
    until(code, || {
        let status = sink.status();
        if status.lanes.iter().any(|lane| lane.code == Some(code)) { Ok(()) } else { Err(status) }
    })
    .await;
}

/// The first column of all rows, as text.
pub fn texts(postgres: &Postgres, sql: &str) -> Vec<String> {
    let rows = postgres.query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.into_iter()
        .map(|row| row.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>().join(" "))
        .collect()
}

pub fn number(postgres: &Postgres, sql: &str) -> usize {
    texts(postgres, sql)[0].parse().unwrap()
}

/// Waits until nothing of an engine that died holds the log any more: as with a process, its threads are gone then.
pub async fn gone(world: &World) {
    until("the engine is gone", || match Arc::strong_count(&world.log) {
        1 => Ok(()),
        others => Err(others),
    })
    .await;
}
