use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use watchfire_log::ManualClock;
use watchfire_model::alert::{
    AlertChanges, AlertKeeper, AlertUpdate, Detail, Recovered, ResolveReason, Transition, TransitionKind,
};
use watchfire_model::external::External;
use watchfire_model::{
    AlertId, DeviceHandle, DeviceSpec, Epoch, PartitionId, Position, Severity, Timestamp, Value,
};
use watchfire_store::{AlertFilter, AlertSource, AlertState, Store, StoreError};

const START: Timestamp = Timestamp(1_767_225_600_000_000);

async fn open(folder: &Path) -> Store {
    Store::open(&folder.join("watchfire.db"), Arc::new(ManualClock::new(START))).await.unwrap()
}

/// Makes transitions with ids of a partition's offsets.
struct Life {
    rule: &'static str,
    device: String,
    alert: AlertId,
    offset: u64,
}

impl Life {
    fn new(rule: &'static str, device: &str, offset: u64) -> Self {
        let alert = AlertId::raised_by(&format!("1/0/{offset}/{rule}/{device}"));
        Self { rule, device: device.into(), alert, offset }
    }

    fn make(&mut self, kind: TransitionKind, severity: Severity) -> Transition {
        let position = Position { epoch: Epoch(1), partition: PartitionId(0), offset: self.offset };
        self.offset += 1;
        let raised = kind == TransitionKind::Raised;
        Transition {
            id: format!("{position}/{}/{}", self.rule, self.device),
            alert: self.alert.clone(),
            kind,
            rule: self.rule.into(),
            rule_version: 1,
            device: DeviceSpec { id: self.device.clone(), kind: "press".into(), ..DeviceSpec::default() },
            handle: DeviceHandle(0),
            key: String::new(),
            severity,
            summary: "too hot".into(),
            details: vec![Detail { name: "temperature".into(), value: Value::Number(91.5) }],
            at: Timestamp(START.0 + position.offset as i64 * 1_000_000),
            logged_at: Timestamp(START.0 + position.offset as i64 * 1_000_000 + 5),
            position,
            evidence: raised.then(|| Box::new(watchfire_testkit::evidence(position, START))),
            external: None,
        }
    }

    fn raise(&mut self) -> Transition {
        self.make(TransitionKind::Raised, Severity::Major)
    }

    fn resolve(&mut self) -> Transition {
        self.make(TransitionKind::Resolved { reason: ResolveReason::Cleared }, Severity::Major)
    }
}

async fn submit(store: &Store, transitions: Vec<Transition>) {
    hand_over(store, AlertChanges { transitions, ..AlertChanges::default() }).await;
}

async fn hand_over(store: &Store, changes: AlertChanges) {
    let keeper = store.keeper();
    tokio::task::spawn_blocking(move || {
        let number = keeper.submit(changes);
        assert!(keeper.wait_committed(number, Duration::from_secs(10)) >= number);
    })
    .await
    .unwrap();
}

async fn all(store: &Store) -> Vec<watchfire_store::AlertRow> {
    store.alerts(&AlertFilter::default()).await.unwrap().items
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_is_kept_with_history_and_evidence_and_a_replay_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut life = Life::new("hot", "press-1", 0);
    let story = vec![
        life.raise(),
        life.make(TransitionKind::SeverityChanged { from: Severity::Major }, Severity::Critical),
        life.resolve(),
    ];
    let mut seen = store.subscribe();
    submit(&store, story[..2].to_vec()).await;
    seen.changed().await.unwrap();
    let active = &all(&store).await[0];
    assert_eq!((active.state, active.severity), (AlertState::Active, Severity::Critical));
    assert_eq!(active.labels["severity"], "critical");
    submit(&store, story.clone()).await;
    submit(&store, story).await;
    let detail = store.alert(&life.alert.0).await.unwrap();
    assert_eq!(detail.alert.state, AlertState::Resolved);
    // The resolve claims `major`, but what is told is what was told before.
    assert_eq!(detail.alert.severity, Severity::Critical);
    let kinds: Vec<&str> = detail.history.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["raised", "severity_changed", "resolved"]);
    assert_eq!(detail.evidence.unwrap()["parameters"]["limit"], 90);
    assert_eq!(store.unrouted(10).await.unwrap().len(), 3);
    store.close().await;
    let store = open(folder.path()).await;
    assert_eq!(all(&store).await.len(), 1);
    assert_eq!(*store.subscribe().borrow(), 3);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_repaired_and_never_lost() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let (mut first, mut second) = (Life::new("hot", "press-1", 0), Life::new("hot", "press-1", 10));
    let mut unknown = Life::new("hot", "press-2", 20);
    submit(&store, vec![first.raise()]).await;
    submit(&store, vec![second.raise(), unknown.resolve()]).await;
    // The one that was superseded resolves late: history, and nothing else.
    submit(&store, vec![first.resolve()]).await;
    let rows = all(&store).await;
    let row = |id: &AlertId| rows.iter().find(|row| row.id == id.0).unwrap();
    assert_eq!(row(&first.alert).resolve_reason.as_deref(), Some("superseded"));
    assert_eq!(row(&second.alert).state, AlertState::Active);
    assert_eq!(row(&unknown.alert).state, AlertState::Resolved);
    let told: Vec<_> = store.unrouted(10).await.unwrap().into_iter().map(|o| (o.kind, o.alert)).collect();
    let expected = [
        ("raised", &first),
        ("resolved", &first),
        ("raised", &second),
        ("raised", &unknown),
        ("resolved", &unknown),
    ];
    assert_eq!(told, expected.map(|(kind, life)| (kind.to_string(), life.alert.0.clone())));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_alert_is_active_per_identity_whoever_races() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let keeper = store.keeper();
    let threads: Vec<_> = (0..8_u64)
        .map(|thread| {
            let keeper: Arc<dyn AlertKeeper> = keeper.clone();
            std::thread::spawn(move || {
                let mut last = 0;
                for i in 0..50 {
                    let mut life = Life::new("hot", &format!("press-{}", i % 3), thread * 10_000 + i * 10);
                    let mut transitions = vec![life.raise()];
                    if i % 2 == 0 {
                        transitions.push(life.resolve());
                    }
                    last = keeper.submit(AlertChanges { transitions, ..AlertChanges::default() });
                }
                assert!(keeper.wait_committed(last, Duration::from_secs(20)) >= last);
            })
        })
        .collect();
    for thread in threads {
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    }
    let filter = AlertFilter { state: Some(AlertState::Active), ..AlertFilter::default() };
    let active = store.alerts(&filter).await.unwrap().items;
    let mut devices: Vec<_> = active.iter().map(|row| row.device.as_str()).collect();
    devices.sort_unstable();
    devices.dedup();
    assert_eq!(devices.len(), active.len());
    let filter = AlertFilter { limit: 1000, ..AlertFilter::default() };
    assert_eq!(store.alerts(&filter).await.unwrap().items.len(), 400);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_triggers_are_written_in_the_background() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut life = Life::new("hot", "press-1", 0);
    submit(&store, vec![life.raise()]).await;
    let keeper = store.keeper();
    for count in 2..10 {
        let update = AlertUpdate {
            alert: life.alert.clone(),
            last_seen: Timestamp(START.0 + count as i64),
            count,
            summary: format!("seen {count} times"),
            details: Vec::new(),
        };
        keeper.submit(AlertChanges { updates: vec![update], ..AlertChanges::default() });
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while all(&store).await[0].count != 9 {
        assert!(Instant::now() < deadline, "the update was never written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(all(&store).await[0].summary, "seen 9 times");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_respond_once_and_it_stands_in_the_history() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut life = Life::new("hot", "press-1", 0);
    submit(&store, vec![life.raise()]).await;
    let id = &life.alert.0.clone();
    let first = store.acknowledge(id, "anna", Some("on my way"), START).await.unwrap();
    let again = store.acknowledge(id, "bert", None, Timestamp(START.0 + 1)).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(again.acknowledged_by.as_deref(), Some("anna"));
    store.comment(id, "bert", "valve replaced", START).await.unwrap();
    submit(&store, vec![life.resolve()]).await;
    let detail = store.alert(id).await.unwrap();
    assert_eq!(detail.alert.acknowledged_by.as_deref(), Some("anna"));
    let kinds: Vec<_> = detail.history.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["raised", "acknowledged", "commented", "resolved"]);
    assert_eq!(store.events_after(2, 10).await.unwrap().len(), 2);
    assert!(matches!(store.acknowledge("none", "anna", None, START).await, Err(StoreError::NotFound { .. })));
    // Whoever routes hears of what may hold notices back or change them, and of nothing else that people do.
    let kinds: Vec<_> = store.unrouted(10).await.unwrap().into_iter().map(|told| told.kind).collect();
    assert_eq!(kinds, ["raised", "acknowledged", "resolved"]);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_are_listed_by_filter_and_page() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let raised: Vec<_> = (0..25)
        .map(|i| Life::new(if i % 5 == 0 { "cold" } else { "hot" }, &format!("press-{i}"), i * 10).raise())
        .collect();
    submit(&store, raised).await;
    let mut filter = AlertFilter { rule: Some("hot".into()), limit: 8, ..AlertFilter::default() };
    let mut pages = Vec::new();
    loop {
        let page = store.alerts(&filter).await.unwrap();
        pages.push(page.items.len());
        let Some(next) = page.next else { break };
        filter.cursor = Some(next);
    }
    assert_eq!(pages, [8, 8, 4]);
    let filter = AlertFilter {
        severity: vec![Severity::Major, Severity::Critical],
        device: Some("press-5".into()),
        since: Some(START),
        ..AlertFilter::default()
    };
    assert_eq!(store.alerts(&filter).await.unwrap().items.len(), 1);
    let filter = AlertFilter { severity: vec![Severity::Info], ..AlertFilter::default() };
    assert!(store.alerts(&filter).await.unwrap().items.is_empty());
    let filter = AlertFilter { cursor: Some("x".into()), ..AlertFilter::default() };
    assert!(matches!(store.alerts(&filter).await, Err(StoreError::Cursor(_))));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_and_store_are_compared_after_a_recovery() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let lives = ["known", "worse", "orphan", "lacking", "latched"];
    let mut lives: Vec<Life> = (0..).zip(lives).map(|(i, device)| Life::new("hot", device, i * 10)).collect();
    let raises: Vec<Transition> = lives.iter_mut().map(Life::raise).collect();
    submit(&store, raises[..3].to_vec()).await;
    // As the loop tells it: under ids of its own.
    let told = |raise: &Transition| Transition { id: format!("recovered/{}", raise.alert), ..raise.clone() };
    let mut active: Vec<Transition> = raises.iter().map(told).collect();
    active[1].severity = Severity::Critical;
    active.remove(2);
    active[3].kind = TransitionKind::Cleared;
    let recovered = |partition, active: &[Transition]| {
        Some(Recovered { partition: PartitionId(partition), at: START, active: active.to_vec() })
    };
    for again in [false, true] {
        let changes = AlertChanges { recovered: recovered(0, &active), ..AlertChanges::default() };
        hand_over(&store, changes).await;
        let rows = store.active_alerts(PartitionId(0)).await.unwrap();
        let found: Vec<_> = rows.iter().map(|row| (row.device.as_str(), row.severity)).collect();
        let usual = raises[0].severity;
        let expected =
            [("known", usual), ("worse", Severity::Critical), ("lacking", usual), ("latched", usual)];
        assert_eq!(found, expected, "again: {again}");
        assert!(rows[3].cleared_at.is_some() && rows[2].cleared_at.is_none());
    }
    let orphan = store.alert(&raises[2].alert.0).await.unwrap().alert;
    assert_eq!(orphan.resolve_reason.as_deref(), Some("orphaned"));
    // Other partitions are not concerned; what comes behind a comparison in the queue is no part of it.
    let late = Life::new("hot", "late", 100).raise();
    let keeper = store.keeper();
    keeper.submit(AlertChanges { recovered: recovered(0, &active), ..AlertChanges::default() });
    keeper.submit(AlertChanges { transitions: vec![late], ..AlertChanges::default() });
    hand_over(&store, AlertChanges { recovered: recovered(1, &[]), ..AlertChanges::default() }).await;
    assert_eq!(store.active_alerts(PartitionId(0)).await.unwrap().len(), 5);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_loop_holds_as_raised_goes_on_though_the_store_had_it_resolved() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut life = Life::new("hot", "press-1", 0);
    let (raise, resolve) = (life.raise(), life.resolve());
    submit(&store, vec![raise.clone(), resolve]).await;
    let alert = life.alert.clone();
    let told = |offset: u64| Transition {
        id: format!("recovered/1/0/{offset}/{alert}"),
        severity: Severity::Critical,
        evidence: None,
        external: None,
        ..raise.clone()
    };
    let at = |offset, active| {
        Some(Recovered { partition: PartitionId(0), at: Timestamp(START.0 + offset), active })
    };
    let routed = store.unrouted(100).await.unwrap().len();
    for _ in 0..2 {
        let recovered = at(50, vec![told(50)]);
        hand_over(&store, AlertChanges { recovered, ..AlertChanges::default() }).await;
        let detail = store.alert(&life.alert.0).await.unwrap();
        assert_eq!((detail.alert.state, detail.alert.severity), (AlertState::Active, Severity::Critical));
        assert_eq!((detail.alert.resolved_at, detail.alert.resolve_reason), (None, None));
        assert_eq!(detail.alert.labels["severity"], "critical");
        let told: Vec<_> = detail.history.iter().map(|e| (e.kind.as_str(), e.reason.as_deref())).collect();
        assert_eq!(told, [("raised", None), ("resolved", Some("cleared")), ("raised", Some("restored"))]);
        // Who was told that it ended is told that it goes on.
        assert_eq!(store.unrouted(100).await.unwrap().len(), routed + 1);
    }
    // It may be orphaned and restored as often as it takes.
    for round in 1..3 {
        hand_over(&store, AlertChanges { recovered: at(round * 100, vec![]), ..AlertChanges::default() })
            .await;
        assert_eq!(store.active_alerts(PartitionId(0)).await.unwrap().len(), 0);
        let recovered = at(round * 100 + 50, vec![told(round as u64 * 100 + 50)]);
        hand_over(&store, AlertChanges { recovered, ..AlertChanges::default() }).await;
        assert_eq!(store.active_alerts(PartitionId(0)).await.unwrap().len(), 1);
    }
    // One that is latched is restored as latched.
    submit(&store, vec![life.resolve()]).await;
    let latched = Transition { kind: TransitionKind::Cleared, ..told(900) };
    hand_over(&store, AlertChanges { recovered: at(900, vec![latched]), ..AlertChanges::default() }).await;
    let row = &store.active_alerts(PartitionId(0)).await.unwrap()[0];
    assert!(row.cleared_at.is_some());
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_nothing_holds_up_the_loop_but_not_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    submit(&store, vec![Life::new("hot", "first", 0).raise()]).await;
    store.limit_pages_for_tests(Some(1)).await;
    let keeper = store.keeper();
    let (sent, received) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        for i in 0..30_000 {
            let number = keeper.submit(AlertChanges {
                transitions: vec![Life::new("hot", &format!("d-{i}"), i).raise()],
                ..AlertChanges::default()
            });
            let _ = sent.send((number, keeper.committed()));
        }
    });
    let waited = tokio::task::spawn_blocking(move || {
        let mut last = (0, 0);
        while let Ok(next) = received.recv_timeout(Duration::from_secs(2)) {
            last = next;
        }
        (received, last)
    });
    let (received, (number, _)) = waited.await.unwrap();
    assert!(number < 20_000, "it waits: {number}");
    store.ending();
    let begun = Instant::now();
    let rest = tokio::task::spawn_blocking(move || received.iter().last().unwrap()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // Nothing that was not written counts as written, so no checkpoint covers it.
    assert!(rest.1 < number && rest.0 > number, "{rest:?}");
    store.limit_pages_for_tests(None).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_holds_no_more_state_than_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut life = Life::new("hot", "press-1", 0);
    let mut raise = life.raise();
    let evidence = raise.evidence.as_mut().unwrap();
    evidence.state_before =
        [(0, "00".repeat(1 << 20)), (1, "01".repeat(100)), (7, "02".repeat(40_000))].into();
    submit(&store, vec![raise]).await;
    let kept = store.alert(&life.alert.0).await.unwrap().evidence.unwrap();
    assert_eq!(kept["state_left_out"], serde_json::json!([0, 7]));
    assert_eq!(kept["state_before"].as_object().unwrap().len(), 1);
    assert_eq!(kept["parameters"]["limit"], 90);
    store.close().await;
}

/// Not a test of time: prints what a storm costs. `cargo test -p watchfire-store -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_many_transitions_a_second() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = open(folder.path()).await;
    let batches: Vec<Vec<Transition>> = (0..100_u64)
        .map(|b| {
            (0..500_u64)
                .flat_map(|i| {
                    let mut life = Life::new("hot", &format!("press-{i}"), b * 100_000 + i * 10);
                    [life.raise(), life.resolve()]
                })
                .collect()
        })
        .collect();
    let total: usize = batches.iter().map(Vec::len).sum();
    let keeper = store.keeper();
    let took = tokio::task::spawn_blocking(move || {
        let started = Instant::now();
        let mut last = 0;
        for transitions in batches {
            last = keeper.submit(AlertChanges { transitions, ..AlertChanges::default() });
        }
        keeper.wait_committed(last, Duration::from_secs(120));
        started.elapsed()
    })
    .await
    .unwrap();
    println!("{:.0} transitions/s", total as f64 / took.as_secs_f64());
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_of_others_keeps_its_labels_and_never_takes_the_place_of_one_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let ours = Life::new("hot", "press-1", 0).raise();
    let labels = std::collections::BTreeMap::from([
        ("alertname".to_string(), "hot".to_string()),
        ("severity".to_string(), "page".to_string()),
    ]);
    let external = External { labels: labels.clone(), generator_url: "http://prometheus/".into() };
    let mut life = Life::new("hot", "press-1", 10);
    let mut theirs = life.raise();
    (theirs.evidence, theirs.external) = (None, Some(Box::new(external.clone())));
    submit(&store, vec![ours.clone(), theirs.clone()]).await;
    let active: Vec<_> =
        all(&store).await.into_iter().filter(|row| row.state == AlertState::Active).collect();
    assert_eq!(active.len(), 2, "the same rule, device and key");
    let row = store.alert(&theirs.alert.0).await.unwrap().alert;
    assert_eq!(
        (row.source, &row.labels, &*row.generator_url),
        (AlertSource::External, &labels, "http://prometheus/")
    );
    assert_eq!(row.fingerprint, watchfire_store::fingerprint(&labels));
    assert_eq!(store.alert(&ours.alert.0).await.unwrap().alert.source, AlertSource::Rule);
    let outbox = store.unrouted(10).await.unwrap();
    let urls: Vec<_> = outbox.iter().map(|item| item.generator_url.as_deref()).collect();
    assert_eq!(urls, [None, Some("http://prometheus/")]);

    // What is said of it is compared as what is said of ours.
    let told = Transition { id: "recovered/theirs".into(), ..theirs.clone() };
    let position = theirs.position;
    let recovered = Recovered { partition: position.partition, at: theirs.at, active: vec![told] };
    hand_over(&store, AlertChanges { recovered: Some(recovered), ..AlertChanges::default() }).await;
    assert_eq!(store.alert(&theirs.alert.0).await.unwrap().alert.state, AlertState::Active);
    assert_eq!(
        store.alert(&ours.alert.0).await.unwrap().alert.state,
        AlertState::Resolved,
        "nobody holds it"
    );
    let mut end = life.resolve();
    end.external = Some(Box::new(external));
    submit(&store, vec![end]).await;
    let ended = store.alert(&theirs.alert.0).await.unwrap().alert;
    assert_eq!((ended.state, &ended.labels), (AlertState::Resolved, &labels));
}
