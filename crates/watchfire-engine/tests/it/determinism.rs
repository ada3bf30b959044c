//! A long run with everything in it, replayed from its start and from each of its checkpoints: the same
//! transitions, state and derived rows, byte for byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use watchfire_log::record::{GapReason, Skipped};
use watchfire_log::{Append, Log, Record};
use watchfire_model::alert::{AlertChanges, AlertKeeper};
use watchfire_model::call::{Callback, Effects, EmittedReading, Schedule, Silence, Subscription};
use watchfire_model::{Actor, Control, PartitionId, RuleSpec, Severity, Value};
use watchfire_testkit::{Guest, NativeModule, NativeModules};

use crate::world::*;

const DEVICES: usize = 2500;
const PARTITIONS: u16 = 2;

type Answer = Result<Effects, watchfire_model::call::CallFailure>;

/// Timers, state in two slots, failures, emitted readings.
fn watchdog(guest: &mut Guest<'_>, live: &AtomicBool) -> Answer {
    let mut effects = Effects::default();
    let now = guest.context.now;
    match guest.callback {
        Callback::Batch(rows) => {
            let xs = rows.numbers("x");
            // In the first run a call fails now and then for no reason that a replay would see.
            if live.load(Ordering::Relaxed) && xs.contains(&77.0) {
                return trap("only then");
            }
            if xs.contains(&99.0) {
                return trap("always");
            }
            let mut last = std::collections::BTreeMap::new();
            for (row, &device) in rows.devices().iter().enumerate() {
                last.insert(device, xs[row]);
            }
            for (device, x) in last {
                let mut state = guest.state().get(0, device).to_vec();
                state.truncate(20);
                state.insert(0, x as u8);
                effects.stores.push(one_state(0, device, &state));
                if x as i64 % 3 == 0 {
                    effects.stores.push(one_state(1, device, if x > 50.0 { &[] } else { b"low" }));
                }
                effects.timers.push(set(device, 0, now + secs(5 + x as u64 % 40)));
                effects.alerts.push(clear(device, "stale", None));
            }
        }
        Callback::Timers(timers) => {
            for timer in timers {
                let low = guest.state().get(1, timer.device).len() as u32;
                effects.alerts.push(trigger(timer.device, "stale", Severity::Minor, None));
                if low > 0 {
                    effects.timers.push(set(timer.device, low, now + secs(3)));
                }
            }
        }
        Callback::Silence(devices) => {
            for silent in devices {
                effects.alerts.push(trigger(silent.device, "silent", Severity::Major, None));
            }
        }
        Callback::Schedule { at, .. } => {
            let seconds = at.0 / 1_000_000;
            effects.emitted = (0..3)
                .map(|i| EmittedReading {
                    device: format!("d{}", (seconds + i * 7) % DEVICES as i64),
                    time: *at,
                    metric: "x".into(),
                    value: Value::Number((seconds % 120) as f64),
                })
                .collect();
        }
    }
    if let Callback::Batch(rows) = guest.callback {
        effects.alerts.extend(rows.devices().iter().map(|device| clear(*device, "silent", None)));
    }
    Ok(effects)
}

fn smooth(guest: &mut Guest<'_>) -> Answer {
    let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
    let xs = rows.numbers("x");
    let derived = xs.iter().map(|x| if *x as i64 % 5 == 0 { f64::NAN } else { x / 4.0 }).collect();
    Ok(Effects { derived: vec![("x".into(), derived)], ..Effects::default() })
}

struct Modules {
    all: Arc<NativeModules>,
    live: Arc<AtomicBool>,
    threshold: watchfire_model::Digest,
    watchdog: watchfire_model::Digest,
    smooth: watchfire_model::Digest,
}

fn modules() -> Modules {
    let all = Arc::new(NativeModules::new());
    let live = Arc::new(AtomicBool::new(true));
    let schedules = vec![Schedule { name: "m".into(), cron: "*/2 * * * *".into(), zone: None }];
    let everything = Subscription { silence: Silence::After(secs(45)), schedules, metrics: vec!["x".into()] };
    let first = live.clone();
    let dog =
        NativeModule::new("watchdog", everything, move |guest| watchdog(guest, &first)).state_version(1);
    Modules {
        threshold: all.add(NativeModule::new("threshold", Subscription::default(), threshold)),
        watchdog: all.add(dog),
        smooth: all.add(NativeModule::new("smooth", Subscription::default(), smooth)),
        all,
        live,
    }
}

fn rules(modules: &Modules) -> Vec<RuleSpec> {
    let delays = json!({"condition": {"on_delay": 4, "off_delay": 6, "realarm": 30,
        "chatter": {"count": 2, "window": 40}}});
    let latched = json!({"select": {"type": "press"}, "condition": {"latched": true}});
    vec![
        rule("delays", modules.threshold, delays),
        rule("latched", modules.threshold, latched),
        rule("dog", modules.watchdog, json!({"output": "made"})),
        rule("smooth", modules.smooth, json!({"output": "smooth", "select": {"site": "lyon"}})),
        rule("chained", modules.threshold, json!({"input": "smooth", "condition": {"on_delay": 2}})),
        rule("made", modules.threshold, json!({"input": "made"})),
    ]
}

fn put_devices(ids: impl Iterator<Item = usize>, shift: usize) -> Control {
    let spec = |i: usize| {
        let mut spec = device(&format!("d{i}"), if (i + shift).is_multiple_of(3) { "press" } else { "pump" });
        spec.site = if (i + shift).is_multiple_of(4) { "lyon".into() } else { "oslo".into() };
        spec
    };
    Control::DevicesPut { devices: ids.map(spec).collect(), by: Actor::default() }
}

/// One thing that happens to the rules, the registry or a condition.
fn disturb(world: &mut World, modules: &Modules, step: u32, random: &mut StdRng) {
    let by = Actor::default;
    let back = |version, spec: &RuleSpec| Control::RuleRolledBack {
        name: spec.name.clone(),
        from: version - 1,
        to: version - 2,
        version,
        spec: Some(Box::new(spec.clone())),
        state: Default::default(),
        by: by(),
    };
    let all = rules(modules);
    let narrow = json!({"select": {"type": "press"}, "output": "made", "parameters": {"n": 2}});
    match step {
        20 => world.deploy(rule("dog", modules.watchdog, narrow), 2),
        30 => world.control(Control::RulePaused { name: "smooth".into(), by: by() }),
        35 => world.control(back(3, &all[2])),
        40 => world.control(Control::RuleResumed { name: "smooth".into(), by: by() }),
        45 => world.deploy(rule("delays", modules.threshold, json!({"condition": {"off_delay": 3}})), 2),
        50 => world.control(put_devices(0..200, 1)),
        55 => world.control(Control::RuleRemoved { name: "latched".into(), by: by() }),
        60 => world.deploy(all[1].clone(), 4),
        33 => redo(world, modules),
        65 => redo(world, modules),
        70 => world.control(put_devices(DEVICES..DEVICES + 50, 0)),
        _ if step.is_multiple_of(11) => {
            let id = format!("d{}", random.random_range(0..DEVICES));
            world.control(Control::DeviceDeleted { id, by: by() });
        }
        _ if step.is_multiple_of(7) => {
            let device = format!("d{}", random.random_range(0..DEVICES));
            let (rule, key) = ("latched".into(), "hot".into());
            world.control(Control::ConditionCleared { rule, device, key, force: true, by: by() });
        }
        _ => {}
    }
}

/// Has every failure of one rule evaluated again, those of redos as well. Calls that failed for no reason succeed now,
/// the others fail once more.
fn redo(world: &mut World, modules: &Modules) {
    modules.live.store(false, Ordering::Relaxed);
    for partition in (0..PARTITIONS).map(PartitionId) {
        for skipped in world.failed(partition, "dog") {
            let redo = world.redo_of(partition, &skipped);
            world.log.put(partition, [redo]);
            world.run();
        }
    }
    modules.live.store(true, Ordering::Relaxed);
}

fn rows_of(world: &World, partition: PartitionId, now: i64, random: &mut StdRng) -> Record {
    let count = world.lanes[usize::from(partition.0)].partition.registry().devices().len() as u32;
    // A few devices report often, so that delays run over rows, the others now and then.
    let rows: Vec<_> = (0..random.random_range(1..60))
        .map(|_| {
            let device = if random.random_bool(0.5) {
                random.random_range(0..20)
            } else {
                random.random_range(0..count)
            };
            // Late ones, and some from the future.
            let time = now - random.random_range(0..4_i64).pow(2) + i64::from(random.random_bool(0.02)) * 500;
            let x =
                if random.random_bool(0.995) { random.random_range(0..24) } else { 77 + 22 * (device % 2) };
            (device.min(count - 1), time, f64::from(x))
        })
        .collect();
    readings(&rows)
}

fn long_run(seed: u64) -> (World, Modules) {
    let modules = modules();
    let log = watchfire_testkit::MemoryLog::new(PARTITIONS, T0);
    let mut world = World::over(log, modules.all.clone(), &[]);
    let mut random = StdRng::seed_from_u64(seed);
    world.control(put_devices(0..DEVICES, 0));
    for spec in rules(&modules) {
        world.deploy(spec, 1);
    }
    let mut now = 0;
    for step in 1..=80_u32 {
        now += random.random_range(0..6);
        world.log.set_now(at(now));
        if step == 48 {
            now += 600;
            world.log.set_now(at(now));
            let gap = Record::Gap { from: at(now - 600), to: at(now), reason: GapReason::Stopped };
            let gaps = (0..PARTITIONS).map(|id| (PartitionId(id), gap.clone())).collect();
            drop(world.log.append(Append::Records(gaps)).unwrap());
            world.run();
        }
        disturb(&mut world, &modules, step, &mut random);
        for partition in (0..PARTITIONS).map(PartitionId) {
            let due = world.lanes[usize::from(partition.0)].partition.next_due();
            if due.is_some_and(|due| due <= at(now)) && random.random_bool(0.3) {
                world.log.put(partition, [Record::Tick]);
            }
            if random.random_bool(0.8) {
                let record = rows_of(&world, partition, now, &mut random);
                // Some come twice.
                if random.random_bool(0.1) {
                    world.log.put(partition, [record.clone()]);
                }
                world.log.put(partition, [record]);
            }
            if random.random_bool(0.1) {
                world.log.put(partition, [Record::CheckpointMark]);
            }
        }
        world.run();
    }
    (world, modules)
}

fn count(world: &World, what: impl Fn(&Record) -> bool) -> usize {
    world.log.records().iter().filter(|entry| what(&entry.record)).count()
}

#[test]
fn a_replay_from_anywhere_gives_the_same_byte_for_byte() {
    for seed in 1..=3 {
        let (world, modules) = long_run(seed);
        let transitions = world.keeper.transitions();
        let (records, dumps) = (world.log.records(), world.dumps());
        // It is about something.
        assert!(transitions.len() > 1000, "{}", transitions.len());
        assert!(count(&world, |r| matches!(r, Record::Skipped(_))) > 5);
        // Of redos: some that did something, some that failed again.
        let redos = records.iter().filter(|entry| matches!(entry.record, Record::Redo(_)));
        let redos: Vec<String> = redos.map(|entry| format!("{}/", entry.position)).collect();
        assert!(transitions.iter().any(|t| redos.iter().any(|redo| t.id.starts_with(redo))));
        let failed = (0..PARTITIONS).map(PartitionId).flat_map(|partition| {
            let of = move |skipped: Skipped| format!("1/{partition}/{}/", skipped.offset);
            world.failed(partition, "dog").into_iter().map(of)
        });
        assert!(failed.filter(|failed| redos.contains(failed)).count() > 1);
        assert!(count(&world, |r| matches!(r, Record::Readings { origin: Some(_), .. })) > 50);
        assert!(world.checkpoints.len() > 5);
        for kind in [
            "raised",
            "Cleared",
            "again",
            "cleared",
            "RolledBack",
            "Deselected",
            "DeviceDeleted",
            "RuleRemoved",
        ] {
            assert!(transitions.iter().any(|t| told(t).ends_with(kind)), "{kind}");
        }
        modules.live.store(false, Ordering::Relaxed);
        let starts = world.checkpoints.iter().map(|(partition, _, pairs)| {
            let mut saved = vec![Pairs::new(); usize::from(PARTITIONS)];
            saved[*partition] = pairs.clone();
            saved
        });
        for saved in std::iter::once(Vec::new()).chain(starts) {
            let log = world.log.copy();
            let mut again = World::over(log.clone(), modules.all.clone(), &saved);
            // The keeper has what the first run gave it: each transition must be the same again.
            again.keeper.submit(AlertChanges { transitions: transitions.clone(), ..AlertChanges::default() });
            again.run();
            assert_eq!(again.keeper.transitions().len(), transitions.len());
            assert_eq!(log.records().len(), records.len(), "a replay has appended something");
            for (mine, theirs) in again.dumps().iter().zip(&dumps) {
                for (key, bytes) in theirs {
                    assert_eq!(mine.get(key), Some(bytes), "seed {seed}, key {key:02x?}");
                }
                assert_eq!(mine.len(), theirs.len());
            }
        }
    }
}

#[test]
fn a_crash_anywhere_loses_nothing_and_does_nothing_twice() {
    let (world, modules) = long_run(4);
    modules.live.store(false, Ordering::Relaxed);
    let records = world.log.records().len();
    let mut random = StdRng::seed_from_u64(5);
    for _ in 0..12 {
        // What was released before the crash came of records that are in the log.
        let log = world.log.copy_of_first(random.random_range(100..records));
        let mut first = World::over(log.clone(), modules.all.clone(), &[]);
        first.run();
        let mut again = World::over(log, modules.all.clone(), &[]);
        let transitions = first.keeper.transitions();
        again.keeper.submit(AlertChanges { transitions: transitions.clone(), ..AlertChanges::default() });
        again.run();
        assert_eq!(again.keeper.transitions().len(), transitions.len());
        assert_eq!(again.dumps(), first.dumps());
        let of: std::collections::BTreeSet<_> = transitions.iter().map(|t| &t.id).collect();
        assert_eq!(of.len(), transitions.len());
    }
}
