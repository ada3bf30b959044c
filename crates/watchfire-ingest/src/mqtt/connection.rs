//! One client, from CONNECT to the end.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use rumqttd::Notification;
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{LastWill, Packet, Protocol, PubAck, PubAckReason, QoS};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use watchfire_decode::code;
use watchfire_log::AppendError;
use watchfire_telemetry::metrics;
use xxhash_rust::xxh3::xxh3_128;

use super::connect::{self, Hello, Refused};
use super::fanout::Link;
use super::packet::{self, Broken, Frame, Publish, reason};
use super::topic::{self, Route};
use super::{Broker, Live};
use crate::contract::{Denied, Principal};
use crate::flight::Flight;
use crate::intake::{Content, Payload, SubmitError, Verdict};

/// What an idle connection keeps for reading.
const BUFFER: usize = 4 * 1024;
/// How far that grows while clients send much at once.
const BUFFER_MOST: usize = 64 * 1024;
/// Bytes of payloads that are handed to the log at once.
const BATCH_BYTES: usize = 1 << 20;
/// Appends of one connection on their way.
const FLIGHTS: usize = 64;

/// The name under which the router knows a session: no part of it comes from outside unhashed.
pub(crate) fn router_id(key: &str) -> String {
    format!("{:032x}", xxh3_128(key.as_bytes()))
}

/// How a connection ends.
enum End {
    /// The client said goodbye. Its will is not published.
    Disconnected,
    /// It did so, and wants its will published.
    DisconnectedWithWill,
    /// It is gone.
    Gone,
    /// We end it; MQTT 5 is told why.
    Ours(u8, &'static str),
}

impl From<Broken> for End {
    fn from(Broken(code, why): Broken) -> Self {
        Self::Ours(code, why)
    }
}

/// Acknowledgements that wait for what they promise.
struct Pending {
    flights: Vec<Arc<Flight>>,
    acks: Vec<Ack>,
    /// Readings of QoS 0 among it.
    unpromised: u64,
}

struct Ack {
    packet_id: u16,
    code: u8,
    text: Option<String>,
}

struct Connection<'b> {
    broker: &'b Broker,
    v5: bool,
    reasons: bool,
    principal: Principal,
    key: String,
    clean: bool,
    /// The session was there before: where it ends with this connection, the router has to forget it.
    resumed: bool,
    link: Option<Link>,
    /// Messages of QoS 1 to the client: packet id, and whether it was acknowledged. The router wants
    /// acknowledgements in the order in which it sent; clients may give them in any.
    sent: VecDeque<(u16, bool)>,
    receive_maximum: usize,
    packet_bytes: usize,
    filters: Vec<String>,
    heard: usize,
    pending: VecDeque<Pending>,
    unacknowledged: usize,
    out: BytesMut,
}

pub(crate) async fn run<S>(broker: &Arc<Broker>, mut stream: S, peer: SocketAddr, deadline: Instant)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = BytesMut::with_capacity(BUFFER);
    let hello = tokio::select! {
        () = broker.stop.cancelled() => return,
        read = tokio::time::timeout_at(deadline, connect::read(&mut stream, &mut buffer, &broker.options)) => {
            read.unwrap_or(Err(Refused::Silent("connect-timeout")))
        }
    };
    let (hello, principal) = match hello {
        Ok(hello) => match authenticate(broker, &hello).await {
            Ok(principal) => (hello, principal),
            Err(refused) => return refuse(broker, &mut stream, peer, refused).await,
        },
        Err(refused) => return refuse(broker, &mut stream, peer, refused).await,
    };
    let key = format!("{}/{}", principal.name(), hello.client_id);
    let live = match broker.take_over(&key).await {
        Ok(live) => live,
        Err(why) => {
            let refused = Refused::Told { v5: hello.v5, code: reason::UNAVAILABLE, why };
            return refuse(broker, &mut stream, peer, refused).await;
        }
    };
    let mut leaving = Leaving { broker, key: key.clone(), live: live.clone(), expiry: 0 };
    let mut connection = Connection {
        broker,
        v5: hello.v5,
        reasons: hello.reasons,
        principal,
        key,
        clean: true,
        resumed: false,
        link: None,
        sent: VecDeque::new(),
        receive_maximum: usize::from(hello.receive_maximum).min(100),
        packet_bytes: hello.packet_bytes,
        filters: Vec::new(),
        heard: 0,
        pending: VecDeque::new(),
        unacknowledged: 0,
        out: BytesMut::with_capacity(1024),
    };
    let mut hello = hello;
    let session_present = connection.open_session(&mut hello).await;
    connect::accept(&mut connection.out, &hello, session_present, &broker.options);
    let end = connection.serve(&mut stream, &mut buffer, &hello, &live).await;
    if let End::Ours(code, why) = end {
        broker.refused(why);
        tracing::debug!(%peer, client = hello.client_id, reason = why, "connection ended by us");
        if hello.v5 {
            connection.out.put_slice(&[packet::DISCONNECT << 4, 2, code, 0]);
        }
    }
    // What was acknowledged last may still get through; if not, it is sent again and known as a repeat.
    let _ = connection.flush(&mut stream).await;
    // Who never subscribed has no session in the router: there is nothing to keep.
    leaving.expiry = if connection.clean || connection.link.is_none() { 0 } else { hello.expiry };
    connection.finish(&end, hello.will.take()).await;
    drop(leaving);
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await;
}

/// Gives the place in the table back, whichever way the connection ends.
struct Leaving<'b> {
    broker: &'b Broker,
    key: String,
    live: Live,
    expiry: u32,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.broker.leave(&self.key, &self.live, self.expiry);
    }
}

async fn authenticate(broker: &Broker, hello: &Hello) -> Result<Principal, Refused> {
    let checking = broker.authenticator.authenticate(hello.credential.clone());
    let told = |code, why| Refused::Told { v5: hello.v5, code, why };
    match tokio::time::timeout(Duration::from_secs(10), checking).await {
        Ok(Ok(principal)) => Ok(principal),
        Ok(Err(Denied::NotAccepted)) => Err(told(reason::BAD_CREDENTIAL, "credential")),
        Ok(Err(Denied::Unavailable(error))) => {
            tracing::warn!(error, "credentials cannot be checked");
            Err(told(reason::UNAVAILABLE, "credential-check"))
        }
        Err(_) => Err(told(reason::UNAVAILABLE, "credential-check")),
    }
}

async fn refuse<S: AsyncWrite + Unpin>(broker: &Broker, stream: &mut S, peer: SocketAddr, refused: Refused) {
    broker.refused(refused.why());
    tracing::debug!(%peer, reason = refused.why(), "connection refused");
    if let Refused::Told { v5, code, .. } = refused {
        let mut out = BytesMut::new();
        connect::refuse(&mut out, v5, code);
        let _ = tokio::time::timeout(Duration::from_secs(1), async {
            stream.write_all(&out).await?;
            stream.shutdown().await
        })
        .await;
    }
}

/// Ready once everything that the oldest acknowledgements wait for has landed.
fn poll_landed(pending: &VecDeque<Pending>, context: &Context<'_>) -> Poll<Result<(), AppendError>> {
    let Some(first) = pending.front() else { return Poll::Pending };
    for flight in &first.flights {
        match flight.poll_outcome(context) {
            Poll::Ready(Ok(())) => {}
            other => return other,
        }
    }
    Poll::Ready(Ok(()))
}

async fn next_notification(link: &mut Option<Link>) -> Option<Notification> {
    match link {
        // An empty answer is a wake-up without news.
        Some(link) => loop {
            match link.receiver.next().await {
                Ok(Some(notification)) => return Some(notification),
                Ok(None) => {}
                Err(_) => return None,
            }
        },
        None => std::future::pending().await,
    }
}

impl Connection<'_> {
    /// Finds the session that the client wants to go on with, or begins one. Clients that only send need no link to
    /// the router before they subscribe.
    async fn open_session(&mut self, hello: &mut Hello) -> bool {
        let (kept, room) = {
            let mut table = self.broker.table();
            let kept = table.kept.remove(&self.key);
            (kept, table.kept.len() < self.broker.options.sessions)
        };
        let alive = kept.is_some_and(|until| until > std::time::Instant::now()) && !hello.clean;
        if kept.is_some() && !alive {
            self.forget_session().await;
        }
        if !room {
            // As many sessions as there may be: this one ends with its connection, and the client is told.
            hello.expiry = 0;
        }
        self.clean = hello.expiry == 0;
        if !alive {
            return false;
        }
        self.open_link(false).await;
        self.resumed = true;
        self.link.as_ref().is_some_and(|link| link.session_present)
    }

    /// A link that begins clean takes what the router kept with it.
    async fn forget_session(&mut self) {
        if let Some(link) = self.broker.fanout.open(router_id(&self.key), true).await {
            self.broker.fanout.close(link.id).await;
        }
    }

    async fn open_link(&mut self, clean: bool) {
        self.link = self.broker.fanout.open(router_id(&self.key), clean).await;
    }

    async fn serve<S>(&mut self, stream: &mut S, buffer: &mut BytesMut, hello: &Hello, live: &Live) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let broker = self.broker;
        // One and a half times the keep-alive (section 3.1.2.10); 0 turns it off.
        let patience = Duration::from_millis(u64::from(hello.keep_alive) * 1500);
        let mut last_read = Instant::now();
        let alarm =
            tokio::time::sleep(if patience.is_zero() { Duration::from_secs(86_400) } else { patience });
        tokio::pin!(alarm);
        // While the log takes nothing: when it is tried again, and how long that is put off the next time.
        let mut retry: Option<Instant> = None;
        let mut backoff = Duration::from_millis(10);
        // A CONNECT may have more behind it.
        let mut fresh = !buffer.is_empty();
        loop {
            if fresh && retry.is_none() {
                match self.take(buffer).await {
                    Ok(true) => {
                        fresh = false;
                        backoff = Duration::from_millis(10);
                    }
                    // As many acknowledgements wait as may: the rest stays in the buffer until some are given.
                    Ok(false) => {}
                    Err(Trouble::Stalled(why)) => {
                        metrics().intake.stalls.get_or_create(&[("reason", why.into())]).inc();
                        retry = Some(Instant::now() + backoff);
                        backoff = (backoff * 2).min(Duration::from_secs(1));
                    }
                    Err(Trouble::End(end)) => {
                        return match end {
                            End::Disconnected | End::DisconnectedWithWill => self.drain(stream, end).await,
                            end => end,
                        };
                    }
                }
            }
            if let Err(end) = self.flush(stream).await {
                return end;
            }
            let room = self.room();
            let reading = !fresh && retry.is_none() && room;
            let forwarding = self.sent.len() < self.receive_maximum;
            tokio::select! {
                biased;
                () = broker.stop.cancelled() => {
                    return self.drain(stream, End::Ours(reason::SHUTTING_DOWN, "shutting-down")).await;
                }
                () = live.evict.cancelled() => {
                    return End::Ours(reason::TAKEN_OVER, "taken-over");
                }
                landed = poll_fn(|context| poll_landed(&self.pending, context)), if !self.pending.is_empty() => {
                    if let Err(end) = self.landed(landed) {
                        return end;
                    }
                }
                () = tokio::time::sleep_until(retry.unwrap_or(last_read)), if retry.is_some() => {
                    retry = None;
                    last_read = Instant::now();
                }
                read = stream.read_buf(buffer), if reading => match read {
                    Ok(0) | Err(_) => return End::Gone,
                    Ok(_) => {
                        last_read = Instant::now();
                        fresh = true;
                        if buffer.len() == buffer.capacity() {
                            buffer.reserve(buffer.len().clamp(BUFFER, BUFFER_MOST));
                        }
                    }
                },
                notification = next_notification(&mut self.link), if forwarding => {
                    // The router ended the link, or died: the client connects and subscribes again.
                    let Some(notification) = notification else {
                        return End::Ours(reason::UNSPECIFIED, "router");
                    };
                    if let Err(end) = self.forward(notification).await {
                        return end;
                    }
                }
                () = &mut alarm => {
                    if !patience.is_zero() && reading && last_read.elapsed() >= patience {
                        return End::Ours(reason::KEEP_ALIVE, "keep-alive");
                    }
                    let rest = if patience.is_zero() {
                        Duration::from_secs(86_400)
                    } else {
                        patience.saturating_sub(last_read.elapsed()).max(Duration::from_secs(1))
                    };
                    alarm.as_mut().reset(Instant::now() + rest);
                }
            }
        }
    }

    fn room(&self) -> bool {
        self.pending.len() < FLIGHTS && self.unacknowledged < usize::from(self.broker.options.receive_maximum)
    }

    /// Everything that the oldest acknowledgements wait for has landed: they are written.
    fn landed(&mut self, outcome: Result<(), AppendError>) -> Result<(), End> {
        let Some(Pending { acks, unpromised, .. }) = self.pending.pop_front() else { return Ok(()) };
        if let Err(error) = outcome {
            metrics().intake.unpromised_lost.inc_by(unpromised);
            tracing::warn!(%error, "readings were not written: their senders are disconnected, to send them again");
            return Err(End::Ours(reason::UNSPECIFIED, "write-failed"));
        }
        self.unacknowledged -= acks.len();
        for Ack { packet_id, code, text } in acks {
            packet::write_puback(&mut self.out, self.v5, packet_id, code, text.as_deref());
        }
        Ok(())
    }

    /// Lets what was received become durable, and acknowledges it.
    async fn drain<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, end: End) -> End {
        let deadline = Instant::now() + Duration::from_secs(self.broker.options.drain_seconds);
        while !self.pending.is_empty() {
            let landed = poll_fn(|context| poll_landed(&self.pending, context));
            let Ok(outcome) = tokio::time::timeout_at(deadline, landed).await else { break };
            if self.landed(outcome).is_err() {
                break;
            }
        }
        let _ = self.flush(stream).await;
        end
    }

    async fn flush<S: AsyncWrite + Unpin>(&mut self, stream: &mut S) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        let limit = Duration::from_secs(self.broker.options.write_seconds);
        let written = tokio::time::timeout(limit, async {
            stream.write_all(&self.out).await?;
            // TLS holds records back until it is told not to.
            stream.flush().await
        })
        .await;
        self.out.clear();
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => {
                self.broker.refused("reads-too-slowly");
                Err(End::Gone)
            }
        }
    }

    /// Takes the packets that are whole. `false`: some were left, as too many acknowledgements wait.
    async fn take(&mut self, buffer: &mut BytesMut) -> Result<bool, Trouble> {
        loop {
            if !self.room() {
                return Ok(false);
            }
            match packet::frame(buffer, self.broker.options.packet_bytes).map_err(End::from)? {
                None => {
                    if buffer.is_empty() && buffer.capacity() > BUFFER_MOST {
                        *buffer = BytesMut::with_capacity(BUFFER);
                    } else if buffer.capacity() - buffer.len() < BUFFER / 4 {
                        buffer.reserve(BUFFER);
                    }
                    return Ok(true);
                }
                Some(frame) if frame.kind == packet::PUBLISH => {
                    let used = self.take_publishes(buffer).await?;
                    buffer.advance(used);
                }
                Some(frame) => {
                    let bytes = buffer.split_to(frame.total);
                    self.control(frame, bytes).await?;
                }
            }
        }
    }

    /// Hands all messages at the start of the buffer to the log in one go; gives their bytes. On an error nothing of
    /// them was taken.
    async fn take_publishes(&mut self, buffer: &[u8]) -> Result<usize, Trouble> {
        let broker = self.broker;
        let most = usize::from(broker.options.receive_maximum);
        let mut messages: Vec<(Publish<'_>, bool)> = Vec::new();
        let mut payloads: Vec<Payload<'_>> = Vec::new();
        let (mut used, mut promised) = (0, 0);
        while used < BATCH_BYTES && self.unacknowledged + promised < most {
            let rest = &buffer[used..];
            // What is wrong behind good messages ends the connection once those are taken.
            let frame = match packet::frame(rest, broker.options.packet_bytes) {
                Ok(Some(frame)) if frame.kind == packet::PUBLISH => frame,
                Err(broken) if messages.is_empty() => return Err(End::from(broken).into()),
                _ => break,
            };
            let checked = packet::publish(frame, rest, self.v5).and_then(|message| match message {
                Publish { qos: 2, .. } => Err(Broken(reason::QOS, "qos-2")),
                message if !topic::is_topic(message.topic) => Err(Broken(reason::TOPIC_INVALID, "topic")),
                message => Ok(message),
            });
            let message = match checked {
                Ok(message) => message,
                Err(broken) if messages.is_empty() => return Err(End::from(broken).into()),
                Err(_) => break,
            };
            used += frame.total;
            promised += usize::from(message.qos);
            let intake = match topic::route(&self.principal, &broker.mappings, message.topic) {
                Route::Intake(content) => {
                    payloads.push(Payload { address: message.topic, bytes: message.payload, content });
                    true
                }
                Route::Fanout => false,
            };
            messages.push((message, intake));
        }
        let (verdicts, flights) = if payloads.is_empty() {
            (Vec::new(), Vec::new())
        } else {
            match broker.intake.submit(&broker.source, &self.principal, &payloads).await {
                Ok(submitted) => (submitted.verdicts, submitted.flights),
                Err(SubmitError::Append(AppendError::Closed)) => {
                    return Err(End::Ours(reason::SHUTTING_DOWN, "shutting-down").into());
                }
                Err(error) => return Err(Trouble::Stalled(stall_reason(&error))),
            }
        };
        metrics().intake.bytes.get_or_create(&[("source", broker.source.name.clone())]).inc_by(used as u64);
        let mut pending = Pending { flights, acks: Vec::with_capacity(promised), unpromised: 0 };
        let heard = broker.fanout.is_heard();
        let mut outcomes = payloads.iter().zip(&verdicts);
        for (message, intake) in &messages {
            let (code, text) = if *intake {
                let Some((payload, verdict)) = outcomes.next() else { continue };
                if heard && verdict.accepted > 0 && !matches!(payload.content, Content::Refused { .. }) {
                    // Nobody was promised a copy: where too many wait, this one is given up and counted.
                    let _ = broker.fanout.publish(message.topic, message.payload, false);
                }
                pending.unpromised += if message.qos == 0 { u64::from(verdict.accepted) } else { 0 };
                self.answer(verdict)
            } else {
                match broker.fanout.publish(message.topic, message.payload, message.retain) {
                    Ok(()) => (reason::SUCCESS, None),
                    Err(_) => (reason::QUOTA, None),
                }
            };
            if message.qos == 1 {
                pending.acks.push(Ack { packet_id: message.packet_id, code, text });
            }
        }
        self.unacknowledged += pending.acks.len();
        self.pending.push_back(pending);
        Ok(used)
    }

    /// The reason code of a PUBACK. A payload of which some items were taken was taken.
    fn answer(&self, verdict: &Verdict) -> (u8, Option<String>) {
        let Some(first) = verdict.rejected.first().filter(|_| self.v5) else {
            return (reason::SUCCESS, None);
        };
        let text = self.reasons.then(|| format!("{}: {}", first.code, first.reason));
        let code = match first.code {
            _ if verdict.accepted > 0 => reason::SUCCESS,
            code::UNKNOWN_DEVICE | code::NOT_AUTHORISED | code::DEVICE_MISMATCH => reason::NOT_AUTHORIZED,
            code::TOO_MANY_ITEMS | code::TOO_MANY_METRICS => reason::QUOTA,
            _ => reason::PAYLOAD_FORMAT,
        };
        (code, text)
    }

    async fn control(&mut self, frame: Frame, mut bytes: BytesMut) -> Result<(), End> {
        match frame.kind {
            packet::PINGREQ => self.out.put_slice(&[0xd0, 0]),
            packet::PUBACK => {
                let id = packet::packet_id(frame, &bytes).ok_or(Broken(reason::MALFORMED, "malformed"))?;
                self.acknowledged(id).await;
            }
            packet::SUBSCRIBE | packet::UNSUBSCRIBE => {
                let most = self.broker.options.packet_bytes;
                let packet =
                    if self.v5 { V5.read_mut(&mut bytes, most) } else { V4.read_mut(&mut bytes, most) };
                match packet {
                    Ok(Packet::Subscribe(subscribe, _)) => self.subscribe(subscribe).await?,
                    Ok(Packet::Unsubscribe(unsubscribe, _)) => self.unsubscribe(unsubscribe).await?,
                    _ => return Err(Broken(reason::MALFORMED, "malformed").into()),
                }
            }
            // With a body, 0x04 asks for the will (MQTT 5, section 3.14.2.1).
            packet::DISCONNECT if self.v5 && bytes.get(frame.header) == Some(&4) => {
                return Err(End::DisconnectedWithWill);
            }
            packet::DISCONNECT => return Err(End::Disconnected),
            packet::PUBREC | packet::PUBREL | packet::PUBCOMP => {
                return Err(Broken(reason::PROTOCOL_ERROR, "qos-2").into());
            }
            // A second CONNECT, or what only servers send.
            _ => return Err(Broken(reason::PROTOCOL_ERROR, "unexpected-packet").into()),
        }
        Ok(())
    }

    async fn subscribe(&mut self, mut subscribe: rumqttd::protocol::Subscribe) -> Result<(), End> {
        if subscribe.pkid == 0 {
            return Err(Broken(reason::PROTOCOL_ERROR, "malformed").into());
        }
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        subscribe.filters.retain_mut(|filter| {
            if filter.qos == QoS::ExactlyOnce {
                filter.qos = QoS::AtLeastOnce;
            }
            let known = self.filters.contains(&filter.path);
            let code = if filter.path.starts_with("$share") {
                reason::SHARED
            } else if !topic::is_filter(&filter.path) {
                reason::FILTER_INVALID
            } else if !topic::may_subscribe(&self.principal, &filter.path) {
                reason::NOT_AUTHORIZED
            } else if !known && self.filters.len() >= self.broker.options.subscriptions {
                reason::QUOTA
            } else {
                filter.qos as u8
            };
            codes.push(code);
            if code > 2 {
                self.broker.refused("filter");
                return false;
            }
            if !known {
                if topic::hears_telemetry(&filter.path) {
                    self.heard += 1;
                    self.broker.fanout.add_hearers(1);
                }
                self.filters.push(filter.path.clone());
            }
            true
        });
        let packet_id = subscribe.pkid;
        if !subscribe.filters.is_empty() {
            if self.link.is_none() {
                self.open_link(self.clean).await;
            }
            match &self.link {
                Some(link) => self.broker.fanout.send(link.id, Packet::Subscribe(subscribe, None)).await,
                None => codes.iter_mut().for_each(|code| *code = (*code).max(reason::UNSPECIFIED)),
            }
        }
        packet::write_suback(&mut self.out, self.v5, packet::SUBSCRIBE, packet_id, &codes);
        Ok(())
    }

    async fn unsubscribe(&mut self, mut unsubscribe: rumqttd::protocol::Unsubscribe) -> Result<(), End> {
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        unsubscribe.filters.retain(|filter| {
            let known = self.filters.iter().position(|known| known == filter);
            if let Some(at) = known {
                self.filters.swap_remove(at);
                if topic::hears_telemetry(filter) {
                    self.heard -= 1;
                    self.broker.fanout.remove_hearers(1);
                }
            }
            codes.push(if known.is_some() { reason::SUCCESS } else { 0x11 });
            // A session that was gone on with has filters that this connection does not know of.
            topic::is_filter(filter) && !filter.starts_with("$share")
        });
        let packet_id = unsubscribe.pkid;
        if let Some(link) = &self.link
            && !unsubscribe.filters.is_empty()
        {
            self.broker.fanout.send(link.id, Packet::Unsubscribe(unsubscribe, None)).await;
        }
        packet::write_suback(&mut self.out, self.v5, packet::UNSUBSCRIBE, packet_id, &codes);
        Ok(())
    }

    /// Writes what the router has for the client.
    async fn forward(&mut self, notification: Notification) -> Result<(), End> {
        if matches!(notification, Notification::Unschedule) {
            // It pauses a link that has not read for long: without this it would never go on.
            if let Some(link) = &self.link {
                link.receiver.wake().await.map_err(|_| End::Ours(reason::UNSPECIFIED, "router"))?;
            }
            return Ok(());
        }
        let (publish, properties) = match Option::<Packet>::from(notification) {
            Some(Packet::Publish(publish, properties)) => (publish, properties),
            Some(Packet::Disconnect(..)) => return Err(End::Ours(reason::UNSPECIFIED, "router")),
            // Acknowledgements of what we sent: the client has had its own.
            _ => return Ok(()),
        };
        let start = self.out.len();
        let packet = Packet::Publish(publish, if self.v5 { properties } else { None });
        let written = if self.v5 { V5.write(packet, &mut self.out) } else { V4.write(packet, &mut self.out) };
        let frame = packet::frame(&self.out[start..], usize::MAX).ok().flatten();
        let (Ok(_), Some(frame)) = (written, frame) else {
            self.out.truncate(start);
            return Ok(());
        };
        let message = packet::publish(frame, &self.out[start..], self.v5);
        let (qos, id) = message.map_or((0, 0), |message| (message.qos, message.packet_id));
        if qos > 0 {
            self.sent.push_back((id, false));
        }
        if frame.total > self.packet_bytes {
            // It said that it takes none so large: for it, this message does not exist (section 3.1.2.11.4).
            self.out.truncate(start);
            metrics().intake.fanout_lost.inc();
            if qos > 0 {
                self.acknowledged(id).await;
            }
        }
        Ok(())
    }

    async fn acknowledged(&mut self, id: u16) {
        if let Some(sent) = self.sent.iter_mut().find(|(sent, acknowledged)| *sent == id && !acknowledged) {
            sent.1 = true;
        }
        while let Some(&(id, true)) = self.sent.front() {
            self.sent.pop_front();
            if let Some(link) = &self.link {
                let ack = PubAck { pkid: id, reason: PubAckReason::Success };
                self.broker.fanout.send(link.id, Packet::PubAck(ack, None)).await;
            }
        }
    }

    /// The will is published and the link given back.
    async fn finish(&mut self, end: &End, will: Option<LastWill>) {
        self.broker.fanout.remove_hearers(self.heard);
        self.heard = 0;
        let unexpected = !matches!(end, End::Disconnected);
        if let Some(will) = will.filter(|_| unexpected)
            && let Ok(topic) = std::str::from_utf8(&will.topic)
            && topic::is_topic(topic)
            && matches!(topic::route(&self.principal, &self.broker.mappings, topic), Route::Fanout)
        {
            // Where too many messages wait, it is given up and counted.
            let _ = self.broker.fanout.publish(topic, &will.message, will.retain);
        }
        if let Some(link) = self.link.take() {
            self.broker.fanout.close(link.id).await;
            if self.resumed && self.clean {
                self.forget_session().await;
            }
        }
    }
}

/// Why packets were not taken.
enum Trouble {
    /// The log takes nothing now: they stay in the buffer.
    Stalled(&'static str),
    End(End),
}

impl From<End> for Trouble {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

fn stall_reason(error: &SubmitError) -> &'static str {
    match error {
        SubmitError::Append(AppendError::Full) => "queue-full",
        SubmitError::Append(AppendError::DiskFull) => "disk-full",
        SubmitError::Append(AppendError::ClockStep(_)) => "clock-step",
        SubmitError::Append(_) => "write-failed",
        SubmitError::Register(_) => "register",
    }
}
