//! Events pushed over HTTP in batches: a POST with a line for each. The service has no place for a cursor of ours, so it is
//! at least once: each line carries an id that is the same on every attempt, whatever batch it comes in.

mod config;
mod encode;
mod retry;
mod write;

use std::sync::Arc;

use watchfire_log::Clock;
use watchfire_model::Epoch;
use watchfire_outbound::Sender;
use watchfire_store::{Store, StoreError};

pub use config::HttpSinkConfig;
pub use write::HttpLane;

use crate::chunk::Interests;
use crate::contract::{LaneId, Sink};
use crate::feed::Sizes;
use crate::kept::Kept;
use crate::run::{Reading, Running, Surroundings};
use crate::section::Start;

/// The name of the sink: the section of the configuration.
pub const NAME: &str = "http";

/// Requests that a chunk makes, about: few enough that all of them end in the time of one write.
const REQUESTS: usize = 4;

/// The sink.
pub struct HttpSink {
    config: Arc<HttpSinkConfig>,
    sender: Sender,
    store: Store,
    epoch: Epoch,
    clock: Arc<dyn Clock>,
}

impl Sink for HttpSink {
    type Lane = HttpLane;

    fn lane(&self, id: LaneId) -> HttpLane {
        let kept = Kept::new(self.store.clone(), NAME, id, self.epoch);
        HttpLane::new(self.config.clone(), self.sender.clone(), kept, self.clock.clone())
    }

    fn in_force(&self) -> Option<String> {
        Some(self.sender.origin())
    }
}

/// It could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The client could not be made.
    #[error("{0}")]
    Client(String),
    /// The store could not be read.
    #[error("the store could not be read")]
    Store(#[from] StoreError),
}

/// Starts it. The section must have been checked.
pub async fn start(config: HttpSinkConfig, surroundings: Surroundings) -> Result<Running, StartError> {
    let sender = Sender::new(&config.target()).map_err(StartError::Client)?;
    let defaults = Sizes::default();
    let reading = Reading {
        name: NAME.into(),
        takes: config.takes(),
        interests: Interests::default(),
        sizes: Sizes {
            values: defaults.values.min(REQUESTS * config.request_rows),
            bytes: defaults.bytes.min(REQUESTS * config.request_bytes),
            ..defaults
        },
        from_now: config.start == Start::Now,
    };
    let sink = HttpSink {
        config: Arc::new(config),
        sender,
        store: surroundings.store.clone(),
        epoch: surroundings.log.epoch(),
        clock: surroundings.clock.clone(),
    };
    Ok(crate::run::start(Arc::new(sink), reading, surroundings).await?)
}
