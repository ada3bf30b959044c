//! The parts of the engine as the control API sees them: its small traits over the real things.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::broadcast;
use watchfire_api::contract::{
    Again, BoxFuture, BreakerState, Busy, DeviceState, EngineView, KeptState, LeftState, ModuleInfo,
    ModuleRefusal, ModuleWorks, Outage, ParameterFault, PartitionStatus, ReceiverInfo, Receivers, Rerun,
    RuleEvent, RuleHealth, TestAnswer, Trial, TrialFailure,
};
use watchfire_engine::{BreakerStatus, Engine, EngineStatus, RuleEventKind, RuleStatus};
use watchfire_host::{Host, ModuleBytes, ModuleReport, RefusalError};
use watchfire_model::call::{CallFailure, Manifest};
use watchfire_model::{Digest, Limits, PartitionId, RuleVersion, Timestamp};
use watchfire_notify::stages::plan::Settings;
use watchfire_notify::stages::storm::Standing;
use watchfire_notify::{Notifier, NotifyConfig, NotifyError};
use watchfire_store::{Store, StoreError};

/// How old what is said of all rules may be: lists ask once for each rule.
const FRESH: Duration = Duration::from_millis(250);

/// The partition loop.
pub struct EngineAdapter {
    engine: Arc<Engine>,
    status: Mutex<Option<(Instant, Arc<EngineStatus>)>>,
    events: broadcast::Sender<RuleEvent>,
    /// Whether a task hands events on: only while somebody watches, since the loop makes none for nobody.
    handing_on: Arc<Mutex<bool>>,
}

impl EngineAdapter {
    /// Over a running engine.
    pub fn new(engine: Arc<Engine>) -> Arc<Self> {
        let (events, _) = broadcast::channel(1024);
        Arc::new(Self { engine, status: Mutex::default(), events, handing_on: Arc::default() })
    }

    async fn hand_on(
        mut from: broadcast::Receiver<watchfire_engine::RuleEvent>,
        to: broadcast::Sender<RuleEvent>,
        handing_on: Arc<Mutex<bool>>,
    ) {
        loop {
            let received = from.recv().await;
            // Under the lock, so that nobody who begins to watch now relies on a task that ends.
            let mut going_on = handing_on.lock().unwrap_or_else(PoisonError::into_inner);
            *going_on =
                to.receiver_count() > 0 && !matches!(received, Err(broadcast::error::RecvError::Closed));
            if !*going_on {
                return;
            }
            drop(going_on);
            if let Ok(event) = received {
                let _ = to.send(convert(event));
            }
        }
    }

    async fn status(&self) -> Arc<EngineStatus> {
        let kept = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, status)) = kept
            && at.elapsed() < FRESH
        {
            return status;
        }
        let status = Arc::new(self.engine.status().await);
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), status.clone()));
        status
    }
}

impl EngineView for EngineAdapter {
    fn partitions(&self) -> BoxFuture<'_, Vec<PartitionStatus>> {
        Box::pin(async {
            let status = self.status().await;
            let one = |(id, next): (watchfire_model::PartitionId, u64)| {
                let known = status.partitions.get(&id).and_then(Option::as_ref);
                PartitionStatus {
                    partition: id.0,
                    offset: next,
                    end: self.engine.log_end(id).max(next),
                    checkpoint: known.map(|known| known.checkpoint),
                    fault: known.and_then(|known| known.fault.clone()),
                }
            };
            self.engine.progress().into_iter().map(one).collect()
        })
    }

    fn rules(&self) -> BoxFuture<'_, BTreeMap<String, RuleHealth>> {
        Box::pin(async {
            let status = self.status().await;
            let one = |(name, rule): (&String, &RuleStatus)| {
                let health = RuleHealth {
                    calls: rule.stats.calls,
                    rows: rule.stats.rows,
                    failures: rule.stats.failures,
                    nanoseconds: rule.stats.nanoseconds,
                    p99_nanoseconds: rule.stats.p99_nanoseconds(),
                    state_bytes: rule.state_bytes,
                    devices: rule.devices,
                    active_alerts: rule.active,
                    last_failure: rule.stats.last_failure.clone(),
                    memory: rule.memory,
                    breaker: breaker(&rule.breakers),
                    outages: rule.breakers.iter().map(outage).collect(),
                };
                (name.clone(), health)
            };
            status.rules.iter().map(one).collect()
        })
    }

    fn device_states(&self, ids: Vec<String>) -> BoxFuture<'_, Result<Vec<Option<DeviceState>>, Busy>> {
        Box::pin(async move {
            let states = self.engine.device_states(&ids).await.map_err(|error| Busy(error.to_string()))?;
            let heard = |state: watchfire_engine::DeviceState| {
                Some(DeviceState {
                    last_seen: state.last_seen?,
                    last_event_time: state.last_event_time?,
                    values: state.values,
                })
            };
            Ok(states.into_iter().map(|state| state.and_then(heard)).collect())
        })
    }

    fn kept_state(
        &self,
        rule: String,
        back_to: Option<RuleVersion>,
    ) -> BoxFuture<'_, Result<Vec<KeptState>, Busy>> {
        Box::pin(async move {
            let kept = self.engine.kept_state(&rule, back_to).await;
            let kept = kept.map_err(|error| Busy(error.to_string()))?;
            let left = |left: watchfire_engine::LeftState| LeftState {
                version: left.version,
                at: left.at,
                blobs: left.blobs,
                bytes: left.bytes,
            };
            let one = |kept: watchfire_engine::KeptState| KeptState {
                partition: kept.partition.0,
                version: kept.version,
                blobs: kept.blobs,
                bytes: kept.bytes,
                left: kept.left.into_iter().map(left).collect(),
                raises: kept.raises,
                resolves: kept.resolves,
            };
            Ok(kept.into_iter().map(one).collect())
        })
    }

    fn try_migration(
        &self,
        rule: String,
        module: Digest,
        limits: Limits,
    ) -> BoxFuture<'_, Result<Trial, Busy>> {
        Box::pin(async move {
            let trial = self.engine.try_migration(&rule, module, &limits).await;
            let trial = trial.map_err(|error| Busy(error.to_string()))?;
            let failure = |failure: watchfire_engine::TrialFailure| TrialFailure {
                partition: failure.partition.0,
                slot: failure.slot,
                device: failure.device,
                devices: failure.devices,
                reason: failure.reason,
            };
            Ok(Trial {
                devices: trial.devices,
                blobs: trial.blobs,
                bytes: trial.bytes,
                new_bytes: trial.new_bytes,
                took: trial.took,
                failure: trial.failure.map(failure),
            })
        })
    }

    fn rerun(&self, again: Again) -> BoxFuture<'_, Result<Result<Rerun, CallFailure>, Busy>> {
        Box::pin(async move {
            let Again { rule, limits, key, evidence } = again;
            let made = self.engine.rerun(rule, limits, key, evidence).await;
            let made = made.map_err(|error| Busy(error.to_string()))?;
            Ok(made.map(|made| Rerun { verdict: made.verdict, took: made.took }))
        })
    }

    fn rule_events(&self) -> broadcast::Receiver<RuleEvent> {
        let mut handing_on = self.handing_on.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.events.subscribe();
        if !std::mem::replace(&mut *handing_on, true) {
            let (from, to) = (self.engine.subscribe(), self.events.clone());
            tokio::spawn(Self::hand_on(from, to, self.handing_on.clone()));
        }
        receiver
    }
}

/// How the breaker stands where it is worst.
fn breaker(breakers: &BTreeMap<PartitionId, BreakerStatus>) -> BreakerState {
    match breakers.values().any(|breaker| breaker.retry_at.is_some()) {
        true => BreakerState::Open,
        false if breakers.is_empty() => BreakerState::Closed,
        false => BreakerState::CatchingUp,
    }
}

fn outage((partition, status): (&PartitionId, &BreakerStatus)) -> Outage {
    Outage {
        partition: partition.0,
        breaker: if status.retry_at.is_some() { BreakerState::Open } else { BreakerState::CatchingUp },
        since: status.since,
        why: status.why.clone(),
        reason: status.reason.clone(),
        retry_at: status.retry_at,
        tries: status.tries,
        missed_from: status.from,
        missed_upto: status.upto,
        missed_records: status.records,
        missed_rows: status.rows,
        caught_up_rows: status.caught_up,
        lost_records: status.lost,
        on_recovery: status.on_recovery,
    }
}

fn convert(event: watchfire_engine::RuleEvent) -> RuleEvent {
    let (name, mut data) = match event.kind {
        RuleEventKind::Message { level, text } => ("log", json!({"level": level, "text": text})),
        RuleEventKind::Trigger { device, key, severity, summary } => {
            ("trigger", json!({"device": device, "key": key, "severity": severity, "summary": summary}))
        }
        RuleEventKind::Clear { device, key } => ("clear", json!({"device": device, "key": key})),
        RuleEventKind::Failure { callback, kind, message, rows } => {
            ("failure", json!({"callback": callback, "kind": kind, "message": message, "rows": rows}))
        }
        RuleEventKind::UnknownDevice { device } => (
            "failure",
            json!({"kind": "unknown-device", "message": "emitted for a device that is not registered", "device": device}),
        ),
        RuleEventKind::BreakerOpened { reason } => ("breaker", json!({"to": "open", "reason": reason})),
        RuleEventKind::BreakerClosed => ("breaker", json!({"to": "closed"})),
        RuleEventKind::Recovered => ("breaker", json!({"to": "recovered"})),
        RuleEventKind::Activated => ("activated", json!({})),
        RuleEventKind::Refused { reason } => ("refused", json!({"reason": reason})),
    };
    data["version"] = json!(event.version);
    data["position"] = json!(event.position);
    data["time"] = json!(event.now);
    RuleEvent { rule: event.rule.to_string(), event: name, data }
}

/// The rule host.
pub struct HostAdapter(pub Host);

impl ModuleWorks for HostAdapter {
    fn add(&self, bytes: Arc<[u8]>) -> BoxFuture<'_, Result<ModuleInfo, ModuleRefusal>> {
        let host = self.0.clone();
        Box::pin(async move {
            let added = tokio::task::spawn_blocking(move || host.add(&bytes)).await;
            match added {
                Ok(Ok(report)) => Ok(info(report)),
                Ok(Err(error)) => Err(ModuleRefusal { code: code(&error).into(), detail: error.to_string() }),
                Err(error) => Err(ModuleRefusal { code: "compile".into(), detail: error.to_string() }),
            }
        })
    }

    fn remove(&self, digest: Digest) {
        self.0.remove(digest);
    }

    fn validate_parameters(
        &self,
        manifest: &Manifest,
        parameters: &serde_json::Value,
    ) -> Result<serde_json::Value, Vec<ParameterFault>> {
        watchfire_host::validate_parameters(manifest, parameters).map_err(|problems| {
            problems
                .into_iter()
                .map(|problem| ParameterFault { pointer: problem.path, detail: problem.message })
                .collect()
        })
    }
}

/// What is known of a module, as the API has it.
pub(crate) fn info(report: ModuleReport) -> ModuleInfo {
    ModuleInfo {
        digest: report.digest,
        name: report.name,
        version: report.version,
        description: report.manifest.description,
        language: Some(report.language).filter(|language| !language.is_empty()),
        size: report.size,
        imports: report.imports,
        migrates: report.exports.iter().any(|export| export.contains("state-migration")),
        exports: report.exports,
        metrics: report.metrics,
        parameters: report.parameters,
        state_version: report.manifest.state_version,
        uploaded_at: Timestamp(0),
    }
}

/// What a refusal is called over the API.
pub(crate) fn code(error: &RefusalError) -> &'static str {
    match error {
        RefusalError::TooLarge { .. } => "too-large",
        RefusalError::NotWasm => "not-wasm",
        RefusalError::CoreModule => "core-module",
        RefusalError::Malformed(_) => "malformed",
        RefusalError::Imports { .. } => "import-outside-contract",
        RefusalError::Function { .. } => "function-outside-contract",
        RefusalError::ContractVersion { .. } => "contract-version",
        RefusalError::NoHandler => "no-handler",
        RefusalError::Compile(_) => "compile",
        RefusalError::Describe(_) => "describe",
        RefusalError::Manifest(_) => "manifest",
        RefusalError::Busy(_) => "busy",
        RefusalError::Unknown(_) => "unknown",
        RefusalError::Unreadable(_) => "unreadable",
    }
}

/// Where the host finds modules again after a restart.
pub struct StoredModules(pub Store);

impl ModuleBytes for StoredModules {
    fn bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, String> {
        match self.0.module_bytes(&digest) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Who is notified.
pub struct NotifierAdapter(pub Arc<Notifier>);

impl Receivers for NotifierAdapter {
    fn list(&self) -> Vec<ReceiverInfo> {
        let one = |receiver: watchfire_notify::ReceiverInfo| {
            let health = receiver.health;
            ReceiverInfo {
                name: receiver.name,
                channels: vec![receiver.channel.to_string()],
                state: match (health.last_attempt, health.failures) {
                    (None, _) => "unused",
                    (last, 0) if last != health.last_delivered => "refusing",
                    (Some(_), 0) => "ok",
                    _ => "failing",
                },
                failures: health.failures,
                last_attempt: health.last_attempt,
                took: health.took,
                last_delivered: health.last_delivered,
                last_error: health.last_error,
                rests_until: health.rests_until,
                waiting: 0,
                oldest: None,
            }
        };
        self.0.receivers().into_iter().map(one).collect()
    }

    fn config(&self) -> NotifyConfig {
        self.0.config()
    }

    fn settings(&self) -> Arc<Settings> {
        self.0.settings()
    }

    fn storms(&self) -> Arc<Standing> {
        self.0.storms()
    }

    fn test(&self, name: &str) -> BoxFuture<'_, Result<TestAnswer, TestAnswer>> {
        let name = name.to_string();
        Box::pin(async move {
            let unknown = |error: NotifyError| TestAnswer { said: error.to_string(), answer: None };
            let result = self.0.test_receiver(&name).await.map_err(unknown)?;
            let status = result.status.map_or("no answer".to_string(), |status| format!("status {status}"));
            let answer = result.answer;
            match result.error {
                None => Ok(TestAnswer { said: format!("{status} after {}", result.took), answer }),
                Some(error) => Err(TestAnswer { said: format!("{status}: {error}"), answer }),
            }
        })
    }
}
