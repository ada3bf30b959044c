//! The webhook receiver of the demonstration.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use watchfire_log::Clock;
use watchfire_model::Timestamp;

use super::print::Printer;

/// Lines that wait to be printed; more are not worth waiting for.
const LINES: usize = 1024;

/// The longest latency that is told apart, in microseconds: an hour. A histogram without such a bound grows only with
/// what it may refuse, and takes everything for the shortest where it must not.
const LATENCY: u64 = 3_600_000_000;

/// Takes messages and remembers what came.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    lines: Mutex<Option<mpsc::Receiver<String>>>,
    serving: JoinHandle<()>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    speed: f64,
    seen: Mutex<Seen>,
    lines: mpsc::Sender<String>,
    printer: Printer,
}

struct Seen {
    ids: HashSet<String>,
    repeated: u64,
    /// Alerts that were told already, by fingerprint and begin: what is told again says nothing about latency.
    told: HashSet<(String, String)>,
    /// Microseconds from a reading to its alert here.
    latency: Histogram<u64>,
}

impl Receiver {
    /// Listens on a free port. `speed`: how fast the clock runs against real time.
    pub async fn start(clock: Arc<dyn Clock>, speed: f64, printer: Printer) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("the webhook receiver")?;
        let address = listener.local_addr()?;
        let (lines, printed) = mpsc::channel(LINES);
        let latency = Histogram::new_with_max(LATENCY, 3)?;
        let seen = Seen { ids: HashSet::new(), repeated: 0, told: HashSet::new(), latency };
        let shared = Arc::new(Shared { clock, speed, seen: Mutex::new(seen), lines, printer });
        let router = Router::new().route("/alerts", post(take)).with_state(shared.clone());
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, shared, lines: Mutex::new(Some(printed)), serving })
    }

    /// Where it takes messages.
    pub fn url(&self) -> String {
        format!("http://{}/alerts", self.address)
    }

    /// Begins to print what is delivered.
    pub fn print(&self) -> JoinHandle<()> {
        let printer = self.shared.printer.clone();
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner).take();
        tokio::spawn(async move {
            let Some(mut lines) = lines else { return };
            while let Some(line) = lines.recv().await {
                printer.line(async { line }).await;
            }
        })
    }

    /// Messages, those that came again, and the latency in milliseconds, median and 99 of 100.
    pub fn counts(&self) -> (u64, u64, Option<(f64, f64)>) {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |quantile| seen.latency.value_at_quantile(quantile) as f64 / 1000.0;
        let latency = (!seen.latency.is_empty()).then(|| (at(0.5), at(0.99)));
        (seen.ids.len() as u64, seen.repeated, latency)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Json(message): Json<serde_json::Value>,
) -> StatusCode {
    let now = shared.clock.wall();
    let id = headers.get("idempotency-key").and_then(|id| id.to_str().ok()).unwrap_or_default().to_string();
    let of = |alert: &serde_json::Value, name: &str| alert[name].as_str().and_then(|time| time.parse().ok());
    let alerts = message["alerts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let at = |alert: &serde_json::Value| -> Option<Timestamp> {
        if alert["status"] == "firing" { of(alert, "startsAt") } else { of(alert, "endsAt") }
    };
    if !alerts.iter().any(|alert| at(alert).is_none_or(|at| shared.printer.counts_at(at))) {
        return StatusCode::OK;
    }
    let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
    if !seen.ids.insert(id) {
        seen.repeated += 1;
        return StatusCode::OK;
    }
    for alert in alerts {
        let status = alert["status"].as_str().unwrap_or_default();
        let label = |name: &str| alert["labels"][name].as_str().unwrap_or_default().to_string();
        let since: Option<Timestamp> = of(alert, "startsAt");
        let text = |name: &str| alert[name].as_str().unwrap_or_default().to_string();
        let first = status == "firing" && seen.told.insert((text("fingerprint"), text("startsAt")));
        let mut after = String::new();
        if status == "firing" && !first {
            after = "  again: it goes on".into();
        }
        // An alert that a timer or silence raised has no reading that it could be counted from.
        if let (Some(since), true, false) = (since, first, label("key").starts_with("silen")) {
            let real = now.since(since).as_secs_f64() / shared.speed;
            let passed = Duration::try_from_secs_f64(real).unwrap_or_default();
            seen.latency.saturating_record(passed.as_micros() as u64);
            after = format!("  {:.1} ms after its reading", passed.as_secs_f64() * 1000.0);
        }
        // A terminal that is slow must not hold the receiver up.
        let _ = shared.lines.try_send(format!(
            "delivered  {now}  {:<8} {}  {} {}{after}",
            label("severity"),
            label("device"),
            label("alertname"),
            status
        ));
    }
    StatusCode::OK
}
