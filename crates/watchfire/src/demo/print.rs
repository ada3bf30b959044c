//! Lines about alerts: so many in a second, the others counted.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use watchfire_model::Timestamp;
use watchfire_store::{EventRow, Store};

/// Prints, within bounds.
#[derive(Clone)]
pub struct Printer(Arc<Shared>);

struct Shared {
    limit: u32,
    window: Mutex<Window>,
    raised: AtomicU64,
    resolved: AtomicU64,
    moves: AtomicU64,
    seen: AtomicU64,
    until: AtomicI64,
}

struct Window {
    began: Instant,
    printed: u32,
    held: u64,
}

impl Printer {
    /// At most so many lines in a second.
    pub fn new(limit: u32) -> Self {
        let window = Window { began: Instant::now(), printed: 0, held: 0 };
        Self(Arc::new(Shared {
            limit,
            window: Mutex::new(window),
            raised: AtomicU64::new(0),
            resolved: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            until: AtomicI64::new(i64::MAX),
        }))
    }

    /// What happens later than this is of no interest: the devices have ended, which is not their silence.
    pub fn until(&self, end: Timestamp) {
        self.0.until.fetch_min(end.0, Ordering::Relaxed);
    }

    /// Whether what happens at a time is of interest.
    pub fn counts_at(&self, time: Timestamp) -> bool {
        time.0 <= self.0.until.load(Ordering::Relaxed)
    }

    /// Prints a line, or counts it. The text is made only where it is printed.
    pub async fn line(&self, text: impl Future<Output = String>) {
        if self.room() {
            println!("{}", text.await);
        }
    }

    fn room(&self) -> bool {
        self.0.moves.fetch_add(1, Ordering::Relaxed);
        let mut window = self.0.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.elapsed() >= Duration::from_secs(1) {
            if window.held > 0 {
                println!("           ... and {} lines more", window.held);
            }
            *window = Window { began: Instant::now(), printed: 0, held: 0 };
        }
        let room = window.printed < self.0.limit;
        if room {
            window.printed += 1
        } else {
            window.held += 1
        }
        room
    }

    /// Says how many lines were held back at the end.
    pub fn flush(&self) {
        let mut window = self.0.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.held > 0 {
            println!("           ... and {} lines more", window.held);
            window.held = 0;
        }
    }

    /// Alerts that were raised and resolved.
    pub fn counts(&self) -> (u64, u64) {
        (self.0.raised.load(Ordering::Relaxed), self.0.resolved.load(Ordering::Relaxed))
    }

    /// Whether there was a line since the last time that this was asked.
    pub fn moved(&self) -> bool {
        let moves = self.0.moves.load(Ordering::Relaxed);
        self.0.seen.swap(moves, Ordering::Relaxed) != moves
    }
}

/// Follows the alerts of a store.
pub fn follow(store: Store, printer: Printer) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut changes = store.subscribe();
        let mut sequence = 0;
        loop {
            while let Ok(events) = store.events_after(sequence, 500).await
                && let Some(last) = events.last()
            {
                sequence = last.sequence;
                for event in events.iter().filter(|event| printer.counts_at(event.at)) {
                    let word = match event.kind.as_str() {
                        "raised" => {
                            printer.0.raised.fetch_add(1, Ordering::Relaxed);
                            "RAISED"
                        }
                        "resolved" => {
                            printer.0.resolved.fetch_add(1, Ordering::Relaxed);
                            "resolved"
                        }
                        _ => continue,
                    };
                    printer.line(describe(&store, word, event)).await;
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    })
}

async fn describe(store: &Store, word: &str, event: &EventRow) -> String {
    let details: Vec<String> = event
        .details
        .iter()
        .map(|detail| format!("{} {}", detail.name, watchfire_notify::message::value_text(&detail.value)))
        .collect();
    let about = match store.alert(&event.alert).await {
        Ok(found) => format!("{}  {}", found.alert.device, found.alert.rule),
        Err(_) => event.alert.clone(),
    };
    let details = if details.is_empty() { String::new() } else { format!(" ({})", details.join(", ")) };
    format!("{word:<10} {}  {:<8} {about}: {}{details}", event.at, event.severity.as_str(), event.summary)
}
