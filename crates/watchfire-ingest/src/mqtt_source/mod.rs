//! `[source.mqtt]`: readings from the topics of an MQTT broker that is there already.
//!
//! We are a client with a session that outlives connections, and acknowledge a message (QoS 1) only once its readings are
//! durable. So the broker keeps what we have not acknowledged, over its outages and ours, and sends it again. An
//! acknowledgement belongs to the connection that its message came over: on another one it could be taken for that of
//! another message.
//!
//! What the broker sends again though we have it is known by its bytes while this process lives (what we could not acknowledge
//! comes again in any case; what we did only with the mark DUP, which a broker that was killed does not set), and as an exact
//! repeat of the readings beyond that. Readings without a time of their own may come twice over a restart of ours.

mod options;

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Packet, Publish, QoS,
    SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use watchfire_log::AppendError;
use watchfire_model::Secret;
use watchfire_telemetry::metrics;
use xxhash_rust::xxh3::Xxh3;

pub use options::{MqttSourceError, MqttSourceOptions, MqttSourceTls};

use crate::board::{Board, State};
use crate::contract::Principal;
use crate::intake::{Intake, Payload, Source, SubmitError, Submitted};
use crate::mapping::AddressMapping;
use crate::mqtt::content;

/// The name of the source, as it stands in dead letters, metrics and the log.
pub const NAME: &str = "mqtt-source";

/// Between tries to connect: doubled each time, with some chance in it.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// Between tries to hand something to a log that takes nothing.
const LOG_RETRY: Duration = Duration::from_millis(200);
/// What comes at once is one append, up to so many messages.
const BATCH: usize = 1000;
/// At the end, what was received is given this long to become durable, and its acknowledgements to be sent. The rest is
/// sent again at the next start.
const DRAIN: Duration = Duration::from_secs(10);

/// A source that subscribes to a broker.
pub struct MqttSource {
    board: Arc<Board>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl MqttSource {
    /// Starts to connect. Whether there is a broker is found out meanwhile: it may come later. Call it inside of a tokio
    /// runtime.
    pub fn start(
        options: MqttSourceOptions,
        source: Source,
        intake: Arc<Intake>,
    ) -> Result<Arc<Self>, MqttSourceError> {
        options.check()?;
        let wrong = |key, fault: String| MqttSourceError { key, fault };
        let mappings = options.mappings().map_err(|error| wrong("mapping", error.to_string()))?;
        let (host, port) = options.address()?;
        let mut client = MqttOptions::new(&options.client_id, host, port);
        client
            .set_clean_session(false)
            .set_manual_acks(true)
            .set_keep_alive(Duration::from_secs(options.keep_alive_seconds))
            .set_max_packet_size(options.packet_bytes, 64 << 10);
        log_in(&mut client, &options);
        if let Some(tls) = &options.tls {
            let config = tls_config(tls).map_err(|fault| wrong("tls", fault))?;
            client.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(config))));
        }
        // Room for the acknowledgement of everything that may wait, and for what else we send.
        let (client, events) = AsyncClient::new(client, options.in_flight + 64);
        let (board, stop) = (Arc::new(Board::new(NAME)), CancellationToken::new());
        let work = Work {
            board: board.clone(),
            stop: stop.clone(),
            options,
            mappings,
            source,
            intake,
            client,
            connection: 0,
            subscribed: false,
            pending: VecDeque::new(),
            flights: VecDeque::new(),
            owed: Known::default(),
            owed_until: Instant::now(),
            told: Known::default(),
            wait: RETRY.0,
            try_log: None,
        };
        let task = tokio::spawn(work.run(events));
        Ok(Arc::new(Self { board, stop, task: Mutex::new(Some(task)) }))
    }

    /// What it is at.
    pub fn state(&self) -> State {
        self.board.state()
    }

    /// Takes nothing more; returns once what was received is durable and acknowledged, as far as that is possible.
    pub async fn stop(&self) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl Drop for MqttSource {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// With the password as it is now. Where it cannot be read the one before counts on.
fn log_in(client: &mut MqttOptions, options: &MqttSourceOptions) {
    let Some(username) = &options.username else { return };
    match options.password.as_ref().map(Secret::read).transpose() {
        Ok(password) => drop(client.set_credentials(username, password.unwrap_or_default())),
        Err(error) => tracing::warn!(%error, "the password for the broker cannot be read"),
    }
}

fn tls_config(tls: &MqttSourceTls) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    let unread =
        |path: &std::path::Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    for certificate in CertificateDer::pem_file_iter(&tls.ca).map_err(|error| unread(&tls.ca, &error))? {
        let certificate = certificate.map_err(|error| unread(&tls.ca, &error))?;
        roots.add(certificate).map_err(|error| unread(&tls.ca, &error))?;
    }
    if roots.is_empty() {
        return Err(format!("{} has no certificate", tls.ca.display()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate)
                .map_err(|error| unread(certificate, &error))?
                .collect();
            let chain = chain.map_err(|error| unread(certificate, &error))?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unread(key, &error))?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| error.to_string())
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// A message, and which connection it came over.
struct Message {
    publish: Publish,
    connection: u64,
    hash: u64,
}

/// Messages of one append.
struct Taken {
    submitted: Submitted,
    messages: Vec<Message>,
}

/// After that time on a new connection, all that a broker sends again has come.
const AGAIN: Duration = Duration::from_secs(60);

/// Messages that we have, by hash: how many of them.
#[derive(Default)]
struct Known {
    counts: HashMap<u64, u32>,
    oldest_first: VecDeque<u64>,
}

impl Known {
    fn add(&mut self, hash: u64, most: usize) {
        *self.counts.entry(hash).or_default() += 1;
        self.oldest_first.push_back(hash);
        while self.oldest_first.len() > most {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.forget(oldest);
            }
        }
    }

    /// Whether there is one; that one is forgotten.
    fn take(&mut self, hash: u64) -> bool {
        let has = self.counts.contains_key(&hash);
        self.forget(hash);
        has
    }

    fn forget(&mut self, hash: u64) {
        if let Some(count) = self.counts.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&hash);
            }
        }
    }
}

struct Work {
    board: Arc<Board>,
    stop: CancellationToken,
    options: MqttSourceOptions,
    mappings: Vec<AddressMapping>,
    source: Source,
    intake: Arc<Intake>,
    client: AsyncClient,
    /// Which connection this is.
    connection: u64,
    subscribed: bool,
    /// Received, and not taken by the log.
    pending: VecDeque<Message>,
    /// On their way to the disk.
    flights: VecDeque<Taken>,
    /// Durable here and not acknowledged, because their connection is gone: they come again.
    owed: Known,
    /// Until then. What has not come again is not known to the broker any more.
    owed_until: Instant,
    /// Acknowledged, if that got through.
    told: Known,
    wait: Duration,
    /// When the log is asked again, where it took nothing.
    try_log: Option<Instant>,
}

/// The connection as a future that is kept from turn to turn: dropped in the middle it could lose a packet.
type Polling = Pin<Box<dyn Future<Output = (EventLoop, Result<Event, ConnectionError>)> + Send>>;

fn poll(mut events: EventLoop, after: Duration) -> Polling {
    Box::pin(async move {
        if !after.is_zero() {
            tokio::time::sleep(after).await;
        }
        let event = events.poll().await;
        (events, event)
    })
}

impl Work {
    async fn run(mut self, events: EventLoop) {
        let mut polling = poll(events, Duration::ZERO);
        loop {
            let waiting: usize =
                self.pending.len() + self.flights.iter().map(|taken| taken.messages.len()).sum::<usize>();
            let oldest = self.flights.front().map(|taken| landed(&taken.submitted));
            let try_log = self.try_log;
            tokio::select! {
                // In this order: an acknowledgement is never given between the end of a connection and our knowing of it,
                // because the connection is only driven here.
                biased;
                () = self.stop.cancelled() => break,
                outcome = async { oldest.unwrap_or_else(never).await } => self.landed(outcome),
                () = tokio::time::sleep_until(try_log.unwrap_or_else(Instant::now)), if try_log.is_some() => {
                    self.submit().await;
                }
                (events, event) = &mut polling, if waiting < self.options.in_flight => {
                    let mut broken = self.follow(&mut polling, events, event);
                    // What else is there already comes into the same append.
                    while !broken && self.pending.len() < BATCH {
                        let std::task::Poll::Ready((events, event)) = futures::poll!(polling.as_mut()) else { break };
                        broken = self.follow(&mut polling, events, event);
                    }
                    if self.try_log.is_none() {
                        self.submit().await;
                    }
                }
            }
        }
        self.drain(polling).await;
        metrics().sources.up.get_or_create(&[("source", NAME.into())]).set(0);
    }

    /// Takes what the connection says and asks it for more, after a while where it is broken. Whether it is.
    fn follow(
        &mut self,
        polling: &mut Polling,
        mut events: EventLoop,
        event: Result<Event, ConnectionError>,
    ) -> bool {
        let broken = event.is_err();
        let after = self.event(event);
        if broken {
            log_in(&mut events.mqtt_options, &self.options);
        }
        *polling = poll(events, after);
        broken
    }

    /// What the connection says; gives how long to wait before it is asked again.
    fn event(&mut self, event: Result<Event, ConnectionError>) -> Duration {
        match event {
            Ok(Event::Incoming(Packet::ConnAck(answer))) => {
                self.wait = RETRY.0;
                self.connection += 1;
                self.owed_until = Instant::now() + AGAIN;
                if answer.session_present {
                    // What has no acknowledgement is sent again.
                    self.pending.retain(|message| message.publish.qos == QoS::AtMostOnce);
                } else {
                    // Nothing is.
                    (self.owed, self.told) = (Known::default(), Known::default());
                }
                // Where the session is there, so are its filters; ours may have changed since it began.
                if !answer.session_present || !self.subscribed {
                    self.subscribe();
                } else {
                    self.running();
                }
            }
            Ok(Event::Incoming(Packet::SubAck(answer))) => {
                let refused =
                    answer.return_codes.iter().position(|code| *code == SubscribeReasonCode::Failure);
                match refused.and_then(|place| self.options.topics.get(place)) {
                    Some(filter) => {
                        let reason = format!("the broker refuses the subscription to {filter:?}");
                        self.board.set(State::Waiting(reason));
                        self.count("subscription");
                    }
                    None => self.running(),
                }
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => self.receive(publish),
            Ok(_) => {}
            Err(error) => {
                let (code, reason) = match &error {
                    ConnectionError::ConnectionRefused(code) => ("refused", refusal(*code).to_string()),
                    ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => {
                        ("timeout", error.to_string())
                    }
                    ConnectionError::Tls(_) => ("tls", error.to_string()),
                    ConnectionError::Io(_) => ("io", error.to_string()),
                    _ => ("protocol", error.to_string()),
                };
                self.count(code);
                self.board.set(State::Waiting(reason));
                let wait = self.wait.mul_f64(rand::random_range(0.5..1.0));
                self.wait = (self.wait * 2).min(RETRY.1);
                return wait;
            }
        }
        Duration::ZERO
    }

    fn running(&mut self) {
        self.subscribed = true;
        if self.try_log.is_none() {
            self.board.set(State::Running);
        }
    }

    fn count(&self, code: &str) {
        metrics().sources.errors.get_or_create(&[("source", NAME.into()), ("code", code.into())]).inc();
    }

    fn subscribe(&mut self) {
        let filters =
            self.options.topics.iter().map(|topic| SubscribeFilter::new(topic.clone(), QoS::AtLeastOnce));
        if self.client.try_subscribe_many(filters).is_err() {
            // There is room for it: only a connection that ends has none, and the next one asks again.
            self.subscribed = false;
        }
    }

    fn receive(&mut self, publish: Publish) {
        let source = || [("source", NAME.to_string())];
        metrics().intake.bytes.get_or_create(&source()).inc_by(publish.payload.len() as u64);
        metrics().sources.records.get_or_create(&source()).inc();
        let mut hash = Xxh3::new();
        hash.update(publish.topic.as_bytes());
        hash.update(&[0]);
        hash.update(&publish.payload);
        let message = Message { hash: hash.digest(), connection: self.connection, publish };
        if message.publish.qos != QoS::AtMostOnce {
            let owed = self.owed_until > Instant::now() && self.owed.take(message.hash);
            if owed || message.publish.dup && self.told.take(message.hash) {
                metrics().intake.repeats.inc();
                return self.acknowledge(message);
            }
            // Its original is on its way: it is acknowledged with that one.
            let same =
                |known: &&mut Message| known.hash == message.hash && known.connection < message.connection;
            if let Some(original) = self.flights.iter_mut().flat_map(|taken| &mut taken.messages).find(same) {
                metrics().intake.repeats.inc();
                *original = message;
                return;
            }
        }
        self.pending.push_back(message);
    }

    fn acknowledge(&mut self, message: Message) {
        if message.publish.qos == QoS::AtMostOnce {
            return;
        }
        let most = 2 * self.options.in_flight;
        if message.connection == self.connection && self.client.try_ack(&message.publish).is_ok() {
            self.told.add(message.hash, most);
        } else {
            self.owed.add(message.hash, most);
        }
    }

    /// Hands what has come to the log.
    async fn submit(&mut self) {
        self.try_log = None;
        while !self.pending.is_empty() {
            let count = self.pending.len().min(BATCH);
            let messages: Vec<Message> = self.pending.drain(..count).collect();
            let payloads: Vec<Payload<'_>> = messages
                .iter()
                .filter_map(|message| {
                    let Publish { topic, payload, .. } = &message.publish;
                    let content = content(&Principal::Anonymous, &self.mappings, topic)?;
                    Some(Payload { address: topic, bytes: payload, content })
                })
                .collect();
            // What is no telemetry was subscribed to by a filter that is too wide.
            let passed = (messages.len() - payloads.len()) as u64;
            let taken = self.intake.submit(&self.source, &Principal::Anonymous, &payloads).await;
            drop(payloads);
            match taken {
                Ok(submitted) => {
                    if passed > 0 {
                        let labels = [("source", NAME.into()), ("reason", "no-mapping".into())];
                        metrics().intake.refused.get_or_create(&labels).inc_by(passed);
                    }
                    self.flights.push_back(Taken { submitted, messages });
                    if self.subscribed {
                        self.board.set(State::Running);
                    }
                }
                Err(error) => return self.held(messages, &error),
            }
        }
    }

    /// The log takes nothing: what was promised waits, what was not is given up.
    fn held(&mut self, messages: Vec<Message>, error: &SubmitError) {
        let (promised, not): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|message| message.publish.qos != QoS::AtMostOnce);
        metrics().intake.unpromised_lost.inc_by(not.len() as u64);
        promised.into_iter().rev().for_each(|message| self.pending.push_front(message));
        if *error == SubmitError::Append(AppendError::Closed) {
            return self.stop.cancel();
        }
        self.try_log = Some(Instant::now() + LOG_RETRY);
        let reason = std::error::Error::source(error).map_or(String::new(), ToString::to_string);
        let state = State::Waiting(format!("the log takes nothing: {reason}"));
        if self.board.state() != state {
            metrics().intake.stalls.get_or_create(&[("reason", "log".into())]).inc();
        }
        self.board.set(state);
    }

    /// The oldest append has an outcome.
    fn landed(&mut self, outcome: Result<(), AppendError>) {
        let Some(Taken { messages, .. }) = self.flights.pop_front() else { return };
        match outcome {
            Ok(()) => messages.into_iter().for_each(|message| self.acknowledge(message)),
            Err(error) => self.held(messages, &error.into()),
        }
    }

    /// What was received becomes durable and is acknowledged, as far as that is possible.
    async fn drain(&mut self, mut polling: Polling) {
        let until = Instant::now() + DRAIN;
        while let Some(taken) = self.flights.front() {
            let Ok(outcome) = tokio::time::timeout_at(until, landed(&taken.submitted)).await else { return };
            self.landed(outcome);
        }
        if self.board.state() != State::Running || self.client.try_disconnect().is_err() {
            return;
        }
        // Requests are sent in their order, and the broker closes the connection once it has read all of them: whoever comes
        // next under our name would take what it has not read for not acknowledged.
        let sent = async {
            while let (events, Ok(_)) = polling.await {
                polling = poll(events, Duration::ZERO);
            }
        };
        let _ = tokio::time::timeout_at(until, sent).await;
    }
}

/// When all that an append rests on has landed.
fn landed(submitted: &Submitted) -> Pin<Box<dyn Future<Output = Result<(), AppendError>> + Send>> {
    let flights: Vec<_> = submitted.flights.iter().map(|flight| flight.wait()).collect();
    Box::pin(async move {
        for flight in flights {
            flight.await?;
        }
        Ok(())
    })
}

fn never() -> Pin<Box<dyn Future<Output = Result<(), AppendError>> + Send>> {
    Box::pin(std::future::pending())
}

fn refusal(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::BadUserNamePassword => "the broker refuses user name or password",
        ConnectReturnCode::NotAuthorized => "the broker does not let us in",
        ConnectReturnCode::BadClientId => "the broker refuses our client id",
        ConnectReturnCode::RefusedProtocolVersion => "the broker does not speak MQTT 3.1.1",
        _ => "the broker takes no connection now",
    }
}
