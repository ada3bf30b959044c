//! Crashes at random points, under a seed. What was acknowledged is there afterwards, in order, whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use watchfire_log::codec::group::{GroupHeader, SEGMENT_HEADER};
use watchfire_log::disk::Disk;
use watchfire_log::disk::sim::SimDisk;
use watchfire_log::embedded::LogOptions;
use watchfire_log::{Log, LogError, Record};
use watchfire_model::PartitionId;

use crate::help::*;

const ROUNDS: u64 = 3;

/// Numbers that were offered and that were acknowledged, in the order of one appender.
#[derive(Default)]
struct Ledger {
    offered: Vec<u64>,
    acknowledged: Vec<u64>,
    controls: Vec<u64>,
}

/// Appends until the machine goes off (or a little later), and keeps the books.
fn life(disk: &SimDisk, ledger: &mut Ledger, next: &AtomicU64, random: &mut u64) {
    let small = LogOptions { segment_bytes: 12 << 10, tail_bytes: 4000, ..options() };
    let log = match open(disk, small) {
        Ok((log, _)) => log,
        // The sync of the group that is written again may fail as any other.
        Err(LogError::Io { .. }) => return,
        Err(error) => panic!("{error:?}"),
    };
    check(&*log, ledger);
    let mut tickets = Vec::new();
    for step in 0..60 {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if step % 7 == 3 {
            if let Ok(ticket) = log.append(control(number)) {
                tickets.push((number, true, ticket));
            }
        } else if let Ok(ticket) = log.append(rows(0, [number])) {
            ledger.offered.push(number);
            tickets.push((number, false, ticket));
        }
        *random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        if (*random >> 60) < 5 {
            settle(&mut tickets, ledger, disk, &log);
        }
    }
    if !disk.crashed() && (*random >> 40).is_multiple_of(2) {
        settle(&mut tickets, ledger, disk, &log);
        check(&*log, ledger);
    }
    // What was not waited for: some of it was acknowledged all the same.
    log.close();
    settle(&mut tickets, ledger, disk, &log);
}

fn settle(
    tickets: &mut Vec<(u64, bool, watchfire_log::Ticket)>,
    ledger: &mut Ledger,
    disk: &SimDisk,
    log: &Arc<watchfire_log::EmbeddedLog>,
) {
    for (number, control, ticket) in tickets.drain(..) {
        if disk.crashed() {
            log.close();
        }
        // The machine may go off while this waits: somebody has to close the log then.
        let outcome = std::thread::scope(|scope| {
            let done = Arc::new(AtomicU64::new(0));
            let seen = done.clone();
            scope.spawn(move || {
                while seen.load(Ordering::Relaxed) == 0 {
                    if disk.crashed() {
                        log.close();
                        break;
                    }
                    std::thread::yield_now();
                }
            });
            let outcome = durable(ticket);
            done.store(1, Ordering::Relaxed);
            outcome
        });
        if outcome.is_ok() {
            if control {
                ledger.controls.push(number);
            } else {
                ledger.acknowledged.push(number);
            }
        }
    }
}

/// What the log holds agrees with the books.
fn check(log: &dyn Log, ledger: &Ledger) {
    let all = numbers(log, 0);
    assert!(all.is_sorted_by(|a, b| a < b), "in order, none twice");
    assert!(all.iter().all(|number| ledger.offered.contains(number)), "nothing comes from nowhere");
    for number in &ledger.acknowledged {
        assert!(all.contains(number), "{number} was acknowledged and is lost");
    }
    let mut sets = Vec::new();
    for partition in 0..PARTITIONS {
        let entries = read(log, partition, 0);
        assert!(entries.iter().zip(0..).all(|(entry, offset)| entry.position.offset == offset));
        assert!(entries.is_sorted_by_key(|entry| entry.appended_at));
        assert_eq!(log.range(PartitionId(partition)), (0, entries.len() as u64));
        let names = entries.iter().filter_map(|entry| match &entry.record {
            Record::Control(control) => match &**control {
                watchfire_model::Control::RulePaused { name, .. } => Some(name.clone()),
                _ => None,
            },
            _ => None,
        });
        sets.push(names.collect::<Vec<_>>());
    }
    assert!(sets.iter().all(|set| *set == sets[0]), "a control set is there whole or not at all");
    for number in &ledger.controls {
        assert!(sets[0].contains(&format!("rule-{number}")), "control {number} is lost");
    }
    let scanned =
        log.scan(watchfire_model::Position { epoch: log.epoch(), partition: PartitionId(0), offset: 0 });
    let scanned: Vec<u64> = scanned.unwrap().flat_map(|entry| numbers_of(&entry.unwrap())).collect();
    assert_eq!(scanned, all);
}

fn run(seed: u64, machine: bool, failing_syncs: bool) {
    let mut disk = SimDisk::new(seed);
    let (mut ledger, next, mut random) = (Ledger::default(), AtomicU64::new(0), seed.wrapping_mul(77) + 1);
    for round in 0..ROUNDS {
        disk.crash_after(2 + (seed * 13 + round * 29) % 90);
        if failing_syncs {
            disk.fail_syncs((seed % 4) as u32);
        }
        life(&disk, &mut ledger, &next, &mut random);
        disk = if machine { disk.restart() } else { disk.kill() };
    }
    let (log, _) = open(&disk, options()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    check(&*log, &ledger);
    // It goes on as if nothing had been.
    durable(log.append(rows(0, [next.load(Ordering::Relaxed)])).unwrap()).unwrap();
}

#[test]
fn the_power_goes() {
    (0..150).for_each(|seed| run(seed, true, false));
}

#[test]
fn the_process_is_killed() {
    (1000..1050).for_each(|seed| run(seed, false, false));
}

#[test]
fn syncs_fail_and_then_the_power_goes() {
    (2000..2060).for_each(|seed| run(seed, true, true));
}

#[test]
fn syncs_fail_then_the_process_is_killed_then_the_power_goes() {
    for seed in 3000..3020 {
        let disk = SimDisk::new(seed);
        let (log, _) = open(&disk, options()).unwrap();
        durable(log.append(rows(0, [1])).unwrap()).unwrap();
        // The page cache has the group, the disk has not, and the log knows neither way.
        disk.fail_syncs(u32::MAX);
        let lost = log.append(rows(0, [2])).unwrap();
        until("it is tried", || log.paused().is_some());
        log.close();
        assert!(durable(lost).is_err());
        drop(log);
        let disk = disk.kill();
        let (log, _) = open(&disk, options()).unwrap();
        let after_kill = numbers(&*log, 0);
        assert!(after_kill == [1, 2] || after_kill == [1], "{after_kill:?}");
        // What a reader saw once stays, whatever happens then.
        let disk = disk.restart();
        let (log, _) = open(&disk, options()).unwrap();
        assert_eq!(numbers(&*log, 0), after_kill);
    }
}

#[test]
fn a_torn_tail_is_cut_and_reported() {
    let mut cuts = 0;
    // How much of the group there is when the power goes depends on threads: some seeds leave nothing to cut.
    for seed in 0..500 {
        if cuts > 5 {
            break;
        }
        let disk = SimDisk::new(seed);
        let (log, _) = open(&disk, options()).unwrap();
        durable(log.append(rows(0, 0..20)).unwrap()).unwrap();
        disk.fail_syncs(u32::MAX);
        let payload = vec![0x5a; 4000];
        let reject = watchfire_log::Reject { payload, ..reject(1) };
        let torn =
            watchfire_log::Append::Intake { rows: Vec::new(), rejects: vec![(PartitionId(0), reject)] };
        let ticket = log.append(torn).unwrap();
        disk.crash_after(1);
        log.close();
        assert!(durable(ticket).is_err());
        let disk = disk.restart();
        let (log, report) = open(&disk, options()).unwrap();
        assert_eq!(numbers(&*log, 0), (0..20).collect::<Vec<_>>());
        if let Some(cut) = report.cut {
            cuts += 1;
            assert!(cut.file.starts_with("segment-") && cut.bytes > cut.at);
            assert!(!report.clean);
        }
    }
    assert!(cuts > 5, "{cuts} cuts only");
}

#[test]
fn damage_of_what_was_synced_is_an_error_with_its_place() {
    let mut reported = 0;
    for flip in 0..100_u64 {
        let disk = SimDisk::new(flip);
        let (log, _) = open(&disk, options()).unwrap();
        for number in 0..40 {
            durable(log.append(rows((number % 3) as u16, [number])).unwrap()).unwrap();
        }
        log.close();
        let name = "segment-000000000000.wal";
        let bytes = disk.content(name).unwrap();
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() as u64;
        // Anywhere in the page of the segment that says something, or in a group.
        let at = if flip < 10 { flip * 8 } else { 4096 + (flip * 7919) % (used - 4096 - 72) };
        disk.flip(name, at, flip as u8);
        match open(&disk, options()) {
            Err(LogError::Corrupt { file, at: place, .. }) => {
                assert_eq!(file, name);
                assert!(place <= at && at - place < 4096, "byte {at} was flipped, {place} reported");
                reported += 1;
                assert_eq!(disk.content(name).map(|now| now.len()), Some(bytes.len()), "nothing is cut");
            }
            // Padding behind a group is covered by no checksum and says nothing.
            Ok((log, report)) => {
                assert_eq!(bytes[at as usize], 0, "byte {at}");
                assert_eq!(report.cut, None);
                assert_eq!((0..PARTITIONS).map(|p| numbers(&*log, p).len()).sum::<usize>(), 40);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(reported > 80, "{reported} of 100");
}

#[test]
fn damage_in_a_sealed_segment_is_found_by_who_reads_it() {
    let disk = SimDisk::new(5);
    let (log, _) = open(&disk, LogOptions { tail_bytes: 0, ..options() }).unwrap();
    for number in 0..300 {
        durable(log.append(rows(0, [number])).unwrap()).unwrap();
    }
    log.close();
    let name = "segment-000000000000.wal";
    disk.flip(name, 4096 + 200, 3);
    let (log, _) = open(&disk, LogOptions { tail_bytes: 0, ..options() }).unwrap();
    let mut reader = log.reader(PartitionId(0), 0).unwrap();
    let error = loop {
        match reader.next() {
            Ok(entry) => assert!(entry.unwrap().position.offset < 5),
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, LogError::Corrupt { file, .. } if file == name), "{error}");
    // A segment that is not there any more, although it was not removed.
    log.close();
    disk.remove("segment-000000000001.wal").unwrap();
    assert!(matches!(open(&disk, options()), Err(LogError::Corrupt { .. })));
}

/// A closed log over some segments, one row a group, on a disk of its own.
fn segments() -> SimDisk {
    let disk = SimDisk::new(9);
    let (log, _) = open(&disk, options()).unwrap();
    for number in 0..300 {
        durable(log.append(rows(0, [number])).unwrap()).unwrap();
    }
    log.close();
    disk.kill()
}

/// First byte and first byte behind of each group.
fn groups(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut groups, mut at) = (Vec::new(), SEGMENT_HEADER);
    while let Some(Ok(header)) = bytes.get(at..).map(GroupHeader::decode) {
        groups.push(at..at + header.length());
        at += header.length();
    }
    groups
}

#[test]
fn a_segment_without_a_whole_group_still_proves_what_it_continues() {
    let page = |bytes: &mut Vec<u8>| bytes[SEGMENT_HEADER..].fill(0);
    let group = |bytes: &mut Vec<u8>| {
        let first = groups(bytes)[0].end;
        bytes[..SEGMENT_HEADER].fill(0);
        bytes[first..].fill(0);
    };
    for damage in [&page as &dyn Fn(&mut Vec<u8>), &group] {
        let damaged = || {
            let disk = segments();
            let mut names = disk.list().unwrap();
            names.retain(|name| disk.content(name).is_some_and(|bytes| !groups(&bytes).is_empty()));
            names.sort();
            let newest = names.pop().unwrap();
            let mut bytes = disk.content(&newest).unwrap();
            damage(&mut bytes);
            disk.replace(&newest, &bytes).unwrap();
            (disk, names.pop().unwrap())
        };
        // As it is, nothing of the segment before is lost.
        let (disk, before) = damaged();
        let last = groups(&disk.content(&before).unwrap()).pop().unwrap();
        open(&disk, options()).unwrap();
        let (disk, _) = damaged();
        disk.flip(&before, last.start as u64 + 80, 1);
        let error = open(&disk, options()).unwrap_err();
        let LogError::Corrupt { file, at, .. } = &error else { panic!("{error}") };
        assert_eq!((file, *at), (&before, last.start as u64));
        // Nor may it be gone.
        let (disk, _) = damaged();
        disk.remove(&before).unwrap();
        let error = open(&disk, options()).unwrap_err();
        assert!(matches!(&error, LogError::Corrupt { file, .. } if *file == before), "{error}");
    }
}

#[test]
fn a_whole_group_at_the_place_of_another_is_found() {
    let disk = segments();
    let name = "segment-000000000000.wal";
    let mut bytes = disk.content(name).unwrap();
    let groups = groups(&bytes);
    let (there, from) = (groups[10].clone(), groups[16].clone());
    assert_eq!(there.len(), from.len(), "rows that are equally long");
    bytes.copy_within(from, there.start);
    disk.replace(name, &bytes).unwrap();
    let (log, _) = open(&disk, LogOptions { tail_bytes: 0, ..options() }).unwrap();
    let is_reported = |error: LogError| {
        let LogError::Corrupt { file, at, .. } = &error else { panic!("{error}") };
        assert_eq!((file.as_str(), *at), (name, there.start as u64));
    };
    let mut reader = log.reader(PartitionId(0), 0).unwrap();
    is_reported(std::iter::from_fn(|| reader.next().transpose()).find_map(Result::err).unwrap());
    let first = watchfire_model::Position { epoch: log.epoch(), partition: PartitionId(0), offset: 0 };
    is_reported(match log.scan(first) {
        Ok(mut entries) => entries.find_map(Result::err).unwrap(),
        Err(error) => error,
    });
    // Who begins behind it is not served from it either.
    is_reported(match log.reader(PartitionId(0), 30) {
        Ok(mut reader) => reader.next().unwrap_err(),
        Err(error) => error,
    });
}
