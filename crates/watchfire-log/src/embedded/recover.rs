//! What a start makes of the files it finds.
//!
//! The last segment is read whole; those before it are sealed, and are read when somebody wants them. Only
//! the last group is not known to be synced (the next one would say so): the process that wrote it may have
//! died before the sync returned, or the sync may have failed and only memory has it. So it is not trusted
//! where it is, but written once more, into a new segment. The old files are never written again.

use std::sync::Arc;

use watchfire_model::{Offset, Timestamp};

use super::appender::Continuation;
use super::options::Cut;
use super::segment::{Segment, file_name, sequence_of};
use crate::codec::group::{ALIGN, GROUP_MAGIC, GroupHeader, SEGMENT_HEADER, SegmentHeader};
use crate::contract::LogError;
use crate::disk::{Disk, DiskFile};

/// What stands in the folder.
pub(crate) struct Found {
    /// Segments that hold something, in order. The last one ends before its last group, if that has to be
    /// written again.
    pub segments: Vec<Arc<Segment>>,
    /// Files without anything that anybody was told of.
    pub void: Vec<String>,
    /// The number of the next file.
    pub next_sequence: u64,
    /// Where the log goes on.
    pub(super) at: Continuation,
    /// The group that has to be written again, from the place where the log goes on.
    pub last: Option<LastGroup>,
    /// The last group that is kept.
    pub last_group: Option<u64>,
    /// It was a closing one.
    pub clean: bool,
    /// A torn write.
    pub cut: Option<Cut>,
}

impl Found {
    /// The next offset of each partition before the last group.
    pub fn offsets(&self) -> &[Offset] {
        &self.at.next
    }
}

/// The newest group as it was found.
pub(crate) struct LastGroup {
    /// The segment that it was found in.
    pub sequence: u64,
    pub header: GroupHeader,
    pub bytes: Vec<u8>,
}

pub(crate) fn io(action: &'static str, path: impl Into<String>) -> impl FnOnce(std::io::Error) -> LogError {
    let path = path.into();
    move |source| LogError::Io { action, path, source }
}

/// A file that was looked at.
struct Candidate {
    sequence: u64,
    file: Arc<dyn DiskFile>,
    header: Result<SegmentHeader, String>,
}

/// Looks at all segments of a log with this number and so many partitions.
pub(crate) fn find(disk: &dyn Disk, log: u64, partitions: u16) -> Result<Found, LogError> {
    let mut candidates = candidates(disk, log, partitions)?;
    let next_sequence = candidates.last().map_or(0, |last| last.sequence + 1);
    let mut void = Vec::new();
    let mut found = Found {
        segments: Vec::new(),
        void: Vec::new(),
        next_sequence,
        at: Continuation {
            end: (u64::MAX, 0),
            next: vec![0; partitions.into()],
            appended_at: Timestamp(i64::MIN),
        },
        last: None,
        last_group: None,
        clean: true,
        cut: None,
    };
    // From the newest: those whose first group was never synced are void. A segment is begun only behind what was
    // synced, so the page of a void one still proves where the one that it continues ended.
    let mut proven: Option<(u64, u64)> = None;
    let newest = loop {
        let next = candidates.pop();
        if let Some((sequence, _)) = proven
            && next.as_ref().is_none_or(|next| next.sequence < sequence)
        {
            return Err(missing(sequence));
        }
        let Some(candidate) = next else { break None };
        let end = proven.filter(|(sequence, _)| *sequence == candidate.sequence).map_or(0, |(_, end)| end);
        match read_last(&candidate, log, end)? {
            Newest::Holds(scanned) => break Some((candidate, scanned)),
            Newest::Void(cut, continues) => {
                void.push(file_name(candidate.sequence));
                found.cut = found.cut.or(cut);
                proven = proven.max(continues);
            }
        }
    };
    let Some((candidate, scanned)) = newest else {
        found.clean = found.cut.is_none();
        found.void = void;
        return Ok(found);
    };
    let Scanned { header, groups, cut } = *scanned;
    found.cut = cut.or(found.cut);
    let (mut previous, mut previous_end) = (header.previous, header.previous_end);
    let last = groups.last;
    let sequence = candidate.sequence;
    found.last_group = Some(last.header.group);
    found.clean = last.header.records == 0 && found.cut.is_none();
    if last.at == SEGMENT_HEADER as u64 {
        // All that it holds is written again, or is nothing: the new segment takes its place.
        found.at = Continuation {
            end: (previous, previous_end),
            next: header.offsets.to_vec(),
            appended_at: header.appended_before,
        };
        void.push(file_name(candidate.sequence));
    } else {
        found.at = Continuation {
            end: (candidate.sequence, last.at),
            next: groups.before_last,
            appended_at: groups.time_before_last,
        };
        let time = groups.time_before_last;
        found.segments.push(Arc::new(Segment::new(header, candidate.file, last.at, time)));
    }
    found.last = Some(LastGroup { sequence, header: last.header, bytes: last.bytes });
    // Down the chain. A gap in it is a loss, its end is where retention cut.
    while let Some(candidate) = candidates.pop() {
        if candidate.sequence != previous {
            if candidate.sequence > previous || previous == u64::MAX {
                void.push(file_name(candidate.sequence));
                continue;
            }
            return Err(missing(previous));
        }
        let at = file_name(candidate.sequence);
        let header = candidate.header.map_err(|what| LogError::Corrupt {
            file: at.clone(),
            at: 0,
            what: what.to_string(),
        })?;
        let length = candidate.file.length().map_err(io("measuring", &at))?;
        if length < previous_end {
            let what = "the file ends before what was synced".into();
            return Err(LogError::Corrupt { file: at, at: length, what });
        }
        let time = found.segments.last().map_or(found.at.appended_at, |next| next.header.appended_before);
        let segment = Segment::new(header, candidate.file, previous_end, time);
        (previous, previous_end) = (segment.header.previous, segment.header.previous_end);
        found.segments.push(Arc::new(segment));
    }
    found.segments.reverse();
    found.void = void;
    Ok(found)
}

fn missing(sequence: u64) -> LogError {
    LogError::Corrupt { file: file_name(sequence), at: 0, what: "the segment is missing".into() }
}

fn candidates(disk: &dyn Disk, log: u64, partitions: u16) -> Result<Vec<Candidate>, LogError> {
    let mut names = disk.list().map_err(io("listing", disk.name()))?;
    names.retain(|name| sequence_of(name).is_some());
    names.sort_unstable();
    let mut candidates = Vec::with_capacity(names.len());
    for name in names {
        let sequence = sequence_of(&name).unwrap_or_default();
        let file = disk.open(&name).map_err(io("opening", &name))?;
        let mut page = vec![0; SEGMENT_HEADER];
        let read = file.read_at(0, &mut page).map_err(io("reading", &name))?;
        let header = SegmentHeader::decode(&page[..read]).map_err(|error| error.to_string());
        if let Ok(header) = &header
            && (header.log, header.sequence, header.offsets.len()) != (log, sequence, partitions.into())
        {
            return Err(LogError::Format(format!("{name} belongs to another log")));
        }
        candidates.push(Candidate { sequence, file, header });
    }
    candidates.sort_unstable_by_key(|candidate| candidate.sequence);
    Ok(candidates)
}

/// What the newest file turned out to be.
enum Newest {
    /// Its first group was never synced; there may be something of it, and of what was synced before: segment and
    /// byte behind the end.
    Void(Option<Cut>, Option<(u64, u64)>),
    Holds(Box<Scanned>),
}

struct Scanned {
    header: SegmentHeader,
    groups: Groups,
    cut: Option<Cut>,
}

struct Groups {
    last: FoundGroup,
    /// The next offsets before the last group.
    before_last: Vec<Offset>,
    time_before_last: Timestamp,
}

struct FoundGroup {
    at: u64,
    header: GroupHeader,
    bytes: Vec<u8>,
}

/// Reads the newest segment, of which the bytes before `proven` are known to have been synced. An error: something in
/// it was synced and is damaged.
fn read_last(candidate: &Candidate, log: u64, proven: u64) -> Result<Newest, LogError> {
    let name = file_name(candidate.sequence);
    let length = candidate.file.length().map_err(io("measuring", &name))?;
    let mut bytes = vec![0; length as usize];
    let read = candidate.file.read_at(0, &mut bytes).map_err(io("reading", &name))?;
    bytes.truncate(read);
    let corrupt = |at: usize, what: String| LogError::Corrupt { file: name.clone(), at: at as u64, what };
    let torn = |at: usize| {
        let end = bytes[at..].iter().rposition(|&byte| byte != 0)?;
        Some(Cut { file: name.clone(), at: at as u64, bytes: (at + end) as u64 + 1 })
    };
    let proof = |at: usize| {
        let next = || "the segment that follows says that this was synced".to_string();
        proof(&bytes, at, log, candidate.sequence).or_else(|| ((at as u64) < proven).then(next))
    };
    // Its page, or where that is damaged its groups, say what it continues.
    let continues = || {
        let page = candidate.header.as_ref().ok().map(|header| (header.previous, header.previous_end));
        let groups = headers(&bytes, 0, log).map(|(_, header)| (header.synced_segment, header.synced_byte));
        groups.chain(page).filter(|(segment, _)| *segment < candidate.sequence).max()
    };
    let header = match &candidate.header {
        Ok(header) => header.clone(),
        Err(what) => {
            return match proof(0) {
                Some(proof) => Err(corrupt(0, format!("{what}, and {proof}"))),
                None => Ok(Newest::Void(torn(0), continues())),
            };
        }
    };
    let mut at = SEGMENT_HEADER;
    let mut next = header.offsets.to_vec();
    let mut time = header.appended_before;
    let mut group = header.first_group;
    let mut last: Option<Groups> = None;
    let mut cut = None;
    while at < bytes.len() {
        match read_group(&bytes[at..], log, group, &next, time) {
            Ok(found) => {
                let before_last = next.clone();
                for share in &found.shares {
                    next[usize::from(share.partition.0)] += u64::from(share.count);
                }
                let length = found.length();
                last = Some(Groups {
                    last: FoundGroup { at: at as u64, header: found, bytes: Vec::new() },
                    before_last,
                    time_before_last: time,
                });
                if let Some(groups) = &last {
                    time = groups.last.header.appended_at;
                }
                at += length;
                group += 1;
            }
            Err(what) => {
                if let Some(proof) = proof(at) {
                    return Err(corrupt(at, format!("{what}, and {proof}")));
                }
                cut = torn(at);
                break;
            }
        }
    }
    if cut.is_none() && (at as u64) < proven {
        return Err(corrupt(at, "the file ends before what was synced".into()));
    }
    if let Some(groups) = &mut last {
        // Kept as it was found: it is written again as it is.
        let start = groups.last.at as usize;
        groups.last.bytes = bytes[start..start + groups.last.header.length()].to_vec();
    }
    Ok(match last {
        Some(groups) => Newest::Holds(Box::new(Scanned { header, groups, cut })),
        None => Newest::Void(cut, continues()),
    })
}

/// A group that is whole and follows what is known.
fn read_group(
    bytes: &[u8],
    log: u64,
    group: u64,
    next: &[Offset],
    time: Timestamp,
) -> Result<GroupHeader, String> {
    let header = GroupHeader::decode(bytes).map_err(|error| error.to_string())?;
    let follows = header.log == log
        && header.group == group
        && header.appended_at >= time
        && header.shares.iter().all(|share| next.get(usize::from(share.partition.0)) == Some(&share.first));
    if !follows {
        return Err(format!("group {} does not follow the one before it", header.group));
    }
    if bytes.len() < header.length() {
        return Err("the file ends within a group".into());
    }
    header.entries(bytes).map_err(|error| error.to_string())?;
    Ok(header)
}

/// Looks behind a damaged place for a group that was written after that place had been synced.
fn proof(bytes: &[u8], damaged: usize, log: u64, sequence: u64) -> Option<String> {
    headers(bytes, damaged, log)
        .find(|(_, header)| header.synced_segment == sequence && header.synced_byte > damaged as u64)
        .map(|(at, header)| format!("group {} at byte {at} says that this was synced", header.group))
}

/// Every header of a group of this log from a place on, whatever stands between them.
fn headers(bytes: &[u8], from: usize, log: u64) -> impl Iterator<Item = (usize, GroupHeader)> {
    // Bytes of devices may look like a header; its checksum and the number of the log, which is drawn at random and
    // leaves the folder nowhere, cannot be guessed.
    (from.next_multiple_of(ALIGN)..bytes.len()).step_by(ALIGN).filter_map(move |at| {
        let bytes = bytes[at..].starts_with(&GROUP_MAGIC).then_some(&bytes[at..])?;
        GroupHeader::decode(bytes).ok().filter(|header| header.log == log).map(|header| (at, header))
    })
}
