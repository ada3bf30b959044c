//! A PostgreSQL and a Kafka that results flow to, killed again and again like the engine; and what stands there in the
//! end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use watchfire_services::{Kafka, Postgres};

use crate::engine::Api;

/// The topic of readings: the default of the sink.
const TOPIC: &str = "watchfire.readings";
/// The header that repeats share.
const ID: &str = "watchfire-id";
/// How long the sinks may take to write the rest.
const REST: Duration = Duration::from_secs(180);

/// Both servers.
pub struct Outlets {
    postgres: Postgres,
    kafka: Kafka,
    /// Kafka gets each chunk as a transaction.
    pub transactional: bool,
    kills: u32,
}

/// What stands there.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlet {
    /// Whether repeats may be there.
    pub transactional: bool,
    /// Of the table: device, milliseconds, metric and what it said, as JSON.
    pub rows: Vec<(String, i64, String, String)>,
    /// Of the topic, in the order of each partition.
    pub messages: Vec<Message>,
}

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Of its header.
    pub id: String,
    /// The device that it is keyed by.
    pub key: String,
    /// The reading.
    pub body: Value,
}

impl Outlets {
    /// Starts both.
    pub fn start(transactional: bool) -> Result<Self> {
        println!("torture: PostgreSQL and Kafka start; transactional: {transactional}");
        Ok(Self { postgres: Postgres::start()?, kafka: Kafka::start()?, transactional, kills: 0 })
    }

    /// The sections of the engine's configuration.
    pub fn configuration(&self) -> String {
        format!(
            "[sink.timescale]\nurl = \"{}\"\n[sink.kafka]\nbrokers = \"{}\"\ntransactional = {}\n",
            self.postgres.url(),
            self.kafka.bootstrap(),
            self.transactional
        )
    }

    /// Kills one of them, leaves it dead for a while, starts it again; until told to stop. Blocks.
    pub fn die_again_and_again(mut self, seed: u64, stop: &AtomicBool) -> Result<Self> {
        let mut random = StdRng::seed_from_u64(seed ^ 0x6f75_746c_6574);
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(random.random_range(500..4000)));
            let dead = Duration::from_millis(random.random_range(0..2000));
            self.kills += 1;
            if random.random_ratio(1, 2) {
                self.postgres.kill();
                std::thread::sleep(dead);
                self.postgres.restart()?;
            } else {
                self.kafka.kill();
                std::thread::sleep(dead);
                self.kafka.restart()?;
            }
        }
        Ok(self)
    }

    /// Waits until everything is written, and reads it.
    pub async fn collect(&self, api: &Api) -> Result<Outlet> {
        let began = Instant::now();
        loop {
            let answer = api.call("GET", "/sinks", None).await?;
            let sinks = answer["items"].as_array().cloned().unwrap_or_default();
            // Ticks come all the time, and are nothing to write.
            let done = |sink: &Value| {
                sink["state"] == "running" && sink["behind"].as_u64().is_some_and(|behind| behind < 20)
            };
            if sinks.len() == 2 && sinks.iter().all(done) {
                break;
            }
            ensure!(began.elapsed() < REST, "the sinks did not come to rest: {sinks:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // The few records that may be missing yet are written within a chunk's wait.
        tokio::time::sleep(Duration::from_secs(1)).await;
        println!(
            "torture: {} kills of PostgreSQL and Kafka; the sinks are level after {:.1} s",
            self.kills,
            began.elapsed().as_secs_f64()
        );
        Ok(Outlet { transactional: self.transactional, rows: self.rows()?, messages: self.messages()? })
    }

    fn rows(&self) -> Result<Vec<(String, i64, String, String)>> {
        let rows = self.postgres.query(
            "SELECT device, (extract(epoch FROM time) * 1000)::bigint, metric, \
             coalesce(to_json(value), to_json(text), to_json(flag)) FROM readings",
        )?;
        rows.into_iter()
            .map(|row| {
                let [device, time, metric, value] =
                    <[Option<String>; 4]>::try_from(row).ok().context("four columns")?;
                let value: Value = serde_json::from_str(&value.unwrap_or_default())?;
                Ok((
                    device.unwrap_or_default(),
                    time.unwrap_or_default().parse()?,
                    metric.unwrap_or_default(),
                    plain(&value),
                ))
            })
            .collect()
    }

    fn messages(&self) -> Result<Vec<Message>> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.kafka.bootstrap())
            .set("group.id", "torture")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create()?;
        let wait = Duration::from_secs(30);
        let metadata = consumer.fetch_metadata(Some(TOPIC), wait)?;
        let topic = metadata.topics().first().context("the topic")?;
        let mut all = TopicPartitionList::new();
        for partition in topic.partitions() {
            all.add_partition_offset(TOPIC, partition.id(), Offset::Beginning)?;
        }
        consumer.assign(&all)?;
        let (mut messages, mut ended) = (Vec::new(), std::collections::BTreeSet::new());
        let began = Instant::now();
        while ended.len() < topic.partitions().len() {
            ensure!(began.elapsed() < REST, "the topic has no end");
            match consumer.poll(Duration::from_millis(200)) {
                None => {}
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(partition))) => {
                    ended.insert(partition);
                }
                Some(message) => {
                    let message = message?;
                    let text = |bytes: Option<&[u8]>| {
                        String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
                    };
                    let id = message
                        .headers()
                        .and_then(|headers| headers.iter().find(|header| header.key == ID))
                        .map(|header| text(header.value))
                        .context("a message without an id")?;
                    let body = serde_json::from_slice(message.payload().unwrap_or_default())?;
                    messages.push(Message { id, key: text(message.key()), body });
                }
            }
        }
        Ok(messages)
    }
}

/// A value as it is compared: 1 and 1.0 are the same number.
pub fn plain(value: &Value) -> String {
    value.as_f64().map_or_else(|| value.to_string(), |number| number.to_string())
}

/// Runs the deaths beside everything else.
pub fn dying(outlets: Outlets, seed: u64, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<Result<Outlets>> {
    tokio::task::spawn_blocking(move || outlets.die_again_and_again(seed, &stop))
}
