//! What flows out: the log to PostgreSQL, against one client that copies the same rows, encoded before, into the same
//! table with the same indexes; what memory that takes however much there is to write; and what it does to alerts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sqlx::{Connection as _, PgConnection};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use watchfire_log::clock::SystemClock;
use watchfire_log::embedded::LogOptions;
use watchfire_log::{Append, EmbeddedLog, Log as _, Record};
use watchfire_model::batch::Values;
use watchfire_model::device::Registries;
use watchfire_model::{Batch, DeviceHandle, DeviceSpec, PartitionId, Timestamp};
use watchfire_services::{Failure, Postgres};
use watchfire_sink::timescale::{self, TimescaleConfig};
use watchfire_sink::{Running, Start, Surroundings};
use watchfire_store::Store;

use crate::event::{self, DEVICES};
use crate::figure::{Figure, alternate};
use crate::{Options, disk, latency};

/// Records of 1 024 readings of five values: two million rows.
const RECORDS: usize = 400;
const ROWS: usize = 1024;

/// Values that one `COPY` of the reference takes: what the sink's chunks hold.
const CHUNK: usize = 100_000;

/// Microseconds from the Unix epoch to that of PostgreSQL.
const EPOCH: i64 = 946_684_800_000_000;

pub fn run(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let postgres = match Postgres::start() {
        Ok(postgres) => postgres,
        Err(Failure::Missing(why)) => {
            eprintln!("SKIPPED sinks: {why}");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    throughput(&runtime, &postgres, figures)?;
    memory(&runtime, &postgres, figures)?;
    alerts(options, postgres, figures)
}

/// A log with readings, and what a sink works on.
struct Site {
    _folder: tempfile::TempDir,
    log: Arc<EmbeddedLog>,
    surroundings: Surroundings,
    registries: Arc<Registries>,
    batches: Vec<(PartitionId, Arc<Batch>)>,
}

impl Site {
    fn new(runtime: &Runtime, records: usize) -> Result<Self> {
        let folder = disk::folder()?;
        let options = LogOptions { partitions: 2, reserve_bytes: 0, ..LogOptions::default() };
        let (log, _) = EmbeddedLog::open(&folder.path().join("log"), options, Arc::new(SystemClock))?;
        let mut registries = Registries::new(2);
        for number in 0..DEVICES {
            let spec = DeviceSpec { id: event::device(number), ..DeviceSpec::default() };
            let partition = registries.partition_of(&spec.id);
            registries.0[usize::from(partition.0)].put(spec);
        }
        // Handles of the generator are those of one partition; here each batch belongs to one of two.
        let registries = Arc::new(registries);
        let mut batches = Vec::new();
        for (number, batch) in event::batches(records, ROWS, 11).into_iter().enumerate() {
            let partition = PartitionId((number % 2) as u16);
            let known = registries.0[usize::from(partition.0)].devices().len() as u32;
            let mut batch = Arc::unwrap_or_clone(batch);
            batch.devices.iter_mut().for_each(|handle| *handle = DeviceHandle(handle.0 % known));
            batches.push((partition, Arc::new(batch)));
        }
        let store =
            runtime.block_on(Store::open(&folder.path().join("watchfire.db"), Arc::new(SystemClock)))?;
        for (partition, batch) in &batches {
            let record = Record::Readings { stream: "readings".into(), origin: None, batch: batch.clone() };
            let ticket = log.append(Append::Records(vec![(*partition, record)]))?;
            runtime.block_on(ticket.durable())?;
        }
        let directory = registries.clone();
        let surroundings = Surroundings {
            log: log.clone(),
            store,
            directory: Arc::new(move || directory.clone()),
            clock: Arc::new(SystemClock),
        };
        Ok(Self { _folder: folder, log, surroundings, registries, batches })
    }

    fn values(&self) -> usize {
        self.batches.iter().flat_map(|(_, batch)| &batch.columns).map(|column| column.values.len()).sum()
    }

    /// Runs a fresh sink into a schema of its own until everything is there; `look` is called meanwhile.
    fn drain(
        &self,
        runtime: &Runtime,
        postgres: &Postgres,
        schema: &str,
        mut look: impl FnMut(),
    ) -> Result<Duration> {
        let config = TimescaleConfig {
            url: postgres.url().into(),
            schema: schema.into(),
            alerts: false,
            devices: false,
            ..TimescaleConfig::default()
        };
        // What makes the tables is not what is measured.
        let warm = TimescaleConfig { start: Start::Now, ..config.clone() };
        let start = |config: TimescaleConfig| -> Result<Running> {
            Ok(runtime.block_on(timescale::start(
                config,
                self.surroundings.clone(),
                CancellationToken::new(),
            ))?)
        };
        let running = start(warm)?;
        wait(&running, || ())?;
        runtime.block_on(running.stop());
        postgres.query(&format!("DELETE FROM {schema}.watchfire_cursor; CHECKPOINT"))?;
        let began = Instant::now();
        let running = start(config)?;
        wait(&running, &mut look)?;
        let took = began.elapsed();
        runtime.block_on(running.stop());
        let rows = postgres.query(&format!("SELECT count(*) FROM {schema}.readings"))?;
        let rows: usize = rows[0][0].as_deref().unwrap_or_default().parse()?;
        ensure!(rows == self.values(), "{rows} of {} rows are there", self.values());
        postgres.query(&format!("DROP SCHEMA {schema} CASCADE"))?;
        Ok(took)
    }
}

fn wait(running: &Running, mut look: impl FnMut()) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(300);
    loop {
        let status = running.status();
        if status.lanes.iter().all(|lane| lane.behind == 0 && lane.next > 0 && lane.code.is_none()) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "the sink is not level: {status:?}");
        look();
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn throughput(runtime: &Runtime, postgres: &Postgres, figures: &mut Vec<Figure>) -> Result<()> {
    let site = Site::new(runtime, RECORDS)?;
    let values = site.values() as f64;
    let chunks = encoded(&site);
    let (mut round, mut failed) = (0, None);
    let mut note = |result: Result<Duration>| match result {
        Ok(took) => values / took.as_secs_f64(),
        Err(error) => {
            failed = Some(error);
            f64::NAN
        }
    };
    let note = std::cell::RefCell::new(&mut note);
    let pair = alternate(
        3,
        || {
            round += 1;
            (note.borrow_mut())(site.drain(runtime, postgres, &format!("sink_{round}"), || ()))
        },
        || (note.borrow_mut())(copy(runtime, postgres, &chunks, site.values())),
    );
    if let Some(error) = failed {
        return Err(error);
    }
    figures.push(Figure::against(
        "sinks",
        "log to PostgreSQL, same table and indexes, against binary COPY by one client",
        "rows/s",
        pair,
        ">= 0.9x",
        |_, ratio| Some(ratio >= 0.9),
    ));
    site.log.close();
    Ok(())
}

/// The same rows as bodies of `COPY`, by code of its own.
fn encoded(site: &Site) -> Vec<Vec<u8>> {
    const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
    let (mut chunks, mut chunk, mut values) = (Vec::new(), HEADER.to_vec(), 0);
    for (partition, batch) in &site.batches {
        let registry = &site.registries.0[usize::from(partition.0)];
        for column in &batch.columns {
            let Values::Numbers(numbers) = &column.values else { continue };
            for (row, number) in numbers.iter().enumerate() {
                let device = registry.get(batch.devices[row]).map_or("", |device| device.spec.id.as_str());
                let Timestamp(time) = batch.times[row];
                chunk.extend_from_slice(&[0, 6, 0, 0, 0, 8]);
                chunk.extend_from_slice(&(time - EPOCH).to_be_bytes());
                for text in [device, &column.metric] {
                    chunk.extend_from_slice(&(text.len() as u32).to_be_bytes());
                    chunk.extend_from_slice(text.as_bytes());
                }
                chunk.extend_from_slice(&[0, 0, 0, 8]);
                chunk.extend_from_slice(&number.to_be_bytes());
                chunk.extend_from_slice(&[0xff; 8]);
                values += 1;
                if values % CHUNK == 0 {
                    chunk.extend_from_slice(&[0xff, 0xff]);
                    chunks.push(std::mem::replace(&mut chunk, HEADER.to_vec()));
                }
            }
        }
    }
    chunk.extend_from_slice(&[0xff, 0xff]);
    chunks.push(chunk);
    chunks
}

fn copy(runtime: &Runtime, postgres: &Postgres, chunks: &[Vec<u8>], values: usize) -> Result<Duration> {
    let partitions: String = (0..4)
        .map(|quarter| {
            let of = |quarter: i64| Timestamp(event::BEGIN.0 + (quarter - 1) * 6 * 3_600_000_000);
            format!(
                "CREATE TABLE plain.readings_{quarter} PARTITION OF plain.readings FOR VALUES FROM ('{}') TO ('{}');",
                of(quarter),
                of(quarter + 1)
            )
        })
        .collect();
    postgres.query(&format!(
        "CREATE SCHEMA plain; CREATE TABLE plain.readings (time timestamptz NOT NULL, device text NOT NULL, \
         metric text NOT NULL, value double precision, text text, flag boolean) PARTITION BY RANGE (time); \
         CREATE INDEX ON plain.readings (device, metric, time DESC); {partitions}"
    ))?;
    postgres.query("CHECKPOINT")?;
    let url = postgres.url();
    let began = Instant::now();
    runtime.block_on(async {
        let mut connection = PgConnection::connect(&url).await?;
        for chunk in chunks {
            let mut sending = connection
                .copy_in_raw("COPY plain.readings (time, device, metric, value, text, flag) FROM STDIN (FORMAT binary)")
                .await?;
            sending.send(chunk.as_slice()).await?;
            sending.finish().await?;
        }
        anyhow::Ok(())
    })?;
    let took = began.elapsed();
    let rows = postgres.query("SELECT count(*) FROM plain.readings")?;
    let rows: usize = rows[0][0].as_deref().unwrap_or_default().parse()?;
    ensure!(rows == values, "{rows} of {values} rows are there");
    postgres.query("DROP SCHEMA plain CASCADE")?;
    Ok(took)
}

/// How much the process grows while a sink catches up: by as much whether it is a little or far behind.
fn memory(runtime: &Runtime, postgres: &Postgres, figures: &mut Vec<Figure>) -> Result<()> {
    let grown = |records: usize, schema: &str| -> Result<f64> {
        let site = Site::new(runtime, records)?;
        let before = resident()?;
        let mut most = before;
        site.drain(runtime, postgres, schema, || most = most.max(resident().unwrap_or(0.0)))?;
        site.log.close();
        Ok(most - before)
    };
    // Both are long enough for every queue to fill up.
    let little = grown(RECORDS, "little")?;
    let much = grown(RECORDS * 3, "much")?;
    figures.push(Figure::against(
        "sinks",
        "memory of a sink that is 6 million values behind, against 2 million",
        "MiB",
        (much, little),
        "flat (<= 1.5x)",
        |_, ratio| Some(ratio <= 1.5),
    ));
    Ok(())
}

/// Resident MiB of this process.
fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kilobytes.context("/proc does not say how much memory is resident")? / 1024.0)
}

/// The way of an alert, with a sink that keeps up and with one that catches up, at the same rate as without.
fn alerts(options: &Options, mut postgres: Postgres, figures: &mut Vec<Figure>) -> Result<()> {
    let plain = latency::measure(options, "", None, || Ok(()))?;
    let rate = Some(plain.rate);
    let section =
        |schema: &str| format!("[sink.timescale]\nurl = \"{}\"\nschema = \"{schema}\"\n", postgres.url());
    let (on, behind) = (section("keeping_up"), section("catching_up"));
    let with = latency::measure(options, &on, rate, || Ok(()))?;
    postgres.query("DROP SCHEMA IF EXISTS keeping_up CASCADE")?;
    postgres.stop();
    let catching_up = latency::measure(options, &behind, rate, || Ok(postgres.restart()?))?;
    for (mut measured, what) in [(with, "with a sink to PostgreSQL"), (catching_up, "while that catches up")]
    {
        let mut reference = plain.latencies.clone();
        let pair = (latency::at(&mut measured.latencies, 0.99), latency::at(&mut reference, 0.99));
        let figure = format!("reading to webhook, p99 at {:.0} readings/s {what}, against none", plain.rate);
        figures.push(Figure::against("sinks", figure, "ms", pair, "<= 1.5x", |_, ratio| Some(ratio <= 1.5)));
    }
    Ok(())
}
