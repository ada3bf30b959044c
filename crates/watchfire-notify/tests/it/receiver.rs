//! A webhook receiver that behaves as it is told, and a store to go with it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::Value as Json;
use watchfire_log::SystemClock;
use watchfire_model::alert::{AlertChanges, Detail, ResolveReason, Transition, TransitionKind};
use watchfire_model::{
    AlertId, DeviceHandle, DeviceSpec, Epoch, PartitionId, Position, Severity, Timestamp, Value,
};
use watchfire_notify::{Notifier, NotifyConfig};
use watchfire_store::Store;

pub const START: Timestamp = Timestamp(1_767_225_600_000_000);

/// What the receiver does with a request.
#[derive(Clone, Debug)]
pub enum Behave {
    Take,
    /// After so many milliseconds.
    TakeLater(u64),
    Answer(u16),
    AnswerAfter(u16, u64),
    Hang,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: String,
    pub body: Json,
    pub headers: HeaderMap,
    /// The body as it came.
    pub text: String,
    pub taken: bool,
}

impl Seen {
    /// Device and status of each alert listed.
    pub fn says(&self) -> Vec<(String, String)> {
        let alerts = self.body["alerts"].as_array().unwrap();
        let text = |value: &Json| value.as_str().unwrap().to_string();
        alerts.iter().map(|alert| (text(&alert["labels"]["device"]), text(&alert["status"]))).collect()
    }
}

#[derive(Default)]
struct Inner {
    seen: Vec<Seen>,
    /// What comes next; empty: the usual.
    next: VecDeque<Behave>,
    usual: Option<Behave>,
}

#[derive(Clone)]
pub struct Receiver {
    inner: Arc<Mutex<Inner>>,
    pub url: String,
}

async fn hook(State(receiver): State<Arc<Mutex<Inner>>>, headers: HeaderMap, body: String) -> Response {
    let behave = {
        let mut inner = receiver.lock().unwrap();
        let behave = inner.next.pop_front().or_else(|| inner.usual.clone()).unwrap_or(Behave::Take);
        let id = headers["idempotency-key"].to_str().unwrap().to_string();
        assert_eq!(headers["x-watchfire-delivery"].to_str().unwrap(), id);
        let json = serde_json::from_str(&body).unwrap();
        let taken = matches!(behave, Behave::Take | Behave::TakeLater(_));
        inner.seen.push(Seen { id, body: json, headers, text: body, taken });
        behave
    };
    match behave {
        Behave::Take => StatusCode::OK.into_response(),
        Behave::TakeLater(wait) => {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            StatusCode::OK.into_response()
        }
        Behave::Answer(code) => StatusCode::from_u16(code).unwrap().into_response(),
        Behave::AnswerAfter(code, seconds) => {
            (StatusCode::from_u16(code).unwrap(), [("retry-after", seconds.to_string())]).into_response()
        }
        Behave::Hang => {
            std::future::pending::<()>().await;
            StatusCode::OK.into_response()
        }
    }
}

impl Receiver {
    pub async fn start() -> Self {
        let inner = Arc::new(Mutex::new(Inner::default()));
        let router = Router::new().route("/hook", post(hook)).with_state(inner.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { inner, url }
    }

    pub fn next(&self, behave: impl IntoIterator<Item = Behave>) {
        self.inner.lock().unwrap().next.extend(behave);
    }

    pub fn usual(&self, behave: Behave) {
        self.inner.lock().unwrap().usual = Some(behave);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.inner.lock().unwrap().seen.clone()
    }

    pub fn count(&self) -> usize {
        self.inner.lock().unwrap().seen.len()
    }

    pub fn taken(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.taken).collect()
    }

    /// Waits until so many requests were taken.
    pub async fn wait_taken(&self, count: usize) -> Vec<Seen> {
        until("the receiver took what was expected", || self.taken().len() >= count).await;
        self.taken()
    }
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A store in a folder of its own.
pub struct Place {
    pub folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("watchfire.db")
    }

    pub async fn open(&self) -> Store {
        Store::open(&self.path(), Arc::new(SystemClock)).await.unwrap()
    }
}

pub fn config(url: &str, more: &str) -> NotifyConfig {
    let text = format!(
        "public_url = \"https://plant.example\"\n[[receiver]]\nname = \"hook\"\nretry_initial = \"20ms\"\n\
         retry_max = \"200ms\"\nwebhook = {{ url = \"{url}\", timeout = \"300ms\" }}\n{more}"
    );
    toml::from_str(&text).unwrap()
}

pub async fn notify(store: &Store, config: NotifyConfig) -> Notifier {
    Notifier::start(store.clone(), config, Arc::new(SystemClock)).await.unwrap()
}

/// A transition of the alert `alert` of a device; `step` makes its id and time.
pub fn transition(device: &str, step: u64, kind: TransitionKind, severity: Severity) -> Transition {
    let position = Position { epoch: Epoch(1), partition: PartitionId(0), offset: step };
    Transition {
        id: format!("{position}/hot/{device}"),
        alert: AlertId::raised_by(device),
        kind,
        rule: "hot".into(),
        rule_version: 3,
        device: DeviceSpec {
            id: device.into(),
            kind: "press".into(),
            site: "lyon".into(),
            ..DeviceSpec::default()
        },
        handle: DeviceHandle(0),
        key: String::new(),
        severity,
        summary: "Bearing too hot".into(),
        details: vec![
            Detail { name: "value".into(), value: Value::Number(91.5) },
            Detail { name: "limit".into(), value: Value::Number(90.0) },
            Detail { name: "unit".into(), value: Value::Text("°C".into()) },
        ],
        at: Timestamp(START.0 + step as i64 * 1_000_000),
        logged_at: Timestamp(START.0 + step as i64 * 1_000_000),
        position,
        evidence: None,
        external: None,
    }
}

pub fn raise(device: &str, step: u64) -> Transition {
    transition(device, step, TransitionKind::Raised, Severity::Major)
}

pub fn resolve(device: &str, step: u64) -> Transition {
    transition(device, step, TransitionKind::Resolved { reason: ResolveReason::Cleared }, Severity::Major)
}

pub async fn submit(store: &Store, transitions: Vec<Transition>) {
    let keeper = store.keeper();
    tokio::task::spawn_blocking(move || {
        let number = keeper.submit(AlertChanges { transitions, ..AlertChanges::default() });
        assert!(keeper.wait_committed(number, Duration::from_secs(10)) >= number);
    })
    .await
    .unwrap();
}
