use std::sync::Arc;
use std::time::Duration;

use watchfire_log::ManualClock;
use watchfire_model::alert::{AlertChanges, ResolveReason, Transition, TransitionKind};
use watchfire_model::{
    AlertId, DeviceHandle, DeviceSpec, Epoch, Offset, PartitionId, Position, Severity, Timestamp,
};
use watchfire_store::deliveries::Attempted;
use watchfire_store::{
    AlertFilter, AuditFilter, AuditRow, DeliveryFilter, DeliveryState, Flush, NewDelivery, Retention, Store,
    Tidied,
};

const START: Timestamp = Timestamp(1_767_225_600_000_000);
const DAY: Duration = Duration::from_secs(86_400);

struct Place {
    store: Store,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(START));
        let store = Store::open(&folder.path().join("watchfire.db"), clock.clone()).await.unwrap();
        Self { store, clock, _folder: folder }
    }

    fn now(&self) -> Timestamp {
        watchfire_log::Clock::wall(&*self.clock)
    }

    /// One transition of an alert, recorded now.
    async fn tell(&self, device: &str, offset: u64, kind: TransitionKind) {
        let position = Position { epoch: Epoch(1), partition: PartitionId(0), offset };
        let transition = Transition {
            id: format!("{position}/hot/{device}"),
            alert: AlertId::raised_by(device),
            kind,
            rule: "hot".into(),
            rule_version: 1,
            device: DeviceSpec { id: device.into(), kind: "press".into(), ..DeviceSpec::default() },
            handle: DeviceHandle(0),
            key: String::new(),
            severity: Severity::Major,
            summary: "too hot".into(),
            details: Vec::new(),
            at: self.now(),
            logged_at: self.now(),
            position,
            evidence: None,
            external: None,
        };
        let keeper = self.store.keeper();
        let changes = AlertChanges { transitions: vec![transition], ..AlertChanges::default() };
        tokio::task::spawn_blocking(move || {
            let number = keeper.submit(changes);
            assert!(keeper.wait_committed(number, Duration::from_secs(10)) >= number);
        })
        .await
        .unwrap();
    }

    async fn raise(&self, device: &str, offset: u64) {
        self.tell(device, offset, TransitionKind::Raised).await;
    }

    async fn resolve(&self, device: &str, offset: u64) {
        self.tell(device, offset, TransitionKind::Resolved { reason: ResolveReason::Cleared }).await;
    }

    /// Everything in the outbox becomes one delivery each, for its alert.
    async fn route(&self) {
        let outbox = self.store.unrouted(1000).await.unwrap();
        let flush = Flush {
            routed: outbox.iter().map(|item| item.sequence).collect(),
            deliveries: outbox
                .iter()
                .map(|item| NewDelivery {
                    id: format!("for/{}", item.transition),
                    receiver: "hook".into(),
                    group_key: item.alert.clone(),
                    status: "firing".into(),
                    reason: "new".into(),
                    payload: "{}".into(),
                    alerts: vec![item.alert.clone()],
                    caused_at: Some(item.recorded_at),
                })
                .collect(),
            ..Flush::default()
        };
        self.store.apply_flush(&flush, self.now()).await.unwrap();
    }

    async fn deliver_all(&self) {
        let due =
            self.store.deliveries(&DeliveryFilter { limit: 1000, ..Default::default() }).await.unwrap().items;
        let attempts: Vec<Attempted> = due
            .iter()
            .filter(|row| row.state == DeliveryState::Pending)
            .map(|row| attempted(row.sequence, self.now(), DeliveryState::Delivered))
            .collect();
        self.store.record_attempts(&attempts).await.unwrap();
    }

    async fn tidy(&self, retention: &Retention, kept: Offset) -> Tidied {
        self.store.tidy(retention, &move |_| kept).await.unwrap()
    }

    async fn devices(&self) -> Vec<String> {
        let filter = AlertFilter { limit: 1000, ..AlertFilter::default() };
        let mut devices: Vec<String> =
            self.store.alerts(&filter).await.unwrap().items.into_iter().map(|row| row.device).collect();
        devices.sort();
        devices
    }
}

fn attempted(sequence: i64, at: Timestamp, state: DeliveryState) -> Attempted {
    Attempted {
        sequence,
        attempt: 1,
        at,
        state,
        next_try: at,
        status: Some(200),
        error: None,
        took: watchfire_model::Duration::ZERO,
        thread: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_old_and_over_goes_and_nothing_else() {
    let place = Place::new().await;
    for (offset, device) in [(0, "old"), (10, "standing"), (20, "untold"), (30, "young")] {
        place.raise(device, offset).await;
    }
    place.resolve("old", 1).await;
    place.route().await;
    place.deliver_all().await;
    place.resolve("untold", 21).await;
    place.route().await;
    place.clock.advance(91 * DAY);
    place.resolve("young", 31).await;
    let retention = Retention::default();
    // As long as the log could replay it, nothing of an alert is forgotten.
    let tidied = place.tidy(&retention, 0).await;
    assert_eq!((tidied.alerts, tidied.deliveries), (0, 5), "{tidied:?}");
    assert_eq!(place.tidy(&retention, 1).await.alerts, 0, "its resolve is still there");
    assert_eq!(place.tidy(&retention, 1000).await.alerts, 1);
    assert_eq!(place.devices().await, ["standing", "untold", "young"], "and what is still to be told stays");
    place.deliver_all().await;
    assert_eq!(place.tidy(&retention, 1000).await.alerts, 1);
    assert_eq!(place.devices().await, ["standing", "young"]);
    let untold = AlertId::raised_by("untold").0;
    assert!(place.store.alert(&untold).await.is_err());
    assert!(place.store.events_after(0, 100).await.unwrap().iter().all(|event| event.alert != untold));
    // What is not routed is not lost with the outbox.
    assert_eq!(place.store.unrouted(10).await.unwrap().len(), 1);
    place.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_never_more_than_may_be_and_no_number_is_given_twice() {
    let place = Place::new().await;
    for i in 0..30_u64 {
        place.raise(&format!("d-{i:02}"), i * 2).await;
        place.resolve(&format!("d-{i:02}"), i * 2 + 1).await;
        let row = AuditRow {
            sequence: 0,
            at: place.now(),
            actor: "somebody".into(),
            action: "rule.put".into(),
            subject: format!("{i}"),
            request: None,
            outcome: "ok".into(),
            detail: None,
        };
        place.store.add_audit(&row).await.unwrap();
        place.clock.advance(Duration::from_secs(1));
    }
    place.route().await;
    place.deliver_all().await;
    let retention = Retention { alerts: 10, deliveries: 7, audit: 5, ..Retention::default() };
    let tidied = place.tidy(&retention, 1000).await;
    assert_eq!((tidied.alerts, tidied.deliveries, tidied.audit), (20, 53, 25));
    assert_eq!(place.devices().await, (20..30).map(|i| format!("d-{i}")).collect::<Vec<_>>());
    let nothing = Retention {
        alerts: 0,
        deliveries: 0,
        audit: 0,
        alerts_for: watchfire_model::Duration::ZERO,
        ..retention
    };
    place.clock.advance(DAY);
    place.tidy(&nothing, 1000).await;
    let last = place.store.events_after(0, 1000).await.unwrap().last().unwrap().sequence;
    assert_eq!(last, 60, "followers go on from the last one they saw");
    assert_eq!(place.store.audit(&AuditFilter::default()).await.unwrap().items.len(), 1);
    place.raise("next", 100).await;
    assert_eq!(place.store.events_after(60, 10).await.unwrap().len(), 1);
    place.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_goes_before_its_alert() {
    let place = Place::new().await;
    for i in 0..4_u64 {
        place.raise(&format!("d-{i}"), i * 2).await;
        place.resolve(&format!("d-{i}"), i * 2 + 1).await;
    }
    let retention = Retention { evidence: 1, ..Retention::default() };
    assert_eq!(place.tidy(&retention, 1000).await.evidence, 0, "there is none here");
    assert_eq!(place.devices().await.len(), 4);
    place.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_ends_late_brings_nothing_back_to_life() {
    let place = Place::new().await;
    place.raise("a", 0).await;
    place.raise("b", 10).await;
    place.raise("c", 20).await;
    place.route().await;
    let later = place.now();
    place.clock.advance(DAY);
    // Both are under way when their time runs out.
    assert_eq!(place.store.expire_deliveries("hook", place.now(), place.now()).await.unwrap(), 3);
    let failed = attempted(1, later, DeliveryState::Pending);
    let refused = attempted(2, later, DeliveryState::Refused);
    let taken = attempted(3, later, DeliveryState::Delivered);
    place.store.record_attempts(&[failed, refused, taken]).await.unwrap();
    let rows = place.store.deliveries(&DeliveryFilter::default()).await.unwrap().items;
    let states: Vec<DeliveryState> = rows.iter().rev().map(|row| row.state).collect();
    // What the receiver took it was told, whatever was decided meanwhile.
    assert_eq!(states, [DeliveryState::Expired, DeliveryState::Expired, DeliveryState::Delivered]);
    assert_eq!(place.store.delivery(&rows[2].id).await.unwrap().tries.len(), 1, "that it was tried is known");
    place.store.close().await;
}
