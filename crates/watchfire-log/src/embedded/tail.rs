//! The newest records in memory, for readers that are level: they never touch the disk.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use watchfire_model::{Offset, PartitionId};

use super::lock;
use crate::record::Entry;

/// The newest synced records of each partition.
pub(super) struct Tail {
    partitions: Vec<Mutex<Part>>,
}

struct Part {
    /// The offset of the first entry here.
    first: Offset,
    entries: VecDeque<Arc<Entry>>,
}

/// Where an offset is.
pub(super) enum Place {
    Here(Arc<Entry>),
    /// Not synced yet, or never written.
    Level,
    /// Only on the disk.
    Earlier,
}

impl Tail {
    pub fn new(next: &[Offset]) -> Self {
        let part = |&first: &Offset| Mutex::new(Part { first, entries: VecDeque::new() });
        Self { partitions: next.iter().map(part).collect() }
    }

    fn part(&self, partition: PartitionId) -> &Mutex<Part> {
        &self.partitions[usize::from(partition.0)]
    }

    pub fn get(&self, partition: PartitionId, offset: Offset) -> Place {
        let part = lock(self.part(partition));
        match offset.checked_sub(part.first) {
            None => Place::Earlier,
            Some(place) => part.entries.get(place as usize).map_or(Place::Level, |e| Place::Here(e.clone())),
        }
    }

    /// The offset of the first record in memory, and the one behind the last.
    pub fn range(&self, partition: PartitionId) -> (Offset, Offset) {
        let part = lock(self.part(partition));
        (part.first, part.first + part.entries.len() as u64)
    }
}

/// What only the appender does with the tail: it grows at one end and is cut at the other, oldest first.
pub(super) struct TailKeeper {
    order: VecDeque<(PartitionId, usize)>,
    bytes: usize,
    limit: usize,
}

impl TailKeeper {
    pub fn new(limit: usize) -> Self {
        Self { order: VecDeque::new(), bytes: 0, limit }
    }

    /// Publishes records of a group, with the bytes that each takes.
    pub fn push(&mut self, tail: &Tail, entries: Vec<(Arc<Entry>, usize)>) {
        for (entry, bytes) in entries {
            let partition = entry.position.partition;
            self.order.push_back((partition, bytes));
            self.bytes += bytes;
            lock(tail.part(partition)).entries.push_back(entry);
        }
        while self.bytes > self.limit {
            let Some((partition, bytes)) = self.order.pop_front() else { break };
            self.bytes -= bytes;
            let mut part = lock(tail.part(partition));
            part.first += 1;
            let oldest = part.entries.pop_front();
            drop(part);
            // Freed without the lock.
            drop(oldest);
        }
    }
}
