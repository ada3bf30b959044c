//! The configuration: one TOML file, every key of which an environment variable overrides.
//!
//! `WATCHFIRE_HTTP__LISTEN=0.0.0.0:8080` sets `listen` of `[http]`; a number names an element of a list
//! (`WATCHFIRE_RECEIVER__0__WEBHOOK__URL`). `WATCHFIRE_DATA`, `WATCHFIRE_RULES` and `WATCHFIRE_PUBLIC_URL`
//! set what stands above the sections. A secret stands in a file of its own, which `..._FILE` in place of the key or
//! `{ file = "PATH" }` as its value names, so that it is neither in the configuration nor in the list of processes.
//! That file is read again for each new connection.
//!
//! Without any file the defaults hold: everything on this machine alone, nobody has to log in, and devices are
//! registered when they first report.

mod overrides;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use watchfire_api::auth::Anonymous;
use watchfire_api::links::LinkOptions;
use watchfire_engine::CheckpointPolicy;
use watchfire_ingest::UnknownDevices;
use watchfire_ingest::contract::OpenListener;
use watchfire_ingest::http::HttpOptions;
use watchfire_ingest::kafka::{KafkaConfigError, KafkaOptions};
use watchfire_ingest::listen::ListenOptions;
use watchfire_ingest::mqtt::{MappingConfig, MappingConfigError, MqttOptions, TopicMapping};
use watchfire_ingest::mqtt_source::{MqttSourceError, MqttSourceOptions};
use watchfire_ingest::tls::TlsConfig;
use watchfire_log::LogOptions;
use watchfire_model::Duration;
use watchfire_notify::stages::escalation::EscalationConfig;
use watchfire_notify::stages::inhibit::InhibitConfig;
use watchfire_notify::stages::interval::TimeIntervalConfig;
use watchfire_notify::stages::storm::StormConfig;
use watchfire_notify::{NotifyConfig, ReceiverConfig, RouteConfig};
use watchfire_sink::http::HttpSinkConfig;
use watchfire_sink::kafka::KafkaConfig;
use watchfire_sink::mqtt::MqttSinkConfig;
use watchfire_sink::timescale::TimescaleConfig;
use watchfire_store::{Retention, ShelvePolicy};

use crate::heartbeat::HeartbeatConfig;

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The data folder. Made where it is missing, and closed to other users.
    pub data: PathBuf,
    /// A folder of components (`*.wasm`) that are there as modules from the start.
    pub rules: Option<PathBuf>,
    /// Where people reach this installation: the base of links in messages.
    pub public_url: Option<String>,
    /// HTTP: API, telemetry, metrics.
    pub http: HttpConfig,
    /// MQTT.
    pub mqtt: MqttConfig,
    /// Services that readings are fetched from.
    pub source: SourceConfig,
    /// What readings may be.
    pub ingest: IngestConfig,
    /// The log.
    pub log: LogConfig,
    /// How long history is kept.
    pub store: StoreConfig,
    /// What people may do to alerts.
    pub alerts: AlertsConfig,
    /// The partition loop.
    pub engine: EngineConfig,
    /// What the engine says of itself.
    pub telemetry: TelemetryConfig,
    /// Where results flow to.
    pub sink: SinkConfig,
    /// Who can be told.
    pub receiver: Vec<ReceiverConfig>,
    /// Who is told of what.
    pub route: RouteConfig,
    /// Which alerts keep which others from being told.
    pub inhibit: Vec<InhibitConfig>,
    /// Times of day and year that routes name.
    pub time_interval: Vec<TimeIntervalConfig>,
    /// Who is told next where nobody acknowledges.
    pub escalation: Vec<EscalationConfig>,
    /// What of many alerts is one storm.
    pub storm: Vec<StormConfig>,
    /// What those who speak Alertmanager's API find.
    pub alertmanager: AlertmanagerConfig,
    /// Somebody outside who notices when everything stands still.
    pub heartbeat: Option<HeartbeatConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "watchfire-data".into(),
            rules: None,
            public_url: None,
            http: HttpConfig::default(),
            mqtt: MqttConfig::default(),
            source: SourceConfig::default(),
            ingest: IngestConfig::default(),
            log: LogConfig::default(),
            store: StoreConfig::default(),
            alerts: AlertsConfig::default(),
            engine: EngineConfig::default(),
            telemetry: TelemetryConfig::default(),
            sink: SinkConfig::default(),
            receiver: Vec::new(),
            route: RouteConfig::default(),
            inhibit: Vec::new(),
            time_interval: Vec::new(),
            escalation: Vec::new(),
            storm: Vec::new(),
            alertmanager: AlertmanagerConfig::default(),
            heartbeat: None,
        }
    }
}

/// The HTTP listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// TLS; without it the listener speaks plain HTTP/1.1 and HTTP/2.
    pub tls: Option<TlsConfig>,
    /// Who may use the API without a token: `bootstrap` (programs on this machine, until a token exists),
    /// `loopback` (programs on this machine) or `never`.
    pub anonymous: Anonymous,
    /// Whether telemetry needs a credential; not said: on addresses other than loopback.
    pub authenticate: Option<bool>,
    /// Confirms that a listener for other machines lets everybody send telemetry.
    pub allow_anonymous_remote: bool,
    /// What becomes of readings of devices that are not registered; not said: `register` on a listener that
    /// is for this machine alone and asks for no credential, else `refuse`.
    pub unknown_devices: Option<UnknownDevices>,
    /// Bounds of uploads.
    pub limits: HttpOptions,
    /// Paths of devices that exist already.
    pub mapping: Vec<MappingConfig>,
    /// Bounds of connections.
    pub connections: ListenOptions,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: loopback(8080),
            tls: None,
            anonymous: Anonymous::default(),
            authenticate: None,
            allow_anonymous_remote: false,
            unknown_devices: None,
            limits: HttpOptions::default(),
            mapping: Vec::new(),
            connections: ListenOptions::default(),
        }
    }
}

/// The MQTT listeners.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// `false`: there is none.
    pub enabled: bool,
    /// Where it listens without TLS.
    pub listen: SocketAddr,
    /// Where it listens with TLS, if it does: usually port 8883. Needs `tls`.
    pub listen_tls: Option<SocketAddr>,
    /// The certificate of `listen_tls`.
    pub tls: Option<TlsConfig>,
    /// As in `[http]`.
    pub authenticate: Option<bool>,
    /// As in `[http]`.
    pub allow_anonymous_remote: bool,
    /// As in `[http]`.
    pub unknown_devices: Option<UnknownDevices>,
    /// Topics of devices that exist already.
    pub mapping: Vec<MappingConfig>,
    /// Bounds.
    pub limits: MqttOptions,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: loopback(1883),
            listen_tls: None,
            tls: None,
            authenticate: None,
            allow_anonymous_remote: false,
            unknown_devices: None,
            mapping: Vec::new(),
            limits: MqttOptions::default(),
        }
    }
}

/// Services that readings are fetched from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceConfig {
    /// Topics of a Kafka cluster.
    pub kafka: KafkaOptions,
    /// Topics of an MQTT broker that is there already.
    pub mqtt: MqttSourceOptions,
}

/// What readings may be, whichever way they come.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// How old a reading may be.
    pub window_back: Duration,
    /// How far the clock of a device may run ahead.
    pub window_ahead: Duration,
    /// Readings of each device that are remembered to know exact repeats.
    pub repeats: usize,
}

impl Default for IngestConfig {
    fn default() -> Self {
        let window = watchfire_ingest::intake::Source::new("", UnknownDevices::Refuse).window;
        Self { window_back: window.back, window_ahead: window.ahead, repeats: 256 }
    }
}

/// The log.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Partitions of a new data folder; 0: as many as cores. Fixed for the life of the folder.
    pub partitions: u16,
    /// What every reader passed is kept for this long ...
    pub retain_for: Duration,
    /// ... unless the log is larger than this many bytes.
    pub retain_bytes: u64,
    /// Bytes of disk that intake never touches.
    pub reserve_bytes: u64,
    /// Bytes that may wait for the disk before sources are told to wait.
    pub queue_bytes: usize,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// A forward jump of the wall clock beyond this pauses intake until it was stable for five minutes.
    pub clock_jump: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        let log = LogOptions::default();
        Self {
            partitions: 0,
            retain_for: log.retain_for.into(),
            retain_bytes: log.retain_bytes,
            reserve_bytes: log.reserve_bytes,
            queue_bytes: log.queue_bytes,
            segment_bytes: log.segment_bytes,
            clock_jump: log.clock_jump.into(),
        }
    }
}

impl LogConfig {
    /// As the log takes it; `partitions` as they are in a folder that is there already.
    pub fn options(&self) -> LogOptions {
        let defaults = LogOptions::default();
        LogOptions {
            partitions: if self.partitions == 0 { defaults.partitions } else { self.partitions },
            retain_for: self.retain_for.to_std(),
            retain_bytes: self.retain_bytes,
            reserve_bytes: self.reserve_bytes,
            queue_bytes: self.queue_bytes,
            segment_bytes: self.segment_bytes,
            clock_jump: self.clock_jump.to_std(),
            ..defaults
        }
    }
}

/// What those who speak Alertmanager's API find.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertmanagerConfig {
    /// An alert of others that says no end is over so long after it was said last.
    pub resolve_timeout: Duration,
}

impl Default for AlertmanagerConfig {
    /// As Alertmanager has it.
    fn default() -> Self {
        Self { resolve_timeout: Duration::from_secs(300) }
    }
}

/// How long history is kept, and how much of it; whichever is over first. What is active, pending or not routed yet
/// stays, and so does what the log could still replay.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Resolved alerts, with all that happened to them, are kept for this long after the last of it ...
    pub alerts_for: Duration,
    /// ... and not more of them than this.
    pub alerts: u64,
    /// So many resolved alerts, the latest, keep what their verdict rests on.
    pub evidence: u64,
    /// Deliveries that came to their end.
    pub deliveries_for: Duration,
    /// As many of them.
    pub deliveries: u64,
    /// Silences that ended.
    pub silences_for: Duration,
    /// The audit trail.
    pub audit_for: Duration,
    /// As many lines of it.
    pub audit: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        let Retention {
            alerts_for,
            alerts,
            evidence,
            deliveries_for,
            deliveries,
            silences_for,
            audit_for,
            audit,
        } = Retention::default();
        Self { alerts_for, alerts, evidence, deliveries_for, deliveries, silences_for, audit_for, audit }
    }
}

impl StoreConfig {
    /// As the store takes it.
    pub fn retention(&self) -> Retention {
        let Self { alerts_for, alerts, evidence, deliveries_for, deliveries, silences_for, audit_for, audit } =
            self.clone();
        Retention { alerts_for, alerts, evidence, deliveries_for, deliveries, silences_for, audit_for, audit }
    }
}

/// What people may do to alerts.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertsConfig {
    /// The longest that an alert is shelved, until it ends or for a time.
    pub max_shelve: Duration,
    /// So long before shelving ends people are told of it; 0: they are not.
    pub shelve_notice: Duration,
    /// So long the link in a message is good; at most 30 days.
    pub link_lifetime: Duration,
    /// Whether links also shelve an alert for an hour.
    pub link_shelve: bool,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        let ShelvePolicy { max, notice } = ShelvePolicy::default();
        let LinkOptions { lifetime, shelve } = LinkOptions::default();
        Self { max_shelve: max, shelve_notice: notice, link_lifetime: lifetime, link_shelve: shelve }
    }
}

impl AlertsConfig {
    /// As the API takes it.
    pub fn shelve(&self) -> ShelvePolicy {
        ShelvePolicy { max: self.max_shelve, notice: self.shelve_notice }
    }

    /// As whoever makes links takes it.
    pub fn links(&self) -> LinkOptions {
        LinkOptions { lifetime: self.link_lifetime, shelve: self.link_shelve }
    }
}

/// The partition loop.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Threads; 0: one for each partition, but not more than there are cores.
    pub shards: usize,
    /// `/-/ready` says no while a partition is further behind than this many records; 0: 10 000.
    pub ready_lag: u64,
    /// A checkpoint is taken after so many rows and records; 0: 1 000 000, which a start replays in about a second.
    pub checkpoint_rows: u64,
    /// And after so long, where anything came; 0: five minutes. The log is kept from the oldest checkpoint on.
    pub checkpoint_interval: Duration,
}

impl EngineConfig {
    /// When checkpoints are taken.
    pub fn checkpoint(&self) -> CheckpointPolicy {
        let mut policy = CheckpointPolicy::default();
        if self.checkpoint_rows > 0 {
            policy.rows = self.checkpoint_rows;
        }
        if self.checkpoint_interval > Duration::ZERO {
            policy.interval = self.checkpoint_interval.to_std();
        }
        policy
    }
}

/// What the engine says of itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// What is logged, such as `info` or `info,watchfire_engine=debug`. Changeable while running.
    pub level: String,
    /// How.
    pub format: Format,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: Format::Text }
    }
}

/// Where results flow to; what is not given is not written to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SinkConfig {
    /// TimescaleDB, or PostgreSQL without that extension.
    pub timescale: Option<TimescaleConfig>,
    /// A service that takes batches of events by HTTP.
    pub http: Option<HttpSinkConfig>,
    /// An MQTT broker, another one or our own.
    pub mqtt: Option<MqttSinkConfig>,
    /// Apache Kafka, or what speaks its protocol.
    pub kafka: Option<KafkaConfig>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, or a file with a secret, cannot be read.
    #[error("{} cannot be read", .path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key or value is wrong.
    #[error("{place}: {fault}")]
    Wrong {
        /// The file with its line, or the variable.
        place: String,
        /// What is wrong, with a suggestion where there is one.
        fault: String,
    },
    /// A listener would let everybody in.
    #[error(transparent)]
    Open(#[from] OpenListener),
    /// A mapping is no good.
    #[error("[[mqtt.mapping]] or [[http.mapping]]")]
    Mapping(#[from] MappingConfigError),
    /// A sink is no good.
    #[error("[sink.timescale]")]
    Timescale(#[from] watchfire_sink::ConfigError),
    /// Another one is.
    #[error("[sink.{section}]")]
    Sink {
        /// Which.
        section: &'static str,
        /// What is wrong with it.
        source: watchfire_sink::ConfigError,
    },
    /// A source is no good.
    #[error("[source.kafka]")]
    Kafka(#[from] KafkaConfigError),
    /// A source is no good.
    #[error("[source.mqtt]")]
    MqttSource(#[from] MqttSourceError),
    /// Receivers and routes are no good.
    #[error("receivers and routes")]
    Notify(#[from] watchfire_notify::ConfigError),
}

impl Config {
    /// Reads the file, if there is one, and what the environment overrides, and checks all of it.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let text = match file {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.into(), source })?,
            None => String::new(),
        };
        let name = file.map_or("the configuration".to_string(), |path| path.display().to_string());
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::read(&text, &name, variables)
    }

    /// As [`Config::load`], from a text and these variables.
    pub fn read(
        text: &str,
        name: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let config = overrides::merge(text, name, variables)?;
        config.check()?;
        Ok(config)
    }

    /// Says what is wrong, if anything is. Opens nothing.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.notify().check()?;
        if let Some(timescale) = &self.sink.timescale {
            timescale.check()?;
        }
        if let Some(http) = &self.sink.http {
            http.check().map_err(|source| ConfigError::Sink { section: "http", source })?;
        }
        if let Some(mqtt) = &self.sink.mqtt {
            mqtt.check().map_err(|source| ConfigError::Sink { section: "mqtt", source })?;
        }
        if let Some(kafka) = &self.sink.kafka {
            kafka.check().map_err(|source| ConfigError::Sink { section: "kafka", source })?;
        }
        self.mappings()?;
        self.http_mappings()?;
        self.source.kafka.check()?;
        self.source.mqtt.check()?;
        let meant = self.http.allow_anonymous_remote;
        watchfire_ingest::check_listener("http", self.http.listen, self.http_authenticates(), meant)?;
        if self.mqtt.enabled {
            let meant = self.mqtt.allow_anonymous_remote;
            for address in [Some(self.mqtt.listen), self.mqtt.listen_tls].into_iter().flatten() {
                watchfire_ingest::check_listener("mqtt", address, self.mqtt_authenticates(), meant)?;
            }
        }
        let wrong =
            |place: &str, fault: &str| Err(ConfigError::Wrong { place: place.into(), fault: fault.into() });
        if self.mqtt.listen_tls.is_some() && self.mqtt.tls.is_none() {
            return wrong("mqtt.listen_tls", "needs a certificate: give [mqtt.tls] certificate and key");
        }
        for (listener, tls) in [("http", &self.http.tls), ("mqtt", &self.mqtt.tls)] {
            let Some(tls) = tls else { continue };
            if tls.client_ca.is_none() && (tls.client_certificates.is_some() || tls.client_crl.is_some()) {
                let place = format!("{listener}.tls");
                return wrong(
                    &place,
                    "client_certificates and client_crl need client_ca: who signs for clients",
                );
            }
        }
        if self.log.segment_bytes < 1 << 20 {
            return wrong("log.segment_bytes", "is at least 1048576");
        }
        if let Some(Err(what)) = self.heartbeat.as_ref().map(HeartbeatConfig::check) {
            return wrong("heartbeat", &what);
        }
        if self.alerts.max_shelve == Duration::ZERO {
            return wrong("alerts.max_shelve", "is longer than nothing, such as \"24h\"");
        }
        let month = Duration::from_secs(30 * 24 * 3600);
        if self.alerts.link_lifetime == Duration::ZERO || self.alerts.link_lifetime > month {
            return wrong("alerts.link_lifetime", "is longer than nothing, and 30 days at most");
        }
        if crate::telemetry::check(&self.telemetry.level).is_err() {
            return wrong(
                "telemetry.level",
                "is no filter, such as \"info\" or \"info,watchfire_engine=debug\"",
            );
        }
        Ok(())
    }

    /// What notification takes.
    pub fn notify(&self) -> NotifyConfig {
        NotifyConfig {
            public_url: self.public_url.clone(),
            receivers: self.receiver.clone(),
            route: self.route.clone(),
            inhibit: self.inhibit.clone(),
            time_intervals: self.time_interval.clone(),
            escalations: self.escalation.clone(),
            storms: self.storm.clone(),
        }
    }

    /// The mappings of topics.
    pub fn mappings(&self) -> Result<Vec<TopicMapping>, MappingConfigError> {
        self.mqtt.mapping.iter().map(TopicMapping::try_from).collect()
    }

    /// The mappings of paths.
    pub fn http_mappings(&self) -> Result<Vec<TopicMapping>, MappingConfigError> {
        self.http.mapping.iter().map(TopicMapping::try_from).collect()
    }

    /// Whether telemetry over HTTP needs a credential.
    pub fn http_authenticates(&self) -> bool {
        self.http.authenticate.unwrap_or(!is_local(self.http.listen) && !self.http.allow_anonymous_remote)
    }

    /// Whether MQTT needs a credential.
    pub fn mqtt_authenticates(&self) -> bool {
        let remote =
            !is_local(self.mqtt.listen) || self.mqtt.listen_tls.is_some_and(|address| !is_local(address));
        self.mqtt.authenticate.unwrap_or(remote && !self.mqtt.allow_anonymous_remote)
    }

    /// What becomes of unknown devices over HTTP.
    pub fn http_unknown(&self) -> UnknownDevices {
        unknown(self.http.unknown_devices, is_local(self.http.listen) && !self.http_authenticates())
    }

    /// What becomes of unknown devices over MQTT.
    pub fn mqtt_unknown(&self) -> UnknownDevices {
        let local = is_local(self.mqtt.listen) && self.mqtt.listen_tls.is_none_or(is_local);
        unknown(self.mqtt.unknown_devices, local && !self.mqtt_authenticates())
    }
}

fn is_local(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn unknown(said: Option<UnknownDevices>, open: bool) -> UnknownDevices {
    said.unwrap_or(if open { UnknownDevices::Register } else { UnknownDevices::Refuse })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Config::read(text, "test.toml", variables).map_err(|error| {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                text = format!("{text}: {error}");
                source = error.source();
            }
            text
        })
    }

    fn refused(text: &str, variables: &[(&str, &str)], expected: &str) {
        let error = read(text, variables).unwrap_err();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }

    #[test]
    fn nothing_at_all_is_a_configuration() {
        let config = read("", &[]).unwrap();
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.mqtt.listen.to_string(), "127.0.0.1:1883");
        assert_eq!(config.mqtt_unknown(), UnknownDevices::Register);
        assert!(!config.mqtt_authenticates());
    }

    #[test]
    fn the_environment_overrides_every_key() {
        let text = "data = \"/var/lib/w\"\n[[receiver]]\nname = \"a\"\nwebhook = { url = \"http://h/\" }";
        let config = read(
            text,
            &[
                ("WATCHFIRE_DATA", "/other"),
                ("WATCHFIRE_HTTP__LISTEN", "127.0.0.1:9"),
                ("WATCHFIRE_MQTT__ENABLED", "false"),
                ("WATCHFIRE_MQTT__LIMITS__CONNECTIONS", "7"),
                ("WATCHFIRE_TELEMETRY__LEVEL", "debug"),
                ("WATCHFIRE_LOG__RETAIN_FOR", "2h"),
                ("WATCHFIRE_RECEIVER__0__NAME", "12"),
                ("WATCHFIRE_SERVER", "not for us"),
                ("WATCHFIRES__X", "not for us"),
            ],
        )
        .unwrap();
        assert_eq!(config.data, PathBuf::from("/other"));
        assert_eq!(config.http.listen.port(), 9);
        assert!(!config.mqtt.enabled);
        assert_eq!(config.mqtt.limits.connections, 7);
        assert_eq!(config.telemetry.level, "debug");
        assert_eq!(config.log.retain_for, Duration::from_secs(7200));
        assert_eq!(config.receiver[0].name, "12");
    }

    #[test]
    fn what_is_unknown_is_refused_with_a_suggestion() {
        refused("[htp]\nlisten = \"127.0.0.1:1\"", &[], "did you mean `http`?");
        refused("[http]\nlisen = \"127.0.0.1:1\"", &[], "did you mean `listen`?");
        refused("[http]\nlisen = \"127.0.0.1:1\"", &[], "test.toml, line 2");
        refused("", &[("WATCHFIRE_HTTP__LISEN", "127.0.0.1:1")], "did you mean `listen`?");
        refused("", &[("WATCHFIRE_HTTP__LISEN", "127.0.0.1:1")], "WATCHFIRE_HTTP__LISEN");
        refused("", &[("WATCHFIRE_HTTP__LISTEN", "here")], "WATCHFIRE_HTTP__LISTEN");
        refused("", &[("WATCHFIRE_RECEIVER__3__NAME", "x")], "there are 0");
        refused("[http", &[], "test.toml, line 1");
        refused("[telemetry]\nlevel = \"=,=\"", &[], "telemetry.level");
    }

    #[test]
    fn doors_to_other_machines_are_not_left_open() {
        refused("[mqtt]\nlisten = \"0.0.0.0:1883\"\nauthenticate = false", &[], "without authentication");
        let config = read("[mqtt]\nlisten = \"0.0.0.0:1883\"", &[]).unwrap();
        assert!(config.mqtt_authenticates());
        assert_eq!(config.mqtt_unknown(), UnknownDevices::Refuse);
        let meant = "[mqtt]\nlisten = \"0.0.0.0:1883\"\nallow_anonymous_remote = true";
        assert!(!read(meant, &[]).unwrap().mqtt_authenticates());
        refused("[mqtt]\nlisten_tls = \"127.0.0.1:8883\"", &[], "needs a certificate");
        let tls = "[http.tls]\ncertificate = \"c\"\nkey = \"k\"\nclient_certificates = \"required\"";
        refused(tls, &[], "need client_ca");
        refused(&format!("{tls}\nclient_ca = \"a\"").replace("required", "always"), &[], "always");
        assert!(read(&format!("{tls}\nclient_ca = \"a\""), &[]).is_ok());
        refused("[route]\nreceiver = \"nobody\"", &[], "there is no receiver");
    }

    #[test]
    fn sources_are_checked_before_anything_is_opened() {
        refused("[source.kafka]\nenabled = true", &[], "topics: names at least one");
        refused("[source.kafka]\nstart = \"then\"", &[], "neither \"earliest\" nor \"latest\"");
        refused("[source.mqtt]\nenabled = true\nbroker = \"here\"", &[], "broker: is host:port");
        refused("[source.kafka]\ntopic = \"t\"", &[], "did you mean `topics`?");
        if !cfg!(feature = "kafka-tls") {
            let sasl = "[source.kafka.sasl]\nmechanism = \"PLAIN\"\nusername = \"u\"\npassword = \"-\"";
            let text = format!("[source.kafka]\nenabled = true\ntopics = [\"t\"]\n{sasl}");
            refused(&text, &[], "without the feature `kafka-tls`");
        }
    }

    #[test]
    fn secrets_may_stand_in_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "Bearer s3cret\n").unwrap();
        let text = "[[receiver]]\nname = \"a\"\nwebhook = { url = \"http://h/\", headers = { authorization = \"-\" } }";
        let name = "WATCHFIRE_RECEIVER__0__WEBHOOK__HEADERS__AUTHORIZATION_FILE";
        let config = read(text, &[(name, file.path().to_str().unwrap())]).unwrap();
        let webhook = config.receiver[0].webhook.as_ref().unwrap();
        assert_eq!(webhook.headers["authorization"].read().unwrap(), "Bearer s3cret");
        std::fs::write(file.path(), "Bearer another\n").unwrap();
        assert_eq!(webhook.headers["authorization"].read().unwrap(), "Bearer another");
        let config = read("", &[("WATCHFIRE_TELEMETRY__LEVEL_FILE", file.path().to_str().unwrap())]).unwrap();
        assert_eq!(config.telemetry.level, "Bearer another", "what is no secret may stand in a file as well");
        refused(text, &[(name, "/does/not/exist")], "cannot be read");
    }

    #[test]
    fn sinks_are_checked_and_their_secrets_may_stand_in_files() {
        refused("[sink.http]\nurl = \"ftp://h\"", &[], "[sink.http]: url: ");
        refused("[sink.mqtt]\nurl = \"http://h\"", &[], "[sink.mqtt]: url: ");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret\n").unwrap();
        let file = file.path().to_str().unwrap();
        let text = "[sink.http]\nurl = \"http://h/\"\n[sink.mqtt]\nurl = \"mqtts://h\"\nusername = \"w\"";
        let variables = [
            ("WATCHFIRE_SINK__HTTP__HEADERS__AUTHORIZATION_FILE", file),
            ("WATCHFIRE_SINK__MQTT__PASSWORD_FILE", file),
        ];
        let sink = read(text, &variables).unwrap().sink;
        assert!(!format!("{sink:?}").contains("s3cret"));
        assert_eq!(sink.http.unwrap().headers["authorization"].read().unwrap(), "s3cret");
        assert_eq!(sink.mqtt.unwrap().password.read().unwrap(), "s3cret");
    }

    #[test]
    fn the_example_names_every_key_with_its_default() {
        let text = include_str!("../../../docs/watchfire.example.toml");
        let shown = |config: &Config| {
            let Config {
                data,
                rules,
                public_url,
                http,
                mqtt,
                source,
                ingest,
                log,
                alerts,
                engine,
                telemetry,
                ..
            } = config;
            format!(
                "{data:?} {rules:?} {public_url:?} {http:?} {mqtt:?} {source:?} {ingest:?} {log:?} {alerts:?} {engine:?} {telemetry:?}"
            )
        };
        // Sections that are there only where somebody wants them: each key stands in a comment, with its default.
        let section = |name: &str| -> String {
            let begin = text.find(&format!("# [{name}]\n")).unwrap();
            let lines = text[begin..].lines().take_while(|line| line.starts_with("# "));
            let keys =
                lines.map(|line| &line[2..]).filter(|line| line.starts_with('[') || line.contains(" = "));
            keys.collect::<Vec<_>>().join("\n")
        };
        let timescale = section("sink.timescale");
        let shown_section = read(&timescale, &[]).unwrap().sink.timescale.unwrap();
        let plain = TimescaleConfig { url: shown_section.url.clone(), ..TimescaleConfig::default() };
        let named = TimescaleConfig { chunk_interval: Some(plain.interval()), ..plain };
        assert_eq!(shown_section, named);
        let kafka = section("sink.kafka");
        // What needs a feature of the build is no default.
        let secured = |line: &&str| ["sasl_", "ssl_", "security_"].iter().all(|key| !line.starts_with(key));
        let plain: Vec<&str> = kafka.lines().filter(secured).collect();
        let shown_section = read(&plain.join("\n"), &[]).unwrap().sink.kafka.unwrap();
        let named = KafkaConfig {
            brokers: shown_section.brokers.clone(),
            // Given in words, where the default is to derive them.
            alerts_topic: "watchfire.alerts".into(),
            dead_letters_topic: "watchfire.dead-letters".into(),
            cursors_topic: "watchfire.cursors".into(),
            ..KafkaConfig::default()
        };
        assert_eq!(shown_section, named);
        for (name, section) in [("timescale", timescale), ("kafka", kafka)] {
            let unknown = read(&format!("[sink.{name}]\nx = 1"), &[]).unwrap_err();
            let known: Vec<&str> = unknown.split('`').skip(3).step_by(2).collect();
            assert!(known.len() > 10, "{unknown}");
            for key in known {
                assert!(section.contains(&format!("\n{key} = ")), "{key} is not in the example");
            }
        }
        let http = section("sink.http");
        let shown_http = read(&http, &[]).unwrap().sink.http.unwrap();
        let plain = HttpSinkConfig { url: shown_http.url.clone(), ..HttpSinkConfig::default() };
        assert!(shown_http == plain, "{http}");
        let mqtt = section("sink.mqtt");
        let shown_mqtt = read(&mqtt, &[]).unwrap().sink.mqtt.unwrap();
        let plain = MqttSinkConfig {
            url: shown_mqtt.url.clone(),
            username: shown_mqtt.username.clone(),
            password: shown_mqtt.password.clone(),
            ca: shown_mqtt.ca.clone(),
            ..MqttSinkConfig::default()
        };
        assert!(shown_mqtt == plain, "{mqtt}");
        for (name, section) in [("sink.http", &http), ("sink.mqtt", &mqtt)] {
            let unknown = read(&format!("[{name}]\nx = 1"), &[]).unwrap_err();
            let known: Vec<&str> = unknown.split('`').skip(3).step_by(2).collect();
            assert!(known.len() > 10, "{unknown}");
            for key in known {
                assert!(section.contains(&format!("\n{key} = ")), "{key} is not in the example");
            }
        }
        let example = read(text, &[]).unwrap();
        assert_eq!(shown(&example), shown(&Config::default()));
        let receiver =
            "[[receiver]]\nname = \"operations\"\nwebhook = { url = \"http://127.0.0.1:9000/alerts\" }";
        let plain = read(receiver, &[]).unwrap();
        assert_eq!(example.receiver, plain.receiver);
        // Fields of what is configured, by their names in the text that is made for debugging.
        let fields = format!("{:#?} {:#?}", Config::default(), example.receiver);
        let names = fields.lines().filter_map(|line| line.trim().split_once(": ")).map(|(name, _)| name);
        for name in names.filter(|name| !name.is_empty() && *name != "receiver") {
            let keys = [format!("{name} = "), format!("[{name}"), format!(".{name}]")];
            assert!(keys.iter().any(|key| text.contains(key)), "{name} is not in the example");
        }
    }
}
