//! Segments and groups.
//!
//! A segment begins with a page that says where it belongs ([`SegmentHeader`]), then groups follow without
//! holes. A group is a header of 72 bytes, a table with an entry of 16 bytes for each partition it touches,
//! the records, and zeros up to a multiple of 8. The checksum of the header covers the table, so a walk
//! over groups need not read records; that of the body covers the records.
//!
//! A group is written only after the one before it was synced, and its header says up to where that was.
//! So a header that is found proves what stands before it: damage there cannot be a torn write.

use std::sync::Arc;

use watchfire_model::{Epoch, Offset, PartitionId, Position, Timestamp};

use super::{CodecError, Input, record};
use crate::record::{Entry, Record};

/// The version of this format.
pub const VERSION: u16 = 1;
/// The bytes before the first group of a segment.
pub const SEGMENT_HEADER: usize = 4096;
/// The most partitions: so many offsets fit into the header of a segment.
pub const MAX_PARTITIONS: u16 = 256;
/// The bytes of a group before its table.
pub const GROUP_HEADER: usize = 72;
/// How every group begins.
pub const GROUP_MAGIC: [u8; 4] = *b"WFgr";
/// Groups begin at multiples of this.
pub const ALIGN: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"WFlogseg";
const TABLE_ENTRY: usize = 16;
const CHECKED: usize = 64;
const RECORD_HEADER: usize = 8;

/// Where a segment belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log that it is part of: a number drawn when the folder was made.
    pub log: u64,
    /// Which segment it is.
    pub sequence: u64,
    /// The segment that it continues; `u64::MAX`: none.
    pub previous: u64,
    /// The byte at which that one ends: what stands behind it is void.
    pub previous_end: u64,
    /// Its first group.
    pub first_group: u64,
    /// When the group before its first was appended.
    pub appended_before: Timestamp,
    /// For each partition the offset of the first record from here on.
    pub offsets: Box<[Offset]>,
}

impl SegmentHeader {
    /// The page.
    pub fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(SEGMENT_HEADER);
        page.extend_from_slice(&SEGMENT_MAGIC);
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&(self.offsets.len() as u16).to_le_bytes());
        page.extend_from_slice(&0_u32.to_le_bytes());
        for number in [self.log, self.sequence, self.previous, self.previous_end, self.first_group] {
            page.extend_from_slice(&number.to_le_bytes());
        }
        page.extend_from_slice(&self.appended_before.0.to_le_bytes());
        for offset in &self.offsets {
            page.extend_from_slice(&offset.to_le_bytes());
        }
        page.resize(SEGMENT_HEADER - 4, 0);
        let checksum = crc32fast::hash(&page);
        page.extend_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Reads a page.
    pub fn decode(page: &[u8]) -> Result<Self, CodecError> {
        let Some((page, _)) = page.split_first_chunk::<SEGMENT_HEADER>() else {
            return Err(CodecError::Short("the header of a segment"));
        };
        let (checked, checksum) = page.split_at(SEGMENT_HEADER - 4);
        let mut input = Input(checked);
        if input.take(8, "a segment")? != SEGMENT_MAGIC {
            return Err(CodecError::Invalid("not the beginning of a segment"));
        }
        if checksum != crc32fast::hash(checked).to_le_bytes() {
            return Err(CodecError::Invalid("the header of a segment does not match its checksum"));
        }
        if input.u16("the version")? != VERSION {
            return Err(CodecError::Invalid("a segment of another version"));
        }
        let partitions = input.u16("the partitions")?;
        if partitions > MAX_PARTITIONS {
            return Err(CodecError::Invalid("a segment with too many partitions"));
        }
        input.u32("padding")?;
        Ok(Self {
            log: input.u64("the log")?,
            sequence: input.u64("the sequence")?,
            previous: input.u64("the previous segment")?,
            previous_end: input.u64("its end")?,
            first_group: input.u64("the first group")?,
            appended_before: Timestamp(input.i64("the time before")?),
            offsets: input.column(partitions.into(), "the offsets", u64::from_le_bytes)?.into(),
        })
    }
}

/// How many records a group has for a partition, and the offset of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The partition.
    pub partition: PartitionId,
    /// Records.
    pub count: u32,
    /// The offset of the first of them.
    pub first: Offset,
}

/// What a group says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// The log that it is part of.
    pub log: u64,
    /// Which group it is: counted without holes.
    pub group: u64,
    /// Everything before this byte ...
    pub synced_byte: u64,
    /// ... of this segment, and all of those before it, was synced when this group was written.
    pub synced_segment: u64,
    /// When the log received it.
    pub appended_at: Timestamp,
    /// The epoch of its records.
    pub epoch: Epoch,
    /// How many records there are.
    pub records: u32,
    /// The partitions it touches, ascending.
    pub shares: Vec<Share>,
    body_length: u32,
    body_checksum: u32,
}

impl GroupHeader {
    /// Bytes before the records.
    pub fn head(&self) -> usize {
        GROUP_HEADER + self.shares.len() * TABLE_ENTRY
    }

    /// Bytes of the whole group, padding included.
    pub fn length(&self) -> usize {
        (self.head() + self.body_length as usize).next_multiple_of(ALIGN)
    }

    /// The share of a partition.
    pub fn share(&self, partition: PartitionId) -> Option<&Share> {
        self.shares.iter().find(|share| share.partition == partition)
    }

    /// How many bytes the head takes, from its first 8.
    pub fn head_length(bytes: &[u8]) -> Option<usize> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (_, rest) = rest.split_first_chunk::<2>()?;
        let (table, _) = rest.split_first_chunk::<2>()?;
        let table = u16::from_le_bytes(*table);
        (*magic == GROUP_MAGIC && table <= MAX_PARTITIONS)
            .then(|| GROUP_HEADER + usize::from(table) * TABLE_ENTRY)
    }

    /// Reads header and table, and checks them against their checksum.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let length = Self::head_length(bytes).ok_or(CodecError::Invalid("not the beginning of a group"))?;
        let head = bytes.get(..length).ok_or(CodecError::Short("the header of a group"))?;
        let mut input = Input(&head[4..]);
        let version = input.u16("the version")?;
        let table = input.u16("the table")?;
        let mut header = Self {
            log: input.u64("the log")?,
            group: input.u64("the group")?,
            synced_segment: input.u64("what was synced")?,
            synced_byte: input.u64("what was synced")?,
            appended_at: Timestamp(input.i64("the time")?),
            epoch: Epoch(input.u32("the epoch")?),
            records: input.u32("the number of records")?,
            body_length: input.u32("the length")?,
            body_checksum: input.u32("the checksum")?,
            shares: Vec::with_capacity(table.into()),
        };
        let checksum = input.u32("the checksum")?;
        if checksum != head_checksum(head) {
            return Err(CodecError::Invalid("the header of a group does not match its checksum"));
        }
        if version != VERSION {
            return Err(CodecError::Invalid("a group of another version"));
        }
        input.u32("padding")?;
        for _ in 0..table {
            let partition = PartitionId(input.u16("the table")?);
            input.u16("the table")?;
            let count = input.u32("the table")?;
            let first = input.u64("the table")?;
            if first.checked_add(count.into()).is_none() {
                return Err(CodecError::Invalid("an offset beyond all bounds"));
            }
            header.shares.push(Share { partition, count, first });
        }
        if !header.shares.is_sorted_by(|a, b| a.partition < b.partition) {
            return Err(CodecError::Invalid("the partitions of a group are not ascending"));
        }
        if header.shares.iter().map(|share| u64::from(share.count)).sum::<u64>() != u64::from(header.records)
        {
            return Err(CodecError::Invalid("the records of a group are not as many as its partitions say"));
        }
        Ok(header)
    }

    /// Reads the records of the group whose header this is, in the order in which they were written.
    pub fn entries(&self, bytes: &[u8]) -> Result<Vec<Arc<Entry>>, CodecError> {
        let body = self.body(bytes)?;
        // Each record takes 8 bytes at least.
        let mut entries = Vec::with_capacity((self.records as usize).min(body.len() / RECORD_HEADER));
        let mut next: Vec<(PartitionId, Offset, Offset)> = self
            .shares
            .iter()
            .map(|share| (share.partition, share.first, share.first + u64::from(share.count)))
            .collect();
        let mut input = Input(body);
        while !input.0.is_empty() {
            let partition = PartitionId(input.u16("a record")?);
            let kind = input.u8("a record")?;
            input.u8("a record")?;
            let record = record::decode(kind, input.bytes("a record")?)?;
            let Ok(place) = next.binary_search_by_key(&partition, |(partition, _, _)| *partition) else {
                return Err(CodecError::Invalid("a record of a partition that the group does not name"));
            };
            let (_, offset, end) = &mut next[place];
            if *offset == *end {
                return Err(CodecError::Invalid("more records of a partition than the group says"));
            }
            let position = Position { epoch: self.epoch, partition, offset: *offset };
            *offset += 1;
            entries.push(Arc::new(Entry { position, appended_at: self.appended_at, record }));
        }
        if next.iter().any(|(_, offset, end)| offset != end) {
            return Err(CodecError::Invalid("fewer records of a partition than the group says"));
        }
        Ok(entries)
    }

    /// The bytes of the records, checked against their checksum.
    pub fn body<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], CodecError> {
        let body = bytes
            .get(self.head()..self.head() + self.body_length as usize)
            .ok_or(CodecError::Short("the records of a group"))?;
        if crc32fast::hash(body) != self.body_checksum {
            return Err(CodecError::Invalid("the records of a group do not match their checksum"));
        }
        Ok(body)
    }
}

fn head_checksum(head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..CHECKED]);
    hasher.update(&head[GROUP_HEADER..]);
    hasher.finalize()
}

/// Writes one group into a buffer.
pub struct GroupWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    head: usize,
    records: u32,
}

impl<'a> GroupWriter<'a> {
    /// Begins a group at the end of the buffer, which touches so many partitions.
    pub fn new(out: &'a mut Vec<u8>, partitions: usize) -> Self {
        let (start, head) = (out.len(), GROUP_HEADER + partitions * TABLE_ENTRY);
        out.resize(start + head, 0);
        Self { out, start, head, records: 0 }
    }

    /// Appends a record; with the bytes it was encoded to before, where there are some. Gives its length.
    pub fn record(
        &mut self,
        partition: PartitionId,
        record: &Record,
        encoded: Option<&[u8]>,
    ) -> Result<usize, CodecError> {
        let start = self.out.len();
        self.out.extend_from_slice(&partition.0.to_le_bytes());
        self.out.extend_from_slice(&[record::kind(record), 0, 0, 0, 0, 0]);
        match encoded {
            Some(bytes) => self.out.extend_from_slice(bytes),
            None => record::encode(record, self.out)?,
        }
        let length = u32::try_from(self.out.len() - start - RECORD_HEADER)
            .map_err(|_| CodecError::Unkeepable("a record of more than 4 GiB".into()))?;
        self.out[start + 4..start + RECORD_HEADER].copy_from_slice(&length.to_le_bytes());
        self.records += 1;
        Ok(length as usize)
    }

    /// Ends the group. `shares` must be as many as were announced.
    pub fn finish(
        self,
        log: u64,
        group: u64,
        synced: (u64, u64),
        appended_at: Timestamp,
        epoch: Epoch,
        shares: &[Share],
    ) -> Result<(), CodecError> {
        debug_assert_eq!(self.head, GROUP_HEADER + shares.len() * TABLE_ENTRY);
        let group_bytes = &mut self.out[self.start..];
        let (head, body) = group_bytes.split_at_mut(self.head);
        let length = u32::try_from(body.len())
            .map_err(|_| CodecError::Unkeepable("a group of more than 4 GiB".into()))?;
        let mut fields = Vec::with_capacity(self.head);
        fields.extend_from_slice(&GROUP_MAGIC);
        fields.extend_from_slice(&VERSION.to_le_bytes());
        fields.extend_from_slice(&(shares.len() as u16).to_le_bytes());
        for number in [log, group, synced.0, synced.1] {
            fields.extend_from_slice(&number.to_le_bytes());
        }
        fields.extend_from_slice(&appended_at.0.to_le_bytes());
        for number in [epoch.0, self.records, length, crc32fast::hash(body), 0, 0] {
            fields.extend_from_slice(&number.to_le_bytes());
        }
        for share in shares {
            fields.extend_from_slice(&share.partition.0.to_le_bytes());
            fields.extend_from_slice(&[0, 0]);
            fields.extend_from_slice(&share.count.to_le_bytes());
            fields.extend_from_slice(&share.first.to_le_bytes());
        }
        let checksum = head_checksum(&fields);
        fields[CHECKED..CHECKED + 4].copy_from_slice(&checksum.to_le_bytes());
        head.copy_from_slice(&fields);
        let end = self.start + (self.out.len() - self.start).next_multiple_of(ALIGN);
        self.out.resize(end, 0);
        Ok(())
    }
}
