//! A connection to the broker. A task of its own drives it, so that it stays alive while there is nothing to publish.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::config::MqttSinkConfig;
use super::encode::Message;
use super::retry;
use crate::contract::Failure;

/// How long a connection may take to be there, and how long the broker may be silent while it owes an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a connection without traffic says that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What the task tells.
enum Signal {
    /// The next message went out under this number.
    Sent(u16),
    /// What has this number is answered.
    Answered(u16, PubAckReason),
    /// The connection is gone.
    Broken(Failure),
}

/// A connection.
pub(super) struct Connection {
    client: AsyncClient,
    signals: mpsc::Receiver<Signal>,
    task: JoinHandle<()>,
    in_flight: usize,
    /// Bytes of a packet that the broker takes.
    pub largest: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Connects as this client.
    pub async fn open(config: &MqttSinkConfig, client_id: String) -> Result<Self, Failure> {
        let address = config.address().map_err(|error| Failure::retry("configuration", error))?;
        let mut options = MqttOptions::new(client_id, address.host, address.port);
        options.set_keep_alive(KEEP_ALIVE).set_clean_start(true);
        options.set_connection_timeout(PATIENCE.as_secs());
        options.set_outgoing_inflight_upper_limit(config.in_flight);
        if !config.username.is_empty() {
            let password = config.password.read();
            let password =
                password.map_err(|error| Failure::retry("configuration", format!("password: {error}")))?;
            options.set_credentials(&config.username, password);
        }
        if address.tls {
            let tls = tls(config).map_err(|reason| Failure::retry("tls", reason))?;
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls)));
        }
        let in_flight = usize::from(config.in_flight);
        let (client, mut events) = AsyncClient::new(options, in_flight);
        let largest = match tokio::time::timeout(PATIENCE, greeting(&mut events)).await {
            Ok(greeting) => greeting?,
            Err(_) => return Err(Failure::retry("unreachable", "no answer")),
        };
        // Two signals for each message in flight: the task never waits for us.
        let (sender, signals) = mpsc::channel(2 * in_flight + 16);
        let task = tokio::spawn(drive(events, sender));
        Ok(Self { client, signals, task, in_flight, largest })
    }

    /// Whether it broke, as far as is known.
    pub fn is_broken(&self) -> bool {
        self.task.is_finished()
    }

    /// Publishes messages in order and waits for the broker to have taken all of them. `taken` is told how many of the
    /// first it has for certain. After a failure the connection is of no use any more.
    pub async fn publish(
        &mut self,
        count: usize,
        message: impl Fn(usize) -> Message,
        mut taken: impl FnMut(usize),
    ) -> Result<(), (Option<usize>, Failure)> {
        let (mut next, mut first) = (0, 0);
        let mut waiting = VecDeque::new();
        let mut flying = HashMap::new();
        let mut answered = std::collections::BTreeSet::new();
        while first < count {
            while next < count && waiting.len() + flying.len() < self.in_flight {
                let Message { topic, payload, retain } = message(next);
                let sent = self.client.publish(topic, QoS::AtLeastOnce, retain, payload).await;
                if sent.is_err() {
                    // The task is gone, and has told why.
                    break;
                }
                waiting.push_back(next);
                next += 1;
            }
            let signal = tokio::time::timeout(PATIENCE, self.signals.recv()).await;
            match signal {
                Err(_) => return Err((None, Failure::retry("slow", "the broker acknowledges nothing"))),
                Ok(None) => return Err((None, Failure::retry("unreachable", "the connection is gone"))),
                Ok(Some(Signal::Broken(failure))) => return Err((None, failure)),
                Ok(Some(Signal::Sent(number))) => {
                    if let Some(place) = waiting.pop_front() {
                        flying.insert(number, place);
                    }
                }
                Ok(Some(Signal::Answered(number, reason))) => {
                    let Some(place) = flying.remove(&number) else { continue };
                    match retry::answer(reason) {
                        retry::Answer::Taken => {}
                        retry::Answer::Later(failure) => return Err((None, failure)),
                        retry::Answer::Refused(reason) => {
                            return Err((Some(place), Failure::retry("refused", reason)));
                        }
                    }
                    answered.insert(place);
                    // What is sent again begins with the first that may be missing, so that the order holds.
                    while answered.remove(&first) {
                        first += 1;
                    }
                    taken(first);
                }
            }
        }
        Ok(())
    }
}

/// Waits for the broker to let us in. Gives how large a packet may be.
async fn greeting(events: &mut EventLoop) -> Result<usize, Failure> {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(greeting))) => {
                let limit = greeting.properties.and_then(|properties| properties.max_packet_size);
                // 256 MiB is what the length of a packet can say (MQTT 5, section 1.5.5).
                return Ok(limit.map_or(268_435_455, |limit| limit as usize));
            }
            Ok(_) => {}
            Err(error) => return Err(retry::failure(&error)),
        }
    }
}

async fn drive(mut events: EventLoop, signals: mpsc::Sender<Signal>) {
    loop {
        let (event, broken) = match events.poll().await {
            Ok(event) => (Some(event), None),
            Err(error) => (None, Some(retry::failure(&error))),
        };
        let mut told: VecDeque<_> = event.into_iter().collect();
        if broken.is_some() {
            // The client reads several packets at once, and forgets them where the last is an end. But a broker may say
            // why it ends the connection, and only then end it: Mosquitto does, for a topic that is not permitted.
            told.append(&mut events.state.events);
        }
        for event in told {
            let signal = match event {
                Event::Outgoing(Outgoing::Publish(number)) => Signal::Sent(number),
                Event::Incoming(Packet::PubAck(answer)) => Signal::Answered(answer.pkid, answer.reason),
                _ => continue,
            };
            if signals.send(signal).await.is_err() {
                return;
            }
        }
        if let Some(failure) = broken {
            let _ = signals.send(Signal::Broken(failure)).await;
            return;
        }
    }
}

fn tls(config: &MqttSinkConfig) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match &config.ca {
        Some(file) => {
            let cannot = |error: rustls_pki_types::pem::Error| format!("{}: {error}", file.display());
            for certificate in CertificateDer::pem_file_iter(file).map_err(cannot)? {
                let added = roots.add(certificate.map_err(cannot)?);
                added.map_err(|error| format!("{}: {error}", file.display()))?;
            }
        }
        None => {
            // One that cannot be read is no reason to do without the others.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err("there is no certificate that others could rest on".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}
