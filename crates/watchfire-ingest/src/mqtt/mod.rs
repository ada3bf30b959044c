//! MQTT 3.1.1 and 5 on one port, over TCP or TLS.
//!
//! Telemetry goes straight to the [`Intake`](crate::Intake): everything that one read of a socket brings is one append,
//! and its PUBACKs follow, in order, once that is durable. While the log takes nothing, the socket is not read. Other
//! messages go to subscribers ([`fanout`]). rumqttd's codecs read the packets that are rare.
//!
//! Quality of service 2 is not offered: MQTT 5 clients are told so, and a 3.1.1 client that uses it is disconnected, as
//! that version has no softer refusal. Telemetry is never retained. A last will is published like any other message of
//! its client when the connection ends without a DISCONNECT; one on a telemetry topic is not, as it would be a reading
//! that nobody measured.

mod connect;
mod connection;
mod fanout;
mod ledger;
mod packet;
mod retained;
mod session;
mod subscriber;
mod topic;
mod tree;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use watchfire_telemetry::metrics;

pub use fanout::FanoutFull;
pub use topic::content;

use self::fanout::Fanout;
use self::ledger::Publisher;
use crate::contract::{Authenticator, Principal, Revocation, Role};
use crate::intake::{Intake, Source};
pub use crate::mapping::{AddressMapping as TopicMapping, MappingConfig, MappingConfigError};
use crate::tls::ServerTls;

/// Bounds of the MQTT listeners.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MqttOptions {
    /// Bytes of the largest packet. Default 256 KiB: a reading has some hundred bytes, and an hour of them from a
    /// gateway still fits.
    pub packet_bytes: usize,
    /// Connections in all. Each takes some 10 KiB while it is idle.
    pub connections: usize,
    /// Connections from one address; gateways and address translation put many devices behind one.
    pub connections_per_address: usize,
    /// Seconds within which TLS handshake and CONNECT must have come.
    pub connect_seconds: u64,
    /// Seconds that a client may leave what is written to it unread.
    pub write_seconds: u64,
    /// Messages of QoS 1 of one client that may be unacknowledged; announced in MQTT 5, kept to by not reading in
    /// 3.1.1.
    pub receive_maximum: u16,
    /// Filters that one client may subscribe to.
    pub subscriptions: usize,
    /// Seconds that the session of a subscriber is kept after it left, at most.
    pub session_expiry_seconds: u32,
    /// Sessions that are kept for clients that left. Beyond, a session ends with its
    /// connection.
    pub sessions: usize,
    /// The same of one device.
    pub sessions_per_device: usize,
    /// Connections of one device: what it holds for each adds up.
    pub connections_per_device: usize,
    /// Bytes of messages that wait for subscribers or are retained. Half of them may be retained. Half as much again
    /// is set aside for what operators and the engine publish. Telemetry on its way to the log is not part of it.
    pub held_bytes: usize,
    /// Bytes of these that one device may have published.
    pub held_bytes_per_device: usize,
    /// Seconds between two looks for sessions whose time is over.
    pub sweep_seconds: u64,
    /// Seconds that connections have at a shutdown to get what was received durable and acknowledged.
    pub drain_seconds: u64,
}

impl Default for MqttOptions {
    fn default() -> Self {
        Self {
            packet_bytes: 256 * 1024,
            connections: 50_000,
            connections_per_address: 20_000,
            connect_seconds: 5,
            write_seconds: 30,
            receive_maximum: 1000,
            subscriptions: 100,
            session_expiry_seconds: 86_400,
            sessions: 50_000,
            sessions_per_device: 16,
            connections_per_device: 100,
            held_bytes: 128 << 20,
            held_bytes_per_device: 4 << 20,
            sweep_seconds: 30,
            drain_seconds: 10,
        }
    }
}

/// The MQTT source: sessions and subscribers of all its listeners.
pub struct Broker {
    options: MqttOptions,
    source: Source,
    mappings: Vec<TopicMapping>,
    intake: Arc<Intake>,
    authenticator: Arc<dyn Authenticator>,
    fanout: Fanout,
    table: Mutex<Table>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Table {
    connections: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Who is connected: by principal and client id.
    live: HashMap<String, Live>,
    /// Of these, how many each device has.
    by_device: HashMap<String, usize>,
    /// Times that credentials were taken back.
    revocations: u64,
    next: u64,
}

#[derive(Clone)]
struct Live {
    id: u64,
    /// Cancelled by whoever takes over.
    evict: CancellationToken,
    /// Cancelled when its credential is taken back.
    revoked: CancellationToken,
    /// Cancelled once the connection is over, links and all.
    gone: CancellationToken,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("source", &self.source.name).finish_non_exhaustive()
    }
}

impl Broker {
    /// A broker without listeners. Starts two tasks: call it inside of a tokio runtime.
    pub fn start(
        options: MqttOptions,
        source: Source,
        mappings: Vec<TopicMapping>,
        intake: Arc<Intake>,
        authenticator: Arc<dyn Authenticator>,
    ) -> std::io::Result<Arc<Self>> {
        let fanout = Fanout::new(fanout::Bounds {
            bytes: options.held_bytes,
            sessions: options.sessions,
            sessions_each: options.sessions_per_device,
        });
        let broker = Arc::new(Self {
            options,
            source,
            mappings,
            intake,
            authenticator,
            fanout,
            table: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        broker.tasks.spawn(broker.clone().sweep());
        broker.tasks.spawn(broker.clone().watch_revocations());
        Ok(broker)
    }

    /// Accepts connections until [`Broker::stop`]. Spawn one for each listener.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, tls: Option<Arc<ServerTls>>) {
        let stop = self.stop.clone();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => match self.admit(peer.ip()) {
                    Ok(place) => {
                        let broker = self.clone();
                        let tls = tls.clone();
                        self.tasks.spawn(async move { broker.connection(stream, peer, tls, place).await });
                    }
                    // Closed at once: an answer would need the CONNECT, and with it memory and time.
                    Err(why) => self.refused(why),
                },
                Err(error) => {
                    // Most often: no file descriptors left. Those who are connected go on.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Option<Arc<ServerTls>>,
        place: Place,
    ) {
        // Acknowledgements are small and must not wait for each other.
        let _ = stream.set_nodelay(true);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(self.options.connect_seconds);
        match tls {
            None => connection::run(&self, stream, peer, None, deadline).await,
            Some(tls) => match tokio::time::timeout_at(deadline, tls.accept(stream)).await {
                Ok(Ok((stream, certificate))) => {
                    connection::run(&self, stream, peer, certificate, deadline).await;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "no TLS handshake");
                    self.refused("tls");
                }
                Err(_) => self.refused("tls-timeout"),
            },
        }
        drop(place);
    }

    /// Sends a command to a device: to whoever subscribed to `devices/{device}/commands/{name}`.
    pub fn publish_command(&self, device: &str, name: &str, payload: &[u8]) -> Result<(), PublishError> {
        self.publish(&format!("devices/{device}/commands/{name}"), payload, false)
    }

    /// Publishes a message to whoever subscribed.
    pub fn publish(&self, topic: &str, payload: &[u8], retain: bool) -> Result<(), PublishError> {
        if !topic::is_topic(topic) {
            return Err(PublishError::Topic(topic.into()));
        }
        let from = Publisher { name: "".into(), most: usize::MAX, reserve: true };
        Ok(self.fanout.publish(&from, None, topic, payload, 1, retain)?)
    }

    /// As what the messages of a connection are counted. Devices and gateways are bounded each; where nobody shows
    /// who they are, each client is, which keeps mistakes apart, and nothing else.
    fn publisher(&self, principal: &Principal, key: &str) -> Publisher {
        let most = self.options.held_bytes_per_device;
        let name = self.owner(principal, key);
        match principal {
            Principal::Device(_) | Principal::Anonymous => Publisher { name, most, reserve: false },
            // It speaks for many.
            Principal::Gateway { .. } => Publisher { name, most: most.saturating_mul(8), reserve: false },
            Principal::User { role, .. } => {
                Publisher { name, most: usize::MAX, reserve: *role >= Role::Operator }
            }
        }
    }

    /// Whose sessions and messages are counted together.
    fn owner(&self, principal: &Principal, key: &str) -> Arc<str> {
        match principal {
            Principal::Device(_) | Principal::Gateway { .. } => principal.name().into(),
            Principal::User { .. } | Principal::Anonymous => key.into(),
        }
    }

    /// How many clients are connected.
    pub fn connections(&self) -> usize {
        self.table().connections
    }

    /// Sessions that are kept for clients that left.
    pub fn sessions_kept(&self) -> usize {
        self.fanout.away()
    }

    /// Stops accepting, lets every connection get durable and acknowledged what it received, closes them.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        let drain = Duration::from_secs(self.options.drain_seconds + 2);
        if tokio::time::timeout(drain, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                connections = self.connections(),
                "connections were still open at the end of the drain"
            );
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, why: &'static str) {
        let labels = [("source", self.source.name.clone()), ("reason", why.into())];
        metrics().intake.refused.get_or_create(&labels).inc();
    }

    fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Place, &'static str> {
        let mut table = self.table();
        if table.connections >= self.options.connections {
            return Err("connections");
        }
        let here = table.by_address.entry(address).or_default();
        if *here >= self.options.connections_per_address {
            return Err("connections-per-address");
        }
        *here += 1;
        table.connections += 1;
        metrics().intake.connections.get_or_create(&[("source", self.source.name.clone())]).inc();
        Ok(Place { broker: self.clone(), address })
    }

    /// Takes the place of a client in the table; whoever had it is told to go, and waited for.
    async fn take_over(&self, key: &str) -> Result<Live, &'static str> {
        let (live, before) = {
            let mut table = self.table();
            let device = device_of(key);
            let before = table.live.get(key).cloned();
            if let Some(device) = device.filter(|_| before.is_none()) {
                let count = table.by_device.entry(device.into()).or_default();
                if *count >= self.options.connections_per_device {
                    return Err("connections-per-device");
                }
                *count += 1;
            }
            table.next += 1;
            let live = Live {
                id: table.next,
                evict: CancellationToken::new(),
                revoked: CancellationToken::new(),
                gone: CancellationToken::new(),
            };
            table.live.insert(key.into(), live.clone());
            (live, before)
        };
        if let Some(before) = before {
            before.evict.cancel();
            // It has to let go of its session first; one that hangs in a write is given up by then.
            let wait = Duration::from_secs(self.options.write_seconds + 5);
            if tokio::time::timeout(wait, before.gone.cancelled()).await.is_err() {
                self.leave(key, &live);
                return Err("takeover");
            }
        }
        Ok(live)
    }

    /// A connection is over.
    fn leave(&self, key: &str, live: &Live) {
        let mut table = self.table();
        if table.live.get(key).is_some_and(|there| there.id == live.id) {
            table.live.remove(key);
            if let Some(device) = device_of(key)
                && let Some(count) = table.by_device.get_mut(device)
            {
                *count -= 1;
                if *count == 0 {
                    table.by_device.remove(device);
                }
            }
        }
        live.gone.cancel();
    }

    /// Ends sessions whose time is over.
    async fn sweep(self: Arc<Self>) {
        let pause = Duration::from_secs(self.options.sweep_seconds.max(1));
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let ended = self.fanout.sweep();
            if ended > 0 {
                tracing::debug!(ended, "sessions of clients that did not come back are over");
            }
        }
    }

    /// Closes connections whose credential was taken back.
    async fn watch_revocations(self: Arc<Self>) {
        use tokio::sync::broadcast::error::RecvError;
        let Some(mut revocations) = self.authenticator.revocations() else { return };
        loop {
            let revocation = tokio::select! {
                () = self.stop.cancelled() => return,
                revocation = revocations.recv() => revocation,
            };
            match revocation {
                Ok(Revocation::Of(name)) => self.revoke(|principal| principal == name),
                // It is not known who: everybody shows again who they are.
                Ok(Revocation::Unknown) | Err(RecvError::Lagged(_)) => {
                    self.revoke(|principal| principal != Principal::Anonymous.name());
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn revoke(&self, whose: impl Fn(&str) -> bool) {
        let mut table = self.table();
        table.revocations += 1;
        // A client id has no slash: the name of the principal is what stands before the last one.
        let theirs = table.live.iter().filter(|(key, _)| key.rsplit_once('/').is_some_and(|(p, _)| whose(p)));
        theirs.for_each(|(_, live)| live.revoked.cancel());
    }

    fn revocations(&self) -> u64 {
        self.table().revocations
    }
}

/// The device that a connection is of.
fn device_of(key: &str) -> Option<&str> {
    key.rsplit_once('/').map(|(principal, _)| principal).filter(|principal| principal.starts_with("device:"))
}

/// A message was not published.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PublishError {
    /// The topic is not well-formed.
    #[error("{0:?} is no topic that can be published to")]
    Topic(String),
    /// Too many messages wait.
    #[error(transparent)]
    Full(#[from] FanoutFull),
}

/// A connection that is counted; given back when it is dropped, whichever way the connection ends.
struct Place {
    broker: Arc<Broker>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.broker.table();
        table.connections -= 1;
        if let Some(here) = table.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                table.by_address.remove(&self.address);
            }
        }
        metrics().intake.connections.get_or_create(&[("source", self.broker.source.name.clone())]).dec();
    }
}
