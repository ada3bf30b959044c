//! `[sink.mqtt]`.

use std::path::PathBuf;

use serde::Deserialize;
use watchfire_model::{Duration, Secret, Selector};

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

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

/// Messages in flight hold memory twice, once here and once in the client.
const MOST_IN_FLIGHT: u16 = 10_000;

impl MqttSinkConfig {
    /// Refuses what could not work, before anything is connected to.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, what: String| Err(ConfigError { key, what });
        let address = self.address()?;
        if self.username.is_empty() && !self.password.is_empty() {
            return wrong("password", "needs a username".into());
        }
        if let Err(error) = self.password.read() {
            return wrong("password", error.to_string());
        }
        if self.ca.is_some() && !address.tls {
            return wrong("ca", "needs an url that begins with mqtts://".into());
        }
        if self.client_id.is_empty() || self.client_id.len() > 64 {
            return wrong("client_id", "is of 1 to 64 characters".into());
        }
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

    /// Where the broker is.
    pub(super) fn address(&self) -> Result<Address, ConfigError> {
        // The text is not repeated: somebody may have put a password into it.
        let wrong = |what: &str| ConfigError { key: "url", what: what.into() };
        if self.url.is_empty() {
            return Err(wrong("is missing: mqtt://host:1883, or mqtts://host:8883"));
        }
        let (tls, rest) = match self.url.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            _ => return Err(wrong("begins with mqtt:// or mqtts://")),
        };
        if rest.contains('@') {
            return Err(wrong("holds no user: there are keys for username and password"));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // A colon within brackets is of an IPv6 address.
        let (host, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong("has no port behind the colon"))?),
            None => (rest, if tls { 8883 } else { 1883 }),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        if host.is_empty() || !host.chars().all(plain) {
            return Err(wrong("names no host"));
        }
        Ok(Address { host: host.to_string(), port, tls })
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

/// A topic with these names in braces, and no others (MQTT 5, section 4.7).
fn check_topic(topic: &str, names: &[&str]) -> Result<(), String> {
    if topic.is_empty() || topic.len() > 1024 {
        return Err("is of 1 to 1024 bytes".into());
    }
    if topic.contains(['+', '#', '\0']) || topic.starts_with('$') {
        return Err("is a topic to publish to: without + and #, and not beginning with $".into());
    }
    let bare = names.iter().fold(topic.to_string(), |topic, name| topic.replace(name, ""));
    if bare.contains(['{', '}']) {
        return Err(format!("knows {} and nothing else in braces", names.join(" and ")));
    }
    Ok(())
}

/// A name as one level of a topic: what would be more than that, or a wildcard, is escaped as in an URL (RFC 3986, section
/// 2.1). Ids of devices have none of it; it is for what may come.
pub(super) fn level(name: &str) -> String {
    let mut level = String::with_capacity(name.len());
    for (place, c) in name.char_indices() {
        if matches!(c, '/' | '+' | '#' | '%') || c.is_ascii_control() || (place == 0 && c == '$') {
            level.push_str(&format!("%{:02X}", c as u32));
        } else {
            level.push(c);
        }
    }
    level
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

    #[test]
    fn a_broker_is_a_host_and_a_port() {
        let check = |url: &str, host: &str, port: u16, tls: bool| {
            let config = MqttSinkConfig { url: url.into(), ..MqttSinkConfig::default() };
            assert_eq!(config.address(), Ok(Address { host: host.into(), port, tls }), "{url}");
        };
        check("mqtt://h", "h", 1883, false);
        check("mqtts://h.example.org/", "h.example.org", 8883, true);
        check("mqtt://127.0.0.1:9", "127.0.0.1", 9, false);
        check("mqtt://[::1]:9", "[::1]", 9, false);
        check("mqtt://[::1]", "[::1]", 1883, false);
    }

    #[test]
    fn a_name_is_one_level() {
        assert_eq!(level("press-7.ä b"), "press-7.ä b");
        assert_eq!(level("a/b+c#d%"), "a%2Fb%2Bc%23d%25");
        assert_eq!(level("$SYS$"), "%24SYS$");
        assert_eq!(level("a\0"), "a%00");
    }
}
