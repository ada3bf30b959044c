//! Syncs that fail, and a disk that is full.

use watchfire_log::disk::Disk;
use watchfire_log::disk::sim::SimDisk;
use watchfire_log::embedded::LogOptions;
use watchfire_log::record::GapReason;
use watchfire_log::{AppendError, Log, Record};

use crate::help::*;

fn has_gap(log: &dyn Log, partition: u16, wanted: GapReason) -> bool {
    read(log, partition, 0)
        .iter()
        .any(|entry| matches!(entry.record, Record::Gap { reason, .. } if reason == wanted))
}

#[test]
fn after_a_failed_sync_the_group_goes_into_a_new_segment() {
    for failures in 1..4 {
        let disk = SimDisk::new(failures);
        let (log, _) = open(&disk, options()).unwrap();
        durable(log.append(rows(0, [1])).unwrap()).unwrap();
        disk.fail_syncs(failures as u32);
        durable(log.append(rows(0, [2])).unwrap()).unwrap();
        let written = disk.content("segment-000000000000.wal").unwrap();
        durable(log.append(rows(0, [3])).unwrap()).unwrap();
        assert_eq!(numbers(&*log, 0), [1, 2, 3]);
        // Nothing more was written to the file whose sync failed; it may be cut.
        let now = disk.content("segment-000000000000.wal").unwrap();
        assert_eq!(written[..now.len().min(written.len())], now[..now.len().min(written.len())]);
        // The power goes: only what was really synced is left.
        let disk = disk.restart();
        let (log, report) = open(&disk, options()).unwrap();
        assert_eq!(numbers(&*log, 0), [1, 2, 3]);
        assert_eq!(report.cut, None);
    }
}

#[test]
fn failed_writes_are_no_different() {
    let disk = SimDisk::new(3);
    let (log, _) = open(&disk, options()).unwrap();
    durable(log.append(rows(0, [1])).unwrap()).unwrap();
    disk.fail_writes(2);
    durable(log.append(rows(0, [2])).unwrap()).unwrap();
    let (log, _) = open(&disk.restart(), options()).unwrap();
    assert_eq!(numbers(&*log, 0), [1, 2]);
}

#[test]
fn a_disk_that_fails_for_long_pauses_intake_and_loses_nothing() {
    let disk = SimDisk::new(1);
    let clock = clock();
    let (log, _) =
        watchfire_log::EmbeddedLog::open_on(std::sync::Arc::new(disk.clone()), options(), clock.clone())
            .unwrap();
    disk.fail_syncs(u32::MAX);
    let held = log.append(rows(0, [1])).unwrap();
    until("it is paused", || matches!(log.append(rows(0, [2])), Err(AppendError::WriteFailed(_))));
    assert!(numbers(&*log, 0).is_empty(), "no reader sees what is not synced");
    clock.advance(std::time::Duration::from_secs(30));
    disk.fail_syncs(0);
    durable(held).unwrap();
    until("it goes on", || log.paused().is_none());
    until("the gap is told", || (0..PARTITIONS).all(|p| has_gap(&*log, p, GapReason::WriteFailed)));
    let all = numbers(&*log, 0);
    assert!(all[0] == 1, "{all:?}");
}

#[test]
fn closing_on_a_broken_disk_tells_which_groups_may_be_found() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk, options()).unwrap();
    disk.fail_syncs(u32::MAX);
    let flying = log.append(rows(0, [1])).unwrap();
    until("it is tried", || log.paused().is_some());
    log.close();
    assert!(matches!(durable(flying), Err(AppendError::WriteFailed(_))));
    assert!(matches!(log.append(rows(0, [3])), Err(AppendError::Closed)));
}

#[test]
fn intake_stops_before_the_reserve_and_goes_on_by_itself() {
    let disk = SimDisk::new(1);
    disk.set_capacity(400 << 10);
    let reserve = 128 << 10;
    let clock = clock();
    let small = LogOptions { reserve_bytes: reserve, ..options() };
    let (log, _) =
        watchfire_log::EmbeddedLog::open_on(std::sync::Arc::new(disk.clone()), small, clock.clone()).unwrap();
    let mut accepted = Vec::new();
    for number in 0.. {
        match log.append(rows(0, number * 20..number * 20 + 20)) {
            Ok(ticket) => {
                durable(ticket).unwrap();
                accepted.extend(number * 20..number * 20 + 20);
            }
            Err(error) => {
                assert_eq!(error, AppendError::DiskFull);
                break;
            }
        }
        // The keeper looks ten times a second; a disk does not fill up faster than a segment in that time.
        if number % 8 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    assert!(disk.free().unwrap() >= reserve, "{} are left", disk.free().unwrap());
    // The log's own records still go.
    let before = log.now();
    clock.advance(std::time::Duration::from_secs(60));
    durable(log.append(control(1)).unwrap()).unwrap();
    assert_eq!(log.now(), before, "log time stands still while intake does");
    disk.set_capacity(8 << 20);
    until("intake goes on", || log.append(rows(1, [7])).is_ok_and(|ticket| durable(ticket).is_ok()));
    assert_eq!(numbers(&*log, 0), accepted);
    until("the gap is told", || (0..PARTITIONS).all(|p| has_gap(&*log, p, GapReason::DiskFull)));
}
