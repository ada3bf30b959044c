//! Events published to a broker: each reading a message on a topic of its stream and device, transitions of alerts likewise,
//! and what is active at a device as a retained message.
//!
//! MQTT 5 and not 3.1.1: there a broker that permits something not acknowledges it all the same. The broker has no place
//! for a cursor of ours, so it is at least once: each event carries an id that is the same on every attempt.

mod config;
mod encode;
mod write;

use std::sync::{Arc, Mutex, PoisonError};

use watchfire_model::Epoch;
use watchfire_store::{Store, StoreError};

pub use config::MqttSinkConfig;
pub use write::MqttLane;

use crate::chunk::Interests;
use crate::contract::{LaneId, Sink};
use crate::feed::{Directory, Sizes};
use crate::kept::Kept;
use crate::run::{Reading, Running, Surroundings};
use crate::section::Start;

/// The name of the sink: the section of the configuration.
pub const NAME: &str = "mqtt";

/// Values of a chunk: a broker acknowledges each message, so a chunk must be small enough to end in the time of a write.
const VALUES: usize = 10_000;

/// The sink.
pub struct MqttSink {
    config: Arc<MqttSinkConfig>,
    store: Store,
    directory: Directory,
    epoch: Epoch,
    in_force: Arc<Mutex<Option<String>>>,
}

impl Sink for MqttSink {
    type Lane = MqttLane;

    fn lane(&self, id: LaneId) -> MqttLane {
        let kept = Kept::new(self.store.clone(), NAME, id, self.epoch);
        let (config, in_force) = (self.config.clone(), self.in_force.clone());
        MqttLane::new(id, config, self.store.clone(), self.directory.clone(), kept, in_force)
    }

    fn in_force(&self) -> Option<String> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Starts it. The section must have been checked.
pub async fn start(config: MqttSinkConfig, surroundings: Surroundings) -> Result<Running, StoreError> {
    let reading = Reading {
        name: NAME.into(),
        takes: config.takes(),
        interests: Interests::default(),
        sizes: Sizes { values: VALUES, bytes: 1 << 20, ..Sizes::default() },
        from_now: config.start == Start::Now,
    };
    let sink = MqttSink {
        config: Arc::new(config),
        store: surroundings.store.clone(),
        directory: surroundings.directory.clone(),
        epoch: surroundings.log.epoch(),
        in_force: Arc::default(),
    };
    crate::run::start(Arc::new(sink), reading, surroundings).await
}
