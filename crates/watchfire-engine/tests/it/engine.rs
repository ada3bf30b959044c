//! The engine with its threads: releases, ticks, checkpoints, crashes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use watchfire_engine::{CheckpointPolicy, Engine, EngineOptions, RuleEventKind};
use watchfire_log::{Append, Log, Record};
use watchfire_model::call::{Callback, Effects, Silence, Subscription};
use watchfire_model::{Actor, Control, PartitionId, Position, Severity};
use watchfire_testkit::{MemoryLog, NativeModule, NativeModules, RecordingKeeper};

use crate::world::*;

pub struct Site {
    pub log: Arc<MemoryLog>,
    pub modules: Arc<NativeModules>,
    pub keeper: Arc<RecordingKeeper>,
    pub folder: TempDir,
}

impl Site {
    pub fn new(partitions: u16) -> Self {
        Self {
            log: MemoryLog::new(partitions, T0),
            modules: Arc::default(),
            keeper: Arc::default(),
            folder: TempDir::new().unwrap(),
        }
    }

    pub fn start(&self) -> Engine {
        self.start_with(CheckpointPolicy::default())
    }

    pub fn start_with(&self, checkpoint: CheckpointPolicy) -> Engine {
        let options = EngineOptions { checkpoint, ..EngineOptions::new(self.folder.path()) };
        Engine::start(self.log.clone(), self.modules.clone(), self.keeper.clone(), options).unwrap()
    }

    pub fn control(&self, control: Control) {
        let record = Record::Control(Box::new(control));
        let records = (0..self.log.partitions()).map(|id| (PartitionId(id), record.clone())).collect();
        drop(self.log.append(Append::Records(records)).unwrap());
    }

    pub fn devices(&self, ids: &[&str]) {
        let devices = ids.iter().map(|id| device(id, "press")).collect();
        self.control(Control::DevicesPut { devices, by: Actor::default() });
    }

    pub fn put(&self, record: Record) -> Position {
        self.log.put(PartitionId(0), [record])[0]
    }
}

pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn readings_become_alerts_and_questions_are_answered() {
    let site = Site::new(1);
    let module = site.modules.add(NativeModule::new("t", Subscription::default(), threshold));
    let engine = site.start();
    let mut events = engine.subscribe();
    site.devices(&["a", "b"]);
    site.control(deployed(rule("r", module, json!({})), 1));
    site.log.set_now(at(9));
    let position = site.put(readings(&[(0, 5, 20.0), (1, 6, 3.0)]));
    engine.wait_for(position).await.unwrap();
    until("it is raised", async || site.keeper.transitions().len() == 1).await;
    let [known, unknown] = ["a", "nobody"].map(String::from);
    let states = engine.device_states(&[known, unknown]).await.unwrap();
    let state = states[0].clone().unwrap();
    assert_eq!((state.last_event_time, state.values.len()), (Some(at(5)), 1));
    assert_eq!(states[1], None);
    let status = engine.status().await;
    let rule = &status.rules["r"];
    assert_eq!((rule.stats.calls, rule.stats.rows, rule.active, rule.devices), (1, 2, 1, 2));
    assert_eq!(rule.versions[&PartitionId(0)], 1);
    let mut kinds = Vec::new();
    while let Ok(event) = events.try_recv() {
        kinds.push(event.kind);
    }
    assert!(matches!(
        &kinds[..],
        [RuleEventKind::Activated, RuleEventKind::Trigger { .. }, RuleEventKind::Clear { .. }]
    ));
    engine.stop();
    assert!(engine.wait_for(Position { offset: 9999, ..position }).await.is_err());
}

#[tokio::test]
async fn a_stop_leaves_a_checkpoint_and_a_crash_none_and_neither_changes_anything() {
    let site = Site::new(2);
    let subscription = Subscription { silence: Silence::After(secs(600)), ..Default::default() };
    let module = site.modules.add(
        NativeModule::new("t", subscription, |guest| {
            let mut effects = threshold(guest)?;
            if let Callback::Batch(rows) = guest.callback {
                let device = rows.devices()[0];
                let mut state = guest.state().get(0, device).to_vec();
                state.push(state.len() as u8);
                effects.stores.push(one_state(0, device, &state));
                effects.timers.push(set(device, 1, at(50_000)));
            }
            Ok(effects)
        })
        .state_version(1),
    );
    let ids: Vec<String> = (0..40).map(|i| format!("d{i}")).collect();
    site.devices(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    let condition = json!({"condition": {"on_delay": 3, "off_delay": 2}});
    site.control(deployed(rule("r", module, condition), 1));
    for round in 0..6_i64 {
        let engine = site.start();
        for i in 0..20 {
            let time = round * 20 + i;
            site.log.set_now(at(time));
            for partition in [PartitionId(0), PartitionId(1)] {
                let x = f64::from(i as i32 * 7 % 23);
                site.log.put(partition, [readings(&[(i as u32 % 9, time, x), (3, time - 1, x)])]);
            }
        }
        engine.wait_level().await.unwrap();
        if round % 2 == 0 { engine.abort() } else { engine.stop() }
    }
    let cursor = site.log.cursor("engine", PartitionId(1)).unwrap();
    assert!(cursor > 100, "{cursor}");
    let engine = site.start();
    engine.wait_level().await.unwrap();
    let dump = engine.dump().await;
    let count = site.keeper.transitions().len();
    assert!(count > 20);
    drop(engine);
    // One that was never interrupted says the same.
    let folder = TempDir::new().unwrap();
    let options = EngineOptions::new(folder.path());
    let keeper = Arc::new(RecordingKeeper::new());
    let log = site.log.copy();
    let whole = Engine::start(log, site.modules.clone(), keeper.clone(), options).unwrap();
    whole.wait_level().await.unwrap();
    assert!(whole.dump().await == dump);
    until("everything is released", async || keeper.transitions().len() == count).await;
}

#[tokio::test]
async fn a_tick_comes_where_something_is_due_and_nothing_arrives() {
    let site = Site::new(1);
    let subscription = Subscription { silence: Silence::After(secs(60)), ..Default::default() };
    let module = site.modules.add(NativeModule::new("s", subscription, |guest| {
        let Callback::Silence(devices) = guest.callback else { return Ok(Effects::default()) };
        let alerts = devices.iter().map(|s| trigger(s.device, "silent", Severity::Major, None)).collect();
        Ok(Effects { alerts, ..Effects::default() })
    }));
    site.devices(&["a"]);
    site.control(deployed(rule("r", module, json!({})), 1));
    let engine = site.start();
    engine.wait_level().await.unwrap();
    site.log.set_now(at(3600));
    until("silence is told", async || site.keeper.transitions().len() == 1).await;
    assert_eq!(told(&site.keeper.transitions()[0]), "60 a/silent raised");
    assert_eq!(site.log.records().iter().filter(|entry| entry.record == Record::Tick).count(), 1);
}

#[tokio::test]
async fn what_follows_a_failed_call_is_held_back_until_the_failure_is_durable() {
    let site = Site::new(1);
    let log = site.log.clone();
    let module = site.modules.add(NativeModule::new("m", Subscription::default(), move |guest| {
        let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
        if rows.numbers("x")[0] == 13.0 {
            // From here on the disk is slow.
            log.hold();
            return trap("unlucky");
        }
        threshold(guest)
    }));
    site.devices(&["a"]);
    site.control(deployed(rule("r", module, json!({})), 1));
    let engine = site.start();
    engine.wait_level().await.unwrap();
    let last = site.log.put(PartitionId(0), [readings(&[(0, 0, 13.0)]), readings(&[(0, 0, 20.0)])])[1];
    engine.wait_for(last).await.unwrap();
    until("the failure is on its way", async || site.log.held() > 0).await;
    assert_eq!(site.keeper.transitions().len(), 0);
    // The group fails: it is tried again, and still nothing is released.
    site.log.fail("the disk is gone");
    until("it is tried again", async || site.log.held() > 0).await;
    assert_eq!(site.keeper.transitions().len(), 0);
    site.log.release();
    until("it is raised", async || site.keeper.transitions().len() == 1).await;
    let skipped = |record: &Record| matches!(record, Record::Skipped(_));
    assert_eq!(site.log.records().iter().filter(|entry| skipped(&entry.record)).count(), 1);
}

#[tokio::test]
async fn a_checkpoint_waits_until_what_it_covers_is_committed() {
    let site = Site::new(1);
    let module = site.modules.add(NativeModule::new("t", Subscription::default(), threshold));
    site.devices(&["a"]);
    site.control(deployed(rule("r", module, json!({})), 1));
    let policy = CheckpointPolicy { rows: 50, ..CheckpointPolicy::default() };
    let engine = site.start_with(policy);
    site.keeper.hold();
    site.put(readings(&[(0, 0, 20.0)]));
    for i in 0..60 {
        site.put(readings(&[(0, i, 20.0)]));
    }
    let marked = || site.log.records().iter().any(|entry| entry.record == Record::CheckpointMark);
    until("a mark is there", async || marked()).await;
    engine.wait_level().await.unwrap();
    until("the transition is handed over", async || site.keeper.transitions().len() == 1).await;
    assert_eq!(site.log.cursor("engine", PartitionId(0)), Some(0));
    site.keeper.release();
    until("it is written", async || site.log.cursor("engine", PartitionId(0)) > Some(0)).await;
    // Repeated triggers were handed over as updates, not as transitions.
    until("updates came", async || !site.keeper.updates().is_empty()).await;
    assert_eq!(site.keeper.transitions().len(), 1);
}

/// Rows come without a pause, and each record brings another one: there always is something on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_is_written_under_load_with_an_output_stream() {
    let site = Site::new(1);
    let module = site.modules.add(NativeModule::new("t", Subscription::default(), |guest| {
        let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
        let derived = vec![("y".into(), rows.numbers("x").to_vec())];
        Ok(Effects { derived, ..Effects::default() })
    }));
    site.devices(&["a"]);
    site.control(deployed(rule("r", module, json!({"output": "made"})), 1));
    let policy = CheckpointPolicy { rows: 200, ..CheckpointPolicy::default() };
    let engine = site.start_with(policy);
    let load = {
        let log = site.log.clone();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut i = 0;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                log.put(PartitionId(0), [readings(&[(0, i, 1.0)])]);
                i += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        (stop, thread)
    };
    until("a checkpoint is written", async || site.log.cursor("engine", PartitionId(0)) > Some(200)).await;
    let first = site.log.cursor("engine", PartitionId(0));
    until("another one is", async || site.log.cursor("engine", PartitionId(0)) > first).await;
    load.0.store(true, std::sync::atomic::Ordering::Relaxed);
    load.1.join().unwrap();
    engine.stop();
}

#[tokio::test]
async fn a_quiet_partition_has_its_checkpoint_too() {
    let site = Site::new(2);
    let policy = CheckpointPolicy { interval: Duration::from_millis(50), ..CheckpointPolicy::default() };
    let _engine = site.start_with(policy);
    site.devices(&["a"]);
    for id in [PartitionId(0), PartitionId(1)] {
        until("it is written", async || site.log.cursor("engine", id) > Some(0)).await;
    }
    // With nothing more coming there is nothing more to write.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(site.log.records().len() < 10, "{}", site.log.records().len());
}

#[tokio::test]
async fn a_thread_that_panics_is_told() {
    let site = Site::new(1);
    let module = site.modules.add(NativeModule::new("t", Subscription::default(), |guest| {
        if let Callback::Batch(_) = guest.callback {
            panic!("a bug of the loop");
        }
        Ok(Effects::default())
    }));
    let engine = site.start();
    site.devices(&["a"]);
    site.control(deployed(rule("r", module, json!({})), 1));
    site.put(readings(&[(0, 0, 1.0)]));
    let said = tokio::time::timeout(Duration::from_secs(20), engine.failed()).await.unwrap();
    assert!(said.contains("shard-0") && said.contains("a bug of the loop"), "{said}");
    assert_eq!(engine.status().await.partitions[&PartitionId(0)], None);
    assert!(engine.device_states(&["a".into()]).await.is_err());
}

#[tokio::test]
async fn a_try_in_which_the_process_dies_again_and_again_is_not_made() {
    let site = Site::new(1);
    let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = calls.clone();
    let module = site.modules.add(NativeModule::new("t", Subscription::default(), move |_| {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        trap("broken")
    }));
    site.devices(&["a"]);
    site.control(deployed(rule("r", module, json!({"breaker": {"calls": 2}})), 1));
    // As three processes before have left it.
    let note = site.folder.path().join("partition-0.trying");
    std::fs::write(&note, "1 3 r\n").unwrap();
    let engine = site.start();
    engine.wait_level().await.unwrap();
    for second in 0..2 {
        site.log.set_now(at(second));
        site.put(readings(&[(0, second, 20.0)]));
        engine.wait_level().await.unwrap();
    }
    until("it is out", async || !engine.status().await.rules["r"].breakers.is_empty()).await;
    let made = calls.load(std::sync::atomic::Ordering::Relaxed);
    site.log.set_now(at(30));
    site.put(readings(&[(0, 30, 20.0)]));
    let stays = || {
        site.log.records().into_iter().find_map(|entry| match &entry.record {
            Record::Breaker(breaker) => match &breaker.change {
                watchfire_log::BreakerChange::StaysOpen { reason, .. } => Some(reason.clone()),
                _ => None,
            },
            _ => None,
        })
    };
    until("it stays out", async || stays().is_some()).await;
    assert!(stays().unwrap().contains("3 times"), "{stays:?}", stays = stays());
    assert_eq!(calls.load(std::sync::atomic::Ordering::Relaxed), made, "it was not called");
    // Another version is tried at once; its own tries are noted, and over.
    site.control(deployed(rule("r", module, json!({"breaker": {"calls": 2}, "parameters": {"n": 2}})), 2));
    engine.wait_level().await.unwrap();
    for second in 31..60 {
        site.log.set_now(at(second));
        site.put(readings(&[(0, second, 20.0)]));
    }
    until("it is called", async || calls.load(std::sync::atomic::Ordering::Relaxed) > made).await;
    engine.stop();
    assert!(!std::fs::read_to_string(&note).unwrap().contains("2 1 r"));
}

#[tokio::test]
async fn a_call_in_which_the_process_dies_again_and_again_is_skipped() {
    let site = Site::new(1);
    let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = calls.clone();
    let module = site.modules.add(NativeModule::new("t", Subscription::default(), move |guest| {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        threshold(guest)
    }));
    site.log.set_now(at(9));
    site.devices(&["a"]);
    site.control(deployed(rule("r", module, json!({})), 1));
    let position = site.put(readings(&[(0, 0, 20.0)]));
    site.put(readings(&[(0, 1, 20.0)]));
    // As three processes before have left it.
    let note = site.folder.path().join("partition-0.replaying");
    std::fs::write(&note, format!("{} 0 3 r\n", position.offset)).unwrap();
    let engine = site.start();
    engine.wait_level().await.unwrap();
    until("the rest is evaluated", async || site.keeper.transitions().len() == 1).await;
    assert_eq!(site.keeper.transitions()[0].at, at(1));
    let skipped = site.log.records().into_iter().find_map(|entry| match &entry.record {
        Record::Skipped(skipped) => Some(skipped.clone()),
        _ => None,
    });
    let skipped = skipped.unwrap();
    assert_eq!((skipped.offset, skipped.rows.as_slice()), (position.offset, &[0][..]));
    assert!(skipped.reason.contains("3 times"), "{}", skipped.reason);
    assert!(!note.exists(), "the replay is over");
    drop(engine);
    // From the log it is known now: not called, not skipped anew.
    let before = (site.log.records().len(), calls.load(std::sync::atomic::Ordering::Relaxed));
    let engine = site.start();
    engine.wait_level().await.unwrap();
    assert_eq!(site.log.records().len(), before.0);
    assert_eq!(calls.load(std::sync::atomic::Ordering::Relaxed), before.1 + 1);
}

#[test]
fn a_log_that_begins_behind_the_checkpoint_is_refused() {
    let site = Site::new(1);
    for _ in 0..5 {
        site.put(Record::Tick);
    }
    site.log.drop_before(PartitionId(0), 3);
    let options = EngineOptions::new(site.folder.path());
    let started = Engine::start(site.log.clone(), site.modules.clone(), site.keeper.clone(), options);
    let error = started.err().unwrap().to_string();
    assert_eq!(error, "partition 0 needs the log from offset 0 on, which begins at 3");
}
