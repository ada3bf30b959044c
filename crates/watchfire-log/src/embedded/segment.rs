//! The segments that are kept, and walks over their groups.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use watchfire_model::{Offset, PartitionId, Timestamp};

use super::{lock, read, write};
use crate::codec::group::{ALIGN, GROUP_HEADER, GroupHeader, SEGMENT_HEADER, SegmentHeader};
use crate::contract::LogError;
use crate::disk::DiskFile;
use crate::record::Entry;

/// The distance of two places that the index of a segment remembers.
const INDEX_STEP: u64 = 64 << 10;
/// How much a walk reads ahead.
const WINDOW: u64 = 64 << 10;

/// The file name of a segment.
pub(crate) fn file_name(sequence: u64) -> String {
    format!("segment-{sequence:012}.wal")
}

/// The sequence of a segment by its file name.
pub(crate) fn sequence_of(name: &str) -> Option<u64> {
    name.strip_prefix("segment-")?.strip_suffix(".wal")?.parse().ok()
}

/// A segment with at least one synced group.
pub(crate) struct Segment {
    pub header: SegmentHeader,
    pub file: Arc<dyn DiskFile>,
    /// The byte behind its last synced group. Grows while it is written.
    pub end: AtomicU64,
    /// The time of its last group.
    pub appended_at: AtomicI64,
    index: Mutex<Index>,
}

/// Places to begin a walk at: a byte, and the next offset of each partition there.
#[derive(Default)]
struct Index {
    places: Vec<(u64, Box<[Offset]>)>,
    /// Up to which byte the segment was looked at.
    known: u64,
}

impl Segment {
    /// A segment that ends here.
    pub fn new(header: SegmentHeader, file: Arc<dyn DiskFile>, end: u64, appended_at: Timestamp) -> Self {
        let first = (SEGMENT_HEADER as u64, header.offsets.clone());
        let index = Index { places: vec![first], known: SEGMENT_HEADER as u64 };
        Self {
            header,
            file,
            end: AtomicU64::new(end),
            appended_at: AtomicI64::new(appended_at.0),
            index: Mutex::new(index),
        }
    }

    pub fn name(&self) -> String {
        file_name(self.header.sequence)
    }

    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub fn corrupt(&self, at: u64, what: impl ToString) -> LogError {
        LogError::Corrupt { file: self.name(), at, what: what.to_string() }
    }

    /// A byte at or before the group that holds an offset, and the start of a group.
    fn place(self: &Arc<Self>, partition: PartitionId, offset: Offset) -> Result<u64, LogError> {
        let mut index = lock(&self.index);
        let end = self.end();
        if index.known < end {
            // The headers alone, once: what comes later in the segment is looked at from here on.
            let mut offsets = match index.places.last() {
                Some((byte, offsets)) if *byte == index.known => offsets.clone(),
                _ => {
                    index.places.truncate(1);
                    index.known = SEGMENT_HEADER as u64;
                    self.header.offsets.clone()
                }
            };
            let mut window = Window::default();
            let mut at = index.known;
            while at < end {
                let header = window.header(self, at, end)?;
                if at >= index.places.last().map_or(0, |(byte, _)| byte + INDEX_STEP) {
                    index.places.push((at, offsets.clone()));
                }
                for share in &header.shares {
                    if let Some(next) = offsets.get_mut(usize::from(share.partition.0)) {
                        if *next != share.first {
                            return Err(self.corrupt(at, "another group stands here"));
                        }
                        *next = share.first + u64::from(share.count);
                    }
                }
                at += header.length() as u64;
            }
            index.places.push((at, offsets));
            index.known = at;
        }
        let wanted = usize::from(partition.0);
        let after = index.places.partition_point(|(_, offsets)| offsets[wanted] <= offset);
        // A place at the very end is where the next group will be: one before it has the record.
        Ok(index.places[after.saturating_sub(1)].0)
    }
}

/// All segments, in order.
#[derive(Default)]
pub(crate) struct Segments {
    list: RwLock<Vec<Arc<Segment>>>,
}

impl Segments {
    pub fn new(list: Vec<Arc<Segment>>) -> Self {
        Self { list: RwLock::new(list) }
    }

    pub fn push(&self, segment: Arc<Segment>) {
        write(&self.list).push(segment);
    }

    pub fn all(&self) -> Vec<Arc<Segment>> {
        read(&self.list).clone()
    }

    /// Forgets those before this sequence.
    pub fn remove_before(&self, sequence: u64) {
        write(&self.list).retain(|segment| segment.header.sequence >= sequence);
    }

    /// The first offset of a partition that is kept.
    pub fn first(&self, partition: PartitionId) -> Option<Offset> {
        read(&self.list).first().map(|segment| segment.header.offsets[usize::from(partition.0)])
    }

    fn after(&self, sequence: u64) -> Option<Arc<Segment>> {
        read(&self.list).iter().find(|segment| segment.header.sequence > sequence).cloned()
    }

    /// A walk that begins at or before the group that holds an offset. `None`: it is not kept any more, or
    /// there is nothing at all.
    pub fn walk(&self, partition: PartitionId, offset: Offset) -> Result<Option<Walk>, LogError> {
        let segment = {
            let list = read(&self.list);
            let after =
                list.partition_point(|segment| segment.header.offsets[usize::from(partition.0)] <= offset);
            match after.checked_sub(1).and_then(|place| list.get(place)) {
                Some(segment) => segment.clone(),
                None => return Ok(None),
            }
        };
        let at = segment.place(partition, offset)?;
        Ok(Some(Walk::new(segment, at)))
    }

    /// A walk over everything.
    pub fn walk_all(&self) -> Option<Walk> {
        let segment = read(&self.list).first().cloned()?;
        Some(Walk::new(segment, SEGMENT_HEADER as u64))
    }
}

/// Where a walk stopped.
pub(crate) enum Step {
    /// At a group.
    Group(GroupHeader),
    /// Behind the last synced one.
    Level,
    /// The segment that follows was removed meanwhile.
    Gone,
}

/// Goes from group to group.
pub(crate) struct Walk {
    pub segment: Arc<Segment>,
    at: u64,
    /// The number of the group here; `None`: it begins within a segment and has met none.
    group: Option<u64>,
    window: Window,
}

impl Walk {
    fn new(segment: Arc<Segment>, at: u64) -> Self {
        let group = (at == SEGMENT_HEADER as u64).then_some(segment.header.first_group);
        Self { segment, at, group, window: Window::default() }
    }

    /// The byte at which it stands.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The group here.
    pub fn step(&mut self, segments: &Segments) -> Result<Step, LogError> {
        loop {
            let end = self.segment.end();
            if self.at < end {
                let header = self.window.header(&self.segment, self.at, end)?;
                // A disk may give a whole group from elsewhere: its checksums fit, its place does not.
                if self.group.is_some_and(|group| group != header.group) {
                    return Err(self.segment.corrupt(self.at, "another group stands here"));
                }
                return Ok(Step::Group(header));
            }
            let Some(next) = segments.after(self.segment.header.sequence) else { return Ok(Step::Level) };
            // A group may have been written between the two looks; now that a later segment is there,
            // this one grows no more.
            if self.at < self.segment.end() {
                continue;
            }
            if next.header.previous != self.segment.header.sequence {
                return Ok(Step::Gone);
            }
            *self = Self::new(next, SEGMENT_HEADER as u64);
        }
    }

    /// The records of the group here.
    pub fn entries(&mut self, header: &GroupHeader) -> Result<Vec<Arc<Entry>>, LogError> {
        let end = self.segment.end();
        let bytes = self.window.bytes(&self.segment, self.at, header.length() as u64, end)?;
        header.entries(bytes).map_err(|error| self.segment.corrupt(self.at, error))
    }

    /// Goes behind the group here.
    pub fn pass(&mut self, header: &GroupHeader) {
        self.at += header.length() as u64;
        self.group = Some(header.group.wrapping_add(1));
    }
}

/// What of a segment was read last.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn header(&mut self, segment: &Segment, at: u64, end: u64) -> Result<GroupHeader, LogError> {
        let short = |what| segment.corrupt(at, what);
        let begin = self.bytes(segment, at, (GROUP_HEADER as u64).min(end - at), end)?;
        let length = GroupHeader::head_length(begin).ok_or_else(|| short("no group begins here"))?;
        let head = self.bytes(segment, at, length as u64, end)?;
        let header = GroupHeader::decode(head).map_err(|error| segment.corrupt(at, error))?;
        if header.log != segment.header.log {
            return Err(short("a group of another log"));
        }
        if at + header.length() as u64 > end || !at.is_multiple_of(ALIGN as u64) {
            return Err(short("a group does not end where the next one begins"));
        }
        let partitions = segment.header.offsets.len();
        if header.shares.last().is_some_and(|share| usize::from(share.partition.0) >= partitions) {
            return Err(short("a group names a partition that there is not"));
        }
        Ok(header)
    }

    fn bytes(&mut self, segment: &Segment, at: u64, length: u64, end: u64) -> Result<&[u8], LogError> {
        if at + length > end {
            return Err(segment.corrupt(at, "a group reaches beyond the end of its segment"));
        }
        let inside = at >= self.start && at + length <= self.start + self.bytes.len() as u64;
        if !inside {
            self.bytes.resize(length.max(WINDOW.min(end - at)) as usize, 0);
            self.start = at;
            let read = segment.file.read_at(at, &mut self.bytes).map_err(|source| LogError::Io {
                action: "reading",
                path: segment.name(),
                source,
            })?;
            self.bytes.truncate(read);
            if (read as u64) < length {
                return Err(segment.corrupt(at, "the file ends before what was synced"));
            }
        }
        let start = (at - self.start) as usize;
        Ok(&self.bytes[start..start + length as usize])
    }
}
