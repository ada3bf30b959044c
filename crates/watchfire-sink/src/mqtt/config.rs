//! `[sink.mqtt]`.

use std::path::PathBuf;

use serde::Deserialize;
use watchfire_model::{Duration, Secret, Selector};
use watchfire_outbound::mqtt::{Broker, check_client_id, check_topic, level};

use crate::chunk::Takes;
use crate::section::{ConfigError, Start};

/// A broker that speaks MQTT 5.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttSinkConfig {
    /// `mqtt://host:1883`, or with TLS `mqtts://host:8883`.
    pub url: String,
    /// Who we are there; empty: nobody.
    pub username: String,
    /// What proves it.
    pub password: Secret,
    /// With `mqtts`: a file with the certificates that its certificate rests on; not said: those of the system.
    pub ca: Option<PathBuf>,
    /// What names of clients begin with; each lane has a connection of its own.
    pub client_id: String,
    /// Where readings go: `{stream}` and `{device}` stand for what they are of.
    pub topic: String,
    /// Where transitions of alerts go.
    pub events_topic: String,
    /// Where the active alerts of a device stand, retained; empty: nowhere.
    pub state_topic: String,
    /// Messages that are not acknowledged yet, of each lane, at most.
    pub in_flight: u16,
    /// Streams that are published; `readings` is what devices sent.
    pub streams: Vec<String>,
    /// Devices.
    pub select: Selector,
    /// Metrics, by name or with a `*` at the end; empty: all.
    pub metrics: Vec<String>,
    /// Alerts and their transitions.
    pub alerts: bool,
    /// Where a sink that is new begins.
    pub start: Start,
    /// Whoever operates this installation is told once nothing got through for this long.
    pub alert_after: Duration,
}

impl Default for MqttSinkConfig {
    fn default() -> Self {
        let takes = Takes::default();
        Self {
            url: String::new(),
            username: String::new(),
            password: Secret::default(),
            ca: None,
            client_id: "watchfire".into(),
            topic: "watchfire/{stream}/{device}".into(),
            events_topic: "watchfire/alerts/{device}/events".into(),
            state_topic: "watchfire/alerts/{device}".into(),
            in_flight: 100,
            streams: takes.streams,
            select: takes.select,
            metrics: takes.metrics,
            alerts: true,
            start: Start::Earliest,
            alert_after: Duration::from_secs(300),
        }
    }
}

impl std::fmt::Debug for MqttSinkConfig {
    /// Not who we are there, nor what proves it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MqttSinkConfig").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// Messages in flight hold memory twice, once here and once in the client.
const MOST_IN_FLIGHT: u16 = 10_000;

impl MqttSinkConfig {
    /// Refuses what could not work, before anything is connected to.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, what: String| Err(ConfigError { key, what });
        self.broker().check()?;
        check_client_id(&self.client_id)?;
        if !(1..=MOST_IN_FLIGHT).contains(&self.in_flight) {
            return wrong("in_flight", format!("is from 1 to {MOST_IN_FLIGHT}"));
        }
        let topics = [
            ("topic", &self.topic, &["{stream}", "{device}"][..]),
            ("events_topic", &self.events_topic, &["{device}"][..]),
            ("state_topic", &self.state_topic, &["{device}"][..]),
        ];
        for (key, topic, names) in topics {
            if key == "state_topic" && topic.is_empty() {
                continue;
            }
            if let Err(what) = check_topic(topic, names) {
                return wrong(key, what);
            }
        }
        if !self.alerts {
            return Ok(());
        }
        if !self.state_topic.is_empty() && !self.state_topic.contains("{device}") {
            return wrong("state_topic", "needs {device}: there is one state for each".into());
        }
        if self.state_topic == self.events_topic {
            return wrong("state_topic", "is that of events, which are not retained".into());
        }
        for stream in &self.streams {
            let of_stream = self.topic.replace("{stream}", &level(stream));
            if of_stream == self.state_topic || of_stream == self.events_topic {
                return wrong("topic", format!("the stream {stream:?} would share a topic with alerts"));
            }
        }
        Ok(())
    }

    /// Where the broker is, and who we are there.
    pub(super) fn broker(&self) -> Broker<'_> {
        let Self { url, username, password, ca, .. } = self;
        Broker { url, username, password, ca: ca.as_deref() }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<MqttSinkConfig, String> {
        let config: MqttSinkConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn what_could_not_work_is_refused_with_the_key_and_without_a_secret() {
        let with = |more: &str| config(&format!("url = 'mqtt://localhost'\n{more}"));
        with("").unwrap();
        with("topic = 'all'").unwrap();
        with("state_topic = ''").unwrap();
        with("streams = ['alerts']\nalerts = false").unwrap();
        for (text, key) in [
            ("password = 'secret'", "password"),
            ("ca = '/ca.pem'", "ca"),
            ("client_id = ''", "client_id"),
            ("in_flight = 0", "in_flight"),
            ("topic = 'a/+'", "topic"),
            ("topic = '$SYS/{device}'", "topic"),
            ("topic = 'a/{site}'", "topic"),
            ("events_topic = '{stream}'", "events_topic"),
            ("state_topic = 'a'", "state_topic"),
            ("state_topic = 'watchfire/alerts/{device}/events'", "state_topic"),
            ("streams = ['alerts']", "topic"),
            ("qos = 2", "qos"),
        ] {
            let said = with(text).unwrap_err();
            assert!(said.contains(key) && !said.contains("'secret"), "{text}: {said}");
        }
        for url in ["", "localhost:1883", "mqtt://", "mqtt://u:secret@h", "mqtt://h:port", "mqtt://a b"] {
            let said = config(&format!("url = '{url}'")).unwrap_err();
            assert!(said.starts_with("url: ") && !said.contains("secret"), "{url}: {said}");
        }
        let shown = with("username = 'me'\npassword = 'secret'").unwrap();
        assert!(!format!("{shown:?}").contains("secret"));
    }
}
