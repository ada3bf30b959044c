//! Readings, derived streams, alerts and devices in TimescaleDB, or in PostgreSQL without that extension.
//!
//! No statement is prepared under a name (`persistent(false)`): behind a pooler the next one may be of another session.
//!
//! Readings are narrow: a row for each value. Each lane has a connection of its own, and its cursor stands in the
//! database, in the transaction of its rows.

mod config;
mod encode;
mod history;
mod retry;
mod schema;
mod write;

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use watchfire_log::Clock;
use watchfire_model::Duration;

pub use config::{Extension, TimescaleConfig, table_of};
pub use encode::{Encoded, TimescaleEncoder};
pub use history::{History, HistoryError, HistoryPoint, HistoryQuery};
pub use write::{TimescaleLane, tidy};

use crate::chunk::Interests;
use crate::contract::{LaneId, Sink};
use crate::feed::Sizes;
use crate::run::{Reading, Running, Surroundings};
use crate::section::Start;

/// The name of the sink: the section of the configuration.
pub const NAME: &str = "timescale";

/// How often old partitions are looked for.
const TIDY: std::time::Duration = std::time::Duration::from_secs(600);

/// The sink.
pub struct Timescale {
    config: Arc<TimescaleConfig>,
    in_force: Arc<Mutex<Option<String>>>,
}

impl Timescale {
    /// From its section, which must have been checked.
    pub fn new(config: Arc<TimescaleConfig>) -> Self {
        Self { config, in_force: Arc::default() }
    }
}

impl Sink for Timescale {
    type Lane = TimescaleLane;

    fn lane(&self, id: LaneId) -> TimescaleLane {
        TimescaleLane::new(id, NAME.to_string(), self.config.clone(), self.in_force.clone())
    }

    fn in_force(&self) -> Option<String> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Starts it. Old partitions are dropped as long as `stop` is not cancelled.
pub async fn start(
    config: TimescaleConfig,
    surroundings: Surroundings,
    stop: CancellationToken,
) -> Result<Running, watchfire_store::StoreError> {
    let config = Arc::new(config);
    let reading = Reading {
        name: NAME.into(),
        takes: config.takes(),
        interests: Interests { devices: config.devices, dead_letters: false },
        sizes: Sizes::default(),
        from_now: config.start == Start::Now,
    };
    if config.retain_for > Duration::ZERO {
        tokio::spawn(keep_tidy(config.clone(), surroundings.clock.clone(), stop));
    }
    crate::run::start(Arc::new(Timescale::new(config)), reading, surroundings).await
}

async fn keep_tidy(config: Arc<TimescaleConfig>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TIDY) => {}
        }
        match write::tidy(&config, clock.wall()).await {
            Ok(dropped) if dropped.is_empty() => {}
            Ok(dropped) => tracing::info!(sink = NAME, ?dropped, "partitions whose time is over are dropped"),
            Err(error) => {
                tracing::warn!(sink = NAME, %error, "partitions whose time is over could not be dropped; it is tried again")
            }
        }
    }
}
