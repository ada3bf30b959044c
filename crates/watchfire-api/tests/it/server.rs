//! A whole API in this process, called without a network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tower::ServiceExt as _;
use watchfire_api::alertmanager::ActiveAlerts;
use watchfire_api::contract::*;
use watchfire_api::control::{ControlPlane, Snapshot};
use watchfire_api::links::{LinkOptions, SignedLinks};
use watchfire_api::projector::Projector;
use watchfire_api::{ApiOptions, Services, router};
use watchfire_log::clock::SystemClock;
use watchfire_log::{Append, Log, Record};
use watchfire_model::call::{CallFailure, Effects, Manifest, Subscription};
use watchfire_model::{Control, Digest, Limits, PartitionId, Timestamp};
use watchfire_notify::NotifyConfig;
use watchfire_notify::stages::plan::Settings;
use watchfire_notify::stages::storm::Standing;
use watchfire_store::Store;
use watchfire_testkit::{MemoryLog, NativeModule, NativeModules};

/// Everything that is not under test.
pub struct Fake {
    log: Arc<MemoryLog>,
    events: broadcast::Sender<RuleEvent>,
    pub resubmitted: Mutex<Vec<RawInput>>,
    filter: Mutex<String>,
    /// There is no room for a backup.
    pub full: std::sync::atomic::AtomicBool,
    /// The loop stands still, for this reason.
    pub fault: Mutex<Option<String>>,
    /// Versions whose state is kept of a rule; `None`: all that were left.
    pub kept: Mutex<Option<Vec<u32>>>,
    /// What a trial of `migrate` says.
    pub trial: Mutex<Trial>,
    /// What was to be made once more, ...
    pub again: Mutex<Vec<Again>>,
    /// ... and what comes of it.
    pub rerun: Mutex<Result<Rerun, CallFailure>>,
    /// Receivers and routes.
    notify: Mutex<(NotifyConfig, Arc<Settings>)>,
    /// The storms that hold alerts.
    pub storms: Mutex<Arc<Standing>>,
}

/// Two receivers; what is critical goes to the second too.
const NOTIFY: &str = r#"
    [[receiver]]
    name = "ops"
    webhook = { url = "http://127.0.0.1:9/" }
    [[receiver]]
    name = "night"
    webhook = { url = "http://127.0.0.1:9/" }
    [route]
    receiver = "ops"
    group_by = ["alertname"]
    [[route.routes]]
    receiver = "night"
    matchers = ['severity="critical"']
    continue = true
    [[route.routes]]
    receiver = "ops"
"#;

fn notify(more: &str) -> (NotifyConfig, Arc<Settings>) {
    let config: NotifyConfig = toml::from_str(&format!("{NOTIFY}{more}")).unwrap();
    let mut settings = Settings::new(&config).unwrap();
    settings.public_url = Some("https://plant.example".into());
    (config, Arc::new(settings))
}

impl Fake {
    /// Goes on with a configuration that says more.
    pub fn configure(&self, more: &str) {
        *self.notify.lock().unwrap() = notify(more);
    }
}

impl EngineView for Fake {
    fn partitions(&self) -> BoxFuture<'_, Vec<PartitionStatus>> {
        let all = (0..self.log.partitions())
            .map(|partition| {
                let end = self.log.range(PartitionId(partition)).1;
                let fault = self.fault.lock().unwrap().clone();
                PartitionStatus { partition, offset: end, end, checkpoint: None, fault }
            })
            .collect();
        Box::pin(async { all })
    }
    fn rules(&self) -> BoxFuture<'_, BTreeMap<String, RuleHealth>> {
        let health = RuleHealth { calls: 3, devices: 1, ..RuleHealth::default() };
        Box::pin(async { BTreeMap::from([("hot".to_string(), health)]) })
    }
    fn device_states(&self, ids: Vec<String>) -> BoxFuture<'_, Result<Vec<Option<DeviceState>>, Busy>> {
        let fault = self.fault.lock().unwrap().clone();
        Box::pin(async move {
            match fault {
                Some(fault) => Err(Busy(fault)),
                None => Ok(vec![None; ids.len()]),
            }
        })
    }
    /// Every partition follows the log at once.
    fn kept_state(&self, rule: String, back_to: Option<u32>) -> BoxFuture<'_, Result<Vec<KeptState>, Busy>> {
        let fault = self.fault.lock().unwrap().clone();
        let versions: Vec<u32> = self
            .log
            .records()
            .iter()
            .filter(|entry| entry.position.partition == PartitionId(0))
            .filter_map(|entry| match &entry.record {
                Record::Control(control) => match &**control {
                    Control::RuleDeployed { spec, version, .. } if spec.name == rule => Some(*version),
                    Control::RuleRolledBack { name, version, .. } if *name == rule => Some(*version),
                    _ => None,
                },
                _ => None,
            })
            .collect();
        let kept = self.kept.lock().unwrap().clone();
        let (version, left) = versions.split_last().map_or((0, &[][..]), |(last, left)| (*last, left));
        let left = left.iter().filter(|version| kept.as_ref().is_none_or(|kept| kept.contains(version)));
        let left: Vec<_> = left
            .map(|&version| LeftState { version, at: Timestamp(version.into()), blobs: 2, bytes: 16 })
            .collect();
        let one = |partition| KeptState {
            partition,
            version,
            blobs: 3,
            bytes: 24,
            left: left.clone(),
            raises: back_to.map_or(0, u64::from),
            resolves: 0,
        };
        let all = (0..self.log.partitions()).map(one).collect();
        Box::pin(async move { fault.map_or(Ok(all), |fault| Err(Busy(fault))) })
    }
    fn try_migration(&self, _: String, _: Digest, _: Limits) -> BoxFuture<'_, Result<Trial, Busy>> {
        let (fault, trial) = (self.fault.lock().unwrap().clone(), self.trial.lock().unwrap().clone());
        Box::pin(async move { fault.map_or(Ok(trial), |fault| Err(Busy(fault))) })
    }
    fn rerun(&self, again: Again) -> BoxFuture<'_, Result<Result<Rerun, CallFailure>, Busy>> {
        self.again.lock().unwrap().push(again);
        let made = self.rerun.lock().unwrap().clone();
        Box::pin(async move { Ok(made) })
    }
    fn rule_events(&self) -> broadcast::Receiver<RuleEvent> {
        self.events.subscribe()
    }
}

pub fn info(bytes: &[u8]) -> ModuleInfo {
    ModuleInfo {
        digest: Digest::of(bytes),
        name: "threshold".into(),
        version: "1.0.0".into(),
        description: String::new(),
        language: Some("rust".into()),
        size: bytes.len() as u64,
        imports: vec!["watchfire:rule/readings".into()],
        exports: vec!["watchfire:rule/batch".into()],
        metrics: Vec::new(),
        parameters: json!({"type": "object"}),
        state_version: if bytes.starts_with(b"layout 2") { 2 } else { 1 },
        migrates: bytes.ends_with(b"migrates"),
        uploaded_at: Timestamp(0),
    }
}

impl ModuleWorks for Fake {
    fn add(&self, bytes: Arc<[u8]>) -> BoxFuture<'_, Result<ModuleInfo, ModuleRefusal>> {
        Box::pin(async move {
            if bytes.starts_with(b"busy") {
                let detail = "two other components are being compiled".into();
                return Err(ModuleRefusal { code: "busy".into(), detail });
            }
            if bytes.starts_with(b"bad") {
                let detail = "imports wasi:clocks/wall-clock, which no rule has".into();
                return Err(ModuleRefusal { code: "import-outside-contract".into(), detail });
            }
            Ok(info(&bytes))
        })
    }
    fn remove(&self, _: Digest) {}
    fn validate_parameters(&self, _: &Manifest, parameters: &Value) -> Result<Value, Vec<ParameterFault>> {
        match parameters.get("above") {
            None => Ok(json!({"above": 80})),
            Some(above) if above.is_number() => Ok(parameters.clone()),
            Some(_) => {
                Err(vec![ParameterFault { pointer: "/above".into(), detail: "is not a number".into() }])
            }
        }
    }
}

impl Resubmit for Fake {
    fn resubmit(&self, input: RawInput) -> BoxFuture<'_, Result<u64, ResubmitError>> {
        Box::pin(async move {
            if input.payload == b"still bad" {
                return Err(ResubmitError::Rejected { code: "not-json".into(), reason: "no JSON".into() });
            }
            if input.payload == b"slow" {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            self.resubmitted.lock().unwrap().push(input);
            Ok(1)
        })
    }
}

impl Receivers for Fake {
    fn list(&self) -> Vec<ReceiverInfo> {
        vec![ReceiverInfo {
            name: "ops".into(),
            channels: vec!["webhook".into()],
            state: "unused",
            failures: 0,
            last_attempt: None,
            took: None,
            last_delivered: None,
            last_error: None,
            rests_until: None,
            waiting: 0,
            oldest: None,
        }]
    }
    fn config(&self) -> NotifyConfig {
        self.notify.lock().unwrap().0.clone()
    }
    fn settings(&self) -> Arc<Settings> {
        self.notify.lock().unwrap().1.clone()
    }
    fn storms(&self) -> Arc<Standing> {
        self.storms.lock().unwrap().clone()
    }
    fn test(&self, _: &str) -> BoxFuture<'_, Result<TestAnswer, TestAnswer>> {
        Box::pin(async { Err(TestAnswer { said: "answered 500".into(), answer: Some("no_team".into()) }) })
    }
}

impl Sinks for Fake {
    fn list(&self) -> Vec<SinkInfo> {
        Vec::new()
    }
    fn history(&self, query: HistoryQuery) -> BoxFuture<'_, Result<History, HistoryFailure>> {
        Box::pin(async move {
            match query.device.as_str() {
                "unknown" => Err(HistoryFailure::Nowhere),
                "down" => Err(HistoryFailure::Unavailable("no answer".into())),
                _ if query.from >= query.to => Err(HistoryFailure::Refused("from is not before to".into())),
                _ => Ok(History { source: format!("{}_{}", query.stream, query.step), points: Vec::new() }),
            }
        })
    }
}

impl LogLevel for Fake {
    fn get(&self) -> String {
        self.filter.lock().unwrap().clone()
    }
    fn set(&self, filter: &str) -> Result<(), String> {
        if filter == "loud" {
            return Err("\"loud\" is no level".into());
        }
        *self.filter.lock().unwrap() = filter.into();
        Ok(())
    }
}

impl Archiver for Fake {
    fn snapshot(&self, into: std::path::PathBuf) -> BoxFuture<'_, Result<(), ArchiveError>> {
        let refused = self.full.load(std::sync::atomic::Ordering::Relaxed);
        Box::pin(async move {
            if refused {
                return Err(ArchiveError::Refused("only the reserve is left".into()));
            }
            std::fs::write(into.join("watchfire.db"), b"copy")
                .map_err(|e| ArchiveError::Failed(e.to_string()))
        })
    }
}

/// A server with everything behind it.
pub struct Server {
    router: axum::Router,
    pub fake: Arc<Fake>,
    pub log: Arc<MemoryLog>,
    pub store: Store,
    pub active: Arc<ActiveAlerts>,
    pub links: Arc<SignedLinks>,
    pub control: Arc<ControlPlane>,
    projector: Projector,
    pub folder: tempfile::TempDir,
    pub stop: tokio_util::sync::CancellationToken,
}

/// An answer.
pub struct Answer {
    pub status: StatusCode,
    pub headers: axum::http::HeaderMap,
    pub bytes: Vec<u8>,
    pub json: Value,
}

impl Server {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = MemoryLog::new(2, Timestamp(1_767_225_600_000_000));
        Self::with(folder, log).await
    }

    async fn with(folder: tempfile::TempDir, log: Arc<MemoryLog>) -> Self {
        let clock = Arc::new(SystemClock);
        let store = Store::open(&folder.path().join("watchfire.db"), clock.clone()).await.unwrap();
        let fake = Arc::new(Fake {
            log: log.clone(),
            events: broadcast::Sender::new(16),
            resubmitted: Mutex::default(),
            filter: Mutex::new("info".into()),
            full: Default::default(),
            fault: Mutex::default(),
            kept: Mutex::default(),
            trial: Mutex::default(),
            again: Mutex::default(),
            rerun: Mutex::new(Ok(Rerun { verdict: None, took: Duration::ZERO })),
            notify: Mutex::new(notify("")),
            storms: Mutex::default(),
        });
        let modules = Arc::new(AnyModule);
        let snapshot = Snapshot::load(&store, log.partitions()).await.unwrap();
        let control = ControlPlane::start(log.clone(), fake.clone(), modules, snapshot.clone()).unwrap();
        let projector =
            Projector::start(log.clone(), store.clone(), control.clone(), snapshot).await.unwrap();
        let options = ApiOptions { scratch: folder.path().join("scratch"), ..ApiOptions::default() };
        let stop = tokio_util::sync::CancellationToken::new();
        let active = Arc::new(ActiveAlerts::new(store.clone()));
        let base = Some("https://plant.example/".to_string());
        let links = SignedLinks::open(&store, base, LinkOptions::default(), clock.clone()).await.unwrap();
        let links = Arc::new(links);
        let router = router(Services {
            control: control.clone(),
            store: store.clone(),
            log: log.clone(),
            engine: fake.clone(),
            works: fake.clone(),
            intake: fake.clone(),
            receivers: fake.clone(),
            active: active.clone(),
            links: links.clone(),
            sources: Arc::new(Vec::new),
            sinks: fake.clone(),
            log_level: fake.clone(),
            archiver: fake.clone(),
            projection: projector.projection(),
            clock,
            stop: stop.clone(),
            options,
        });
        Self { router, fake, log, store, active, links, control, projector, folder, stop }
    }

    /// Ends as on SIGTERM and starts again on the same folder, with what the log had synced.
    pub async fn restart(self) -> Self {
        self.projector.stop().await;
        self.store.close().await;
        Self::with(self.folder, self.log.copy()).await
    }

    /// Calls from this machine, without a token.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.send(method, path, None, Some("127.0.0.1:9"), to_bytes(&body)).await
    }

    /// Calls from elsewhere, with a token.
    pub async fn call_as(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        self.send(method, path, Some(token), Some("10.0.0.1:9"), to_bytes(&body)).await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        peer: Option<&str>,
        body: Vec<u8>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost:8080");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut request = request.body(Body::from(body)).unwrap();
        if let Some(peer) = peer {
            request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer.parse().unwrap()));
        }
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let stream = parts.headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
        // An event stream has no end to wait for.
        let bytes = if stream { Vec::new() } else { body.collect().await.unwrap().to_bytes().to_vec() };
        let json = serde_json::from_slice(&bytes).unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, bytes, json }
    }

    /// Calls from elsewhere, with this header `Authorization`.
    pub async fn authorized(&self, value: Option<&str>, method: &str, path: &str, body: Value) -> Answer {
        let headers: Vec<_> = value.map(|value| ("authorization", value)).into_iter().collect();
        self.request(&headers, method, path, "10.0.0.1:9", to_bytes(&body)).await
    }

    /// Calls from this machine, with these headers.
    pub async fn with_headers(&self, headers: &[(&str, &str)], method: &str, path: &str) -> Answer {
        self.request(headers, method, path, "127.0.0.1:9", Vec::new()).await
    }

    pub async fn request(
        &self,
        headers: &[(&str, &str)],
        method: &str,
        path: &str,
        peer: &str,
        body: Vec<u8>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost:8080");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::from(body)).unwrap();
        request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer.parse().unwrap()));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        let json = serde_json::from_slice(&bytes).unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, bytes, json }
    }

    /// The first events of a stream.
    pub async fn events(&self, path: &str, last: Option<&str>, count: usize) -> Vec<String> {
        let mut request = Request::builder().uri(path).header("host", "localhost:8080");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(ConnectInfo::<SocketAddr>("127.0.0.1:9".parse().unwrap()));
        let mut body = self.router.clone().oneshot(request).await.unwrap().into_body();
        let read = async {
            let mut text = String::new();
            while text.matches("\n\n").count() < count {
                let frame = body.frame().await.unwrap().unwrap();
                text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
            }
            text.trim().split("\n\n").map(String::from).collect()
        };
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("no events came")
    }

    /// Everything that a stream still says when the server stops, and that it ends then.
    pub async fn until_stop(&self, path: &str) -> String {
        let mut request = Request::builder().uri(path).header("host", "localhost:8080");
        request = request.header("last-event-id", "0,0").header("x-request-id", "until-stop");
        let mut request = request.body(Body::empty()).unwrap();
        if !path.contains("/streams/") {
            request.headers_mut().remove("last-event-id");
        }
        request.extensions_mut().insert(ConnectInfo::<SocketAddr>("127.0.0.1:9".parse().unwrap()));
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        self.stop.cancel();
        let rest = tokio::time::timeout(Duration::from_secs(10), response.into_body().collect());
        let bytes = rest.await.unwrap_or_else(|_| panic!("{path} has no end")).unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// Appends records as the engine or intake would.
    pub async fn append(&self, records: Vec<(u16, Record)>) {
        let records = records.into_iter().map(|(p, record)| (PartitionId(p), record)).collect();
        let positions = self.log.append(Append::Records(records)).unwrap().durable().await.unwrap();
        let mut projection = self.projector.projection();
        for position in positions.iter() {
            let reached = projection.reached(*position);
            tokio::time::timeout(Duration::from_secs(10), reached).await.expect("the projector stands");
        }
    }
}

fn to_bytes(body: &Value) -> Vec<u8> {
    match body {
        Value::Null => Vec::new(),
        Value::String(text) => text.clone().into_bytes(),
        body => body.to_string().into_bytes(),
    }
}

/// Every digest is a module that starts, unless its parameters say otherwise.
struct AnyModule;

impl watchfire_model::call::Modules for AnyModule {
    fn get(
        &self,
        _: Digest,
    ) -> Result<Arc<dyn watchfire_model::call::Module>, watchfire_model::call::CallFailure> {
        use watchfire_model::call::{CallFailure, FailureKind};
        let modules = NativeModules::new();
        let digest = modules.add(NativeModule::with_instances(
            "threshold",
            |parameters| match parameters.get("above").and_then(Value::as_f64) {
                Some(above) if above < 0.0 => {
                    Err(CallFailure::new(FailureKind::Refused, "above must not be negative"))
                }
                _ => Ok(Subscription::default()),
            },
            |_| Ok(Box::new(|_| Ok(Effects::default()))),
        ));
        modules.get(digest)
    }
}
