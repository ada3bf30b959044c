//! Rows that make a call fail: found, left out, and the others evaluated as if they had never come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use watchfire_log::Record;
use watchfire_log::record::Skipped;
use watchfire_model::call::{CallFailure, Callback, Effects, FailureKind, Subscription};
use watchfire_model::{DeviceHandle, PartitionId};
use watchfire_testkit::{Guest, NativeModule};

use crate::world::*;

const POISON: f64 = 13.0;

/// Counts the readings of each device, and tells of every third; fails at a row with 13.
fn third(guest: &mut Guest<'_>) -> Result<Effects, CallFailure> {
    let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
    let mut effects = Effects::default();
    let mut counts = std::collections::BTreeMap::new();
    for (row, (&device, &x)) in rows.devices().iter().zip(rows.numbers("x").iter()).enumerate() {
        let count = counts.entry(device).or_insert_with(|| {
            let stored = guest.context.state.get(0, device);
            stored.try_into().map_or(0, u32::from_le_bytes)
        });
        if x == POISON {
            return trap(&format!("unlucky at {count}"));
        }
        *count += 1;
        if *count % 3 == 0 {
            let key = format!("third {count}");
            effects.alerts.push(trigger(device, &key, watchfire_model::Severity::Info, Some(row as u32)));
        }
    }
    for (device, count) in counts {
        effects.stores.push(one_state(0, device, &count.to_le_bytes()));
    }
    Ok(effects)
}

fn skipped(world: &World) -> Vec<Skipped> {
    world.failed(PartitionId(0), "r")
}

fn world(
    module: impl Fn(&mut Guest<'_>) -> Result<Effects, CallFailure> + Send + Sync + Clone + 'static,
) -> World {
    let mut world = World::new(1);
    world.devices(&["a", "b"]);
    let module = world.modules.add(NativeModule::new("m", Subscription::default(), module));
    world.deploy(rule("r", module, json!({})), 1);
    world
}

/// Rows of two devices in turn; those in `poison` are at fault.
fn rows(count: i64, poison: &[i64]) -> Vec<(u32, i64, f64)> {
    (0..count).map(|row| ((row % 2) as u32, row, if poison.contains(&row) { POISON } else { 1.0 })).collect()
}

#[test]
fn rows_that_are_at_fault_are_left_out_and_the_others_evaluated() {
    let mut with = world(third);
    with.readings(&[(0, 0, 1.0), (1, 0, 1.0)]);
    with.readings(&rows(1000, &[0, 7, 8, 500, 999]));
    with.readings(&rows(3, &[]));
    let mut without = world(third);
    without.readings(&[(0, 0, 1.0), (1, 0, 1.0)]);
    let clean: Vec<_> = rows(1000, &[0, 7, 8, 500, 999]).into_iter().filter(|row| row.2 != POISON).collect();
    without.readings(&clean);
    without.readings(&rows(3, &[]));
    assert_eq!(with.told(), without.told());
    assert!(with.told().len() > 300);
    let found = skipped(&with);
    assert_eq!(found.iter().map(|one| one.rows[0]).collect::<Vec<_>>(), [0, 7, 8, 500, 999]);
    assert!(found.iter().all(|one| one.rows.len() == 1 && one.kind == FailureKind::Trapped), "{found:?}");
    // What each row met: the readings of its device before it, and the state from before the call.
    assert_eq!(found[3].reason, "unlucky at 249");
    assert_eq!(found[1].state_before.len(), 1);
    assert_eq!(found[1].state_before[0].device, DeviceHandle(1));
    assert_eq!(found[1].state_before[0].slots[&0], "01000000");

    // A replay finds nothing anew: it obeys the log, to the byte.
    let copy = with.log.copy();
    let mut again = World::over(copy.clone(), with.modules.clone(), &[]);
    again.run();
    assert_eq!((again.told(), again.dumps()), (with.told(), with.dumps()));
    assert_eq!(copy.records(), with.log.records());
}

#[test]
fn the_rows_that_were_left_out_are_evaluated_once_the_rule_is_repaired() {
    let healed = Arc::new(AtomicU32::new(0));
    let fixed = healed.clone();
    let mut world = world(move |guest: &mut Guest<'_>| {
        let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
        let numbers = rows.numbers("x");
        if numbers.contains(&POISON) && fixed.load(Ordering::Relaxed) == 0 {
            return trap("unlucky");
        }
        threshold(guest)
    });
    world.readings(&[(0, 0, 1.0), (0, 1, POISON), (1, 2, 12.0)]);
    assert_eq!(world.told(), ["0 b/hot raised"]);
    let found = skipped(&world);
    healed.store(1, Ordering::Relaxed);
    let redo = world.redo_of(PartitionId(0), &found[0]);
    world.put(redo);
    assert_eq!(world.told().len(), 2);
    assert!(world.told()[1].ends_with("a/hot raised"), "{:?}", world.told());
}

#[test]
fn a_rule_that_fails_on_every_row_costs_a_bounded_number_of_calls() {
    let calls = Arc::new(AtomicU32::new(0));
    let count = calls.clone();
    let mut world = world(move |_: &mut Guest<'_>| {
        count.fetch_add(1, Ordering::Relaxed);
        trap("always")
    });
    // Its breaker would open: this is about what each call costs.
    let spec = rule("r", watchfire_model::Digest::of(b"m"), json!({"breaker": {"enabled": false}}));
    world.deploy(spec, 2);
    let records = 50;
    for record in 0..records {
        world.readings(&(0..200).map(|row| (0, record * 200 + row, 1.0)).collect::<Vec<_>>());
    }
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls <= 512 + records as u32, "{calls} calls");
    let found = skipped(&world);
    let rows: usize = found.iter().map(|one| one.rows.len()).sum();
    assert_eq!(rows, 200 * records as usize, "every row is accounted for, once");
    assert_eq!(found.len(), records as usize, "they stay together");
}

#[test]
fn more_rows_at_fault_than_are_looked_for_are_left_out_together() {
    let mut world = world(third);
    let poison: Vec<i64> = (100..160).collect();
    world.readings(&rows(200, &poison));
    let found = skipped(&world);
    let all: std::collections::BTreeSet<u32> = found.iter().flat_map(|one| one.rows.clone()).collect();
    assert!(poison.iter().all(|row| all.contains(&(*row as u32))), "{all:?}");
    assert!(all.iter().all(|row| *row >= 100), "what came before them was evaluated");
    assert!(found.last().unwrap().reason.contains("was not found in the time and tries"), "{found:?}");
    assert!(world.told().len() > 20);
}

#[test]
fn what_many_rows_use_up_together_is_no_fault_of_one() {
    let over = |guest: &mut Guest<'_>| {
        let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
        let heavy = rows.numbers("x").contains(&POISON);
        if heavy || rows.len() > 5 {
            return Err(CallFailure::new(FailureKind::Time, "it ran too long"));
        }
        threshold(guest)
    };
    let mut world = world(over);
    world.readings(&rows(10, &[]));
    assert_eq!(skipped(&world).iter().map(|one| one.rows.len()).collect::<Vec<_>>(), [10]);
    // One that does so alone is.
    world.readings(&rows(5, &[2]));
    assert_eq!(skipped(&world)[1].rows, [2]);
    assert_eq!(skipped(&world).len(), 2);
}

#[test]
fn only_the_replay_of_a_torn_end_looks_again() {
    let mut with = world(third);
    with.readings(&rows(20, &[3, 4]));
    let whole = with.told();
    // The second of the two records did not become durable.
    let copy = with.log.copy();
    let records = copy.records();
    let second = records.iter().rposition(|entry| matches!(entry.record, Record::Skipped(_))).unwrap();
    let torn = watchfire_testkit::MemoryLog::new(1, T0);
    for entry in &records[..second] {
        torn.put(PartitionId(0), [entry.record.clone()]);
    }
    let mut again = World::over(torn.clone(), with.modules.clone(), &[]);
    again.run();
    assert_eq!(again.told(), whole);
    assert_eq!(torn.records().len(), copy.records().len());
}
