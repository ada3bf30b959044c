//! What can be configured of `[source.kafka]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::Error as _;
use watchfire_decode::{Mapping, Shape};
use watchfire_model::secret::SecretError;
use watchfire_model::{Duration, Secret, Timestamp};

use crate::contract::matches_pattern;
use crate::intake::UnknownDevices;
use crate::mapping::{MappingConfig, MappingConfigError, pointers};

/// Topics of a Kafka cluster that readings come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaOptions {
    /// `false`: nothing is read.
    pub enabled: bool,
    /// Brokers to begin with, `host:port`, separated by commas.
    pub brokers: String,
    /// Topics by name; a name that begins with `^` is a regular expression.
    pub topics: Vec<String>,
    /// The consumer group. Nodes of one group share the partitions.
    pub group: String,
    /// Where a partition begins that neither our log nor the group knows.
    pub start: Start,
    /// What values are.
    pub format: ValueFormat,
    /// What names the device of a record.
    pub device: DeviceFrom,
    /// The header that does, where `device` says so.
    pub device_header: String,
    /// What becomes of readings of devices that are not registered.
    pub unknown_devices: UnknownDevices,
    /// Whoever operates this installation is told once nothing could be read for this long.
    pub alert_after: Duration,
    /// Bytes of the largest value that is decoded. A dead letter keeps as much of a larger one.
    pub record_bytes: usize,
    /// Records of one append, at most ...
    pub batch_records: usize,
    /// ... and bytes of them.
    pub batch_bytes: usize,
    /// TLS to the brokers.
    pub tls: Option<KafkaTls>,
    /// Who we are.
    pub sasl: Option<KafkaSasl>,
    /// Values of other shapes; `topic` may have `*` for any run of characters.
    pub mapping: Vec<MappingConfig>,
    /// Further properties of librdkafka, by their names.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            enabled: false,
            brokers: "127.0.0.1:9092".into(),
            topics: Vec::new(),
            group: "watchfire".into(),
            start: Start::Earliest,
            format: ValueFormat::Json,
            device: DeviceFrom::Field,
            device_header: "device".into(),
            unknown_devices: UnknownDevices::Refuse,
            alert_after: Duration::from_secs(300),
            record_bytes: 1 << 20,
            batch_records: 10_000,
            batch_bytes: 4 << 20,
            tls: None,
            sasl: None,
            mapping: Vec::new(),
            properties: BTreeMap::new(),
        }
    }
}

/// Where a partition begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At its first record.
    Earliest,
    /// Behind its last record.
    Latest,
    /// At the first record of this time or later.
    At(Timestamp),
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            text => text.parse().map(Self::At).map_err(|_| {
                D::Error::custom(format!(
                    "{text:?} is neither \"earliest\" nor \"latest\" nor an RFC 3339 time"
                ))
            }),
        }
    }
}

/// What values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueFormat {
    /// JSON: a reading, an array of readings, or a reading a line.
    Json,
    /// CBOR of the same shapes; a sequence takes the place of lines.
    Cbor,
}

/// What names the device of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceFrom {
    /// A field of the value: `device`, or what the mapping says.
    Field,
    /// The key.
    Key,
    /// A header.
    Header,
}

/// TLS to the brokers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaTls {
    /// PEM with the authorities that we trust; not given: those of the system.
    pub ca: Option<PathBuf>,
    /// PEM with our certificate, where the brokers ask for one.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Who we are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// Our name.
    pub username: String,
    /// Its password.
    pub password: Secret,
}

/// `[source.kafka]` cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key}: {fault}")]
pub struct KafkaConfigError {
    /// The key below `source.kafka`.
    pub key: &'static str,
    /// What is wrong.
    pub fault: String,
}

/// Properties of librdkafka that decide whether anything is lost or read twice.
const OURS: &[&str] = &[
    "allow.auto.create.topics",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "group.id",
    "group.protocol",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "sasl.password",
    "security.protocol",
    "statistics.interval.ms",
];

impl KafkaOptions {
    /// Says what is wrong, if anything is. Opens nothing.
    pub fn check(&self) -> Result<(), KafkaConfigError> {
        if !self.enabled {
            return Ok(());
        }
        let wrong = |key, fault: &str| Err(KafkaConfigError { key, fault: fault.into() });
        if !cfg!(feature = "kafka") {
            return wrong("enabled", "this binary was built without the feature `kafka`");
        }
        if !cfg!(feature = "kafka-tls") && (self.tls.is_some() || self.sasl.is_some()) {
            let key = if self.tls.is_some() { "tls" } else { "sasl" };
            return wrong(key, "this binary was built without the feature `kafka-tls`, which needs OpenSSL");
        }
        if self.topics.is_empty() || self.topics.iter().any(String::is_empty) {
            return wrong("topics", "names at least one topic, or a pattern that begins with ^");
        }
        if self.brokers.trim().is_empty() {
            return wrong("brokers", "names at least one broker, as host:port");
        }
        if self.group.is_empty() {
            return wrong("group", "is not empty");
        }
        if let Some(tls) = &self.tls
            && tls.certificate.is_some() != tls.key.is_some()
        {
            return wrong("tls", "certificate and key are given together");
        }
        const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
        if self.sasl.as_ref().is_some_and(|sasl| !MECHANISMS.contains(&sasl.mechanism.as_str())) {
            return wrong("sasl", "mechanism is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512");
        }
        if let Some(Err(error)) = self.password() {
            return wrong("sasl", &format!("password: {error}"));
        }
        if self.batch_records == 0 || self.batch_bytes == 0 || self.record_bytes == 0 {
            return wrong("batch_records", "is at least 1, and so are batch_bytes and record_bytes");
        }
        if let Some(name) = self.properties.keys().find(|name| OURS.contains(&name.as_str())) {
            return wrong("properties", &format!("{name} is not set here: what is read once depends on it"));
        }
        self.mappings().map_err(|error| KafkaConfigError { key: "mapping", fault: error.to_string() })?;
        Ok(())
    }

    /// The password as it is now, where there is one.
    pub(super) fn password(&self) -> Option<Result<String, SecretError>> {
        self.sasl.as_ref().map(|sasl| sasl.password.read())
    }

    /// The mappings, ready to be used.
    pub fn mappings(&self) -> Result<Vec<KafkaMapping>, MappingConfigError> {
        self.mapping
            .iter()
            .map(|config| {
                let mapping = pointers(config)?;
                if mapping.device.is_none() && self.device == DeviceFrom::Field {
                    let what = "no pointer says which device it is, and neither key nor header do";
                    return Err(MappingConfigError::new(config, what));
                }
                Ok(KafkaMapping { topic: config.topic.clone(), mapping })
            })
            .collect()
    }
}

/// A mapping of the topics of a pattern.
#[derive(Clone, Debug)]
pub struct KafkaMapping {
    topic: String,
    mapping: Mapping,
}

/// What the items of a record look like, by its topic and the device that key or header name.
pub(crate) fn shape<'a>(mappings: &'a [KafkaMapping], topic: &str, device: Option<&'a str>) -> Shape<'a> {
    match mappings.iter().find(|mapping| matches_pattern(&mapping.topic, topic)) {
        Some(KafkaMapping { mapping, .. }) => Shape::Mapped { mapping, device, metric: None },
        None => device.map_or(Shape::Event, Shape::Device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), KafkaConfigError> {
        toml::from_str::<KafkaOptions>(text).unwrap().check()
    }

    #[test]
    fn starts() {
        let start = |text: &str| toml::from_str::<KafkaOptions>(text).map(|options| options.start);
        assert_eq!(start("start = 'earliest'").unwrap(), Start::Earliest);
        assert_eq!(start("start = 'latest'").unwrap(), Start::Latest);
        let at = start("start = '1970-01-01T00:00:01Z'").unwrap();
        assert_eq!(at, Start::At(Timestamp(1_000_000)));
        assert!(start("start = 'yesterday'").unwrap_err().to_string().contains("yesterday"));
    }

    #[test]
    fn what_cannot_be_used_is_said_before_anything_is_opened() {
        assert!(check("").is_ok(), "it is off");
        assert_eq!(
            check("enabled = true").unwrap_err().key,
            if cfg!(feature = "kafka") { "topics" } else { "enabled" }
        );
        if !cfg!(feature = "kafka") {
            return;
        }
        let with =
            |more: &str| check(&format!("enabled = true\ntopics = ['t']\n{more}")).map_err(|error| error.key);
        assert_eq!(with(""), Ok(()));
        assert_eq!(with("group = ''"), Err("group"));
        assert_eq!(with("brokers = ' '"), Err("brokers"));
        assert_eq!(with("properties = { 'auto.offset.reset' = 'latest' }"), Err("properties"));
        assert_eq!(with("[[mapping]]\ntopic = '*'"), Err("mapping"));
        assert_eq!(with("device = 'key'\n[[mapping]]\ntopic = '*'"), Ok(()));
        let tls = if cfg!(feature = "kafka-tls") { Ok(()) } else { Err("tls") };
        assert_eq!(with("[tls]"), tls);
    }

    #[test]
    fn a_mapping_is_of_its_topics() {
        let text = "device = 'key'\n[[mapping]]\ntopic = 'plant.*'\nmetrics = '/values'";
        let mappings = toml::from_str::<KafkaOptions>(text).unwrap().mappings().unwrap();
        assert!(matches!(shape(&mappings, "plant.lyon", Some("a")), Shape::Mapped { device: Some("a"), .. }));
        assert!(matches!(shape(&mappings, "other", Some("a")), Shape::Device("a")));
        assert!(matches!(shape(&mappings, "other", None), Shape::Event));
    }

    #[test]
    fn passwords_are_not_printed() {
        let text = "[sasl]\nmechanism = 'PLAIN'\nusername = 'u'\npassword = 's3cret'";
        assert!(!format!("{:?}", toml::from_str::<KafkaOptions>(text).unwrap()).contains("s3cret"));
    }
}
