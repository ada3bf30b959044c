//! Readings, derived streams, alerts and dead letters on topics of Apache Kafka.
//!
//! # What is promised
//!
//! Each lane has a producer of its own, idempotent and with acknowledgement by all replicas. Messages of a device have its
//! name as key, so they are in one partition, in the order of the log.
//!
//! - By default each message is there at least once. An outage of the brokers repeats nothing: librdkafka goes on where
//!   it was, and the lane remembers what of a chunk was acknowledged. After a crash of this process the chunk that was
//!   being written is written again; a repeat has the same header `watchfire-id` as the first.
//! - With `transactional` each chunk is one transaction, and readers with `read_committed` see each message exactly once.
//!
//! # Where the cursor is
//!
//! In a compacted topic of its own, in both modes by the same means: after the messages of a chunk, or in their
//! transaction, a message with the key `NAME/LANE` says up to where the lane is written. A consumer group's offsets
//! would be the other place: they are an offset of a topic of Kafka's, expire when nobody is in the group, and outside of
//! a transaction are committed by a consumer, not by the producer that knows. Our own store would be a third, and could
//! not be in the transaction.
//!
//! All cursors are in partition 0, whatever partitions the topic has: a partition by hash of the key moves when partitions are
//! added, and with it the cursor would be lost. There is one small message a chunk; the topic is made with short
//! segments, so that compaction keeps up. At a start the end of that partition is read, and more only where the lane's last
//! cursor lies further back. A transaction of another lane that is under way hides what comes after it: that is waited for,
//! bounded by the timeout of transactions.
//!
//! Who writes in transactions is fenced: a second engine with the same name makes the first one fail, with the code
//! `fenced`. Without transactions nothing tells: two engines with one name write everything twice.
//!
//! # What is refused
//!
//! A broker refuses a batch, not a message. The producer stops at once then, before a later batch could overtake it, and
//! the messages are sent again in halves until it is clear which it is; in transactions the halves are tries that are
//! aborted.

mod config;
mod cursor;
mod encode;
mod producer;
mod retry;
mod topics;
mod write;

use std::sync::{Arc, Mutex, PoisonError};

pub use config::{Compression, Events, KafkaConfig, SecurityProtocol};
pub use encode::{Encoded, ID, KafkaEncoder, Messages};
pub use write::KafkaLane;

use crate::chunk::Interests;
use crate::contract::{LaneId, Sink};
use crate::feed::Sizes;
use crate::run::{Reading, Running, Surroundings};
use crate::section::Start;

/// The name of the sink: the section of the configuration.
pub const NAME: &str = "kafka";

/// The sink.
pub struct Kafka {
    config: Arc<KafkaConfig>,
    in_force: Arc<Mutex<Option<String>>>,
}

impl Kafka {
    /// From its section, which must have been checked.
    pub fn new(config: Arc<KafkaConfig>) -> Self {
        Self { config, in_force: Arc::default() }
    }
}

impl Sink for Kafka {
    type Lane = KafkaLane;

    fn lane(&self, id: LaneId) -> KafkaLane {
        KafkaLane::new(id, self.config.clone(), self.in_force.clone())
    }

    fn in_force(&self) -> Option<String> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How the sink reads.
pub fn reading(config: &KafkaConfig) -> Reading {
    Reading {
        name: NAME.into(),
        takes: config.takes(),
        interests: Interests { devices: false, dead_letters: config.dead_letters },
        // At the end of a chunk its last batches are waited for, with nothing else under way: the larger it is, the less that
        // counts.
        sizes: Sizes { values: 300_000, bytes: 16 << 20, ..Sizes::default() },
        from_now: config.start == Start::Now,
    }
}

/// Starts it.
pub async fn start(
    config: KafkaConfig,
    surroundings: Surroundings,
) -> Result<Running, watchfire_store::StoreError> {
    let reading = reading(&config);
    crate::run::start(Arc::new(Kafka::new(Arc::new(config))), reading, surroundings).await
}
