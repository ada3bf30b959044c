//! Versions that replace each other, and rules that are paused, with something under way.

use serde_json::json;
use watchfire_log::Record;
use watchfire_model::call::{Callback, Effects, Schedule, Silence, Subscription};
use watchfire_model::{Actor, Control, DeviceHandle, RuleSpec, RuleVersion, Severity};
use watchfire_testkit::{Guest, NativeModule};

use crate::world::*;

const A: DeviceHandle = DeviceHandle(0);

pub fn back(spec: &RuleSpec, from: RuleVersion, to: RuleVersion, version: RuleVersion) -> Control {
    let spec = Some(Box::new(spec.clone()));
    Control::RuleRolledBack {
        name: spec.as_ref().unwrap().name.clone(),
        from,
        to,
        version,
        spec,
        state: Default::default(),
        by: Actor::default(),
    }
}

fn paused(name: &str, paused: bool) -> Control {
    let (name, by) = (name.into(), Actor::default());
    if paused { Control::RulePaused { name, by } } else { Control::RuleResumed { name, by } }
}

/// The same from the start, and from each checkpoint.
pub fn check_replay(world: &World) {
    let starts = world.checkpoints.iter().map(|(_, _, pairs)| vec![pairs.clone()]);
    for saved in std::iter::once(Vec::new()).chain(starts) {
        let mut again = World::over(world.log.copy(), world.modules.clone(), &saved);
        let transitions = world.keeper.transitions();
        let known = watchfire_model::alert::AlertChanges { transitions, ..Default::default() };
        watchfire_model::alert::AlertKeeper::submit(&*again.keeper, known);
        again.run();
        assert_eq!(again.dumps(), world.dumps());
        assert_eq!(again.told(), world.told());
        assert_eq!(again.log.records().len(), world.log.records().len());
    }
}

/// As `threshold`, with a timer at 500 for every device that is hot.
fn with_timer(guest: &mut Guest<'_>) -> Result<Effects, watchfire_model::call::CallFailure> {
    let mut effects = threshold(guest)?;
    if let Callback::Batch(rows) = guest.callback {
        effects.timers.extend(rows.devices().iter().map(|device| set(*device, 7, at(500))));
    }
    Ok(effects)
}

#[test]
fn a_rollback_is_by_the_selection_of_the_version_that_comes_back() {
    let (mut world, calls) = (World::new(1), Calls::default());
    world.devices(&["a", "b"]);
    let module = noted(&world, &calls, "m", Subscription::default(), with_timer);
    let all = rule("r", module, json!({}));
    let only_a = rule("r", module, json!({"select": {"devices": "a"}}));
    world.deploy(all.clone(), 1);
    world.log.set_now(at(10));
    world.readings(&[(0, 1, 20.0), (1, 1, 20.0)]);
    world.deploy(only_a, 2);
    assert_eq!(world.told(), ["1 a/hot raised", "1 b/hot raised", "10 b/hot Deselected"]);
    world.put(Record::CheckpointMark);
    world.control(back(&all, 2, 1, 3));
    // b is selected again, and it was hot when it was left; its timer runs again too.
    assert_eq!(world.told()[3..], ["10 b/hot raised"]);
    calls.take();
    world.tick(501);
    assert_eq!(calls.take(), ["500 m timers [(0, 7), (1, 7)]"]);
    check_replay(&world);

    // The other way round: what is not selected by the version that comes back is not raised by it.
    let mut world = World::new(1);
    world.devices(&["a", "b"]);
    let module = world.modules.add(NativeModule::new("m", Subscription::default(), with_timer));
    let press = rule("r", module, json!({"select": {"type": "press"}}));
    world.deploy(press.clone(), 1);
    world.readings(&[(0, 0, 20.0)]);
    world.deploy(rule("r", module, json!({})), 2);
    world.readings(&[(0, 1, 1.0)]);
    world.control(Control::DevicesPut { devices: vec![device("a", "pump")], by: Actor::default() });
    world.put(Record::CheckpointMark);
    world.control(back(&press, 2, 1, 3));
    assert_eq!(world.told(), ["0 a/hot raised", "0 a/hot Cleared"]);
    check_replay(&world);
}

#[test]
fn an_activation_stands_in_the_log_before_what_comes_of_it() {
    let mut world = World::new(1);
    world.devices(&["a", "b"]);
    let module = world.modules.add(NativeModule::new("m", Subscription::default(), threshold));
    world.deploy(rule("r", module, json!({})), 1);
    world.readings(&[(1, 0, 20.0)]);
    let record =
        Record::Control(Box::new(deployed(rule("r", module, json!({"select": {"devices": "a"}})), 2)));
    let position = world.log.put(watchfire_model::PartitionId(0), [record])[0];
    let entry = world.log.records().into_iter().find(|entry| entry.position == position).unwrap();
    let mut out = Vec::new();
    world.lanes[0].partition.apply(&entry, &mut out);
    use watchfire_engine::Output;
    let [Output::Own(Record::Activated { version: 2, .. }), Output::Transition(resolved)] = &out[..] else {
        panic!("{out:?}")
    };
    assert!(told(resolved).ends_with("Deselected"));
}

#[test]
fn a_delay_that_a_new_version_shortens_elapses_although_nothing_comes() {
    let mut world = World::new(1);
    world.devices(&["a"]);
    let module = world.modules.add(NativeModule::new("t", Subscription::default(), threshold));
    world.deploy(rule("r", module, json!({"condition": {"on_delay": 100}})), 1);
    world.log.set_now(at(10));
    world.readings(&[(0, 10, 20.0)]);
    world.tick(30);
    world.deploy(rule("r", module, json!({"condition": {"on_delay": 5}})), 2);
    // Due in the past: the next record takes it, and the first that comes is that of the activation itself.
    world.put(Record::CheckpointMark);
    world.tick(31);
    assert_eq!(world.told(), ["15 a/hot raised"]);
    assert_eq!(world.lanes[0].partition.next_due(), None);
    check_replay(&world);
}

#[test]
fn a_row_of_another_device_does_not_move_the_delays_of_this_one() {
    let mut world = World::new(1);
    world.devices(&["a", "b"]);
    // Whatever a row says, it says so of `a`.
    let module = world.modules.add(NativeModule::new("t", Subscription::default(), |guest| {
        let mut effects = Effects::default();
        if let Callback::Batch(rows) = guest.callback {
            let hot = rows.numbers("x").iter().any(|x| *x > 10.0);
            let row = Some(rows.len() as u32 - 1);
            let of = |device| {
                if hot { trigger(device, "hot", Severity::Minor, row) } else { clear(device, "hot", row) }
            };
            effects.alerts.push(of(A));
        }
        Ok(effects)
    }));
    world.deploy(rule("r", module, json!({"condition": {"on_delay": 60}})), 1);
    world.log.set_now(at(1000));
    world.readings(&[(0, 1000, 1.0), (1, 1000, 20.0)]);
    // A row of b that is an hour ahead of what a is at must not end the delay of a.
    world.log.set_now(at(1001));
    world.readings(&[(1, 1001, 20.0)]);
    assert!(world.told().is_empty(), "{:?}", world.told());
    world.tick(1061);
    assert_eq!(world.told(), ["1060 a/hot raised"]);
}

#[test]
fn nothing_goes_on_in_a_paused_rule_and_what_waited_goes_on_with_it() {
    let (mut world, calls) = (World::new(1), Calls::default());
    world.devices(&["a", "b"]);
    let schedules = vec![Schedule { name: "m".into(), cron: "* * * * *".into(), zone: None }];
    let subscription = Subscription { silence: Silence::After(secs(40)), schedules, ..Default::default() };
    let module = noted(&world, &calls, "m", subscription, |guest| {
        let mut effects = threshold(guest)?;
        if let Callback::Batch(rows) = guest.callback {
            effects.timers.push(set(rows.devices()[0], 1, guest.context.now + secs(20)));
        }
        Ok(effects)
    });
    world.deploy(rule("r", module, json!({"condition": {"on_delay": 30}})), 1);
    world.log.set_now(at(1));
    world.readings(&[(0, 1, 20.0), (1, 1, 1.0)]);
    assert_eq!(calls.take(), ["1 m batch 2"]);
    world.control(paused("r", true));
    world.put(Record::CheckpointMark);
    // The row that would have cleared it comes while nobody looks; timer, silence, schedules are due.
    world.log.set_now(at(10));
    world.readings(&[(0, 10, 1.0)]);
    assert_eq!(world.lanes[0].partition.next_due(), None);
    world.tick(200);
    world.put(Record::CheckpointMark);
    assert!(calls.take().is_empty() && world.told().is_empty());
    world.control(paused("r", false));
    // The timer at once, silence as it is now, no schedule that was missed, and the delay begins anew.
    world.tick(201);
    let resumed = calls.take();
    assert_eq!(resumed, ["200.000001 m timers [(0, 1)]", "200.000001 m silence [0, 1]"]);
    world.tick(229);
    assert!(world.told().is_empty(), "{:?}", world.told());
    world.tick(231);
    assert_eq!(world.told(), ["230 a/hot raised"]);
    world.tick(241);
    assert_eq!(calls.take(), ["240 m schedule m"]);
    check_replay(&world);
}
