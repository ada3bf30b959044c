//! The hand-over: many connections append to the open group, one thread takes it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use watchfire_model::{Batch, PartitionId, Position};
use watchfire_telemetry::metrics;

use super::lock;
use super::rows::Rows;
use crate::codec::record::{decode, encode, is_json, kind};
use crate::contract::{Append, AppendError, Ticket};
use crate::record::{Consumed, Record, Reject};

/// Bytes of the largest append. Sources bound what they take at once far below.
const MOST_AT_ONCE: usize = 1 << 30;

/// What became of a group. All who appended to it share one.
#[derive(Default)]
pub(super) struct Outcome {
    result: OnceLock<Result<Arc<[Position]>, AppendError>>,
    changed: Notify,
}

impl Outcome {
    pub fn resolve(&self, result: Result<Arc<[Position]>, AppendError>) {
        let _ = self.result.set(result);
        self.changed.notify_waiters();
    }

    async fn wait(&self) -> &Result<Arc<[Position]>, AppendError> {
        loop {
            // Before the look: a notification between the two is not missed.
            let changed = self.changed.notified();
            if let Some(result) = self.result.get() {
                return result;
            }
            changed.await;
        }
    }
}

/// A record with the bytes that it was encoded to, where that was done when it was accepted.
pub(super) struct Pending {
    pub partition: PartitionId,
    pub record: Record,
    pub encoded: Option<Arc<[u8]>>,
}

/// A group that collects.
pub(super) struct OpenGroup {
    pub number: u64,
    pub records: Vec<Pending>,
    pub rows: Vec<Rows>,
    pub rejects: Vec<Vec<Reject>>,
    pub bytes: usize,
    pub opened: Instant,
    pub outcome: Arc<Outcome>,
}

struct State {
    groups: VecDeque<OpenGroup>,
    next_group: u64,
    /// Of the groups here and of the one that is being written.
    bytes: usize,
    pause: Option<AppendError>,
    closed: bool,
    nudged: bool,
    /// The thread waits: it has to be woken.
    waiting: bool,
}

pub(super) struct Intake {
    state: Mutex<State>,
    filled: Condvar,
    partitions: u16,
    queue_bytes: usize,
    group_bytes: usize,
    no_positions: Arc<[Position]>,
}

impl Intake {
    pub fn new(partitions: u16, next_group: u64, queue_bytes: usize, group_bytes: usize) -> Self {
        Self {
            state: Mutex::new(State {
                groups: VecDeque::new(),
                next_group,
                bytes: 0,
                pause: None,
                closed: false,
                nudged: false,
                waiting: false,
            }),
            filled: Condvar::new(),
            partitions,
            queue_bytes: queue_bytes.min(1 << 30),
            group_bytes,
            no_positions: Arc::new([]),
        }
    }

    pub fn append(&self, append: Append) -> Result<Ticket, AppendError> {
        let (size, encoded) = match &append {
            Append::Intake { rows, rejects } => (intake_size(rows, rejects), Vec::new()),
            Append::Consumed { rows, rejects, consumed } => {
                let places = consumed.iter().map(consumed_size).sum::<usize>();
                (intake_size(rows, rejects) + places, Vec::new())
            }
            Append::Records(records) => encode_rare(records)?,
        };
        self.check_partitions(&append)?;
        if size > MOST_AT_ONCE {
            return Err(AppendError::WriteFailed(format!(
                "{size} bytes at once, at most {MOST_AT_ONCE} are possible"
            )));
        }
        let mut state = lock(&self.state);
        let intake = matches!(append, Append::Intake { .. } | Append::Consumed { .. });
        if let Err(error) = state.accepts(intake, size, self.queue_bytes) {
            drop(state);
            metrics().log.refused.inc();
            return Err(error);
        }
        state.bytes += size;
        let group = self.open_group(&mut state, size);
        group.bytes += size;
        let (number, outcome) = (group.number, group.outcome.clone());
        let (append, consumed) = match append {
            Append::Consumed { rows, rejects, consumed } => (Append::Intake { rows, rejects }, consumed),
            append => (append, Vec::new()),
        };
        if !consumed.is_empty() {
            let record = Record::Consumed(consumed);
            group.records.push(Pending { partition: PartitionId(0), record, encoded: None });
        }
        let ticket = match append {
            Append::Consumed { rows, rejects, .. } | Append::Intake { rows, rejects } => {
                for (partition, batch) in rows {
                    group.rows[usize::from(partition.0)].append(&batch);
                }
                for (partition, reject) in rejects {
                    group.rejects[usize::from(partition.0)].push(reject);
                }
                let none = self.no_positions.clone();
                Ticket::new(number, async move {
                    outcome.wait().await.as_ref().map_err(Clone::clone).map(|_| none)
                })
            }
            Append::Records(records) => {
                let start = group.records.len();
                let count = records.len();
                let pending = records.into_iter().zip(encoded);
                group.records.extend(pending.map(|((partition, record), encoded)| Pending {
                    partition,
                    record,
                    encoded,
                }));
                Ticket::new(number, async move {
                    match outcome.wait().await {
                        Ok(positions) => Ok(positions.get(start..start + count).unwrap_or(&[]).into()),
                        Err(error) => Err(error.clone()),
                    }
                })
            }
        };
        let wake = state.waiting;
        drop(state);
        if wake {
            self.filled.notify_one();
        }
        Ok(ticket)
    }

    fn check_partitions(&self, append: &Append) -> Result<(), AppendError> {
        let known = |partition: &PartitionId| partition.0 < self.partitions;
        let fits = match append {
            Append::Intake { rows, rejects } | Append::Consumed { rows, rejects, .. } => {
                rows.iter().all(|(p, _)| known(p)) && rejects.iter().all(|(p, _)| known(p))
            }
            Append::Records(records) => records.iter().all(|(p, _)| known(p)),
        };
        let partitions = self.partitions;
        fits.then_some(())
            .ok_or_else(|| AppendError::WriteFailed(format!("there are only {partitions} partitions")))
    }

    fn open_group<'a>(&self, state: &'a mut State, size: usize) -> &'a mut OpenGroup {
        let fits =
            state.groups.back().is_some_and(|open| open.bytes == 0 || open.bytes + size <= self.group_bytes);
        if !fits {
            let group = self.new_group(state.next_group);
            state.groups.push_back(group);
            state.next_group += 1;
        }
        let last = state.groups.len() - 1;
        &mut state.groups[last]
    }

    fn new_group(&self, number: u64) -> OpenGroup {
        let partitions = usize::from(self.partitions);
        OpenGroup {
            number,
            records: Vec::new(),
            rows: vec![Rows::default(); partitions],
            rejects: vec![Vec::new(); partitions],
            bytes: 0,
            opened: Instant::now(),
            outcome: Arc::default(),
        }
    }

    /// Waits for the next group. `hold` says how long it may go on collecting; `gap` whether an empty one
    /// is due. `None`: closed, and nothing is left.
    pub fn take(&self, hold: impl Fn() -> Duration, gap: impl Fn() -> bool) -> Option<OpenGroup> {
        let mut state = lock(&self.state);
        let mut until: Option<Instant> = None;
        loop {
            let full = state.groups.len() > 1
                || state.closed
                || state.groups.front().is_some_and(|open| open.bytes >= self.group_bytes);
            let opened = state.groups.front().map(|open| open.opened);
            let wait = if let Some(opened) = opened {
                let until = *until.get_or_insert_with(|| opened + hold());
                let now = Instant::now();
                if full || now >= until {
                    return state.groups.pop_front();
                }
                until - now
            } else if state.closed {
                return None;
            } else if std::mem::take(&mut state.nudged) && gap() {
                let number = state.next_group;
                state.next_group += 1;
                return Some(self.new_group(number));
            } else {
                Duration::from_secs(1)
            };
            // While a group is held, appends need not wake the thread: only time or fullness ends it.
            state.waiting = until.is_none();
            state =
                self.filled.wait_timeout(state, wait).unwrap_or_else(std::sync::PoisonError::into_inner).0;
            state.waiting = false;
        }
    }

    /// The bytes of a group are written, or never will be.
    pub fn release(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.bytes = state.bytes.saturating_sub(bytes);
        metrics().log.queued.set(state.bytes as i64);
    }

    /// An empty group is due if there is a gap to be told.
    pub fn nudge(&self) {
        lock(&self.state).nudged = true;
        self.filled.notify_all();
    }

    /// From now on appends are refused for this reason; `None`: accepted.
    pub fn set_pause(&self, pause: Option<AppendError>) {
        let mut state = lock(&self.state);
        if state.pause != pause {
            match &pause {
                Some(reason) => tracing::warn!(%reason, "intake is paused"),
                None => tracing::info!("intake goes on"),
            }
            metrics().log.paused.set(pause.is_some().into());
            state.pause = pause;
        }
    }

    /// Whether nothing waits or is being written.
    pub fn is_idle(&self) -> bool {
        let state = lock(&self.state);
        state.bytes == 0 && state.groups.is_empty()
    }

    /// Accepts nothing any more.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.filled.notify_all();
    }

    /// Waits for `close`, or so long. Whether it is closed.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        let state = lock(&self.state);
        let waited = self.filled.wait_timeout_while(state, timeout, |state| !state.closed);
        waited.unwrap_or_else(std::sync::PoisonError::into_inner).0.closed
    }

    /// Everything that waits fails: it was never written.
    pub fn fail_all(&self, error: &AppendError) {
        let groups = std::mem::take(&mut lock(&self.state).groups);
        for group in groups {
            group.outcome.resolve(Err(error.clone()));
            self.release(group.bytes);
        }
    }

    /// The number of a group that closes the log.
    pub fn closing_group(&self) -> OpenGroup {
        let mut state = lock(&self.state);
        let number = state.next_group;
        state.next_group += 1;
        self.new_group(number)
    }
}

impl State {
    fn accepts(&self, intake: bool, size: usize, limit: usize) -> Result<(), AppendError> {
        if self.closed {
            return Err(AppendError::Closed);
        }
        match &self.pause {
            // The log's own records may use a part of the reserve: without them the engine stands still,
            // and nobody could delete what fills the disk.
            Some(AppendError::DiskFull) if !intake => {}
            Some(reason) => return Err(reason.clone()),
            None => {}
        }
        // What is larger than the whole queue passes when it is alone: whoever tries it again until there is
        // room must not do so for ever.
        if self.bytes > 0 && self.bytes + size > limit { Err(AppendError::Full) } else { Ok(()) }
    }
}

fn intake_size(rows: &[(PartitionId, Batch)], rejects: &[(PartitionId, Reject)]) -> usize {
    let rows: usize = rows.iter().map(|(_, batch)| batch.size()).sum();
    rows + rejects.iter().map(|(_, reject)| reject_size(reject)).sum::<usize>()
}

fn consumed_size(consumed: &Consumed) -> usize {
    consumed.source.len() + consumed.topic.len() + 64
}

fn reject_size(reject: &Reject) -> usize {
    reject.payload.len() + reject.reason.len() + reject.address.len() + 160
}

/// The size of records, and the bytes of those that are JSON: they are encoded and read back before they
/// are accepted, because a record that cannot be read would stop every reader for good.
fn encode_rare(records: &[(PartitionId, Record)]) -> Result<(usize, Vec<Option<Arc<[u8]>>>), AppendError> {
    let mut size = 0;
    let mut all: Vec<Option<Arc<[u8]>>> = Vec::with_capacity(records.len());
    for (place, (_, record)) in records.iter().enumerate() {
        let encoded = if is_json(record) {
            // A control record stands in every partition: encoded once.
            let before = place.checked_sub(1).filter(|&before| records[before].1 == *record);
            match before.and_then(|before| all[before].clone()) {
                Some(bytes) => Some(bytes),
                None => Some(encode_checked(record)?),
            }
        } else {
            None
        };
        size += match (&encoded, record) {
            (Some(bytes), _) => bytes.len() + 64,
            (None, Record::Readings { batch, .. }) => batch.size() + 256,
            (None, Record::Redo(redo)) => redo.batch.size() + 512,
            (None, Record::Rejects(rejects)) => rejects.iter().map(reject_size).sum(),
            (None, Record::Consumed(all)) => all.iter().map(consumed_size).sum(),
            (None, _) => 64,
        };
        all.push(encoded);
    }
    Ok((size, all))
}

fn encode_checked(record: &Record) -> Result<Arc<[u8]>, AppendError> {
    let mut bytes = Vec::new();
    let back = encode(record, &mut bytes).and_then(|()| decode(kind(record), &bytes));
    match back {
        Ok(back) if back == *record => Ok(bytes.into()),
        Ok(_) => Err(AppendError::WriteFailed("a record would be read back as another".into())),
        Err(error) => Err(AppendError::WriteFailed(error.to_string())),
    }
}
