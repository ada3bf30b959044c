//! What the tests share.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use watchfire_log::clock::ManualClock;
use watchfire_log::disk::sim::SimDisk;
use watchfire_log::embedded::{EmbeddedLog, LogOptions, OpenReport};
use watchfire_log::{Append, AppendError, Entry, Log, LogError, Record, Redo, Reject, Ticket};
use watchfire_model::{Actor, Batch, BatchBuilder, DeviceHandle, Epoch, PartitionId, Position, Timestamp};

pub const START: Timestamp = Timestamp(1_800_000_000_000_000);
pub const PARTITIONS: u16 = 3;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future, at most half a minute.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => assert!(Instant::now() < until, "nothing came in time"),
        }
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

pub fn durable(ticket: Ticket) -> Result<Arc<[Position]>, AppendError> {
    wait(ticket.durable())
}

/// Waits until a condition holds, at most half a minute.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Small enough that a test meets every limit.
pub fn options() -> LogOptions {
    LogOptions {
        partitions: PARTITIONS,
        segment_bytes: 32 << 10,
        queue_bytes: 1 << 20,
        group_bytes: 64 << 10,
        tail_bytes: 1 << 20,
        reserve_bytes: 0,
        retention_delay: Duration::ZERO,
        // Tests say themselves when they want one: clocks here leap.
        heartbeat: Duration::MAX,
        ..LogOptions::default()
    }
}

pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(START))
}

pub fn open(disk: &SimDisk, options: LogOptions) -> Result<(Arc<EmbeddedLog>, OpenReport), LogError> {
    EmbeddedLog::open_on(Arc::new(disk.clone()), options, clock())
}

/// A batch of one row that says a number.
pub fn row(number: u64) -> Batch {
    let mut batch = BatchBuilder::new();
    batch.begin(DeviceHandle(number as u32), Timestamp(number as i64));
    batch.number("value", number as f64).unwrap();
    batch.text("mode", ["auto", "manual"][number as usize % 2]).unwrap();
    if number.is_multiple_of(3) {
        batch.boolean("open", true).unwrap();
    }
    batch.commit();
    batch.finish()
}

pub fn rows(partition: u16, numbers: impl IntoIterator<Item = u64>) -> Append {
    let rows = numbers.into_iter().map(|number| (PartitionId(partition), row(number))).collect();
    Append::Intake { rows, rejects: Vec::new() }
}

pub fn reject(number: u64) -> Reject {
    Reject {
        source: "mqtt".into(),
        address: format!("devices/{number}"),
        device: Some(format!("d{number}")),
        sender: None,
        index: None,
        code: "not-json".into(),
        reason: "it is not".into(),
        payload: number.to_le_bytes().to_vec(),
    }
}

/// A set of records that has to stay together: one in each partition.
pub fn control(number: u64) -> Append {
    let control = watchfire_model::Control::RulePaused {
        name: format!("rule-{number}"),
        by: watchfire_model::Actor { name: "test".into(), reason: None, request: None },
    };
    let record = Record::Control(Box::new(control));
    Append::Records((0..PARTITIONS).map(|p| (PartitionId(p), record.clone())).collect())
}

/// Of the second partition, as what [`rows`] has there.
pub fn redo(number: u64) -> Append {
    let failed = Position { epoch: Epoch(1), partition: PartitionId(1), offset: number };
    let (stream, batch) = ("readings".into(), row(number).into());
    let (rule, by) = (format!("rule-{number}"), Actor::default());
    let redo = Redo { rule, stream, failed, missed: None, upto: None, by, batch };
    Append::Records(vec![(PartitionId(1), Record::Redo(Box::new(redo)))])
}

/// Everything in a partition from an offset on.
pub fn read(log: &dyn Log, partition: u16, from: u64) -> Vec<Arc<Entry>> {
    let mut reader = log.reader(PartitionId(partition), from).unwrap();
    let mut all = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        all.push(entry);
    }
    all
}

/// The numbers of the rows in a partition.
pub fn numbers(log: &dyn Log, partition: u16) -> Vec<u64> {
    read(log, partition, log.range(PartitionId(partition)).0).iter().flat_map(|e| numbers_of(e)).collect()
}

pub fn numbers_of(entry: &Entry) -> Vec<u64> {
    match &entry.record {
        Record::Readings { batch, .. } => batch.devices.iter().map(|d| u64::from(d.0)).collect(),
        _ => Vec::new(),
    }
}
