//! The one thread that writes: takes a group, writes and syncs it, publishes it, resolves its tickets.
//!
//! One group is in flight at a time, and offsets are given when it is written, so they are dense. A group
//! whose write or sync failed is not given up: the file is left at its last synced byte and never written
//! again, and the group goes into a new segment, whose header voids what stands behind that byte. So a
//! ticket resolves as durable once, or stays open while the disk does not recover. Only when the log is
//! closed meanwhile does the ticket of that one group fail, with `WriteFailed`: a part of it may be on the
//! disk, and the next start may find it whole; it then stands in the log once, before everything later.
//! Groups behind it fail with `Closed`, and are in no file.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use watchfire_model::{Offset, PartitionId, Position, Timestamp};
use watchfire_telemetry::metrics;

use super::intake::{OpenGroup, Pending};
use super::segment::{Segment, file_name};
use super::tail::TailKeeper;
use super::{Shared, lock};
use crate::codec::CodecError;
use crate::codec::group::{GroupWriter, SEGMENT_HEADER, SegmentHeader, Share};
use crate::contract::AppendError;
use crate::record::{Entry, GapReason, Record};

/// Between two attempts to write a group on a disk that fails.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_SLOWEST: Duration = Duration::from_secs(2);

/// Where the log goes on.
pub(super) struct Continuation {
    /// Segment and byte behind the last synced group; `(u64::MAX, 0)`: there is none.
    pub end: (u64, u64),
    /// The next offset of each partition.
    pub next: Vec<Offset>,
    /// When the last group was appended.
    pub appended_at: Timestamp,
}

pub(super) struct Appender {
    shared: Arc<Shared>,
    at: Continuation,
    /// The segment that is written; `None`: the next group begins one.
    active: Option<Active>,
    tail: TailKeeper,
    /// A page for the header of a segment, then the group.
    buffer: Vec<u8>,
}

struct Active {
    segment: Arc<Segment>,
    length: u64,
}

impl Appender {
    pub fn new(shared: Arc<Shared>, at: Continuation) -> Self {
        let tail = TailKeeper::new(shared.options.tail_bytes);
        Self { shared, at, active: None, tail, buffer: Vec::new() }
    }

    /// Writes groups until the log is closed.
    pub fn run(mut self) {
        let shared = self.shared.clone();
        while let Some(group) = shared.intake.take(|| shared.hold(), || lock(&shared.time).has_gap()) {
            if !self.write(group) {
                shared.intake.fail_all(&AppendError::Closed);
                return;
            }
        }
        // An empty group proves that everything before it was synced.
        let closing = shared.intake.closing_group();
        self.write(closing);
    }

    /// Writes a group. `false`: the log was closed before that was possible.
    fn write(&mut self, group: OpenGroup) -> bool {
        let OpenGroup { number, records, rows, rejects, bytes, opened, outcome } = group;
        let (appended_at, gap) = lock(&self.shared.time).stamp();
        let appended_at = appended_at.max(self.at.appended_at);
        self.shared.apply_pause();
        let asked = records.len();
        let mut all: Vec<Pending> = Vec::with_capacity(asked + 2 * rows.len());
        if let Some(gap) = gap {
            let record = Record::Gap { from: gap.from, to: gap.to, reason: gap.reason };
            all.extend((0..self.shared.partitions).map(|partition| Pending {
                partition: PartitionId(partition),
                record: record.clone(),
                encoded: None,
            }));
        }
        let first_asked = all.len();
        all.extend(records);
        let partitions = || (0..self.shared.partitions).map(PartitionId);
        for (partition, rows) in partitions().zip(rows) {
            for batch in rows.finish() {
                let record = Record::Readings {
                    stream: self.shared.readings.clone(),
                    origin: None,
                    batch: Arc::new(batch),
                };
                all.push(Pending { partition, record, encoded: None });
            }
        }
        for (partition, rejects) in partitions().zip(rejects).filter(|(_, rejects)| !rejects.is_empty()) {
            all.push(Pending { partition, record: Record::Rejects(rejects), encoded: None });
        }
        let sizes = match self.encode(&all, number, appended_at) {
            Ok(sizes) => sizes,
            Err(error) => {
                // Nothing that was accepted gets here: what could fail was tried before. An empty group
                // keeps the count of groups without holes.
                tracing::error!(%error, group = number, "a group could not be encoded");
                outcome.resolve(Err(AppendError::WriteFailed(error.to_string())));
                all.clear();
                match self.encode(&all, number, appended_at) {
                    Ok(sizes) => sizes,
                    Err(_) => return false,
                }
            }
        };
        if let Err(error) = self.put(appended_at, number) {
            outcome.resolve(Err(AppendError::WriteFailed(error)));
            self.shared.intake.release(bytes);
            return false;
        }
        let mut positions: Vec<Position> = Vec::with_capacity(asked);
        let mut published = Vec::with_capacity(all.len());
        for (place, (pending, size)) in all.into_iter().zip(sizes).enumerate() {
            let next = &mut self.at.next[usize::from(pending.partition.0)];
            let position = Position { epoch: self.shared.epoch, partition: pending.partition, offset: *next };
            *next += 1;
            if (first_asked..first_asked + asked).contains(&place) {
                positions.push(position);
            }
            published.push((Arc::new(Entry { position, appended_at, record: pending.record }), size));
        }
        let log = &metrics().log;
        log.groups.inc();
        log.records.inc_by(published.len() as u64);
        log.bytes.inc_by((self.buffer.len() - SEGMENT_HEADER) as u64);
        log.append_wait.observe(opened.elapsed().as_secs_f64());
        self.tail.push(&self.shared.tail, published);
        self.shared.publish(number);
        outcome.resolve(Ok(positions.into()));
        self.shared.intake.release(bytes);
        true
    }

    /// The group as bytes, behind room for the header of a segment. Gives the size of each record.
    fn encode(&mut self, all: &[Pending], number: u64, at: Timestamp) -> Result<Vec<usize>, CodecError> {
        let mut counts = vec![0_u32; self.at.next.len()];
        for pending in all {
            counts[usize::from(pending.partition.0)] += 1;
        }
        let shares: Vec<Share> = (0..self.shared.partitions)
            .map(PartitionId)
            .zip(counts.iter().zip(&self.at.next))
            .filter(|(_, (count, _))| **count > 0)
            .map(|(partition, (&count, &first))| Share { partition, count, first })
            .collect();
        self.buffer.clear();
        self.buffer.resize(SEGMENT_HEADER, 0);
        let mut sizes = Vec::with_capacity(all.len());
        let mut writer = GroupWriter::new(&mut self.buffer, shares.len());
        for pending in all {
            let size = writer.record(pending.partition, &pending.record, pending.encoded.as_deref())?;
            // What it takes in memory is near to what it takes on the disk.
            sizes.push(size + 128);
        }
        writer.finish(self.shared.log, number, self.at.end, at, self.shared.epoch, &shares)?;
        Ok(sizes)
    }

    /// Writes and syncs what is in the buffer; tries until it succeeds or the log is closed.
    fn put(&mut self, appended_at: Timestamp, number: u64) -> Result<(), String> {
        let mut wait = RETRY;
        let mut failures = 0_u32;
        loop {
            match self.try_put(appended_at, number) {
                Ok(()) => {
                    if lock(&self.shared.time).resume(GapReason::WriteFailed) {
                        self.shared.apply_pause();
                        self.shared.intake.nudge();
                    }
                    return Ok(());
                }
                Err(error) => {
                    metrics().log.write_failures.inc();
                    tracing::error!(%error, group = number, "a group could not be written; it goes into a new segment");
                    let full = error.kind() == std::io::ErrorKind::StorageFull;
                    let text = error.to_string();
                    failures += 1;
                    // The first failure may be of one file: a new one is tried at once.
                    if failures == 1 && !full {
                        continue;
                    }
                    let (reason, pause) = if full {
                        (GapReason::DiskFull, AppendError::DiskFull)
                    } else {
                        (GapReason::WriteFailed, AppendError::WriteFailed(text.clone()))
                    };
                    lock(&self.shared.time).pause(reason, pause);
                    self.shared.apply_pause();
                    if self.shared.intake.wait_closed(wait) {
                        return Err(text);
                    }
                    wait = (wait * 2).min(RETRY_SLOWEST);
                }
            }
        }
    }

    fn try_put(&mut self, appended_at: Timestamp, number: u64) -> std::io::Result<()> {
        let length = (self.buffer.len() - SEGMENT_HEADER) as u64;
        if let Some(active) = &self.active {
            let at = active.segment.end();
            if at + length <= active.length {
                let file = &active.segment.file;
                let done = file.write_at(at, &self.buffer[SEGMENT_HEADER..]).and_then(|()| sync(&**file));
                if let Err(error) = done {
                    // Never trusted again: what of this group is in it is void.
                    self.active = None;
                    return Err(error);
                }
                active.segment.appended_at.store(appended_at.0, Ordering::Relaxed);
                active.segment.end.store(at + length, Ordering::Release);
                self.advance(appended_at, at + length, active.segment.header.sequence);
                return Ok(());
            }
        }
        self.begin_segment(appended_at, number, length)
    }

    fn begin_segment(&mut self, appended_at: Timestamp, number: u64, length: u64) -> std::io::Result<()> {
        let needed = SEGMENT_HEADER as u64 + length;
        let (sequence, file, size) = self.shared.next_file(needed)?;
        let header = SegmentHeader {
            log: self.shared.log,
            sequence,
            previous: self.at.end.0,
            previous_end: self.at.end.1,
            first_group: number,
            appended_before: self.at.appended_at,
            offsets: self.at.next.clone().into(),
        };
        self.buffer[..SEGMENT_HEADER].copy_from_slice(&header.encode());
        if let Err(error) = file.write_at(0, &self.buffer).and_then(|()| sync(&*file)) {
            // It has nothing that anybody was told of. If it stays, the next header voids it.
            let _ = self.shared.disk.remove(&file_name(sequence));
            return Err(error);
        }
        let segment = Arc::new(Segment::new(header, file, needed, appended_at));
        self.shared.segments.push(segment.clone());
        self.active = Some(Active { segment, length: size });
        self.advance(appended_at, needed, sequence);
        self.shared.wake_keeper();
        Ok(())
    }

    fn advance(&mut self, appended_at: Timestamp, end: u64, sequence: u64) {
        self.at.end = (sequence, end);
        self.at.appended_at = appended_at;
    }
}

fn sync(file: &dyn crate::disk::DiskFile) -> std::io::Result<()> {
    let began = Instant::now();
    let outcome = file.sync_data();
    metrics().log.sync.observe(began.elapsed().as_secs_f64());
    outcome
}
