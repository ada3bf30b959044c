//! When a task last went round: what a heartbeat asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Shared by a task and those who ask.
#[derive(Clone, Debug)]
pub(crate) struct Turning {
    begun: Instant,
    /// Milliseconds after the beginning.
    last: Arc<AtomicU64>,
}

impl Turning {
    /// The task begins now.
    pub fn new() -> Self {
        Self { begun: Instant::now(), last: Arc::default() }
    }

    /// It went round once more.
    pub fn turned(&self) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long ago that was.
    pub fn since(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}
