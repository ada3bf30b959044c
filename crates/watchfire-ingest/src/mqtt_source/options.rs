//! What can be configured of `[source.mqtt]`.

use std::path::PathBuf;

use serde::Deserialize;
use watchfire_model::{Duration, Secret};

use crate::intake::UnknownDevices;
use crate::mapping::{AddressMapping, MappingConfig, MappingConfigError};

/// Topics of an existing MQTT broker that readings come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttSourceOptions {
    /// `false`: nothing is subscribed to.
    pub enabled: bool,
    /// The broker, `host:port`.
    pub broker: String,
    /// Who we are to the broker: it keeps our session under this name.
    pub client_id: String,
    /// The user, where the broker asks for one.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Filters that are subscribed to with QoS 1.
    pub topics: Vec<String>,
    /// What becomes of readings of devices that are not registered.
    pub unknown_devices: UnknownDevices,
    /// Whoever operates this installation is told once nothing could be read for this long.
    pub alert_after: Duration,
    /// Bytes of the largest message.
    pub packet_bytes: usize,
    /// Messages that may wait for the log and their acknowledgement.
    pub in_flight: usize,
    /// Seconds of silence after which each side makes sure of the other.
    pub keep_alive_seconds: u64,
    /// TLS to the broker.
    pub tls: Option<MqttSourceTls>,
    /// Topics and payloads of other shapes.
    pub mapping: Vec<MappingConfig>,
}

impl Default for MqttSourceOptions {
    fn default() -> Self {
        Self {
            enabled: false,
            broker: "127.0.0.1:1884".into(),
            client_id: "watchfire".into(),
            username: None,
            password: None,
            topics: vec!["devices/+/telemetry".into()],
            unknown_devices: UnknownDevices::Refuse,
            alert_after: Duration::from_secs(300),
            packet_bytes: 1 << 20,
            in_flight: 1000,
            keep_alive_seconds: 30,
            tls: None,
            mapping: Vec::new(),
        }
    }
}

/// TLS to the broker.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttSourceTls {
    /// PEM with the authorities that we trust.
    pub ca: PathBuf,
    /// PEM with our certificate, where the broker asks for one.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

/// `[source.mqtt]` cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key}: {fault}")]
pub struct MqttSourceError {
    /// The key below `source.mqtt`.
    pub key: &'static str,
    /// What is wrong.
    pub fault: String,
}

impl MqttSourceOptions {
    /// Says what is wrong, if anything is. Opens nothing.
    pub fn check(&self) -> Result<(), MqttSourceError> {
        if !self.enabled {
            return Ok(());
        }
        let wrong = |key, fault: &str| Err(MqttSourceError { key, fault: fault.into() });
        self.address()?;
        if self.client_id.is_empty() {
            return wrong("client_id", "is not empty: the broker keeps our session under it");
        }
        if self.topics.is_empty() || self.topics.iter().any(|filter| !rumqttc::valid_filter(filter)) {
            return wrong("topics", "are filters of MQTT, one at least");
        }
        if self.password.is_some() && self.username.is_none() {
            return wrong("username", "is given with a password");
        }
        if let Some(Err(error)) = self.password.as_ref().map(Secret::read) {
            return wrong("password", &error.to_string());
        }
        if self.packet_bytes < 1024 || self.in_flight == 0 || self.in_flight > 65_535 {
            return wrong("in_flight", "is 1 to 65535, and packet_bytes at least 1024");
        }
        if self.keep_alive_seconds < 5 || self.keep_alive_seconds > 65_535 {
            return wrong("keep_alive_seconds", "is 5 to 65535");
        }
        if self.tls.as_ref().is_some_and(|tls| tls.certificate.is_some() != tls.key.is_some()) {
            return wrong("tls", "certificate and key are given together");
        }
        self.mappings().map_err(|error| MqttSourceError { key: "mapping", fault: error.to_string() })?;
        Ok(())
    }

    /// Host and port.
    pub(super) fn address(&self) -> Result<(String, u16), MqttSourceError> {
        let parts = self.broker.rsplit_once(':');
        let parts = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match parts.filter(|(host, _)| !host.is_empty()) {
            Some((host, port)) => Ok((host.trim_matches(['[', ']']).into(), port)),
            None => Err(MqttSourceError { key: "broker", fault: "is host:port".into() }),
        }
    }

    /// The mappings, ready to be used.
    pub fn mappings(&self) -> Result<Vec<AddressMapping>, MappingConfigError> {
        self.mapping.iter().map(AddressMapping::try_from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_said_before_anything_is_opened() {
        let check = |text: &str| {
            let options: MqttSourceOptions = toml::from_str(text).unwrap();
            options.check().map_err(|error| error.key)
        };
        assert_eq!(check("broker = ''"), Ok(()), "it is off");
        let with = |more: &str| check(&format!("enabled = true\n{more}"));
        assert_eq!(with(""), Ok(()));
        assert_eq!(with("broker = '[::1]:1883'"), Ok(()));
        assert_eq!(with("broker = 'host'"), Err("broker"));
        assert_eq!(with("broker = ':1883'"), Err("broker"));
        assert_eq!(with("client_id = ''"), Err("client_id"));
        assert_eq!(with("topics = []"), Err("topics"));
        assert_eq!(with("topics = ['a/#/b']"), Err("topics"));
        assert_eq!(with("password = 's'"), Err("username"));
        assert_eq!(with("in_flight = 0"), Err("in_flight"));
        assert_eq!(with("[[mapping]]\ntopic = 'a'"), Err("mapping"));
    }
}
