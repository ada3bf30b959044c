//! Mutated bytes: never a panic, and everything that [`oracle`] says.

use watchfire_log::codec::group::{GroupHeader, SEGMENT_HEADER};
use watchfire_log::codec::record::{encode, kind};
use watchfire_log::disk::Disk;
use watchfire_log::disk::sim::SimDisk;
use watchfire_log::{Append, Log, Record};
use watchfire_model::PartitionId;

use crate::help::*;
use crate::oracle::{self, Outcome};

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                2 => bytes.truncate(at),
                3 if at < bytes.len() => drop(bytes.remove(at)),
                // A count or a length, at either end of what it can say.
                4 => {
                    let value = [0_u32, 1, 0x7fff_ffff, u32::MAX][self.below(4)].to_le_bytes();
                    bytes.iter_mut().skip(at).zip(value).for_each(|(byte, value)| *byte = value);
                }
                _ => {
                    let end = at + self.below(bytes.len() - at + 1).min(64);
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
        }
    }
}

/// Records of every kind that a log holds, groups of them, and pages of segments, each behind the byte that tells
/// the oracle what it is.
fn seeds() -> Vec<Vec<u8>> {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk, options()).unwrap();
    for number in 0..12 {
        let mut append = rows((number % 3) as u16, number..number + 5);
        if let Append::Intake { rejects, .. } = &mut append {
            rejects.push((PartitionId(0), reject(number)));
        }
        durable(log.append(append).unwrap()).unwrap();
        durable(log.append(control(number)).unwrap()).unwrap();
        durable(log.append(redo(number)).unwrap()).unwrap();
    }
    let ticks = vec![(PartitionId(1), Record::Tick), (PartitionId(2), Record::CheckpointMark)];
    durable(log.append(Append::Records(ticks)).unwrap()).unwrap();
    log.close();
    let mut seeds = Vec::new();
    for entry in (0..PARTITIONS).flat_map(|partition| read(&*log, partition, 0)) {
        let mut seed = vec![kind(&entry.record) << 1];
        encode(&entry.record, &mut seed).unwrap();
        seeds.push(seed);
    }
    for name in disk.list().unwrap().iter().filter(|name| name.starts_with("segment-")) {
        let bytes = disk.content(name).unwrap();
        seeds.push([&[3], &bytes[..SEGMENT_HEADER]].concat());
        let mut at = SEGMENT_HEADER;
        while let Ok(header) = GroupHeader::decode(&bytes[at..]) {
            seeds.push([&[2], &bytes[at..at + header.length()]].concat());
            at += header.length();
        }
    }
    seeds
}

#[test]
fn mutated_records_groups_and_pages_are_read_as_they_are_written_or_refused() {
    let (seeds, mut random) = (seeds(), Random(7));
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..60_000 {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        let choice = bytes.remove(0);
        random.mutate(&mut bytes);
        bytes.insert(0, choice);
        if oracle::codec(&bytes) { accepted += 1 } else { refused += 1 }
    }
    // Mutations that all miss, or all hit, would prove nothing.
    assert!(accepted > 5_000 && refused > 5_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn a_damaged_log_is_recovered_or_reported() {
    let mut random = Random(11);
    let mut outcomes = [0; 4];
    for _ in 0..4_000 {
        let length = 1 + 12 * (1 + random.below(3));
        let input: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        outcomes[match oracle::recovery(&input) {
            Outcome::Whole => 0,
            Outcome::Cut => 1,
            Outcome::Reported => 2,
            Outcome::Forged => 3,
        }] += 1;
    }
    assert!(outcomes.iter().all(|&count| count > 50), "{outcomes:?}");
}
