//! What may be removed: segments that every reader passed and that were kept for long enough.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use watchfire_model::{Offset, PartitionId, Timestamp};
use watchfire_telemetry::metrics;

use super::options::Detached;
use super::segment::Segment;
use super::{Shared, lock};

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

impl Needs {
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

    pub fn remove_cursor(&mut self, reader: &str) {
        self.cursors.remove(reader);
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
        tracing::warn!(
            reader = detached.name,
            bytes = detached.bytes,
            "a reader holds more of the log than it may and is detached"
        );
        metrics().log.detached.inc();
        if self.detached.len() == REMEMBERED {
            self.detached.remove(0);
        }
        self.detached.push(detached);
    }

    /// Detaches whoever keeps more than `limit` bytes of these segments.
    fn enforce(&mut self, segments: &[Arc<Segment>], limit: u64, now: Timestamp) {
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
        over.into_iter().for_each(|detached| self.remember(detached));
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
        lock(&self.needs).enforce(&segments, self.options.reader_bytes, now);
        for pair in segments.windows(2) {
            let (segment, next) = (&pair[0], &pair[1]);
            let newest = Timestamp(segment.appended_at.load(Ordering::Relaxed));
            let old = now.since(newest).to_std() >= self.options.retain_for;
            let large = kept > self.options.retain_bytes;
            if !(old || large) || lock(&self.needs).needs_before(&next.header.offsets) {
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
