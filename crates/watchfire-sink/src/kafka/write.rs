//! Sees a chunk and the cursor of its lane through a producer: the messages first, the cursor once they are acknowledged;
//! or both in one transaction.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer as _, PurgeConfig};

use super::config::KafkaConfig;
use super::cursor;
use super::encode::{Encoded, KafkaEncoder};
use super::producer::{GivenUp, NotSent, Report, Session, blocking};
use super::retry::{self, Class};
use super::topics::{self, Found};
use crate::chunk::{Chunk, Gap, Row};
use crate::contract::{Failure, Lane, LaneId, Place, Refusal};

/// How long an attempt takes at most: less than whoever waits for it does, so that what was acknowledged is not forgotten.
const ATTEMPT: Duration = Duration::from_secs(90);

/// Of a transaction: less than the brokers let one live.
const TRANSACTION: Duration = Duration::from_secs(20);

/// How long a step of a transaction may take.
const STEP: Duration = Duration::from_secs(10);

/// The numbers of the messages that are not of the chunk.
const CURSOR: usize = usize::MAX;
const GAP: usize = usize::MAX - 1;

/// One lane, with a producer of its own.
pub struct KafkaLane {
    id: LaneId,
    config: Arc<KafkaConfig>,
    in_force: Arc<Mutex<Option<String>>>,
    found: Found,
    session: Option<Session>,
    /// Where the lane is, as long as there is a session that wrote it.
    place: Option<Place>,
    /// The chunk that is being written.
    work: Option<Work>,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Here.
    Unsent,
    /// At the producer.
    Queued,
    /// At the brokers.
    Delivered,
    /// Nowhere: it is a dead letter, or will be.
    Refused,
}

/// A chunk, and what of it is written: remembered over attempts, so that nothing that was acknowledged is sent again.
struct Work {
    encoded: Encoded,
    to: Place,
    gap: Option<Gap>,
    states: Vec<State>,
    cursor: State,
    gap_state: State,
    /// Stretches that are still to be seen through, one after the other.
    stretches: VecDeque<Range<usize>>,
    /// What the brokers refuse, and why.
    refused: BTreeMap<usize, String>,
    /// What was not delivered in this stretch.
    failed: Vec<(usize, RDKafkaErrorCode, String)>,
    /// Why the producer took no more of it.
    stopped: Option<Failure>,
}

impl Work {
    fn new(encoded: Encoded, chunk: &Chunk) -> Self {
        let count = encoded.messages.len();
        Self {
            encoded,
            to: chunk.to,
            gap: chunk.gap.clone(),
            states: vec![State::Unsent; count],
            cursor: State::Unsent,
            gap_state: State::Unsent,
            stretches: VecDeque::from(if count == 0 { vec![] } else { vec![0..count; 1] }),
            refused: BTreeMap::new(),
            failed: Vec::new(),
            stopped: None,
        }
    }

    fn state(&mut self, number: usize) -> Option<&mut State> {
        match number {
            CURSOR => Some(&mut self.cursor),
            GAP => Some(&mut self.gap_state),
            number => self.states.get_mut(number),
        }
    }

    fn report(&mut self, report: Report) {
        let number = report.number;
        let Some(state) = self.state(number) else { return };
        match report.failed {
            None => *state = State::Delivered,
            Some((code, reason)) => {
                *state = State::Unsent;
                self.failed.push((number, code, reason));
            }
        }
    }

    /// The producer is gone, and with it the knowledge of what it had.
    fn lost(&mut self) {
        for state in self.states.iter_mut().chain([&mut self.cursor, &mut self.gap_state]) {
            if *state == State::Queued {
                *state = State::Unsent;
            }
        }
    }

    /// A transaction is undone.
    fn undone(&mut self) {
        for state in self.states.iter_mut().chain([&mut self.cursor, &mut self.gap_state]) {
            if *state != State::Refused {
                *state = State::Unsent;
            }
        }
        self.failed.clear();
        self.stopped = None;
    }

    /// What is refused and is no dead letter yet.
    fn refusals(&self, without: &BTreeSet<Row>) -> Option<Failure> {
        let refusals: Vec<Refusal> = self
            .refused
            .iter()
            .map(|(number, reason)| Refusal {
                row: self.encoded.messages[*number].row,
                reason: reason.clone(),
            })
            .filter(|refusal| !without.contains(&refusal.row))
            .collect();
        (!refusals.is_empty()).then_some(Failure::Refused(refusals))
    }

    fn refuse(&mut self, number: usize, reason: String) {
        self.states[number] = State::Refused;
        self.refused.insert(number, reason);
    }

    /// Those of a stretch that failed and may be at fault, in order.
    fn suspects(&self) -> Vec<(usize, String)> {
        let refused = |code: &RDKafkaErrorCode| retry::class(*code) == Class::Refused;
        let mut suspects: Vec<_> = self
            .failed
            .iter()
            .filter(|(_, code, _)| refused(code))
            .map(|(number, _, reason)| (*number, reason.clone()))
            .collect();
        suspects.sort_unstable_by_key(|(number, _)| *number);
        suspects
    }

    /// Why messages failed that are not at fault.
    fn fault(&self) -> Option<Failure> {
        let said = self.failed.iter().find_map(|(_, code, reason)| match retry::class(*code) {
            Class::Retry(code) => Some(Failure::retry(code, reason)),
            _ => None,
        });
        said.or_else(|| self.stopped.clone())
    }

    /// Whether all of a stretch is written.
    fn passed(&self) -> bool {
        self.failed.is_empty() && self.stopped.is_none()
    }
}

/// Writes one chunk, on a thread where it may block.
struct Job {
    id: LaneId,
    config: Arc<KafkaConfig>,
    found: Found,
    session: Option<Session>,
    work: Work,
    without: BTreeSet<Row>,
}

impl Job {
    fn run(&mut self, given_up: &GivenUp) -> Result<(), Failure> {
        if !self.without.is_empty() {
            for (state, message) in self.work.states.iter_mut().zip(&self.work.encoded.messages) {
                if self.without.contains(&message.row) {
                    *state = State::Refused;
                }
            }
        }
        if let Some(refusals) = self.work.refusals(&self.without) {
            return Err(refusals);
        }
        if self.config.transactional {
            let written = self.transaction(given_up);
            if !matches!(written, Ok(()) | Err(Failure::Refused(_))) {
                // In which state its transaction is, the next producer of that id finds out.
                self.session = None;
            }
            return written;
        }
        if let Some(session) = &mut self.session {
            session.again();
        }
        while let Some(stretch) = self.work.stretches.front().cloned() {
            if let Err(failure) = self.stretch(stretch.clone(), given_up) {
                if !self.work.passed() {
                    // What it still has would overtake what failed.
                    self.give_up();
                }
                return Err(failure);
            }
            let suspects = self.work.suspects();
            if self.work.passed() {
                self.work.stretches.pop_front();
                continue;
            }
            // Messages failed: others behind them must not overtake them.
            let fault = self.work.fault().or_else(|| Some(self.session.as_ref()?.fault(along())));
            self.give_up();
            let parts = match &suspects[..] {
                [] => return Err(fault.unwrap_or_else(along)),
                [(number, reason)] if stretch.len() == 1 => {
                    self.work.refuse(*number, reason.clone());
                    continue;
                }
                // Once more, alone: then it is clear.
                [(number, _)] => {
                    [*number + 1..stretch.end, *number..number + 1, stretch.start..*number, 0..0]
                }
                [(first, _), .., (last, _)] => {
                    let (first, end) = (*first, last + 1);
                    let middle = first + (end - first) / 2;
                    [end..stretch.end, middle..end, first..middle, stretch.start..first]
                }
            };
            self.work.stretches.pop_front();
            for part in parts.into_iter().filter(|part| !part.is_empty()) {
                self.work.stretches.push_front(part);
            }
        }
        if let Some(refusals) = self.work.refusals(&self.without) {
            return Err(refusals);
        }
        self.cursor(given_up)?;
        if let Some(failure) = self.failed() {
            self.give_up();
            return Err(failure);
        }
        Ok(())
    }

    /// Another producer goes on.
    fn give_up(&mut self) {
        self.session = None;
        self.work.lost();
    }

    /// Why the cursor was not written.
    fn failed(&mut self) -> Option<Failure> {
        let (_, code, reason) = self.work.failed.first()?;
        let failure = retry::failure(&KafkaError::MessageProduction(*code));
        let Failure::Retry { code, .. } = failure else { return Some(failure) };
        Some(Failure::retry(code, format!("the cursor is not taken: {reason}")))
    }

    /// Sends what is unsent of a stretch, and waits until it is known what became of it.
    fn stretch(&mut self, stretch: Range<usize>, given_up: &GivenUp) -> Result<(), Failure> {
        let session = match &mut self.session {
            Some(session) => session,
            None => self.session.insert(Session::new(&self.config, self.id, self.found.largest)?),
        };
        let work = &mut self.work;
        work.failed.clear();
        work.stopped = None;
        let encoded = work.encoded.clone();
        for number in stretch {
            if work.states[number] != State::Unsent {
                continue;
            }
            let message = &encoded.messages[number];
            work.states[number] = State::Queued;
            let sent = session.send(&encoded, number, message, &mut |report| work.report(report), given_up);
            match sent {
                Ok(()) => {}
                Err(NotSent::Refused(reason)) => work.refuse(number, reason),
                Err(NotSent::Stalled(failure)) => {
                    work.states[number] = State::Unsent;
                    return Err(failure);
                }
                Err(NotSent::Failed(failure)) => {
                    work.states[number] = State::Unsent;
                    work.stopped = Some(failure);
                }
            }
            // What is behind a message that failed must not overtake it.
            if work.stopped.is_some() || !work.failed.is_empty() {
                session.producer.purge(PurgeConfig::default().queue());
                break;
            }
        }
        session.settle(&mut |report| work.report(report), given_up)
    }

    /// Sends the gap before the chunk, and the cursor.
    fn cursor(&mut self, given_up: &GivenUp) -> Result<(), Failure> {
        let session = match &mut self.session {
            Some(session) => session,
            None => self.session.insert(Session::new(&self.config, self.id, self.found.largest)?),
        };
        let work = &mut self.work;
        work.failed.clear();
        let topic = self.config.cursors_topic();
        let key = self.config.cursor_key(self.id);
        let mut messages = Vec::new();
        if let Some(gap) = &work.gap {
            messages.push((GAP, cursor::gap_key(&key, gap), cursor::gap_value(gap)));
        }
        messages.push((CURSOR, key, cursor::value(work.to)));
        for (number, key, value) in messages {
            let Some(state) = work.state(number).filter(|state| **state == State::Unsent) else { continue };
            *state = State::Queued;
            let mut reported = |report| work.report(report);
            let sent =
                session.send_to(&topic, cursor::PARTITION, &key, &value, number, &mut reported, given_up);
            if let Err(not_sent) = sent {
                if let Some(state) = work.state(number) {
                    *state = State::Unsent;
                }
                return Err(match not_sent {
                    NotSent::Refused(reason) => Failure::retry("refused", reason),
                    NotSent::Stalled(failure) => failure,
                    NotSent::Failed(failure) => {
                        self.session = None;
                        work.lost();
                        failure
                    }
                });
            }
        }
        session.settle(&mut |report| work.report(report), given_up)
    }

    /// The whole chunk in one transaction.
    fn transaction(&mut self, given_up: &GivenUp) -> Result<(), Failure> {
        self.work.undone();
        let all = 0..self.work.states.len();
        self.begin()?;
        self.stretch(all, given_up)?;
        let suspects = self.work.suspects();
        if !self.work.passed() || self.work.refusals(&self.without).is_some() {
            let fault = self.work.fault();
            self.abort(given_up)?;
            if let (true, Some(fault)) = (suspects.is_empty(), fault) {
                return Err(fault);
            }
            self.search(suspects, given_up)?;
            return Err(self.work.refusals(&self.without).unwrap_or_else(along));
        }
        self.cursor(given_up)?;
        if let Some(failure) = self.failed() {
            return Err(failure);
        }
        let Some(session) = &self.session else { return Err(along()) };
        session.producer.commit_transaction(STEP).map_err(|error| session.fault(retry::failure(&error)))
    }

    fn begin(&mut self) -> Result<(), Failure> {
        let Some(session) = &mut self.session else { return Err(along()) };
        session.again();
        session.producer.begin_transaction().map_err(|error| session.fault(retry::failure(&error)))
    }

    fn abort(&mut self, given_up: &GivenUp) -> Result<(), Failure> {
        let Some(session) = &mut self.session else { return Err(along()) };
        // What is queued would be waited for; what is under way is, so that it ends before the transaction does.
        session.producer.purge(PurgeConfig::default().queue());
        let work = &mut self.work;
        session.settle(&mut |report| work.report(report), given_up)?;
        session.producer.abort_transaction(STEP).map_err(|error| session.fault(retry::failure(&error)))?;
        self.work.undone();
        Ok(())
    }

    /// Finds which of the suspects the brokers refuse, by halves. Nothing that it tries is kept.
    fn search(&mut self, suspects: Vec<(usize, String)>, given_up: &GivenUp) -> Result<(), Failure> {
        let mut stack = vec![suspects];
        while let Some(suspects) = stack.pop() {
            let (Some((first, _)), Some((last, reason))) = (suspects.first(), suspects.last()) else {
                continue;
            };
            let (first, end) = (*first, last + 1);
            let middle = first + (end - first) / 2;
            let halves = if end - first == 1 { [first..end, 0..0] } else { [first..middle, middle..end] };
            for half in halves.into_iter().filter(|half| !half.is_empty()) {
                self.begin()?;
                self.stretch(half.clone(), given_up)?;
                let found = self.work.suspects();
                self.abort(given_up)?;
                match found.len() {
                    0 => {}
                    _ if half.len() == 1 => self.work.refuse(half.start, reason.clone()),
                    _ => stack.push(found),
                }
            }
        }
        Ok(())
    }
}

fn along() -> Failure {
    Failure::retry("anew", "the producer stopped; another one goes on")
}

fn connect(
    config: &KafkaConfig,
    id: LaneId,
    given_up: &GivenUp,
) -> Result<(Session, Found, Option<Place>), Failure> {
    let failed = |error: KafkaError| retry::failure(&error);
    let secrets = config.secrets().map_err(|error| Failure::retry("configuration", error))?;
    let found = topics::settle(config, &secrets, id)?;
    let session = Session::new(config, id, found.largest)?;
    if config.transactional {
        // It fences whoever had this id, and ends what that one had begun.
        session.producer.init_transactions(3 * STEP).map_err(|error| session.fault(failed(error)))?;
    }
    let place = cursor::find(config, id, &secrets, given_up)?;
    Ok((session, found, place))
}

impl KafkaLane {
    pub(super) fn new(id: LaneId, config: Arc<KafkaConfig>, in_force: Arc<Mutex<Option<String>>>) -> Self {
        Self { id, config, in_force, found: Found::default(), session: None, place: None, work: None }
    }
}

impl Lane for KafkaLane {
    type Encoder = KafkaEncoder;
    type Encoded = Encoded;

    fn encoder(&self) -> KafkaEncoder {
        KafkaEncoder::new(self.config.clone())
    }

    async fn open(&mut self) -> Result<Option<Place>, Failure> {
        let before = self.session.take();
        if let Some(session) = before {
            // One that does not get in with a password that is another by now never will. What one with old files had under
            // way when its last connection was lost may come twice.
            let changed = self.config.secrets().is_ok_and(|secrets| secrets != session.secrets);
            if !session.is_dead() && !session.has_old_files() && !changed {
                // It goes on where it was, and nobody but it has moved the cursor.
                self.session = Some(session);
                return Ok(self.place);
            }
            // Its end may wait for threads.
            blocking(STEP, move |_| drop(session)).await?;
        }
        if let Some(work) = &mut self.work {
            work.lost();
        }
        let (config, id) = (self.config.clone(), self.id);
        let connected = blocking(ATTEMPT, move |given_up| connect(&config, id, given_up)).await?;
        let (session, found, place) = connected?;
        let brokers = match found.brokers {
            1 => "1 broker".to_string(),
            count => format!("{count} brokers"),
        };
        let means = if self.config.transactional { "transactional" } else { "idempotent" };
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(format!("Kafka, {brokers}, {means}"));
        (self.session, self.found, self.place) = (Some(session), found, place);
        Ok(place)
    }

    async fn write(
        &mut self,
        chunk: &Chunk,
        encoded: &Encoded,
        after: Option<Place>,
        without: &BTreeSet<Row>,
    ) -> Result<(), Failure> {
        let goes_on = self.work.as_ref().is_some_and(|work| Arc::ptr_eq(&work.encoded, encoded));
        // Taken out: a future that is dropped half way leaves no producer in an unknown state behind.
        let session = self.session.take();
        if !goes_on && session.as_ref().is_none_or(|session| session.waiting > 0) {
            return Err(Failure::retry("anew", "the producer is gone; another one goes on"));
        }
        let work = self.work.take().filter(|_| goes_on);
        let mut job = Job {
            id: self.id,
            config: self.config.clone(),
            found: self.found.clone(),
            session,
            work: work.unwrap_or_else(|| Work::new(encoded.clone(), chunk)),
            without: without.clone(),
        };
        let limit = if self.config.transactional { TRANSACTION } else { ATTEMPT };
        let (job, written) = blocking(limit, move |given_up| {
            let written = job.run(given_up);
            (job, written)
        })
        .await?;
        self.session = job.session;
        match written {
            Ok(()) => self.place = Some(chunk.to),
            Err(_) => (self.place, self.work) = (after, Some(job.work)),
        }
        written
    }
}
