//! Looks into the folder of a log that nobody has open: which segments there are, whether all of it is
//! whole, what stands in it. Nothing is changed.

use std::any::Any;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};
use watchfire_model::batch::{NO_BOOLEAN, NO_TEXT};
use watchfire_model::{Batch, Epoch, Offset, PartitionId, Timestamp, Values};

use crate::codec::group::GroupHeader;
use crate::contract::LogError;
use crate::disk::{Disk, RealDisk};
use crate::embedded::recover::{Found, find, io};
use crate::embedded::segment::{Segments, Step, Walk};
use crate::embedded::{Cut, FORMAT, Format};
use crate::record::{Entry, Record};

/// A segment.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its file.
    pub file: String,
    /// Its first group.
    pub first_group: u64,
    /// The offset of the first record of each partition from there on.
    pub first_offsets: Vec<Offset>,
    /// When its last group was appended.
    pub last_appended_at: Timestamp,
    /// Bytes that it has of the log.
    pub bytes: u64,
}

/// What was verified.
#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
pub struct Verified {
    /// Segments.
    pub segments: usize,
    /// Groups in them.
    pub groups: u64,
    /// Records in these.
    pub records: u64,
    /// Bytes of all groups.
    pub bytes: u64,
    /// A torn write at the end: file, first byte, last byte. The next start leaves it out.
    pub torn: Option<(String, u64, u64)>,
}

/// A folder that is looked into. Keeps others from opening it.
pub struct Inspection {
    found: Found,
    segments: Segments,
    epoch: Epoch,
    partitions: u16,
    _lock: Box<dyn Any + Send + Sync>,
}

impl Inspection {
    /// Looks into a folder.
    pub fn open(folder: &Path) -> Result<Self, LogError> {
        if !folder.join(FORMAT).is_file() {
            return Err(LogError::Format(format!("{} is not the folder of a log", folder.display())));
        }
        let disk = RealDisk::new(folder).map_err(io("opening", folder.display().to_string()))?;
        Self::open_on(&disk)
    }

    /// As [`Inspection::open`], on any disk.
    pub fn open_on(disk: &dyn Disk) -> Result<Self, LogError> {
        let lock =
            disk.lock().map_err(io("locking", disk.name()))?.ok_or_else(|| LogError::InUse(disk.name()))?;
        let format = Format::read(disk)?
            .ok_or_else(|| LogError::Format(format!("{} is not the folder of a log", disk.name())))?;
        let mut found = find(disk, format.log()?, format.partitions)?;
        let segments = Segments::new(std::mem::take(&mut found.segments));
        Ok(Self { found, segments, epoch: format.epoch, partitions: format.partitions, _lock: lock })
    }

    /// The epoch of the folder.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The number of partitions.
    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let info = |segment: &Arc<crate::embedded::segment::Segment>| SegmentInfo {
            file: segment.name(),
            first_group: segment.header.first_group,
            first_offsets: segment.header.offsets.to_vec(),
            last_appended_at: Timestamp(segment.appended_at.load(std::sync::atomic::Ordering::Relaxed)),
            bytes: segment.end(),
        };
        let mut all: Vec<_> = self.segments.all().iter().map(info).collect();
        // The newest group counts to the segment that it is found in.
        if let Some(last) = &self.found.last {
            let file = crate::embedded::segment::file_name(last.sequence);
            let (at, length) = (last.header.appended_at, last.header.length() as u64);
            match all.last_mut().filter(|newest| newest.file == file) {
                Some(newest) => (newest.last_appended_at, newest.bytes) = (at, newest.bytes + length),
                None => all.push(SegmentInfo {
                    file,
                    first_group: last.header.group,
                    first_offsets: self.found.offsets().to_vec(),
                    last_appended_at: at,
                    bytes: crate::codec::group::SEGMENT_HEADER as u64 + length,
                }),
            }
        }
        all
    }

    /// Reads everything and checks every checksum. The first damage is the error.
    pub fn verify(&self) -> Result<Verified, LogError> {
        let torn = self.found.cut.clone().map(|Cut { file, at, bytes }| (file, at, bytes));
        let mut verified = Verified { segments: self.segments().len(), torn, ..Verified::default() };
        let mut count = |header: &GroupHeader| {
            verified.groups += 1;
            verified.records += u64::from(header.records);
            verified.bytes += header.length() as u64;
        };
        if let Some(mut walk) = self.segments.walk_all() {
            while let Step::Group(header) = walk.step(&self.segments)? {
                walk.entries(&header)?;
                count(&header);
                walk.pass(&header);
            }
        }
        if let Some(last) = &self.found.last {
            count(&last.header);
        }
        Ok(verified)
    }

    /// All records in the order in which they were written.
    pub fn entries(&self) -> Entries<'_> {
        Entries { inspection: self, walk: self.segments.walk_all(), ready: VecDeque::new(), last: true }
    }
}

/// Records of a folder.
pub struct Entries<'a> {
    inspection: &'a Inspection,
    walk: Option<Walk>,
    ready: VecDeque<Arc<Entry>>,
    /// The newest group is still to come.
    last: bool,
}

impl Entries<'_> {
    fn fill(&mut self) -> Result<bool, LogError> {
        if let Some(walk) = &mut self.walk {
            if let Step::Group(header) = walk.step(&self.inspection.segments)? {
                self.ready.extend(walk.entries(&header)?);
                walk.pass(&header);
                return Ok(true);
            }
            self.walk = None;
        }
        if !std::mem::take(&mut self.last) {
            return Ok(false);
        }
        if let Some(last) = &self.inspection.found.last {
            let entries = last.header.entries(&last.bytes).map_err(|error| LogError::Corrupt {
                file: crate::embedded::segment::file_name(last.sequence),
                at: 0,
                what: error.to_string(),
            })?;
            self.ready.extend(entries);
        }
        Ok(true)
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Arc<Entry>, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Some(Ok(entry));
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    (self.walk, self.last) = (None, false);
                    return Some(Err(error));
                }
            }
        }
    }
}

/// A record as JSON, for people and scripts. Devices are handles: only the registry of the partition knows
/// their names.
pub fn to_json(entry: &Entry) -> Value {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| {
        object.insert(name.into(), value);
    };
    put("position", json!(entry.position));
    put("partition", json!(entry.position.partition));
    put("appended_at", json!(entry.appended_at));
    put("kind", json!(kind(&entry.record)));
    match &entry.record {
        Record::Readings { stream, origin, batch } => {
            put("stream", json!(**stream));
            if let Some(origin) = origin {
                put("origin", json!(origin));
            }
            put("rows", rows(batch));
        }
        Record::Rejects(rejects) => {
            let reject = |reject: &crate::record::Reject| {
                let mut value = json!(reject);
                let (name, payload) = match std::str::from_utf8(&reject.payload) {
                    Ok(text) => ("payload", text.to_string()),
                    Err(_) => {
                        let hex = reject.payload.iter().map(|byte| format!("{byte:02x}")).collect();
                        ("payload_hex", hex)
                    }
                };
                value[name] = payload.into();
                value
            };
            put("rejects", rejects.iter().map(reject).collect());
        }
        Record::Tick | Record::CheckpointMark => {}
        Record::Consumed(all) => {
            let consumed = |of: &crate::record::Consumed| {
                json!({ "source": of.source, "topic": of.topic, "partition": of.partition, "from": of.from,
                    "next": of.next, "anew": of.anew })
            };
            put("consumed", all.iter().map(consumed).collect());
        }
        Record::Control(control) => put("control", json!(control)),
        Record::Activated { rule, version, offset } => {
            put("rule", json!(rule));
            put("version", json!(version));
            put("of", json!(offset));
        }
        Record::Refused { rule, version, offset, reason } => {
            put("rule", json!(rule));
            put("version", json!(version));
            put("of", json!(offset));
            put("reason", json!(reason));
        }
        Record::Skipped(skipped) => put("skipped", json!(skipped)),
        Record::Breaker(breaker) => put("breaker", json!(breaker)),
        Record::External(external) => put("external", json!(external)),
        Record::Redo(redo) => {
            put("rule", json!(redo.rule));
            put("stream", json!(*redo.stream));
            put("failed", json!(redo.failed));
            if let Some(missed) = redo.missed {
                put("missed", json!(missed));
            }
            if let Some(upto) = &redo.upto {
                put("upto", json!(upto));
            }
            put("by", json!(redo.by));
            put("rows", rows(&redo.batch));
        }
        Record::Gap { from, to, reason } => {
            put("from", json!(from));
            put("to", json!(to));
            put("reason", json!(reason));
        }
    }
    Value::Object(object)
}

fn kind(record: &Record) -> &'static str {
    match record {
        Record::Readings { .. } => "readings",
        Record::Rejects(_) => "rejects",
        Record::Tick => "tick",
        Record::Control(_) => "control",
        Record::Activated { .. } => "activated",
        Record::Refused { .. } => "refused",
        Record::Skipped(_) => "skipped",
        Record::Redo(_) => "redo",
        Record::Gap { .. } => "gap",
        Record::CheckpointMark => "checkpoint_mark",
        Record::Consumed(_) => "consumed",
        Record::Breaker(_) => "breaker",
        Record::External(_) => "external",
    }
}

fn rows(batch: &Batch) -> Value {
    let mut metrics = vec![Map::new(); batch.rows()];
    for column in &batch.columns {
        for place in 0..column.values.len() {
            let row = column.rows.as_ref().map_or(place, |rows| rows[place] as usize);
            let value = match &column.values {
                Values::Numbers(numbers) if numbers[place].is_nan() => continue,
                Values::Numbers(numbers) => json!(numbers[place]),
                Values::Texts(texts) if texts.codes[place] == NO_TEXT => continue,
                Values::Texts(texts) => json!(*texts.dictionary[texts.codes[place] as usize]),
                Values::Booleans(flags) if flags[place] == NO_BOOLEAN => continue,
                Values::Booleans(flags) => json!(flags[place] == 1),
            };
            metrics[row].insert(column.metric.to_string(), value);
        }
    }
    let row = |((device, time), metrics)| json!({ "device": device, "time": time, "metrics": Value::Object(metrics) });
    batch.devices.iter().zip(&batch.times).zip(metrics).map(row).collect()
}

/// Records of one partition from an offset on, as [`Inspection::entries`] gives them.
pub fn is_wanted(entry: &Entry, partition: Option<PartitionId>, from: Offset) -> bool {
    partition.is_none_or(|partition| entry.position.partition == partition) && entry.position.offset >= from
}
