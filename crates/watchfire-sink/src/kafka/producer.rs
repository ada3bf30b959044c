//! A producer of one lane, and what it says of each message.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use super::config::{KafkaConfig, Secrets};
use super::encode::{ID, Message, Messages};
use super::retry::{self, Class};
use crate::contract::{Failure, LaneId};

/// How long a broker may be silent while messages wait for it before that is told. The messages go on waiting.
const PATIENCE: Duration = Duration::from_secs(10);

/// And how long where it is known already that something is wrong: a single lost connection mends itself.
const KNOWN_PATIENCE: Duration = Duration::from_secs(2);

/// How long a look for news takes.
const LOOK: Duration = Duration::from_millis(1);

/// Messages that are sent between two looks for news.
const BETWEEN: usize = 1000;

/// What became of a message.
pub(super) struct Report {
    /// Its number.
    pub number: usize,
    /// Why not.
    pub failed: Option<(RDKafkaErrorCode, String)>,
}

/// What the client says by itself.
#[derive(Default)]
pub(super) struct Ears {
    reports: Mutex<Vec<Report>>,
    /// The last fault that concerns all, and when it was said.
    fault: Mutex<Option<(&'static str, String, Instant)>>,
}

impl ClientContext for Ears {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        watchfire_outbound::kafka::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let Class::Retry(code) = retry::class(code) else { return };
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        // After a login that failed all brokers are down, which says less.
        let says_more = |code: &str| matches!(code, "credentials" | "tls" | "not-permitted" | "fenced");
        if let Some((before, _, at)) = &mut *fault
            && says_more(before)
            && !says_more(code)
            && at.elapsed() < PATIENCE
        {
            *at = Instant::now();
            return;
        }
        *fault = Some((code, reason.to_string(), Instant::now()));
    }
}

impl ProducerContext for Ears {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let failed = match result {
            Ok(_) => None,
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                Some((code, code.to_string()))
            }
        };
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push(Report { number, failed });
    }
}

/// Whether somebody still waits for what a thread does.
pub(super) struct GivenUp {
    told: Arc<AtomicBool>,
    until: Instant,
}

impl GivenUp {
    /// It is over: the thread shall end.
    pub fn is_over(&self) -> bool {
        self.told.load(Ordering::Relaxed) || Instant::now() >= self.until
    }
}

/// Does on a thread what blocks. It is told when nobody waits for it any more, and after `limit` at the latest.
pub(super) async fn blocking<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce(&GivenUp) -> T + Send + 'static,
) -> Result<T, Failure> {
    struct Teller(Arc<AtomicBool>);
    impl Drop for Teller {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let given_up = GivenUp { told: Arc::default(), until: Instant::now() + limit };
    let _teller = Teller(given_up.told.clone());
    let done = tokio::task::spawn_blocking(move || work(&given_up)).await;
    done.map_err(|error| Failure::retry("anew", error))
}

/// A client that only asks. Unlike an admin client it is told when a login or a certificate does not fit: without that
/// all there is to say is that no broker answers in time.
pub(super) struct Asking(BaseProducer<Ears>);

impl Asking {
    /// Connects later, by itself.
    pub fn new(config: &KafkaConfig, secrets: &Secrets) -> Result<Self, Failure> {
        let client = config.client(secrets).create_with_context(Ears::default());
        client.map(Self).map_err(|error| retry::failure(&error))
    }

    /// What the brokers say of a topic.
    pub fn metadata(&self, topic: &str, limit: Duration) -> Result<Metadata, Failure> {
        let asked = self.0.client().fetch_metadata(Some(topic), limit);
        asked.map_err(|error| heard(&self.0, retry::failure(&error)))
    }
}

/// The last fault that a client was told of.
fn heard(client: &BaseProducer<Ears>, otherwise: Failure) -> Failure {
    // Nothing is told before it is asked for, and each line for the log counts as one thing. Reports that come with it
    // stay where they are looked for.
    client.poll(Duration::from_millis(20));
    let fault = client.context().fault.lock().unwrap_or_else(PoisonError::into_inner);
    match &*fault {
        Some((code, reason, _)) => Failure::retry(code, reason),
        None => otherwise,
    }
}

/// A producer.
pub(super) struct Session {
    pub producer: BaseProducer<Ears>,
    /// What it logs in with.
    pub secrets: Secrets,
    /// Messages that it has and has not reported.
    pub waiting: usize,
    news: Instant,
}

/// Why a message was not taken by the producer.
pub(super) enum NotSent {
    /// For what it is.
    Refused(String),
    /// The queue is full, and nothing moves. What is queued goes on waiting.
    Stalled(Failure),
    /// This producer does not take it, and what is behind it must not overtake it.
    Failed(Failure),
}

impl Session {
    /// Connects later, by itself.
    pub fn new(config: &KafkaConfig, lane: LaneId, largest: Option<u64>) -> Result<Self, Failure> {
        let secrets = config.secrets().map_err(|error| Failure::retry("configuration", error))?;
        let producer: BaseProducer<Ears> = config
            .producer(lane, largest, &secrets)
            .create_with_context(Ears::default())
            .map_err(|error| retry::failure(&error))?;
        Ok(Self { producer, secrets, waiting: 0, news: Instant::now() })
    }

    /// Whether it takes nothing any more.
    pub fn is_dead(&self) -> bool {
        self.producer.client().fatal_error().is_some()
    }

    /// Whether a certificate does not fit. It has read the files of ours, and reads them no second time.
    pub fn has_old_files(&self) -> bool {
        let fault = self.producer.context().fault.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(&*fault, Some(("tls", ..)))
    }

    /// Why it takes nothing any more, or why it got nothing through.
    pub fn fault(&self, otherwise: Failure) -> Failure {
        if let Some((code, reason)) = self.producer.client().fatal_error()
            && let Class::Retry(code) = retry::class(code)
        {
            return Failure::retry(code, reason);
        }
        heard(&self.producer, otherwise)
    }

    /// Hands it a message. A queue that is full is waited for, in which reports come to `reported`.
    pub fn send(
        &mut self,
        messages: &Messages,
        number: usize,
        message: &Message,
        reported: &mut impl FnMut(Report),
        given_up: &GivenUp,
    ) -> Result<(), NotSent> {
        let topic = &messages.topics[message.topic as usize];
        let key = messages.key(message);
        let extra = messages.headers.get(message.headers as usize).map_or(&[][..], Vec::as_slice);
        let mut headers = OwnedHeaders::new_with_capacity(1 + extra.len());
        headers = headers.insert(Header { key: ID, value: Some(messages.id(message)) });
        for (name, value) in extra {
            headers = headers.insert(Header { key: name, value: Some(value.as_str()) });
        }
        let mut record = BaseRecord::with_opaque_to(topic, number)
            .payload(messages.value(message))
            .timestamp(message.time)
            .headers(headers);
        if !key.is_empty() {
            record = record.key(key);
        }
        self.put(record, reported, given_up)?;
        if number.is_multiple_of(BETWEEN) {
            self.look(Duration::ZERO, reported);
        }
        Ok(())
    }

    /// Hands it a message of its own making, to a partition.
    pub fn send_to(
        &mut self,
        topic: &str,
        partition: i32,
        key: &str,
        value: &[u8],
        number: usize,
        reported: &mut impl FnMut(Report),
        given_up: &GivenUp,
    ) -> Result<(), NotSent> {
        let record =
            BaseRecord::with_opaque_to(topic, number).partition(partition).key(key.as_bytes()).payload(value);
        self.put(record, reported, given_up)
    }

    fn put(
        &mut self,
        mut record: BaseRecord<'_, [u8], [u8], usize>,
        reported: &mut impl FnMut(Report),
        given_up: &GivenUp,
    ) -> Result<(), NotSent> {
        if self.waiting == 0 {
            self.news = Instant::now();
        }
        loop {
            let (error, back) = match self.producer.send(record) {
                Ok(()) => {
                    self.waiting += 1;
                    return Ok(());
                }
                Err(failed) => failed,
            };
            record = back;
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => {
                    self.look(LOOK, reported);
                    self.stalled(given_up).map_err(NotSent::Stalled)?;
                }
                Some(code) if retry::class(code) == Class::Refused => {
                    return Err(NotSent::Refused(code.to_string()));
                }
                _ => return Err(NotSent::Failed(self.fault_of(&error))),
            }
        }
    }

    fn fault_of(&self, error: &KafkaError) -> Failure {
        let failure = retry::failure(error);
        if self.is_dead() { self.fault(failure) } else { failure }
    }

    /// Waits until each message is reported. `Err`: that takes too long, and they go on waiting.
    pub fn settle(&mut self, reported: &mut impl FnMut(Report), given_up: &GivenUp) -> Result<(), Failure> {
        while self.waiting > 0 {
            self.look(LOOK, reported);
            self.stalled(given_up)?;
        }
        Ok(())
    }

    /// Takes what there is of reports.
    fn look(&mut self, wait: Duration, reported: &mut impl FnMut(Report)) {
        self.producer.poll(wait);
        let mut reports = self.producer.context().reports.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.is_empty() {
            return;
        }
        let reports = std::mem::take(&mut *reports);
        self.news = Instant::now();
        if reports.iter().any(|report| report.failed.is_none()) {
            *self.producer.context().fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.waiting = self.waiting.saturating_sub(reports.len());
        reports.into_iter().for_each(reported);
    }

    fn stalled(&self, given_up: &GivenUp) -> Result<(), Failure> {
        if given_up.is_over() {
            return Err(Failure::retry("slow", "it takes long, and goes on"));
        }
        let silent = self.news.elapsed();
        if silent < KNOWN_PATIENCE {
            return Ok(());
        }
        let fault = self.producer.context().fault.lock().unwrap_or_else(PoisonError::into_inner);
        match &*fault {
            Some((code, reason, _)) => Err(Failure::retry(code, reason)),
            None if silent > PATIENCE => Err(Failure::retry("slow", "the brokers acknowledge nothing")),
            None => Ok(()),
        }
    }

    /// After a stall: the time of silence begins anew.
    pub fn again(&mut self) {
        self.news = Instant::now();
    }
}
