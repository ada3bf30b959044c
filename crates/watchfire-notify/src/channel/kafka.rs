//! Alerts on a topic of Apache Kafka, each by itself as a CloudEvent 1.0 ("CloudEvents Kafka protocol binding 1.0.2"), with
//! the extensions for severity and partitioning: for programs, not for people.
//!
//! Alerts of a device have its name as key, so they are in one partition and in order. Each is there at least once: a
//! repeat has the same `ce_id` as the first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration as StdDuration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, ClientContext};
use serde::Deserialize;
use serde_json::{Value, json};
use watchfire_model::{Duration, Secret};
use watchfire_outbound::kafka::{
    Class, IS_TOPIC, Secrets, Security, SecurityProtocol, check_properties, class, fault, is_topic,
};
use watchfire_outbound::{Fault, Wrong};

use super::event::{event, label};
use super::payload::{Alert, Message};
use super::{Delivering, Outcome, Retry, unreadable};

/// The header with what is unique to an event and the same on every attempt, as messages of `[sink.kafka]` have it.
pub const ID: &str = "watchfire-id";

/// What is said of an event that the brokers took (Apache Kafka protocol guide, "Error codes", `NONE`).
const TAKEN: u16 = 0;

/// How long librdkafka may take to say that the time is over: it looks once a second.
const SLACK: StdDuration = StdDuration::from_secs(2);

/// How an event is a message (section 3 of the binding).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Attributes are headers, the value is the data.
    #[default]
    Binary,
    /// The value is an envelope with attributes and data.
    Structured,
}

/// Where alerts are written.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port` of one or more brokers, separated by commas.
    pub brokers: String,
    /// The topic. It must be there.
    pub topic: String,
    /// `binary` or `structured`. Default `binary`.
    #[serde(default)]
    pub mode: Mode,
    /// The source of the events: a URI reference that tells installations apart. Default `/watchfire`.
    #[serde(default = "source")]
    pub source: String,
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`; not said: `plaintext`. All but the first need a build with the
    /// feature `kafka-tls`.
    pub security_protocol: Option<SecurityProtocol>,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`; not said: the last.
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
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// For the events of one attempt to be acknowledged by all replicas. Default 10s.
    #[serde(default = "super::timeout")]
    pub timeout: Duration,
}

super::hidden!(KafkaConfig);

fn source() -> String {
    "/watchfire".into()
}

/// Properties that what is promised rests on, and those that a key sets: with the reason why not here.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "is set by `brokers`"),
    ("metadata.broker.list", "is set by `brokers`"),
    ("security.protocol", "is set by `security_protocol`"),
    ("transactional.id", "an event is no transaction"),
    ("enable.idempotence", "without it a resend could come twice, or out of order"),
    ("enable.gapless.guarantee", "an event that is refused would stop the others"),
    ("acks", "an event that not all replicas have may be lost"),
    ("request.required.acks", "an event that not all replicas have may be lost"),
    ("max.in.flight.requests.per.connection", "more than five may come out of order"),
    ("max.in.flight", "more than five may come out of order"),
    ("message.timeout.ms", "is set by `timeout`"),
    ("delivery.timeout.ms", "is set by `timeout`"),
    ("batch.num.messages", "brokers refuse batches, and one event shall not be refused for another"),
    ("partitioner", "consumers rely on the key"),
    ("allow.auto.create.topics", "a topic is made on purpose"),
];

impl KafkaConfig {
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

    fn producer(&self, secrets: &Secrets) -> ClientConfig {
        // librdkafka takes 0 for no end at all.
        let timeout = (self.timeout.0 / 1000).clamp(1, i32::MAX as u64);
        let mut producer = ClientConfig::new();
        producer.set_log_level(RDKafkaLogLevel::Warning);
        producer
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "watchfire-notify")
            // A missing topic stays missing until somebody makes it on purpose.
            .set("allow.auto.create.topics", "false")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            // A broker that is back is found within seconds.
            .set("reconnect.backoff.max.ms", "2000")
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("max.in.flight.requests.per.connection", "5")
            // As Java's clients do it: a device is in one partition, whoever writes.
            .set("partitioner", "murmur2_random")
            // Alerts are few, and wait for no others. A broker refuses a batch, not a message: alone, it is clear which.
            .set("linger.ms", "0")
            .set("batch.num.messages", "1")
            .set("delivery.timeout.ms", timeout.to_string())
            .set("retry.backoff.ms", "50")
            // A topic that is missing is said soon.
            .set("topic.metadata.propagation.max.ms", timeout.min(5000).to_string());
        self.security().apply(secrets, &mut producer);
        for (property, value) in &self.options {
            producer.set(property, value);
        }
        producer
    }
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &KafkaConfig) -> Result<(), String> {
    if config.brokers.trim().is_empty() {
        return Err("brokers: is missing: host:port, or several separated by commas".into());
    }
    if !is_topic(&config.topic) {
        return Err(format!("topic: {IS_TOPIC}"));
    }
    if config.source.is_empty() || config.source.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("source: is a URI reference, such as /plant/7".into());
    }
    if config.timeout == Duration::ZERO {
        return Err("timeout: is above 0s".into());
    }
    config.security().check().map_err(|wrong| wrong.to_string())?;
    for property in config.options.keys() {
        if let Some((_, why)) = RESERVED.iter().find(|(name, _)| name == property) {
            return Err(format!("options: {property}: {why}"));
        }
    }
    let secrets = config.security().secrets().map_err(|wrong: Wrong| wrong.to_string())?;
    check_properties(&config.producer(&secrets), &config.options).map_err(|what| format!("options: {what}"))
}

/// What the client says by itself: the last fault that concerns all.
#[derive(Clone, Default)]
struct Ears(Arc<Mutex<Option<Fault>>>);

impl Ears {
    fn heard(&self) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ClientContext for Ears {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        watchfire_outbound::kafka::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(Class::Retry(code)) = error.rdkafka_error_code().map(class) else { return };
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // After a login that failed all brokers are down, which says less.
        let says_more = |code: &str| matches!(code, "credentials" | "tls" | "not-permitted");
        if heard.as_ref().is_some_and(|before| says_more(before.code)) && !says_more(code) {
            return;
        }
        *heard = Some(Fault::new(code, reason));
    }
}

/// A producer.
struct Session {
    /// There until the end.
    producer: Option<FutureProducer<Ears>>,
    ears: Ears,
}

impl Session {
    /// Connects later, by itself.
    fn new(config: &KafkaConfig) -> Result<Self, Fault> {
        let secrets = config.security().secrets();
        let secrets = secrets.map_err(|wrong: Wrong| Fault::new("configuration", wrong))?;
        let ears = Ears::default();
        let made: Result<FutureProducer<Ears>, KafkaError> =
            config.producer(&secrets).create_with_context(ears.clone());
        Ok(Self { producer: Some(made.map_err(|error| fault(&error))?), ears })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(producer) = self.producer.take() else { return };
        // Its end waits for threads, which others shall not. Where there is no thread to be had it waits here.
        let _ = std::thread::Builder::new().name("kafka-end".into()).spawn(move || drop(producer));
    }
}

/// A topic that is ready to be written to. The producer is shared by clones; after an attempt that failed there is another,
/// with secrets and certificates as they are then.
#[derive(Clone)]
pub struct Kafka {
    config: Arc<KafkaConfig>,
    session: Arc<Mutex<Option<Arc<Session>>>>,
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Kafka {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &KafkaConfig) -> Result<Self, String> {
        check(config)?;
        Ok(Self { config: Arc::new(config.clone()), session: Arc::default() })
    }

    /// One attempt: all alerts, and what became of each is awaited. Where one of them may pass later all of them come
    /// again, with the same ids.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let session = match self.session() {
            Ok(session) => session,
            Err(fault) => return failed(Retry::Later(None), fault.to_string()),
        };
        let limit = self.config.timeout.to_std() + SLACK;
        let sent = self.produce(&session, delivering.id, &message);
        let outcome = match tokio::time::timeout(limit, sent).await {
            Ok(outcome) => outcome,
            Err(_) => failed(Retry::Later(None), "no answer in time".into()),
        };
        match &outcome {
            Outcome::Failed { retry: Retry::Later(_), .. } => self.give_up(&session),
            _ => session.ears.forget(),
        }
        outcome
    }

    fn session(&self) -> Result<Arc<Session>, Fault> {
        let mut kept = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = &*kept {
            return Ok(session.clone());
        }
        let session = Arc::new(Session::new(&self.config)?);
        *kept = Some(session.clone());
        Ok(session)
    }

    /// Another producer goes on, unless it does already.
    fn give_up(&self, session: &Arc<Session>) {
        let mut kept = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take_if(|kept| Arc::ptr_eq(kept, session));
    }

    async fn produce(&self, session: &Session, id: &str, message: &Message) -> Outcome {
        let stopped = || failed(Retry::Later(None), "the producer stopped; another one goes on".into());
        let Some(producer) = &session.producer else { return stopped() };
        let mut waiting = Vec::with_capacity(message.alerts.len());
        let mut errors = Vec::new();
        for alert in &message.alerts {
            let Event { key, headers, value } = encode(&self.config, id, message, alert);
            let mut list = OwnedHeaders::new_with_capacity(headers.len());
            for (name, value) in &headers {
                list = list.insert(Header { key: name, value: Some(value.as_str()) });
            }
            let record =
                FutureRecord::to(&self.config.topic).key(key.as_str()).payload(&value[..]).headers(list);
            match producer.send_result(record) {
                Ok(sent) => waiting.push(sent),
                Err((error, _)) => errors.push(error),
            }
        }
        let mut lost = false;
        for sent in waiting {
            match sent.await {
                Ok(Ok(_)) => {}
                Ok(Err((error, _))) => errors.push(error),
                Err(_) => lost = true,
            }
        }
        let refused = |error: &&KafkaError| error.rdkafka_error_code().map(class) == Some(Class::Refused);
        if let Some(error) = errors.iter().find(|error| !refused(error)) {
            let mut fault = fault(error);
            // That nothing came of it in time has a reason, where the client knows one.
            if matches!(fault.code, "slow" | "unreachable" | "anew") {
                fault = session.ears.heard().unwrap_or(fault);
            }
            return failed(Retry::Later(None), fault.to_string());
        }
        if lost {
            return stopped();
        }
        match errors.first() {
            Some(error) => failed(Retry::Never, fault(error).to_string()),
            None => Outcome::Delivered { status: TAKEN },
        }
    }
}

fn failed(retry: Retry, error: String) -> Outcome {
    Outcome::Failed { retry, status: None, error }
}

/// A record.
struct Event {
    key: String,
    headers: Vec<(String, String)>,
    value: Vec<u8>,
}

/// Severities as numbers, larger for what is worse, in the ranges of OpenTelemetry's logs data model ("SeverityNumber"),
/// which the extension of CloudEvents takes up: information, two kinds of warnings, errors, and what is fatal.
fn severity_number(severity: &str) -> Option<u8> {
    Some(match severity {
        "info" => 9,
        "warning" => 13,
        "minor" => 14,
        "major" => 17,
        "critical" => 21,
        _ => return None,
    })
}

fn encode(config: &KafkaConfig, delivery: &str, message: &Message, alert: &Alert) -> Event {
    let device = label(alert, "device");
    let key = device.unwrap_or(&alert.fingerprint).to_string();
    let id = format!("{delivery}-{}", alert.fingerprint);
    let (kind, time) = match alert.status.as_str() {
        "firing" => ("io.watchfire.alert.firing", &alert.starts_at),
        _ => ("io.watchfire.alert.resolved", &alert.ends_at),
    };
    let mut attributes: Vec<(&str, Value)> = vec![
        ("specversion", json!("1.0")),
        ("id", json!(id)),
        ("source", json!(config.source)),
        ("type", json!(kind)),
        ("time", json!(time)),
        ("partitionkey", json!(key)),
    ];
    attributes.extend(device.map(|device| ("subject", json!(device))));
    // That of an alert of others may be any word, and then there is no number for it.
    let severity = label(alert, "severity");
    attributes.extend(severity.map(|severity| ("severitytext", json!(severity))));
    attributes.extend(severity.and_then(severity_number).map(|number| ("severitynumber", json!(number))));
    let data = event(delivery, message, alert);
    let (mut headers, content_type, value) = match config.mode {
        Mode::Binary => {
            let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
            let headers = attributes.into_iter().map(|(name, value)| (format!("ce_{name}"), text(value)));
            (headers.collect::<Vec<_>>(), "application/json", data)
        }
        Mode::Structured => {
            let mut envelope = json!({ "datacontenttype": "application/json", "data": data });
            for (name, value) in attributes {
                envelope[name] = value;
            }
            (Vec::new(), "application/cloudevents+json; charset=utf-8", envelope)
        }
    };
    headers.push(("content-type".to_string(), content_type.to_string()));
    headers.push((ID.to_string(), id));
    Event { key, headers, value: value.to_string().into_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::payload::own_message;

    fn config(more: &str) -> KafkaConfig {
        toml::from_str(&format!("brokers = 'localhost:9092'\ntopic = 'notices'\n{more}")).unwrap()
    }

    fn message(labels: &[(&str, &str)], over: bool) -> Message {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let since = watchfire_model::Timestamp(1_767_225_600_000_000);
        let until = over.then(|| since + Duration::from_secs(60));
        own_message("stream", None, "device", labels, "Bearing too hot", since, until)
    }

    #[test]
    fn what_could_not_work_is_refused_with_the_key_and_without_a_secret() {
        for more in
            ["", "mode = 'structured'\nsource = '/plant/7'", "options = { 'compression.type' = 'lz4' }"]
        {
            assert_eq!(check(&config(more)), Ok(()), "{more}");
        }
        for (more, key) in [
            ("source = ''", "source: "),
            ("timeout = '0s'", "timeout: "),
            ("sasl_password = 'secret'", "sasl_password: "),
            ("options = { 'acks' = '1' }", "options: acks: "),
            ("options = { 'no.such' = 'secret' }", "options: no.such: "),
            ("options = { 'socket.timeout.ms' = 'secret' }", "options: socket.timeout.ms: "),
        ] {
            let said = check(&config(more)).unwrap_err();
            assert!(said.starts_with(key) && !said.contains("secret"), "{more}: {said}");
        }
        let said = check(&KafkaConfig { brokers: " ".into(), ..config("") }).unwrap_err();
        assert!(said.starts_with("brokers: is missing"), "{said}");
        let said = check(&KafkaConfig { topic: "a b".into(), ..config("") }).unwrap_err();
        assert!(said.starts_with("topic: 1 to 249"), "{said}");
        assert!(!format!("{:?}", config("sasl_password = 'secret'")).contains("secret"));
    }

    #[cfg(not(feature = "kafka-tls"))]
    #[test]
    fn without_the_feature_it_is_said_which_is_missing() {
        let said = check(&config("security_protocol = 'ssl'")).unwrap_err();
        assert!(said.starts_with("security_protocol: ") && said.contains("kafka-tls"), "{said}");
    }

    #[test]
    fn an_alert_is_an_event_in_both_modes() {
        let labels = [("device", "press-1"), ("rule", "hot"), ("severity", "critical")];
        let firing = message(&labels, false);
        let alert = &firing.alerts[0];
        let binary = encode(&config(""), "d-1", &firing, alert);
        assert_eq!(binary.key, "press-1");
        let data: Value = serde_json::from_slice(&binary.value).unwrap();
        assert_eq!((&data["id"], &data["status"]), (&json!("d-1"), &json!("firing")));
        let headers: BTreeMap<_, _> = binary.headers.into_iter().collect();
        let id = format!("d-1-{}", alert.fingerprint);
        for (name, value) in [
            ("ce_specversion", "1.0"),
            ("ce_id", &id),
            ("ce_source", "/watchfire"),
            ("ce_type", "io.watchfire.alert.firing"),
            ("ce_time", &alert.starts_at),
            ("ce_subject", "press-1"),
            ("ce_severitytext", "critical"),
            ("ce_severitynumber", "21"),
            ("ce_partitionkey", "press-1"),
            ("content-type", "application/json"),
            (ID, &id),
        ] {
            assert_eq!(headers.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(headers.len(), 11);

        let over = message(&labels, true);
        let structured = encode(&config("mode = 'structured'"), "d-2", &over, &over.alerts[0]);
        let envelope: Value = serde_json::from_slice(&structured.value).unwrap();
        assert_eq!(envelope["type"], "io.watchfire.alert.resolved");
        assert_eq!(envelope["time"], json!(over.alerts[0].ends_at));
        assert_eq!(envelope["severitynumber"], 21);
        assert_eq!(envelope["data"]["receiver"], "stream");
        assert_eq!(structured.headers[0].1, "application/cloudevents+json; charset=utf-8");
    }

    #[test]
    fn an_alert_of_others_has_its_fingerprint_as_key_and_no_number() {
        let other = message(&[("alertname", "Down"), ("severity", "page")], false);
        let event = encode(&config(""), "d-1", &other, &other.alerts[0]);
        assert_eq!(event.key, other.alerts[0].fingerprint);
        let has = |name: &str| event.headers.iter().any(|(header, _)| header == name);
        assert!(has("ce_severitytext") && !has("ce_severitynumber") && !has("ce_subject"));
    }
}
