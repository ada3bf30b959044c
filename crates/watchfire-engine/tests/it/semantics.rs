//! The lines of "semantics of the loop", each with its own tests; the eighth is about intake, and the part
//! of the twelfth that is not here is the store's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use watchfire_engine::append_missed;
use watchfire_log::record::{GapReason, Skipped};
use watchfire_log::{Log, Record, Redo};
use watchfire_model::alert::{AlertChanges, AlertKeeper};
use watchfire_model::call::{Callback, Effects, EmittedReading, Schedule, Silence, Subscription};
use watchfire_model::{
    Actor, Control, DeviceHandle, DeviceSpec, PartitionId, Severity, TransitionKind, Value,
};
use watchfire_testkit::NativeModule;

use crate::world::*;

const D0: DeviceHandle = DeviceHandle(0);
const D1: DeviceHandle = DeviceHandle(1);

fn nothing(_: &mut watchfire_testkit::Guest<'_>) -> Result<Effects, watchfire_model::call::CallFailure> {
    Ok(Effects::default())
}

fn resume(name: &str, paused: bool) -> Control {
    let (name, by) = (name.into(), Actor::default());
    if paused { Control::RulePaused { name, by } } else { Control::RuleResumed { name, by } }
}

/// Ever new keys, timers of ever new tags: the call that goes too far fails, and those before it stand.
#[test]
fn what_a_rule_keeps_beside_its_state_is_bounded() {
    let mut world = World::new(1);
    world.devices(&["a", "b"]);
    let module = world.modules.add(NativeModule::new("t", Subscription::default(), |guest| {
        let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
        let mut effects = Effects::default();
        for (device, x) in rows.devices().iter().zip(rows.numbers("x").iter()) {
            if *x < 100.0 {
                effects.alerts.push(trigger(*device, &format!("key {x}"), Severity::Minor, None));
            } else {
                effects.timers.push(set(*device, *x as u32, at(1000)));
            }
        }
        Ok(effects)
    }));
    world.deploy(rule("r", module, json!({"limits": {"keys": 3, "conditions": 4, "timers": 2}})), 1);
    world.readings(&[(0, 0, 1.0), (0, 0, 2.0), (0, 0, 3.0), (0, 0, 3.0)]);
    world.readings(&[(0, 0, 3.0), (0, 0, 4.0)]);
    world.readings(&[(1, 0, 1.0)]);
    world.readings(&[(1, 0, 2.0)]);
    world.readings(&[(0, 0, 100.0), (1, 0, 101.0), (1, 0, 101.0)]);
    world.readings(&[(0, 0, 102.0)]);
    let reasons: Vec<String> = skipped(&world).into_iter().map(|skipped| skipped.reason).collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons[0].contains("(keys) is 3 a device (a)"), "{reasons:?}");
    assert!(reasons[1].contains("(conditions) is 4"), "{reasons:?}");
    assert!(reasons[2].contains("rule r, batch of 1 rows") && reasons[2].contains("(timers) is 2"));
    assert_eq!(world.keeper.transitions().len(), 4);
    let mut again = World::over(world.log.copy(), world.modules.clone(), &[]);
    again.run();
    assert_eq!((again.dumps(), again.told()), (world.dumps(), world.told()));
}

// ---------------------------------------------------------------- 1: one record, one callback, one now

#[test]
fn one_record_is_one_callback_with_one_now() {
    let (mut world, calls) = (World::new(1), Calls::default());
    world.devices(&["a", "b"]);
    let module = noted(&world, &calls, "m", Subscription::default(), nothing);
    world.deploy(rule("r", module, json!({})), 1);
    world.log.set_now(at(5));
    world.readings(&[(0, 1, 1.0), (1, 2, 1.0), (0, 3, 1.0)]);
    world.readings(&[(0, 4, 1.0)]);
    assert_eq!(calls.take(), ["5 m batch 3", "5 m batch 1"]);
}

#[test]
fn a_verdict_does_not_depend_on_where_a_batch_is_cut() {
    let rows: Vec<(u32, i64, f64)> =
        (0..400).map(|i: i64| ((i % 7 % 2) as u32, i / 2 - (i % 5), ((i * 7919) % 31) as f64)).collect();
    let condition = json!({"condition": {"on_delay": 3, "off_delay": 4, "realarm": 9,
        "chatter": {"count": 3, "window": 20}}});
    let mut all = Vec::new();
    for cut in [1, 3, 50, rows.len()] {
        let mut world = World::new(1);
        world.devices(&["a", "b"]);
        let module = world.modules.add(NativeModule::new("t", Subscription::default(), threshold));
        world.deploy(rule("r", module, condition.clone()), 1);
        world.log.set_now(at(1000));
        rows.chunks(cut).for_each(|rows| world.readings(rows));
        // Of two devices in one record the order is the record's own.
        let mut told = world.told();
        told.sort();
        assert!(told.len() > 20, "{told:?}");
        all.push(told);
    }
    for other in &all[1..] {
        assert_eq!(*other, all[0]);
    }
}

// ---------------------------------------------------------------- 2: order of what is due

#[test]
fn what_is_due_runs_in_order_each_with_its_own_now() {
    let (mut world, calls) = (World::new(1), Calls::default());
    world.devices(&["a", "b"]);
    let schedule = Schedule { name: "minute".into(), cron: "* * * * *".into(), zone: None };
    let all =
        Subscription { silence: Silence::After(secs(60)), schedules: vec![schedule], ..Default::default() };
    let module = noted(&world, &calls, "m", all, |guest| {
        let mut effects = Effects::default();
        if let Callback::Batch(_) = guest.callback {
            effects.timers = vec![set(D1, 2, at(60)), set(D0, 1, at(60)), set(D0, 7, at(30))];
            effects.alerts.push(trigger(D0, "slow", Severity::Minor, Some(0)));
        }
        Ok(effects)
    });
    let slow = json!({"condition": {"on_delay": 60}});
    world.deploy(rule("r", module, slow), 1);
    world.deploy(rule("s", module, json!({"select": {"devices": "none"}})), 1);
    world.readings(&[(0, 0, 1.0), (1, 0, 1.0)]);
    assert_eq!(calls.take(), ["0 m batch 2"]);
    world.log.set_now(at(65));
    world.readings(&[(0, 65, 1.0)]);
    assert_eq!(
        calls.take(),
        [
            "30 m timers [(0, 7)]",
            "60 m timers [(0, 1), (1, 2)]",
            "60 m silence [0, 1]",
            "60 m schedule minute",
            "60 m schedule minute",
            "65 m batch 1"
        ]
    );
    assert_eq!(world.told(), ["60 a/slow raised"]);
}

#[test]
fn a_timer_fires_at_a_strictly_later_record_and_cannot_keep_the_loop_busy() {
    let (mut world, calls) = (World::new(1), Calls::default());
    world.devices(&["a"]);
    let module = noted(&world, &calls, "m", Subscription::default(), |_| {
        let timers = vec![set(D0, 0, at(-100))];
        Ok(Effects { timers, ..Effects::default() })
    });
    world.deploy(rule("r", module, json!({})), 1);
    world.readings(&[(0, 0, 1.0)]);
    world.tick(0);
    assert_eq!(calls.take(), ["0 m batch 1"]);
    world.tick(1);
    world.tick(2);
    assert_eq!(calls.take(), ["0.000001 m timers [(0, 0)]", "1.000001 m timers [(0, 0)]"]);
}

#[test]
fn timers_move_and_are_cancelled() {
    let (mut world, calls) = (World::new(1), Calls::default());
    world.devices(&["a"]);
    let module = noted(&world, &calls, "m", Subscription::default(), |guest| {
        let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
        let x = rows.numbers("x")[0];
        let timer = match set(D0, 3, at(x as i64)) {
            watchfire_model::call::TimerEffect::Set(timer) if x < 0.0 => {
                watchfire_model::call::TimerEffect::Cancel(timer)
            }
            set => set,
        };
        Ok(Effects { timers: vec![timer], ..Effects::default() })
    });
    world.deploy(rule("r", module, json!({})), 1);
    world.readings(&[(0, 0, 10.0)]);
    world.readings(&[(0, 0, 20.0)]);
    world.tick(15);
    calls.take();
    world.tick(20);
    assert_eq!(calls.take(), ["20 m timers [(0, 3)]"]);
    world.readings(&[(0, 0, 30.0)]);
    world.readings(&[(0, 0, -1.0)]);
    calls.take();
    world.tick(50);
    assert_eq!(calls.take(), [""; 0]);
}

#[test]
fn a_missed_schedule_fires_once_the_latest_only() {
    let (mut world, calls) = (World::new(1), Calls::default());
    let schedule = Schedule { name: "hourly".into(), cron: "0 * * * *".into(), zone: None };
    let schedules = Subscription { schedules: vec![schedule], ..Default::default() };
    let module = noted(&world, &calls, "m", schedules, nothing);
    world.deploy(rule("r", module, json!({})), 1);
    world.tick(5 * 3600 + 30);
    assert_eq!(calls.take(), ["18000 m schedule hourly"]);
    assert_eq!(world.lanes[0].partition.next_due(), Some(at(6 * 3600)));
    world.tick(6 * 3600);
    assert_eq!(calls.take(), ["21600 m schedule hourly"]);
}

#[test]
fn silence_counts_from_registration_ends_with_a_reading_and_leaves_out_our_own_downtime() {
    let (mut world, calls) = (World::new(1), Calls::default());
    let slow = DeviceSpec { interval: Some(secs(100)), ..device("b", "press") };
    let devices = vec![device("a", "press"), slow];
    world.control(Control::DevicesPut { devices, by: Actor::default() });
    let of = |silence| Subscription { silence, ..Default::default() };
    let after = noted(&world, &calls, "after", of(Silence::After(secs(60))), nothing);
    let registry = noted(&world, &calls, "registry", of(Silence::Registry), nothing);
    world.deploy(rule("r", after, json!({})), 1);
    world.deploy(rule("s", registry, json!({})), 1);
    world.log.set_now(at(10));
    world.readings(&[(0, 10, 1.0)]);
    calls.take();
    world.tick(65);
    assert_eq!(calls.take(), ["60 after silence [1]"]);
    world.tick(70);
    assert_eq!(calls.take(), ["70 after silence [0]"]);
    world.tick(199);
    assert_eq!(calls.take(), [""; 0]);
    world.log.set_now(at(200));
    world.put(Record::Gap { from: at(199), to: at(1000), reason: GapReason::Stopped });
    world.log.set_now(at(1000));
    world.tick(1000);
    assert_eq!(calls.take(), [""; 0]);
    world.tick(1001);
    assert_eq!(calls.take(), ["1001 registry silence [1]"]);
    // The next reading ends it, and it is told again.
    world.log.set_now(at(1002));
    world.readings(&[(0, 1002, 1.0)]);
    calls.take();
    world.tick(1062);
    assert_eq!(calls.take(), ["1062 after silence [0]"]);
}

#[test]
fn delays_run_on_the_clock_of_the_device() {
    let world = || {
        let mut world = World::new(1);
        world.devices(&["a", "b"]);
        let module = world.modules.add(NativeModule::new("t", Subscription::default(), threshold));
        world.deploy(rule("r", module, json!({"condition": {"on_delay": 60}})), 1);
        world
    };
    // An hour of buffered readings: late, with the right times.
    let mut buffered = world();
    buffered.log.set_now(at(4000));
    buffered.readings(&[(0, 100, 20.0), (0, 130, 20.0), (0, 170, 20.0), (0, 200, 1.0)]);
    assert_eq!(buffered.told(), ["160 a/hot raised", "200 a/hot Cleared"]);
    // No row comes: by the time of the log since the last row.
    let mut quiet = world();
    quiet.log.set_now(at(1000));
    quiet.readings(&[(0, 100, 20.0)]);
    quiet.readings(&[(0, 140, 20.0)]);
    quiet.tick(1019);
    assert_eq!(quiet.told(), [""; 0]);
    quiet.tick(1030);
    assert_eq!(quiet.told(), ["160 a/hot raised"]);
    assert_eq!(quiet.keeper.transitions()[0].id, "1/0/6/r/delay/0/hot/0");
    // A late row counts at once and moves nothing; a row from the future is bounded by its receipt.
    let mut late = world();
    late.log.set_now(at(1000));
    late.readings(&[(0, 1000, 1.0), (0, 500, 20.0), (0, 990, 20.0), (0, 99_999, 20.0)]);
    late.tick(1059);
    assert_eq!(late.told(), [""; 0]);
    late.tick(1060);
    assert_eq!(late.keeper.transitions().len(), 1);
}

// ---------------------------------------------------------------- 3, 4: ids of effects, other partitions

#[test]
fn emitted_readings_go_to_the_partition_that_owns_the_device() {
    let mut world = World::new(4);
    let ids: Vec<String> = (0..12).map(|i| format!("d{i}")).collect();
    world.devices(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    world.devices(&["site"]);
    let owner = PartitionId::of("site", 4);
    let emit = world.modules.add(NativeModule::new("emit", Subscription::default(), |guest| {
        let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
        let reading = |device: &str, metric: &str, value| EmittedReading {
            device: device.into(),
            time: rows.times()[0],
            metric: metric.into(),
            value,
        };
        let emitted = vec![
            reading("site", "total", Value::Number(rows.len() as f64)),
            reading("nobody", "total", Value::Number(1.0)),
            reading("site", "mode", Value::Text("auto".into())),
        ];
        Ok(Effects { emitted, ..Effects::default() })
    }));
    let calls = Calls::default();
    let sum = noted(&world, &calls, "sum", Subscription::default(), |guest| {
        let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
        assert_eq!((rows.stream(), rows.numbers("total")[0]), ("totals", 2.0));
        let device = guest.context.devices.get(rows.devices()[0]).unwrap();
        assert_eq!((device.spec.id.as_str(), &*rows.texts("mode").dictionary[0]), ("site", "auto"));
        Ok(Effects::default())
    });
    world.deploy(rule("e", emit, json!({"output": "totals"})), 1);
    world.deploy(rule("s", sum, json!({"input": "totals"})), 1);
    let from = PartitionId((owner.0 + 1) % 4);
    let position = world.log.put(from, [readings(&[(0, 7, 1.0), (0, 8, 1.0)])])[0];
    world.run();
    assert_eq!(calls.take(), ["0 sum batch 1"]);
    let records = world.log.records();
    let Record::Readings { origin: Some(origin), batch, .. } = &records.last().unwrap().record else {
        panic!()
    };
    assert_eq!((batch.rows(), origin.partition, origin.offset), (1, from, position.offset));
    assert_eq!((origin.target, origin.callback, origin.rule.as_str()), (owner, 0, "e"));
    // A replay appends only what is not there yet.
    let again = world.log.copy();
    World::over(again.clone(), world.modules.clone(), &[]).run();
    assert_eq!(again.records().len(), records.len());
    let torn = world.log.copy_of_first(records.len() - 1);
    World::over(torn.clone(), world.modules.clone(), &[]).run();
    assert_eq!(torn.records(), records);
}

#[test]
fn an_output_stream_holds_derived_and_passed_columns_of_the_rows_that_are_kept() {
    let mut world = World::new(1);
    world.devices(&["a", "b"]);
    let module = world.modules.add(NativeModule::new("double", Subscription::default(), |guest| {
        let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
        let xs = rows.numbers("x");
        Ok(Effects {
            derived: vec![(
                "y".into(),
                xs.iter().map(|x| if *x > 2.0 { x * 2.0 } else { f64::NAN }).collect(),
            )],
            keep: Some(xs.iter().map(|x| u8::from(*x != 4.0)).collect()),
            ..Effects::default()
        })
    }));
    world.deploy(rule("r", module, json!({"output": "some"})), 1);
    world.deploy(rule("s", module, json!({"output": "all", "pass": ["*"]})), 1);
    world.readings(&[(0, 1, 1.0), (1, 2, 3.0), (0, 3, 4.0), (1, 4, 5.0)]);
    let rows = |name: &str| {
        let records = world.log.records();
        let batch = records.iter().find_map(|entry| match &entry.record {
            Record::Readings { stream, batch, .. } if **stream == *name => Some(batch.clone()),
            _ => None,
        });
        let batch = batch.unwrap();
        let rows = watchfire_model::call::Rows::new(name.into(), batch, None, Arc::from([]));
        (rows.numbers("x").to_vec(), rows.numbers("y").to_vec())
    };
    let text = |x: Vec<f64>| format!("{x:?}");
    assert_eq!(rows("some").1, [6.0, 10.0]);
    assert_eq!(text(rows("all").0), "[1.0, 3.0, 5.0]");
    assert_eq!(text(rows("all").1), "[NaN, 6.0, 10.0]");
}

// ---------------------------------------------------------------- 5: calls that fail

fn skipped(world: &World) -> Vec<Skipped> {
    let skipped = world.log.records().into_iter().filter_map(|entry| match &entry.record {
        Record::Skipped(skipped) => Some((**skipped).clone()),
        _ => None,
    });
    skipped.collect()
}

#[test]
fn a_call_that_fails_leaves_nothing_behind_and_a_replay_skips_exactly_it() {
    let mut world = World::new(1);
    world.devices(&["a"]);
    let healed = Arc::new(AtomicU32::new(0));
    let fixed = healed.clone();
    // Effects first, then the trap: whatever a module did before is not returned.
    let module = world.modules.add(NativeModule::new("m", Subscription::default(), move |guest| {
        let Callback::Batch(rows) = guest.callback else { return trap("timers") };
        let x = rows.numbers("x")[0];
        if x == 13.0 && fixed.load(Ordering::Relaxed) == 0 {
            return trap("unlucky");
        }
        let mut effects = threshold(guest)?;
        effects.stores.push(one_state(0, D0, &x.to_le_bytes()));
        effects.timers.push(set(D0, 0, at(x as i64)));
        Ok(effects)
    }));
    world.deploy(rule("r", module, json!({})), 1);
    world.readings(&[(0, 0, 12.0)]);
    world.readings(&[(0, 1, 13.0)]);
    let dump = world.dumps();
    world.readings(&[(0, 2, 14.0)]);
    world.tick(14);
    let all = skipped(&world);
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!((all[0].rows.as_slice(), all[0].reason.as_str(), all[0].offset), (&[0][..], "unlucky", 4));
    // The timer that failed counts as consumed.
    assert_eq!((all[1].callback_name.as_str(), all[1].rows.len()), ("timers", 0));
    assert_eq!(world.lanes[0].partition.next_due(), None);
    assert_eq!(world.told(), ["0 a/hot raised"]);
    assert_ne!(world.dumps(), dump);
    // The module would do better now, but the log says what came of it.
    healed.store(1, Ordering::Relaxed);
    let copy = world.log.copy();
    let mut again = World::over(copy.clone(), world.modules.clone(), &[]);
    again.run();
    assert_eq!((again.told(), again.dumps()), (world.told(), world.dumps()));
    assert_eq!(copy.records(), world.log.records());
}

// ---------------------------------------------------------------- 6: instances are caches

#[test]
fn instances_are_discarded_at_a_mark_and_after_a_failure_only() {
    let mut world = World::new(1);
    world.devices(&["a"]);
    let made = Arc::new(AtomicU32::new(0));
    let count = made.clone();
    let module = world.modules.add(NativeModule::with_instances(
        "m",
        |_| Ok(Subscription::default()),
        move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(|guest| {
                let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
                if rows.numbers("x")[0] < 0.0 { trap("negative") } else { Ok(Effects::default()) }
            }))
        },
    ));
    world.deploy(rule("r", module, json!({})), 1);
    for x in [1.0, 2.0, -1.0, 3.0, 4.0] {
        world.readings(&[(0, 0, x)]);
    }
    assert_eq!(made.load(Ordering::Relaxed), 2);
    world.put(Record::CheckpointMark);
    world.readings(&[(0, 0, 1.0)]);
    assert_eq!(made.load(Ordering::Relaxed), 3);
}

// ---------------------------------------------------------------- 7: repeated triggers

#[test]
fn a_repeated_trigger_changes_hot_state_only_and_another_severity_is_a_transition() {
    let mut world = World::new(1);
    world.devices(&["a"]);
    let module = world.modules.add(NativeModule::new("t", Subscription::default(), threshold));
    world.deploy(rule("r", module, json!({})), 1);
    world.readings(&[(0, 1, 20.0), (0, 2, 21.0)]);
    world.readings(&[(0, 3, 22.0)]);
    assert_eq!(world.told(), ["0 a/hot raised"]);
    let updates = world.lanes[0].partition.take_updates();
    assert_eq!((updates.len(), updates[0].count), (1, 3));
    assert_eq!(updates[0].alert, world.keeper.transitions()[0].alert);
    world.log.set_now(at(100));
    world.readings(&[(0, 4, 200.0), (0, 5, 200.0), (0, 6, 1.0)]);
    assert_eq!(world.told()[1..], ["4 a/hot warning>critical", "6 a/hot Cleared"]);
    let ids: Vec<_> = world.keeper.transitions().into_iter().map(|transition| transition.id).collect();
    assert_eq!(ids, ["1/0/3/r/0/0", "1/0/5/r/0/0", "1/0/5/r/0/2"]);
}

#[test]
fn evidence_holds_what_the_verdict_rests_on() {
    let mut world = World::new(1);
    world.devices(&["a", "b"]);
    let module = world.modules.add(NativeModule::new("t", Subscription::default(), |guest| {
        let mut effects = threshold(guest)?;
        effects.stores.push(one_state(3, D0, &[0xab, guest.state().get(3, D0).len() as u8]));
        Ok(effects)
    }));
    world.deploy(rule("r", module, json!({"parameters": {"limit": 10}, "condition": {"on_delay": 5}})), 1);
    world.log.set_now(at(100));
    world.readings(&[(0, 1, 1.0)]);
    world.readings(&[(1, 2, 20.0), (0, 2, 3.0), (0, 3, 30.0), (0, 4, 31.0)]);
    world.readings(&[(0, 90, 30.0)]);
    let transitions = world.keeper.transitions();
    let raised = transitions.iter().find(|transition| transition.device.id == "a").unwrap();
    let evidence = raised.evidence.as_ref().unwrap();
    assert_eq!((raised.at, raised.position.offset, evidence.position.offset), (at(8), 5, 4));
    assert_eq!((evidence.callback.as_str(), evidence.state_before[&3].as_str()), ("batch", "ab00"));
    // What the alert says is what was said last before it was raised.
    assert_eq!(
        (evidence.parameters["limit"].as_i64(), evidence.rows.len(), evidence.row),
        (Some(10), 3, Some(2))
    );
    assert_eq!(evidence.rows[2].metrics["x"], Value::Number(31.0));
    assert_eq!(evidence.verdict.as_ref().map(|verdict| &verdict.summary), Some(&raised.summary));
    assert_eq!(evidence.device.as_ref(), Some(&device("a", "press")));
}

#[test]
fn evidence_is_of_the_trigger_that_raised() {
    // The last that was said before: in an earlier record, in the same one, or itself.
    let check = |condition: serde_json::Value, records: &[&[(u32, i64, f64)]], expected: (u64, f64)| {
        let mut world = World::new(1);
        world.devices(&["a"]);
        let module = world.modules.add(NativeModule::new("t", Subscription::default(), threshold));
        world.deploy(rule("r", module, json!({"condition": condition})), 1);
        world.log.set_now(at(100));
        for rows in records {
            world.readings(rows);
        }
        world.tick(200);
        let transitions = world.keeper.transitions();
        let raised = transitions.iter().find(|transition| transition.kind == TransitionKind::Raised).unwrap();
        let evidence = raised.evidence.as_ref().unwrap();
        let x = &evidence.rows[evidence.row.unwrap()].metrics["x"];
        assert_eq!((evidence.position.offset, x), (expected.0, &Value::Number(expected.1)), "{records:?}");
        let verdict = evidence.verdict.as_ref().unwrap();
        assert_eq!((verdict.severity, &verdict.summary), (raised.severity, &raised.summary));
    };
    let delay = json!({"on_delay": 5});
    check(delay.clone(), &[&[(0, 1, 11.0), (0, 2, 12.0)]], (3, 12.0));
    check(delay.clone(), &[&[(0, 1, 11.0)], &[(0, 2, 120.0)]], (4, 120.0));
    check(delay.clone(), &[&[(0, 1, 11.0), (0, 4, 120.0), (0, 8, 13.0)]], (3, 120.0));
    check(delay.clone(), &[&[(0, 1, 11.0), (0, 4, 12.0), (0, 8, 1.0)]], (3, 12.0));
    check(delay, &[&[(0, 1, 11.0), (0, 2, 1.0), (0, 4, 12.0)], &[(0, 20, 13.0)]], (3, 12.0));
    let thrice = json!({"minimum_repeat": 3});
    check(thrice.clone(), &[&[(0, 1, 11.0), (0, 2, 12.0)], &[(0, 3, 13.0), (0, 4, 14.0)]], (4, 13.0));
    check(thrice, &[&[(0, 1, 11.0), (0, 2, 12.0), (0, 3, 13.0), (0, 4, 14.0)]], (3, 13.0));
}

#[test]
fn what_is_not_said_again_is_given_up_with_its_evidence() {
    let mut world = World::new(1);
    world.devices(&["a"]);
    let module = world.modules.add(NativeModule::new("t", Subscription::default(), threshold));
    world.deploy(rule("r", module, json!({"condition": {"minimum_repeat": 3, "repeat_within": "60s"}})), 1);
    world.tick(100);
    let size = |world: &World| world.dumps()[0].values().map(Vec::len).sum::<usize>();
    world.readings(&[(0, 100, 20.0)]);
    let pending = size(&world);
    world.tick(170);
    assert!(size(&world) + 400 < pending, "of {pending} bytes {} are left", size(&world));
    world.log.set_now(at(180));
    world.readings(&[(0, 170, 20.0), (0, 171, 20.0)]);
    assert_eq!(world.told(), Vec::<String>::new());
    world.readings(&[(0, 172, 20.0)]);
    assert_eq!(world.told(), ["172 a/hot raised"]);
}

// ---------------------------------------------------------------- 9, 10: devices and rules come and go

#[test]
fn deleting_a_device_ends_what_is_its_and_the_name_gets_a_new_handle() {
    let (mut world, calls) = (World::new(1), Calls::default());
    world.devices(&["a", "b"]);
    let silence = Subscription { silence: Silence::After(secs(60)), ..Default::default() };
    let module = noted(&world, &calls, "m", silence, |guest| {
        let mut effects = threshold(guest)?;
        effects.stores.push(one_state(0, D0, b"state"));
        effects.timers.push(set(D0, 0, at(10)));
        Ok(effects)
    });
    world.deploy(rule("r", module, json!({})), 1);
    world.readings(&[(0, 0, 20.0), (1, 0, 20.0)]);
    world.control(Control::DeviceDeleted { id: "a".into(), by: Actor::default() });
    assert_eq!(world.told()[2..], ["0 a/hot DeviceDeleted"]);
    assert_eq!(world.keeper.transitions()[2].id, "1/0/4/r/control/0/hot");
    // A row that was on its way is seen by nobody.
    calls.take();
    world.readings(&[(0, 0, 20.0)]);
    world.devices(&["a"]);
    world.tick(30);
    assert_eq!(calls.take(), [""; 0]);
    assert_eq!(world.lanes[0].partition.registry().find("a"), Some(DeviceHandle(2)));
    world.tick(60);
    assert_eq!(calls.take(), ["60 m silence [1, 2]"]);
    assert!(!world.dumps()[0].values().any(|bytes| bytes == b"state"));
}

#[test]
fn a_device_that_is_deselected_has_its_alerts_resolved_and_its_state_kept() {
    let mut world = World::new(1);
    world.devices(&["a", "b"]);
    let module = world.modules.add(NativeModule::new("t", Subscription::default(), |guest| {
        let mut effects = threshold(guest)?;
        effects.stores.push(one_state(0, D0, b"kept"));
        effects.timers.push(set(D0, 0, at(500)));
        Ok(effects)
    }));
    let press = json!({"select": {"type": "press"}});
    world.deploy(rule("r", module, press), 1);
    world.readings(&[(0, 0, 20.0), (1, 0, 20.0)]);
    world.control(Control::DevicesPut { devices: vec![device("a", "pump")], by: Actor::default() });
    assert_eq!(world.told()[2..], ["0 a/hot Deselected"]);
    assert_eq!(world.lanes[0].partition.next_due(), None);
    world.deploy(rule("r", module, json!({"select": {"type": "pump"}})), 2);
    assert_eq!(world.told()[3..], ["0 b/hot Deselected"]);
    assert!(world.dumps()[0].values().any(|bytes| bytes == b"kept"));
    world.readings(&[(0, 0, 20.0)]);
    world.control(Control::RuleRemoved { name: "r".into(), by: Actor::default() });
    assert_eq!(world.told()[5..], ["0 a/hot RuleRemoved"]);
    assert!(!world.dumps()[0].values().any(|bytes| bytes == b"kept"));
    assert_eq!(world.lanes[0].partition.next_due(), None);
}

#[test]
fn a_paused_rule_sees_nothing_of_what_comes_meanwhile() {
    let (mut world, calls) = (World::new(1), Calls::default());
    world.devices(&["a"]);
    let module = noted(&world, &calls, "m", Subscription::default(), nothing);
    world.deploy(rule("r", module, json!({})), 1);
    world.control(resume("r", true));
    world.readings(&[(0, 0, 1.0)]);
    world.control(resume("r", false));
    world.readings(&[(0, 0, 1.0), (0, 1, 1.0)]);
    assert_eq!(calls.take(), ["0 m batch 2"]);
}

#[test]
fn an_operator_resets_and_forces() {
    let mut world = World::new(1);
    world.devices(&["a"]);
    let module = world.modules.add(NativeModule::new("t", Subscription::default(), threshold));
    world.deploy(rule("r", module, json!({"condition": {"latched": true}})), 1);
    let reset = |force| Control::ConditionCleared {
        rule: "r".into(),
        device: "a".into(),
        key: "hot".into(),
        force,
        by: Actor::default(),
    };
    world.log.set_now(at(50));
    world.readings(&[(0, 1, 20.0)]);
    world.control(reset(false));
    world.readings(&[(0, 2, 1.0)]);
    world.control(reset(false));
    world.readings(&[(0, 60, 20.0)]);
    world.control(reset(true));
    let told =
        ["1 a/hot raised", "2 a/hot cleared", "50 a/hot Operator", "50 a/hot raised", "50 a/hot Operator"];
    assert_eq!(world.told(), told);
}

fn activations(world: &World) -> Vec<String> {
    let told = world.log.records().into_iter().filter_map(|entry| match &entry.record {
        Record::Activated { rule, version, .. } => Some(format!("{rule} {version}")),
        Record::Refused { rule, version, reason, .. } => Some(format!("{rule} {version}: {reason}")),
        _ => None,
    });
    told.collect()
}

#[test]
fn what_a_partition_makes_of_an_activation_is_a_record_and_a_replay_obeys_it() {
    let mut world = World::new(1);
    world.devices(&["a"]);
    let good = world.modules.add(NativeModule::new("t", Subscription::default(), threshold));
    let broken = Arc::new(AtomicU32::new(1));
    let state = broken.clone();
    let moody = world.modules.add(NativeModule::with_instances(
        "moody",
        move |_| if state.load(Ordering::Relaxed) == 1 { trap("moody") } else { Ok(Subscription::default()) },
        |_| Ok(Box::new(threshold)),
    ));
    let bad_cron = Schedule { name: "x".into(), cron: "* * *".into(), zone: None };
    let cron = world.modules.add(NativeModule::new(
        "cron",
        Subscription { schedules: vec![bad_cron], ..Default::default() },
        threshold,
    ));
    world.deploy(rule("r", good, json!({})), 1);
    world.deploy(rule("r", moody, json!({})), 2);
    world.deploy(rule("r", cron, json!({})), 2);
    world.readings(&[(0, 0, 20.0)]);
    let told = activations(&world);
    assert_eq!(told[..2], ["r 1", "r 2: moody"]);
    assert!(told[2].contains("five are wanted"), "{told:?}");
    assert_eq!(world.keeper.transitions()[0].rule_version, 1);
    broken.store(0, Ordering::Relaxed);
    let mut again = World::over(world.log.copy(), world.modules.clone(), &[]);
    again.run();
    assert_eq!((again.dumps(), again.told()), (world.dumps(), world.told()));
}

fn counting(name: &str, version: u32, step: u8) -> NativeModule {
    NativeModule::new(name, Subscription::default(), move |guest| {
        let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
        let mut effects = threshold(guest)?;
        let device = rows.devices()[0];
        let mut state = guest.state().get(0, device).to_vec();
        if state.is_empty() {
            state = vec![0; version as usize];
        }
        assert_eq!(state.len(), version as usize, "state of another version");
        state[0] += step;
        effects.stores.push(one_state(0, device, &state));
        Ok(effects)
    })
    .state_version(version)
}

fn count_of(world: &World, value: &[u8]) -> bool {
    world.dumps()[0].iter().any(|(key, bytes)| key[0] == 8 && bytes == value)
}

#[test]
fn state_is_migrated_and_a_rollback_restores_what_was_before_the_swap() {
    let mut world = World::new(1);
    world.devices(&["a", "b"]);
    let one = world.modules.add(counting("one", 1, 1));
    let two = world.modules.add(counting("two", 2, 10).migrating(|old, slot, states| {
        assert_eq!((old, slot), (1, 0));
        let mut new = watchfire_model::state::Blobs::default();
        states.iter().for_each(|state| new.push(&[state[0], 0]));
        Ok(new)
    }));
    let none = world.modules.add(counting("none", 3, 1));
    world.log.set_now(at(100));
    world.deploy(rule("r", one, json!({})), 1);
    world.readings(&[(0, 0, 20.0)]);
    world.readings(&[(0, 1, 20.0)]);
    world.deploy(rule("r", two, json!({})), 2);
    assert!(count_of(&world, &[2, 0]));
    world.readings(&[(0, 2, 1.0)]);
    world.readings(&[(1, 3, 20.0)]);
    // No path, no swap.
    world.deploy(rule("r", none, json!({})), 3);
    let refused = "r 3: migrate, slot 0, 2 devices from a to b: the module does not migrate state";
    assert_eq!(activations(&world).last().unwrap(), refused);
    world.readings(&[(0, 4, 1.0)]);
    assert!(count_of(&world, &[22, 0]));
    world.put(Record::CheckpointMark);
    let spec = rule("r", one, json!({}));
    world.control(Control::RuleRolledBack {
        name: "r".into(),
        from: 2,
        to: 1,
        version: 3,
        spec: Some(Box::new(spec)),
        state: Default::default(),
        by: Actor::default(),
    });
    assert!(count_of(&world, &[2]) && !count_of(&world, &[22, 0]));
    let told = world.told();
    // a was raised before the swap and is not now; b the other way round.
    assert_eq!(told[..3], ["0 a/hot raised", "2 a/hot Cleared", "3 b/hot raised"]);
    assert_eq!(told[3..], ["100 a/hot raised", "100 b/hot RolledBack"]);
    let versions: Vec<_> = world.keeper.transitions().iter().map(|told| told.rule_version).collect();
    assert_eq!(
        versions,
        [1, 2, 2, 3, 3],
        "what a rollback raises and resolves is by the version that came back"
    );
    world.readings(&[(0, 5, 1.0)]);
    assert!(count_of(&world, &[3]));
    assert_eq!(activations(&world).last().unwrap(), "r 3");
    let saved: Vec<Pairs> = vec![world.checkpoints[0].2.clone()];
    for saved in [&saved[..], &[]] {
        let mut again = World::over(world.log.copy(), world.modules.clone(), saved);
        // The keeper has what came before the checkpoint: a resolve must find its raise.
        again
            .keeper
            .submit(AlertChanges { transitions: world.keeper.transitions(), ..AlertChanges::default() });
        again.run();
        assert_eq!(again.dumps(), world.dumps());
    }
}

#[test]
fn a_version_that_was_refused_elsewhere_goes_back_under_its_old_number() {
    let mut world = World::new(1);
    world.devices(&["a"]);
    let one = world.modules.add(counting("one", 1, 1));
    let two = world.modules.add(counting("two", 1, 10));
    let back = |spec: Option<watchfire_model::RuleSpec>, from, to| Control::RuleRolledBack {
        name: "r".into(),
        from,
        to,
        version: 0,
        spec: spec.map(Box::new),
        state: Default::default(),
        by: Actor::default(),
    };
    world.deploy(rule("r", one, json!({})), 1);
    world.readings(&[(0, 0, 1.0)]);
    world.deploy(rule("r", two, json!({})), 2);
    world.readings(&[(0, 0, 1.0)]);
    assert!(count_of(&world, &[11]));
    world.readings(&[(0, 0, 30.0)]);
    // Nothing has to start for it: a partition that could not go back would go on with another version than the rest.
    world.modules.remove(one);
    world.control(back(Some(rule("r", one, json!({}))), 2, 1));
    assert!(count_of(&world, &[1]));
    assert_eq!(world.told(), ["0 a/hot raised", "0 a/hot RolledBack"]);
    // A partition that never ran it has nothing to go back from.
    world.control(back(None, 2, 0));
    // It catches up with what the other one had seen of its rows.
    world.modules.add(counting("one", 1, 1));
    while append_missed(&*world.log, &world.lanes[0].partition).unwrap() > 0 {
        world.run();
    }
    assert!(count_of(&world, &[2]), "in one call");
    // It was not out: no outage is to take that for its own.
    let slices = world.log.records().into_iter().filter_map(|entry| match &entry.record {
        Record::Redo(redo) => redo.missed,
        _ => None,
    });
    assert!({ slices }.all(|slice| slice.taken_back));
    world.readings(&[(0, 0, 20.0)]);
    assert!(count_of(&world, &[3]));
    let told = world.keeper.transitions();
    assert_eq!(told.iter().map(|t| t.rule_version).collect::<Vec<_>>(), [2, 1, 1]);
    world.control(back(None, 1, 0));
    assert_eq!(world.told().last().unwrap(), "0 a/hot RuleRemoved");
    let mut again = World::over(world.log.copy(), world.modules.clone(), &[]);
    again.keeper.submit(AlertChanges { transitions: told, ..AlertChanges::default() });
    again.run();
    assert_eq!(again.dumps(), world.dumps());
}

// ---------------------------------------------------------------- 11: once more

/// A rule over one device that fails while `broken` is 1, and what it was called for.
fn fragile(world: &mut World, calls: &Calls, select: &str) -> Arc<AtomicU32> {
    let broken = Arc::new(AtomicU32::new(1));
    let state = broken.clone();
    let answer = move |guest: &mut watchfire_testkit::Guest<'_>| {
        if state.load(Ordering::Relaxed) == 1 { trap("broken") } else { threshold(guest) }
    };
    let module = noted(world, calls, "m", Subscription::default(), answer);
    world.deploy(rule("r", module, json!({"select": {"devices": [select]}})), 1);
    broken
}

const P0: PartitionId = PartitionId(0);

#[test]
fn a_redo_is_one_callback_of_that_rule_with_the_time_of_here() {
    let (mut world, calls) = (World::new(2), Calls::default());
    let mine: Vec<String> =
        (0..).map(|i| format!("d{i}")).filter(|id| PartitionId::of(id, 2) == P0).take(2).collect();
    world.devices(&[&mine[0], &mine[1]]);
    let broken = fragile(&mut world, &calls, &mine[1]);
    let other = noted(&world, &calls, "other", Subscription::default(), threshold);
    world.deploy(rule("other", other, json!({"condition": {"on_delay": 1000}})), 1);
    world.readings(&[(0, 1, 20.0), (1, 1, 20.0)]);
    world.readings(&[(0, 2, 20.0)]);
    world.readings(&[(1, 3, 30.0), (1, 4, 30.0)]);
    broken.store(0, Ordering::Relaxed);
    world.readings(&[(1, 5, 1.0)]);
    calls.take();
    world.log.set_now(at(100));
    let failed = world.failed(P0, "r");
    assert_eq!(failed.iter().map(|skipped| &skipped.rows[..]).collect::<Vec<_>>(), [&[1][..], &[0, 1]]);
    // The record that failed is not looked for: retention may have taken it.
    let redos: Vec<_> = failed.iter().map(|skipped| world.redo_of(P0, skipped)).collect();
    for lane in 0..2 {
        world.log.drop_before(PartitionId(lane), world.lanes[usize::from(lane)].partition.next_offset());
    }
    let (first, states) = (world.log.range(P0).1, world.lanes[0].partition.device_state(&mine[1]));
    for redo in redos {
        world.put(redo);
    }
    // Not the other rule, and not the other partition.
    assert_eq!(calls.take(), ["100 m batch 1", "100 m batch 2"]);
    assert_eq!(world.log.range(P0).1, first + 2);
    assert_eq!(world.told(), [format!("1 {}/hot raised", mine[1])]);
    let raised = &world.keeper.transitions()[0];
    assert_eq!(raised.id, format!("1/0/{first}/r/0/0"));
    assert_eq!((&raised.kind, raised.logged_at), (&TransitionKind::Raised, at(100)));
    // Nothing was heard of the device.
    assert_eq!(world.lanes[0].partition.device_state(&mine[1]), states);
}

#[test]
fn a_redo_that_fails_again_can_be_redone() {
    let (mut world, calls) = (World::new(1), Calls::default());
    world.devices(&["a", "b"]);
    let broken = fragile(&mut world, &calls, "b");
    world.readings(&[(0, 1, 20.0), (1, 2, 20.0), (1, 3, 20.0)]);
    let first = world.failed(P0, "r").remove(0);
    let offset = world.log.range(P0).1;
    world.put(world.redo_of(P0, &first));
    // Of the redo, all of whose rows are of the rule.
    let second = world.failed(P0, "r").remove(1);
    assert_eq!((second.offset, &second.rows[..], second.callback), (offset, &[0, 1][..], 0));
    assert_eq!((&first.rows[..], &*second.callback_name), (&[1, 2][..], "batch"));
    broken.store(0, Ordering::Relaxed);
    calls.take();
    world.put(world.redo_of(P0, &second));
    assert_eq!(calls.take(), ["0 m batch 2"]);
    assert_eq!(world.told(), ["0 b/hot raised"]);
    assert_eq!(world.failed(P0, "r").len(), 2);
}

#[test]
fn a_redo_leaves_out_what_the_rule_would_not_be_given_now() {
    let (mut world, calls) = (World::new(1), Calls::default());
    world.devices(&["a", "b"]);
    let broken = Arc::new(AtomicU32::new(1));
    let state = broken.clone();
    let module = noted(&world, &calls, "m", Subscription::default(), move |guest| {
        if state.load(Ordering::Relaxed) == 1 { trap("broken") } else { threshold(guest) }
    });
    world.deploy(rule("r", module, json!({})), 1);
    world.log.set_now(at(10));
    world.readings(&[(0, 1, 20.0), (1, 2, 20.0)]);
    broken.store(0, Ordering::Relaxed);
    let redo = world.redo_of(P0, &world.failed(P0, "r")[0]);
    calls.take();
    // Registered again, it is another device under the old name.
    world.control(Control::DeviceDeleted { id: "a".into(), by: Actor::default() });
    world.devices(&["a"]);
    world.put(redo.clone());
    assert_eq!(calls.take(), ["10 m batch 1"]);
    assert_eq!(world.told(), ["2 b/hot raised"]);
    // A handle that there never was.
    let Record::Redo(foreign) = &redo else { panic!() };
    let batch = Arc::new(batch(&[(77, 1, 20.0)]));
    world.put(Record::Redo(Box::new(Redo { batch, ..(**foreign).clone() })));
    // A rule that is paused, selects others, reads another stream, or is gone.
    world.control(resume("r", true));
    world.put(redo.clone());
    world.control(resume("r", false));
    world.deploy(rule("r", module, json!({"select": {"devices": ["a"]}})), 2);
    world.put(redo.clone());
    world.deploy(rule("r", module, json!({"input": "other"})), 3);
    world.put(redo.clone());
    world.control(Control::RuleRemoved { name: "r".into(), by: Actor::default() });
    world.put(redo);
    assert_eq!(calls.take(), [""; 0]);
}

#[test]
fn last_values_of_a_device() {
    let mut world = World::new(1);
    world.devices(&["a", "b"]);
    world.log.set_now(at(9));
    world.readings(&[(0, 5, 1.0), (0, 3, 7.0)]);
    let partition = &world.lanes[0].partition;
    let state = partition.device_state("a").unwrap();
    assert_eq!(state.values["x"], (at(5), Value::Number(1.0)));
    assert_eq!((state.last_seen, state.last_event_time), (Some(at(9)), Some(at(3))));
    assert_eq!(partition.device_state("b").unwrap().last_seen, None);
    assert!(partition.device_state("c").is_none());
}
