//! MQTT 3.1.1 and 5 on one port, over TCP or TLS.
//!
//! Telemetry goes straight to the [`Intake`](crate::Intake): everything that one read of a socket brings is one append,
//! and its PUBACKs follow, in order, once that is durable. While the log takes nothing, the socket is not read. Other
//! messages go to subscribers through rumqttd's router ([`Fanout`]).
//!
//! Quality of service 2 is not offered: MQTT 5 clients are told so, and a 3.1.1 client that uses it is disconnected, as
//! that version has no softer refusal. Telemetry is never retained. A last will is published like any other message of
//! its client when the connection ends without a DISCONNECT; one on a telemetry topic is not, as it would be a reading
//! that nobody measured.

mod connect;
mod connection;
mod fanout;
mod packet;
mod topic;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use watchfire_telemetry::metrics;

pub use fanout::{Fanout, FanoutFull};
pub use topic::{MappingConfig, MappingConfigError, TopicMapping};

use crate::contract::Authenticator;
use crate::intake::{Intake, Source};
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
    /// Sessions that are kept for clients that left.
    pub sessions: usize,
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
    /// Sessions that are kept for clients that left, and until when.
    kept: HashMap<String, Instant>,
    next: u64,
}

#[derive(Clone)]
struct Live {
    id: u64,
    /// Cancelled by whoever takes over.
    evict: CancellationToken,
    /// Cancelled once the connection is over, links and all.
    gone: CancellationToken,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("source", &self.source.name).finish_non_exhaustive()
    }
}

impl Broker {
    /// A broker without listeners. Starts the router for subscribers.
    pub fn start(
        options: MqttOptions,
        source: Source,
        mappings: Vec<TopicMapping>,
        intake: Arc<Intake>,
        authenticator: Arc<dyn Authenticator>,
    ) -> std::io::Result<Arc<Self>> {
        let fanout = Fanout::start(options.connections)?;
        Ok(Arc::new(Self {
            options,
            source,
            mappings,
            intake,
            authenticator,
            fanout,
            table: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
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
            None => connection::run(&self, stream, peer, deadline).await,
            Some(tls) => match tokio::time::timeout_at(deadline, tls.accept(stream)).await {
                Ok(Ok(stream)) => connection::run(&self, stream, peer, deadline).await,
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
        Ok(self.fanout.publish(topic, payload, retain)?)
    }

    /// How many clients are connected.
    pub fn connections(&self) -> usize {
        self.table().connections
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
            table.next += 1;
            let live =
                Live { id: table.next, evict: CancellationToken::new(), gone: CancellationToken::new() };
            let before = table.live.insert(key.into(), live.clone());
            (live, before)
        };
        if let Some(before) = before {
            before.evict.cancel();
            // It has to let go of its link first; one that hangs in a write is given up by then.
            let wait = Duration::from_secs(self.options.write_seconds + 5);
            if tokio::time::timeout(wait, before.gone.cancelled()).await.is_err() {
                self.leave(key, &live, 0);
                return Err("takeover");
            }
        }
        Ok(live)
    }

    /// A connection is over. `expiry`: seconds that its session is kept.
    fn leave(&self, key: &str, live: &Live, expiry: u32) {
        let mut table = self.table();
        if table.live.get(key).is_some_and(|there| there.id == live.id) {
            table.live.remove(key);
        }
        if expiry > 0 {
            table.kept.insert(key.into(), Instant::now() + Duration::from_secs(expiry.into()));
        }
        live.gone.cancel();
    }

    /// Forgets sessions whose time is over; gives their keys, for the router to forget them as well.
    fn expired(&self) -> Vec<String> {
        let now = Instant::now();
        let mut table = self.table();
        let over: Vec<String> =
            table.kept.iter().filter(|(_, until)| **until <= now).map(|(key, _)| key.clone()).collect();
        for key in &over {
            table.kept.remove(key);
        }
        over.into_iter().filter(|key| !table.live.contains_key(key)).collect()
    }

    /// Ends sessions whose time is over. Run it beside the listeners.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(30)) => {}
            }
            for key in self.expired() {
                // A link that begins clean takes the session with it.
                if let Some(link) = self.fanout.open(connection::router_id(&key), true).await {
                    self.fanout.close(link.id).await;
                }
            }
        }
    }
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
