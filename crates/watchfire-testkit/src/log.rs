//! A log in memory.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use watchfire_log::{Append, AppendError, Entry, Log, LogError, LogReader, Record, Reject, Ticket};
use watchfire_model::{Batch, BatchBuilder, Epoch, Offset, PartitionId, Position, READINGS, Timestamp};

/// A log in memory. Its clock moves only by hand ([`MemoryLog::advance`], [`MemoryLog::set_now`]). Each
/// append is a group of its own and synced at once, unless [`MemoryLog::hold`] was called: then appends
/// collect until [`MemoryLog::sync`], and no reader sees them before.
pub struct MemoryLog {
    me: Weak<Self>,
    identity: u64,
    epoch: Epoch,
    state: Mutex<State>,
    grown: Condvar,
    group: watch::Sender<u64>,
}

type Outcome = Result<Arc<[Position]>, AppendError>;

struct State {
    now: Timestamp,
    partitions: Vec<Partition>,
    /// All synced records in the order in which they were written.
    written: Vec<Arc<Entry>>,
    group: u64,
    held: bool,
    refusal: Option<AppendError>,
    queue: Vec<(Append, oneshot::Sender<Outcome>)>,
    cursors: BTreeMap<(String, PartitionId), Offset>,
}

#[derive(Clone, Default)]
struct Partition {
    first: Offset,
    entries: Vec<Arc<Entry>>,
    damaged: Range<Offset>,
}

impl Partition {
    fn next(&self) -> Offset {
        self.first + self.entries.len() as Offset
    }
}

/// Each log has a number of its own, and its copies have the same.
static IDENTITIES: AtomicU64 = AtomicU64::new(1);

impl MemoryLog {
    /// An empty log with this many partitions, whose clock stands at `now`.
    pub fn new(partitions: u16, now: Timestamp) -> Arc<Self> {
        Self::with(
            IDENTITIES.fetch_add(1, Ordering::Relaxed),
            Epoch(1),
            now,
            vec![Partition::default(); usize::from(partitions)],
            Vec::new(),
        )
    }

    /// A log that holds what another one has synced, as after a crash: what was queued there is lost, and
    /// what is appended to one is not in the other.
    pub fn copy(&self) -> Arc<Self> {
        let state = self.lock();
        let mut partitions = state.partitions.clone();
        partitions.iter_mut().for_each(|partition| partition.damaged = 0..0);
        Self::with(self.identity, self.epoch, state.now, partitions, state.written.clone())
    }

    /// As [`MemoryLog::copy`], but only the first `records` of it in the order in which they were written.
    pub fn copy_of_first(&self, records: usize) -> Arc<Self> {
        let state = self.lock();
        let written: Vec<_> = state.written[..records].to_vec();
        let mut partitions = vec![Partition::default(); state.partitions.len()];
        for entry in &written {
            partitions[usize::from(entry.position.partition.0)].entries.push(entry.clone());
        }
        let now = written.last().map_or(state.now, |entry| entry.appended_at);
        Self::with(self.identity, self.epoch, now, partitions, written)
    }

    fn with(
        identity: u64,
        epoch: Epoch,
        now: Timestamp,
        partitions: Vec<Partition>,
        written: Vec<Arc<Entry>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            identity,
            epoch,
            state: Mutex::new(State {
                now,
                partitions,
                written,
                group: 1,
                held: false,
                refusal: None,
                queue: Vec::new(),
                cursors: BTreeMap::new(),
            }),
            grown: Condvar::new(),
            group: watch::Sender::new(1),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the clock. It never goes back: an earlier time changes nothing.
    pub fn set_now(&self, now: Timestamp) {
        let mut state = self.lock();
        state.now = state.now.max(now);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: watchfire_model::Duration) {
        let mut state = self.lock();
        state.now = state.now + by;
    }

    /// From now on appends collect until [`MemoryLog::sync`].
    pub fn hold(&self) {
        self.lock().held = true;
    }

    /// From now on appends are synced at once; what has collected is synced now.
    pub fn release(&self) {
        self.lock().held = false;
        self.sync();
    }

    /// Writes what has collected as one group.
    pub fn sync(&self) {
        let mut state = self.lock();
        self.write_group(&mut state);
    }

    /// Fails what has collected, as a failed fdatasync does: none of it is in the log.
    pub fn fail(&self, reason: &str) {
        let queue = std::mem::take(&mut self.lock().queue);
        for (_, waiting) in queue {
            let _ = waiting.send(Err(AppendError::WriteFailed(reason.into())));
        }
    }

    /// From now on each append is refused with this; `None`: is taken again.
    pub fn refuse(&self, with: Option<AppendError>) {
        self.lock().refusal = with;
    }

    /// How many appends have collected.
    pub fn held(&self) -> usize {
        self.lock().queue.len()
    }

    /// All synced records in the order in which they were written.
    pub fn records(&self) -> Vec<Arc<Entry>> {
        self.lock().written.clone()
    }

    /// Forgets the records of a partition below an offset, as retention does.
    pub fn drop_before(&self, partition: PartitionId, offset: Offset) {
        let mut state = self.lock();
        let part = &mut state.partitions[usize::from(partition.0)];
        let count = offset.saturating_sub(part.first).min(part.entries.len() as u64);
        part.entries.drain(..count as usize);
        part.first += count;
        state.written.retain(|e| e.position.partition != partition || e.position.offset >= offset);
    }

    /// From now on records of a partition cannot be read any more, as after a fault of the disk. A copy is whole.
    pub fn damage(&self, partition: PartitionId, offsets: Range<Offset>) {
        self.lock().partitions[usize::from(partition.0)].damaged = offsets;
    }

    /// The cursor of a reader.
    pub fn cursor(&self, reader: &str, partition: PartitionId) -> Option<Offset> {
        self.lock().cursors.get(&(reader.to_string(), partition)).copied()
    }

    /// Appends records of one partition and gives their positions. Panics where the log refuses or holds.
    pub fn put(&self, partition: PartitionId, records: impl IntoIterator<Item = Record>) -> Arc<[Position]> {
        let records = records.into_iter().map(|record| (partition, record)).collect();
        let ticket = self.append(Append::Records(records)).unwrap_or_else(|e| panic!("append: {e}"));
        let mut durable = Box::pin(ticket.durable());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match durable.as_mut().poll(&mut context) {
            std::task::Poll::Ready(Ok(positions)) => positions,
            other => panic!("the log holds or refuses: {other:?}"),
        }
    }

    fn write_group(&self, state: &mut State) {
        if state.queue.is_empty() {
            return;
        }
        let queue = std::mem::take(&mut state.queue);
        let mut rows: BTreeMap<PartitionId, BatchBuilder> = BTreeMap::new();
        let mut rejects: BTreeMap<PartitionId, Vec<Reject>> = BTreeMap::new();
        let mut answers = Vec::with_capacity(queue.len());
        for (append, waiting) in queue {
            let mut positions = Vec::new();
            let append = match append {
                Append::Consumed { rows, rejects, consumed } => {
                    self.write(state, PartitionId(0), Record::Consumed(consumed));
                    Append::Intake { rows, rejects }
                }
                append => append,
            };
            match append {
                Append::Consumed { rows: more, rejects: refused, .. }
                | Append::Intake { rows: more, rejects: refused } => {
                    for (partition, batch) in more {
                        rows.entry(partition).or_default().append(&batch);
                    }
                    for (partition, reject) in refused {
                        rejects.entry(partition).or_default().push(reject);
                    }
                }
                Append::Records(records) => {
                    for (partition, record) in records {
                        positions.push(self.write(state, partition, record));
                    }
                }
            }
            answers.push((waiting, positions));
        }
        for (partition, builder) in rows {
            let batch: Arc<Batch> = Arc::new(builder.finish());
            self.write(state, partition, Record::Readings { stream: READINGS.into(), origin: None, batch });
        }
        for (partition, rejects) in rejects {
            self.write(state, partition, Record::Rejects(rejects));
        }
        state.group += 1;
        for (waiting, positions) in answers {
            // Nobody waits for it any more: nothing to tell.
            let _ = waiting.send(Ok(positions.into()));
        }
        self.group.send_replace(state.group);
        self.grown.notify_all();
    }

    fn write(&self, state: &mut State, partition: PartitionId, record: Record) -> Position {
        let part = &mut state.partitions[usize::from(partition.0)];
        let position = Position { epoch: self.epoch, partition, offset: part.next() };
        let entry = Arc::new(Entry { position, appended_at: state.now, record });
        part.entries.push(entry.clone());
        state.written.push(entry);
        position
    }
}

impl Log for MemoryLog {
    fn identity(&self) -> u64 {
        self.identity
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn partitions(&self) -> u16 {
        self.lock().partitions.len() as u16
    }

    fn now(&self) -> Timestamp {
        self.lock().now
    }

    fn append(&self, append: Append) -> Result<Ticket, AppendError> {
        let mut state = self.lock();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        let (waiting, outcome) = oneshot::channel();
        state.queue.push((append, waiting));
        let group = state.group + 1;
        if !state.held {
            self.write_group(&mut state);
        }
        Ok(Ticket::new(group, async move { outcome.await.unwrap_or(Err(AppendError::Closed)) }))
    }

    fn reader(&self, partition: PartitionId, from: Offset) -> Result<Box<dyn LogReader>, LogError> {
        let state = self.lock();
        let part = &state.partitions[usize::from(partition.0)];
        if from < part.first {
            return Err(LogError::Gone { partition, wanted: from, first: part.first });
        }
        let log = self.me.upgrade().ok_or_else(|| LogError::Format("the log is gone".into()))?;
        Ok(Box::new(Reader { log, partition, next: from }))
    }

    fn range(&self, partition: PartitionId) -> (Offset, Offset) {
        let state = self.lock();
        let part = &state.partitions[usize::from(partition.0)];
        (part.first, part.next())
    }

    fn synced_group(&self) -> u64 {
        self.lock().group
    }

    fn wait_past(&self, group: u64, timeout: Duration) -> u64 {
        let (state, _) = self
            .grown
            .wait_timeout_while(self.lock(), timeout, |state| state.group <= group)
            .unwrap_or_else(PoisonError::into_inner);
        state.group
    }

    fn synced_past(&self, group: u64) -> Pin<Box<dyn Future<Output = u64> + Send + '_>> {
        let mut groups = self.group.subscribe();
        Box::pin(async move {
            let newest = groups.wait_for(|newest| *newest > group).await.map(|newest| *newest);
            newest.unwrap_or(group)
        })
    }

    fn set_cursor(&self, reader: &str, partition: PartitionId, next: Offset) {
        self.lock().cursors.insert((reader.to_string(), partition), next);
    }

    fn remove_cursor(&self, reader: &str) {
        self.lock().cursors.retain(|(name, _), _| name != reader);
    }

    fn scan(
        &self,
        from: Position,
    ) -> Result<Box<dyn Iterator<Item = Result<Arc<Entry>, LogError>> + Send>, LogError> {
        let state = self.lock();
        let first = state
            .written
            .iter()
            .position(|entry| {
                entry.position.partition == from.partition && entry.position.offset >= from.offset
            })
            .unwrap_or(state.written.len());
        let rest: Vec<_> = state.written[first..].iter().cloned().map(Ok).collect();
        Ok(Box::new(rest.into_iter()))
    }
}

struct Reader {
    log: Arc<MemoryLog>,
    partition: PartitionId,
    next: Offset,
}

impl LogReader for Reader {
    fn next(&mut self) -> Result<Option<Arc<Entry>>, LogError> {
        let state = self.log.lock();
        let part = &state.partitions[usize::from(self.partition.0)];
        if self.next < part.first {
            return Err(LogError::Gone { partition: self.partition, wanted: self.next, first: part.first });
        }
        if part.damaged.contains(&self.next) {
            let what = "it does not fit its checksum".into();
            return Err(LogError::Corrupt { file: "memory".into(), at: self.next, what });
        }
        let entry = part.entries.get((self.next - part.first) as usize).cloned();
        self.next += u64::from(entry.is_some());
        Ok(entry)
    }

    fn offset(&self) -> Offset {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_model::DeviceHandle;

    fn row(device: u32) -> Batch {
        let mut b = BatchBuilder::new();
        b.begin(DeviceHandle(device), Timestamp(1));
        let _ = b.number("x", f64::from(device));
        b.commit();
        b.finish()
    }

    #[test]
    fn what_is_held_is_seen_by_nobody_and_becomes_one_record() {
        let log = MemoryLog::new(2, Timestamp(5));
        let mut reader = log.reader(PartitionId(1), 0).unwrap();
        log.hold();
        for device in 0..3 {
            let rows = vec![(PartitionId(1), row(device))];
            log.append(Append::Intake { rows, rejects: vec![] }).unwrap();
        }
        assert!(reader.next().unwrap().is_none());
        log.release();
        let entry = reader.next().unwrap().unwrap();
        let Record::Readings { batch, .. } = &entry.record else { panic!() };
        assert_eq!((batch.rows(), entry.appended_at, reader.offset()), (3, Timestamp(5), 1));
        assert_eq!(log.put(PartitionId(1), [Record::Tick])[0].offset, 1);
        let copy = log.copy();
        copy.put(PartitionId(1), [Record::Tick]);
        assert_eq!((log.range(PartitionId(1)).1, copy.range(PartitionId(1)).1), (2, 3));
        log.drop_before(PartitionId(1), 1);
        assert!(matches!(log.reader(PartitionId(1), 0), Err(LogError::Gone { first: 1, .. })));
    }
}
