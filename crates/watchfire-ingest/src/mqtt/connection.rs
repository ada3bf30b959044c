//! One client, from CONNECT to the end.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{Packet, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use watchfire_decode::code;
use watchfire_log::AppendError;
use watchfire_telemetry::metrics;

use super::connect::{self, Hello, Refused};
use super::fanout::Attached;
use super::ledger::Publisher;
use super::packet::{self, Broken, Frame, Publish, reason};
use super::topic::{self, Route};
use super::{Broker, Live, subscriber};
use crate::certificate::{self, ClientCertificate};
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

/// How a connection ends.
pub(super) enum End {
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

pub(super) struct Connection<'b> {
    pub(super) broker: &'b Broker,
    pub(super) v5: bool,
    reasons: bool,
    pub(super) principal: Principal,
    pub(super) key: String,
    /// How long its session is kept once it is away.
    pub(super) expiry: Duration,
    /// There from the first subscription on: who only sends needs none.
    pub(super) session: Option<Attached>,
    /// As what its messages for subscribers are counted.
    pub(super) publisher: Publisher,
    /// Messages of QoS 1 that it takes at once.
    pub(super) receive_maximum: usize,
    /// Bytes of the largest packet that it takes.
    pub(super) packet_bytes: usize,
    pending: VecDeque<Pending>,
    unacknowledged: usize,
    pub(super) out: BytesMut,
}

pub(crate) async fn run<S>(
    broker: &Arc<Broker>,
    mut stream: S,
    peer: SocketAddr,
    certificate: Option<ClientCertificate>,
    deadline: Instant,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = BytesMut::with_capacity(BUFFER);
    let hello = tokio::select! {
        () = broker.stop.cancelled() => return,
        read = tokio::time::timeout_at(deadline, connect::read(&mut stream, &mut buffer, &broker.options)) => {
            read.unwrap_or(Err(Refused::Silent("connect-timeout")))
        }
    };
    let revocations = broker.revocations();
    let (mut hello, mut principal) = match hello {
        Ok(hello) => match authenticate(broker, &hello, certificate.as_ref(), peer).await {
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
    let leaving = Leaving { broker, key: key.clone(), live: live.clone() };
    // What was revoked while the credential was checked did not find this connection in the table yet. Who it is stays
    // as it was: the place in the table is of that one.
    if broker.revocations() != revocations {
        match authenticate(broker, &hello, certificate.as_ref(), peer).await {
            Ok(again) if again.name() == principal.name() => principal = again,
            Ok(_) => {
                let refused = Refused::Told { v5: hello.v5, code: reason::BAD_CREDENTIAL, why: "credential" };
                return refuse(broker, &mut stream, peer, refused).await;
            }
            Err(refused) => return refuse(broker, &mut stream, peer, refused).await,
        }
    }
    let mut connection = Connection {
        broker,
        v5: hello.v5,
        reasons: hello.reasons,
        publisher: broker.publisher(&principal, &key),
        principal,
        key,
        expiry: Duration::ZERO,
        session: None,
        receive_maximum: usize::from(hello.receive_maximum).min(100),
        packet_bytes: hello.packet_bytes,
        pending: VecDeque::new(),
        unacknowledged: 0,
        out: BytesMut::with_capacity(1024),
    };
    let session_present = connection.open_session(&mut hello);
    connect::accept(&mut connection.out, &hello, session_present, &broker.options);
    let over = is_over(certificate.as_ref());
    let end = connection.serve(&mut stream, &mut buffer, &hello, &live, over).await;
    if let End::Ours(code, why) = end {
        broker.refused(why);
        tracing::debug!(%peer, client = hello.client_id, reason = why, "connection ended by us");
        if hello.v5 {
            connection.out.put_slice(&[packet::DISCONNECT << 4, 2, code, 0]);
        }
    }
    // What was acknowledged last may still get through; if not, it is sent again and known as a repeat.
    let _ = connection.flush(&mut stream).await;
    connection.finish(&end, hello.will.take());
    // Whoever takes over finds the session as this connection left it.
    drop(connection);
    drop(leaving);
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await;
}

/// Waits until a certificate is no longer good; without one, for ever.
async fn is_over(certificate: Option<&ClientCertificate>) {
    match certificate {
        Some(certificate) => certificate.ends().await,
        None => std::future::pending().await,
    }
}

/// Gives the place in the table back, whichever way the connection ends.
struct Leaving<'b> {
    broker: &'b Broker,
    key: String,
    live: Live,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.broker.leave(&self.key, &self.live);
    }
}

async fn authenticate(
    broker: &Broker,
    hello: &Hello,
    certificate: Option<&ClientCertificate>,
    peer: SocketAddr,
) -> Result<Principal, Refused> {
    let credential = hello.credential.clone();
    let checking = certificate::identify(&*broker.authenticator, credential, certificate, Some(peer.ip()));
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

impl Connection<'_> {
    async fn serve<S>(
        &mut self,
        stream: &mut S,
        buffer: &mut BytesMut,
        hello: &Hello,
        live: &Live,
        over: impl Future<Output = ()>,
    ) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let broker = self.broker;
        // One and a half times the keep-alive (section 3.1.2.10); 0 turns it off.
        let patience = Duration::from_millis(u64::from(hello.keep_alive) * 1500);
        let mut last_read = Instant::now();
        let alarm =
            tokio::time::sleep(if patience.is_zero() { Duration::from_secs(86_400) } else { patience });
        tokio::pin!(alarm, over);
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
            tokio::select! {
                biased;
                () = broker.stop.cancelled() => {
                    return self.drain(stream, End::Ours(reason::SHUTTING_DOWN, "shutting-down")).await;
                }
                () = live.evict.cancelled() => {
                    return End::Ours(reason::TAKEN_OVER, "taken-over");
                }
                () = live.revoked.cancelled() => {
                    return End::Ours(reason::NOT_AUTHORIZED, "revoked");
                }
                () = &mut over => {
                    return End::Ours(reason::NOT_AUTHORIZED, "certificate-over");
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
                outgoing = subscriber::next(&self.session, self.receive_maximum) => self.forward(outgoing),
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
                    self.control(frame, bytes)?;
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
        let own = self.session.as_ref().map(|attached| attached.session.id);
        let mut outcomes = payloads.iter().zip(&verdicts);
        for (message, intake) in &messages {
            let (code, text) = if *intake {
                let Some((payload, verdict)) = outcomes.next() else { continue };
                if heard && verdict.accepted > 0 && !matches!(payload.content, Content::Refused { .. }) {
                    // Nobody was promised a copy: where too many wait, this one is given up and counted.
                    let (topic, payload) = (message.topic, message.payload);
                    let _ = broker.fanout.publish(&self.publisher, own, topic, payload, message.qos, false);
                }
                pending.unpromised += if message.qos == 0 { u64::from(verdict.accepted) } else { 0 };
                self.answer(verdict)
            } else {
                let Publish { topic, payload, qos, retain, .. } = *message;
                match broker.fanout.publish(&self.publisher, own, topic, payload, qos, retain) {
                    Ok(()) => (reason::SUCCESS, None),
                    // MQTT 3.1.1 has no word for it: there, the counter alone tells.
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

    fn control(&mut self, frame: Frame, mut bytes: BytesMut) -> Result<(), End> {
        match frame.kind {
            packet::PINGREQ => self.out.put_slice(&[0xd0, 0]),
            packet::PUBACK => {
                let id = packet::packet_id(frame, &bytes).ok_or(Broken(reason::MALFORMED, "malformed"))?;
                if let Some(Attached { session, .. }) = &self.session {
                    session.acknowledge(id);
                }
            }
            packet::SUBSCRIBE | packet::UNSUBSCRIBE => {
                let most = self.broker.options.packet_bytes;
                let packet =
                    if self.v5 { V5.read_mut(&mut bytes, most) } else { V4.read_mut(&mut bytes, most) };
                match packet {
                    Ok(Packet::Subscribe(subscribe, _)) => self.subscribe(subscribe)?,
                    Ok(Packet::Unsubscribe(unsubscribe, _)) => self.unsubscribe(unsubscribe),
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
