//! The real binary is killed at each step of the way from an alert to whoever is told of it. Nothing is lost, and what is
//! told again has the idempotency key and the text that it had before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use watchfire_model::{Duration, Timestamp};

use crate::binary::{Engine, write_config};
use crate::{call, hot, wait_for};

/// What the receiver does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    /// Takes it.
    Take,
    /// Is not there for it: 503.
    Refuse,
    /// Never answers.
    Hang,
    /// Takes it, and its answer never arrives: by then the engine is dead.
    TakeSilently,
}

/// A request as it came.
#[derive(Clone, Debug)]
struct Request {
    id: String,
    body: Value,
    taken: bool,
}

#[derive(Clone)]
struct Hook {
    does: Arc<Mutex<Does>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

async fn take(State(hook): State<Hook>, headers: HeaderMap, body: String) -> StatusCode {
    let does = *hook.does.lock().unwrap();
    let id = headers["idempotency-key"].to_str().unwrap().to_string();
    let taken = matches!(does, Does::Take | Does::TakeSilently);
    hook.requests.lock().unwrap().push(Request { id, body: serde_json::from_str(&body).unwrap(), taken });
    match does {
        Does::Take => StatusCode::OK,
        Does::Refuse => StatusCode::SERVICE_UNAVAILABLE,
        Does::Hang | Does::TakeSilently => std::future::pending().await,
    }
}

impl Hook {
    async fn start() -> (Self, SocketAddr) {
        let hook = Self { does: Arc::new(Mutex::new(Does::Take)), requests: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/hook", post(take)).with_state(hook.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (hook, address)
    }

    fn does(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    async fn wait_requests(&self, count: usize) -> Vec<Request> {
        wait_for("the requests", async || {
            let requests = self.requests();
            (requests.len() >= count).then_some(requests)
        })
        .await
    }
}

/// A data folder, and a receiver that outlives the engine.
struct Plant {
    _folder: tempfile::TempDir,
    config: PathBuf,
    hook: Hook,
}

impl Plant {
    /// Each alert is a group of its own; with more keys of the route.
    async fn new(route: &str) -> Self {
        // The only error is that a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let (hook, address) = Hook::start().await;
        let config = write_config(folder.path(), address);
        let text = std::fs::read_to_string(&config).unwrap();
        let route = format!("[route]\ngroup_by = [\"alertname\", \"instance\", \"device\"]\n{route}");
        std::fs::write(&config, format!("{text}{route}")).unwrap();
        Self { _folder: folder, config, hook }
    }

    async fn start(&self) -> Engine {
        Engine::start(&self.config).await
    }

    /// Brings everything to its end, and looks whether each of these was told as begun and ended: once, or again under
    /// the same key.
    async fn told_once(&self, engine: Engine, instances: &[&str]) {
        self.hook.does(Does::Take);
        settled(&engine, instances.len()).await;
        say(&engine, instances.iter().map(|instance| over(instance)).collect()).await;
        let ledger = settled(&engine, 2 * instances.len()).await;
        let ids: BTreeSet<&str> = ledger.iter().map(|row| row["id"].as_str().unwrap()).collect();
        let mut texts: BTreeMap<String, Value> = BTreeMap::new();
        let mut taken: Vec<String> = Vec::new();
        for request in self.hook.requests() {
            assert!(ids.contains(request.id.as_str()), "no delivery of the ledger: {request:?}");
            if let Some(before) = texts.insert(request.id.clone(), request.body.clone()) {
                assert_eq!(before, request.body, "one key, and two texts");
            }
            if request.taken && !taken.contains(&request.id) {
                taken.push(request.id);
            }
        }
        let mut stories: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for id in &taken {
            for (instance, status) in says(&texts[id]) {
                stories.entry(instance).or_default().push(status);
            }
        }
        for instance in instances {
            assert_eq!(stories.remove(*instance).unwrap_or_default(), ["firing", "resolved"], "{instance}");
        }
        assert!(stories.is_empty(), "{stories:?}");
        assert!(engine.terminate().await.success());
    }
}

/// What a message says: each alert with its status.
fn says(body: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let alerts = body["alerts"].as_array().unwrap().iter();
    alerts.map(|alert| (text(&alert["labels"]["instance"]), text(&alert["status"]))).collect()
}

fn down(instance: &str) -> Value {
    json!({"labels": {"alertname": "Down", "instance": instance}, "annotations": {"summary": "it is down"}})
}

fn over(instance: &str) -> Value {
    let mut alert = down(instance);
    alert["startsAt"] = "2019-01-01T00:00:00Z".into();
    alert["endsAt"] = "2020-01-01T00:00:00Z".into();
    alert
}

/// Tells the engine of alerts as a Prometheus does; when this returns, the engine has said that it has them.
async fn say(engine: &Engine, alerts: Vec<Value>) {
    let url = format!("http://{}/alertmanager/api/v2/alerts", engine.http);
    let answer = reqwest::Client::new().post(url).json(&alerts).send().await.unwrap();
    let status = answer.status();
    assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap());
}

async fn deliveries(engine: &Engine) -> Vec<Value> {
    let page = call(engine.http, "GET", "/deliveries?limit=1000", None).await;
    page["items"].as_array().cloned().unwrap()
}

/// Waits until so many deliveries were made and are delivered; gives the ledger.
async fn settled(engine: &Engine, count: usize) -> Vec<Value> {
    let ledger = wait_for("the deliveries", async || {
        let ledger = deliveries(engine).await;
        let all = ledger.iter().all(|row| row["state"] == "delivered");
        (ledger.len() >= count && all).then_some(ledger)
    })
    .await;
    assert_eq!(ledger.len(), count, "more than was to be told: {ledger:?}");
    ledger
}

async fn wait_active(engine: &Engine, count: usize) {
    wait_for("the alerts", async || {
        let alerts = call(engine.http, "GET", "/alerts?state=active", None).await;
        (alerts["items"].as_array().unwrap().len() == count).then_some(())
    })
    .await;
}

// ---------------------------------------------------------------- at each step of the way

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_told_though_the_engine_is_killed_right_after() {
    let plant = Plant::new("").await;
    let instances = ["a", "b", "c", "d", "e", "f"];
    for pair in instances.chunks(2) {
        let engine = plant.start().await;
        say(&engine, pair.iter().map(|instance| down(instance)).collect()).await;
        engine.kill().await;
    }
    let engine = plant.start().await;
    plant.told_once(engine, &instances).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_waits_is_told_though_the_engine_is_killed_meanwhile() {
    let plant = Plant::new("group_wait = \"5s\"\n").await;
    let engine = plant.start().await;
    say(&engine, vec![down("a"), down("b")]).await;
    wait_active(&engine, 2).await;
    engine.kill().await;
    let engine = plant.start().await;
    // What comes after a start is a group of its own, with a wait of its own.
    say(&engine, vec![down("a"), down("c")]).await;
    wait_active(&engine, 3).await;
    engine.kill().await;
    let engine = plant.start().await;
    plant.told_once(engine, &["a", "b", "c"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_waits_for_its_receiver_keeps_its_key_over_kills() {
    let plant = Plant::new("").await;
    plant.hook.does(Does::Refuse);
    let mut engine = plant.start().await;
    say(&engine, vec![down("a")]).await;
    let mut ids = BTreeSet::new();
    for life in 0..3 {
        let row = wait_for("a delivery that failed", async || {
            let ledger = deliveries(&engine).await;
            let failed = ledger.iter().any(|row| row["attempts"].as_u64().unwrap() > 3 * life);
            failed.then(|| ledger[0].clone())
        })
        .await;
        ids.insert(row["id"].as_str().unwrap().to_string());
        engine.kill().await;
        engine = plant.start().await;
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert!(plant.hook.requests().iter().all(|request| ids.contains(&request.id)));
    plant.told_once(engine, &["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_hangs_is_made_again_after_a_kill_under_its_key() {
    let plant = Plant::new("").await;
    plant.hook.does(Does::Hang);
    let engine = plant.start().await;
    say(&engine, vec![down("a"), down("b")]).await;
    let hanging = plant.hook.wait_requests(2).await;
    engine.kill().await;
    plant.hook.does(Does::Take);
    let engine = plant.start().await;
    settled(&engine, 2).await;
    let ids = |requests: &[Request]| requests.iter().map(|one| one.id.clone()).collect::<BTreeSet<_>>();
    let all = plant.hook.requests();
    assert_eq!((all.len(), ids(&all)), (4, ids(&hanging)), "each once more, under the key that it had");
    plant.told_once(engine, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_and_not_recorded_is_told_again_under_its_key() {
    let plant = Plant::new("").await;
    plant.hook.does(Does::TakeSilently);
    let engine = plant.start().await;
    say(&engine, vec![down("a")]).await;
    let first = plant.hook.wait_requests(1).await.remove(0);
    engine.kill().await;
    plant.hook.does(Does::Take);
    let engine = plant.start().await;
    settled(&engine, 1).await;
    let all = plant.hook.requests();
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!((&all[1].id, &all[1].body), (&first.id, &first.body));
    plant.told_once(engine, &["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_races_with_the_kill_does_no_harm() {
    let plant = Plant::new("").await;
    let instances = ["a", "b", "c", "d"];
    for (i, instance) in instances.iter().enumerate() {
        let engine = plant.start().await;
        say(&engine, vec![down(instance)]).await;
        // Of a life before this one something may be told once more, so the one of this life is waited for.
        wait_for("its message", async || {
            let told = |request: &Request| says(&request.body).iter().any(|(about, _)| about == instance);
            plant.hook.requests().iter().any(told).then_some(())
        })
        .await;
        engine.kill().await;
        assert!(plant.hook.requests().len() <= 2 * (i + 1), "one repetition for a life, at most");
    }
    let engine = plant.start().await;
    plant.told_once(engine, &instances).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_accepted_is_told_after_its_beginning_whatever_dies() {
    let plant = Plant::new("").await;
    plant.hook.does(Does::Hang);
    let engine = plant.start().await;
    say(&engine, vec![down("a")]).await;
    plant.hook.wait_requests(1).await;
    say(&engine, vec![over("a")]).await;
    engine.kill().await;
    plant.hook.does(Does::TakeSilently);
    let engine = plant.start().await;
    plant.hook.wait_requests(2).await;
    engine.kill().await;
    plant.hook.does(Does::Take);
    let engine = plant.start().await;
    settled(&engine, 2).await;
    let taken: Vec<Request> = plant.hook.requests().into_iter().filter(|request| request.taken).collect();
    let told: Vec<_> = taken.iter().flat_map(|request| says(&request.body)).collect();
    let pair = |status: &str| ("a".to_string(), status.to_string());
    assert_eq!(told, [pair("firing"), pair("firing"), pair("resolved")]);
    assert_eq!(taken[0].id, taken[1].id);
    assert!(engine.terminate().await.success());
}

// ---------------------------------------------------------------- telemetry that comes twice, or late

/// An hour of a device, a reading each minute, the last one a minute before `end`: above the limit from minute 20 to 29.
fn hour(end: Timestamp) -> Value {
    let reading = |minute: u64| {
        let time = end - Duration::from_secs(60 * (60 - minute));
        // Each value is another one, so that a repeat is known by its time and not by chance.
        let value = if (20..30).contains(&minute) { 85.0 } else { 60.0 } + minute as f64 / 100.0;
        json!({"time": time.to_string(), "metrics": {"temperature": value}})
    };
    (0..60).map(reading).collect()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // Whole seconds, so that nothing depends on how times are rounded.
    Timestamp(since.as_secs() as i64 * 1_000_000)
}

async fn upload(engine: &Engine, device: &str, readings: &Value) {
    let url = format!("http://{}/ingest/v1/devices/{device}/telemetry", engine.http);
    let answer = reqwest::Client::new().post(url).json(readings).send().await.unwrap();
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    assert!(status.is_success(), "{status}: {body}");
    assert_eq!(body["accepted"].as_u64(), readings.as_array().map(|all| all.len() as u64), "{body}");
}

/// The alerts of a device: when each was raised, and resolved.
async fn alerts(engine: &Engine, device: &str) -> Vec<(Timestamp, Option<Timestamp>)> {
    let page = call(engine.http, "GET", &format!("/alerts?device={device}"), None).await;
    let time = |value: &Value| value.as_str().map(|text| text.parse::<Timestamp>().unwrap());
    let items = page["items"].as_array().unwrap().iter();
    items.map(|alert| (time(&alert["raised_at"]).unwrap(), time(&alert["resolved_at"]))).collect()
}

/// Status and device of each message that was taken, a repetition once.
fn notices(hook: &Hook) -> Vec<(String, String)> {
    let mut ids = BTreeSet::new();
    let taken = hook.requests().into_iter().filter(|one| one.taken && ids.insert(one.id.clone()));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let pairs = taken.flat_map(|one| {
        let alerts = one.body["alerts"].as_array().cloned().unwrap();
        alerts.into_iter().map(move |alert| (text(&alert["labels"]["device"]), text(&alert["status"])))
    });
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    pairs
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_that_is_uploaded_late_and_twice_over_a_kill_is_one_alert_with_its_own_times() {
    let plant = Plant::new("").await;
    let engine = plant.start().await;
    call(engine.http, "PUT", "/rules/hot?wait=true", Some(hot())).await;
    let end = now();
    // One device comes back after an hour; the other one is heard of again before it has sent what it kept.
    let live = json!([{"time": end.to_string(), "metrics": {"temperature": 50.0}}]);
    upload(&engine, "back", &live).await;
    let hour = hour(end);
    for device in ["gone", "back"] {
        upload(&engine, device, &hour).await;
    }
    engine.kill().await;
    // Nobody told the devices that it was taken: they send it again, and once more.
    let engine = plant.start().await;
    for _ in 0..2 {
        for device in ["gone", "back"] {
            upload(&engine, device, &hour).await;
        }
    }
    settled(&engine, 4).await;
    let raised = end - Duration::from_secs(60 * 40);
    let resolved = end - Duration::from_secs(60 * 30);
    for device in ["gone", "back"] {
        assert_eq!(alerts(&engine, device).await, [(raised, Some(resolved))], "{device}");
    }
    let pair = |device: &str, status: &str| (device.to_string(), status.to_string());
    let expected =
        [pair("back", "firing"), pair("back", "resolved"), pair("gone", "firing"), pair("gone", "resolved")];
    assert_eq!(notices(&plant.hook), expected);

    // What is new is told as ever, and nothing of what was old comes with it.
    let hot_now = json!([{"metrics": {"temperature": 99.0}}]);
    upload(&engine, "gone", &hot_now).await;
    settled(&engine, 5).await;
    assert_eq!(alerts(&engine, "gone").await.len(), 2);
    assert_eq!(alerts(&engine, "back").await.len(), 1);
    assert!(engine.terminate().await.success());
}
