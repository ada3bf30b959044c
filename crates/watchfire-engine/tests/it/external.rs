//! Alerts of others: raised, moved on and ended as a function of the log.

use std::collections::BTreeMap;

use watchfire_log::Record;
use watchfire_log::record::GapReason;
use watchfire_model::external::{ExternalAlert, ExternalAlerts};
use watchfire_model::{Actor, Control, Severity, Timestamp};

use crate::world::*;

/// An alert of others, with its times in seconds.
fn alert(fingerprint: &str, text: &str, starts: Option<i64>, ends: Option<i64>) -> ExternalAlert {
    let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    ExternalAlert {
        fingerprint: fingerprint.into(),
        labels: pairs(&[("alertname", "Down"), ("instance", "node"), ("severity", "page")]),
        annotations: pairs(&[("summary", text)]),
        generator_url: "http://prometheus/graph".into(),
        starts_at: starts.map(at),
        ends_at: ends.map(at),
        resolve_timeout: secs(300),
    }
}

fn say(world: &mut World, seconds: i64, alerts: &[ExternalAlert]) {
    world.log.set_now(at(seconds));
    let said = ExternalAlerts { by: Actor::default(), alerts: alerts.to_vec() };
    world.put(Record::External(Box::new(said)));
}

/// A replay from the start, and from the last checkpoint, comes to the same.
fn check_replays(world: &World) {
    let mut again = World::over(world.log.copy(), world.modules.clone(), &[]);
    again.run();
    assert_eq!((again.dumps(), again.told()), (world.dumps(), world.told()));
    let ids = |world: &World| -> Vec<String> {
        world.keeper.transitions().iter().map(|transition| transition.id.clone()).collect()
    };
    assert_eq!(ids(&again), ids(world));
    if let Some((_, _, saved)) = world.checkpoints.last() {
        let mut again = World::over(world.log.copy(), world.modules.clone(), std::slice::from_ref(saved));
        again.run();
        assert_eq!(again.dumps(), world.dumps());
        let (told, all) = (ids(&again), ids(world));
        assert!(all.ends_with(&told), "{told:?} is not the end of {all:?}");
    }
}

#[test]
fn it_stands_until_its_end_which_is_moved_on_by_saying_it_again() {
    let mut world = World::new(1);
    say(&mut world, 10, &[alert("f", "down", Some(5), Some(100))]);
    say(&mut world, 50, &[alert("f", "still down", Some(5), Some(140))]);
    world.tick(120);
    assert_eq!(world.told(), ["5 node/f raised"]);
    let updates = world.lanes[0].partition.take_updates();
    assert_eq!((updates.len(), updates[0].count, &*updates[0].summary), (1, 2, "still down"));
    assert_eq!(world.lanes[0].partition.next_due(), Some(at(140)), "a tick is wanted then");
    world.put(Record::CheckpointMark);
    world.tick(150);
    assert_eq!(world.told(), ["5 node/f raised", "140 node/f Cleared"]);
    let raised = &world.keeper.transitions()[0];
    assert_eq!((&*raised.rule, raised.rule_version, raised.severity), ("Down", 0, Severity::Critical));
    let external = raised.external.as_ref().unwrap();
    assert_eq!(
        (external.labels["severity"].as_str(), &*external.generator_url),
        ("page", "http://prometheus/graph")
    );
    // It is another alert when it comes again.
    say(&mut world, 160, &[alert("f", "down", Some(155), Some(300))]);
    let all = world.keeper.transitions();
    assert_ne!(all[2].alert, all[0].alert);
    world.put(Record::CheckpointMark);
    check_replays(&world);
}

#[test]
fn its_sender_says_that_it_is_over() {
    let mut world = World::new(1);
    // One that is over already was never told here.
    say(&mut world, 10, &[alert("f", "down", Some(1), Some(9))]);
    assert_eq!(world.told(), [] as [&str; 0]);
    say(&mut world, 20, &[alert("f", "down", Some(15), None), alert("g", "down", None, None)]);
    say(&mut world, 40, &[alert("f", "down", Some(15), Some(35))]);
    say(&mut world, 41, &[alert("f", "down", Some(15), Some(35))]);
    assert_eq!(world.told(), ["15 node/f raised", "20 node/g raised", "35 node/f Cleared"]);
    // Without an end it stands for the timeout.
    world.tick(319);
    assert_eq!(world.told().len(), 3);
    world.tick(320);
    assert_eq!(world.told().last().unwrap(), "320 node/g Cleared");
    // An end before its start as we told it is not told.
    say(&mut world, 400, &[alert("f", "down", None, None)]);
    say(&mut world, 410, &[alert("f", "down", Some(380), Some(390))]);
    assert_eq!(world.told()[4..], ["400 node/f raised", "400 node/f Cleared"]);
    check_replays(&world);
}

#[test]
fn an_end_that_was_said_is_not_shortened_by_a_timeout_and_a_timeout_is_by_an_end() {
    let mut world = World::new(1);
    say(&mut world, 0, &[alert("f", "down", None, Some(1000))]);
    say(&mut world, 10, &[alert("f", "down", None, None)]);
    assert_eq!(world.lanes[0].partition.next_due(), Some(at(1000)));
    say(&mut world, 20, &[alert("g", "down", None, None)]);
    say(&mut world, 30, &[alert("g", "down", None, Some(60))]);
    assert_eq!(world.lanes[0].partition.next_due(), Some(at(60)));
    check_replays(&world);
}

#[test]
fn our_own_downtime_ends_nothing() {
    let mut world = World::new(1);
    say(&mut world, 0, &[alert("f", "down", None, Some(240))]);
    world.log.set_now(at(4000));
    world.put(Record::Gap { from: at(60), to: at(4000), reason: GapReason::Stopped });
    world.tick(4010);
    assert_eq!(world.told(), ["0 node/f raised"], "its sender could not say meanwhile that it goes on");
    world.tick(4000 + 180);
    assert_eq!(world.told()[1], format!("{} node/f Cleared", 4180));
    check_replays(&world);
}

#[test]
fn an_operator_ends_one_by_force_and_what_stands_is_compared_after_a_start() {
    let mut world = World::new(1);
    say(&mut world, 0, &[alert("f", "down", None, Some(1000)), alert("g", "down", None, Some(1000))]);
    let clear = |key: &str, force| Control::ConditionCleared {
        rule: "Down".into(),
        device: "node".into(),
        key: key.into(),
        force,
        by: Actor::default(),
    };
    world.log.set_now(at(10));
    world.control(clear("f", false));
    world.control(clear("x", true));
    assert_eq!(world.told().len(), 2);
    world.control(clear("f", true));
    assert_eq!(world.told()[2], "10 node/f Operator");
    let recovered = world.lanes[0].partition.recovered();
    let [standing] = &recovered.active[..] else { panic!("{recovered:?}") };
    assert_eq!((&*standing.key, standing.external.is_some()), ("g", true));
    assert_eq!(standing.alert, world.keeper.transitions()[1].alert);
    check_replays(&world);
}

#[test]
fn times_of_senders_whose_clock_is_ahead_are_not_told() {
    let mut world = World::new(1);
    say(&mut world, 10, &[alert("f", "down", Some(500), Some(1000))]);
    assert_eq!(world.told(), ["10 node/f raised"]);
    assert!(world.keeper.transitions()[0].at <= Timestamp(at(10).0));
    check_replays(&world);
}
