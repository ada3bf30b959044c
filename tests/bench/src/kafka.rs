//! The log to Kafka, against rdkafka's own loop that sends the same messages with the same settings, encoded before.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders, ToBytes};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio::runtime::Runtime;
use watchfire_log::clock::SystemClock;
use watchfire_log::embedded::LogOptions;
use watchfire_log::{Append, EmbeddedLog, Log as _, Record};
use watchfire_model::batch::Values;
use watchfire_model::device::Registries;
use watchfire_model::{Batch, PartitionId};
use watchfire_services::{Failure, Kafka};
use watchfire_sink::kafka::{self, KafkaConfig};
use watchfire_sink::{Start, Surroundings};
use watchfire_store::Store;

use crate::figure::{Figure, alternate};
use crate::{Options, consume, disk, event};

/// Records of 1 024 readings: some 800 000 messages, so that connecting does not count.
const RECORDS: usize = 800;
const ROWS: usize = 1024;

/// Partitions of each topic.
pub const PARTITIONS: u16 = 4;

/// A message, encoded: id, key and value.
type Message = (String, String, Vec<u8>);

pub fn run(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let kafka = match Kafka::start() {
        Ok(kafka) => kafka,
        Err(Failure::Missing(why)) => {
            eprintln!("SKIPPED kafka: {why}");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let brokers = kafka.bootstrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let folder = disk::folder()?;
    // One partition, so that one producer stands against one producer.
    let of_log = LogOptions { partitions: 1, reserve_bytes: 0, ..LogOptions::default() };
    let (log, _) = EmbeddedLog::open(&folder.path().join("log"), of_log, Arc::new(SystemClock))?;
    let store = runtime.block_on(Store::open(&folder.path().join("watchfire.db"), Arc::new(SystemClock)))?;
    let registries = Arc::new(event::registries());
    let batches = event::batches(RECORDS, ROWS, 11);
    for batch in &batches {
        let record = Record::Readings { stream: "readings".into(), origin: None, batch: batch.clone() };
        let ticket = log.append(Append::Records(vec![(PartitionId(0), record)]))?;
        runtime.block_on(ticket.durable())?;
    }
    let messages = encoded(&batches, &registries);
    let directory = registries.clone();
    let surroundings = Surroundings {
        log: log.clone(),
        store,
        directory: Arc::new(move || directory.clone()),
        clock: Arc::new(SystemClock),
    };
    let failed = RefCell::new(None);
    let rate = |result: Result<Duration>| match result {
        Ok(took) => messages.len() as f64 / took.as_secs_f64(),
        Err(error) => {
            *failed.borrow_mut() = Some(error);
            f64::NAN
        }
    };
    let (mut round, mut other) = (0, 0);
    let pair = alternate(
        3,
        || {
            round += 1;
            rate(drain(&runtime, &brokers, &surroundings, round, messages.len()))
        },
        || {
            other += 1;
            rate(plain(&brokers, &format!("plain-{other}"), &messages))
        },
    );
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    figures.push(Figure::against(
        "sinks",
        "log to Kafka, against rdkafka's own loop over the same messages, encoded before",
        "messages/s",
        pair,
        ">= 0.9x",
        |_, ratio| Some(ratio >= 0.9),
    ));
    log.close();
    consume::run(options, &kafka, figures)
}

fn config(brokers: &str, name: String, topic_prefix: String, start: Start) -> KafkaConfig {
    KafkaConfig {
        brokers: brokers.into(),
        name,
        topic_prefix,
        start,
        alerts: false,
        dead_letters: false,
        partitions: PARTITIONS,
        ..KafkaConfig::default()
    }
}

/// Runs a sink that is new until everything is there.
fn drain(
    runtime: &Runtime,
    brokers: &str,
    surroundings: &Surroundings,
    round: u32,
    count: usize,
) -> Result<Duration> {
    let prefix = format!("sink-{round}");
    // What makes the topics is not what is measured.
    drained(runtime, config(brokers, format!("warm-{round}"), prefix.clone(), Start::Now), surroundings)?;
    let config = config(brokers, prefix.clone(), prefix.clone(), Start::Earliest);
    let took = drained(runtime, config, surroundings)?;
    arrived(brokers, &format!("{prefix}.readings"), count)?;
    Ok(took)
}

fn drained(runtime: &Runtime, config: KafkaConfig, surroundings: &Surroundings) -> Result<Duration> {
    let began = Instant::now();
    let running = runtime.block_on(kafka::start(config, surroundings.clone()))?;
    loop {
        let status = running.status();
        if status.lanes.iter().all(|lane| lane.behind == 0 && lane.next > 0 && lane.code.is_none()) {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(300), "the sink is not level: {status:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = began.elapsed();
    runtime.block_on(running.stop());
    Ok(took)
}

/// The same messages, by code of its own.
fn encoded(batches: &[Arc<Batch>], registries: &Registries) -> Vec<Message> {
    let mut messages = Vec::new();
    for (record, batch) in batches.iter().enumerate() {
        for row in 0..batch.rows() {
            let device = registries.0[0].get(batch.devices[row]).map_or("", |device| &device.spec.id);
            let metrics: serde_json::Map<String, serde_json::Value> = batch
                .columns
                .iter()
                .filter_map(|column| match &column.values {
                    Values::Numbers(numbers) => Some((column.metric.to_string(), numbers[row].into())),
                    _ => None,
                })
                .collect();
            let value = serde_json::json!({ "device": device, "time": batch.times[row], "metrics": metrics });
            messages.push((
                format!("1/0/{record}/{row}"),
                device.to_string(),
                value.to_string().into_bytes(),
            ));
        }
    }
    messages
}

/// One producer with the settings that are the sink's defaults.
fn plain(brokers: &str, topic: &str, messages: &[Message]) -> Result<Duration> {
    make(brokers, topic)?;
    let began = Instant::now();
    let producer = producer(brokers)?;
    for (number, (id, key, value)) in messages.iter().enumerate() {
        let headers = OwnedHeaders::new().insert(Header { key: kafka::ID, value: Some(id) });
        send(&producer, number, BaseRecord::to(topic).key(key).payload(value).headers(headers))?;
    }
    settle(&producer);
    let took = began.elapsed();
    arrived(brokers, topic, messages.len())?;
    Ok(took)
}

/// Puts messages, key and value, into a topic.
pub fn put<'a>(
    brokers: &str,
    topic: &str,
    messages: impl Iterator<Item = (Vec<u8>, &'a [u8])>,
) -> Result<()> {
    let producer = producer(brokers)?;
    for (number, (key, value)) in messages.enumerate() {
        send(&producer, number, BaseRecord::to(topic).key(&key).payload(value))?;
    }
    settle(&producer);
    Ok(())
}

fn producer(brokers: &str) -> Result<BaseProducer> {
    let producer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("batch.num.messages", "100000")
        .set("queue.buffering.max.kbytes", "32768")
        .set("queue.buffering.max.messages", "200000")
        .create()?;
    Ok(producer)
}

fn send<'a, K: ToBytes + ?Sized, V: ToBytes + ?Sized>(
    producer: &BaseProducer,
    number: usize,
    mut record: BaseRecord<'a, K, V>,
) -> Result<()> {
    while let Err((error, back)) = producer.send(record) {
        ensure!(error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull), error);
        record = back;
        producer.poll(Duration::from_millis(1));
    }
    if number.is_multiple_of(1000) {
        producer.poll(Duration::ZERO);
    }
    Ok(())
}

fn settle(producer: &BaseProducer) {
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
    }
}

/// Makes a topic.
pub fn make(brokers: &str, topic: &str) -> Result<()> {
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let topic = NewTopic::new(topic, PARTITIONS.into(), TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let made = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new()))?;
    made.into_iter()
        .try_for_each(|made| made.map(drop).map_err(|(name, code)| anyhow::anyhow!("{name}: {code}")))
}

fn arrived(brokers: &str, topic: &str, count: usize) -> Result<()> {
    let reader: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let mut there = 0;
    for partition in 0..PARTITIONS {
        let (low, high) = reader
            .fetch_watermarks(topic, partition.into(), Duration::from_secs(10))
            .context("the topic of the bench")?;
        there += high - low;
    }
    ensure!(there == count as i64, "{there} of {count} messages are in {topic}");
    Ok(())
}
