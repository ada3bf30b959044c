//! From bytes to the log: decode, what becomes of unknown devices, exact repeats, one append for all that a source
//! read at once.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use watchfire_decode::{Bounds, Context, Decoder, Framing, Shape, Window};
use watchfire_log::{Append, AppendError, Consumed, Log, Ticket};
use watchfire_model::PartitionId;
use watchfire_model::device::Registries;
use watchfire_telemetry::metrics;

use crate::contract::{Principal, RegisterError, Registrar};
use crate::draft::{self, Draft, UnknownAnswer};
pub use crate::draft::{QUARANTINED, REJECTED_LISTED};
use crate::flight::Flight;
use crate::places::Places;
use crate::repeats::{self, Repeats};

/// Where sources look devices up: replaced as a whole by whoever keeps the registry.
pub type Directory = Arc<RwLock<Arc<Registries>>>;

/// What becomes of readings of devices that are not registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownDevices {
    /// Refused, and whoever sent it is told. Kept as a dead letter, as everything that is refused.
    #[default]
    Refuse,
    /// Taken and kept as a dead letter, to be replayed once the device is registered; the sender is told that it
    /// was taken.
    Quarantine,
    /// The device is registered, then the reading is taken.
    Register,
}

/// What is the same for everything that one source receives.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name, as it stands in dead letters.
    pub name: String,
    /// What becomes of readings of devices that are not registered.
    pub unknown: UnknownDevices,
    /// Which times are accepted.
    pub window: Window,
    /// How much is accepted.
    pub bounds: Bounds,
}

impl Source {
    /// A source with default bounds.
    pub fn new(name: impl Into<String>, unknown: UnknownDevices) -> Self {
        Self { name: name.into(), unknown, window: Window::default(), bounds: Bounds::default() }
    }
}

/// One payload.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    /// Topic or path.
    pub address: &'a str,
    /// The bytes.
    pub bytes: &'a [u8],
    /// What its items look like, or why it is refused unread.
    pub content: Content<'a>,
}

/// What a payload's items look like.
#[derive(Clone, Debug)]
pub enum Content<'a> {
    /// To be decoded.
    Items(Shape<'a>, Framing),
    /// Refused unread: it becomes a dead letter with this code and reason.
    Refused {
        /// A stable code.
        code: &'static str,
        /// For people.
        reason: String,
    },
}

/// What became of one payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Readings taken; repeats and quarantined ones count.
    pub accepted: u32,
    /// Of these: kept aside until their devices are registered.
    pub quarantined: u32,
    /// Items that could not be used: how many.
    pub rejected_in_all: usize,
    /// The first of them, [`REJECTED_LISTED`] at most.
    pub rejected: Vec<RejectedItem>,
}

/// An item that could not be used, as its sender is told.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RejectedItem {
    /// Which item of its payload, from 0; `None`: the payload as a whole.
    pub index: Option<u32>,
    /// What is wrong and where.
    pub reason: String,
    /// A stable code.
    pub code: &'static str,
}

/// What was handed to the log.
#[derive(Debug)]
pub struct Submitted {
    /// What became of each payload, in order. It holds once all flights have landed.
    pub verdicts: Vec<Verdict>,
    /// What must be durable before anything is acknowledged: this append, and those of originals of repeats.
    pub flights: Vec<Arc<Flight>>,
}

impl Submitted {
    /// Waits until everything is durable.
    pub async fn durable(&self) -> Result<(), AppendError> {
        for flight in &self.flights {
            flight.wait().await?;
        }
        Ok(())
    }
}

/// Nothing was taken. The same may be submitted again later.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SubmitError {
    /// The log takes nothing now.
    #[error("the readings could not be handed to the log")]
    Append(#[from] AppendError),
    /// Unknown devices cannot be registered now.
    #[error("unknown devices could not be registered")]
    Register(#[source] RegisterError),
}

/// The way from sources to the log.
pub struct Intake {
    log: Arc<dyn Log>,
    directory: Directory,
    repeats: Arc<Repeats>,
    places: Arc<Places>,
    settling: mpsc::Sender<Settling>,
    registering: mpsc::Sender<(Vec<String>, oneshot::Sender<Result<(), RegisterError>>)>,
}

/// Bounds of the intake.
#[derive(Clone, Copy, Debug)]
pub struct IntakeOptions {
    /// How many readings of each device are remembered to know repeats. 256 are what a device can have on its way
    /// when the engine dies, with room to spare; each takes eight bytes.
    pub repeats_per_device: usize,
    /// How many appends may be on their way.
    pub flights: usize,
}

impl Default for IntakeOptions {
    fn default() -> Self {
        Self { repeats_per_device: 256, flights: 16_384 }
    }
}

/// An append that was queued: somebody has to see it through, whether or not who sent it is still there.
struct Settling {
    ticket: Ticket,
    flight: Arc<Flight>,
    partitions: Vec<PartitionId>,
    readings: u64,
    repeats: u64,
    /// Codes of dead letters, and how many items each took.
    rejects: Vec<(&'static str, u64)>,
    consumed: Vec<Consumed>,
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").finish_non_exhaustive()
    }
}

impl Intake {
    /// The way to this log. Starts two tasks: call it inside of a tokio runtime.
    pub fn new(
        log: Arc<dyn Log>,
        directory: Directory,
        registrar: Arc<dyn Registrar>,
        options: IntakeOptions,
    ) -> Arc<Self> {
        let repeats = Arc::new(Repeats::new(log.partitions(), options.repeats_per_device));
        let (settling, queue) = mpsc::channel(options.flights.max(1));
        let places = Arc::new(Places::default());
        tokio::spawn(settle(queue, repeats.clone(), places.clone()));
        let (registering, requests) = mpsc::channel(1024);
        tokio::spawn(register(requests, registrar));
        Arc::new(Self { log, directory, repeats, places, settling, registering })
    }

    /// The devices as of now.
    pub fn registries(&self) -> Arc<Registries> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The log that readings are handed to.
    pub(crate) fn log(&self) -> &dyn Log {
        &*self.log
    }

    /// The memory of repeats.
    pub(crate) fn repeats(&self) -> &Repeats {
        &self.repeats
    }

    /// How far sources have read what they consume.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Decodes payloads and hands their readings and rejects to the log in one append. Nothing is durable before
    /// the flights of the answer have landed. An error means that nothing was taken.
    pub async fn submit(
        &self,
        source: &Source,
        principal: &Principal,
        payloads: &[Payload<'_>],
    ) -> Result<Submitted, SubmitError> {
        self.take(source, principal, payloads, &UnknownAnswer::of(source.unknown), false, Vec::new()).await
    }

    /// As [`Intake::submit`], of a source that reads from a place: how far it got with these payloads becomes durable
    /// with them, or not at all.
    pub async fn submit_consumed(
        &self,
        source: &Source,
        principal: &Principal,
        payloads: &[Payload<'_>],
        consumed: Vec<Consumed>,
    ) -> Result<Submitted, SubmitError> {
        self.take(source, principal, payloads, &UnknownAnswer::of(source.unknown), false, consumed).await
    }

    /// Takes a dead letter once more, as whoever sent it: all of it or nothing. Where an item is refused again, or its
    /// device is still not registered, nothing is taken and no further letter is written: the one that there is stays.
    pub async fn resubmit(
        &self,
        source: &Source,
        principal: &Principal,
        payload: Payload<'_>,
    ) -> Result<Submitted, SubmitError> {
        let unknown = match source.unknown {
            // It waits aside already.
            UnknownDevices::Quarantine => UnknownAnswer::Refuse(String::new()),
            policy => UnknownAnswer::of(policy),
        };
        self.take(source, principal, &[payload], &unknown, true, Vec::new()).await
    }

    /// `whole`: all of it or nothing, and no dead letters.
    async fn take(
        &self,
        source: &Source,
        principal: &Principal,
        payloads: &[Payload<'_>],
        unknown: &UnknownAnswer,
        whole: bool,
        consumed: Vec<Consumed>,
    ) -> Result<Submitted, SubmitError> {
        // Waits while too many appends are on their way: who reads from a socket stops reading then.
        let permit = self.settling.reserve().await.map_err(|_| AppendError::Closed)?;
        let mut draft = self.draft(source, principal, payloads, unknown);
        if !draft.unknown.is_empty() {
            let ids: Vec<String> = std::mem::take(&mut draft.unknown).into_iter().collect();
            let answer = match self.register(ids).await {
                Ok(()) => UnknownAnswer::Refuse("the device was deleted while it sent".into()),
                Err(RegisterError::Refused(reason)) => UnknownAnswer::Refuse(reason),
                Err(error) => return Err(SubmitError::Register(error)),
            };
            draft = self.draft(source, principal, payloads, &answer);
        }
        let Draft { verdicts, rows, rejects, .. } = draft;
        if whole && !rejects.is_empty() {
            return Ok(Submitted { verdicts, flights: Vec::new() });
        }

        let flight = Flight::begin();
        let mut flights = Vec::with_capacity(1);
        let mut partitions = Vec::with_capacity(rows.len());
        let (mut readings, mut repeats) = (0, 0);
        let mut fresh = Vec::with_capacity(rows.len());
        for (partition, batch, untimed) in rows {
            let sighting = self.repeats.sight(partition, &batch, &untimed, &flight);
            for original in sighting.originals {
                if !Arc::ptr_eq(&original, &flight) {
                    flights.push(original);
                }
            }
            partitions.push(partition);
            let batch = if sighting.repeats.is_empty() {
                batch
            } else {
                repeats += sighting.repeats.len() as u64;
                repeats::without(&batch, &sighting.repeats)
            };
            readings += batch.rows() as u64;
            if batch.rows() > 0 {
                fresh.push((partition, batch));
            }
        }
        let codes = rejects.iter().map(|letter| (letter.code, letter.items)).collect();
        if fresh.is_empty() && rejects.is_empty() && consumed.is_empty() {
            partitions.iter().for_each(|p| self.repeats.settle(*p, &flight, true));
            metrics().intake.repeats.inc_by(repeats);
            return Ok(Submitted { verdicts, flights });
        }
        let rejects = rejects.into_iter().map(|letter| (letter.partition, letter.reject)).collect();
        let append = if consumed.is_empty() {
            Append::Intake { rows: fresh, rejects }
        } else {
            self.places.begin(&flight);
            Append::Consumed { rows: fresh, rejects, consumed: consumed.clone() }
        };
        match self.log.append(append) {
            Ok(ticket) => {
                let flight = flight.clone();
                permit.send(Settling {
                    ticket,
                    flight,
                    partitions,
                    readings,
                    repeats,
                    rejects: codes,
                    consumed,
                });
            }
            Err(error) => {
                self.places.settle(&flight, &[], false);
                partitions.iter().for_each(|p| self.repeats.settle(*p, &flight, false));
                // A repeat of one of these may have come in between, and waits for it.
                flight.land(Err(error.clone()));
                return Err(error.into());
            }
        }
        flights.push(flight);
        Ok(Submitted { verdicts, flights })
    }

    async fn register(&self, ids: Vec<String>) -> Result<(), RegisterError> {
        let closed = || RegisterError::Unavailable("the engine is stopping".into());
        let (answer, answered) = oneshot::channel();
        self.registering.send((ids, answer)).await.map_err(|_| closed())?;
        answered.await.unwrap_or_else(|_| Err(closed()))
    }

    fn draft(
        &self,
        source: &Source,
        principal: &Principal,
        payloads: &[Payload<'_>],
        unknown: &UnknownAnswer,
    ) -> Draft {
        let started = Instant::now();
        let registries = self.registries();
        let allowed = |device: &str| principal.may_send_for(device);
        let context = Context {
            registries: &registries,
            now: self.log.now(),
            window: source.window,
            bounds: &source.bounds,
            allowed: if principal.may_send_for_all() { None } else { Some(&allowed) },
        };
        let mut decoder = Decoder::new(context);
        let mut draft = Draft::default();
        draft::beside_others(payloads.iter().map(|payload| payload.bytes.len()).sum(), || {
            for payload in payloads {
                let verdict = draft.payload(payload, source, &registries, &mut decoder, unknown);
                draft.verdicts.push(verdict);
            }
        });
        if *principal != Principal::Anonymous {
            let sender = principal.name();
            draft.rejects.iter_mut().for_each(|letter| letter.reject.sender = Some(sender.clone()));
        }
        draft.rows = decoder.finish().collect();
        metrics().intake.decode_seconds.observe(started.elapsed().as_secs_f64());
        draft
    }
}

/// Sees every append through. One task does it for all connections: the log wakes it once a group, and it wakes
/// connections from within the runtime, which is far cheaper than from the log's thread.
async fn settle(mut queue: mpsc::Receiver<Settling>, repeats: Arc<Repeats>, places: Arc<Places>) {
    while let Some(settling) = queue.recv().await {
        let Settling { ticket, flight, partitions, readings, repeats: seen, rejects, consumed } = settling;
        let outcome = ticket.durable().await.map(drop);
        for partition in partitions {
            repeats.settle(partition, &flight, outcome.is_ok());
        }
        if !consumed.is_empty() {
            places.settle(&flight, &consumed, outcome.is_ok());
        }
        let intake = &metrics().intake;
        if outcome.is_ok() {
            intake.readings.inc_by(readings);
            intake.repeats.inc_by(seen);
            for (code, items) in rejects {
                intake.rejects.get_or_create(&[("code", code.into())]).inc_by(items);
            }
            intake.ack_seconds.observe(flight.started().elapsed().as_secs_f64());
        }
        flight.land(outcome);
    }
}

/// Registers what many connections ask for in one go: a fleet that comes back at once is one record, not thousands.
async fn register(
    mut requests: mpsc::Receiver<(Vec<String>, oneshot::Sender<Result<(), RegisterError>>)>,
    registrar: Arc<dyn Registrar>,
) {
    let mut batch = Vec::new();
    while requests.recv_many(&mut batch, 1024).await > 0 {
        let mut ids = BTreeSet::new();
        let mut waiting = Vec::with_capacity(batch.len());
        for (more, answer) in batch.drain(..) {
            ids.extend(more);
            waiting.push(answer);
        }
        let count = ids.len() as u64;
        let outcome = registrar.register(ids.into_iter().collect()).await;
        if outcome.is_ok() {
            metrics().intake.registered.inc_by(count);
        }
        for answer in waiting {
            // Who asked may have gone: the devices are registered all the same.
            let _ = answer.send(outcome.clone());
        }
    }
}
