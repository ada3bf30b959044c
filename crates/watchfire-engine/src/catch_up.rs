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

use watchfire_log::{Append, Breaker, BreakerChange, Log, LogError, MissedRange, Record, Redo, Slice};
use watchfire_model::rule::metric_matches;
use watchfire_model::{Actor, BatchBuilder, Offset, PartitionId, Position, RuleVersion};
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
        let entry = match reader.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            // What is in front of the damage is appended first; then the damage is where the rest begins.
            Err(LogError::Corrupt { .. }) if reader.offset() > behind.from => break,
            Err(error @ LogError::Corrupt { .. }) => return pass_over(log, partition, behind, error),
            Err(error) => return Err(error),
        };
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
        missed: Some(Slice { from: behind.from, next, as_of: behind.upto, taken_back: behind.taken_back }),
        upto: None,
        by: Actor { name: "engine".into(), ..Actor::default() },
        batch: Arc::new(rows.finish()),
    };
    // A full queue, a full disk: it is asked for again.
    if let Err(error) = log.append(Append::Records(vec![(partition, Record::Redo(Box::new(redo)))])) {
        tracing::debug!(rule = %behind.rule, %partition, "a slice of what was missed is not appended: {error}");
    }
    Ok(())
}

/// What cannot be read at the beginning of what a rule missed is lost to it, up to the next record that can be.
fn pass_over(
    log: &dyn Log,
    partition: PartitionId,
    behind: &Behind,
    error: LogError,
) -> Result<(), LogError> {
    let is_read = |from| matches!(log.reader(partition, from).map(|mut reader| reader.next()), Ok(Ok(_)));
    // A group, and where it is its length that is damaged the rest of a file: looked for at ever longer steps, and then
    // exactly.
    let (mut damaged, mut step) = (behind.from, 1);
    let mut next = loop {
        let at = damaged.saturating_add(step).min(behind.upto);
        if at == behind.upto || is_read(at) {
            break at;
        }
        (damaged, step) = (at, step * 2);
    };
    while next - damaged > 1 {
        let middle = damaged + (next - damaged) / 2;
        if is_read(middle) { next = middle } else { damaged = middle }
    }
    let rule = &behind.rule;
    tracing::error!(%rule, %partition, from = behind.from, next, "lost to the rule: {error}");
    let range = MissedRange { from: behind.from, next, taken_back: behind.taken_back };
    note_lost(log, partition, rule, behind.version, range);
    Ok(())
}

/// Notes records as lost to a rule; whether that was taken.
fn note_lost(
    log: &dyn Log,
    partition: PartitionId,
    rule: &str,
    version: RuleVersion,
    range: MissedRange,
) -> bool {
    let (count, rule) = (range.next - range.from, rule.to_string());
    let label = [("rule", rule.clone())];
    let record = Record::Breaker(Box::new(Breaker { rule, version, change: BreakerChange::Lost { range } }));
    let taken = log.append(Append::Records(vec![(partition, record)])).is_ok();
    if taken {
        metrics().rules.missed_lost.get_or_create(&label).inc_by(count);
    }
    taken
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
        for Kept { rule, from, .. } in kept {
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
    /// The slice that was asked for last, by rule: where it begins, since when the rule is as it is, and when that was.
    asked: BTreeMap<Arc<str>, (Offset, Offset, Instant)>,
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
            let is_it = |from: &Offset, as_of: &Offset| (*from, *as_of) == (behind.from, behind.as_of);
            if known.is_some_and(|(from, as_of, at)| is_it(from, as_of) && at.elapsed() < AGAIN) {
                continue;
            }
            let asked = (behind.rule.clone(), (behind.from, behind.as_of, Instant::now()));
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
        for Kept { rule, from, taken_back } in kept.into_iter().filter(|kept| kept.from < first) {
            let noted = self.lost.get(&rule);
            if noted.is_some_and(|(next, at)| *next == first && at.elapsed() < AGAIN) {
                continue;
            }
            tracing::error!(
                %rule, partition = %partition.id(), from, next = first,
                "a part of what the rule missed is not kept any more, and lost to it"
            );
            let version = partition.version_of(&rule).unwrap_or_default();
            // What is not taken now is noted the next time.
            let range = MissedRange { from, next: first, taken_back };
            if note_lost(log, partition.id(), &rule, version, range) {
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
