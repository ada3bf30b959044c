//! What becomes of what a rule keeps when its version changes: tried on copies, carried over, dropped, brought back.

use serde_json::json;
use watchfire_engine::EngineOptions;
use watchfire_log::Record;
use watchfire_model::call::{Callback, Effects, Silence, Subscription};
use watchfire_model::state::Blobs;
use watchfire_model::{
    Actor, Control, DeviceHandle, Digest, Limits, PartitionId, RollbackState, RuleSpec, RuleVersion, Severity,
};
use watchfire_testkit::{NativeModule, RecordingKeeper};

use crate::engine::{Site, until};
use crate::swap::{back, check_replay};
use crate::world::*;

/// Counts the rows of each device in slot 0, in as many bytes as the layout is; `x` above 10 is `hot`.
fn counting(name: &str, layout: u32) -> NativeModule {
    NativeModule::new(name, Subscription::default(), move |guest| {
        let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
        let mut effects = threshold(guest)?;
        let mut counts = std::collections::BTreeMap::new();
        rows.devices().iter().for_each(|device| *counts.entry(*device).or_insert(0) += 1);
        for (device, count) in counts {
            let mut state = guest.state().get(0, device).to_vec();
            state.resize(layout as usize, 0);
            state[0] += count;
            effects.stores.push(one_state(0, device, &state));
        }
        Ok(effects)
    })
    .state_version(layout)
}

/// From layout 1 to 2; says no to a count of 13, and to more than `together` at once.
fn migrating(name: &str, together: usize) -> NativeModule {
    counting(name, 2).migrating(move |old, _, states| {
        assert_eq!(old, 1);
        if states.lengths.len() > together {
            return trap("too many at once");
        }
        let mut new = Blobs::default();
        for state in states.iter() {
            if state[0] == 13 {
                return trap("13 is no count");
            }
            new.push(&[state[0], 0]);
        }
        Ok(new)
    })
}

/// What a rule keeps in slot 0 in one partition, by device: the present (`None`), or as of when a version was left.
fn kept(dump: &Pairs, version: Option<u8>) -> Vec<Vec<u8>> {
    let (kind, place) = version.map_or((8, 5), |_| (10, 9));
    let of = dump.iter().filter(|(key, _)| key[0] == kind && key[place..place + 4] == [0; 4]);
    of.filter(|(key, _)| version.is_none_or(|version| key[8] == version))
        .map(|(_, blob)| blob.clone())
        .collect()
}

fn back_with(spec: &RuleSpec, versions: [RuleVersion; 3], how: RollbackState) -> Control {
    match back(spec, versions[0], versions[1], versions[2]) {
        Control::RuleRolledBack { name, from, to, version, spec, by, .. } => {
            Control::RuleRolledBack { name, from, to, version, spec, state: how, by }
        }
        other => other,
    }
}

#[test]
fn a_rollback_of_several_versions_brings_back_the_state_from_then() {
    let mut world = World::new(1);
    world.devices(&["a", "b"]);
    let one = world.modules.add(counting("one", 1));
    let two = world.modules.add(migrating("two", 1000));
    let first = rule("r", one, json!({}));
    world.log.set_now(at(100));
    world.deploy(first.clone(), 1);
    world.readings(&[(0, 1, 20.0), (1, 1, 1.0)]);
    world.deploy(rule("r", one, json!({"parameters": {"n": 2}})), 2);
    world.readings(&[(0, 2, 1.0)]);
    world.put(Record::CheckpointMark);
    world.deploy(rule("r", two, json!({})), 3);
    world.readings(&[(0, 3, 1.0), (1, 3, 20.0)]);
    assert_eq!(kept(&world.dumps()[0], None), [vec![3, 0], vec![2, 0]]);
    world.put(Record::CheckpointMark);

    world.control(back_with(&first, [3, 1, 4], RollbackState::Kept));
    let dump = &world.dumps()[0];
    assert_eq!(kept(dump, None), [[1], [1]]);
    assert_eq!(kept(dump, Some(1)), [[1], [1]], "what was kept stays kept");
    assert_eq!(kept(dump, Some(2)), [[2], [1]]);
    assert_eq!(kept(dump, Some(3)), [vec![3, 0], vec![2, 0]]);
    assert_eq!(world.told()[3..], ["100 a/hot raised", "100 b/hot RolledBack"]);
    world.put(Record::CheckpointMark);
    world.readings(&[(1, 4, 1.0)]);
    assert_eq!(kept(&world.dumps()[0], None), [[1], [2]]);

    // And forward again, to the state of the version that was left for it.
    let second = rule("r", two, json!({}));
    world.control(back_with(&second, [4, 3, 5], RollbackState::Kept));
    assert_eq!(kept(&world.dumps()[0], None), [vec![3, 0], vec![2, 0]]);
    check_replay(&world);
}

#[test]
fn what_a_rollback_goes_on_with_is_what_the_record_says() {
    let mut world = World::new(1);
    world.devices(&["a"]);
    let one = world.modules.add(counting("one", 1));
    let two = world.modules.add(migrating("two", 1000));
    let (first, second) = (rule("r", one, json!({})), rule("r", one, json!({"parameters": {"n": 2}})));
    world.deploy(first.clone(), 1);
    world.readings(&[(0, 1, 1.0)]);
    world.deploy(second.clone(), 2);
    world.readings(&[(0, 2, 1.0)]);
    world.control(back_with(&first, [2, 1, 3], RollbackState::Present));
    assert_eq!(kept(&world.dumps()[0], None), [[2]]);
    world.control(back_with(&second, [3, 2, 4], RollbackState::Empty));
    assert!(kept(&world.dumps()[0], None).is_empty());
    world.readings(&[(0, 3, 1.0)]);
    // Five are kept: of the first one nothing is left by now.
    for version in 5..=9 {
        world.deploy(rule("r", one, json!({"parameters": {"n": version}})), version);
    }
    world.control(back_with(&first, [9, 1, 10], RollbackState::Kept));
    let log = world.log.clone();
    let refused = |version| {
        log.records().into_iter().find_map(|entry| match &entry.record {
            Record::Refused { version: of, reason, .. } if *of == version => Some(reason.clone()),
            _ => None,
        })
    };
    assert_eq!(refused(10).unwrap(), "the state of version 1 is not kept any more");
    assert_eq!(kept(&world.dumps()[0], None), [[1]], "nothing changed");
    // Layouts: a way back to the older one is by what was kept, or without state.
    world.deploy(rule("r", two, json!({})), 10);
    world.control(back_with(&first, [10, 1, 11], RollbackState::Present));
    let text = refused(11).unwrap();
    assert!(text.contains("state of version 2 cannot go back to version 1"), "{text}");
    world.control(back_with(&first, [10, 1, 11], RollbackState::Empty));
    assert!(kept(&world.dumps()[0], None).is_empty());
    assert_eq!(kept(&world.dumps()[0], Some(10)), [[1, 0]]);
    world.control(Control::RuleRemoved { name: "r".into(), by: Actor::default() });
    world.put(Record::CheckpointMark);
    let left = world.checkpoints.last().unwrap().2.keys().filter(|key| [7, 8, 10].contains(&key[0])).count();
    assert_eq!(left, 0, "with the rule goes what was kept of it");
    check_replay(&world);
}

#[test]
fn a_deployment_may_begin_without_state_and_nothing_of_a_deleted_device_comes_back() {
    let mut world = World::new(1);
    world.devices(&["a", "b"]);
    let one = world.modules.add(counting("one", 1));
    let other = world.modules.add(counting("other", 3));
    let stateless = world.modules.add(NativeModule::new("none", Subscription::default(), threshold));
    let first = rule("r", one, json!({}));
    world.deploy(first.clone(), 1);
    world.readings(&[(0, 1, 20.0), (1, 1, 20.0)]);
    let discard = |spec: RuleSpec, version| Control::RuleDeployed {
        spec: Box::new(spec),
        version,
        discard_state: true,
        by: Actor::default(),
    };
    world.control(discard(rule("r", other, json!({})), 2));
    assert!(kept(&world.dumps()[0], None).is_empty());
    world.readings(&[(0, 2, 20.0)]);
    assert_eq!(kept(&world.dumps()[0], None), [[1, 0, 0]]);
    world.deploy(rule("r", stateless, json!({})), 3);
    assert!(kept(&world.dumps()[0], None).is_empty());
    world.put(Record::CheckpointMark);
    world.control(Control::DeviceDeleted { id: "b".into(), by: Actor::default() });
    assert_eq!(kept(&world.dumps()[0], Some(1)), [[1]]);
    world.put(Record::CheckpointMark);
    world.control(back_with(&first, [3, 1, 4], RollbackState::Kept));
    assert_eq!(kept(&world.dumps()[0], None), [[1]]);
    assert_eq!(world.told(), ["0 a/hot raised", "0 b/hot raised", "0 b/hot DeviceDeleted"]);
    check_replay(&world);
}

#[test]
fn silence_that_was_told_to_a_later_version_is_told_to_the_one_that_comes_back() {
    let (mut world, calls) = (World::new(1), Calls::default());
    world.devices(&["a", "b", "c"]);
    let subscription = Subscription { silence: Silence::After(secs(60)), ..Default::default() };
    let module = noted(&world, &calls, "m", subscription, |guest| {
        let mut effects = threshold(guest)?;
        if let Callback::Silence(devices) = guest.callback {
            let told = devices.iter().map(|s| trigger(s.device, "silent", Severity::Major, None));
            effects.alerts.extend(told);
        }
        Ok(effects)
    });
    let first = rule("r", module, json!({}));
    world.deploy(first.clone(), 1);
    // a falls silent before the swap and stays so; b before it, and is heard after; c after it.
    world.log.set_now(at(50));
    world.readings(&[(2, 50, 1.0)]);
    world.tick(70);
    world.deploy(rule("r", module, json!({"parameters": {"n": 2}})), 2);
    world.log.set_now(at(100));
    world.readings(&[(1, 100, 1.0)]);
    world.tick(120);
    assert_eq!(calls.take()[1..], ["60 m silence [0, 1]", "100 m batch 1", "110 m silence [2]"]);
    world.put(Record::CheckpointMark);
    world.control(back_with(&first, [2, 1, 3], RollbackState::Kept));
    world.tick(130);
    world.tick(170);
    assert_eq!(calls.take(), ["120.000001 m silence [2]", "160 m silence [1]"], "a was told already");
    check_replay(&world);
}

async fn kept_of(
    engine: &watchfire_engine::Engine,
    site: &Site,
) -> Vec<(RuleVersion, u64, Vec<RuleVersion>)> {
    engine.wait_level().await.unwrap();
    let kept = engine.kept_state("r", None).await.unwrap();
    assert_eq!(kept.len(), usize::from(watchfire_log::Log::partitions(&*site.log)));
    let left = |kept: &watchfire_engine::KeptState| kept.left.iter().map(|left| left.version).collect();
    kept.iter().map(|kept| (kept.version, kept.blobs, left(kept))).collect()
}

/// Devices of each of two partitions, and a rule of layout 1 that has counted them; device 3 of the second one 13 times.
async fn counted(site: &Site) -> (Digest, Vec<String>) {
    let ids: Vec<String> = (0..12).map(|i| format!("d{i}")).collect();
    site.devices(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    let one = site.modules.add(counting("one", 1));
    site.control(deployed(rule("r", one, json!({})), 1));
    for (partition, times) in [(0, 1), (1, 13)] {
        for _ in 0..times {
            site.log.put(PartitionId(partition), [readings(&[(3, 1, 1.0)])]);
        }
        site.log.put(PartitionId(partition), [readings(&[(0, 1, 1.0), (1, 1, 20.0)])]);
    }
    let second: Vec<String> = ids.into_iter().filter(|id| PartitionId::of(id, 2) == PartitionId(1)).collect();
    (one, second)
}

#[tokio::test]
async fn migrate_is_tried_on_copies_and_says_whose_state_it_does_not_take() {
    let site = Site::new(2);
    let (one, _) = counted(&site).await;
    let two = site.modules.add(migrating("two", 1000));
    let few = site.modules.add(migrating("few", 1));
    let none = site.modules.add(counting("none", 2));
    let engine = site.start();
    engine.wait_level().await.unwrap();
    let before = (engine.dump().await, site.log.records().len());

    let limits = Limits::default();
    let trial = engine.try_migration("r", two, &limits).await.unwrap();
    let failure = trial.failure.clone().unwrap();
    assert_eq!(
        (failure.partition, failure.slot, failure.device),
        (PartitionId(1), Some(0), Some(DeviceHandle(3)))
    );
    assert_eq!((failure.devices, failure.reason.as_str()), (3, "13 is no count"));
    assert_eq!((trial.from, trial.to, trial.devices, trial.blobs), (1, 2, 6, 6));
    // Two fail together and none alone.
    let trial = engine.try_migration("r", few, &limits).await.unwrap();
    let failure = trial.failure.unwrap();
    assert_eq!((failure.partition, failure.device, failure.devices), (PartitionId(0), None, 3));
    let failure = engine.try_migration("r", none, &limits).await.unwrap().failure.unwrap();
    assert!(failure.reason.contains("does not migrate"), "{failure:?}");
    let tight = Limits { state: 100, ..Limits::default() };
    site.log.put(PartitionId(1), [readings(&[(3, 1, 1.0)])]);
    engine.wait_level().await.unwrap();
    let failure = engine.try_migration("r", two, &tight).await.unwrap().failure.unwrap();
    assert!(failure.slot.is_none() && failure.reason.contains("its limit (state) is 100"), "{failure:?}");
    let gone = engine.try_migration("r", Digest::of(b"gone"), &limits).await.unwrap();
    assert!(gone.failure.unwrap().reason.contains("there is no module"));
    assert_eq!(engine.try_migration("nobody", two, &limits).await.unwrap().blobs, 0);

    let trial = engine.try_migration("r", two, &limits).await.unwrap();
    assert_eq!((trial.failure, trial.blobs, trial.bytes, trial.new_bytes), (None, 6, 6, 12));
    // Nothing was changed by any of it, and nothing was logged but the one row.
    let mut after = engine.dump().await;
    assert_eq!(site.log.records().len(), before.1 + 1);
    assert_eq!(after.remove(&PartitionId(0)), before.0.get(&PartitionId(0)).cloned());
    assert_eq!(engine.kept_state("r", None).await.unwrap()[0].version, 1);
    assert_eq!(engine.status().await.rules["r"].module, Some(one));
}

#[tokio::test]
async fn a_rollback_is_the_same_after_every_crash() {
    let site = Site::new(2);
    let (one, _) = counted(&site).await;
    let two = site.modules.add(migrating("two", 1000));
    let first = rule("r", one, json!({}));
    site.log.put(PartitionId(1), [readings(&[(3, 1, 1.0)])]);
    let steps: [&dyn Fn(); 4] = [
        &|| site.control(deployed(rule("r", two, json!({})), 2)),
        &|| _ = site.put(readings(&[(0, 5, 20.0), (2, 5, 1.0)])),
        &|| site.control(back_with(&first, [2, 1, 3], RollbackState::Kept)),
        &|| _ = site.put(readings(&[(1, 6, 1.0)])),
    ];
    for (i, step) in steps.iter().enumerate() {
        let engine = site.start();
        engine.wait_level().await.unwrap();
        step();
        engine.wait_level().await.unwrap();
        // Killed, or ended with a checkpoint: the next one loads it, or replays.
        if i % 2 == 0 { engine.abort() } else { engine.stop() }
    }
    let engine = site.start();
    let kept = kept_of(&engine, &site).await;
    assert_eq!(kept, [(3, 3, vec![1, 2]), (3, 3, vec![1, 2])]);
    let dump = engine.dump().await;
    assert_eq!(
        self::kept(&dump[&PartitionId(0)], None),
        [[1], [2], [1]],
        "but for the row after it, as before"
    );
    assert_eq!(self::kept(&dump[&PartitionId(1)], None), [[1], [1], [14]]);
    let count = site.keeper.transitions().len();
    drop(engine);
    // As if it had never been interrupted.
    let folder = tempfile::TempDir::new().unwrap();
    let keeper = std::sync::Arc::new(RecordingKeeper::new());
    let whole = watchfire_engine::Engine::start(
        site.log.copy(),
        site.modules.clone(),
        keeper.clone(),
        EngineOptions::new(folder.path()),
    )
    .unwrap();
    whole.wait_level().await.unwrap();
    assert!(whole.dump().await == dump);
    until("everything is released", async || keeper.transitions().len() == count).await;
}
