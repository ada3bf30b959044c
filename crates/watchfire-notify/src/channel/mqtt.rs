//! Alerts published to a broker that speaks MQTT 5, each by itself as JSON with QoS 1: for programs and displays, not for
//! people.
//!
//! With `retain` a broker holds what stands: an alert that fires is retained on a topic of its own, and once it is over that
//! topic is cleared. Who subscribes to the topics of a device, whenever that is, then has what stands at it. It can only be
//! so where no two alerts share a topic, so an alert without device or rule (one that another program gave, or one of
//! Watchfire's own) is published and not retained, and neither is a test.

use std::path::PathBuf;
use std::sync::Arc;

use rand::Rng as _;
use serde::Deserialize;
use tokio::sync::Mutex;
use watchfire_model::{Duration, Secret};
use watchfire_outbound::mqtt::{Broker, Connection, NotTaken, check_client_id, check_topic, level};
use watchfire_outbound::{Fault, mqtt};

use super::event::{event, label};
use super::payload::{Alert, Message};
use super::{Delivering, Outcome, Retry, unreadable};

/// What a topic may hold in braces, each filled from the label of that name.
const PLACES: [&str; 5] = ["{device}", "{rule}", "{key}", "{site}", "{severity}"];

/// Those that together no two alerts share.
const OWN: [&str; 3] = ["{device}", "{rule}", "{key}"];

/// Messages that are not acknowledged yet, at most.
const IN_FLIGHT: u16 = 100;

/// What a broker answers that takes a message (MQTT 5, section 3.4.2.1, "Success").
const TAKEN: u16 = 0;

/// Where alerts are published.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// `mqtt://host:1883`, or with TLS `mqtts://host:8883`.
    pub url: String,
    /// Who we are there; empty: nobody.
    #[serde(default)]
    pub username: String,
    /// What proves it.
    #[serde(default)]
    pub password: Secret,
    /// With `mqtts`: a file with the certificates that its certificate rests on; not said: those of the system.
    pub ca: Option<PathBuf>,
    /// What the names of our clients begin with. Default `watchfire`.
    #[serde(default = "client_id")]
    pub client_id: String,
    /// Where an alert goes: `{device}`, `{rule}`, `{key}`, `{site}` and `{severity}` are its labels, each as one level of the
    /// topic; `_` where it has no such label. Default `watchfire/notices/{device}/{rule}/{key}`.
    #[serde(default = "topic")]
    pub topic: String,
    /// Whether what fires is retained until it is over. Default true.
    #[serde(default = "retain")]
    pub retain: bool,
    /// For a whole attempt, with the connection where there is none. Default 10s.
    #[serde(default = "super::timeout")]
    pub timeout: Duration,
}

super::hidden!(MqttConfig);

fn client_id() -> String {
    "watchfire".into()
}

fn topic() -> String {
    "watchfire/notices/{device}/{rule}/{key}".into()
}

fn retain() -> bool {
    true
}

impl MqttConfig {
    fn broker(&self) -> Broker<'_> {
        let Self { url, username, password, ca, .. } = self;
        Broker { url, username, password, ca: ca.as_deref() }
    }
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &MqttConfig) -> Result<(), String> {
    config.broker().check().map_err(|wrong| wrong.to_string())?;
    check_client_id(&config.client_id).map_err(|wrong| wrong.to_string())?;
    check_topic(&config.topic, &PLACES).map_err(|what| format!("topic: {what}"))?;
    let missing = OWN.iter().find(|place| !config.topic.split('/').any(|level| level == **place));
    if let Some(place) = missing.filter(|_| config.retain) {
        return Err(format!(
            "topic: needs {place} as a level of its own: what is retained on a topic is of one alert, so give it {}, or say \
             retain = false",
            OWN.join(", ")
        ));
    }
    if config.timeout == Duration::ZERO {
        return Err("timeout: is above 0s".into());
    }
    Ok(())
}

/// A broker that is ready to be used. One connection is kept open, and shared by clones; it is opened anew, with secrets and
/// certificates as they are then, once something failed.
#[derive(Clone)]
pub struct Mqtt {
    config: Arc<MqttConfig>,
    connection: Arc<Mutex<Option<Connection>>>,
}

impl std::fmt::Debug for Mqtt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mqtt").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Mqtt {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &MqttConfig) -> Result<Self, String> {
        check(config)?;
        Ok(Self { config: Arc::new(config.clone()), connection: Arc::default() })
    }

    /// One attempt: each alert in order. Where it fails all of them come again, under the same id.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let messages = messages(&self.config, delivering.id, &message);
        // Whoever waits for the connection has not begun.
        let mut kept = self.connection.lock().await;
        match tokio::time::timeout(self.config.timeout.to_std(), self.publish(&mut kept, messages)).await {
            Ok(outcome) => outcome,
            Err(_) => failed(Retry::Later(None), "no answer in time".into()),
        }
    }

    async fn publish(&self, kept: &mut Option<Connection>, messages: Vec<mqtt::Message>) -> Outcome {
        let mut refusal = None;
        let mut rest = messages;
        while !rest.is_empty() {
            // Taken out: an attempt that runs out of its time leaves no connection with messages of its own behind.
            let mut connection = match kept.take() {
                // It broke while there was nothing to say: that is no failure yet.
                Some(connection) if !connection.is_broken() => connection,
                _ => match self.connect().await {
                    Ok(connection) => connection,
                    Err(fault) => return failed(Retry::Later(None), fault.to_string()),
                },
            };
            let largest = connection.largest;
            // One that is too large keeps the others from nobody.
            let (fitting, large): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|message| message.size() <= largest);
            if let Some(size) = large.iter().map(mqtt::Message::size).max() {
                refusal = Some(format!("an alert of {size} bytes; the broker takes {largest}"));
            }
            match connection.publish(fitting.len(), |place| fitting[place].clone(), |_| ()).await {
                Ok(()) => {
                    *kept = Some(connection);
                    break;
                }
                // Neither does one that the broker refuses; but the connection is gone with it.
                Err(NotTaken { refused: Some(place), fault }) => {
                    refusal = Some(fault.to_string());
                    rest = fitting.into_iter().skip(place + 1).collect();
                }
                Err(NotTaken { refused: None, fault }) => {
                    return failed(Retry::Later(None), fault.to_string());
                }
            }
        }
        match refusal {
            Some(error) => failed(Retry::Never, error),
            None => Outcome::Delivered { status: TAKEN },
        }
    }

    async fn connect(&self) -> Result<Connection, Fault> {
        // A name that nobody else has: a broker ends the connection of an older client with the same one.
        let client_id = format!("{}-notify-{:08x}", self.config.client_id, rand::rng().random::<u32>());
        Connection::open(&self.config.broker(), client_id, IN_FLIGHT).await
    }
}

fn failed(retry: Retry, error: String) -> Outcome {
    Outcome::Failed { retry, status: None, error }
}

/// What is published of a message, in order.
fn messages(config: &MqttConfig, id: &str, message: &Message) -> Vec<mqtt::Message> {
    let mut messages = Vec::with_capacity(message.alerts.len());
    for alert in &message.alerts {
        let topic = topic_of(config, alert);
        let fires = alert.status == "firing";
        let stands = config.retain
            && message.notification_reason != "test"
            && label(alert, "device").is_some()
            && label(alert, "rule").is_some();
        let payload = event(id, message, alert).to_string().into_bytes();
        messages.push(mqtt::Message { topic: topic.clone(), payload, retain: stands && fires });
        if stands && !fires {
            messages.push(mqtt::Message { topic, payload: Vec::new(), retain: true });
        }
    }
    messages
}

/// In one pass: what a label says is never taken for a place to fill.
fn topic_of(config: &MqttConfig, alert: &Alert) -> String {
    let mut topic = String::with_capacity(config.topic.len() + 64);
    let mut rest = config.topic.as_str();
    while let Some((before, behind)) = rest.split_once('{') {
        let Some((name, behind)) = behind.split_once('}') else { break };
        topic.push_str(before);
        topic.push_str(&place(label(alert, name)));
        rest = behind;
    }
    topic.push_str(rest);
    topic
}

/// A label as a level. One that is called as an absent one is written is escaped: the two are not the same.
fn place(label: Option<&str>) -> String {
    match label {
        None => "_".into(),
        Some("_") => "%5F".into(),
        Some(label) => level(label),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> MqttConfig {
        toml::from_str(&format!("url = 'mqtt://localhost'\n{more}")).unwrap()
    }

    fn alert(status: &str, labels: &[(&str, &str)]) -> Alert {
        Alert {
            status: status.into(),
            labels: labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            annotations: Default::default(),
            starts_at: "2026-07-01T08:00:00Z".into(),
            ends_at: "0001-01-01T00:00:00Z".into(),
            generator_url: String::new(),
            fingerprint: "f".into(),
            response: None,
        }
    }

    fn message(alerts: Vec<Alert>) -> Message {
        let labels = Default::default();
        let now = watchfire_model::Timestamp(0);
        let own = super::super::payload::own_message("display", None, "alertname", labels, "text", now, None);
        Message { alerts, ..own }
    }

    #[test]
    fn what_could_not_work_is_refused_with_the_key_and_without_a_secret() {
        for more in [
            "",
            "username = 'me'\npassword = 'secret'",
            "topic = 'a/{site}/{device}/{rule}/{key}'",
            "topic = 'all'\nretain = false",
            "topic = 'a/{device}-{severity}'\nretain = false",
        ] {
            assert_eq!(check(&config(more)), Ok(()), "{more}");
        }
        for (more, key) in [
            ("password = 'secret'", "password: "),
            ("ca = '/ca.pem'", "ca: "),
            ("client_id = ''", "client_id: "),
            ("topic = 'a/+/{device}/{rule}/{key}'", "topic: "),
            ("topic = '{device}/{rule}/{key}/{line}'", "topic: "),
            ("topic = 'a/{device}/{rule}'", "topic: needs {key}"),
            ("topic = 'a/{device}-{rule}/{key}'", "topic: needs {device}"),
            ("timeout = '0s'", "timeout: "),
        ] {
            let said = check(&config(more)).unwrap_err();
            assert!(said.starts_with(key) && !said.contains("secret"), "{more}: {said}");
        }
        for url in ["", "localhost:1883", "mqtt://u:secret@h"] {
            let said = check(&MqttConfig { url: url.into(), ..config("") }).unwrap_err();
            assert!(said.starts_with("url: ") && !said.contains("secret"), "{url}: {said}");
        }
        let shown = format!("{:?}", config("username = 'me'\npassword = 'secret'"));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn each_label_is_one_level_and_no_two_alerts_share_a_topic() {
        let of = |labels: &[(&str, &str)]| topic_of(&config(""), &alert("firing", labels));
        let (device, rule) = (("device", "press-1"), ("rule", "hot"));
        assert_eq!(of(&[device, rule]), "watchfire/notices/press-1/hot/_");
        assert_eq!(of(&[device, rule, ("key", "")]), "watchfire/notices/press-1/hot/_");
        assert_eq!(of(&[device, rule, ("key", "_")]), "watchfire/notices/press-1/hot/%5F");
        assert_eq!(of(&[device, rule, ("key", "a/b+#")]), "watchfire/notices/press-1/hot/a%2Fb%2B%23");
        assert_eq!(of(&[("device", "{rule}"), rule]), "watchfire/notices/{rule}/hot/_");
    }

    #[test]
    fn what_fires_is_retained_and_its_end_clears_it() {
        let own = [("device", "press-1"), ("rule", "hot"), ("severity", "major")];
        let sent = |more: &str, message: &Message| -> Vec<(bool, bool)> {
            let sent = messages(&config(more), "d-1", message);
            sent.iter().map(|one| (one.retain, one.payload.is_empty())).collect()
        };
        let both = message(vec![alert("resolved", &own), alert("firing", &own)]);
        assert_eq!(sent("", &both), [(false, false), (true, true), (true, false)]);
        assert_eq!(sent("retain = false", &both), [(false, false), (false, false)]);
        // Of others, and a test.
        assert_eq!(sent("", &message(vec![alert("firing", &[("alertname", "Down")])])), [(false, false)]);
        let test = Message { notification_reason: "test".into(), ..message(vec![alert("firing", &own)]) };
        assert_eq!(sent("", &test), [(false, false)]);

        let first = &messages(&config(""), "d-1", &both)[0];
        let said: serde_json::Value = serde_json::from_slice(&first.payload).unwrap();
        assert_eq!(said["id"], "d-1");
        assert_eq!(said["status"], "resolved");
        assert_eq!(said["receiver"], "display");
        assert_eq!(said["groupKey"], both.group_key);
        assert_eq!(said["labels"]["severity"], "major");
        assert_eq!(said["startsAt"], "2026-07-01T08:00:00Z");
    }
}
