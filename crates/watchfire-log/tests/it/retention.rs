//! What is removed, and what never is.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use watchfire_log::disk::Disk;
use watchfire_log::disk::sim::SimDisk;
use watchfire_log::embedded::{EmbeddedLog, LogOptions};
use watchfire_log::{AppendError, Log, LogError};
use watchfire_model::PartitionId;

use crate::help::*;

const P0: PartitionId = PartitionId(0);

/// A log of several segments, all old.
fn filled(options: LogOptions) -> (SimDisk, Arc<EmbeddedLog>) {
    let (disk, clock) = (SimDisk::new(1), clock());
    let (log, _) = EmbeddedLog::open_on(Arc::new(disk.clone()), options, clock.clone()).unwrap();
    for number in 0..400 {
        durable(log.append(rows((number % 3) as u16, [number])).unwrap()).unwrap();
    }
    clock.advance(Duration::from_secs(3599));
    clock.advance(Duration::from_secs(3599));
    (disk, log)
}

fn segments(disk: &SimDisk) -> usize {
    disk.list().unwrap().iter().filter(|name| name.starts_with("segment-")).count()
}

fn pass(log: &EmbeddedLog, reader: &str) {
    (0..PARTITIONS).map(PartitionId).for_each(|p| log.set_cursor(reader, p, log.range(p).1));
}

/// The keeper had its chance to remove something.
fn settle() {
    std::thread::sleep(Duration::from_millis(350));
}

fn an_hour() -> LogOptions {
    LogOptions { retain_for: Duration::from_secs(3600), ..options() }
}

#[test]
fn a_segment_goes_when_everybody_passed_it() {
    let (disk, log) = filled(an_hour());
    let before = segments(&disk);
    assert!(before >= 4, "{before}");
    settle();
    assert_eq!(log.range(P0).0, 0, "without the engine's cursor nothing goes");
    log.set_cursor("timescale", PartitionId(1), 0);
    log.hold("snapshot", PartitionId(2), 50);
    pass(&log, "engine");
    settle();
    assert_eq!(log.range(P0).0, 0, "a sink needs the first record");
    pass(&log, "timescale");
    until("some go", || log.range(P0).0 > 0);
    settle();
    let held = log.range(PartitionId(2)).0;
    assert!(held > 0 && held <= 50, "{held}");
    assert_eq!(read(&*log, 2, 50).len() as u64, log.range(PartitionId(2)).1 - 50);
    log.release("snapshot");
    until("the rest goes", || log.range(PartitionId(2)).0 > 50);
    assert!(matches!(log.reader(P0, 0), Err(LogError::Gone { first, .. }) if first == log.range(P0).0));
    assert!(log.detached().is_empty());
    // What is left is a log like any other.
    let kept = (0..PARTITIONS).map(|p| (log.range(PartitionId(p)).0, numbers(&*log, p))).collect::<Vec<_>>();
    log.close();
    drop(log);
    let disk = disk.restart();
    let (log, _) = open(&disk, an_hour()).unwrap();
    for (partition, (first, numbers_before)) in (0..).zip(kept) {
        assert_eq!((log.range(PartitionId(partition)).0, numbers(&*log, partition)), (first, numbers_before));
    }
}

#[test]
fn what_is_young_and_small_stays_and_what_is_large_goes() {
    let (_disk, log) = filled(LogOptions { retain_for: Duration::from_secs(86_400), ..options() });
    pass(&log, "engine");
    settle();
    assert_eq!(log.range(P0).0, 0);
    drop(log);
    let (_disk, log) = filled(LogOptions { retain_bytes: 40 << 10, ..options() });
    pass(&log, "engine");
    until("some go", || log.range(P0).0 > 0);
}

#[test]
fn a_sink_that_holds_too_much_is_detached_and_the_engine_never() {
    let (disk, log) = filled(LogOptions { reader_bytes: 40 << 10, ..an_hour() });
    log.set_cursor("engine", P0, 0);
    log.set_cursor("kafka", P0, 5);
    until("it is detached", || !log.detached().is_empty());
    let detached = log.detached();
    assert_eq!((detached[0].name.as_str(), detached[0].needed[0]), ("kafka", (P0, 5)));
    assert!(detached[0].bytes > 40 << 10);
    settle();
    assert_eq!(log.range(P0).0, 0);
    pass(&log, "engine");
    until("some go", || log.range(P0).0 > 5);
    assert_eq!(log.detached().len(), 1);
    // It outlives the process, because the loss does; until the reader is given up.
    log.close();
    drop(log);
    let open = || open(&disk, an_hour()).unwrap().0;
    let log = open();
    assert_eq!(log.detached(), detached);
    log.remove_cursor("kafka");
    assert!(log.detached().is_empty());
    log.close();
    drop(log);
    assert!(open().detached().is_empty());
}

#[test]
fn a_disk_that_is_smaller_than_what_is_kept_takes_readings_for_as_long_as_everybody_reads() {
    let (disk, clock) = (SimDisk::new(1), clock());
    disk.set_capacity(600 << 10);
    let options = LogOptions { reserve_bytes: 128 << 10, ..options() };
    let (log, _) = EmbeddedLog::open_on(Arc::new(disk.clone()), options, clock).unwrap();
    log.set_cursor("engine", P0, 0);
    let number = Cell::new(0);
    let append = || {
        durable(log.append(rows(0, number.get()..number.get() + 20))?)?;
        number.set(number.get() + 20);
        Ok(())
    };
    until("the disk is full", || append() == Err(AppendError::DiskFull));
    settle();
    assert_eq!(log.range(P0).0, 0, "what the engine has not seen stays, whatever that costs");
    // It is young, and far below what may be kept; but there is no room for more.
    pass(&log, "engine");
    until("intake goes on", || append().is_ok());
    let first = log.range(P0).0;
    assert!(first > 0);
    let end = number.get() + 20_000;
    until("several times the disk went through it", || {
        pass(&log, "engine");
        let _ = append();
        number.get() >= end
    });
    assert!(disk.free().unwrap() >= 128 << 10);
}
