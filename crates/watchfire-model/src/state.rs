//! Keyed state of one rule in one partition, hot in memory: a blob for each (slot, device).

use std::collections::BTreeMap;

use crate::id::DeviceHandle;

/// Many byte strings in two flat lists: entry i is the next `lengths[i]` bytes of `data`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blobs {
    /// Length of each entry, in bytes.
    pub lengths: Vec<u32>,
    /// All entries, one behind the other.
    pub data: Vec<u8>,
}

impl Blobs {
    /// The entries. Stops where `data` ends early: see [`Blobs::is_consistent`].
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        self.lengths.iter().map_while(move |&length| {
            let blob = self.data.get(at..at + length as usize)?;
            at += length as usize;
            Some(blob)
        })
    }

    /// Adds an entry.
    pub fn push(&mut self, blob: &[u8]) {
        self.lengths.push(blob.len() as u32);
        self.data.extend_from_slice(blob);
    }

    /// Whether the lengths add up to the data.
    pub fn is_consistent(&self) -> bool {
        self.lengths.iter().map(|&length| u64::from(length)).sum::<u64>() == self.data.len() as u64
    }
}

/// Some blobs of one slot, in order of device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The slot.
    pub slot: u32,
    /// Whose they are.
    pub devices: Vec<DeviceHandle>,
    /// An entry for each of them.
    pub blobs: Blobs,
}

/// What each stored blob counts for in [`KeyedState::size`] beyond its bytes: its place in memory, and its key
/// in a checkpoint.
pub const BLOB_OVERHEAD: u64 = 64;

/// What a rule keeps about its devices. Blobs of one slot lie in one arena: no allocation a device. What it
/// takes in memory is a small multiple of [`KeyedState::size`], however slots and devices are spread.
#[derive(Clone, Debug, Default)]
pub struct KeyedState {
    slots: BTreeMap<u32, Slot>,
    stored: Stored,
}

/// Blobs, and their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Stored {
    blobs: usize,
    bytes: u64,
}

impl Stored {
    fn replace(&mut self, old: usize, new: usize) {
        self.blobs = self.blobs + usize::from(new > 0) - usize::from(old > 0);
        self.bytes = self.bytes + new as u64 - old as u64;
    }
}

#[derive(Clone, Debug, Default)]
struct Slot {
    places: Places,
    /// Places with a blob.
    used: usize,
    arena: Vec<u8>,
    /// Bytes of the arena that no place refers to any more.
    waste: usize,
    dirty: Vec<DeviceHandle>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    start: usize,
    length: u32,
    capacity: u32,
    dirty: bool,
}

/// Where the blobs of a slot are, by device handle. Most rules keep something for most devices; a slot that
/// is used for few of many must not cost a place for each of them.
#[derive(Clone, Debug)]
enum Places {
    Dense(Vec<Place>),
    Sparse(BTreeMap<u32, Place>),
}

/// Places that are never too many to be dense.
const ALWAYS_DENSE: usize = 256;

impl Default for Places {
    fn default() -> Self {
        Self::Dense(Vec::new())
    }
}

impl Places {
    fn get(&self, device: u32) -> Option<&Place> {
        match self {
            Self::Dense(places) => places.get(device as usize),
            Self::Sparse(places) => places.get(&device),
        }
    }

    fn get_mut(&mut self, device: u32) -> Option<&mut Place> {
        match self {
            Self::Dense(places) => places.get_mut(device as usize),
            Self::Sparse(places) => places.get_mut(&device),
        }
    }

    /// The place of a device, made if there is none. `used` places have a blob.
    fn get_or_new(&mut self, device: u32, used: usize) -> &mut Place {
        let wanted = device as usize + 1;
        match self {
            Self::Dense(places) if wanted > places.len().max(ALWAYS_DENSE) && wanted / 8 > used => {
                self.thin()
            }
            // Half as many as what makes it sparse: a slot between the two does not go to and fro.
            Self::Sparse(places) if used > 0 && last(places).max(wanted) / 4 <= used => {
                let mut dense = vec![Place::default(); last(places).max(wanted)];
                places.iter().for_each(|(&device, &place)| dense[device as usize] = place);
                *self = Self::Dense(dense);
            }
            _ => {}
        }
        match self {
            Self::Dense(places) => {
                if wanted > places.len() {
                    places.resize(wanted, Place::default());
                }
                &mut places[device as usize]
            }
            Self::Sparse(places) => places.entry(device).or_default(),
        }
    }

    /// Gives places without a blob up, where they are most of them. `used` places have a blob.
    fn tidy(&mut self, used: usize) {
        match self {
            Self::Dense(places) if places.len() > ALWAYS_DENSE && places.len() / 16 > used => self.thin(),
            Self::Dense(_) => {}
            Self::Sparse(places) => places.retain(|_, place| place.length > 0 || place.dirty),
        }
    }

    fn thin(&mut self) {
        let kept = self.iter().filter(|(_, place)| place.length > 0 || place.dirty);
        *self = Self::Sparse(kept.map(|(device, place)| (device, *place)).collect());
    }

    /// In order of device.
    fn iter(&self) -> Box<dyn Iterator<Item = (u32, &Place)> + '_> {
        match self {
            Self::Dense(places) => Box::new((0..).zip(places)),
            Self::Sparse(places) => Box::new(places.iter().map(|(&device, place)| (device, place))),
        }
    }

    /// In order of device, from the first one that is not below `from`.
    fn iter_from(&self, from: u32) -> Box<dyn Iterator<Item = (u32, &Place)> + '_> {
        match self {
            Self::Dense(places) => Box::new((from..).zip(places.get(from as usize..).unwrap_or_default())),
            Self::Sparse(places) => Box::new(places.range(from..).map(|(&device, place)| (device, place))),
        }
    }

    /// In order of device.
    fn iter_mut(&mut self) -> Box<dyn Iterator<Item = (u32, &mut Place)> + '_> {
        match self {
            Self::Dense(places) => Box::new((0..).zip(places)),
            Self::Sparse(places) => Box::new(places.iter_mut().map(|(&device, place)| (device, place))),
        }
    }
}

/// Places that a dense slot would have.
fn last(places: &BTreeMap<u32, Place>) -> usize {
    places.last_key_value().map_or(0, |(&device, _)| device as usize + 1)
}

impl Slot {
    fn get(&self, device: DeviceHandle) -> &[u8] {
        self.places.get(device.0).map_or(&[], |place| self.blob(place))
    }

    fn blob(&self, place: &Place) -> &[u8] {
        &self.arena[place.start..place.start + place.length as usize]
    }

    fn set(&mut self, device: DeviceHandle, blob: &[u8], stored: &mut Stored) {
        let place = if blob.is_empty() {
            match self.places.get_mut(device.0) {
                Some(place) if place.length > 0 => place,
                // Nothing to remove.
                _ => return,
            }
        } else {
            self.places.get_or_new(device.0, self.used)
        };
        stored.replace(place.length as usize, blob.len());
        self.used = self.used + usize::from(!blob.is_empty()) - usize::from(place.length > 0);
        if !place.dirty {
            place.dirty = true;
            self.dirty.push(device);
        }
        if blob.len() > place.capacity as usize || blob.is_empty() {
            self.waste += place.capacity as usize;
            *place = Place { start: self.arena.len(), length: 0, capacity: blob.len() as u32, dirty: true };
            self.arena.extend_from_slice(blob);
        } else {
            self.arena[place.start..place.start + blob.len()].copy_from_slice(blob);
        }
        place.length = blob.len() as u32;
        if self.waste > 4096 && self.waste * 2 > self.arena.len() {
            self.compact();
        }
    }

    fn compact(&mut self) {
        let mut arena = Vec::with_capacity(self.arena.len() - self.waste);
        for (_, place) in self.places.iter_mut() {
            let start = arena.len();
            arena.extend_from_slice(&self.arena[place.start..place.start + place.length as usize]);
            (place.start, place.capacity) = (start, place.length);
        }
        (self.arena, self.waste) = (arena, 0);
    }
}

impl KeyedState {
    /// No state.
    pub fn new() -> Self {
        Self::default()
    }

    /// The blob of a device; empty: none.
    pub fn get(&self, slot: u32, device: DeviceHandle) -> &[u8] {
        self.slots.get(&slot).map_or(&[], |s| s.get(device))
    }

    /// Stores a blob; an empty one removes what was there.
    pub fn set(&mut self, slot: u32, device: DeviceHandle, blob: &[u8]) {
        self.slots.entry(slot).or_default().set(device, blob, &mut self.stored);
    }

    /// Stores entry i of `blobs` for `devices[i]`. The caller has checked that there are as many.
    pub fn set_many(&mut self, slot: u32, devices: &[DeviceHandle], blobs: &Blobs) {
        let slot = self.slots.entry(slot).or_default();
        for (&device, blob) in devices.iter().zip(blobs.iter()) {
            slot.set(device, blob, &mut self.stored);
        }
    }

    /// The slots in use, in order: those with a blob.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().filter(|(_, slot)| slot.used > 0).map(|(&number, _)| number)
    }

    /// How many blobs a slot has.
    pub fn used(&self, slot: u32) -> usize {
        self.slots.get(&slot).map_or(0, |slot| slot.used)
    }

    /// Everything that is stored, ordered by (slot, device).
    pub fn iter(&self) -> impl Iterator<Item = (u32, DeviceHandle, &[u8])> {
        self.slots.iter().flat_map(|(&number, slot)| {
            let used = slot.places.iter().filter(|(_, place)| place.length > 0);
            used.map(move |(device, place)| (number, DeviceHandle(device), slot.blob(place)))
        })
    }

    /// What comes next in the order of (slot, device), behind `after` (`None`: the first): blobs of one slot, at most
    /// `most` of them, and together not more than `bytes` but where a single one is. `None`: there is nothing more.
    pub fn piece_after(
        &self,
        after: Option<(u32, DeviceHandle)>,
        most: usize,
        bytes: usize,
    ) -> Option<Piece> {
        for (&number, slot) in self.slots.range(after.map_or(0, |(slot, _)| slot)..) {
            let from = match after {
                Some((same, device)) if same == number => match device.0.checked_add(1) {
                    Some(next) => next,
                    None => continue,
                },
                _ => 0,
            };
            let mut piece = Piece { slot: number, ..Piece::default() };
            for (device, place) in slot.places.iter_from(from).filter(|(_, place)| place.length > 0) {
                let full = piece.blobs.data.len() + place.length as usize > bytes;
                if piece.devices.len() >= most || (full && !piece.devices.is_empty()) {
                    break;
                }
                piece.devices.push(DeviceHandle(device));
                piece.blobs.push(slot.blob(place));
            }
            if !piece.devices.is_empty() {
                return Some(piece);
            }
        }
        None
    }

    /// What changed since the last call, ordered by (slot, device), with the present blob (empty: removed);
    /// forgets that it changed, and gives up what only that was kept for.
    pub fn take_dirty(&mut self) -> Vec<(u32, DeviceHandle, Box<[u8]>)> {
        let mut changed = Vec::new();
        for (&number, slot) in &mut self.slots {
            let mut dirty = std::mem::take(&mut slot.dirty);
            dirty.sort_unstable();
            for device in dirty {
                if let Some(place) = slot.places.get_mut(device.0) {
                    place.dirty = false;
                }
                changed.push((number, device, slot.get(device).into()));
            }
            slot.places.tidy(slot.used);
        }
        self.slots.retain(|_, slot| slot.used > 0);
        changed
    }

    /// Marks everything stored as changed: the next checkpoint writes all of it.
    pub fn mark_all_dirty(&mut self) {
        for slot in self.slots.values_mut() {
            for (device, place) in slot.places.iter_mut().filter(|(_, place)| place.length > 0) {
                if !std::mem::replace(&mut place.dirty, true) {
                    slot.dirty.push(DeviceHandle(device));
                }
            }
        }
    }

    /// Removes all state of a device.
    pub fn remove_device(&mut self, device: DeviceHandle) {
        for slot in self.slots.values_mut() {
            slot.set(device, &[], &mut self.stored);
        }
    }

    /// Bytes stored, without overhead.
    pub fn bytes(&self) -> u64 {
        self.stored.bytes
    }

    /// What counts against the limit of what a rule may keep: bytes stored, and [`BLOB_OVERHEAD`] for each
    /// blob. It depends on what is stored alone, and not on how that came about: the same in every replay.
    pub fn size(&self) -> u64 {
        self.stored.bytes + self.stored.blobs as u64 * BLOB_OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap as Map;

    type Blob = ((u32, DeviceHandle), Vec<u8>);

    fn check(state: &KeyedState, model: &Map<(u32, DeviceHandle), Vec<u8>>) {
        let all: Vec<Blob> =
            state.iter().map(|(slot, device, blob)| ((slot, device), blob.to_vec())).collect();
        assert!(all.iter().map(|(key, blob)| (key, blob)).eq(model), "in order, each with its blob");
        let bytes = model.values().map(|blob| blob.len() as u64).sum::<u64>();
        assert_eq!((state.bytes(), state.size()), (bytes, bytes + model.len() as u64 * BLOB_OVERHEAD));
        let mut slots: Vec<u32> = model.keys().map(|key| key.0).collect();
        slots.dedup();
        assert!(state.slots().eq(slots));
    }

    #[test]
    fn behaves_as_a_map_through_growth_shrinking_and_removal() {
        let (mut state, mut model) = (KeyedState::new(), Map::new());
        let mut x = 7_u64;
        let mut random = |n: u64| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 33) % n
        };
        for i in 0..20_000 {
            // Slot 0 is for all devices, 1 for some of many, 2 now for few and now for many.
            let slot = random(3) as u32;
            let spread = [1, 1000, if i % 4000 < 2000 { 40 } else { 1 }][slot as usize];
            let (device, length) = (DeviceHandle(random(50) as u32 * spread), random(90) as usize);
            let blob = vec![random(256) as u8; if length < 8 { 0 } else { length }];
            state.set(slot, device, &blob);
            if blob.is_empty() {
                model.remove(&(slot, device))
            } else {
                model.insert((slot, device), blob)
            };
            if i % 1000 == 999 {
                state.take_dirty();
                check(&state, &model);
            }
        }
        // In pieces it is the same, whatever they may hold.
        for (most, bytes) in [(1, 1 << 20), (7, 1 << 20), (1000, 100), (1000, 1), (usize::MAX, usize::MAX)] {
            let (mut all, mut after, mut pieces) = (Vec::new(), None, 0);
            while let Some(piece) = state.piece_after(after, most, bytes) {
                let size = piece.blobs.data.len();
                assert!(piece.devices.len() <= most && (size <= bytes || piece.devices.len() == 1));
                after = piece.devices.last().map(|device| (piece.slot, *device));
                let blobs = piece.devices.iter().zip(piece.blobs.iter());
                all.extend(blobs.map(|(device, blob)| ((piece.slot, *device), blob.to_vec())));
                pieces += 1;
            }
            assert!(all.iter().map(|(key, blob)| (key, blob)).eq(&model));
            assert!(pieces >= if most == usize::MAX { 3 } else { 100_usize.min(all.len() / most) });
        }
        state.mark_all_dirty();
        let dirty = state.take_dirty();
        assert!(dirty.iter().map(|(slot, device, _)| (*slot, *device)).eq(model.keys().copied()));
        assert!(state.take_dirty().is_empty());
        state.set(0, DeviceHandle(3), b"new");
        assert_eq!(state.take_dirty(), [(0, DeviceHandle(3), b"new"[..].into())]);
        state.remove_device(DeviceHandle(3));
        model.retain(|(_, device), _| *device != DeviceHandle(3));
        check(&state, &model);
        // What was removed is told once, and what was never there is not.
        state.remove_device(DeviceHandle(4711));
        assert!(
            state.take_dirty().iter().all(|(_, device, blob)| *device == DeviceHandle(3) && blob.is_empty())
        );
    }

    #[test]
    fn slots_that_are_hardly_used_or_not_any_more_take_no_room() {
        let mut state = KeyedState::new();
        for slot in 0..1000 {
            state.set(slot, DeviceHandle(1_000_000), b"far");
            state.set(slot, DeviceHandle(999_999), b"");
        }
        assert!(state.slots.values().all(|slot| matches!(&slot.places, Places::Sparse(p) if p.len() == 1)));
        // A slot that comes to be used for most devices is dense, in whatever order they come.
        for device in (0..3000).rev() {
            state.set(5000, DeviceHandle(device), b"all");
        }
        assert!(matches!(state.slots[&5000].places, Places::Dense(_)));
        assert_eq!(state.used(5000), 3000);
        for slot in 0..1000 {
            state.set(slot, DeviceHandle(1_000_000), b"");
        }
        for device in 10..3000 {
            state.set(5000, DeviceHandle(device), b"");
        }
        assert_eq!(state.slots().collect::<Vec<_>>(), [5000]);
        state.take_dirty();
        assert_eq!(state.slots.len(), 1);
        assert!(matches!(&state.slots[&5000].places, Places::Sparse(places) if places.len() == 10));
    }
}
