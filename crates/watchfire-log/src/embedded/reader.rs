//! Readers: from memory while they are level, from the segments while they are not.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use watchfire_model::{Offset, PartitionId, Position};
use watchfire_telemetry::metrics;

use super::segment::{Step, Walk};
use super::tail::Place;
use super::{Shared, lock};
use crate::contract::{LogError, LogReader};
use crate::record::Entry;

/// How far a reader is: what the appender looks at.
pub(super) struct Progress {
    pub partition: PartitionId,
    pub offset: AtomicU64,
    /// What the appender saw last, and when it last saw it move (milliseconds).
    pub seen: AtomicU64,
    pub moved: AtomicU64,
}

pub(super) struct Reader {
    shared: Arc<Shared>,
    partition: PartitionId,
    next: Offset,
    /// Of one that sets the pace.
    progress: Option<Arc<Progress>>,
    disk: Option<FromDisk>,
}

struct FromDisk {
    walk: Walk,
    /// Records of this partition of the group that was read last.
    ready: VecDeque<Arc<Entry>>,
}

impl Reader {
    pub fn new(shared: Arc<Shared>, partition: PartitionId, from: Offset) -> Self {
        Self { shared, partition, next: from, progress: None, disk: None }
    }

    /// Groups are held while it lags.
    pub fn setting_the_pace(mut self) -> Self {
        let progress = Arc::new(Progress {
            partition: self.partition,
            offset: AtomicU64::new(self.next),
            seen: AtomicU64::new(self.next),
            moved: AtomicU64::new(0),
        });
        lock(&self.shared.readers).push(Arc::downgrade(&progress));
        self.progress = Some(progress);
        self
    }

    fn gone(&self) -> LogError {
        let first = self.shared.first(self.partition);
        LogError::Gone { partition: self.partition, wanted: self.next, first }
    }

    fn read_disk(&mut self) -> Result<Option<Arc<Entry>>, LogError> {
        let mut disk = match self.disk.take() {
            Some(disk) => disk,
            None => {
                if self.next < self.shared.first(self.partition) {
                    return Err(self.gone());
                }
                match self.shared.segments.walk(self.partition, self.next)? {
                    Some(walk) => FromDisk { walk, ready: VecDeque::new() },
                    None => return Err(self.gone()),
                }
            }
        };
        loop {
            if let Some(entry) = disk.ready.pop_front() {
                if entry.position.offset < self.next {
                    continue;
                }
                if entry.position.offset != self.next {
                    return Err(disk.walk.segment.corrupt(disk.walk.at(), "records are missing before here"));
                }
                self.disk = Some(disk);
                return Ok(Some(entry));
            }
            let header = match disk.walk.step(&self.shared.segments)? {
                Step::Group(header) => header,
                Step::Level => return Ok(None),
                Step::Gone => return Err(self.gone()),
            };
            let wanted = header
                .share(self.partition)
                .is_some_and(|share| share.first + u64::from(share.count) > self.next);
            if wanted {
                let entries = self.shared.entries(&mut disk.walk, &header)?;
                let own = entries.iter().filter(|entry| entry.position.partition == self.partition);
                disk.ready.extend(own.cloned());
            }
            disk.walk.pass(&header);
        }
    }
}

impl LogReader for Reader {
    fn next(&mut self) -> Result<Option<Arc<Entry>>, LogError> {
        let entry = match self.shared.tail.get(self.partition, self.next) {
            Place::Here(entry) => {
                self.disk = None;
                Some(entry)
            }
            Place::Level => None,
            Place::Earlier => self.read_disk()?,
        };
        if entry.is_some() {
            self.next += 1;
            if let Some(progress) = &self.progress {
                progress.offset.store(self.next, Ordering::Relaxed);
            }
        }
        Ok(entry)
    }

    fn offset(&self) -> Offset {
        self.next
    }
}

/// Everything in the order in which it was written.
pub(super) struct Scan {
    shared: Arc<Shared>,
    from: Position,
    walk: Option<Walk>,
    begun: bool,
    ready: VecDeque<Arc<Entry>>,
}

impl Scan {
    pub fn new(shared: Arc<Shared>, from: Position) -> Result<Self, LogError> {
        let first = shared.first(from.partition);
        if from.offset < first {
            return Err(LogError::Gone { partition: from.partition, wanted: from.offset, first });
        }
        let walk = shared.segments.walk(from.partition, from.offset)?;
        Ok(Self { shared, from, walk, begun: false, ready: VecDeque::new() })
    }

    fn advance(&mut self) -> Result<Option<Arc<Entry>>, LogError> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Ok(Some(entry));
            }
            let Some(walk) = &mut self.walk else { return Ok(None) };
            let header = match walk.step(&self.shared.segments)? {
                Step::Group(header) => header,
                Step::Level => return Ok(None),
                Step::Gone => {
                    let (partition, wanted) = (self.from.partition, self.from.offset);
                    return Err(LogError::Gone { partition, wanted, first: self.shared.first(partition) });
                }
            };
            self.begun = self.begun
                || header
                    .share(self.from.partition)
                    .is_some_and(|share| share.first + u64::from(share.count) > self.from.offset);
            if self.begun {
                self.ready.extend(self.shared.entries(walk, &header)?.iter().cloned());
            }
            walk.pass(&header);
        }
    }
}

impl Iterator for Scan {
    type Item = Result<Arc<Entry>, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.advance().transpose();
        if matches!(item, Some(Err(_))) {
            self.walk = None;
        }
        item
    }
}

/// Groups read from the disk lately: readers of several partitions that catch up together read each group
/// once.
#[derive(Default)]
pub(super) struct Recent {
    groups: VecDeque<(u64, usize, Arc<[Arc<Entry>]>)>,
    bytes: usize,
}

const RECENT_BYTES: usize = 16 << 20;

impl Shared {
    fn entries(
        &self,
        walk: &mut Walk,
        header: &crate::codec::group::GroupHeader,
    ) -> Result<Arc<[Arc<Entry>]>, LogError> {
        if let Some((_, _, entries)) = lock(&self.recent).groups.iter().find(|(g, _, _)| *g == header.group) {
            return Ok(entries.clone());
        }
        metrics().log.disk_reads.inc();
        self.disk_reads.fetch_add(1, Ordering::Relaxed);
        let entries: Arc<[Arc<Entry>]> = walk.entries(header)?.into();
        let mut recent = lock(&self.recent);
        recent.groups.push_back((header.group, header.length(), entries.clone()));
        recent.bytes += header.length();
        while recent.bytes > RECENT_BYTES {
            let Some((_, bytes, _)) = recent.groups.pop_front() else { break };
            recent.bytes -= bytes;
        }
        Ok(entries)
    }
}
