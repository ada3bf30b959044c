//! The thread that reads, appends and commits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use watchfire_log::{AppendError, Consumed};
use watchfire_telemetry::metrics;

use super::NAME;
use super::client::{Change, Context, Cursor, forget_lag};
use super::errors::{Class, class};
use super::options::{KafkaConfigError, KafkaOptions};
use super::record::Prepared;
use super::shared::{HELD, Shared};
use crate::board::{Board, State};
use crate::contract::Principal;
use crate::intake::{Intake, Source, SubmitError, Submitted};

/// Appends on their way at a time: while one is being synced, the next is read and decoded.
const IN_FLIGHT: usize = 4;
/// How long a batch is filled further while others are on their way.
const LINGER: Duration = Duration::from_millis(5);
/// How long the log may take nothing before the partitions are paused; resuming fetches again what was fetched.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the group is told how far we are.
const COMMIT: Duration = Duration::from_secs(1);
/// Between a client that is of no use any more and the next: doubled each time, with some chance in it.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A client that was of use for so long begins with the shortest wait again.
const GOOD: Duration = Duration::from_secs(60);
/// For so long it is said that no broker lets us in, and not that all are down: longer than librdkafka waits between two
/// attempts.
const SHUT_OUT: Duration = Duration::from_secs(10);
/// At the end, what was read is given this long to become durable. What does not is read again.
const DRAIN: Duration = Duration::from_secs(10);

/// A source that reads topics.
pub struct KafkaSource {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl KafkaSource {
    /// Starts to read. Whether there is a broker is found out meanwhile: it may come later. Call it inside of a tokio
    /// runtime with several threads.
    pub fn start(
        options: KafkaOptions,
        source: Source,
        intake: Arc<Intake>,
    ) -> Result<Arc<Self>, KafkaConfigError> {
        options.check()?;
        let mappings = options
            .mappings()
            .map_err(|error| KafkaConfigError { key: "mapping", fault: error.to_string() })?;
        let shared = Arc::new(Shared {
            mark: format!("watchfire {:016x}", intake.log().identity()),
            board: Board::new(NAME),
            options,
            mappings,
            source,
            intake,
            runtime: Handle::current(),
            stop: AtomicBool::new(false),
            down: AtomicBool::new(false),
            idle: AtomicU32::new(0),
        });
        let password = shared.options.password().transpose();
        let password = password
            .map_err(|error| KafkaConfigError { key: "sasl", fault: format!("password: {error}") })?;
        // What librdkafka itself says of the configuration is known now, and is no reason to run without the source.
        let tried: Result<BaseConsumer<_>, KafkaError> =
            shared.config(password.as_deref()).create_with_context(Context::new(shared.clone()));
        tried.map_err(|error| KafkaConfigError { key: "properties", fault: error.to_string() })?;
        let of_thread = shared.clone();
        let thread =
            std::thread::Builder::new().name("kafka source".into()).spawn(move || of_thread.run()).map_err(
                |error| KafkaConfigError { key: "enabled", fault: format!("no thread for it: {error}") },
            )?;
        Ok(Arc::new(Self { shared, thread: Mutex::new(Some(thread)) }))
    }

    /// What it is at.
    pub fn state(&self) -> State {
        self.shared.board.state()
    }

    /// Reads nothing more; returns once what was read is durable and committed, as far as that is possible.
    pub async fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            thread.thread().unpark();
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

/// Why a consumer ended.
enum End {
    Stopped,
    /// Another one may do better.
    Anew(String),
    /// No other one would.
    Refused(String),
}

impl Shared {
    fn run(self: Arc<Self>) {
        let mut wait = RETRY.0;
        while !self.stopped() {
            let began = Instant::now();
            match self.clone().consume() {
                End::Stopped => break,
                End::Refused(reason) => {
                    self.board.set(State::Stopped(reason));
                    break;
                }
                End::Anew(reason) => self.board.set(State::Waiting(reason)),
            }
            wait = if began.elapsed() > GOOD { RETRY.0 } else { (wait * 2).min(RETRY.1) };
            let until = Instant::now() + wait.mul_f64(rand::random_range(0.5..1.0));
            while !self.stopped() && Instant::now() < until {
                std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
            }
        }
        metrics().sources.up.get_or_create(&[("source", NAME.into())]).set(0);
    }

    fn consume(self: Arc<Self>) -> End {
        let password = match self.options.password().transpose() {
            Ok(password) => password,
            Err(error) => return End::Anew(format!("sasl.password: {error}")),
        };
        let created: Result<BaseConsumer<Context>, _> =
            self.config(password.as_deref()).create_with_context(Context::new(self.clone()));
        let consumer = match created {
            Ok(consumer) => consumer,
            Err(error) => return End::Refused(error.to_string()),
        };
        let topics: Vec<&str> = self.options.topics.iter().map(String::as_str).collect();
        if let Err(error) = consumer.subscribe(&topics) {
            return End::Refused(error.to_string());
        }
        let mut run = Run {
            shared: &self,
            consumer: &consumer,
            cursors: Vec::new(),
            last: 0,
            flights: VecDeque::new(),
            paused: false,
            committed: Instant::now(),
            password,
            shut_out: None,
        };
        let end = match run.go() {
            Ok(()) => End::Stopped,
            Err(end) => end,
        };
        run.finish();
        forget_lag(run.cursors.iter().map(|cursor| cursor.topic.clone()));
        metrics().sources.partitions.get_or_create(&[("source", NAME.into())]).set(0);
        end
    }
}

/// Records that were read together.
struct Batch<'c> {
    messages: Vec<BorrowedMessage<'c>>,
    bytes: usize,
    since: Instant,
}

impl Batch<'_> {
    fn new() -> Self {
        Self { messages: Vec::new(), bytes: 0, since: Instant::now() }
    }
}

/// A consumer at work.
struct Run<'c> {
    shared: &'c Arc<Shared>,
    consumer: &'c BaseConsumer<Context>,
    cursors: Vec<Cursor>,
    /// The cursor of the record before: records come in runs of one partition.
    last: usize,
    flights: VecDeque<Submitted>,
    paused: bool,
    committed: Instant,
    /// Of the login.
    password: Option<String>,
    /// When and why a broker did not let us in last.
    shut_out: Option<(Instant, Class, String)>,
}

impl<'c> Run<'c> {
    fn go(&mut self) -> Result<(), End> {
        let mut batch = Batch::new();
        // Since when the log takes nothing.
        let mut held: Option<Instant> = None;
        while !self.shared.stopped() {
            self.land()?;
            self.commit();
            if self.flights.len() >= IN_FLIGHT {
                let since = *held.get_or_insert_with(Instant::now);
                self.wait_for_oldest();
                self.hold(since, "the disk is slow", &mut batch)?;
                continue;
            }
            if batch.messages.is_empty() {
                if held.take().is_some() {
                    self.resume();
                }
                self.fill(&mut batch)?;
            }
            if batch.messages.is_empty() {
                continue;
            }
            match self.submit(&batch) {
                Ok(()) => {
                    batch = Batch::new();
                    if held.take().is_some() {
                        self.resume();
                    }
                }
                Err(SubmitError::Append(AppendError::Closed)) => return Ok(()),
                Err(error) => {
                    let since = *held.get_or_insert_with(|| {
                        let reason = match &error {
                            SubmitError::Append(_) => "log",
                            SubmitError::Register(_) => "register",
                        };
                        metrics().intake.stalls.get_or_create(&[("reason", reason.into())]).inc();
                        Instant::now()
                    });
                    let reason = std::error::Error::source(&error).map_or(String::new(), ToString::to_string);
                    let wait = since.elapsed().clamp(Duration::from_millis(20), Duration::from_secs(1));
                    std::thread::park_timeout(wait.min(Duration::from_millis(200)));
                    self.hold(since, &reason, &mut batch)?;
                }
            }
        }
        Ok(())
    }

    /// Fills a batch: waits for the first record, and for more only while others are on their way.
    fn fill(&mut self, batch: &mut Batch<'c>) -> Result<(), End> {
        loop {
            let first = batch.messages.is_empty();
            let wait = match (first, self.flights.is_empty()) {
                (true, true) => Duration::from_millis(100),
                (true, false) => LINGER,
                (false, true) => Duration::ZERO,
                (false, false) => LINGER.saturating_sub(batch.since.elapsed()),
            };
            let options = &self.shared.options;
            if !self.poll(wait, batch)?
                || batch.messages.len() >= options.batch_records
                || batch.bytes >= options.batch_bytes
            {
                return Ok(());
            }
        }
    }

    /// Serves the client once, and takes a record if one comes. Whether one came.
    fn poll(&mut self, wait: Duration, batch: &mut Batch<'c>) -> Result<bool, End> {
        let polled = self.consumer.poll(wait);
        let changes = self.consumer.context().changes();
        if !changes.is_empty() {
            self.follow(changes, batch);
        }
        match polled {
            None => Ok(false),
            Some(Ok(message)) => {
                self.take(message, batch);
                Ok(true)
            }
            Some(Err(error)) => self.trouble(&error).map(|()| false),
        }
    }

    fn cursor(&mut self, topic: &str, partition: i32) -> Option<&mut Cursor> {
        let is = |cursor: &Cursor| cursor.partition == partition && cursor.topic == topic;
        if !self.cursors.get(self.last).is_some_and(is) {
            self.last = self.cursors.iter().position(is)?;
        }
        self.cursors.get_mut(self.last)
    }

    fn take(&mut self, message: BorrowedMessage<'c>, batch: &mut Batch<'c>) {
        let offset = message.offset();
        // What comes of a partition that we have not, or have no more, is somebody else's.
        let Some(cursor) = self.cursor(message.topic(), message.partition()) else { return };
        if cursor.has(offset) {
            return;
        }
        if batch.messages.is_empty() {
            batch.since = Instant::now();
        }
        batch.bytes += message.payload_len() + message.key_len() + 64;
        batch.messages.push(message);
    }

    /// Partitions came or went.
    fn follow(&mut self, changes: Vec<Change>, batch: &mut Batch<'c>) {
        for change in changes {
            match change {
                Change::Given(cursor) => {
                    let same = |of: &Cursor| of.topic == cursor.topic && of.partition == cursor.partition;
                    self.cursors.retain(|of| !same(of));
                    self.cursors.push(cursor);
                }
                Change::Taken(topic, partition) => {
                    self.cursors.retain(|of| of.topic != topic || of.partition != partition);
                    batch.messages.retain(|of| of.topic() != topic || of.partition() != partition);
                    if self.cursors.iter().all(|of| of.topic != topic) {
                        forget_lag(std::iter::once(topic));
                    }
                }
            }
        }
        if self.paused {
            // Those that came are not.
            self.pause();
        }
        if self.cursors.is_empty() {
            tracing::info!("this node reads no partition now");
        } else if !self.shared.held() {
            self.shared.running();
        }
        let count = self.cursors.len() as i64;
        metrics().sources.partitions.get_or_create(&[("source", NAME.into())]).set(count);
    }

    /// Hands a batch to the log. It stays where that was not possible.
    fn submit(&mut self, batch: &Batch<'c>) -> Result<(), SubmitError> {
        let shared = self.shared;
        let mut spans: Vec<Consumed> = Vec::new();
        for message in &batch.messages {
            let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
            match spans.iter_mut().rev().find(|span| span.partition == partition && span.topic == topic) {
                Some(span) => span.next = offset + 1,
                None => {
                    let Some(cursor) = self.cursor(topic, partition) else { continue };
                    spans.push(Consumed {
                        source: NAME.into(),
                        topic: topic.into(),
                        partition,
                        from: cursor.next.unwrap_or(offset),
                        next: offset + 1,
                        anew: cursor.anew,
                    });
                }
            }
        }
        let prepared: Vec<Prepared<'_>> =
            batch.messages.iter().map(|message| Prepared::new(message, &shared.options)).collect();
        let payloads: Vec<_> = prepared.iter().map(|prepared| prepared.payload(&shared.mappings)).collect();
        let taking =
            shared.intake.submit_consumed(&shared.source, &Principal::Anonymous, &payloads, spans.clone());
        let submitted = shared.runtime.block_on(taking)?;
        let source = || [("source", NAME.to_string())];
        metrics().intake.bytes.get_or_create(&source()).inc_by(batch.bytes as u64);
        metrics().sources.records.get_or_create(&source()).inc_by(batch.messages.len() as u64);
        for span in spans {
            if let Some(cursor) = self.cursor(&span.topic, span.partition) {
                cursor.next = Some(span.next);
                cursor.anew = false;
            }
        }
        self.flights.push_back(submitted);
        shared.running();
        Ok(())
    }

    /// Lets go of appends that are durable, in their order.
    fn land(&mut self) -> Result<(), End> {
        while let Some(oldest) = self.flights.front() {
            for flight in &oldest.flights {
                match flight.outcome() {
                    None => return Ok(()),
                    Some(Ok(())) => {}
                    Some(Err(AppendError::Closed)) => return Err(End::Stopped),
                    // What came behind it may be durable: all begins again at what the log says.
                    Some(Err(error)) => return Err(End::Anew(format!("{HELD}: {error}"))),
                }
            }
            self.flights.pop_front();
        }
        Ok(())
    }

    fn wait_for_oldest(&self) {
        let Some(oldest) = self.flights.front() else { return };
        let waiting = async { tokio::time::timeout(Duration::from_millis(100), oldest.durable()).await };
        let _ = self.shared.runtime.block_on(waiting);
    }

    /// The log takes nothing: after a while partitions are paused, and the client is served without reading.
    fn hold(&mut self, since: Instant, reason: &str, batch: &mut Batch<'c>) -> Result<(), End> {
        if since.elapsed() < PATIENCE {
            return Ok(());
        }
        self.shared.board.set(State::Waiting(format!("{HELD}: {reason}")));
        if !self.paused {
            self.pause();
        }
        // What was under way to us still comes, and is kept. The number bounds it where pausing does not work.
        for _ in 0..1000 {
            if !self.poll(Duration::ZERO, batch)? {
                break;
            }
        }
        Ok(())
    }

    fn pause(&mut self) {
        self.paused = true;
        if let Err(error) = self.consumer.assignment().and_then(|all| self.consumer.pause(&all)) {
            self.shared.count(&error);
        }
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.paused)
            && let Err(error) = self.consumer.assignment().and_then(|all| self.consumer.resume(&all))
        {
            self.shared.count(&error);
        }
        self.shared.running();
    }

    /// Tells the group how far we are, where that is news.
    fn commit(&mut self) {
        if self.committed.elapsed() < COMMIT {
            return;
        }
        self.committed = Instant::now();
        if let Some(list) = self.news()
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            self.shared.count(&error);
        }
    }

    fn news(&mut self) -> Option<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for cursor in &mut self.cursors {
            let place = self.shared.intake.places().of(NAME, &cursor.topic, cursor.partition);
            if let Some(next) = place.map(|place| place.next).filter(|next| *next != cursor.committed) {
                self.shared.mark(&mut list, &cursor.topic, cursor.partition, next);
                cursor.committed = next;
            }
        }
        (list.count() > 0).then_some(list)
    }

    /// An error of the client.
    fn trouble(&mut self, error: &KafkaError) -> Result<(), End> {
        self.shared.count(error);
        let said = self.consumer.context().said();
        let reason = if said.is_empty() { error.to_string() } else { said };
        let class = class(error);
        match class {
            Class::Passing => tracing::debug!(%error, reason, "passes by itself"),
            // A client keeps the password that it was made with.
            Class::Login if self.has_new_password() => return Err(End::Anew(reason)),
            Class::Login | Class::Certificate => {
                // It passes when one lets us in.
                self.shared.down.store(true, Ordering::Relaxed);
                self.shared.board.set(State::Waiting(reason.clone()));
                self.shut_out = Some((Instant::now(), class, reason));
            }
            Class::Down => {
                // One of several brokers is no reason to say that we wait.
                let all = error.rdkafka_error_code() == Some(Code::AllBrokersDown);
                match self.shut_out.take().filter(|(at, ..)| at.elapsed() < SHUT_OUT) {
                    // None lets us in, and what we have read of our files may be old.
                    Some((_, Class::Certificate, reason)) if all => return Err(End::Anew(reason)),
                    // That they are down would say less.
                    Some(shut_out) => self.shut_out = Some(shut_out),
                    None if all || self.shared.board.state() == State::Starting => {
                        self.shared.down.store(true, Ordering::Relaxed);
                        self.shared.board.set(State::Waiting(reason));
                    }
                    None => {}
                }
            }
            Class::Refused => {
                self.shared.down.store(false, Ordering::Relaxed);
                self.shared.board.set(State::Waiting(reason));
            }
            Class::OutOfRange => self.place_again()?,
            Class::Anew => return Err(End::Anew(reason)),
            Class::Stop => return Err(End::Refused(reason)),
        }
        Ok(())
    }

    fn has_new_password(&self) -> bool {
        matches!(self.shared.options.password(), Some(Ok(now)) if Some(&now) != self.password.as_ref())
    }

    /// The place that was to be read is not there: reading goes on where [`elsewhere`] says, and it is said what happened.
    fn place_again(&mut self) -> Result<(), End> {
        let again =
            |error: &KafkaError| End::Anew(format!("where a partition begins was not found: {error}"));
        for cursor in &mut self.cursors {
            let Some(next) = cursor.next else { continue };
            let found =
                self.consumer.fetch_watermarks(&cursor.topic, cursor.partition, Duration::from_secs(10));
            let (first, end) = found.map_err(|error| again(&error))?;
            let Some((place, lost, why)) = elsewhere(next, first, end) else { continue };
            let (topic, partition) = (&cursor.topic, cursor.partition);
            metrics().sources.lost.get_or_create(&[("source", NAME.into())]).inc_by(lost);
            tracing::error!(topic, partition, next, first, end, place, lost, "{why}");
            // Such a partition is not fetched any more, and cannot be sought in: it is taken anew.
            let mut list = TopicPartitionList::new();
            list.add_partition(topic, partition);
            self.consumer.incremental_unassign(&list).map_err(|error| again(&error))?;
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, Offset::Offset(place))
                .map_err(|error| again(&error))?;
            self.consumer.incremental_assign(&list).map_err(|error| again(&error))?;
            (cursor.next, cursor.anew, cursor.beyond) = (Some(place), true, Default::default());
        }
        Ok(())
    }

    /// What was read becomes durable and is committed, as far as that is possible.
    fn finish(&mut self) {
        let flights = std::mem::take(&mut self.flights);
        self.shared.runtime.block_on(async {
            let all = async {
                for submitted in &flights {
                    let _ = submitted.durable().await;
                }
            };
            let _ = tokio::time::timeout(DRAIN, all).await;
        });
        // A broker that does not answer would hold the end up, and the log knows all of it.
        if self.shared.board.state() == State::Running
            && let Some(list) = self.news()
            && let Err(error) = self.consumer.commit(&list, CommitMode::Sync)
        {
            self.shared.count(&error);
        }
    }
}

/// Where reading goes on when a partition has not (any more) what was to be read next, how many records are lost, and why;
/// `None`: it has it.
fn elsewhere(next: i64, first: i64, end: i64) -> Option<(i64, u64, &'static str)> {
    match next {
        _ if next < first => Some((
            first,
            (first - next) as u64,
            "records were deleted before they were read: reading goes on behind them",
        )),
        _ if next <= end => None,
        // Less is gone than is left: a leader without the newest records took over. What comes next is new.
        _ if next - end <= end - first => Some((
            end,
            0,
            "the partition lost its newest records, which were read: reading goes on at its end",
        )),
        _ => Some((first, 0, "the topic is not the one that was read: it is read from its start")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_read_elsewhere() {
        let check = |next, first, end| elsewhere(next, first, end).map(|(place, lost, _)| (place, lost));
        assert_eq!(check(5, 0, 10), None);
        assert_eq!(check(10, 0, 10), None);
        assert_eq!(check(0, 0, 0), None);
        assert_eq!(check(5, 8, 10), Some((8, 3)));
        assert_eq!(check(1005, 100, 1000), Some((1000, 0)));
        assert_eq!(check(1005, 0, 20), Some((0, 0)));
        assert_eq!(check(5, 0, 0), Some((0, 0)));
    }
}
