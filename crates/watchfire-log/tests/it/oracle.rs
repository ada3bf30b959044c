//! What holds for any bytes on the disk. The seeded mutations of these tests and the fuzz targets `log_codec` and
//! `log_recovery` both ask it.
//!
//! - [`codec`]: what is read is written the same, and read back the same; a group has as many records as it says.
//! - [`recovery`]: files of a log that were cut, changed, exchanged or removed are recovered to the first so many
//!   records of it, or reported as corruption with its place; and what a whole group proves to have been synced is
//!   never missing silently.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Waker};
use std::time::Duration;

use watchfire_log::clock::ManualClock;
use watchfire_log::codec::group::{
    ALIGN, GROUP_HEADER, GROUP_MAGIC, GroupHeader, GroupWriter, SEGMENT_HEADER, SegmentHeader, VERSION,
};
use watchfire_log::codec::record::{decode, encode, kind};
use watchfire_log::disk::Disk;
use watchfire_log::disk::sim::SimDisk;
use watchfire_log::inspect::Inspection;
use watchfire_log::{Append, EmbeddedLog, Entry, Log, LogError, LogOptions, Record, Reject};
use watchfire_model::{Actor, Batch, BatchBuilder, Control, DeviceHandle, PartitionId, Timestamp};

const PARTITIONS: u16 = 3;
const START: Timestamp = Timestamp(1_800_000_000_000_000);

fn bytes_of(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(record, &mut bytes).expect("a record that was read can be written");
    bytes
}

/// Reads `input` behind its first byte as what that one chooses: a record, a group, or the page of a segment. Gives
/// whether it was one.
pub fn codec(input: &[u8]) -> bool {
    let Some((&choice, bytes)) = input.split_first() else { return false };
    match choice & 3 {
        0 | 1 => record(choice >> 1, bytes),
        2 => group(bytes.to_vec()),
        _ => page(bytes.to_vec()),
    }
}

fn record(of_kind: u8, bytes: &[u8]) -> bool {
    let Ok(record) = decode(of_kind, bytes) else { return false };
    assert_eq!(kind(&record), of_kind);
    let written = bytes_of(&record);
    let exact = match &record {
        Record::Readings { origin, .. } => origin.is_none(),
        other => matches!(other, Record::Tick | Record::CheckpointMark | Record::Gap { .. }),
    };
    // JSON may be written in more ways than one; everything else in one only.
    assert!(!exact || written == bytes, "{record:?}");
    let back = decode(of_kind, &written).expect("what was written is read");
    assert_eq!(bytes_of(&back), written, "{record:?}");
    match &record {
        // NaN is not equal to itself.
        Record::Readings { batch, .. } => small(batch, bytes),
        Record::Redo(redo) => small(&redo.batch, bytes),
        _ => assert_eq!(back, record),
    }
    true
}

/// A batch takes no more memory than its bytes give reason for.
fn small(batch: &Batch, bytes: &[u8]) {
    assert!(batch.size() < 64 + 64 * bytes.len(), "{} bytes of {}", batch.size(), bytes.len());
}

/// Makes the checksums of a group right: they cannot be guessed, and what stands behind them would not be reached.
fn mend(bytes: &mut [u8]) -> Option<()> {
    bytes.get_mut(..4)?.copy_from_slice(&GROUP_MAGIC);
    bytes.get_mut(4..6)?.copy_from_slice(&VERSION.to_le_bytes());
    let head = GroupHeader::head_length(bytes)?;
    let room = bytes.len().checked_sub(head)?;
    let length = u32::from_le_bytes(bytes[56..60].try_into().ok()?).min(room as u32);
    bytes[56..60].copy_from_slice(&length.to_le_bytes());
    let body = crc32fast::hash(&bytes[head..head + length as usize]);
    bytes[60..64].copy_from_slice(&body.to_le_bytes());
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&bytes[..64]);
    checksum.update(&bytes[GROUP_HEADER..head]);
    bytes[64..68].copy_from_slice(&checksum.finalize().to_le_bytes());
    Some(())
}

fn group(mut bytes: Vec<u8>) -> bool {
    let _ = mend(&mut bytes);
    let Ok(header) = GroupHeader::decode(&bytes) else { return false };
    assert!(header.length().is_multiple_of(ALIGN) && header.head() <= header.length());
    let Ok(entries) = header.entries(&bytes) else { return false };
    assert_eq!(entries.len(), header.records as usize);
    let mut out = Vec::new();
    let mut writer = GroupWriter::new(&mut out, header.shares.len());
    let mut next: BTreeMap<_, _> = header.shares.iter().map(|share| (share.partition, share.first)).collect();
    for entry in &entries {
        assert_eq!((entry.position.epoch, entry.appended_at), (header.epoch, header.appended_at));
        let offset = next.get_mut(&entry.position.partition).expect("a partition that the group names");
        assert_eq!(*offset, entry.position.offset);
        *offset += 1;
        writer.record(entry.position.partition, &entry.record, None).expect("it was read");
    }
    for share in &header.shares {
        assert_eq!(next[&share.partition], share.first + u64::from(share.count));
    }
    let synced = (header.synced_segment, header.synced_byte);
    let (at, epoch) = (header.appended_at, header.epoch);
    writer.finish(header.log, header.group, synced, at, epoch, &header.shares).expect("it was read");
    let back = GroupHeader::decode(&out).expect("what was written is read");
    let says = |header: &GroupHeader| {
        let synced = (header.synced_segment, header.synced_byte);
        (header.log, header.group, synced, header.epoch, header.records, header.shares.clone())
    };
    assert_eq!(says(&back), says(&header));
    assert_eq!((back.appended_at, back.length()), (header.appended_at, out.len()));
    let back = back.entries(&out).expect("what was written is read");
    assert!(back.iter().zip(&entries).all(|(a, b)| bytes_of(&a.record) == bytes_of(&b.record)));
    // No bit that a checksum covers can change unseen: anything but padding.
    let at = crc32fast::hash(&bytes) as usize % header.length().min(bytes.len());
    bytes[at] ^= 1 << (at % 8);
    let read = GroupHeader::decode(&bytes).and_then(|header| header.entries(&bytes));
    let silent = (68..72).contains(&at) || at + ALIGN > header.length();
    assert!(read.is_err() || silent, "byte {at}");
    true
}

fn page(mut bytes: Vec<u8>) -> bool {
    bytes.resize(SEGMENT_HEADER, 0);
    bytes[..8].copy_from_slice(b"WFlogseg");
    let checksum = crc32fast::hash(&bytes[..SEGMENT_HEADER - 4]);
    bytes[SEGMENT_HEADER - 4..].copy_from_slice(&checksum.to_le_bytes());
    let Ok(header) = SegmentHeader::decode(&bytes) else { return false };
    assert_eq!(SegmentHeader::decode(&header.encode()).as_ref(), Ok(&header));
    true
}

/// The files of a log and what stands in them.
struct Base {
    format: Vec<u8>,
    files: Vec<File>,
    entries: Vec<Arc<Entry>>,
}

#[derive(Clone)]
struct File {
    name: String,
    bytes: Vec<u8>,
    /// First byte, first byte behind, and the entries of the log before it, of each group.
    groups: Vec<(usize, usize, usize)>,
}

/// A log that goes over some segments: of a process that died, and of one that closed it.
static BASES: LazyLock<[Base; 2]> = LazyLock::new(|| {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).expect("an empty folder is no trouble");
    for number in 0..80 {
        let ticket = log.append(append(number)).expect("there is room");
        let mut durable = Box::pin(ticket.durable());
        let mut context = Context::from_waker(Waker::noop());
        // Each append is awaited: it is a group of its own, in every run.
        while durable.as_mut().poll(&mut context).is_pending() {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    let died = base(&disk);
    log.close();
    [died, base(&disk)]
});

fn open(disk: &SimDisk) -> Result<(Arc<EmbeddedLog>, watchfire_log::OpenReport), LogError> {
    let options = LogOptions {
        partitions: PARTITIONS,
        segment_bytes: 12 << 10,
        reserve_bytes: 0,
        ..LogOptions::default()
    };
    EmbeddedLog::open_on(Arc::new(disk.clone()), options, Arc::new(ManualClock::new(START)))
}

fn append(number: u32) -> Append {
    if number % 9 == 4 {
        let by = Actor { name: "test".into(), reason: None, request: None };
        let control = Record::Control(Box::new(Control::RulePaused { name: format!("rule-{number}"), by }));
        return Append::Records((0..PARTITIONS).map(|p| (PartitionId(p), control.clone())).collect());
    }
    let partition = PartitionId((number % u32::from(PARTITIONS)) as u16);
    let mut batch = BatchBuilder::new();
    for row in 0..number % 5 + 1 {
        batch.begin(DeviceHandle(row), Timestamp(i64::from(number)));
        batch.number("value", f64::from(number)).expect("the first of its name");
        if row % 2 == 0 {
            batch.text("mode", "auto").expect("the first of its name");
        }
        batch.commit();
    }
    let mut rejects = Vec::new();
    if number % 7 == 3 {
        let text =
            r#"{"source":"mqtt","address":"devices/a/telemetry","code":"not-json","reason":"it is not"}"#;
        let mut reject: Reject = serde_json::from_str(text).expect("a reject");
        // Bytes of devices may look like a group.
        reject.payload = GROUP_MAGIC.repeat(number as usize);
        rejects.push((partition, reject));
    }
    Append::Intake { rows: vec![(partition, batch.finish())], rejects }
}

fn base(disk: &SimDisk) -> Base {
    let mut names = disk.list().expect("a simulated disk has a list");
    names.retain(|name| name.starts_with("segment-"));
    names.sort();
    let (mut files, mut entries) = (Vec::new(), Vec::new());
    for name in names {
        let bytes = disk.content(&name).expect("it is in the list");
        // One that was made ready and not used yet.
        if bytes.get(SEGMENT_HEADER..).is_none_or(|rest| rest.iter().all(|&byte| byte == 0)) {
            continue;
        }
        let (mut groups, mut at) = (Vec::new(), SEGMENT_HEADER);
        while let Some(rest) = bytes.get(at..)
            && let Ok(header) = GroupHeader::decode(rest)
        {
            groups.push((at, at + header.length(), entries.len()));
            entries.extend(header.entries(rest).expect("it was written"));
            at += header.length();
        }
        files.push(File { name, bytes, groups });
    }
    assert!(
        files.len() > 2 && files.iter().all(|file| file.groups.len() > 2),
        "a few segments of some groups"
    );
    Base { format: disk.content("FORMAT").expect("the log made it"), files, entries }
}

/// Does to the files what `input` says, a few bytes at a time. Gives whether checksums were made right again: then
/// anything may stand there.
fn edit(mut input: &[u8], base: &Base, contents: &mut [Option<Vec<u8>>]) -> bool {
    let mut forged = false;
    let mut number = |below: usize| {
        let (bytes, rest) = input.split_first_chunk::<2>()?;
        input = rest;
        Some(usize::from(u16::from_le_bytes(*bytes)) % below.max(1))
    };
    while let Some(what) = number(9) {
        let (Some(index), Some(other)) = (number(contents.len()), number(contents.len())) else { break };
        if what == 0 {
            contents.swap(index, other);
            continue;
        }
        let from = contents[other].clone().unwrap_or_default();
        let Some(bytes) = &mut contents[index] else { continue };
        let (Some(at), Some(source)) = (number(bytes.len()), number(from.len())) else { break };
        let most = bytes.len() - at;
        match what {
            1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (source % 8)),
            2 => bytes.truncate(at),
            3 => bytes[at..at + source.min(most)].fill(0),
            // A sector that was never written.
            4 => bytes[at..].iter_mut().take(512 - at % 512).for_each(|byte| *byte = 0),
            // Some bytes of the log elsewhere; or all that follow, at places where groups may begin.
            5 => {
                let count = number(1024).unwrap_or(8).min(most).min(from.len() - source);
                bytes[at..at + count].copy_from_slice(&from[source..source + count]);
            }
            6 => {
                let (at, source) = (at / ALIGN * ALIGN, source / ALIGN * ALIGN);
                let count = (bytes.len() - at).min(from.len() - source);
                bytes[at..at + count].copy_from_slice(&from[source..source + count]);
            }
            7 => contents[index] = None,
            _ => {
                let groups = &base.files[index].groups;
                let (start, end, _) = groups[at % groups.len()];
                if let Some(group) = bytes.get_mut(start..end) {
                    let place = source % group.len().min(96);
                    group[place] = number(256).unwrap_or(0) as u8;
                    forged |= mend(group).is_some();
                }
            }
        }
    }
    forged
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it.
    Whole,
    /// The first so many records.
    Cut,
    /// An error with its place.
    Reported,
    /// Checksums were made right: nothing is known but that it comes to an end.
    Forged,
}

/// Changes the files of a log as `input` says, and reads them.
pub fn recovery(input: &[u8]) -> Outcome {
    let Some((&choice, edits)) = input.split_first() else { return Outcome::Whole };
    let base = &BASES[usize::from(choice & 1)];
    let mut contents: Vec<_> = base.files.iter().map(|file| Some(file.bytes.clone())).collect();
    let forged = edit(edits, base, &mut contents);
    let disk = SimDisk::new(2);
    disk.replace("FORMAT", &base.format).expect("the simulated disk is on");
    for (file, now) in base.files.iter().zip(&contents) {
        if let Some(now) = now {
            disk.replace(&file.name, now).expect("the simulated disk is on");
        }
    }
    let (found, error) = read(&disk);
    if forged {
        return Outcome::Forged;
    }
    // Older segments are removed when nobody needs them any more: what is kept begins with the first that is there.
    let first =
        contents.iter().position(Option::is_some).map_or(base.entries.len(), |i| base.files[i].groups[0].2);
    let expected = &base.entries[first..];
    let changed = |index: usize| {
        let (before, now) = (&base.files[index].bytes, contents[index].as_ref()?);
        let differs = |at: &usize| before.get(*at) != now.get(*at);
        let all = 0..before.len().max(now.len());
        Some(all.clone().find(differs)?..all.clone().rfind(differs)? + 1)
    };
    let changes = || {
        let change =
            |(index, file): (usize, &File)| (file.name.clone(), contents[index].is_some(), changed(index));
        base.files.iter().enumerate().map(change).collect::<Vec<_>>()
    };
    assert!(
        expected.starts_with(&found),
        "{} records, not all as they were written: {:?}",
        found.len(),
        changes()
    );
    let reported = error.is_some();
    match error {
        None => {
            let proven = proven(base, &contents);
            let found = first + found.len();
            assert!(found >= proven, "{found} records of {proven} that were synced: {:?}", changes());
        }
        Some(LogError::Corrupt { file, at, .. }) => match base.files.iter().position(|f| f.name == file) {
            Some(index) if contents[index].is_some() => {
                let changed = changed(index).expect("what is reported was changed");
                assert!(
                    (at as usize) < changed.end,
                    "byte {at} of {file} is reported, {changed:?} were changed"
                );
            }
            Some(_) => assert_eq!(at, 0, "a file that is missing"),
            None => panic!("{file} was never there"),
        },
        Some(LogError::Format(what)) => {
            let is_page = |index| changed(index).is_some_and(|changed| changed.start < SEGMENT_HEADER);
            assert!((0..contents.len()).any(is_page), "{what}");
        }
        Some(error) => panic!("{error}"),
    }
    match found.len() {
        _ if reported => Outcome::Reported,
        all if all == expected.len() => Outcome::Whole,
        _ => Outcome::Cut,
    }
}

/// How many records of the log are known to have been synced by what was not changed: a group says that what stands
/// before it was, and so does the page of a segment.
fn proven(base: &Base, contents: &[Option<Vec<u8>>]) -> usize {
    let mut most = 0;
    for (index, (file, now)) in base.files.iter().zip(contents).enumerate() {
        let Some(now) = now else { continue };
        let same =
            |from: usize, to: usize| now.get(from..to).is_some_and(|bytes| *bytes == file.bytes[from..to]);
        if same(0, SEGMENT_HEADER) {
            most = most.max(file.groups[0].2);
        }
        for (place, &(start, end, before)) in file.groups.iter().enumerate() {
            if same(start, end) {
                most = most.max(before);
            }
            // It is proven to have been written, although not to have been synced, and nothing is in its way.
            if same(0, end) {
                let after =
                    file.groups.get(place + 1).or_else(|| Some(&base.files.get(index + 1)?.groups[0]));
                most = most.max(after.map_or(base.entries.len(), |&(_, _, before)| before));
            }
        }
    }
    most
}

/// All records, up to the first error.
fn read(disk: &SimDisk) -> (Vec<Arc<Entry>>, Option<LogError>) {
    let inspection = match Inspection::open_on(disk) {
        Ok(inspection) => inspection,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut found = Vec::new();
    for entry in inspection.entries() {
        match entry {
            Ok(entry) => found.push(entry),
            Err(error) => {
                assert!(inspection.verify().is_err(), "{error}");
                return (found, Some(error));
            }
        }
    }
    let verified = inspection.verify().expect("all of it was read");
    assert_eq!(verified.records, found.len() as u64);
    (found, None)
}
