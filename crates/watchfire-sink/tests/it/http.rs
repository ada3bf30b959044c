//! `[sink.http]` against a service that refuses, hangs, asks for patience and breaks off.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::Value as Json;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use watchfire_model::Value;
use watchfire_model::alert::TransitionKind;
use watchfire_sink::Running;
use watchfire_sink::http::{self, HttpSinkConfig};

use crate::world::*;

/// What the service does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Behave {
    Take,
    Answer(u16),
    AnswerAfter(u16, u64),
    Hang,
    /// Takes it, and breaks off before it has answered.
    TakeAndHang,
}

/// A request as it came.
#[derive(Clone, Debug)]
struct Seen {
    at: Instant,
    key: String,
    lines: Vec<Json>,
    taken: bool,
}

struct Inner {
    seen: Vec<Seen>,
    /// What comes next; empty: the usual.
    next: VecDeque<Behave>,
    usual: Behave,
    /// An answer that depends on the lines.
    judge: Box<dyn Fn(&[Json]) -> Option<u16> + Send>,
    secret: &'static str,
}

#[derive(Clone)]
struct Service {
    inner: Arc<Mutex<Inner>>,
    /// So many connections are cut in the middle of a request.
    cut: Arc<AtomicUsize>,
    url: String,
}

async fn take(State(service): State<Service>, headers: HeaderMap, body: String) -> Response {
    assert_eq!(headers["content-type"], "application/x-ndjson");
    assert!(body.ends_with('\n'));
    let behave = {
        let mut inner = service.inner.lock().unwrap();
        if headers["authorization"] != format!("Bearer {}", inner.secret) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        let lines: Vec<Json> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut behave = inner.next.pop_front().unwrap_or(inner.usual);
        if behave == Behave::Take {
            behave = (inner.judge)(&lines).map_or(Behave::Take, Behave::Answer);
        }
        let key = headers["idempotency-key"].to_str().unwrap().to_string();
        let taken = matches!(behave, Behave::Take | Behave::TakeAndHang);
        inner.seen.push(Seen { at: Instant::now(), key, lines, taken });
        behave
    };
    match behave {
        Behave::Take => StatusCode::ACCEPTED.into_response(),
        Behave::Answer(code) => StatusCode::from_u16(code).unwrap().into_response(),
        Behave::AnswerAfter(code, seconds) => {
            (StatusCode::from_u16(code).unwrap(), [("retry-after", seconds.to_string())]).into_response()
        }
        Behave::Hang | Behave::TakeAndHang => std::future::pending().await,
    }
}

/// Accepts connections, and cuts some of them once a part of the request is there.
struct Cutting(TcpListener, Arc<AtomicUsize>);

impl axum::serve::Listener for Cutting {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let (mut stream, address) = self.0.accept().await.unwrap();
            let cut = self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if cut.is_err() {
                return (stream, address);
            }
            let _ = stream.read_exact(&mut [0; 300]).await;
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Service {
    async fn start() -> Self {
        let inner = Inner {
            seen: Vec::new(),
            next: VecDeque::new(),
            usual: Behave::Take,
            judge: Box::new(|_| None),
            secret: "s3cret",
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/take", listener.local_addr().unwrap());
        let service = Self { inner: Arc::new(Mutex::new(inner)), cut: Arc::default(), url };
        let router = Router::new().route("/take", post(take)).with_state(service.clone());
        let listener = Cutting(listener, service.cut.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        service
    }

    fn next(&self, behave: impl IntoIterator<Item = Behave>) {
        self.inner.lock().unwrap().next.extend(behave);
    }

    fn usual(&self, behave: Behave) {
        self.inner.lock().unwrap().usual = behave;
    }

    fn judge(&self, judge: impl Fn(&[Json]) -> Option<u16> + Send + 'static) {
        self.inner.lock().unwrap().judge = Box::new(judge);
    }

    fn seen(&self) -> Vec<Seen> {
        self.inner.lock().unwrap().seen.clone()
    }

    /// What was taken, in the order in which it came.
    fn taken(&self) -> Vec<Json> {
        self.seen().into_iter().filter(|seen| seen.taken).flat_map(|seen| seen.lines).collect()
    }

    fn config(&self, more: &str) -> HttpSinkConfig {
        let text = format!("url = '{}'\nheaders = {{ authorization = 'Bearer s3cret' }}\n{more}", self.url);
        let config: HttpSinkConfig = toml::from_str(&text).unwrap();
        config.check().unwrap();
        config
    }
}

async fn start(world: &World, config: HttpSinkConfig) -> Running {
    http::start(config, world.surroundings()).await.unwrap()
}

/// How often each id came; fails where one came as two different events.
fn by_id(events: &[Json]) -> BTreeMap<String, usize> {
    let mut first: HashMap<String, &Json> = HashMap::new();
    let mut count = BTreeMap::new();
    for event in events {
        let id = event["id"].as_str().unwrap().to_string();
        assert_eq!(*first.entry(id.clone()).or_insert(event), event);
        *count.entry(id).or_default() += 1;
    }
    count
}

/// Fails where the numbers `n` of a device do not count up, or one of `0..count` is missing.
fn complete_and_in_order(events: &[Json], count: usize) {
    let mut known = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut last: HashMap<&str, u64> = HashMap::new();
    for event in events.iter().filter(|event| event["type"] == "reading") {
        // A repeat is told by its id.
        if !known.insert(event["id"].as_str().unwrap()) {
            continue;
        }
        let n = event["metrics"]["n"].as_f64().unwrap() as u64;
        assert!(numbers.insert(n), "{n} came under two ids");
        let before = last.insert(event["device"].as_str().unwrap(), n);
        assert!(before.is_none_or(|before| before < n), "{n} came after {before:?}");
    }
    assert_eq!(numbers, (0..count as u64).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_rotated_counts_once_it_stands_in_the_file() {
    let mut world = World::new().await;
    world.register(1).await;
    let service = Service::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "Bearer s3cret\n").unwrap();
    let mut config = service.config("");
    config.headers.insert("authorization".into(), watchfire_model::Secret::in_file(file.path()));
    let running = start(&world, config).await;
    world.many(1, 2, 5).await;
    level(&running).await;
    service.inner.lock().unwrap().secret = "another";
    world.many(1, 2, 5).await;
    says(&running, "credentials").await;
    std::fs::write(file.path(), "Bearer another\n").unwrap();
    level(&running).await;
    complete_and_in_order(&service.taken(), 2 * 2 * 5);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_nothing_to_a_service_are_nothing_that_it_lacks() {
    let mut world = World::new().await;
    world.register(4).await;
    let service = Service::start().await;
    let running = start(&world, service.config("")).await;
    world.many(4, 1, 20).await;
    let written: Vec<u64> = level(&running).await.lanes.iter().map(|lane| lane.next).collect();
    let began = Instant::now();
    for _ in 0..20 {
        world.register(4).await;
    }
    let status = level(&running).await;
    // It is level although its cursor, which waits ten seconds for more to pass over, did not move.
    if began.elapsed() < Duration::from_secs(5) {
        let next: Vec<u64> = status.lanes.iter().map(|lane| lane.next).collect();
        assert_eq!(next, written);
    }
    // One that is something counts at once.
    service.usual(Behave::Hang);
    world.many(4, 1, 20).await;
    until("it is behind", || {
        let status = running.status();
        let behind = status.lanes.iter().any(|lane| lane.behind > 0);
        if behind { Ok(()) } else { Err(status) }
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_arrives_under_one_id_whatever_the_service_does() {
    let mut world = World::new().await;
    world.register(5).await;
    let service = Service::start().await;
    service.cut.store(3, Ordering::SeqCst);
    service.next([
        Behave::Answer(503),
        Behave::Hang,
        Behave::Answer(401),
        Behave::TakeAndHang,
        Behave::Answer(302),
        Behave::AnswerAfter(429, 1),
        Behave::Answer(404),
    ]);
    world.many(5, 30, 50).await;
    world.transition("device-0", 1, TransitionKind::Raised).await;
    let running = start(&world, service.config("timeout = '1s'\nrequest_rows = 100")).await;
    let status = level(&running).await;
    assert!(status.in_force.as_deref().is_some_and(|text| text.starts_with("http://127.0.0.1:")));
    assert_eq!(service.cut.load(Ordering::SeqCst), 0, "connections were cut");
    assert!(service.inner.lock().unwrap().next.is_empty(), "every answer was given");
    let taken = service.taken();
    complete_and_in_order(&taken, 30 * 50);
    assert!(by_id(&taken).values().any(|count| *count > 1), "what was taken without an answer comes again");
    let raised: Vec<&Json> = taken.iter().filter(|event| event["type"] == "alert.raised").collect();
    assert_eq!(raised[0]["device"], "device-0");
    assert_eq!(raised[0]["severity"], "major");
    assert!(service.seen().iter().all(|seen| seen.lines.len() <= 100));
    let mut keys: HashMap<&str, &[Json]> = HashMap::new();
    let seen = service.seen();
    for request in &seen {
        let same = keys.entry(&request.key).or_insert(&request.lines);
        assert_eq!(*same, &request.lines[..], "a key is of one batch");
    }
    assert!(keys.len() < seen.len(), "a batch that came again had its key");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_asks_for_patience_gets_it() {
    let mut world = World::new().await;
    world.register(1).await;
    let service = Service::start().await;
    service.next([Behave::AnswerAfter(429, 2)]);
    world.reading("readings", "device-0", &[("t", Value::Number(1.0))]).await;
    let running = start(&world, service.config("alerts = false")).await;
    says(&running, "overloaded").await;
    level(&running).await;
    let seen = service.seen();
    assert_eq!(seen.len(), 2);
    let waited = seen[1].at - seen[0].at;
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_refuses_is_a_dead_letter_and_the_rest_arrives_once() {
    let mut world = World::new().await;
    world.register(4).await;
    let service = Service::start().await;
    let bad = |event: &Json| event["metrics"]["n"].as_f64().is_some_and(|n| n as u64 % 97 == 13);
    service.judge(move |lines| match lines {
        lines if lines.len() > 40 => Some(413),
        lines if lines.iter().any(bad) => Some(422),
        _ => None,
    });
    world.many(4, 10, 100).await;
    let running = start(&world, service.config("")).await;
    let status = level(&running).await;
    let expected: BTreeSet<u64> = (0..1000).filter(|n| n % 97 == 13).collect();
    assert_eq!(status.lanes.iter().map(|lane| lane.refused).sum::<u64>(), expected.len() as u64);
    let letters = world.store.dead_letters(&Default::default()).await.unwrap().items;
    assert!(letters.iter().all(|letter| letter.code == "refused-by-sink" && letter.reason.contains("422")));
    let taken = service.taken();
    assert!(by_id(&taken).values().all(|count| *count == 1), "what was taken is not sent again");
    let mut numbers: BTreeSet<u64> =
        taken.iter().map(|event| event["metrics"]["n"].as_f64().unwrap() as u64).collect();
    assert!(numbers.is_disjoint(&expected));
    numbers.extend(&expected);
    assert_eq!(numbers, (0..1000).collect());
    assert_eq!(letters.len(), expected.len());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_refuses_everything_loses_nothing() {
    let mut world = World::new().await;
    world.register(3).await;
    let service = Service::start().await;
    service.usual(Behave::Answer(400));
    world.many(3, 4, 100).await;
    let running = start(&world, service.config("alerts = false")).await;
    says(&running, "refuses-everything").await;
    service.usual(Behave::Take);
    level(&running).await;
    let taken = service.taken();
    let numbers: BTreeSet<u64> =
        taken.iter().map(|event| event["metrics"]["n"].as_f64().unwrap() as u64).collect();
    assert_eq!(numbers, (0..400).collect());
    assert_eq!(world.store.dead_letters(&Default::default()).await.unwrap().items.len(), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_sends_again_under_the_same_ids_and_misses_nothing() {
    let mut world = World::new().await;
    world.register(6).await;
    let service = Service::start().await;
    let mut count = 0;
    let settings = "timeout = '5s'\nrequest_rows = 37\nalerts = false";
    for round in 0..4 {
        // The first few requests pass; then one is taken that is never answered, where the engine dies.
        service.next((0..3 + round).map(|_| Behave::Take));
        service.usual(Behave::TakeAndHang);
        world.many(6, 10, 40 + round).await;
        count += 10 * (40 + round);
        // Everything of the engine runs on a runtime of its own, which ends without a word.
        let engine =
            tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
        let (config, surroundings) = (service.config(settings), world.surroundings());
        let before = service.seen().len();
        let running = engine.spawn(http::start(config, surroundings)).await.unwrap().unwrap();
        until("a request is taken that is not answered", || {
            let seen = service.seen().len() - before;
            if seen > 3 + round { Ok(()) } else { Err(seen) }
        })
        .await;
        engine.shutdown_background();
        drop(running);
        gone(&world).await;
        world = world.reopen(false).await;
    }
    service.usual(Behave::Take);
    let running = start(&world, service.config(settings)).await;
    level(&running).await;
    let taken = service.taken();
    complete_and_in_order(&taken, count);
    assert!(
        by_id(&taken).values().any(|count| *count > 1),
        "nothing was sent again: the engine did not die in time"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_goes_on_and_tells_nothing_again() {
    let mut world = World::new().await;
    world.register(3).await;
    let service = Service::start().await;
    let running = start(&world, service.config("")).await;
    world.many(3, 2, 20).await;
    world.transition("device-0", 1, TransitionKind::Raised).await;
    level(&running).await;
    let backup = tempfile::tempdir().unwrap();
    world.copy_to(backup.path());
    world.many(3, 2, 20).await;
    world.transition("device-1", 2, TransitionKind::Raised).await;
    level(&running).await;
    running.stop().await;
    let folder = world.folder.path().to_owned();
    world.log.close();
    world.store.close().await;
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(backup.keep(), &folder).unwrap();
    let mut world = world.reopen(true).await;
    let running = start(&world, service.config("")).await;
    world.many(3, 2, 20).await;
    // In the restored store it has the number that another one had in the life that is lost.
    world.transition("device-2", 3, TransitionKind::Raised).await;
    level(&running).await;
    let taken = service.taken();
    complete_and_in_order(&taken, 120);
    assert!(by_id(&taken).values().all(|count| *count == 1));
    let raised: Vec<&str> = taken
        .iter()
        .filter(|event| event["type"] == "alert.raised")
        .map(|event| event["device"].as_str().unwrap())
        .collect();
    assert_eq!(raised, ["device-0", "device-1", "device-2"]);
    running.stop().await;
}
