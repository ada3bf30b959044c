//! The topics of a lane: looked for, made where that is allowed, and asked for what they take.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::config::{KafkaConfig, Secrets};
use super::producer::Asking;
use super::retry;
use crate::contract::{Failure, LaneId};

/// How long a broker may take to say something.
const ANSWER: Duration = Duration::from_secs(10);

/// What the cursors' topic is made with. Segments of a MiB that are closed after ten minutes at the latest: only what is
/// closed is compacted.
const CURSORS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "1048576"),
    ("segment.ms", "600000"),
    ("min.cleanable.dirty.ratio", "0.1"),
];

/// What is known of the brokers and topics of a lane.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// How many brokers there are.
    pub brokers: usize,
    /// Bytes of a batch that each of the topics takes, where they say so.
    pub largest: Option<u64>,
}

/// The topics that a lane writes to, without that of cursors.
pub(super) fn of(config: &KafkaConfig, lane: LaneId) -> BTreeSet<String> {
    match lane {
        LaneId::Alerts => [config.alerts_topic()].into(),
        LaneId::Partition(_) => {
            let dead_letters = config.dead_letters.then(|| config.dead_letters_topic());
            config.streams.iter().map(|stream| config.topic(stream)).chain(dead_letters).collect()
        }
    }
}

/// Sees to it that they are there. Blocks.
pub(super) fn settle(config: &KafkaConfig, secrets: &Secrets, lane: LaneId) -> Result<Found, Failure> {
    let failed = |error: KafkaError| retry::failure(&error);
    let asking = Asking::new(config, secrets)?;
    let cursors = config.cursors_topic();
    let topics: BTreeSet<String> = of(config, lane).into_iter().chain([cursors.clone()]).collect();
    let mut found = Found::default();
    let mut missing = Vec::new();
    for topic in &topics {
        let metadata = asking.metadata(topic, ANSWER)?;
        found.brokers = metadata.brokers().len();
        match metadata.topics().first().and_then(|topic| topic.error()).map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => missing.push(topic.as_str()),
            // Partitions without a leader are waited for by the producer.
            Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
            Some(error) => return Err(failed(KafkaError::MetadataFetch(error))),
        }
    }
    let admin: AdminClient<DefaultClientContext> = config.client(secrets).create().map_err(failed)?;
    if !missing.is_empty() {
        if !config.create_topics {
            return Err(Failure::retry("no-topic", format!("there is no topic {}", missing.join(", "))));
        }
        make(&admin, config, &missing, &cursors)?;
    }
    let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let options = AdminOptions::new().request_timeout(Some(ANSWER));
    let described = block(admin.describe_configs(&resources, &options));
    // Who may not ask goes without: a batch that is too large is found by being refused.
    for (topic, described) in topics.iter().zip(described.unwrap_or_default()) {
        let Ok(described) = described else { continue };
        let value = |name: &str| described.get(name).and_then(|entry| entry.value.clone());
        if *topic == cursors {
            if value("cleanup.policy").is_some_and(|policy| !policy.contains("compact")) {
                let reason = format!("the topic {topic} is not compacted: cursors would get lost with time");
                return Err(Failure::retry("configuration", reason));
            }
        } else if let Some(bytes) = value("max.message.bytes").and_then(|bytes| bytes.parse().ok()) {
            found.largest = Some(found.largest.map_or(bytes, |least| least.min(bytes)));
        }
    }
    Ok(found)
}

fn make(
    admin: &AdminClient<DefaultClientContext>,
    config: &KafkaConfig,
    missing: &[&str],
    cursors: &str,
) -> Result<(), Failure> {
    let or_default = |count: u16| if count == 0 { -1 } else { i32::from(count) };
    let topics: Vec<_> = missing
        .iter()
        .map(|name| {
            let replication = TopicReplication::Fixed(or_default(config.replication));
            if *name != cursors {
                return NewTopic::new(name, or_default(config.partitions), replication);
            }
            let topic = NewTopic::new(name, 1, replication);
            CURSORS.iter().fold(topic, |topic, (property, value)| topic.set(property, value))
        })
        .collect();
    let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
    let made = block(admin.create_topics(&topics, &options)).map_err(|error| retry::failure(&error))?;
    for made in made {
        match made {
            Ok(topic) => tracing::info!(sink = super::NAME, topic, "the topic was missing and is made"),
            // Another lane was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                let Failure::Retry { code: what, .. } = retry::failure(&KafkaError::AdminOp(code)) else {
                    continue;
                };
                return Err(Failure::retry(what, format!("the topic {topic} cannot be made: {code}")));
            }
        }
    }
    Ok(())
}

/// Waits for an answer that the client's own thread brings. Only where blocking is allowed.
fn block<T>(asked: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(asked)
}
