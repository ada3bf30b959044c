//! Steps of the wall clock and gaps, seen through the log.

use std::sync::Arc;
use std::time::Duration;

use watchfire_log::clock::Clock;
use watchfire_log::disk::sim::SimDisk;
use watchfire_log::embedded::{EmbeddedLog, LogOptions};
use watchfire_log::record::GapReason;
use watchfire_log::{AppendError, Log, Record};
use watchfire_model::Timestamp;

use crate::help::*;

const HOUR: u64 = 3600;

fn gaps(log: &dyn Log, partition: u16) -> Vec<(u64, u64, GapReason)> {
    let seconds = |time: Timestamp| ((time.0 - START.0) / 1_000_000) as u64;
    let all = read(log, partition, 0);
    let gap = |entry: &Arc<watchfire_log::Entry>| match entry.record {
        Record::Gap { from, to, reason } => {
            assert_eq!(entry.appended_at, to, "a gap ends when its group is appended");
            Some((seconds(from), seconds(to), reason))
        }
        _ => None,
    };
    all.iter().filter_map(gap).collect()
}

#[test]
fn a_forward_jump_pauses_appends_until_it_is_confirmed_or_stable() {
    for confirmed in [true, false] {
        let (disk, clock) = (SimDisk::new(1), clock());
        let (log, _) = EmbeddedLog::open_on(Arc::new(disk), options(), clock.clone()).unwrap();
        durable(log.append(rows(0, [1])).unwrap()).unwrap();
        clock.advance(Duration::from_secs(5));
        clock.set_wall(Timestamp(START.0 + 7 * 3600 * 1_000_000));
        until("it is paused", || log.append(rows(0, [2])).is_err());
        assert!(matches!(log.append(control(1)), Err(AppendError::ClockStep(jump)) if jump.as_secs() > HOUR));
        assert!(matches!(log.paused(), Some(AppendError::ClockStep(_))));
        assert!(log.now() < Timestamp(START.0 + 60 * 1_000_000), "log time stands still");
        if confirmed {
            assert!(log.confirm_clock() && !log.confirm_clock());
        } else {
            clock.advance(Duration::from_secs(301));
        }
        until("it goes on", || log.paused().is_none());
        until("appends are accepted", || {
            log.append(rows(1, [3])).is_ok_and(|ticket| durable(ticket).is_ok())
        });
        for partition in 0..PARTITIONS {
            until("the gap is there", || gaps(&*log, partition).len() == 1);
            let (from, to, reason) = gaps(&*log, partition)[0];
            assert_eq!((from, reason), (5, GapReason::ClockStep));
            assert_eq!(to, 7 * HOUR + if confirmed { 0 } else { 301 });
        }
        // Rows that were accepted before it was noticed have the time before the jump.
        assert!(read(&*log, 0, 0).is_sorted_by_key(|entry| entry.appended_at));
    }
}

#[test]
fn after_a_backward_step_records_go_on_at_the_same_rate() {
    let (disk, clock) = (SimDisk::new(1), clock());
    let (log, _) = EmbeddedLog::open_on(Arc::new(disk), options(), clock.clone()).unwrap();
    durable(log.append(rows(0, [1])).unwrap()).unwrap();
    clock.set_wall(Timestamp(0));
    clock.advance(Duration::from_secs(10));
    durable(log.append(rows(0, [2])).unwrap()).unwrap();
    let times: Vec<i64> = read(&*log, 0, 0).iter().map(|e| (e.appended_at.0 - START.0) / 1_000_000).collect();
    assert_eq!(times, [0, 10]);
    assert!(gaps(&*log, 0).is_empty() && clock.wall() < START);
}

#[test]
fn a_start_begins_with_the_gap_since_the_last_record() {
    let (disk, clock) = (SimDisk::new(1), clock());
    let open = || EmbeddedLog::open_on(Arc::new(disk.clone()), options(), clock.clone()).unwrap().0;
    let log = open();
    durable(log.append(rows(0, [1])).unwrap()).unwrap();
    assert!(gaps(&*log, 0).is_empty(), "a new log has no gap");
    clock.advance(Duration::from_secs(4));
    log.close();
    drop(log);
    clock.advance(Duration::from_secs(100));
    let log = open();
    durable(log.append(rows(0, [2])).unwrap()).unwrap();
    for partition in 0..PARTITIONS {
        // Up to the close the log was there.
        assert_eq!(gaps(&*log, partition), [(4, 104, GapReason::Stopped)]);
    }
    let kinds: Vec<bool> = read(&*log, 0, 1).iter().map(|e| matches!(e.record, Record::Gap { .. })).collect();
    assert_eq!(kinds, [true, false], "the gap comes first");
}

#[test]
fn after_a_crash_the_gap_begins_where_time_was_last_written_down() {
    let (disk, clock) = (SimDisk::new(1), clock());
    let options = || LogOptions { heartbeat: Duration::from_secs(5), ..options() };
    let open =
        |disk: &SimDisk| EmbeddedLog::open_on(Arc::new(disk.clone()), options(), clock.clone()).unwrap().0;
    let log = open(&disk);
    durable(log.append(rows(0, [1])).unwrap()).unwrap();
    // A quiet quarter of an hour, in which somebody's patience is over.
    for _ in 0..180 {
        let before = log.synced_group();
        clock.advance(Duration::from_secs(5));
        until("time is written down", || log.synced_group() > before);
    }
    let ticks = |log: &dyn Log| read(log, 0, 0).iter().filter(|entry| entry.record == Record::Tick).count();
    assert_eq!(ticks(&*log), 180, "one for each five seconds, and no more");
    clock.advance(Duration::from_secs(4));
    let disk = disk.restart();
    clock.advance(Duration::from_secs(100));
    let log = open(&disk);
    durable(log.append(rows(0, [2])).unwrap()).unwrap();
    // The last group may not have been synced when the power went; it is never more than one.
    let (from, to, reason) = gaps(&*log, 0)[0];
    assert!((895..=900).contains(&from), "{from}");
    assert_eq!((to, reason), (1004, GapReason::Stopped));
    log.close();
}

#[test]
fn a_log_that_is_written_needs_no_ticks() {
    let (disk, clock) = (SimDisk::new(1), clock());
    let options = LogOptions { heartbeat: Duration::from_secs(5), ..options() };
    let (log, _) = EmbeddedLog::open_on(Arc::new(disk), options, clock.clone()).unwrap();
    for number in 0..40 {
        durable(log.append(rows(1, [number])).unwrap()).unwrap();
        clock.advance(Duration::from_secs(4));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(read(&*log, 0, 0).is_empty());
}

#[test]
fn a_start_with_a_dead_clock_takes_nothing_until_it_is_confirmed_and_reads_all_the_same() {
    let (disk, clock) = (SimDisk::new(1), clock());
    let open = || EmbeddedLog::open_on(Arc::new(disk.clone()), options(), clock.clone()).unwrap().0;
    let log = open();
    durable(log.append(rows(0, [1])).unwrap()).unwrap();
    log.close();
    drop(log);
    let year_2099 = "2099-01-01T00:00:00Z".parse().unwrap();
    clock.set_wall(year_2099);
    let log = open();
    assert!(matches!(log.append(rows(0, [2])), Err(AppendError::ClockStep(_))), "from the first moment");
    assert_eq!(numbers(&*log, 0), [1], "reading waits for nothing");
    assert_eq!(log.now(), START);
    log.close();
    drop(log);
    // A start that was never believed leaves no trace, so the next one asks again.
    let log = open();
    assert!(log.paused().is_some());
    let log: Arc<dyn Log> = log;
    assert!(log.confirm_clock() && !log.confirm_clock());
    until("it goes on", || log.append(rows(0, [2])).is_ok_and(|ticket| durable(ticket).is_ok()));
    assert_eq!(log.now(), year_2099);
    let (from, _, reason) = gaps(&*log, 0)[0];
    assert_eq!((from, reason), (0, GapReason::Stopped));
}
