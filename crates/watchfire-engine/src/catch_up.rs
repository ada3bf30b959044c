//! Reads what rules have missed and appends it to the log once more, in slices, each for one rule.
//!
//! A thread of its own: what was missed may lie on the disk, and the loop must not wait for that. It decides nothing. A
//! slice that it appends twice, or too late, counts for nothing, because it does not begin with what the rule misses
//! next; and what it could not append it is asked for again.
//!
//! That the rows are in the log once more costs their bytes. For that a replay needs no record from before its
//! checkpoint, what was missed may go as soon as it was copied, and the rows of a slice that fail are found where those
//! of every redo are.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use watchfire_log::{Append, Breaker, BreakerChange, Log, LogError, MissedRange, Record, Redo};
use watchfire_model::rule::metric_matches;
use watchfire_model::{Actor, BatchBuilder, Offset, PartitionId, Position};
use watchfire_telemetry::metrics;

use crate::partition::{Behind, Kept, Partition, copy_row};

/// Rows of a slice: what a rule needs some milliseconds for, so that the others wait no longer than that.
const ROWS: usize = 1024;

/// Bytes of a slice, of which the rows may have long texts.
const BYTES: usize = 1 << 20;

/// Records that are looked at for a slice: a rule that sees few rows is not to wait for many.
const RECORDS: u64 = 4096;

/// A slice that did not come for so long is asked for again.
const AGAIN: Duration = Duration::from_secs(5);

/// A slice that is wanted.
pub(crate) struct Wanted {
    pub partition: PartitionId,
    pub behind: Behind,
}

/// Appends slices until nobody wants any more.
pub(crate) fn run(log: &dyn Log, wanted: &Receiver<Wanted>) {
    while let Ok(Wanted { partition, behind }) = wanted.recv() {
        if let Err(error) = append(log, partition, &behind) {
            // What is not kept any more is noticed where the loop looks what is.
            let rule = &behind.rule;
            tracing::warn!(%rule, %partition, from = behind.from, "what the rule missed cannot be read: {error}");
        }
    }
}

/// Appends the next slice of each rule of a partition that catches up. The engine does it by itself: this is for who
/// drives a partition by hand.
pub fn append_missed(log: &dyn Log, partition: &Partition) -> Result<usize, LogError> {
    let behind = partition.behind();
    behind.iter().try_for_each(|behind| append(log, partition.id(), behind))?;
    Ok(behind.len())
}

fn append(log: &dyn Log, partition: PartitionId, behind: &Behind) -> Result<(), LogError> {
    let sees = |metric: &str| {
        behind.metrics.is_empty() || behind.metrics.iter().any(|pattern| metric_matches(pattern, metric))
    };
    let mut reader = log.reader(partition, behind.from)?;
    let last = behind.upto.min(behind.from.saturating_add(RECORDS));
    let mut rows = BatchBuilder::new();
    while reader.offset() < last && rows.rows() < ROWS && rows.size() < BYTES {
        let Some(entry) = reader.next()? else { break };
        let Record::Readings { stream, batch, .. } = &entry.record else { continue };
        if *stream != behind.stream {
            continue;
        }
        for (row, device) in (0_u32..).zip(&batch.devices) {
            if behind.selected.contains(*device) {
                copy_row(&mut rows, batch, row, sees);
            }
        }
    }
    let next = reader.offset();
    if next <= behind.from {
        return Ok(());
    }
    let redo = Redo {
        rule: behind.rule.to_string(),
        stream: behind.stream.clone(),
        failed: Position { epoch: log.epoch(), partition, offset: behind.from },
        missed: Some(MissedRange { from: behind.from, next }),
        by: Actor { name: "engine".into(), ..Actor::default() },
        batch: Arc::new(rows.finish()),
    };
    // A full queue, a full disk: it is asked for again.
    if let Err(error) = log.append(Append::Records(vec![(partition, Record::Redo(Box::new(redo)))])) {
        tracing::debug!(rule = %behind.rule, %partition, "a slice of what was missed is not appended: {error}");
    }
    Ok(())
}

/// What the log keeps for rules that are out, over all partitions: a cursor of the log has an offset in each.
pub(crate) struct Keeping {
    log: Arc<dyn Log>,
    rules: Mutex<BTreeMap<Arc<str>, BTreeMap<PartitionId, Offset>>>,
}

impl Keeping {
    pub fn new(log: Arc<dyn Log>) -> Self {
        Self { log, rules: Mutex::default() }
    }

    /// The name of the cursor of a rule.
    fn cursor(rule: &str) -> String {
        format!("rule:{rule}")
    }

    /// Everything that a partition needs for its rules by now.
    pub fn set(&self, partition: PartitionId, kept: &[Kept]) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        for Kept { rule, from } in kept {
            let offsets = rules.entry(rule.clone()).or_default();
            if offsets.insert(partition, *from) == Some(*from) {
                continue;
            }
            // All of them: a partition that a cursor says nothing of is kept whole.
            for other in (0..self.log.partitions()).map(PartitionId) {
                let next = offsets.get(&other).copied().unwrap_or(Offset::MAX);
                self.log.set_cursor(&Self::cursor(rule), other, next);
            }
        }
        rules.retain(|rule, offsets| {
            let needed = kept.iter().any(|kept| kept.rule == *rule);
            if !needed && offsets.remove(&partition).is_some() {
                if offsets.is_empty() {
                    self.log.remove_cursor(&Self::cursor(rule));
                } else {
                    self.log.set_cursor(&Self::cursor(rule), partition, Offset::MAX);
                }
            }
            !offsets.is_empty()
        });
    }
}

/// What a partition asks for, and has kept, for its rules that are out.
pub(crate) struct Outages {
    want: SyncSender<Wanted>,
    keeping: Arc<Keeping>,
    /// The slice that was asked for last, by rule: where it begins, and when.
    asked: BTreeMap<Arc<str>, (Offset, Instant)>,
    /// Up to where it was noted that what a rule missed is not kept any more, and when.
    lost: BTreeMap<Arc<str>, (Offset, Instant)>,
    /// Rules whose breaker was not closed when it was looked last.
    shown: BTreeMap<String, i64>,
}

impl Outages {
    pub fn new(want: SyncSender<Wanted>, keeping: Arc<Keeping>) -> Self {
        let (asked, lost, shown) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { want, keeping, asked, lost, shown }
    }

    /// Asks for the next slice of each rule that catches up: one at a time, so that others have their turn.
    pub fn ask(&mut self, partition: &Partition) {
        let behind = partition.behind();
        self.asked.retain(|rule, _| behind.iter().any(|behind| behind.rule == *rule));
        for behind in behind {
            let known = self.asked.get(&behind.rule);
            if known.is_some_and(|(from, at)| *from == behind.from && at.elapsed() < AGAIN) {
                continue;
            }
            let asked = (behind.rule.clone(), (behind.from, Instant::now()));
            // A full queue: at the next turn.
            if self.want.try_send(Wanted { partition: partition.id(), behind }).is_ok() {
                self.asked.insert(asked.0, asked.1);
            }
        }
    }

    /// Has the log keep what rules still need.
    pub fn keep(&self, partition: &Partition) {
        self.keeping.set(partition.id(), &partition.needed());
    }

    /// Looks after what is kept, notes what is not any more, and shows how breakers stand.
    pub fn look(&mut self, partition: &Partition, log: &dyn Log) {
        self.keep(partition);
        let first = log.range(partition.id()).0;
        let kept = partition.needed();
        self.lost.retain(|rule, _| kept.iter().any(|kept| kept.rule == *rule));
        for Kept { rule, from } in kept.into_iter().filter(|kept| kept.from < first) {
            let noted = self.lost.get(&rule);
            if noted.is_some_and(|(next, at)| *next == first && at.elapsed() < AGAIN) {
                continue;
            }
            tracing::error!(
                %rule, partition = %partition.id(), from, next = first,
                "a part of what the rule missed is not kept any more, and lost to it"
            );
            let version = partition.version_of(&rule).unwrap_or_default();
            let change = BreakerChange::Lost { range: MissedRange { from, next: first } };
            let record = Record::Breaker(Box::new(Breaker { rule: rule.to_string(), version, change }));
            // What is not taken now is noted the next time.
            if log.append(Append::Records(vec![(partition.id(), record)])).is_ok() {
                let label = [("rule", rule.to_string())];
                metrics().rules.missed_lost.get_or_create(&label).inc_by(first - from);
                self.lost.insert(rule, (first, Instant::now()));
            }
        }
        let standing = partition.breakers();
        let place = partition.id().to_string();
        let show = |rule: &str, state: i64| {
            let label = [("partition", place.clone()), ("rule", rule.to_string())];
            metrics().rules.breaker.get_or_create(&label).set(state);
        };
        self.shown.keys().filter(|rule| !standing.contains_key(*rule)).for_each(|rule| show(rule, 0));
        standing.iter().for_each(|(rule, state)| show(rule, *state));
        self.shown = standing;
    }
}
