//! The memory of repeats, and how far sources have read, over a restart. A file holds what was remembered up to a place in the log; a start reads it,
//! and the log from there on. So a device that sends again, hours and a crash later, what it got no acknowledgement
//! for is still recognised.
//!
//! The file is a cache of the log: where it is missing, damaged, or of another log, the latest records are read
//! instead, and repeats of older readings are not known again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use watchfire_log::{LogError, Record};
use watchfire_model::{Offset, PartitionId, READINGS, Timestamp};
use xxhash_rust::xxh3::Xxh3;

use crate::intake::Intake;
use crate::places::{Key, Place};
use crate::repeats::Remembered;

/// The name under which the log is kept for the next start.
const READER: &str = "repeats";
/// Grows when the bytes change their meaning.
const MAGIC: &[u8; 8] = b"wfrepts2";
/// Without places of sources: there were none yet.
const BEFORE_PLACES: &[u8; 8] = b"wfrepts1";
/// Records of each partition that are read where there is no file: what was on its way when the engine died, and
/// much more.
const LOOK_BACK: u64 = 20_000;
/// Of each partition the offset that comes next and what is remembered up to it; places of sources.
type Kept = (Vec<(Offset, Remembered)>, BTreeMap<Key, Place>);
/// Appends that are on their way are given this long; else the file is written another time.
const PATIENCE: Duration = Duration::from_secs(30);

impl Intake {
    /// Brings the memory of repeats to the end of the log, from the file and what came after it; gives how many
    /// readings of the log that took. Call it at a start, before sources are opened; it reads the disk and blocks.
    pub fn restore_repeats(&self, path: &Path) -> Result<u64, LogError> {
        let log = self.log();
        let partitions: Vec<PartitionId> = (0..log.partitions()).map(PartitionId).collect();
        let usable = |(kept, _): &Kept| {
            let fits = |(id, (next, _)): (&PartitionId, &(Offset, Remembered))| {
                let (first, end) = log.range(*id);
                (first..=end).contains(next)
            };
            kept.len() == partitions.len() && partitions.iter().zip(kept).all(fits)
        };
        let kept = match std::fs::read(path) {
            Ok(bytes) => decode(&bytes, log.epoch().0).filter(usable).map_or_else(
                || {
                    tracing::warn!(path = %path.display(), "the memory of repeats is not of this log: the latest records are read");
                    None
                },
                Some,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the memory of repeats cannot be read");
                None
            }
        };
        let look_back = |id: &PartitionId| {
            let (first, end) = log.range(*id);
            (first.max(end.saturating_sub(LOOK_BACK)), Remembered::new())
        };
        let (kept, places) =
            kept.unwrap_or_else(|| (partitions.iter().map(look_back).collect(), BTreeMap::new()));
        self.places().restore(places);
        let mut readings = 0;
        for (partition, (from, remembered)) in partitions.into_iter().zip(kept) {
            self.repeats().restore(partition, remembered);
            log.set_cursor(READER, partition, from);
            let mut reader = log.reader(partition, from)?;
            while let Some(entry) = reader.next()? {
                match &entry.record {
                    Record::Readings { stream, origin: None, batch } if **stream == *READINGS => {
                        self.repeats().observe(partition, batch);
                        readings += batch.rows() as u64;
                    }
                    Record::Consumed(consumed) => self.places().observe(consumed),
                    _ => {}
                }
            }
        }
        Ok(readings)
    }

    /// Writes the file, and lets go of the log before it. Nothing is written where appends do not land: then the file
    /// before is as good.
    pub async fn save_repeats(&self, path: &Path) -> io::Result<()> {
        let log = self.log();
        let partitions: Vec<PartitionId> = (0..log.partitions()).map(PartitionId).collect();
        // The ends first. Whatever stands before them was on its way by now, and is remembered once that has landed;
        // what comes later stands behind them, and is read from the log.
        let ends: Vec<Offset> = partitions.iter().map(|id| log.range(*id).1).collect();
        for flight in self.repeats().flights().into_iter().chain(self.places().flights()) {
            let landed = tokio::time::timeout(PATIENCE, flight.wait()).await;
            landed.map(drop).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        }
        let mut out = Encoder::new(log.epoch().0, partitions.len());
        for (partition, end) in partitions.iter().zip(&ends) {
            out.partition(*end, &self.repeats().landed(*partition));
        }
        out.places(&self.places().all());
        let (bytes, to) = (out.finish(), path.to_owned());
        tokio::task::spawn_blocking(move || write(&to, &bytes)).await??;
        for (partition, end) in partitions.into_iter().zip(ends) {
            log.set_cursor(READER, partition, end);
        }
        Ok(())
    }
}

/// Beside the file, and then over it: it is always whole.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Little endian: magic, epoch, partitions; of each the offset that comes next, its devices; of each the latest event
/// time, its hashes; places of sources; in the end the XXH3 of all of it.
struct Encoder(Vec<u8>);

impl Encoder {
    fn new(epoch: u32, partitions: usize) -> Self {
        let mut out = MAGIC.to_vec();
        out.extend(epoch.to_le_bytes());
        out.extend((partitions as u32).to_le_bytes());
        Self(out)
    }

    fn partition(&mut self, next: Offset, remembered: &Remembered) {
        let hashes: usize = remembered.iter().map(|(_, hashes)| hashes.len()).sum();
        self.0.reserve(12 + remembered.len() * 12 + hashes * 8);
        self.0.extend(next.to_le_bytes());
        self.0.extend((remembered.len() as u32).to_le_bytes());
        for (newest, hashes) in remembered {
            self.0.extend(newest.0.to_le_bytes());
            self.0.extend((hashes.len() as u32).to_le_bytes());
            hashes.iter().for_each(|hash| self.0.extend(hash.to_le_bytes()));
        }
    }

    fn places(&mut self, places: &BTreeMap<Key, Place>) {
        self.0.extend((places.len() as u32).to_le_bytes());
        for ((source, topic, partition), place) in places {
            for text in [source, topic] {
                self.0.extend((text.len() as u32).to_le_bytes());
                self.0.extend(text.as_bytes());
            }
            self.0.extend(partition.to_le_bytes());
            self.0.extend(place.next.to_le_bytes());
            self.0.extend((place.beyond.len() as u32).to_le_bytes());
            for (from, to) in &place.beyond {
                self.0.extend(from.to_le_bytes());
                self.0.extend(to.to_le_bytes());
            }
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let hash = checksum(&self.0);
        self.0.extend(hash.to_le_bytes());
        self.0
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(bytes);
    hash.digest()
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn take_text(bytes: &mut &[u8]) -> Option<String> {
    let length = u32::from_le_bytes(take(bytes)?) as usize;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// `None`: damaged, or of another epoch.
fn decode(bytes: &[u8], epoch: u32) -> Option<Kept> {
    let (mut body, hash) = bytes.split_last_chunk::<8>()?;
    let magic = take(&mut body)?;
    if checksum(&bytes[..bytes.len() - 8]) != u64::from_le_bytes(*hash)
        || ![MAGIC, BEFORE_PLACES].contains(&&magic)
    {
        return None;
    }
    if u32::from_le_bytes(take(&mut body)?) != epoch {
        return None;
    }
    let mut kept = Vec::new();
    for _ in 0..u32::from_le_bytes(take(&mut body)?) {
        let next = u64::from_le_bytes(take(&mut body)?);
        let mut remembered = Remembered::new();
        for _ in 0..u32::from_le_bytes(take(&mut body)?) {
            let newest = Timestamp(i64::from_le_bytes(take(&mut body)?));
            let count = u32::from_le_bytes(take(&mut body)?) as usize;
            let (hashes, rest) = body.split_at_checked(count.checked_mul(8)?)?;
            body = rest;
            let hashes = hashes.as_chunks::<8>().0.iter().map(|hash| u64::from_le_bytes(*hash)).collect();
            remembered.push((newest, hashes));
        }
        kept.push((next, remembered));
    }
    let mut places = BTreeMap::new();
    if magic == *MAGIC {
        for _ in 0..u32::from_le_bytes(take(&mut body)?) {
            let (source, topic) = (take_text(&mut body)?, take_text(&mut body)?);
            let partition = i32::from_le_bytes(take(&mut body)?);
            let mut place = Place { next: i64::from_le_bytes(take(&mut body)?), beyond: BTreeMap::new() };
            for _ in 0..u32::from_le_bytes(take(&mut body)?) {
                let from = i64::from_le_bytes(take(&mut body)?);
                place.beyond.insert(from, i64::from_le_bytes(take(&mut body)?));
            }
            places.insert((source, topic, partition), place);
        }
    }
    body.is_empty().then_some((kept, places))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_back_whole_or_not_at_all() {
        let remembered = vec![(Timestamp(5), vec![1, 2, 3]), (Timestamp(i64::MIN), Vec::new())];
        let mut out = Encoder::new(7, 2);
        out.partition(99, &remembered);
        out.partition(0, &Remembered::new());
        let place = Place { next: 7, beyond: BTreeMap::from([(9, 12)]) };
        let places = BTreeMap::from([(("kafka".to_string(), "t".to_string(), 3), place)]);
        out.places(&places);
        let bytes = out.finish();
        assert_eq!(decode(&bytes, 7), Some((vec![(99, remembered), (0, Remembered::new())], places)));
        assert_eq!(decode(&bytes, 8), None, "another epoch");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged, 7), None, "byte {at}");
            assert_eq!(decode(&bytes[..at], 7), None, "cut at {at}");
        }
    }
}
