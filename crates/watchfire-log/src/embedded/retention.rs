//! What may be removed: segments that every reader passed and that were kept for long enough.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use watchfire_model::{Offset, PartitionId, Timestamp};
use watchfire_telemetry::metrics;

use super::options::Detached;
use super::segment::Segment;
use super::{Shared, lock};
use crate::disk::Disk;

/// The reader that is never detached, and without which nothing is removed.
pub const ENGINE: &str = "engine";

/// As many detached readers are remembered.
const REMEMBERED: usize = 100;

/// Who still needs what.
#[derive(Default)]
pub(super) struct Needs {
    /// The next offset of each partition, by reader.
    cursors: BTreeMap<String, Vec<Offset>>,
    holds: BTreeMap<String, Vec<(PartitionId, Offset)>>,
    detached: Vec<Detached>,
}

/// The file that says which readers lost a part of the log: JSON, a list of [`Detached`].
const NOTE: &str = "DETACHED";

impl Needs {
    /// With what was noted in earlier lives of the log.
    pub fn restore(disk: &dyn Disk) -> Self {
        let mut needs = Self::default();
        let Ok(file) = disk.open(NOTE) else { return needs };
        let mut bytes = vec![0; file.length().unwrap_or_default() as usize];
        let read = file.read_at(0, &mut bytes).unwrap_or_default();
        match serde_json::from_slice(&bytes[..read]) {
            Ok(detached) => needs.detached = detached,
            Err(error) => {
                tracing::error!(%error, "{NOTE} cannot be read: which readers were detached is lost")
            }
        }
        metrics().log.detached_readers.set(needs.detached.len() as i64);
        needs
    }

    fn note(&self, disk: &dyn Disk) {
        metrics().log.detached_readers.set(self.detached.len() as i64);
        let text = serde_json::to_vec_pretty(&self.detached).unwrap_or_default();
        if let Err(error) = disk.replace(NOTE, &text) {
            tracing::error!(%error, "{NOTE} cannot be written: the next start does not know what was detached");
        }
    }

    pub fn set_cursor(&mut self, reader: &str, partition: PartitionId, next: Offset, first: &[Offset]) {
        let place = usize::from(partition.0);
        if !self.cursors.contains_key(reader) {
            // Partitions of which it did not speak yet are needed from the first record on.
            self.cursors.insert(reader.to_string(), first.to_vec());
        }
        if let Some(cursor) = self.cursors.get_mut(reader).and_then(|offsets| offsets.get_mut(place)) {
            *cursor = next;
        }
    }

    /// It is gone for good, and so is what is said of it.
    pub fn remove_cursor(&mut self, reader: &str, disk: &dyn Disk) {
        self.cursors.remove(reader);
        let before = self.detached.len();
        self.detached.retain(|detached| detached.name != reader);
        if self.detached.len() < before {
            self.note(disk);
        }
    }

    pub fn hold(&mut self, name: &str, partition: PartitionId, from: Offset) {
        let hold = self.holds.entry(name.to_string()).or_default();
        hold.retain(|(held, _)| *held != partition);
        hold.push((partition, from));
    }

    pub fn release(&mut self, name: &str) {
        self.holds.remove(name);
    }

    pub fn detached(&self) -> Vec<Detached> {
        self.detached.clone()
    }

    fn remember(&mut self, detached: Detached) {
        tracing::error!(
            reader = detached.name,
            bytes = detached.bytes,
            needed = ?detached.needed,
            "a reader holds more of the log than it may and is detached: it loses what is removed from now on"
        );
        metrics().log.detached.inc();
        if self.detached.len() == REMEMBERED {
            self.detached.remove(0);
        }
        self.detached.push(detached);
    }

    /// Detaches whoever keeps more than `limit` bytes of these segments.
    fn enforce(&mut self, segments: &[Arc<Segment>], limit: u64, now: Timestamp, disk: &dyn Disk) {
        let total: u64 = segments.iter().map(|segment| segment.end()).sum();
        let held = |needed: &[(PartitionId, Offset)]| {
            let mut passed = 0;
            for pair in segments.windows(2) {
                let needs = |(partition, next): &(PartitionId, Offset)| {
                    *next < pair[1].header.offsets[usize::from(partition.0)]
                };
                if needed.iter().any(needs) {
                    break;
                }
                passed += pair[0].end();
            }
            total - passed
        };
        let mut over = Vec::new();
        self.cursors.retain(|name, offsets| {
            let needed: Vec<_> = (0..).map(PartitionId).zip(offsets.iter().copied()).collect();
            let bytes = held(&needed);
            let keep = name == ENGINE || bytes <= limit;
            if !keep {
                over.push(Detached { name: name.clone(), needed, bytes, at: now });
            }
            keep
        });
        self.holds.retain(|name, needed| {
            let bytes = held(needed);
            if bytes > limit {
                over.push(Detached { name: name.clone(), needed: needed.clone(), bytes, at: now });
            }
            bytes <= limit
        });
        if !over.is_empty() {
            over.into_iter().for_each(|detached| self.remember(detached));
            // Before anything is removed: a crash in between must not leave a loss that nobody knows of.
            self.note(disk);
        }
    }

    /// Whether somebody needs a record before these offsets.
    fn needs_before(&self, offsets: &[Offset]) -> bool {
        let Some(engine) = self.cursors.get(ENGINE) else { return true };
        let before = |cursor: &[Offset]| cursor.iter().zip(offsets).any(|(next, offset)| next < offset);
        before(engine)
            || self.cursors.values().any(|cursor| before(cursor))
            || self
                .holds
                .values()
                .flatten()
                .any(|(partition, from)| offsets.get(usize::from(partition.0)).is_some_and(|o| from < o))
    }
}

impl Shared {
    /// Bytes that must be free for intake to go on once it was paused, and for the segment after that.
    fn enough(&self) -> u64 {
        let (reserve, segment) = (self.options.reserve_bytes, self.options.segment_bytes);
        reserve.saturating_add(reserve / 16).saturating_add(segment)
    }

    /// Removes the oldest segments, as many as may go. The segment that is written always stays.
    pub(super) fn retain(&self) -> std::io::Result<()> {
        let now = lock(&self.time).now();
        let segments = self.segments.all();
        let mut kept: u64 = segments.iter().map(|segment| segment.end()).sum();
        metrics().log.segments.set(segments.len() as i64);
        metrics().log.kept.set(kept as i64);
        if self.clock.boot().saturating_sub(self.opened) < self.options.retention_delay {
            return Ok(());
        }
        lock(&self.needs).enforce(&segments, self.options.reader_bytes, now, &*self.disk);
        for pair in segments.windows(2) {
            let (segment, next) = (&pair[0], &pair[1]);
            let newest = Timestamp(segment.appended_at.load(Ordering::Relaxed));
            let old = now.since(newest).to_std() >= self.options.retain_for;
            let large = kept > self.options.retain_bytes;
            // On a disk that is smaller than what is kept, intake would stand still until something is old.
            let scarce = || self.disk.free().is_ok_and(|free| free < self.enough());
            if !(old || large || scarce()) || lock(&self.needs).needs_before(&next.header.offsets) {
                break;
            }
            // First nobody finds it, then it goes. One by one: were two removals made durable together,
            // a crash could keep the older and lose the newer, and the log would have a hole.
            self.segments.remove_before(next.header.sequence);
            kept -= segment.end();
            self.disk.remove(&segment.name())?;
            self.disk.sync_directory()?;
            tracing::info!(segment = segment.name(), "a segment that nobody needs any more is removed");
        }
        Ok(())
    }
}
