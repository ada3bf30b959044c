//! Reads a lane, ahead of the writing, into chunks that are encoded already. What it holds is bounded however far the
//! service lags behind: a few chunks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use watchfire_log::{Log, LogError, Record};
use watchfire_model::device::Registries;
use watchfire_model::{Epoch, PartitionId, Timestamp};
use watchfire_store::{AlertRow, EventRow, Store, StoreError};

use crate::chunk::{Chunk, Content, Filter, Gap, Interests, NOT_KEPT, RESTORED, Takes};
use crate::contract::{Encoder, LaneId, Place};
use crate::status::Board;

/// A chunk on its way, with its bytes.
pub(crate) struct Parcel<E> {
    pub chunk: Chunk,
    pub encoded: E,
    /// When the log received the last record before its end.
    pub newest: Timestamp,
}

/// How large chunks become.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Values of readings, about; a transition counts as one.
    pub values: usize,
    /// Bytes of records.
    pub bytes: usize,
    /// How long a chunk waits for more once the lane is level: commits are costly, and nobody looks that often.
    pub linger: Duration,
}

impl Default for Sizes {
    /// 100 000 values make some MiB, which a server takes in a fraction of a second.
    fn default() -> Self {
        Self { values: 100_000, bytes: 8 << 20, linger: Duration::from_millis(200) }
    }
}

/// Records that are passed over without being taken before the cursor is moved all the same.
const PASSED: usize = 10_000;

/// And for how long.
const PASSED_FOR: Duration = Duration::from_secs(10);

/// Transitions that are read at once.
const TRANSITIONS: u32 = 500;

/// The chunks that wait for the writer, beside the one that is made and the one that is written.
pub(crate) const AHEAD: usize = 1;

/// Where the names of devices are looked up.
pub type Directory = Arc<dyn Fn() -> Arc<Registries> + Send + Sync>;

/// What ended a feed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    #[error("the log could not be read")]
    Log(#[from] LogError),
    #[error("the store could not be read")]
    Store(#[from] StoreError),
}

/// Reads a partition until told to stop, or until nobody takes its parcels. Blocks: it has a thread of its own.
pub(crate) struct PartitionFeed<E: Encoder> {
    pub log: Arc<dyn Log>,
    pub directory: Directory,
    pub partition: PartitionId,
    /// Where the service is; `None`: it has nothing yet.
    pub after: Option<Place>,
    /// A lane that begins does so with what comes now, not with what the log still holds.
    pub from_now: bool,
    pub takes: Takes,
    pub interests: Interests,
    pub sizes: Sizes,
    pub encoder: E,
    pub parcels: mpsc::Sender<Parcel<E::Encoded>>,
    pub board: Board,
    pub stop: CancellationToken,
}

impl<E: Encoder> PartitionFeed<E> {
    pub fn run(mut self) -> Result<(), FeedError> {
        lower_priority();
        let epoch = self.log.epoch();
        let (mut next, mut gap) = self.start(epoch)?;
        let mut first = self.after.is_none();
        let mut filter = Filter::new(self.takes.clone(), self.interests);
        // A lane that begins says so at once, so that nothing before its beginning is needed any more.
        let mut announce = first || gap.is_some();
        'again: loop {
            let mut reader = match self.log.reader(self.partition, next) {
                Err(LogError::Gone { first, .. }) => {
                    gap = Some(self.gone(epoch, gap, next, first));
                    (next, announce) = (first, true);
                    continue;
                }
                reader => reader?,
            };
            loop {
                let mut taken = Vec::new();
                let (mut values, mut bytes, mut passed) = (0, 0, 0);
                let (mut began, mut newest) = (Instant::now(), Timestamp(0));
                let registries = loop {
                    if self.stop.is_cancelled() || self.parcels.is_closed() {
                        return Ok(());
                    }
                    // Asked before reading: what is synced while we read wakes us at once.
                    let group = self.log.synced_group();
                    // Names are known before rows with them are appended.
                    match reader.next() {
                        Ok(Some(entry)) => {
                            if taken.is_empty() && passed == 0 {
                                began = Instant::now();
                            }
                            newest = entry.appended_at;
                            passed += 1;
                            let registries = (self.directory)();
                            if let Some(record) = filter.take(entry, &registries) {
                                if let Record::Readings { batch, .. } = &record.entry.record {
                                    bytes += batch.size();
                                    values += batch.columns.iter().map(|c| c.values.len()).sum::<usize>();
                                } else {
                                    values += 1;
                                    bytes += 1024;
                                }
                                taken.push(record);
                            }
                            let full = values >= self.sizes.values || bytes >= self.sizes.bytes;
                            if full || passed >= PASSED {
                                break registries;
                            }
                        }
                        Ok(None) => {
                            let linger = if taken.is_empty() { PASSED_FOR } else { self.sizes.linger };
                            let waited = began.elapsed();
                            if announce || (passed > 0 && waited >= linger) {
                                break (self.directory)();
                            }
                            if taken.is_empty() {
                                if passed > 0 {
                                    // A tick a second is nothing that a service lacks.
                                    let nothing = next..reader.offset();
                                    self.board.set(LaneId::Partition(self.partition), |lane| {
                                        lane.nothing = nothing
                                    });
                                }
                                self.log.wait_past(group, WAIT);
                            } else {
                                // What comes meanwhile is gathered in one go.
                                std::thread::sleep(linger.saturating_sub(waited).min(WAIT));
                            }
                        }
                        Err(LogError::Gone { first, .. }) if taken.is_empty() => {
                            next = reader.offset();
                            gap = Some(self.gone(epoch, gap, next, first));
                            (next, announce) = (first, true);
                            continue 'again;
                        }
                        // What was read is written first; the gap is met again behind it.
                        Err(LogError::Gone { .. }) => break (self.directory)(),
                        Err(error) => return Err(error.into()),
                    }
                };
                next = reader.offset();
                let chunk = Chunk {
                    lane: LaneId::Partition(self.partition),
                    to: Place { epoch, next },
                    gap: gap.take(),
                    first: std::mem::take(&mut first),
                    content: Content::Records(taken),
                    registries,
                };
                announce = false;
                let encoded = self.encoder.encode(&chunk);
                if self.parcels.blocking_send(Parcel { chunk, encoded, newest }).is_err() {
                    return Ok(());
                }
            }
        }
    }

    fn gone(&self, epoch: Epoch, before: Option<Gap>, next: u64, first: u64) -> Gap {
        let from = before.map_or(Place { epoch, next }, |gap| gap.from);
        let to = Place { epoch, next: first };
        tracing::error!(partition = %self.partition, from = from.next, to = first, "the log does not hold any more what this sink still needs");
        Gap { from, to, reason: NOT_KEPT }
    }

    /// Where reading begins. A restored log begins a new life at some offset: what the service holds from behind that
    /// offset belongs to a life that is lost, and is said so.
    fn start(&self, epoch: Epoch) -> Result<(u64, Option<Gap>), FeedError> {
        let (first, end) = self.log.range(self.partition);
        let Some(after) = self.after else {
            return Ok((if self.from_now { end } else { first }, None));
        };
        if after.epoch == epoch {
            return Ok((after.next, None));
        }
        let (mut low, mut high) = (first, end);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.log.reader(self.partition, middle)?.next()?;
            match entry {
                Some(entry) if entry.position.epoch <= after.epoch => low = middle + 1,
                _ => high = middle,
            }
        }
        let next = after.next.min(low);
        let gap = Gap { from: after, to: Place { epoch, next }, reason: RESTORED };
        Ok((next, Some(gap)))
    }
}

/// How long a thread waits before it looks whether it has to stop.
const WAIT: Duration = Duration::from_millis(200);

/// Reads transitions of alerts until told to stop.
pub(crate) struct AlertFeed<E: Encoder> {
    pub store: Store,
    pub epoch: Epoch,
    pub directory: Directory,
    pub after: Option<Place>,
    pub from_now: bool,
    pub takes: Takes,
    pub sizes: Sizes,
    pub encoder: E,
    pub parcels: mpsc::Sender<Parcel<E::Encoded>>,
    pub stop: CancellationToken,
}

impl<E: Encoder> AlertFeed<E> {
    pub async fn run(mut self) -> Result<(), FeedError> {
        let mut changed = self.store.subscribe();
        let mut first = self.after.is_none();
        let mut next = match self.after {
            // After a restore the store counts on from its copy: numbers may come again for something else. Ids do not,
            // so all is read again, and what is there already changes nothing.
            Some(after) if after.epoch != self.epoch => 0,
            Some(after) => after.next,
            None if self.from_now => (*changed.borrow() + 1).max(0) as u64,
            None => 0,
        };
        if first && self.from_now {
            // Said at once: the next start would otherwise begin at a later "now", and leave out what came between.
            let registries = (self.directory)();
            if !self.send(&mut first, next, Vec::new(), registries, Timestamp(0)).await {
                return Ok(());
            }
        }
        loop {
            changed.mark_unchanged();
            let last = i64::try_from(next).unwrap_or(i64::MAX) - 1;
            let events = self.store.events_after(last, TRANSITIONS).await?;
            let Some(newest) = events.last() else {
                tokio::select! {
                    () = self.stop.cancelled() => return Ok(()),
                    () = self.parcels.closed() => return Ok(()),
                    gone = changed.changed() => if gone.is_err() { return Ok(()) },
                }
                continue;
            };
            let full = events.len() == TRANSITIONS as usize;
            next = newest.sequence as u64 + 1;
            let newest = newest.recorded_at;
            let registries = (self.directory)();
            // Its row may be gone by retention while its transitions are not: there is nothing to say of it then.
            let ids = events.iter().map(|event| event.alert.as_str());
            let alerts = self.store.alert_rows(ids).await?;
            let taken: Vec<_> = events
                .into_iter()
                .filter_map(|event| {
                    let alert = alerts.get(&event.alert)?.clone();
                    self.takes.alerts_of(&alert.device, &registries).then_some((event, alert))
                })
                .collect();
            if !self.send(&mut first, next, taken, registries, newest).await {
                return Ok(());
            }
            if !full {
                tokio::select! {
                    () = self.stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(self.sizes.linger) => {}
                }
            }
        }
    }

    /// Whether somebody takes it.
    async fn send(
        &mut self,
        first: &mut bool,
        next: u64,
        transitions: Vec<(EventRow, Arc<AlertRow>)>,
        registries: Arc<Registries>,
        newest: Timestamp,
    ) -> bool {
        let chunk = Chunk {
            lane: LaneId::Alerts,
            to: Place { epoch: self.epoch, next },
            gap: None,
            first: std::mem::take(first),
            content: Content::Transitions(transitions),
            registries,
        };
        let encoded = self.encoder.encode(&chunk);
        self.parcels.send(Parcel { chunk, encoded, newest }).await.is_ok()
    }
}

/// Catching up must not delay the partition loop. On Linux the priority is of a thread, not of the process.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        let thread = rustix::thread::gettid();
        if let Err(error) = rustix::process::setpriority_process(Some(thread), 10) {
            tracing::debug!(%error, "the feed of a sink keeps its priority");
        }
    }
}
