//! A rule that keeps failing: taken out, tried again, and given what it missed, each row once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use watchfire_engine::{Engine, EngineOptions, append_missed};
use watchfire_log::{Append, Breaker, BreakerChange, Log, MissedRange, Record};
use watchfire_model::alert::{AlertChanges, AlertKeeper};
use watchfire_model::call::{Callback, Effects, Subscription};
use watchfire_model::{Actor, Control, DeviceHandle, PartitionId};
use watchfire_testkit::{MemoryLog, NativeModule, NativeModules, RecordingKeeper};

use crate::world::*;

/// A rule that keeps every value of each device as its state, while it is not broken.
struct Rig {
    broken: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
    modules: Arc<NativeModules>,
    module: watchfire_model::Digest,
    other: watchfire_model::Digest,
}

impl Rig {
    fn new() -> Self {
        let (broken, calls) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
        let modules = Arc::new(NativeModules::new());
        let (is_broken, count) = (broken.clone(), calls.clone());
        let keeps = move |guest: &mut watchfire_testkit::Guest<'_>| {
            let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
            count.fetch_add(1, Ordering::Relaxed);
            if is_broken.load(Ordering::Relaxed) {
                return trap("broken");
            }
            let mut effects = threshold(guest)?;
            let mut seen: BTreeMap<DeviceHandle, Vec<u8>> = BTreeMap::new();
            for (&device, &x) in rows.devices().iter().zip(rows.numbers("x").iter()) {
                let stored = || guest.state().get(0, device).to_vec();
                seen.entry(device).or_insert_with(stored).push(x as u8);
            }
            effects.stores = seen.iter().map(|(device, bytes)| one_state(0, *device, bytes)).collect();
            Ok(effects)
        };
        let module = modules.add(NativeModule::new("keeps", Subscription::default(), keeps).state_version(1));
        let other = modules.add(NativeModule::new("other", Subscription::default(), threshold));
        Self { broken, calls, modules, module, other }
    }

    fn world(&self, more: serde_json::Value) -> World {
        let log = MemoryLog::new(1, T0);
        let mut world = World::over(log, self.modules.clone(), &[]);
        world.devices(&["a", "b"]);
        world.deploy(rule("r", self.module, more), 1);
        world
    }
}

/// One row at a second, of the device and with the value that follow from it.
fn row(world: &mut World, second: i64) {
    world.log.set_now(at(second));
    world.readings(&[((second % 2) as u32, second, (second % 100) as f64)]);
}

fn changes(world: &World) -> Vec<BreakerChange> {
    let records = world.log.records();
    let changes = records.iter().filter_map(|entry| match &entry.record {
        Record::Breaker(breaker) => Some(breaker.change.clone()),
        _ => None,
    });
    changes.collect()
}

fn waits(world: &World) -> Vec<u64> {
    let changes = changes(world);
    let waits = changes.iter().filter_map(|change| match change {
        BreakerChange::Opened { wait, .. } | BreakerChange::StaysOpen { wait, .. } => {
            Some(wait.0 / 1_000_000)
        }
        _ => None,
    });
    waits.collect()
}

/// The state of the rule, by device: the values that it saw, in order.
fn seen(world: &World) -> Vec<Vec<u8>> {
    let dump = world.lanes[0].partition.dump();
    let state = |device: u32| {
        let mut key = vec![8];
        [0_u32, 0, device].iter().for_each(|part| key.extend_from_slice(&part.to_be_bytes()));
        dump.get(&key).cloned().unwrap_or_default()
    };
    vec![state(0), state(1)]
}

/// What it should have seen of these seconds.
fn expected(seconds: impl Iterator<Item = i64>) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new(), Vec::new()];
    seconds.for_each(|second| all[(second % 2) as usize].push((second % 100) as u8));
    all
}

fn outage(world: &World) -> Option<watchfire_engine::BreakerStatus> {
    let mut rules = BTreeMap::new();
    world.lanes[0].partition.add_rule_status(&mut rules);
    rules["r"].breakers.get(&PartitionId(0)).cloned()
}

/// Appends slices until the rule is level; `more` runs behind each.
fn catch_up(world: &mut World, mut more: impl FnMut(&mut World, usize)) {
    for round in 0.. {
        assert!(round < 200, "it never becomes level");
        if append_missed(&*world.log, &world.lanes[0].partition).unwrap() == 0 {
            return;
        }
        // Rows come while the slice is on its way.
        more(world, round);
        world.run();
    }
}

/// Replays the log of a world from its start: the same, to the byte, and nothing is appended.
fn check_replay(world: &World) {
    let copy = world.log.copy();
    let mut again = World::over(copy.clone(), world.modules.clone(), &[]);
    let transitions = world.keeper.transitions();
    again.keeper.submit(AlertChanges { transitions: transitions.clone(), ..AlertChanges::default() });
    again.run();
    assert_eq!(again.keeper.transitions().len(), transitions.len());
    assert_eq!(again.dumps(), world.dumps());
    assert_eq!(copy.records().len(), world.log.records().len());
}

#[test]
fn a_rule_that_fails_on_everything_is_taken_out_and_another_goes_on() {
    let rig = Rig::new();
    let mut world = rig.world(json!({}));
    world.deploy(rule("other", rig.other, json!({})), 1);
    (0..50).for_each(|second| row(&mut world, second));
    // Twenty callbacks, and a try behind each wait.
    let failed = world.failed(PartitionId(0), "r");
    assert_eq!(failed.len(), 20, "what it missed is no dead letter");
    assert_eq!(waits(&world), [10, 20, 40], "{:?}", changes(&world));
    let calls = rig.calls.load(Ordering::Relaxed);
    assert_eq!(calls, 22);
    let Some(BreakerChange::Opened { offset, callback, why, reason, .. }) = changes(&world).first().cloned()
    else {
        panic!("{:?}", changes(&world))
    };
    assert_eq!((failed[19].offset, callback, reason.as_str()), (offset, 0, "broken"));
    assert_eq!(why, "20 of 20 callbacks within 1m failed");
    let outage = outage(&world).unwrap();
    assert_eq!((outage.rows, outage.records, outage.caught_up, outage.lost), (30, 30, 0, 0));
    assert!(outage.from > Some(offset));
    // The other one saw everything.
    let mut alone = World::over(MemoryLog::new(1, T0), rig.modules.clone(), &[]);
    alone.devices(&["a", "b"]);
    alone.deploy(rule("other", rig.other, json!({})), 1);
    (0..50).for_each(|second| row(&mut alone, second));
    assert_eq!(world.told(), alone.told());
    // A replay decides nothing, also where everything passes in it.
    rig.broken.store(false, Ordering::Relaxed);
    check_replay(&world);
}

#[test]
fn a_rule_that_fails_now_and_then_stays() {
    let rig = Rig::new();
    let mut world = rig.world(json!({}));
    for second in 0..300 {
        rig.broken.store(second % 3 == 0, Ordering::Relaxed);
        row(&mut world, second);
    }
    assert_eq!(changes(&world), []);
    assert_eq!(world.failed(PartitionId(0), "r").len(), 100);
}

#[test]
fn old_rows_that_fail_again_take_nothing_out() {
    let rig = Rig::new();
    let mut world = rig.world(json!({}));
    // Ten failures: not yet enough to be judged by.
    (0..10).for_each(|second| row(&mut world, second));
    let failed = world.failed(PartitionId(0), "r");
    world.log.set_now(at(200));
    for skipped in failed.iter().cycle().take(40) {
        world.put(world.redo_of(PartitionId(0), skipped));
    }
    assert_eq!(world.failed(PartitionId(0), "r").len(), 50, "each failed again");
    assert_eq!(changes(&world), []);
    check_replay(&world);
    // Live rows that fail still do.
    (201..240).for_each(|second| row(&mut world, second));
    assert_eq!(waits(&world)[..1], [10]);
}

#[test]
fn it_is_tried_at_ever_longer_waits_and_what_a_try_does_is_thrown_away() {
    let rig = Rig::new();
    let breaker = json!({"breaker": {"wait": "10s", "longest_wait": "60s"}});
    let mut world = rig.world(breaker);
    (0..400).for_each(|second| row(&mut world, second));
    let waits = waits(&world);
    assert_eq!(&waits[..5], [10, 20, 40, 60, 60]);
    assert_eq!(outage(&world).unwrap().tries as usize, waits.len() - 1);
    assert_eq!(rig.calls.load(Ordering::Relaxed) as usize, 20 + waits.len() - 1, "a try is one call");
    assert!(seen(&world).iter().all(Vec::is_empty));
    check_replay(&world);
}

#[test]
fn what_it_missed_is_caught_up_in_order_each_row_once() {
    let rig = Rig::new();
    let mut world = rig.world(json!({}));
    (0..3000).for_each(|second| row(&mut world, second));
    assert!(outage(&world).unwrap().rows > 2900);
    rig.broken.store(false, Ordering::Relaxed);
    // The next try passes; what it did is thrown away.
    (3000..3700).for_each(|second| row(&mut world, second));
    assert_eq!(changes(&world).last(), Some(&BreakerChange::Closed));
    assert_eq!(outage(&world).unwrap().retry_at, None);
    assert!(seen(&world).iter().all(Vec::is_empty), "it has not gone on before it caught up");
    world.log.put(PartitionId(0), [Record::CheckpointMark]);
    catch_up(&mut world, |world, round| {
        let second = 3700 + round as i64 * 3;
        for second in second..second + 3 {
            world.log.set_now(at(second));
            let of = [((second % 2) as u32, second, (second % 100) as f64)];
            world.log.put(PartitionId(0), [readings(&of)]);
        }
        if round == 1 {
            world.log.put(PartitionId(0), [Record::CheckpointMark]);
        }
    });
    assert_eq!(outage(&world), None);
    let end = world.log.now().0 - T0.0;
    let end = end / 1_000_000 + 1;
    (end..end + 10).for_each(|second| row(&mut world, second));
    // The first twenty are dead letters.
    assert_eq!(seen(&world), expected(20..end + 10));
    let slices = world.log.records().into_iter().filter(|entry| matches!(entry.record, Record::Redo(_)));
    assert!(slices.count() >= 4, "in slices");
    check_replay(&world);
    // From each checkpoint too.
    for (_, _, pairs) in &world.checkpoints {
        let mut again = World::over(world.log.copy(), world.modules.clone(), std::slice::from_ref(pairs));
        again.keeper.submit(AlertChanges { transitions: world.keeper.transitions(), ..Default::default() });
        again.run();
        assert_eq!(again.dumps(), world.dumps());
    }
}

#[test]
fn a_crash_anywhere_in_it_changes_nothing() {
    let rig = Rig::new();
    let mut world = rig.world(json!({"breaker": {"wait": "5s", "longest_wait": "5s"}}));
    (0..1500).for_each(|second| row(&mut world, second));
    rig.broken.store(false, Ordering::Relaxed);
    (1500..1510).for_each(|second| row(&mut world, second));
    catch_up(&mut world, |_, _| {});
    assert_eq!((outage(&world), seen(&world)), (None, expected(20..1510)));
    let records = world.log.records();
    let opened = records.iter().position(|entry| matches!(entry.record, Record::Breaker(_))).unwrap();
    let closed = records.iter().rposition(|entry| matches!(entry.record, Record::Breaker(_))).unwrap();
    let cuts = (closed - 2..=records.len()).chain([opened + 1, opened + 2, 700]);
    for cut in cuts {
        let mut again = World::over(world.log.copy_of_first(cut), rig.modules.clone(), &[]);
        again.run();
        // What came behind the crash comes again; the row in flight that the log had is not lost.
        let rows =
            again.log.records().iter().filter(|e| matches!(e.record, Record::Readings { .. })).count() as i64;
        (rows..1520).for_each(|second| row(&mut again, second));
        catch_up(&mut again, |_, _| {});
        assert_eq!((outage(&again), seen(&again)), (None, expected(20..1520)), "cut at {cut}");
        check_replay(&again);
    }
}

#[test]
fn a_slice_that_stands_in_the_log_twice_counts_once() {
    let rig = Rig::new();
    let mut world = rig.world(json!({}));
    (0..100).for_each(|second| row(&mut world, second));
    rig.broken.store(false, Ordering::Relaxed);
    world.deploy(rule("r", rig.module, json!({"parameters": {"n": 2}})), 2);
    assert_eq!(outage(&world).unwrap().retry_at, None, "another version is called at once");
    for _ in 0..2 {
        assert_eq!(append_missed(&*world.log, &world.lanes[0].partition).unwrap(), 1);
    }
    world.run();
    catch_up(&mut world, |_, _| {});
    assert_eq!((outage(&world), seen(&world)), (None, expected(20..100)));
    check_replay(&world);
}

#[test]
fn what_was_missed_is_passed_over_where_that_is_wanted() {
    let rig = Rig::new();
    let mut world = rig.world(json!({"breaker": {"on_recovery": "skip"}}));
    (0..100).for_each(|second| row(&mut world, second));
    rig.broken.store(false, Ordering::Relaxed);
    let mut second = 100;
    row(&mut world, second);
    while outage(&world).is_some() {
        second += 1;
        row(&mut world, second);
    }
    row(&mut world, second + 1);
    assert_eq!(seen(&world), expected(second + 1..second + 2));
    check_replay(&world);

    // An operator decides otherwise, and has it tried at once.
    let rig = Rig::new();
    let mut world = rig.world(json!({"breaker": {"on_recovery": "skip"}}));
    (0..30).for_each(|second| row(&mut world, second));
    rig.broken.store(false, Ordering::Relaxed);
    world.control(Control::RuleCatchUp { name: "r".into(), by: Actor::default() });
    row(&mut world, 30);
    catch_up(&mut world, |_, _| {});
    assert_eq!((outage(&world), seen(&world)), (None, expected(20..31)));
    check_replay(&world);
}

#[test]
fn an_operator_passes_over_what_was_missed() {
    let rig = Rig::new();
    let mut world = rig.world(json!({}));
    (0..40).for_each(|second| row(&mut world, second));
    rig.broken.store(false, Ordering::Relaxed);
    let skip = || Control::RuleMissedSkipped { name: "r".into(), by: Actor::default() };
    world.control(skip());
    assert_eq!(outage(&world).unwrap().rows, 0, "it is still out, and misses from here on");
    let mut second = 40;
    row(&mut world, second);
    while outage(&world).unwrap().retry_at.is_some() {
        second += 1;
        row(&mut world, second);
    }
    world.control(skip());
    assert_eq!(outage(&world), None);
    row(&mut world, second + 1);
    assert_eq!(seen(&world), expected(second + 1..second + 2));
    check_replay(&world);
}

#[test]
fn what_is_not_kept_is_lost_and_the_rest_caught_up() {
    let rig = Rig::new();
    let mut world = rig.world(json!({}));
    (0..60).for_each(|second| row(&mut world, second));
    rig.broken.store(false, Ordering::Relaxed);
    let from = outage(&world).unwrap().from.unwrap();
    let records = world.log.records();
    let third =
        records.iter().filter(|e| e.position.offset > from && matches!(e.record, Record::Readings { .. }));
    let next = { third }.nth(2).unwrap().position.offset;
    let change = BreakerChange::Lost { range: MissedRange { from, next, taken_back: false } };
    let breaker = Breaker { rule: "r".into(), version: 1, change };
    world.put(Record::Breaker(Box::new(breaker)));
    let now = outage(&world).unwrap();
    assert_eq!((now.from, now.lost), (Some(next), next - from));
    world.control(Control::RuleCatchUp { name: "r".into(), by: Actor::default() });
    row(&mut world, 60);
    catch_up(&mut world, |_, _| {});
    assert_eq!((outage(&world), seen(&world)), (None, expected(23..61)));
    check_replay(&world);
}

#[test]
fn damage_costs_what_is_damaged_and_no_more() {
    let rig = Rig::new();
    let mut world = rig.world(json!({}));
    (0..60).for_each(|second| row(&mut world, second));
    rig.broken.store(false, Ordering::Relaxed);
    let missed = world.log.records().into_iter().filter(|e| matches!(e.record, Record::Readings { .. }));
    let offsets: Vec<_> = missed.map(|entry| entry.position.offset).collect();
    // Rows of the seconds 30 to 44 of the 20 to 60 that it missed.
    world.log.damage(PartitionId(0), offsets[30]..offsets[45]);
    world.control(Control::RuleCatchUp { name: "r".into(), by: Actor::default() });
    row(&mut world, 60);
    let mut lost = 0;
    catch_up(&mut world, |world, _| lost = lost.max(outage(world).map_or(0, |outage| outage.lost)));
    assert_eq!((outage(&world), seen(&world)), (None, expected((20..30).chain(45..61))));
    assert_eq!(lost, offsets[45] - offsets[30]);
    let is_slice = |record: &Record| matches!(record, Record::Redo(redo) if !redo.missed.unwrap().taken_back);
    let slices = world.log.records().into_iter().filter(|entry| is_slice(&entry.record));
    assert_eq!(slices.count(), 2, "in front of it and behind it");
    check_replay(&world);
}

#[test]
fn a_delay_that_was_pending_raises_nothing_that_nobody_saw_stand() {
    let rig = Rig::new();
    let mut world = rig.world(json!({"condition": {"on_delay": "30s"}, "breaker": {"wait": "10s"}}));
    rig.broken.store(false, Ordering::Relaxed);
    // It stands from second 0 on, and is pending when the rule is taken out.
    let put = |world: &mut World, second: i64, x: f64| {
        world.log.set_now(at(second));
        world.readings(&[(0, second, x)]);
    };
    put(&mut world, 0, 50.0);
    rig.broken.store(true, Ordering::Relaxed);
    (1..21).for_each(|second| put(&mut world, second, 50.0));
    assert!(outage(&world).is_some());
    // What it misses says that it does not stand, from the first row on, and at the end that it stands anew.
    (21..300).for_each(|second| put(&mut world, second, 1.0));
    put(&mut world, 300, 50.0);
    rig.broken.store(false, Ordering::Relaxed);
    world.control(Control::RuleCatchUp { name: "r".into(), by: Actor::default() });
    put(&mut world, 310, 50.0);
    // Also where somebody has the rows evaluated that failed, while it is out.
    let failed = world.failed(PartitionId(0), "r");
    world.put(world.redo_of(PartitionId(0), &failed[18]));
    catch_up(&mut world, |_, _| {});
    assert_eq!(outage(&world), None);
    assert_eq!(world.told(), [""; 0]);
    // It is raised once it stood for so long under the eyes of the rule, and told as of its first row.
    world.tick(339);
    assert_eq!(world.told(), [""; 0]);
    world.tick(341);
    assert_eq!(world.told(), ["330 a/hot raised"]);
    check_replay(&world);
}

#[test]
fn a_slice_for_other_devices_or_another_version_counts_for_nothing() {
    let press = json!({"select": {"type": "press"}});
    let of_type = |kind: &str| Control::DevicesPut { devices: vec![device("b", kind)], by: Actor::default() };
    for changed in [of_type("press"), deployed(rule("r", Rig::new().module, json!({})), 2)] {
        let rig = Rig::new();
        let mut world = rig.world(press.clone());
        (0..100).for_each(|second| row(&mut world, second));
        rig.broken.store(false, Ordering::Relaxed);
        world.control(Control::RuleCatchUp { name: "r".into(), by: Actor::default() });
        world.control(of_type("pump"));
        row(&mut world, 100);
        // Its rows are chosen while b is none of its devices; when the loop comes to them, b is one again.
        world.log.put(PartitionId(0), [Record::Control(Box::new(changed))]);
        assert_eq!(append_missed(&*world.log, &world.lanes[0].partition).unwrap(), 1);
        let slice = world.log.records().pop().unwrap();
        let Record::Redo(redo) = &slice.record else { panic!("{slice:?}") };
        assert!(redo.batch.devices.iter().all(|device| device.0 == 0));
        world.run();
        assert_eq!(outage(&world).map(|outage| outage.caught_up), Some(0));
        catch_up(&mut world, |_, _| {});
        assert_eq!((outage(&world), seen(&world)), (None, expected(20..101)));
        check_replay(&world);
    }
}

#[test]
fn one_that_fails_again_while_it_catches_up_is_taken_out_again_and_costs_little() {
    let rig = Rig::new();
    let mut world = rig.world(json!({"breaker": {"calls": 2}}));
    (0..5).for_each(|second| row(&mut world, second));
    // What is missed comes in records of their own, each larger than a slice; all of them fail.
    for second in 5..25 {
        world.log.set_now(at(second));
        world.readings(&(0..1100).map(|_| (0, second, 1.0)).collect::<Vec<_>>());
    }
    let calls = rig.calls.load(Ordering::Relaxed);
    // It would pass with what is tried, and fails on everything else.
    world.deploy(rule("r", rig.module, json!({"breaker": {"calls": 2}, "parameters": {"n": 2}})), 2);
    catch_up(&mut world, |_, _| {});
    let outage = outage(&world).unwrap();
    assert!(outage.retry_at.is_some());
    assert_eq!(outage.caught_up, 2203, "two slices are dead letters, the others still missed");
    assert_eq!(outage.rows, 3 + 20 * 1100);
    let tried = rig.calls.load(Ordering::Relaxed) - calls;
    assert!(tried < 250, "{tried} calls");
    assert_eq!(waits(&world).last(), Some(&40), "it waits longer than the first time");
    check_replay(&world);
}

#[tokio::test]
async fn the_engine_catches_up_by_itself_over_a_crash() {
    let rig = Rig::new();
    let log = MemoryLog::new(1, T0);
    let keeper = Arc::new(RecordingKeeper::new());
    let folder = tempfile::TempDir::new().unwrap();
    let start = || {
        let options = EngineOptions::new(folder.path());
        Engine::start(log.clone(), rig.modules.clone(), keeper.clone(), options).unwrap()
    };
    let control = |control: Control| {
        let record = Record::Control(Box::new(control));
        drop(log.append(Append::Records(vec![(PartitionId(0), record)])).unwrap());
    };
    let devices = vec![device("a", "press"), device("b", "press")];
    control(Control::DevicesPut { devices, by: Actor::default() });
    control(deployed(rule("r", rig.module, json!({})), 1));
    let put = |seconds: std::ops::Range<i64>| {
        for second in seconds {
            log.set_now(at(second));
            let of = [((second % 2) as u32, second, (second % 100) as f64)];
            drop(log.append(Append::Records(vec![(PartitionId(0), readings(&of))])).unwrap());
        }
    };
    let engine = start();
    put(0..20);
    engine.wait_level().await.unwrap();
    until("it is out", async || !engine.status().await.rules["r"].breakers.is_empty()).await;
    put(20..5000);
    engine.wait_level().await.unwrap();
    // The log keeps what it missed.
    until("the log keeps it", async || log.cursor("rule:r", PartitionId(0)).is_some_and(|c| c < 100)).await;
    rig.broken.store(false, Ordering::Relaxed);
    control(deployed(rule("r", rig.module, json!({"parameters": {"n": 2}})), 2));
    let slices = || log.records().iter().filter(|entry| matches!(entry.record, Record::Redo(_))).count();
    until("a slice is there", async || slices() > 0).await;
    engine.abort();
    drop(engine);
    let engine = start();
    put(5000..5100);
    engine.wait_level().await.unwrap();
    until("it is back", async || {
        let status = engine.status().await;
        status.rules.get("r").is_some_and(|rule| rule.breakers.is_empty())
    })
    .await;
    engine.wait_level().await.unwrap();
    let dump = engine.dump().await;
    let mut state = [Vec::new(), Vec::new()];
    for (device, seen) in (0_u32..).zip(&mut state) {
        let mut key = vec![8];
        [0_u32, 0, device].iter().for_each(|part| key.extend_from_slice(&part.to_be_bytes()));
        *seen = dump[&PartitionId(0)].get(&key).cloned().unwrap_or_default();
    }
    assert_eq!(state.to_vec(), expected(20..5100));
    // Once more, without a crash: what was kept for it goes with the outage. Some minutes later, when what passed, in
    // however many calls it came, does not count any more.
    rig.broken.store(true, Ordering::Relaxed);
    put(5300..5330);
    until("the log keeps what it misses now", async || {
        log.cursor("rule:r", PartitionId(0)).is_some_and(|cursor| cursor > 5000)
    })
    .await;
    rig.broken.store(false, Ordering::Relaxed);
    control(deployed(rule("r", rig.module, json!({"parameters": {"n": 3}})), 3));
    until("nothing is kept for it", async || log.cursor("rule:r", PartitionId(0)).is_none()).await;
    engine.stop();
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
