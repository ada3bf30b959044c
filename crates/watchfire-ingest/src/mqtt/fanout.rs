//! Messages for subscribers: rumqttd's router, behind one thread of our own.
//!
//! Building and feeding a link of the router blocks, so one thread does it for all connections, in the order in which
//! they asked; that order also makes a subscription effective before anything that its client publishes later. The
//! router is not needed for telemetry: where it dies, subscribers are disconnected and it is started anew.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rumqttd::local::{LinkBuilder, LinkError, LinkRx, LinkTx};
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet, Publish};
use rumqttd::{Notification, Router, RouterConfig};
use tokio::sync::{mpsc, oneshot};
use watchfire_telemetry::metrics;
use xxhash_rust::xxh3::xxh3_64;

/// Messages that wait for the router. More are given up: nobody was promised them.
const QUEUE: usize = 16_384;
/// Different topics in the router's life: it remembers each for ever.
const TOPICS: usize = 200_000;

/// A connection's link.
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) receiver: LinkRx,
    /// The router knew a session of this client.
    pub(crate) session_present: bool,
}

#[allow(
    clippy::large_enum_variant,
    reason = "a box for each packet costs more than the queue's empty places"
)]
enum Command {
    Open { client: String, clean: bool, answer: oneshot::Sender<Option<Link>> },
    Send { link: u64, packet: Packet },
    Close { link: u64 },
    Publish { topic: Bytes, payload: Bytes, retain: bool },
}

/// The way to subscribers.
#[derive(Clone)]
pub struct Fanout {
    commands: mpsc::Sender<Command>,
    hearers: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Fanout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fanout").field("hearers", &self.hearers).finish_non_exhaustive()
    }
}

/// The message was not taken: too many wait, or there are too many topics.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("too many messages wait for subscribers")]
pub struct FanoutFull;

impl Fanout {
    /// Starts the router and the thread before it.
    pub fn start(links: usize) -> std::io::Result<Self> {
        let (commands, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("mqtt-fanout".into()).spawn(move || Hub::new(links).run(queue))?;
        Ok(Self { commands, hearers: Arc::default() })
    }

    /// Publishes a message to whoever subscribed. The topic must be well-formed.
    pub fn publish(&self, topic: &str, payload: &[u8], retain: bool) -> Result<(), FanoutFull> {
        let topic = Bytes::copy_from_slice(topic.as_bytes());
        let payload = Bytes::copy_from_slice(payload);
        self.commands.try_send(Command::Publish { topic, payload, retain }).map_err(|_| {
            metrics().intake.fanout_lost.inc();
            FanoutFull
        })
    }

    /// Whether anybody subscribed to more than commands.
    pub(crate) fn is_heard(&self) -> bool {
        self.hearers.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn add_hearers(&self, count: usize) {
        self.hearers.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn remove_hearers(&self, count: usize) {
        self.hearers.fetch_sub(count, Ordering::Relaxed);
    }

    pub(crate) async fn open(&self, client: String, clean: bool) -> Option<Link> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Open { client, clean, answer }).await.ok()?;
        answered.await.ok()?
    }

    pub(crate) async fn send(&self, link: u64, packet: Packet) {
        // A closed queue: the process ends.
        let _ = self.commands.send(Command::Send { link, packet }).await;
    }

    pub(crate) async fn close(&self, link: u64) {
        let _ = self.commands.send(Command::Close { link }).await;
    }
}

type Connect = Box<dyn Fn(&str, bool) -> Result<(LinkTx, LinkRx, Notification), LinkError>>;

struct Hub {
    links_allowed: usize,
    connect: Connect,
    /// The link over which everything is published; `None`: the router has to be started anew.
    own: Option<(LinkTx, LinkRx)>,
    links: HashMap<u64, LinkTx>,
    next: u64,
    topics: HashSet<u64>,
}

impl Hub {
    fn new(links_allowed: usize) -> Self {
        let (connect, own) = start_router(links_allowed);
        Self { links_allowed, connect, own, links: HashMap::new(), next: 0, topics: HashSet::new() }
    }

    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        while let Some(command) = queue.blocking_recv() {
            match command {
                Command::Open { client, clean, answer } => {
                    let opened = self.open(&client, clean);
                    if let Err(Some(lost)) = answer.send(opened) {
                        self.close(lost.id);
                    }
                }
                Command::Send { link, packet } => {
                    let sent = self.links.get_mut(&link).map(|tx| send(tx, packet));
                    if sent == Some(false) {
                        self.restart();
                    }
                }
                Command::Close { link } => self.close(link),
                Command::Publish { topic, payload, retain } => self.publish(topic, payload, retain),
            }
        }
    }

    fn open(&mut self, client: &str, clean: bool) -> Option<Link> {
        if self.own.is_none() {
            self.restart();
        }
        match (self.connect)(client, clean) {
            Ok((tx, receiver, notification)) => {
                self.next += 1;
                self.links.insert(self.next, tx);
                let session_present = match Option::<Packet>::from(notification) {
                    Some(Packet::ConnAck(ack, _)) => ack.session_present,
                    _ => false,
                };
                Some(Link { id: self.next, receiver, session_present })
            }
            Err(error) => {
                tracing::warn!(%error, "no link to the router for subscribers");
                if matches!(error, LinkError::Send(_)) {
                    self.restart();
                }
                None
            }
        }
    }

    fn close(&mut self, link: u64) {
        // Dropping a link does not tell the router: its place would never be given back.
        if let Some(mut tx) = self.links.remove(&link) {
            let reason_code = DisconnectReasonCode::NormalDisconnection;
            let _ = send(&mut tx, Packet::Disconnect(Disconnect { reason_code }, None));
        }
    }

    fn publish(&mut self, topic: Bytes, payload: Bytes, retain: bool) {
        let hash = xxh3_64(&topic);
        if !self.topics.contains(&hash) {
            if self.topics.len() >= TOPICS {
                metrics().intake.fanout_lost.inc();
                return;
            }
            self.topics.insert(hash);
        }
        let publish = Publish::new(topic, payload, retain);
        if !self.own.as_mut().is_some_and(|(own, _)| send(own, Packet::Publish(publish, None))) {
            metrics().intake.fanout_lost.inc();
            self.restart();
        }
    }

    /// The router is dead: its subscribers see their links end and reconnect.
    fn restart(&mut self) {
        tracing::error!("the router for subscribers died and is started anew");
        self.links.clear();
        self.topics.clear();
        (self.connect, self.own) = start_router(self.links_allowed);
    }
}

/// `LinkTx::send` is async in name only: it blocks, and is ready when it returns.
fn send(tx: &mut LinkTx, packet: Packet) -> bool {
    use std::future::Future;
    let mut sending = std::pin::pin!(tx.send(packet));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    matches!(sending.as_mut().poll(&mut context), std::task::Poll::Ready(Ok(_)))
}

fn start_router(links: usize) -> (Connect, Option<(LinkTx, LinkRx)>) {
    let config = RouterConfig {
        max_connections: links + 1,
        // Below this, links with many messages starve and lose some silently.
        max_outgoing_packet_count: 20_000,
        max_segment_size: 1 << 20,
        max_segment_count: 10,
        ..RouterConfig::default()
    };
    let router = Router::new(0, config).spawn();
    #[allow(clippy::result_large_err, reason = "the error is the router's own type")]
    let connect: Connect =
        Box::new(move |client, clean| LinkBuilder::new(client, router.clone()).clean_session(clean).build());
    // A random name: nobody outside can take it over.
    let name = format!("watchfire-{:016x}", rand::random::<u64>());
    let own = match connect(&name, true) {
        Ok((tx, receiver, _)) => Some((tx, receiver)),
        Err(error) => {
            tracing::error!(%error, "the router for subscribers does not start");
            None
        }
    };
    (connect, own)
}
