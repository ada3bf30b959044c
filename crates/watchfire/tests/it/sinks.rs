//! A sink that gets nothing through: what the real binary says of it, and whom it tells.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use watchfire_services::{Postgres, or_skip};

use crate::binary::{Engine, write_config};
use crate::mqtt::Client;
use crate::receiver::Receiver;
use crate::{call, wait_for};

/// What a service of somebody else does with a request.
#[derive(Clone, Copy)]
enum Mood {
    Takes,
    Refuses,
    Hangs,
}

/// A service that takes events.
#[derive(Clone)]
struct Service {
    mood: Arc<Mutex<Mood>>,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Service {
    async fn start() -> (Self, SocketAddr) {
        let service = Self { mood: Arc::new(Mutex::new(Mood::Takes)), lines: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/events", post(take)).with_state(service.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (service, address)
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// The temperatures that came, each once however often it did.
    fn temperatures(&self) -> Vec<f64> {
        let mut ids = std::collections::HashSet::new();
        let lines = self.lines.lock().unwrap();
        let new = lines.iter().filter(|line| ids.insert(line["id"].clone()));
        new.filter_map(|line| line["metrics"]["temperature"].as_f64()).collect()
    }
}

async fn take(State(service): State<Service>, body: String) -> StatusCode {
    let mood = *service.mood.lock().unwrap();
    match mood {
        Mood::Refuses => return StatusCode::SERVICE_UNAVAILABLE,
        Mood::Hangs => std::future::pending().await,
        Mood::Takes => {}
    }
    let lines = body.lines().map(|line| serde_json::from_str(line).unwrap());
    service.lines.lock().unwrap().extend(lines);
    StatusCode::OK
}

fn configured(folder: &Path, hook: SocketAddr, sink: &str) -> PathBuf {
    let path = write_config(folder, hook);
    let text = format!("{}\n{sink}\nalert_after = \"1s\"\n", std::fs::read_to_string(&path).unwrap());
    std::fs::write(&path, text).unwrap();
    path
}

/// What the operator was told of sinks: status, sink, text, and since when.
fn told(receiver: &Receiver) -> Vec<[String; 4]> {
    let messages = receiver.messages.lock().unwrap();
    let alerts = messages.iter().flat_map(|(_, body)| body["alerts"].as_array().cloned().unwrap_or_default());
    let sinks = alerts.filter(|alert| alert["labels"]["alertname"] == "watchfire-sink");
    let texts = |alert: Value| {
        [&alert["status"], &alert["labels"]["sink"], &alert["annotations"]["summary"], &alert["startsAt"]]
            .map(|value| value.as_str().unwrap_or_default().to_string())
    };
    sinks.map(texts).collect()
}

async fn lanes(engine: &Engine) -> Vec<Value> {
    let sinks = call(engine.http, "GET", "/sinks", None).await;
    sinks["items"][0]["lanes"].as_array().cloned().unwrap()
}

/// Waits until the sink says that nothing gets through, and with which code; gives the reason.
async fn is_down(engine: &Engine, codes: &[&str]) -> String {
    let lane = wait_for("a lane that is down", async || {
        let lanes = lanes(engine).await;
        lanes
            .into_iter()
            .find(|lane| lane["state"] == "retrying" && codes.iter().any(|code| lane["code"] == *code))
    });
    let lane = lane.await;
    assert!(lane["since"].is_string() && lane["behind"].as_u64() > Some(0), "{lane}");
    let sink = call(engine.http, "GET", "/sinks", None).await["items"][0].clone();
    assert_eq!((&sink["state"], sink["reason"].is_string()), (&"retrying".into(), true), "{sink}");
    lane["reason"].as_str().unwrap().to_string()
}

async fn is_level(engine: &Engine) {
    wait_for("the sink is level", async || {
        let lanes = lanes(engine).await;
        // The place moves on by itself where records bring nothing to write, but only now and then.
        let level =
            lanes.iter().all(|lane| lane["state"] != "retrying" && lane["behind"].as_u64() < Some(10));
        level.then_some(())
    })
    .await;
}

async fn send(engine: &Engine, value: f64) {
    let mut client = Client::connect(engine.mqtt, "press-1", None).await.unwrap();
    assert!(client.temperature("press-1", value).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_refuses_is_told_once_and_once_more_when_it_takes_again() {
    let folder = tempfile::tempdir().unwrap();
    let (receiver, hook) = Receiver::start().await;
    let (service, address) = Service::start().await;
    let sink = format!("[sink.http]\nurl = \"http://{address}/events\"\ntimeout = \"5s\"");
    let config = configured(folder.path(), hook, &sink);
    let engine = Engine::start(&config).await;
    send(&engine, 20.0).await;
    wait_for("the first event", async || (service.temperatures() == [20.0]).then_some(())).await;
    is_level(&engine).await;

    service.becomes(Mood::Refuses);
    send(&engine, 21.0).await;
    let reason = is_down(&engine, &["unavailable"]).await;
    assert!(reason.contains("503"), "{reason}");
    let first = wait_for("the operator is told", async || told(&receiver).first().cloned()).await;
    assert_eq!(first[..2], ["firing", "http"]);
    assert!(first[2].contains(&reason), "{first:?}");
    // What is not on record as delivered when the engine ends is sent once more, with the same id.
    wait_for("it is on record", async || {
        let delivered = call(engine.http, "GET", "/deliveries?state=delivered", None).await;
        delivered["items"].as_array().is_some_and(|items| !items.is_empty()).then_some(())
    })
    .await;

    // It is the same fault over an end of the engine, also where the service now says nothing at all: for longer than
    // it takes to look whether somebody has to be told.
    engine.kill().await;
    service.becomes(Mood::Hangs);
    let engine = Engine::start(&config).await;
    is_down(&engine, &["slow", "unreachable"]).await;
    assert_eq!(told(&receiver), std::slice::from_ref(&first));

    service.becomes(Mood::Takes);
    send(&engine, 22.0).await;
    wait_for("it is over", async || (told(&receiver).len() > 1).then_some(())).await;
    is_level(&engine).await;
    assert_eq!(service.temperatures(), [20.0, 21.0, 22.0]);
    let told = told(&receiver);
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[1][..2], ["resolved", "http"]);
    assert_eq!(told[1][3], first[3], "the beginning of what is over");
    let status = engine.terminate().await;
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_died_is_told_and_that_it_is_back() {
    let Some(mut postgres) =
        or_skip("sink-operator", tokio::task::spawn_blocking(Postgres::start).await.unwrap())
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (receiver, hook) = Receiver::start().await;
    let config = configured(folder.path(), hook, &format!("[sink.timescale]\nurl = \"{}\"", postgres.url()));
    let engine = Engine::start(&config).await;
    send(&engine, 20.0).await;
    wait_for("the first value", async || {
        let count = postgres.query("SELECT count(*) FROM readings WHERE metric = 'temperature'").ok()?;
        (count[0][0].as_deref() == Some("1")).then_some(())
    })
    .await;

    postgres.kill();
    send(&engine, 21.0).await;
    is_down(&engine, &["unreachable"]).await;
    let first = wait_for("the operator is told", async || told(&receiver).first().cloned()).await;
    assert_eq!(first[..2], ["firing", "timescale"]);
    assert!(first[2].starts_with("the sink timescale has got nothing through since "), "{first:?}");
    // Longer than the beginning of the sentence: the reason is in it.
    assert!(first[2].split_once("Z: ").is_some_and(|(_, reason)| !reason.is_empty()), "{first:?}");

    let postgres =
        tokio::task::spawn_blocking(move || postgres.restart().map(|()| postgres)).await.unwrap().unwrap();
    wait_for("it is over", async || (told(&receiver).len() > 1).then_some(())).await;
    assert_eq!(told(&receiver)[1][..2], ["resolved", "timescale"]);
    let values = [[Some("20".to_string())], [Some("21".to_string())]];
    wait_for("both values, once each", async || {
        let there =
            postgres.query("SELECT value FROM readings WHERE metric = 'temperature' ORDER BY 1").ok()?;
        (there == values).then_some(())
    })
    .await;
    let status = tokio::time::timeout(Duration::from_secs(60), engine.terminate()).await.unwrap();
    assert!(status.success(), "{status}");
}
