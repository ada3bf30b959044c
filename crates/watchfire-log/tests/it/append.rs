//! Appending, reading and what readers may see.

use std::sync::Arc;
use std::time::Duration;

use watchfire_log::disk::sim::SimDisk;
use watchfire_log::embedded::{EmbeddedLog, LogOptions};
use watchfire_log::{Append, AppendError, Log, LogError, Record, SystemClock};
use watchfire_model::{PartitionId, Position, Timestamp};

use crate::help::*;

#[test]
fn what_is_appended_is_read_now_and_after_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (log, report) = EmbeddedLog::open(&path, options(), Arc::new(SystemClock)).unwrap();
    assert!(report.created && report.clean && report.last_group.is_none());
    durable(log.append(rows(0, 0..3)).unwrap()).unwrap();
    let Append::Intake { rows: more, .. } = rows(1, 3..5) else { panic!() };
    durable(log.append(Append::Intake { rows: more, rejects: vec![(PartitionId(1), reject(9))] }).unwrap())
        .unwrap();
    let positions = durable(log.append(control(1)).unwrap()).unwrap();
    let expected = [(0, 1), (1, 2), (2, 0)];
    let expected = expected.map(|(partition, offset)| Position {
        epoch: log.epoch(),
        partition: PartitionId(partition),
        offset,
    });
    assert_eq!(*positions, expected);
    let before: Vec<_> = (0..PARTITIONS).map(|p| read(&*log, p, 0)).collect();
    assert_eq!(numbers(&*log, 0), [0, 1, 2]);
    assert_eq!(before[1][1].record, Record::Rejects(vec![reject(9)]));
    assert_eq!(log.disk_reads(), 0);
    log.close();
    assert!(matches!(log.append(rows(0, [1])), Err(AppendError::Closed)));

    let (log, report) = EmbeddedLog::open(&path, options(), Arc::new(SystemClock)).unwrap();
    assert!(!report.created && report.clean && report.cut.is_none());
    until("the gap", || log.range(PartitionId(0)).1 == 3);
    for (partition, before) in (0..).zip(&before) {
        let now = read(&*log, partition, 0);
        assert_eq!(&now[..before.len()], &before[..]);
        assert!(matches!(now[before.len()].record, Record::Gap { .. }));
        assert!(now.is_sorted_by_key(|entry| entry.appended_at));
    }
    assert!(log.disk_reads() > 0);
}

#[test]
fn rows_of_many_connections_become_one_record_and_offsets_have_no_holes() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk, options()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let log = &log;
            scope.spawn(move || {
                for number in 0..200 {
                    let number = thread * 1000 + number;
                    let ticket = loop {
                        match log.append(rows((number % 3) as u16, [number])) {
                            Ok(ticket) => break ticket,
                            Err(error) => assert_eq!(error, AppendError::Full),
                        }
                    };
                    if number % 10 == 0 {
                        let group = ticket.group;
                        durable(ticket).unwrap();
                        assert!(log.synced_group() >= group);
                    }
                }
            });
        }
    });
    durable(log.append(control(1)).unwrap()).unwrap();
    let mut all = Vec::new();
    for partition in 0..PARTITIONS {
        let entries = read(&*log, partition, 0);
        assert!(entries.iter().zip(0..).all(|(entry, offset)| entry.position.offset == offset));
        let own: Vec<u64> = entries.iter().flat_map(|entry| numbers_of(entry)).collect();
        for thread in 0..4 {
            assert!(own.iter().filter(|n| **n / 1000 == thread).is_sorted(), "order of one connection");
        }
        all.extend(own);
    }
    all.sort_unstable();
    assert_eq!(all, (0..4).flat_map(|t| (0..200).map(move |n| t * 1000 + n)).collect::<Vec<_>>());
    assert_eq!(log.disk_reads(), 0);
}

#[test]
fn one_group_makes_one_record_per_partition() {
    // The groups that fail to be written wait; everything meanwhile collects in the next. Once the log has noticed, it takes
    // nothing: on a busy machine that may come before all is appended, and another one is tried.
    let appended = || {
        let disk = SimDisk::new(1);
        let (log, _) = open(&disk, options()).unwrap();
        disk.fail_syncs(3);
        let tickets: Result<Vec<_>, _> = (0..50).map(|number| log.append(rows(0, [number]))).collect();
        tickets
            .inspect_err(|error| assert!(matches!(error, AppendError::WriteFailed(_))))
            .ok()
            .map(|all| (log, all))
    };
    let (log, tickets) = (0..100).find_map(|_| appended()).unwrap();
    tickets.into_iter().for_each(|ticket| drop(durable(ticket).unwrap()));
    assert_eq!(numbers(&*log, 0), (0..50).collect::<Vec<_>>());
    let readings = read(&*log, 0, 0).iter().filter(|e| matches!(e.record, Record::Readings { .. })).count();
    assert!(readings <= 3, "{readings} records of 50 appends");
}

#[test]
fn the_queue_is_bounded_and_refuses_whole_appends() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk, LogOptions { queue_bytes: 4000, ..options() }).unwrap();
    let huge = Append::Intake {
        rows: Vec::new(),
        rejects: vec![(PartitionId(0), watchfire_log::Reject { payload: vec![0; 5000], ..reject(0) })],
    };
    durable(log.append(huge).expect("alone, it passes")).unwrap();
    until("the queue is empty again", || log.append(rows(0, [0])).is_ok());
    let before = 1;
    until("it is written", || numbers(&*log, 0).len() as u64 == before);
    disk.fail_syncs(4);
    let mut accepted = 0;
    let refused = loop {
        match log.append(rows(0, [accepted])) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::Full | AppendError::WriteFailed(_)), "{refused}");
    until("it is written", || numbers(&*log, 0).len() as u64 == before + accepted);
    assert!(log.append(rows(PARTITIONS, [0])).is_err());
}

#[test]
fn waiting_ends_with_the_next_group_or_in_time() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk, options()).unwrap();
    let group = log.synced_group();
    assert_eq!(log.wait_past(group, Duration::from_millis(5)), group);
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| log.wait_past(group, Duration::from_secs(30)));
        let task = scope.spawn(|| wait(log.synced_past(group)));
        let ticket = log.append(rows(0, [1])).unwrap();
        let number = ticket.group;
        durable(ticket).unwrap();
        assert_eq!(blocked.join().unwrap(), number);
        assert_eq!(task.join().unwrap(), number);
    });
}

#[test]
fn old_records_come_from_segments_and_one_log_is_one_order() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk, LogOptions { tail_bytes: 2000, ..options() }).unwrap();
    for number in 0..600 {
        durable(log.append(rows((number % 3) as u16, [number])).unwrap()).unwrap();
    }
    for partition in 0..PARTITIONS {
        let own: Vec<u64> = (0..600).filter(|n| n % 3 == u64::from(partition)).collect();
        assert_eq!(numbers(&*log, partition), own);
        // From any offset on.
        for from in [1, 77, 150, 199] {
            assert_eq!(read(&*log, partition, from).len() as u64, 200 - from);
        }
        assert!(read(&*log, partition, 200).is_empty());
    }
    assert!(log.disk_reads() > 0);
    let from = Position { epoch: log.epoch(), partition: PartitionId(1), offset: 100 };
    let scanned: Vec<u64> = log.scan(from).unwrap().flat_map(|entry| numbers_of(&entry.unwrap())).collect();
    assert_eq!(scanned, (301..600).collect::<Vec<_>>());
    // A segment that is larger than usual.
    let large = watchfire_log::Reject { payload: vec![7; 100_000], ..reject(0) };
    let large = Append::Intake { rows: Vec::new(), rejects: vec![(PartitionId(2), large)] };
    durable(log.append(large).unwrap()).unwrap();
    assert!(matches!(&read(&*log, 2, 200)[0].record, Record::Rejects(r) if r[0].payload.len() == 100_000));
}

#[test]
fn a_folder_has_one_owner_one_shape_and_an_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let open = |options| EmbeddedLog::open(folder.path(), options, Arc::new(SystemClock));
    let (log, _) = open(options()).unwrap();
    durable(log.append(rows(0, [1])).unwrap()).unwrap();
    assert!(matches!(open(options()), Err(LogError::InUse(_))));
    drop(log);
    assert!(matches!(open(LogOptions { partitions: 4, ..options() }), Err(LogError::Format(_))));
    let (log, report) = open(LogOptions { new_epoch: true, ..options() }).unwrap();
    assert_eq!((report.epoch.0, log.epoch().0), (2, 2));
    durable(log.append(rows(0, [2])).unwrap()).unwrap();
    let epochs: Vec<_> = read(&*log, 0, 0).iter().map(|entry| entry.position.epoch.0).collect();
    assert_eq!((epochs[0], *epochs.last().unwrap()), (1, 2));
    drop(log);
    std::fs::remove_file(folder.path().join("FORMAT")).unwrap();
    assert!(matches!(open(options()), Err(LogError::Format(_))));
}

#[test]
fn a_record_that_could_not_be_read_back_is_refused() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk, options()).unwrap();
    let attributes = |value| {
        let mut device: watchfire_model::DeviceSpec = serde_json::from_str(r#"{"id":"d"}"#).unwrap();
        device.interval = Some(watchfire_model::Duration(value));
        device
    };
    let good = watchfire_model::Control::DevicesPut {
        devices: vec![attributes(5_000_000)],
        by: watchfire_model::Actor::default(),
    };
    let append = Append::Records(vec![(PartitionId(0), Record::Control(Box::new(good.clone())))]);
    durable(log.append(append).unwrap()).unwrap();
    assert_eq!(read(&*log, 0, 0)[0].record, Record::Control(Box::new(good)));
    let bad = watchfire_model::Control::DevicesPut {
        devices: vec![attributes(u64::MAX)],
        by: watchfire_model::Actor::default(),
    };
    let append = Append::Records(vec![(PartitionId(0), Record::Control(Box::new(bad)))]);
    assert!(matches!(log.append(append), Err(AppendError::WriteFailed(_))));
}

#[test]
fn a_group_of_very_many_rows_is_several_records_and_a_replay_sees_the_same() {
    let disk = SimDisk::new(1);
    let options =
        || LogOptions { group_bytes: 8 << 20, queue_bytes: 64 << 20, segment_bytes: 8 << 20, ..options() };
    let (log, _) = open(&disk, options()).unwrap();
    let mut many = watchfire_model::BatchBuilder::new();
    for number in 0..20_000_u32 {
        many.begin(watchfire_model::DeviceHandle(number), Timestamp(i64::from(number)));
        many.number("value", 1.0).unwrap();
        many.commit();
    }
    let upload = Append::Intake { rows: vec![(PartitionId(1), many.finish())], rejects: Vec::new() };
    durable(log.append(upload).unwrap()).unwrap();
    let sizes =
        |log: &dyn Log| read(log, 1, 0).iter().map(|entry| numbers_of(entry).len()).collect::<Vec<_>>();
    assert_eq!(sizes(&*log), [8192, 8192, 3616]);
    assert_eq!(numbers(&*log, 1), (0..20_000).collect::<Vec<u64>>());
    let before = read(&*log, 1, 0);
    drop(log);
    let (log, _) = open(&disk.kill(), options()).unwrap();
    assert_eq!(read(&*log, 1, 0)[..3], before[..]);
}
