//! What librdkafka asks of us: where partitions begin that we are given, and what is done before one is taken away.
//!
//! The place where a partition is read on is, in this order: what our log says; or what the group committed, where the log
//! says nothing, or where another node committed more than we read; or what the configuration says. What *we* committed
//! never counts against our log: after a restored backup the log is older than that, and what it lacks is read again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use watchfire_telemetry::metrics;

use super::NAME;
use super::options::Start;
use super::shared::Shared;
use crate::board::State;
use crate::places::Place;

/// The broker has this long to say where partitions stand.
const LOOK_UP: Duration = Duration::from_secs(10);
/// And so often.
const LOOK_UPS: usize = 3;
/// Before a partition is taken away, what was read of it is given this long to become durable.
const LET_GO: Duration = Duration::from_secs(20);

/// A partition that we read.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    pub(super) topic: String,
    pub(super) partition: i32,
    /// The next record that is wanted; `None`: whichever comes first.
    pub(super) next: Option<i64>,
    /// What was read beyond, by the log.
    pub(super) beyond: Place,
    /// What the log says of it so far counts no more.
    pub(super) anew: bool,
    /// What the group knows.
    pub(super) committed: i64,
}

/// What happened to partitions while the consumer was polled.
#[derive(Debug)]
pub(super) enum Change {
    Given(Cursor),
    Taken(String, i32),
}

/// Answers librdkafka.
pub(super) struct Context {
    shared: Arc<Shared>,
    changes: Mutex<Vec<Change>>,
    /// The last that was said of an error, which the error itself does not say.
    said: Mutex<String>,
}

impl Context {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, changes: Mutex::default(), said: Mutex::default() }
    }

    /// What happened since this was asked last.
    pub(super) fn changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was said of the last error.
    pub(super) fn said(&self) -> String {
        std::mem::take(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: Change) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    }

    fn given(&self, consumer: &BaseConsumer<Self>, given: &TopicPartitionList) {
        let asked =
            || given.elements().iter().map(|e| (e.topic().to_string(), e.partition())).collect::<Vec<_>>();
        let mut cursors: Vec<Cursor> =
            asked().into_iter().map(|(topic, partition)| self.known(topic, partition)).collect();
        match self.committed(consumer, &asked()) {
            Ok(committed) => {
                for cursor in &mut cursors {
                    if let Some((offset, ours)) = committed.get(&(cursor.topic.clone(), cursor.partition)) {
                        cursor.meet(*offset, *ours);
                    }
                }
            }
            // The log is enough where it knows the place.
            Err(error) => tracing::warn!(%error, "what the group committed could not be looked up"),
        }
        let mut list = TopicPartitionList::with_capacity(cursors.len());
        for (cursor, begin) in cursors.iter().zip(self.begin(consumer, &cursors)) {
            let _ = list.add_partition_offset(&cursor.topic, cursor.partition, begin);
        }
        let assigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&list),
            _ => consumer.assign(&list),
        };
        if let Err(error) = assigned {
            return tracing::error!(%error, "partitions that were given could not be taken");
        }
        for cursor in cursors {
            let Cursor { topic, partition, next, .. } = &cursor;
            tracing::info!(topic, partition, ?next, "reads a partition");
            self.change(Change::Given(cursor));
        }
    }

    fn known(&self, topic: String, partition: i32) -> Cursor {
        let place = self.shared.intake.places().of(NAME, &topic, partition);
        let (next, anew) = (place.as_ref().map(|place| place.next), place.is_none());
        Cursor { topic, partition, next, beyond: place.unwrap_or_default(), anew, committed: -1 }
    }

    /// What the group committed, and whether it was us.
    fn committed(
        &self,
        consumer: &BaseConsumer<Self>,
        asked: &[(String, i32)],
    ) -> KafkaResult<BTreeMap<(String, i32), (i64, bool)>> {
        let mut answer = Err(KafkaError::Canceled);
        for _ in 0..LOOK_UPS {
            let mut list = TopicPartitionList::with_capacity(asked.len());
            for (topic, partition) in asked {
                list.add_partition(topic, *partition);
            }
            answer = consumer.committed_offsets(list, LOOK_UP);
            if answer.is_ok() || self.shared.stopped() {
                break;
            }
        }
        let answer = answer?;
        let mut committed = BTreeMap::new();
        for element in answer.elements() {
            if let Offset::Offset(offset) = element.offset() {
                // Others may commit bytes that are no text, at which rdkafka panics.
                let said = catch_unwind(AssertUnwindSafe(|| element.metadata() == self.shared.mark))
                    .unwrap_or(false);
                committed.insert((element.topic().to_string(), element.partition()), (offset, said));
            }
        }
        Ok(committed)
    }

    /// Where reading begins.
    fn begin(&self, consumer: &BaseConsumer<Self>, cursors: &[Cursor]) -> Vec<Offset> {
        let start = match self.shared.options.start {
            Start::Earliest => Offset::Beginning,
            Start::Latest => Offset::End,
            Start::At(time) => return self.at_time(consumer, cursors, time.0 / 1000),
        };
        cursors.iter().map(|cursor| cursor.next.map_or(start, Offset::Offset)).collect()
    }

    fn at_time(&self, consumer: &BaseConsumer<Self>, cursors: &[Cursor], millis: i64) -> Vec<Offset> {
        let mut list = TopicPartitionList::new();
        for cursor in cursors.iter().filter(|cursor| cursor.next.is_none()) {
            let _ = list.add_partition_offset(&cursor.topic, cursor.partition, Offset::Offset(millis));
        }
        let mut found = Ok(TopicPartitionList::new());
        for _ in 0..LOOK_UPS {
            if list.count() == 0 || self.shared.stopped() {
                break;
            }
            found = consumer.offsets_for_times(list.clone(), LOOK_UP);
            if found.is_ok() {
                break;
            }
        }
        let found = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "the place of the start time could not be looked up: all records are read");
            TopicPartitionList::new()
        });
        let place = |cursor: &Cursor| match cursor.next {
            Some(next) => Offset::Offset(next),
            None => {
                match found.find_partition(&cursor.topic, cursor.partition).map(|element| element.offset()) {
                    Some(Offset::Offset(offset)) => Offset::Offset(offset),
                    // No record is that late.
                    Some(Offset::End) => Offset::End,
                    _ => Offset::Beginning,
                }
            }
        };
        cursors.iter().map(place).collect()
    }

    /// What was read becomes durable and is committed before somebody else may read on.
    fn taken(&self, consumer: &BaseConsumer<Self>, taken: &TopicPartitionList) {
        let places = self.shared.intake.places();
        let landed = self.shared.runtime.block_on(async {
            tokio::time::timeout(LET_GO, async {
                for flight in places.flights() {
                    let _ = flight.wait().await;
                }
            })
            .await
        });
        if landed.is_err() {
            tracing::warn!("a partition was taken away before all that was read of it was durable");
        }
        let mut list = TopicPartitionList::new();
        for element in taken.elements() {
            let (topic, partition) = (element.topic().to_string(), element.partition());
            if let Some(place) = places.of(NAME, &topic, partition) {
                self.shared.mark(&mut list, &topic, partition, place.next);
            }
            tracing::info!(topic, partition, "reads a partition no more");
            self.change(Change::Taken(topic, partition));
        }
        // One that was lost is read by somebody else already: a commit of ours would be refused.
        if list.count() > 0
            && !consumer.assignment_lost()
            && self.shared.board.state() == State::Running
            && let Err(error) = consumer.commit(&list, CommitMode::Sync)
        {
            self.shared.count(&error);
        }
        let unassigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(taken),
            _ => consumer.unassign(),
        };
        if let Err(error) = unassigned {
            tracing::error!(%error, "partitions that were taken away could not be let go");
        }
    }
}

impl Cursor {
    /// Holds what the log says against what the group committed.
    fn meet(&mut self, committed: i64, ours: bool) {
        self.committed = committed;
        match self.next {
            None => self.next = Some(committed),
            Some(next) if !ours && committed > next => {
                // Another node had the partition in the meantime.
                self.next = Some(committed);
                self.anew = true;
                self.beyond = Place::default();
            }
            Some(_) => {}
        }
    }

    /// Whether a record is in the log already.
    pub(super) fn has(&self, offset: i64) -> bool {
        self.next.is_some_and(|next| offset < next) || self.beyond.has_beyond(offset)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            // Every try to connect says so once more: the state of the source says it once.
            _ if facility == "FAIL" => tracing::debug!(facility, line, "librdkafka"),
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => {
                tracing::warn!(facility, line, "librdkafka");
            }
            _ => tracing::debug!(facility, line, "librdkafka"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.shared.look(&statistics);
    }

    fn error(&self, _: KafkaError, reason: &str) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = reason.into();
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.given(consumer, partitions),
            _ => self.taken(consumer, partitions),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            self.shared.count(&error);
            tracing::debug!(%error, "a commit to the group failed; our log has it, and the next one says it again");
        }
    }
}

/// Takes back what metrics say of partitions that are read no more.
pub(super) fn forget_lag(topics: impl Iterator<Item = String>) {
    for topic in topics {
        metrics().sources.lag.remove(&[("source", NAME.into()), ("topic", topic)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(next: Option<i64>) -> Cursor {
        Cursor {
            topic: "t".into(),
            partition: 0,
            next,
            beyond: Place { next: next.unwrap_or(0), beyond: BTreeMap::from([(20, 30)]) },
            anew: next.is_none(),
            committed: -1,
        }
    }

    #[test]
    fn the_log_is_the_truth_and_other_nodes_are_believed() {
        let check = |next, committed, ours, expected, anew| {
            let mut cursor = cursor(next);
            cursor.meet(committed, ours);
            assert_eq!((cursor.next, cursor.anew), (Some(expected), anew), "{next:?} {committed} {ours}");
        };
        check(Some(10), 50, true, 10, false);
        check(Some(10), 5, true, 10, false);
        check(Some(10), 5, false, 10, false);
        check(Some(10), 50, false, 50, true);
        check(None, 50, true, 50, true);
        check(None, 50, false, 50, true);
    }

    #[test]
    fn what_is_in_the_log_is_not_taken_again() {
        let of = cursor(Some(10));
        let has: Vec<bool> = [9, 10, 19, 20, 29, 30].into_iter().map(|offset| of.has(offset)).collect();
        assert_eq!(has, [true, false, false, true, true, false]);
        let mut other = cursor(Some(10));
        other.meet(15, false);
        assert!(!other.has(25));
    }
}
