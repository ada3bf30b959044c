//! `[sink.kafka]`.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use serde::Deserialize;
use watchfire_model::{Duration, Secret, Selector};
pub(super) use watchfire_outbound::kafka::Secrets;
pub use watchfire_outbound::kafka::SecurityProtocol;
use watchfire_outbound::kafka::{IS_TOPIC, Security, check_properties, is_topic, is_topic_character};

use crate::chunk::Takes;
use crate::contract::LaneId;
use crate::section::{ConfigError, Start, wrong};

/// An Apache Kafka, or what speaks its protocol.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port` of one or more brokers, separated by commas.
    pub brokers: String,
    /// Tells installations that share a cluster apart: of cursors and transactional ids.
    pub name: String,
    /// Streams that are written, each to a topic of its own; `readings` is what devices sent.
    pub streams: Vec<String>,
    /// Devices.
    pub select: Selector,
    /// Metrics, by name or with a `*` at the end; empty: all.
    pub metrics: Vec<String>,
    /// Transitions of alerts.
    pub alerts: bool,
    /// Inputs that could not be used, and calls of rules that failed.
    pub dead_letters: bool,
    /// Where a sink that is new begins.
    pub start: Start,
    /// The topic of a stream is this, a dot and its name ...
    pub topic_prefix: String,
    /// ... unless it is named here, by stream.
    pub topics: BTreeMap<String, String>,
    /// The topic of transitions; empty: the prefix and `alerts`.
    pub alerts_topic: String,
    /// The topic of dead letters; empty: the prefix and `dead-letters`.
    pub dead_letters_topic: String,
    /// The compacted topic of the places up to which all is written; empty: the prefix and `cursors`.
    pub cursors_topic: String,
    /// How a transition is a CloudEvent.
    pub events: Events,
    /// The source of CloudEvents: a URI reference that tells installations apart.
    pub event_source: String,
    /// Each chunk and its cursor are one transaction: exactly once for readers with `read_committed`.
    pub transactional: bool,
    /// Topics that are missing are made.
    pub create_topics: bool,
    /// Partitions of a topic that is made; 0: as the brokers are configured.
    pub partitions: u16,
    /// Replicas of a topic that is made; 0: as the brokers are configured.
    pub replication: u16,
    /// How batches are compressed.
    pub compression: Compression,
    /// How long a batch waits for more.
    pub linger: Duration,
    /// Bytes of a batch at most.
    pub batch_bytes: u32,
    /// Bytes of messages that wait in each lane's producer at most.
    pub queue_bytes: u64,
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`; not said: `plaintext`. All but the first need a build with the
    /// feature `kafka-tls`.
    pub security_protocol: Option<SecurityProtocol>,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub sasl_mechanism: Option<String>,
    /// Who logs in.
    pub sasl_username: Option<String>,
    /// With which password.
    pub sasl_password: Option<Secret>,
    /// The file of the authorities that are trusted; not said: those of the system.
    pub ssl_ca: Option<String>,
    /// The file of our own certificate.
    pub ssl_certificate: Option<String>,
    /// And of its key.
    pub ssl_key: Option<String>,
    /// The password of that key.
    pub ssl_key_password: Option<Secret>,
    /// Any other property of librdkafka.
    pub options: BTreeMap<String, String>,
    /// Whoever operates this installation is told once nothing got through for this long.
    pub alert_after: Duration,
}

/// How a CloudEvent is a message ("CloudEvents Kafka protocol binding 1.0.2", section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Events {
    /// Attributes are headers, the value is the data.
    #[default]
    Binary,
    /// The value is an envelope with attributes and data.
    Structured,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// Fast, and a quarter to a third of JSON remains.
    #[default]
    Lz4,
    /// Fast, and a little more remains.
    Snappy,
    /// As small as zstd of ten years ago, and slow.
    Gzip,
    /// Smallest for what it costs. Needs consumers that can read it.
    Zstd,
}

impl Default for KafkaConfig {
    /// A linger of 5 ms fills batches at some thousand messages a second, and nobody reads a topic within less: chunks
    /// wait 200 ms anyway. A batch may be just below what brokers take unless told otherwise (1 MiB). 32 MiB of queue are
    /// some 150 000 messages, more than a chunk holds.
    fn default() -> Self {
        let takes = Takes::default();
        Self {
            brokers: String::new(),
            name: "watchfire".into(),
            streams: takes.streams,
            select: takes.select,
            metrics: takes.metrics,
            alerts: true,
            dead_letters: true,
            start: Start::Earliest,
            topic_prefix: "watchfire".into(),
            topics: BTreeMap::new(),
            alerts_topic: String::new(),
            dead_letters_topic: String::new(),
            cursors_topic: String::new(),
            events: Events::Binary,
            event_source: "/watchfire".into(),
            transactional: false,
            create_topics: true,
            partitions: 0,
            replication: 0,
            compression: Compression::Lz4,
            linger: Duration(5000),
            batch_bytes: 1_000_000,
            queue_bytes: 32 << 20,
            security_protocol: None,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password: None,
            ssl_ca: None,
            ssl_certificate: None,
            ssl_key: None,
            ssl_key_password: None,
            options: BTreeMap::new(),
            alert_after: Duration::from_secs(300),
        }
    }
}

impl std::fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not passwords, and not the options: one of them may be.
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Properties that the guarantees rest on, and those that a key of the section sets: with the reason why not here.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "is set by `brokers`"),
    ("metadata.broker.list", "is set by `brokers`"),
    ("transactional.id", "is set by `name` and `transactional`"),
    ("security.protocol", "is set by `security_protocol`"),
    ("enable.idempotence", "without it a resend could come twice, or out of order"),
    ("enable.gapless.guarantee", "without it a reading could overtake one that was refused"),
    ("acks", "a message that not all replicas have may be lost"),
    ("request.required.acks", "a message that not all replicas have may be lost"),
    ("max.in.flight.requests.per.connection", "more than five may come out of order"),
    ("max.in.flight", "more than five may come out of order"),
    ("message.timeout.ms", "the sink gives nothing up"),
    ("delivery.timeout.ms", "the sink gives nothing up"),
    ("retries", "the sink gives nothing up"),
    ("message.send.max.retries", "the sink gives nothing up"),
    ("partitioner", "consumers rely on the key"),
    ("allow.auto.create.topics", "is what `create_topics` does"),
];

impl KafkaConfig {
    /// Refuses what could not work, before anything is connected to.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.brokers.trim().is_empty() {
            return Err(wrong("brokers", "is missing: host:port, or several separated by commas"));
        }
        if !is_topic(&self.name) {
            return Err(wrong("name", IS_TOPIC));
        }
        if !is_topic(&self.topic_prefix) {
            return Err(wrong("topic_prefix", IS_TOPIC));
        }
        for (key, topic) in [
            ("alerts_topic", self.alerts_topic()),
            ("dead_letters_topic", self.dead_letters_topic()),
            ("cursors_topic", self.cursors_topic()),
        ] {
            if !is_topic(&topic) {
                return Err(wrong(key, format!("{topic:?}: {IS_TOPIC}")));
            }
        }
        for stream in &self.streams {
            let topic = self.topic(stream);
            if !is_topic(&topic) {
                return Err(wrong("streams", format!("{topic:?} can be no topic: {IS_TOPIC}")));
            }
            if topic == self.cursors_topic() {
                return Err(wrong("streams", format!("{topic:?} is the topic of cursors")));
            }
        }
        if let Some(stream) = self.topics.keys().find(|stream| !self.streams.contains(stream)) {
            return Err(wrong("topics", format!("{stream:?} is not among the streams")));
        }
        if !(16_384..=100_000_000).contains(&self.batch_bytes) {
            return Err(wrong("batch_bytes", "is not between 16384 and 100000000"));
        }
        if self.queue_bytes < u64::from(self.batch_bytes) || self.queue_bytes > 1 << 31 {
            return Err(wrong("queue_bytes", "is not between `batch_bytes` and 2147483648"));
        }
        if self.linger > Duration::from_secs(10) {
            return Err(wrong("linger", "is above 10s: a chunk waits for its last batch"));
        }
        self.security().check()?;
        for property in self.options.keys() {
            if let Some((_, why)) = RESERVED.iter().find(|(name, _)| name == property) {
                return Err(wrong("options", format!("{property}: {why}")));
            }
        }
        let secrets = self.secrets()?;
        let producer = self.producer(LaneId::Alerts, None, &secrets);
        check_properties(&producer, &self.options).map_err(|what| wrong("options", what))
    }

    /// How brokers are spoken to, and who logs in.
    fn security(&self) -> Security<'_> {
        Security {
            protocol: self.security_protocol,
            sasl_mechanism: self.sasl_mechanism.as_deref(),
            sasl_username: self.sasl_username.as_deref(),
            sasl_password: self.sasl_password.as_ref(),
            ssl_ca: self.ssl_ca.as_deref(),
            ssl_certificate: self.ssl_certificate.as_deref(),
            ssl_key: self.ssl_key.as_deref(),
            ssl_key_password: self.ssl_key_password.as_ref(),
        }
    }

    /// What the sink takes of the log.
    pub fn takes(&self) -> Takes {
        Takes {
            streams: self.streams.clone(),
            select: self.select.clone(),
            metrics: self.metrics.clone(),
            alerts: self.alerts,
        }
    }

    /// The topic of a stream. Names of streams are names of topics, but for characters that topics do not have.
    pub fn topic(&self, stream: &str) -> String {
        if let Some(topic) = self.topics.get(stream) {
            return topic.clone();
        }
        let legal = |c: char| if is_topic_character(c) { c } else { '_' };
        format!("{}.{}", self.topic_prefix, stream.chars().map(legal).collect::<String>())
    }

    /// The topic of transitions.
    pub fn alerts_topic(&self) -> String {
        self.or_prefixed(&self.alerts_topic, "alerts")
    }

    /// The topic of dead letters.
    pub fn dead_letters_topic(&self) -> String {
        self.or_prefixed(&self.dead_letters_topic, "dead-letters")
    }

    /// The topic of cursors.
    pub fn cursors_topic(&self) -> String {
        self.or_prefixed(&self.cursors_topic, "cursors")
    }

    fn or_prefixed(&self, topic: &str, name: &str) -> String {
        if topic.is_empty() { format!("{}.{name}", self.topic_prefix) } else { topic.to_string() }
    }

    /// How a lane's cursor is called in the topic of cursors.
    pub(super) fn cursor_key(&self, lane: LaneId) -> String {
        match lane {
            LaneId::Partition(partition) => format!("{}/{partition}", self.name),
            LaneId::Alerts => format!("{}/alerts", self.name),
        }
    }

    /// The secrets as they are now.
    pub(super) fn secrets(&self) -> Result<Secrets, ConfigError> {
        Ok(self.security().secrets()?)
    }

    /// What every client of ours has.
    pub(super) fn client(&self, secrets: &Secrets) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set_log_level(RDKafkaLogLevel::Warning);
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.name)
            // A missing topic stays missing until somebody makes it on purpose.
            .set("allow.auto.create.topics", "false")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            // A broker that is back is found within seconds.
            .set("reconnect.backoff.max.ms", "2000");
        self.security().apply(secrets, &mut client);
        // Those that are of every client; others are the producer's.
        const SHARED: [&str; 8] =
            ["sasl.", "ssl.", "socket.", "broker.", "client.", "reconnect.", "debug", "enable.ssl"];
        for (property, value) in &self.options {
            if SHARED.iter().any(|prefix| property.starts_with(prefix)) {
                client.set(property, value);
            }
        }
        client
    }

    /// A lane's producer. `largest`: bytes of a batch that each of its topics takes, where that is known.
    pub(super) fn producer(&self, lane: LaneId, largest: Option<u64>, secrets: &Secrets) -> ClientConfig {
        let mut producer = self.client(secrets);
        let batch = u64::from(self.batch_bytes).min(largest.unwrap_or(u64::MAX)).max(1024);
        producer
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("max.in.flight.requests.per.connection", "5")
            // As Java's clients do it: a device is in one partition, whoever writes.
            .set("partitioner", "murmur2_random")
            .set(
                "compression.type",
                match self.compression {
                    Compression::None => "none",
                    Compression::Lz4 => "lz4",
                    Compression::Snappy => "snappy",
                    Compression::Gzip => "gzip",
                    Compression::Zstd => "zstd",
                },
            )
            .set("linger.ms", format!("{}", self.linger.0 as f64 / 1000.0))
            .set("batch.size", batch.to_string())
            .set("batch.num.messages", "100000")
            .set("queue.buffering.max.kbytes", (self.queue_bytes / 1024).to_string())
            .set("queue.buffering.max.messages", "200000")
            // librdkafka itself tries again for as long as it takes: it knows which were written, so that an outage of
            // whatever length repeats nothing.
            .set("message.timeout.ms", "0")
            .set("retries", i32::MAX.to_string())
            .set("retry.backoff.ms", "50")
            // A topic that is deleted while we write is said soon.
            .set("topic.metadata.propagation.max.ms", "5000")
            .set("topic.metadata.refresh.interval.ms", "60000");
        if self.transactional {
            producer
                .set("transactional.id", self.cursor_key(lane))
                // The waits of a commit are multiples of it.
                .set("retry.backoff.ms", "10")
                // One that nobody ends hides from readers what comes after it. A chunk takes a second or so.
                .set("transaction.timeout.ms", "30000")
                // A message outlives no transaction: both are given up together.
                .set("message.timeout.ms", "25000");
        } else {
            // A batch that is refused stops the producer before one behind it is written: order over speed.
            producer.set("enable.gapless.guarantee", "true");
        }
        for (property, value) in &self.options {
            producer.set(property, value);
        }
        producer
    }

    /// Who reads cursors.
    pub(super) fn reader(&self, isolation: &str, secrets: &Secrets) -> ClientConfig {
        let mut reader = self.client(secrets);
        reader
            .set("group.id", format!("{}-cursors", self.name))
            .set("isolation.level", isolation)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "100");
        reader
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<(), String> {
        let config: KafkaConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())
    }

    #[test]
    fn what_could_not_work_is_refused_with_the_key_and_without_a_password() {
        let with = |more: &str| config(&format!("brokers = 'localhost:9092'\n{more}"));
        assert_eq!(with(""), Ok(()));
        assert_eq!(with("transactional = true"), Ok(()));
        assert_eq!(with("options = { 'socket.timeout.ms' = '30000' }"), Ok(()));
        for (text, key) in [
            ("name = ''", "name"),
            ("topic_prefix = 'a b'", "topic_prefix"),
            ("cursors_topic = 'watchfire.readings'", "streams"),
            ("topics = { other = 'x' }", "topics"),
            ("linger = '1m'", "linger"),
            ("batch_bytes = 1", "batch_bytes"),
            ("queue_bytes = 1", "queue_bytes"),
            ("options = { 'no.such' = 'secret' }", "options: no.such"),
            ("options = { 'socket.timeout.ms' = 'secret' }", "options: socket.timeout.ms"),
            ("options = { 'acks' = '1' }", "options: acks"),
            ("compress = true", "compress"),
            ("sasl_password = 'secret'", "sasl_password"),
        ] {
            let said = with(text).unwrap_err();
            assert!(said.contains(key) && !said.contains("secret"), "{text}: {said}");
        }
        assert!(config("").unwrap_err().starts_with("brokers: is missing"));
        let config: KafkaConfig = toml::from_str("sasl_password = 'secret'").unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[cfg(not(feature = "kafka-tls"))]
    #[test]
    fn without_the_feature_it_is_said_which_is_missing() {
        for text in ["security_protocol = 'ssl'", "sasl_username = 'u'", "ssl_ca = '/ca.pem'"] {
            let said = config(&format!("brokers = 'localhost:9092'\n{text}")).unwrap_err();
            assert!(said.contains("kafka-tls"), "{said}");
        }
    }

    #[cfg(feature = "kafka-tls")]
    #[test]
    fn a_login_needs_both_and_a_protocol_that_has_one() {
        let with = |more: &str| config(&format!("brokers = 'localhost:9092'\n{more}"));
        assert_eq!(with("security_protocol = 'ssl'"), Ok(()));
        assert_eq!(with("security_protocol = 'sasl_ssl'\nsasl_username = 'u'\nsasl_password = 'p'"), Ok(()));
        assert!(
            with("security_protocol = 'sasl_ssl'\nsasl_username = 'u'")
                .unwrap_err()
                .contains("sasl_password")
        );
        assert!(
            with("security_protocol = 'ssl'\nsasl_username = 'u'").unwrap_err().contains("sasl_username")
        );
    }

    #[test]
    fn topics_are_the_names_of_streams() {
        let mut config = KafkaConfig::default();
        config.topics.insert("b".into(), "elsewhere".into());
        assert_eq!(config.topic("readings"), "watchfire.readings");
        assert_eq!(config.topic("means/1m"), "watchfire.means_1m");
        assert_eq!(config.topic("b"), "elsewhere");
        assert_eq!(config.alerts_topic(), "watchfire.alerts");
        assert_eq!(config.cursors_topic(), "watchfire.cursors");
    }
}
