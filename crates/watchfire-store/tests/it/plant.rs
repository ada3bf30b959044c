//! A store with a clock that tests turn, and a loop that hands over what they say.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use watchfire_log::ManualClock;
use watchfire_model::alert::{AlertChanges, ResolveReason, Transition, TransitionKind};
use watchfire_model::{AlertId, DeviceHandle, DeviceSpec, Epoch, PartitionId, Position, Severity, Timestamp};
use watchfire_store::{AlertRow, AlertState, EventRow, Store};

pub const START: Timestamp = Timestamp(1_767_225_600_000_000);

pub fn after(seconds: i64) -> Timestamp {
    Timestamp(START.0 + seconds * 1_000_000)
}

pub struct Plant {
    pub store: Store,
    folder: Arc<tempfile::TempDir>,
    offset: u64,
    /// Everything that was handed over, to be handed over again as a replay does.
    pub told: Vec<Transition>,
}

impl Plant {
    pub async fn new() -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let store = Self::open(&folder).await;
        Self { store, folder, offset: 0, told: Vec::new() }
    }

    async fn open(folder: &tempfile::TempDir) -> Store {
        Store::open(&folder.path().join("watchfire.db"), Arc::new(ManualClock::new(START))).await.unwrap()
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("watchfire.db")
    }

    /// Closes the store and opens it again; the loop hands over once more what it had handed over.
    pub async fn restart(&mut self) {
        self.store.close().await;
        self.store = Self::open(&self.folder).await;
        self.hand_over(self.told.clone()).await;
    }

    pub async fn hand_over(&self, transitions: Vec<Transition>) {
        if transitions.is_empty() {
            return;
        }
        let keeper = self.store.keeper();
        tokio::task::spawn_blocking(move || {
            let number = keeper.submit(AlertChanges { transitions, ..AlertChanges::default() });
            assert!(keeper.wait_committed(number, Duration::from_secs(20)) >= number);
        })
        .await
        .unwrap();
    }

    pub fn make(
        &mut self,
        alert: Option<&AlertId>,
        (rule, device): (&str, &str),
        kind: TransitionKind,
        severity: Severity,
        at: Timestamp,
    ) -> Transition {
        let position = Position { epoch: Epoch(1), partition: PartitionId(0), offset: self.offset };
        self.offset += 1;
        let id = format!("{position}/{rule}/{device}");
        let transition = Transition {
            alert: alert.cloned().unwrap_or_else(|| AlertId::raised_by(&id)),
            id,
            kind,
            rule: rule.into(),
            rule_version: 1,
            device: DeviceSpec { id: device.into(), site: "lyon".into(), ..DeviceSpec::default() },
            handle: DeviceHandle(0),
            key: String::new(),
            severity,
            summary: "too hot".into(),
            details: Vec::new(),
            at,
            logged_at: at,
            position,
            evidence: None,
            external: None,
        };
        self.told.push(transition.clone());
        transition
    }

    /// Raises an alert; gives its id.
    pub async fn raise(&mut self, rule: &str, device: &str, at: Timestamp) -> AlertId {
        let transition = self.make(None, (rule, device), TransitionKind::Raised, Severity::Major, at);
        let alert = transition.alert.clone();
        self.hand_over(vec![transition]).await;
        alert
    }

    pub async fn resolve(&mut self, alert: &AlertId, at: Timestamp) {
        let row = self.row(alert).await;
        let kind = TransitionKind::Resolved { reason: ResolveReason::Cleared };
        let transition = self.make(Some(alert), (&row.rule, &row.device), kind, row.severity, at);
        self.hand_over(vec![transition]).await;
    }

    pub async fn row(&self, alert: &AlertId) -> AlertRow {
        self.store.alert(&alert.0).await.unwrap().alert
    }

    pub async fn history(&self, alert: &AlertId) -> Vec<EventRow> {
        self.store.alert(&alert.0).await.unwrap().history
    }

    /// The kinds of what happened to it, with the reason where there is one.
    pub async fn kinds(&self, alert: &AlertId) -> Vec<String> {
        let name = |event: EventRow| match event.reason {
            Some(reason) => format!("{} {reason}", event.kind),
            None => event.kind,
        };
        self.history(alert).await.into_iter().map(name).collect()
    }

    /// What whoever routes is told, in order: kind and alert.
    pub async fn outbox(&self) -> Vec<(String, String)> {
        self.store.unrouted(10_000).await.unwrap().into_iter().map(|told| (told.kind, told.alert)).collect()
    }

    /// Sweeps until nothing is over any more.
    pub async fn sweep(&self, now: Timestamp) -> watchfire_store::Expired {
        let mut all = watchfire_store::Expired::default();
        loop {
            let expired = self.store.expire_responses(now).await.unwrap();
            all.unacknowledged += expired.unacknowledged;
            all.unshelved += expired.unshelved;
            all.expiring += expired.expiring;
            all.service += expired.service;
            if !expired.more {
                return all;
            }
        }
    }
}

pub fn is_active(row: &AlertRow) -> bool {
    row.state == AlertState::Active
}
