//! Kafka to alerts: the release binary consumes, decodes, appends and evaluates what a topic holds, on the same cores as
//! the broker. The reference is a consumer of rdkafka that reads the same topic and does nothing with it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use watchfire_log::{Clock as _, SystemClock};
use watchfire_model::{Duration as Span, Timestamp};
use watchfire_services::Kafka;

use crate::figure::{self, Figure, median};
use crate::kafka::{PARTITIONS, make, put};
use crate::server::{Server, cpu_of};
use crate::{Options, event, mqtt};

const READINGS: usize = 2_000_000;
const TOPIC: &str = "fleet";
const ROUNDS: usize = 3;

/// Rates, and what they cost in microseconds of CPU a reading: of who consumes, and of the broker.
#[derive(Default)]
struct Costs {
    rates: Vec<f64>,
    consumer: Vec<f64>,
    broker: Vec<f64>,
}

impl Costs {
    fn note(&mut self, readings: f64, took: Duration, consumer: f64, broker: f64) {
        self.rates.push(readings / took.as_secs_f64());
        self.consumer.push(consumer * 1e6 / readings);
        self.broker.push(broker * 1e6 / readings);
    }
}

pub fn run(options: &Options, kafka: &Kafka, figures: &mut Vec<Figure>) -> Result<()> {
    let brokers = kafka.bootstrap();
    fill(&brokers)?;
    let broker = kafka.process_id().context("the broker runs")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut alone, mut whole) = (Costs::default(), Costs::default());
    for round in 0..ROUNDS {
        consume(&brokers, broker, &mut alone)?;
        runtime.block_on(evaluate(options, &brokers, broker, round, &mut whole))?;
    }
    let figure = format!(
        "Kafka to alerts: consume, decode, append, 10 rules, against consuming alone (CPU a reading: engine {:.2} us and \
         broker {:.2} us; consuming alone {:.2} us and {:.2} us)",
        median(&mut whole.consumer),
        median(&mut whole.broker),
        median(&mut alone.consumer),
        median(&mut alone.broker)
    );
    let pair = (median(&mut whole.rates), median(&mut alone.rates));
    let met = |rate, _| Some(rate >= 500_000.0);
    figures.push(Figure::against("sinks", figure, "readings/s", pair, ">= 500000/s", met));
    Ok(())
}

/// Readings of the last half hour, a message for each, with the device as key.
fn fill(brokers: &str) -> Result<()> {
    make(brokers, TOPIC)?;
    let begin = SystemClock.wall() - Span::from_secs(3600);
    let payloads = event::payloads_at(READINGS, 5, event::SPIKES, |i| Timestamp(begin.0 + i as i64 * 1000));
    // The device is the first of the event.
    let key = |payload: &[u8]| payload.split(|byte| *byte == b'"').nth(3).unwrap_or_default().to_vec();
    put(brokers, TOPIC, payloads.iter().map(|payload| (key(payload), payload.as_slice())))
}

fn consume(brokers: &str, broker: u32, costs: &mut Costs) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "alone")
        .set("enable.auto.commit", "false")
        .set("queued.max.messages.kbytes", "32768")
        .create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(TOPIC, partition.into(), Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let (mut count, mut bytes, mut began) = (0, 0, None);
    while count < READINGS {
        let Some(message) = consumer.poll(Duration::from_secs(20)).transpose()? else { continue };
        began.get_or_insert_with(|| (Instant::now(), figure::cpu(), cpu_of(broker)));
        bytes += message.payload_len();
        count += 1;
    }
    let (since, ours, brokers) = began.context("a message came")?;
    ensure!(bytes > READINGS * 100, "the messages are empty");
    costs.note(count as f64, since.elapsed(), figure::cpu() - ours, cpu_of(broker)? - brokers?);
    Ok(())
}

/// The same by an engine that has its rules and its devices before it begins to read.
async fn evaluate(
    options: &Options,
    brokers: &str,
    broker: u32,
    round: usize,
    costs: &mut Costs,
) -> Result<()> {
    let mut server = Server::start(options, None)?;
    server.register().await?;
    let rules = mqtt::rules().into_iter().filter(|(_, module, _)| *module == "threshold").collect();
    server.deploy(rules).await?;
    server.restart(&format!(
        "[source.kafka]\nenabled = true\nbrokers = \"{brokers}\"\ntopics = [\"{TOPIC}\"]\ngroup = \"bench-{round}\"\n"
    ))?;
    // Joining the group does not count: from the first tenth on.
    let (mut began, patience) = (None, Instant::now() + Duration::from_secs(300));
    loop {
        let count = server.metric("watchfire_readings_total").await?;
        if began.is_none() && count >= READINGS as f64 / 10.0 {
            began = Some((count, Instant::now(), server.cpu()?, cpu_of(broker)?));
        }
        if count >= READINGS as f64 {
            break;
        }
        ensure!(Instant::now() < patience, "{count} of {READINGS} readings are durable");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.level().await?;
    let (first, since, engine, brokers) = began.context("readings came")?;
    costs.note(READINGS as f64 - first, since.elapsed(), server.cpu()? - engine, cpu_of(broker)? - brokers);
    Ok(())
}
