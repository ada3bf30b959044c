//! The thread beside the appender: what must not make a group wait. It sets the next segment aside, cuts
//! sealed ones to their length, removes old ones, and looks after disk space and clock.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use watchfire_model::PartitionId;
use watchfire_telemetry::metrics;

use super::segment::file_name;
use super::{Shared, lock};
use crate::contract::{Append, AppendError};
use crate::disk::DiskFile;
use crate::record::{GapReason, Record};

const PERIOD: Duration = Duration::from_millis(100);

/// The file that the next segment will be.
pub(super) struct Prepared {
    pub next_sequence: u64,
    pub file: Option<(u64, Arc<dyn DiskFile>)>,
}

pub(super) fn run(shared: &Arc<Shared>) {
    let mut cut = HashSet::new();
    while !shared.wait_keeper(PERIOD) {
        shared.keep(&mut cut);
    }
}

impl Shared {
    fn keep(&self, cut: &mut HashSet<u64>) {
        self.watch_clock();
        self.watch_space();
        self.beat();
        self.cut_sealed(cut);
        if let Err(error) = self.retain() {
            tracing::warn!(%error, "an old segment could not be removed");
        }
    }

    fn watch_clock(&self) {
        let resumed = {
            let mut time = lock(&self.time);
            time.now();
            time.settle()
        };
        self.apply_pause();
        if resumed {
            self.intake.nudge();
        }
    }

    /// Writes down that time passed, where nothing else did. The tick stands in one partition alone: it is the time
    /// of its group that a start looks at.
    fn beat(&self) {
        let written = Duration::from_micros(self.written.load(Ordering::Relaxed));
        if self.clock.boot().saturating_sub(written) >= self.options.heartbeat
            && lock(&self.time).paused().is_none()
            && self.intake.is_idle()
        {
            // Who refuses it has something to write or says why it cannot.
            let _ = self.intake.append(Append::Records(vec![(PartitionId(0), Record::Tick)]));
        }
    }

    /// Sets the next segment aside while there is room above the reserve, and pauses intake before the
    /// reserve is touched: what was accepted already fits into the segments there are.
    fn watch_space(&self) {
        let Ok(free) = self.disk.free() else { return };
        metrics().log.free.set(free.min(i64::MAX as u64) as i64);
        let (reserve, segment) = (self.options.reserve_bytes, self.options.segment_bytes);
        let mut left = free;
        let mut prepared = lock(&self.prepared);
        if prepared.file.is_none() && free >= reserve.saturating_add(segment) {
            match self.create(&mut prepared, segment) {
                Ok(created) => {
                    prepared.file = Some(created);
                    left = free - segment;
                }
                Err(error) => tracing::warn!(%error, "the next segment could not be set aside"),
            }
        }
        let ready = prepared.file.is_some();
        drop(prepared);
        let low = left < reserve || (!ready && free < reserve.saturating_add(segment));
        // A little more than what paused it, lest it comes and goes.
        let enough = ready && left >= reserve.saturating_add(reserve / 16);
        if low {
            lock(&self.time).pause(GapReason::DiskFull, AppendError::DiskFull);
        } else if enough && lock(&self.time).resume(GapReason::DiskFull) {
            self.intake.nudge();
        }
        self.apply_pause();
    }

    fn create(&self, prepared: &mut Prepared, bytes: u64) -> std::io::Result<(u64, Arc<dyn DiskFile>)> {
        let sequence = prepared.next_sequence;
        // A number is used once, also where making the file fails half-way.
        prepared.next_sequence += 1;
        let file = self.disk.create(&file_name(sequence), bytes)?;
        self.disk.sync_directory()?;
        Ok((sequence, file))
    }

    /// The file for a segment that holds so many bytes at least, and how long it is.
    pub(super) fn next_file(&self, needed: u64) -> std::io::Result<(u64, Arc<dyn DiskFile>, u64)> {
        let size = self.options.segment_bytes;
        let mut prepared = lock(&self.prepared);
        if needed <= size
            && let Some((sequence, file)) = prepared.file.take()
        {
            return Ok((sequence, file, size));
        }
        let size = size.max(needed);
        if self.disk.free()? < size.saturating_add(self.options.reserve_bytes / 2) {
            return Err(std::io::Error::new(std::io::ErrorKind::StorageFull, "only the reserve is left"));
        }
        if let Some((sequence, _)) = prepared.file.take() {
            // Too small for this group, and of a lower number than what comes now.
            self.disk.remove(&file_name(sequence))?;
        }
        let (sequence, file) = self.create(&mut prepared, size)?;
        Ok((sequence, file, size))
    }

    /// Gives back what sealed segments do not use. Their successor was synced: it says where they end.
    fn cut_sealed(&self, cut: &mut HashSet<u64>) {
        let segments = self.segments.all();
        let Some((_, sealed)) = segments.split_last() else { return };
        for segment in sealed {
            if cut.insert(segment.header.sequence)
                && segment.file.length().is_ok_and(|length| length > segment.end())
                && let Err(error) = segment.file.truncate(segment.end())
            {
                tracing::warn!(%error, segment = segment.name(), "a sealed segment could not be cut");
            }
        }
    }
}
