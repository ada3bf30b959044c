//! A source on a free port, over a log in memory; and a client that does as it is told, right or wrong.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use watchfire_ingest::contract::{BoxFuture, RegisterError, Registrar, Revocation};
use watchfire_ingest::http::HttpOptions;
use watchfire_ingest::listen::{self, ListenOptions};
use watchfire_ingest::mqtt::{Broker, MappingConfig, MqttOptions, TopicMapping};
use watchfire_ingest::{
    Authenticator, Credential, Denied, Directory, Intake, IntakeOptions, Principal, Role, Source,
    UnknownDevices,
};
use watchfire_log::{Record, Reject};
use watchfire_model::device::Registries;
use watchfire_model::{DeviceSpec, Timestamp};
use watchfire_testkit::MemoryLog;

/// 2026-01-01T00:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp(1_767_225_600_000_000);
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Registers in the directory alone.
pub(crate) struct TestRegistrar(pub(crate) Directory);

impl Registrar for TestRegistrar {
    fn register(&self, ids: Vec<String>) -> BoxFuture<'_, Result<(), RegisterError>> {
        Box::pin(async move {
            if ids.iter().any(|id| id.starts_with("forbidden")) {
                return Err(RegisterError::Refused("there are as many devices as there may be".into()));
            }
            let mut directory = self.0.write().unwrap_or_else(PoisonError::into_inner);
            let mut registries = Registries::clone(&directory);
            for id in ids {
                let partition = registries.partition_of(&id);
                registries.0[usize::from(partition.0)].put(DeviceSpec { id, ..DeviceSpec::default() });
            }
            *directory = Arc::new(registries);
            Ok(())
        })
    }
}

/// Password `secret` for every device, of which `gateway` is one; tokens of the role that they say; certificates of all
/// devices but strangers.
pub(crate) struct TestAuthenticator(pub(crate) broadcast::Sender<Revocation>);

impl Authenticator for TestAuthenticator {
    fn authenticate(
        &self,
        credential: Credential,
        _: Option<std::net::IpAddr>,
    ) -> BoxFuture<'_, Result<Principal, Denied>> {
        Box::pin(async move {
            match credential {
                Credential::Token(token) => match token.as_str() {
                    "viewer" => Ok(Principal::User { name: "eve".into(), role: Role::Viewer }),
                    "operator" => Ok(Principal::User { name: "otto".into(), role: Role::Operator }),
                    _ => Err(Denied::NotAccepted),
                },
                Credential::Password { user, password } if password == "secret" => Ok(match user.as_str() {
                    "gateway" => Principal::Gateway { name: user, devices: vec!["gw-*".into()] },
                    _ => Principal::Device(user),
                }),
                Credential::Certificate(device) if !device.starts_with("stranger") => {
                    Ok(Principal::Device(device))
                }
                _ => Err(Denied::NotAccepted),
            }
        })
    }

    fn revocations(&self) -> Option<broadcast::Receiver<Revocation>> {
        Some(self.0.subscribe())
    }
}

pub(crate) struct Rig {
    pub(crate) revocations: broadcast::Sender<Revocation>,
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) mqtt: SocketAddr,
    pub(crate) http: SocketAddr,
    /// What the HTTP listener serves, for one more.
    pub(crate) router: axum::Router,
}

pub(crate) struct Settings {
    pub(crate) unknown: UnknownDevices,
    pub(crate) mqtt: MqttOptions,
    pub(crate) http: HttpOptions,
    pub(crate) authenticates: bool,
    pub(crate) mappings: &'static str,
    pub(crate) http_mappings: &'static str,
    pub(crate) listen: ListenOptions,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            unknown: UnknownDevices::Register,
            mqtt: MqttOptions::default(),
            http: HttpOptions::default(),
            authenticates: false,
            mappings: "",
            http_mappings: "",
            listen: ListenOptions { header_seconds: 2, ..ListenOptions::default() },
        }
    }
}

#[derive(serde::Deserialize)]
struct Mappings {
    #[serde(default)]
    mapping: Vec<MappingConfig>,
}

pub(crate) fn intake(log: &Arc<MemoryLog>) -> Arc<Intake> {
    let directory: Directory = Arc::new(RwLock::new(Arc::new(Registries::new(2))));
    let registrar = Arc::new(TestRegistrar(directory.clone()));
    Intake::new(log.clone(), directory, registrar, IntakeOptions::default())
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let log = MemoryLog::new(2, NOW);
        let intake = intake(&log);
        let (revocations, _) = broadcast::channel(16);
        let authenticator: Arc<dyn Authenticator> = if settings.authenticates {
            Arc::new(TestAuthenticator(revocations.clone()))
        } else {
            Arc::new(watchfire_ingest::contract::AllowAnonymous)
        };
        let [mappings, http_mappings] = [settings.mappings, settings.http_mappings].map(|text| {
            let mappings: Mappings = toml::from_str(text).unwrap();
            mappings.mapping.iter().map(|m| TopicMapping::try_from(m).unwrap()).collect()
        });
        let source = Source::new("mqtt", settings.unknown);
        let broker =
            Broker::start(settings.mqtt, source, mappings, intake.clone(), authenticator.clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mqtt = listener.local_addr().unwrap();
        tokio::spawn(broker.clone().serve(listener, None));
        let source = Source::new("http", settings.unknown);
        let router = watchfire_ingest::http::router(
            settings.http,
            source,
            http_mappings,
            intake.clone(),
            authenticator,
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        tokio::spawn(listen::serve(listener, router.clone(), None, settings.listen, Default::default()));
        Self { revocations, log, broker, mqtt, http, router }
    }

    /// Rows in the log.
    pub(crate) fn rows(&self) -> usize {
        let rows = |record: &Record| match record {
            Record::Readings { batch, .. } => batch.rows(),
            _ => 0,
        };
        self.log.records().iter().map(|entry| rows(&entry.record)).sum()
    }

    pub(crate) fn rejects(&self) -> Vec<Reject> {
        let rejects = |record: &Record| match record {
            Record::Rejects(rejects) => rejects.clone(),
            _ => Vec::new(),
        };
        self.log.records().iter().flat_map(|entry| rejects(&entry.record)).collect()
    }

    pub(crate) async fn client(&self, id: &str) -> Raw {
        Raw::connected(self.mqtt, false, id).await
    }

    /// A device that shows who it is sends a reading and has it acknowledged.
    pub(crate) async fn others_go_on_as(&self, user: &str, password: &str) {
        let mut other = Raw::login(self.mqtt, true, "other", user, password).await;
        other.publish(1, &format!("devices/{user}/telemetry"), b"{\"t\":1}").await;
        assert_eq!(other.puback().await, (1, 0));
    }

    /// Another device sends a reading and has it acknowledged.
    pub(crate) async fn others_go_on(&self) {
        let before = self.rows();
        let id = format!("other-{before}");
        for v5 in [false, true] {
            let mut other = Raw::connected(self.mqtt, v5, &format!("{id}-{v5}")).await;
            other.publish(1, &format!("devices/{id}-{v5}/telemetry"), b"{\"t\":1}").await;
            assert_eq!(other.puback().await.0, 1);
        }
        assert_eq!(self.rows(), before + 2);
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// An MQTT client without manners.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    pub(crate) v5: bool,
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u16).to_be_bytes());
    out.extend(bytes);
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = body.len();
    loop {
        let byte = (rest & 0x7f) as u8;
        rest >>= 7;
        out.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

/// A CONNECT. `flags` as in section 3.1.2.3, less those of the login.
pub(crate) fn connect(
    v5: bool,
    id: &[u8],
    flags: u8,
    keep_alive: u16,
    login: Option<(&str, &str)>,
    properties: &[u8],
) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, b"MQTT");
    body.push(if v5 { 5 } else { 4 });
    body.push(flags | if login.is_some() { 0xc0 } else { 0 });
    body.extend(keep_alive.to_be_bytes());
    if v5 {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    text(&mut body, id);
    if let Some((user, password)) = login {
        text(&mut body, user.as_bytes());
        text(&mut body, password.as_bytes());
    }
    packet(0x10, &body)
}

pub(crate) fn publish(v5: bool, first: u8, id: u16, topic: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, topic);
    if first & 6 != 0 {
        body.extend(id.to_be_bytes());
    }
    if v5 {
        body.push(0);
    }
    body.extend(payload);
    packet(first, &body)
}

pub(crate) fn subscribe(v5: bool, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if v5 {
        body.push(0);
    }
    for filter in filters {
        text(&mut body, filter.as_bytes());
        body.push(1);
    }
    packet(0x82, &body)
}

impl Raw {
    pub(crate) async fn open(to: SocketAddr, v5: bool) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, v5 }
    }

    pub(crate) async fn connected(to: SocketAddr, v5: bool, id: &str) -> Self {
        let (client, ack) = Self::connecting(to, v5, connect(v5, id.as_bytes(), 2, 60, None, &[])).await;
        assert_eq!(ack.unwrap()[3], 0, "accepted");
        client
    }

    pub(crate) async fn login(to: SocketAddr, v5: bool, id: &str, user: &str, password: &str) -> Self {
        let hello = connect(v5, id.as_bytes(), 2, 60, Some((user, password)), &[]);
        let (client, ack) = Self::connecting(to, v5, hello).await;
        assert_eq!(ack.unwrap()[3], 0, "accepted");
        client
    }

    /// Sends a CONNECT; gives the CONNACK, if one comes.
    pub(crate) async fn connecting(to: SocketAddr, v5: bool, hello: Vec<u8>) -> (Self, Option<Vec<u8>>) {
        let mut client = Self::open(to, v5).await;
        client.send(&hello).await;
        let ack = client.read().await;
        assert!(ack.as_ref().is_none_or(|ack| ack[0] == 0x20), "{ack:?}");
        (client, ack)
    }

    /// An error is no news: the other side may have gone.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn publish(&mut self, id: u16, topic: &str, payload: &[u8]) {
        let bytes = publish(self.v5, 0x32, id, topic.as_bytes(), payload);
        self.send(&bytes).await;
    }

    /// The next packet; `None`: the connection was closed.
    pub(crate) async fn read(&mut self) -> Option<Vec<u8>> {
        tokio::time::timeout(PATIENCE, async {
            let mut out = vec![self.stream.read_u8().await.ok()?];
            let (mut length, mut shift) = (0, 0);
            loop {
                let byte = self.stream.read_u8().await.ok()?;
                out.push(byte);
                length |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let start = out.len();
            out.resize(start + length, 0);
            self.stream.read_exact(&mut out[start..]).await.ok()?;
            Some(out)
        })
        .await
        .expect("a packet or the end")
    }

    /// Packet id and reason code of the next packet, which is a PUBACK.
    pub(crate) async fn puback(&mut self) -> (u16, u8) {
        let packet = self.read().await.expect("a PUBACK");
        assert_eq!(packet[0], 0x40, "{packet:?}");
        (u16::from_be_bytes([packet[2], packet[3]]), packet.get(4).copied().unwrap_or(0))
    }

    /// Nothing comes for a while.
    pub(crate) async fn hears_nothing(&mut self) {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(80), self.stream.peek(&mut byte)).await;
        assert!(read.is_err(), "{read:?} {byte:?}");
    }

    /// The connection ends; gives the reason of a DISCONNECT, if one came.
    pub(crate) async fn ends(&mut self) -> Option<u8> {
        let mut reason = None;
        while let Some(packet) = self.read().await {
            if packet[0] == 0xe0 {
                reason = packet.get(2).copied();
            }
        }
        reason
    }
}
