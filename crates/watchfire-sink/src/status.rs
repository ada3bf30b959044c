//! How a sink does, for people.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use watchfire_model::Timestamp;

use crate::contract::LaneId;

/// What a lane is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneState {
    /// It has not reached its service yet.
    #[default]
    Starting,
    /// It writes what comes, soon after it comes.
    Running,
    /// It writes what came while it was behind.
    CatchingUp,
    /// Its service takes nothing; it tries again and again.
    Retrying,
    /// It ended with the process.
    Stopped,
}

impl std::fmt::Display for LaneState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::CatchingUp => "catching-up",
            Self::Retrying => "retrying",
            Self::Stopped => "stopped",
        })
    }
}

/// How a lane does.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LaneStatus {
    /// `partition 0`, or `alerts`.
    pub lane: String,
    /// What it is doing.
    pub state: LaneState,
    /// What it writes next: an offset, of alerts a sequence.
    pub next: u64,
    /// Records, or transitions, that the service does not have yet.
    pub behind: u64,
    /// Rows written since the start.
    pub rows: u64,
    /// Rows that the service refused for themselves: dead letters.
    pub refused: u64,
    /// With `retrying`: the code of the fault, such as `unreachable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// With `retrying`: what the service said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// With `retrying`: since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Parts of the log that it never saw, since the start.
    pub gaps: u64,
    /// When it was first found, since the start, that the log did not keep what it needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<Timestamp>,
    /// Offsets that were read and have nothing for the service. Its cursor is not moved over them for a while.
    #[serde(skip)]
    pub(crate) nothing: Range<u64>,
}

/// How a sink does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SinkStatus {
    /// Its name in the configuration.
    pub name: String,
    /// What is in force at the service: version, extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<String>,
    /// The streams that it takes.
    pub streams: Vec<String>,
    /// Its lanes.
    pub lanes: Vec<LaneStatus>,
}

/// The status of all lanes of a sink, shared with whoever asks.
#[derive(Clone, Default)]
pub(crate) struct Board(Arc<Mutex<BTreeMap<LaneId, LaneStatus>>>);

impl Board {
    pub fn set(&self, lane: LaneId, change: impl FnOnce(&mut LaneStatus)) {
        change(
            self.lock()
                .entry(lane)
                .or_insert_with(|| LaneStatus { lane: lane.to_string(), ..LaneStatus::default() }),
        );
    }

    pub fn lanes(&self) -> Vec<(LaneId, LaneStatus)> {
        self.lock().iter().map(|(id, lane)| (*id, lane.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LaneId, LaneStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
