//! A webhook receiver that knows when each alert was sent and when it came first.

use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use serde::Deserialize;
use tokio::sync::Semaphore;

/// How long nothing may come while something is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The receiver, on a thread of its own: whoever sends must not keep it from noting the time.
pub struct Hook {
    /// Where messages go.
    pub address: SocketAddr,
    told: Arc<Told>,
}

struct Told {
    began: Instant,
    /// By the number of an alert: nanoseconds from the beginning, and 0 where it was not yet.
    sent: Vec<AtomicU64>,
    came: Vec<AtomicU64>,
    /// Alerts that came, each once.
    count: AtomicUsize,
    messages: Mutex<Vec<Instant>>,
    window: Semaphore,
}

/// What of a message matters here: as little as possible is read, the machine is the engine's.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    alerts: Vec<Alert>,
}

#[derive(Deserialize)]
struct Alert {
    #[serde(default)]
    labels: Labels,
}

#[derive(Deserialize, Default)]
struct Labels {
    #[serde(default)]
    number: String,
}

impl Hook {
    /// For alerts with numbers below `most`, of which `window` may be on their way.
    pub fn start(most: usize, window: usize) -> Result<Self> {
        let told = Arc::new(Told {
            began: Instant::now(),
            sent: (0..most).map(|_| AtomicU64::new(0)).collect(),
            came: (0..most).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicUsize::new(0),
            messages: Mutex::default(),
            window: Semaphore::new(window),
        });
        let router = axum::Router::new()
            .route("/alerts", post(take))
            .layer(DefaultBodyLimit::disable())
            .with_state(told.clone());
        let address = serve(router)?;
        Ok(Self { address, told })
    }

    /// Waits until so many alerts may be sent without more than the window being on their way.
    pub async fn room(&self, alerts: usize) -> Result<()> {
        let permits = self.told.window.acquire_many(alerts as u32);
        let permits = tokio::time::timeout(PATIENCE, permits).await.context("no alert came any more")??;
        // Given back one by one, as they come.
        permits.forget();
        Ok(())
    }

    /// These are sent now.
    pub fn expect(&self, numbers: Range<usize>) {
        let now = self.told.began.elapsed().as_nanos() as u64;
        self.told.sent[numbers].iter().for_each(|sent| sent.store(now, Ordering::Relaxed));
    }

    /// Waits until so many alerts came in all.
    pub async fn wait(&self, count: usize) -> Result<()> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let came = self.told.count.load(Ordering::Relaxed);
            if came >= count {
                return Ok(());
            }
            if came > last {
                (last, since) = (came, Instant::now());
            }
            ensure!(since.elapsed() < PATIENCE, "{came} of {count} alerts came, and no more");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// From when each of these was sent to when it came.
    pub fn latencies(&self, numbers: Range<usize>) -> Vec<Duration> {
        let both = self.told.sent[numbers.clone()].iter().zip(&self.told.came[numbers]);
        let read = |time: &AtomicU64| time.load(Ordering::Relaxed);
        both.map(|(sent, came)| Duration::from_nanos(read(came).saturating_sub(read(sent)))).collect()
    }

    /// From when the first of these was sent to when the last of them came.
    pub fn span(&self, numbers: Range<usize>) -> Duration {
        let read = |time: &AtomicU64| time.load(Ordering::Relaxed);
        let first = self.told.sent[numbers.clone()].iter().map(read).min().unwrap_or_default();
        let last = self.told.came[numbers].iter().map(read).max().unwrap_or_default();
        Duration::from_nanos(last.saturating_sub(first))
    }

    /// When messages came.
    pub fn messages(&self) -> Vec<Instant> {
        self.told.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn take(State(told): State<Arc<Told>>, body: Bytes) -> StatusCode {
    let (now, at) = (Instant::now(), told.began.elapsed().as_nanos() as u64);
    let message = serde_json::from_slice(&body).unwrap_or(Message { alerts: Vec::new() });
    told.messages.lock().unwrap_or_else(PoisonError::into_inner).push(now);
    for alert in message.alerts {
        let came = alert.labels.number.parse().ok().and_then(|number: usize| told.came.get(number));
        if came.is_some_and(|came| came.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed).is_ok())
        {
            told.count.fetch_add(1, Ordering::Relaxed);
            told.window.add_permits(1);
        }
    }
    StatusCode::OK
}

/// Serves on a thread of its own, at a free port. Ends with the process: nothing is lost with it.
pub fn serve(router: axum::Router) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("webhook".into()).spawn(move || {
        runtime.block_on(async move {
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                let _ = axum::serve(listener, router).await;
            }
        })
    })?;
    Ok(address)
}
