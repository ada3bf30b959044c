//! How a source does that connects to a service by itself: seen in the log, in metrics and by whoever asks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;
use watchfire_telemetry::metrics;

/// What a source is at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
pub enum State {
    /// It has not been connected yet.
    Starting,
    /// It reads.
    Running,
    /// It reads nothing now and goes on by itself: the service is down, or refuses us, or our log takes nothing.
    Waiting(String),
    /// It reads nothing until the configuration or the service is changed and the engine started again.
    Stopped(String),
}

/// Where a source says how it does.
#[derive(Debug)]
pub struct Board {
    source: String,
    state: Mutex<(State, Instant)>,
}

impl Board {
    /// A board of a source that starts.
    pub fn new(source: impl Into<String>) -> Self {
        let board = Self { source: source.into(), state: Mutex::new((State::Starting, Instant::now())) };
        board.up(false);
        board
    }

    fn lock(&self) -> MutexGuard<'_, (State, Instant)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self, up: bool) {
        metrics().sources.up.get_or_create(&[("source", self.source.clone())]).set(up.into());
    }

    /// The source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What it is at.
    pub fn state(&self) -> State {
        self.lock().0.clone()
    }

    /// It is at something else now; the same once more changes nothing and is not logged.
    pub fn set(&self, state: State) {
        let mut now = self.lock();
        if now.0 == state {
            return;
        }
        self.up(state == State::Running);
        let seconds = now.1.elapsed().as_secs();
        let source = &self.source;
        match &state {
            State::Starting | State::Running => {
                tracing::info!(source, before = ?now.0, seconds, "the source reads");
            }
            State::Waiting(reason) => {
                tracing::warn!(source, reason, "the source waits, and goes on by itself")
            }
            State::Stopped(reason) => {
                tracing::error!(source, reason, "the source is stopped until somebody changes something");
            }
        }
        *now = (state, Instant::now());
    }
}
