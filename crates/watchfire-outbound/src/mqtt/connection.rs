//! A connection to the broker. A task of its own drives it, so that it stays alive while there is nothing to publish.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::answer::{self, Answer};
use super::broker::Broker;
use crate::Fault;

/// How long a connection may take to be there, and how long the broker may be silent while it owes an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a connection without traffic says that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub topic: String,
    /// What it says.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it for who subscribes later; with an empty payload it forgets the one it keeps (MQTT 5,
    /// section 3.3.1.3).
    pub retain: bool,
}

impl Message {
    /// Bytes of the packet, at most (MQTT 5, section 3.3): header, topic, packet identifier, no properties.
    pub fn size(&self) -> usize {
        5 + 2 + self.topic.len() + 2 + 1 + self.payload.len()
    }
}

/// Messages were not all taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotTaken {
    /// The message that the broker will never take, where it is about one.
    pub refused: Option<usize>,
    /// What it said.
    pub fault: Fault,
}

impl From<Fault> for NotTaken {
    fn from(fault: Fault) -> Self {
        Self { refused: None, fault }
    }
}

/// What the task tells.
enum Signal {
    /// The next message went out under this number.
    Sent(u16),
    /// What has this number is answered.
    Answered(u16, PubAckReason),
    /// The connection is gone.
    Broken(Fault),
}

/// A connection.
pub struct Connection {
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
    /// Connects as this client, with the secrets and certificates as they are now. `in_flight`: messages that are not
    /// acknowledged yet, at most.
    pub async fn open(broker: &Broker<'_>, client_id: String, in_flight: u16) -> Result<Self, Fault> {
        let address = broker.address().map_err(|error| Fault::new("configuration", error))?;
        let mut options = MqttOptions::new(client_id, address.host, address.port);
        options.set_keep_alive(KEEP_ALIVE).set_clean_start(true);
        options.set_connection_timeout(PATIENCE.as_secs());
        options.set_outgoing_inflight_upper_limit(in_flight);
        if !broker.username.is_empty() {
            let password = broker.password.read();
            let password =
                password.map_err(|error| Fault::new("configuration", format!("password: {error}")))?;
            options.set_credentials(broker.username, password);
        }
        if address.tls {
            let tls = broker.tls().map_err(|reason| Fault::new("tls", reason))?;
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls)));
        }
        let in_flight = usize::from(in_flight);
        let (client, mut events) = AsyncClient::new(options, in_flight);
        let largest = match tokio::time::timeout(PATIENCE, greeting(&mut events)).await {
            Ok(greeting) => greeting?,
            Err(_) => return Err(Fault::new("unreachable", "no answer")),
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
    ) -> Result<(), NotTaken> {
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
                Err(_) => return Err(Fault::new("slow", "the broker acknowledges nothing").into()),
                Ok(None) => return Err(Fault::new("unreachable", "the connection is gone").into()),
                Ok(Some(Signal::Broken(fault))) => return Err(fault.into()),
                Ok(Some(Signal::Sent(number))) => {
                    if let Some(place) = waiting.pop_front() {
                        flying.insert(number, place);
                    }
                }
                Ok(Some(Signal::Answered(number, reason))) => {
                    let Some(place) = flying.remove(&number) else { continue };
                    match answer::answer(reason) {
                        Answer::Taken => {}
                        Answer::Later(fault) => return Err(fault.into()),
                        Answer::Refused(reason) => {
                            let fault = Fault::new("refused", reason);
                            return Err(NotTaken { refused: Some(place), fault });
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
async fn greeting(events: &mut EventLoop) -> Result<usize, Fault> {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(greeting))) => {
                let limit = greeting.properties.and_then(|properties| properties.max_packet_size);
                // 256 MiB is what the length of a packet can say (MQTT 5, section 1.5.5).
                return Ok(limit.map_or(268_435_455, |limit| limit as usize));
            }
            Ok(_) => {}
            Err(error) => return Err(answer::fault(&error)),
        }
    }
}

async fn drive(mut events: EventLoop, signals: mpsc::Sender<Signal>) {
    loop {
        let (event, broken) = match events.poll().await {
            Ok(event) => (Some(event), None),
            Err(error) => (None, Some(answer::fault(&error))),
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
        if let Some(fault) = broken {
            let _ = signals.send(Signal::Broken(fault)).await;
            return;
        }
    }
}
