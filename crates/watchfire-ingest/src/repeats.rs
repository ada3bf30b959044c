//! Exact repeats: a device that got no acknowledgement sends its reading again, and rules must see it once.
//!
//! A reading is known again by device, event time and metrics with their values. The last N of each device are
//! remembered, in a shard per partition. An entry is there from before the append; a repeat is acknowledged with the
//! append of its original, and where that fails, the entry is forgotten before anybody is told.
//!
//! A reading that is later than all before of its device is no repeat: that is the common case, and costs one
//! comparison.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use watchfire_model::batch::{NO_BOOLEAN, NO_TEXT};
use watchfire_model::{Batch, Column, DeviceHandle, PartitionId, Timestamp, Values};
use xxhash_rust::xxh3::xxh3_64;

use crate::flight::Flight;

/// Remembers the last readings of every device.
#[derive(Debug)]
pub struct Repeats {
    per_device: usize,
    shards: Vec<Mutex<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    devices: Vec<Memory>,
    /// Appends that have not landed, in the order in which they began, with what they brought.
    flights: VecDeque<(Arc<Flight>, Vec<(DeviceHandle, u64)>)>,
}

/// A ring of hashes; `next` is where the oldest stands once the ring is full.
#[derive(Clone, Debug)]
struct Memory {
    newest: Timestamp,
    next: u32,
    hashes: Vec<u64>,
}

/// What the memory knows of a batch.
#[derive(Debug, Default)]
pub struct Sighting {
    /// Rows that repeat what is remembered, ascending.
    pub repeats: Vec<u32>,
    /// Appends of originals that have not landed: the repeats are acknowledged with them.
    pub originals: Vec<Arc<Flight>>,
}

/// What is remembered of a partition: of each device, by handle, the latest event time, and the hashes, oldest
/// first.
pub type Remembered = Vec<(Timestamp, Vec<u64>)>;

/// Devices whose memory is copied at a time: a source waits for the lock meanwhile.
const COPIED_AT_ONCE: usize = 512;

impl Default for Memory {
    fn default() -> Self {
        Self { newest: Timestamp(i64::MIN), next: 0, hashes: Vec::new() }
    }
}

impl Memory {
    fn insert(&mut self, hash: u64, time: Timestamp, most: usize) {
        self.newest = self.newest.max(time);
        if self.hashes.len() < most {
            self.hashes.push(hash);
        } else {
            self.hashes[self.next as usize] = hash;
            self.next = (self.next + 1) % most as u32;
        }
    }

    fn oldest_first(&self) -> Vec<u64> {
        let (new, old) = self.hashes.split_at(self.next as usize);
        [old, new].concat()
    }

    fn forget(&mut self, hash: u64) {
        if self.hashes.contains(&hash) {
            let kept: Vec<u64> = self.oldest_first().into_iter().filter(|h| *h != hash).collect();
            (self.hashes, self.next) = (kept, 0);
        }
    }
}

impl Shard {
    fn device(&mut self, device: DeviceHandle) -> &mut Memory {
        let at = device.0 as usize;
        if at >= self.devices.len() {
            self.devices.resize_with(at + 1, Memory::default);
        }
        &mut self.devices[at]
    }
}

impl Repeats {
    /// A memory of the last `per_device` readings of each device; 0 remembers nothing.
    pub fn new(partitions: u16, per_device: usize) -> Self {
        Self { per_device, shards: (0..partitions).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, partition: PartitionId) -> Option<MutexGuard<'_, Shard>> {
        let shard = self.shards.get(usize::from(partition.0))?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Remembers the rows of a batch that is about to be appended by this flight, and says which of them repeat
    /// others. Rows of `untimed` have no time of their own: nobody can tell them from new ones.
    pub fn sight(
        &self,
        partition: PartitionId,
        batch: &Batch,
        untimed: &[u32],
        flight: &Arc<Flight>,
    ) -> Sighting {
        let mut sighting = Sighting::default();
        if self.per_device == 0 || batch.rows() == 0 {
            return sighting;
        }
        let hashes = hashes(batch);
        let Some(mut shard) = self.shard(partition) else { return sighting };
        let mut fresh = Vec::with_capacity(hashes.len());
        let mut untimed = untimed.iter().copied().peekable();
        for (row, ((&device, &time), &hash)) in (0..).zip(batch.devices.iter().zip(&batch.times).zip(&hashes))
        {
            let timed = untimed.next_if_eq(&row).is_none();
            let memory = shard.device(device);
            if timed && time <= memory.newest && memory.hashes.contains(&hash) {
                sighting.repeats.push(row);
                let original = shard.flights.iter().find(|(_, rows)| rows.contains(&(device, hash)));
                if let Some((original, _)) = original
                    && !sighting.originals.iter().any(|known| Arc::ptr_eq(known, original))
                {
                    sighting.originals.push(original.clone());
                }
            } else {
                memory.insert(hash, time, self.per_device);
                fresh.push((device, hash));
            }
        }
        if !fresh.is_empty() {
            shard.flights.push_back((flight.clone(), fresh));
        }
        sighting
    }

    /// The append has an outcome: what it brought is remembered for good, or forgotten. Call this before the flight
    /// lands.
    pub fn settle(&self, partition: PartitionId, flight: &Arc<Flight>, durable: bool) {
        let Some(mut shard) = self.shard(partition) else { return };
        let Some(at) = shard.flights.iter().position(|(known, _)| Arc::ptr_eq(known, flight)) else { return };
        let Some((_, rows)) = shard.flights.remove(at) else { return };
        if !durable {
            for (device, hash) in rows {
                shard.device(device).forget(hash);
            }
        }
    }

    /// Remembers rows of the log, in its order: how the memory is brought up to date at a start. Rows that are
    /// remembered already stay where they are.
    pub fn observe(&self, partition: PartitionId, batch: &Batch) {
        if self.per_device == 0 {
            return;
        }
        let hashes = hashes(batch);
        let Some(mut shard) = self.shard(partition) else { return };
        for ((&device, &time), &hash) in batch.devices.iter().zip(&batch.times).zip(&hashes) {
            let memory = shard.device(device);
            if time > memory.newest || !memory.hashes.contains(&hash) {
                memory.insert(hash, time, self.per_device);
            }
        }
    }

    /// Every append that is on its way now.
    pub fn flights(&self) -> Vec<Arc<Flight>> {
        let partitions = (0..self.shards.len() as u16).map(PartitionId);
        partitions
            .filter_map(|partition| self.shard(partition))
            .flat_map(|shard| shard.flights.iter().map(|(flight, _)| flight.clone()).collect::<Vec<_>>())
            .collect()
    }

    /// What is remembered of appends that have landed well. What is on its way may come to nothing: a device that was
    /// told so, and sends again after a restart, must not find itself remembered.
    pub fn landed(&self, partition: PartitionId) -> Remembered {
        let mut remembered = Remembered::new();
        loop {
            let Some(shard) = self.shard(partition) else { return remembered };
            let from = remembered.len();
            if from >= shard.devices.len() {
                return remembered;
            }
            let on_its_way: HashSet<(DeviceHandle, u64)> =
                shard.flights.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
            let some = shard.devices[from..].iter().take(COPIED_AT_ONCE).enumerate().map(|(i, memory)| {
                let device = DeviceHandle((from + i) as u32);
                let mut hashes = memory.oldest_first();
                if !on_its_way.is_empty() {
                    hashes.retain(|hash| !on_its_way.contains(&(device, *hash)));
                }
                (memory.newest, hashes)
            });
            remembered.extend(some);
        }
    }

    /// Remembers this, instead of what was there.
    pub fn restore(&self, partition: PartitionId, remembered: Remembered) {
        let Some(mut shard) = self.shard(partition) else { return };
        let kept = |(newest, mut hashes): (Timestamp, Vec<u64>)| {
            hashes.drain(..hashes.len().saturating_sub(self.per_device));
            Memory { newest, next: 0, hashes }
        };
        shard.devices = remembered.into_iter().map(kept).collect();
    }
}

/// Multiplies to 128 bits and folds: every bit of the result depends on every bit of both.
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0xa076_1d64_78bd_642f) * u128::from(b ^ 0xe703_7ed1_a0b4_28db);
    (product as u64) ^ (product >> 64) as u64
}

/// A hash of each row: time, and metrics with their values, in whichever order and form the columns stand. Values
/// are added up, so a column is hashed at a time.
fn hashes(batch: &Batch) -> Vec<u64> {
    let mut hashes: Vec<u64> = batch
        .devices
        .iter()
        .zip(&batch.times)
        .map(|(device, time)| mix(time.0 as u64, u64::from(device.0)))
        .collect();
    for Column { metric, rows, values } in &batch.columns {
        let name = xxh3_64(metric.as_bytes()).wrapping_add(values.kind() as u64);
        let mut add = |at: usize, value: u64| {
            let row = rows.as_ref().map_or(at, |rows| rows[at] as usize);
            hashes[row] = hashes[row].wrapping_add(mix(name, value));
        };
        match values {
            Values::Numbers(numbers) => {
                numbers
                    .iter()
                    .enumerate()
                    .filter(|(_, x)| !x.is_nan())
                    .for_each(|(at, x)| add(at, x.to_bits()));
            }
            Values::Texts(texts) => {
                let texts_of: Vec<u64> =
                    texts.dictionary.iter().map(|text| xxh3_64(text.as_bytes())).collect();
                let codes = texts.codes.iter().enumerate().filter(|(_, code)| **code != NO_TEXT);
                codes.for_each(|(at, code)| add(at, texts_of[*code as usize]));
            }
            Values::Booleans(flags) => {
                let flags = flags.iter().enumerate().filter(|(_, flag)| **flag != NO_BOOLEAN);
                flags.for_each(|(at, flag)| add(at, u64::from(*flag)));
            }
        }
    }
    hashes
}

/// The batch without some rows (ascending).
pub(crate) fn without(batch: &Batch, gone: &[u32]) -> Batch {
    let kept: Vec<u32> = {
        let mut gone = gone.iter().copied().peekable();
        (0..batch.rows() as u32).filter(|row| gone.next_if_eq(row).is_none()).collect()
    };
    let mut builder = watchfire_model::BatchBuilder::new();
    // Row by row: repeats are rare, and this keeps the columns in the form that a builder gives them.
    let mut places = vec![0_usize; batch.columns.len()];
    for row in kept {
        builder.begin(batch.devices[row as usize], batch.times[row as usize]);
        for (column, place) in batch.columns.iter().zip(&mut places) {
            let at = match &column.rows {
                None => row as usize,
                Some(rows) => {
                    *place += rows[*place..].iter().take_while(|r| **r < row).count();
                    if rows.get(*place) != Some(&row) {
                        continue;
                    }
                    *place
                }
            };
            // A batch has each metric once a row: adding it cannot fail.
            let _ = match &column.values {
                Values::Numbers(numbers) if !numbers[at].is_nan() => {
                    builder.number(&column.metric, numbers[at])
                }
                Values::Texts(texts) if texts.codes[at] != NO_TEXT => {
                    builder.text(&column.metric, &texts.dictionary[texts.codes[at] as usize])
                }
                Values::Booleans(flags) if flags[at] != NO_BOOLEAN => {
                    builder.boolean(&column.metric, flags[at] == 1)
                }
                _ => Ok(()),
            };
        }
        builder.commit();
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_log::AppendError;
    use watchfire_model::BatchBuilder;

    const P: PartitionId = PartitionId(0);
    const NONE: [u32; 0] = [];

    fn batch(rows: &[(u32, i64, &[(&str, f64)])]) -> Batch {
        let mut builder = BatchBuilder::new();
        for (device, time, metrics) in rows {
            builder.begin(DeviceHandle(*device), Timestamp(*time));
            for (name, value) in *metrics {
                builder.number(name, *value).unwrap();
            }
            builder.commit();
        }
        builder.finish()
    }

    fn repeats_of(memory: &Repeats, batch: &Batch) -> Vec<u32> {
        let flight = Flight::begin();
        let sighting = memory.sight(P, batch, &[], &flight);
        memory.settle(P, &flight, true);
        sighting.repeats
    }

    #[test]
    fn a_reading_is_known_by_device_time_and_values() {
        let memory = Repeats::new(1, 4);
        let first = batch(&[(0, 10, &[("a", 1.0), ("b", 2.0)]), (1, 10, &[("a", 1.0), ("b", 2.0)])]);
        assert_eq!(repeats_of(&memory, &first), NONE);
        // Other order of metrics, beside rows of other shape.
        let again = batch(&[(5, 1, &[("c", 1.0)]), (0, 10, &[("b", 2.0), ("a", 1.0)])]);
        assert_eq!(repeats_of(&memory, &again), [1]);
        let different = batch(&[
            (0, 10, &[("a", 2.0), ("b", 1.0)]),
            (0, 10, &[("a", 1.0)]),
            (0, 9, &[("a", 1.0), ("b", 2.0)]),
            (2, 10, &[("a", 1.0), ("b", 2.0)]),
        ]);
        assert_eq!(repeats_of(&memory, &different), NONE);
        // The first of device 0 was pushed out by four others? Three came: it is still known.
        assert_eq!(repeats_of(&memory, &first), [0, 1]);
        assert_eq!(repeats_of(&memory, &batch(&[(0, 11, &[("a", 1.0)])])), NONE);
        assert_eq!(repeats_of(&memory, &first), [1]);
        // Twice in one batch.
        let twice = batch(&[(7, 1, &[("a", 1.0)]), (7, 1, &[("a", 1.0)])]);
        assert_eq!(repeats_of(&memory, &twice), [1]);
    }

    #[test]
    fn a_repeat_waits_for_its_original_and_a_failed_one_is_forgotten() {
        let memory = Repeats::new(1, 4);
        let reading = batch(&[(0, 10, &[("a", 1.0)])]);
        let (first, second) = (Flight::begin(), Flight::begin());
        assert!(memory.sight(P, &reading, &[], &first).repeats.is_empty());
        let sighting = memory.sight(P, &reading, &[], &second);
        assert_eq!(sighting.repeats, [0]);
        assert!(Arc::ptr_eq(&sighting.originals[0], &first));
        memory.settle(P, &first, false);
        first.land(Err(AppendError::WriteFailed("x".into())));
        let third = Flight::begin();
        assert!(memory.sight(P, &reading, &[], &third).repeats.is_empty(), "it may come again");
        memory.settle(P, &third, true);
        let sighting = memory.sight(P, &reading, &[], &second);
        assert_eq!((sighting.repeats.len(), sighting.originals.len()), (1, 0));
    }

    #[test]
    fn readings_without_a_time_are_never_repeats() {
        let memory = Repeats::new(1, 4);
        let reading = batch(&[(0, 10, &[("a", 1.0)])]);
        let flight = Flight::begin();
        for _ in 0..2 {
            assert!(memory.sight(P, &reading, &[0], &flight).repeats.is_empty());
        }
    }

    #[test]
    fn the_memory_is_rebuilt_from_the_log_or_a_snapshot() {
        let memory = Repeats::new(1, 3);
        let readings: Vec<Batch> = (0..7).map(|i| batch(&[(i % 2, i64::from(i), &[("a", 1.0)])])).collect();
        for reading in &readings {
            repeats_of(&memory, reading);
        }
        let rebuilt = Repeats::new(1, 3);
        // Records of the log hold rows of several appends.
        let mut whole = BatchBuilder::new();
        readings.iter().for_each(|reading| whole.append(reading));
        rebuilt.observe(P, &whole.finish());
        assert_eq!(rebuilt.landed(P), memory.landed(P));
        let restored = Repeats::new(1, 3);
        restored.restore(P, memory.landed(P));
        // Records that are in the snapshot already change nothing.
        restored.observe(P, &readings[6]);
        assert_eq!(restored.landed(P), memory.landed(P));
        for memory in [memory, rebuilt, restored] {
            let known: Vec<bool> = readings.iter().map(|r| !repeats_of(&memory, r).is_empty()).collect();
            // Device 0 had four readings: its first is pushed out, and coming again pushes out the next.
            assert!(known[1]);
            assert!(!known[0]);
        }
    }

    #[test]
    fn what_is_on_its_way_is_not_kept() {
        let memory = Repeats::new(1, 4);
        repeats_of(&memory, &batch(&[(0, 1, &[("a", 1.0)])]));
        let before = memory.landed(P);
        let flight = Flight::begin();
        memory.sight(P, &batch(&[(0, 2, &[("a", 2.0)]), (600, 1, &[("a", 1.0)])]), &[], &flight);
        let (during, on_their_way) = (memory.landed(P), memory.flights());
        assert_eq!(during[0].1, before[0].1);
        assert_eq!((during.len(), during[600].1.len(), on_their_way.len()), (601, 0, 1));
        memory.settle(P, &flight, true);
        let after = memory.landed(P);
        assert_eq!((after[0].1.len(), after[600].1.len(), memory.flights().len()), (2, 1, 0));
    }

    #[test]
    fn rows_are_taken_out() {
        let whole = batch(&[
            (0, 1, &[("a", 1.0)]),
            (1, 2, &[("b", 2.0)]),
            (2, 3, &[("a", 3.0)]),
            (3, 4, &[("a", 4.0), ("b", 5.0)]),
        ]);
        let expected = batch(&[(1, 2, &[("b", 2.0)]), (3, 4, &[("a", 4.0), ("b", 5.0)])]);
        let rest = without(&whole, &[0, 2]);
        assert_eq!((rest.devices, rest.times), (expected.devices, expected.times));
        assert_eq!(rest.columns.len(), 2);
    }
}
