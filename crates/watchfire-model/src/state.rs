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

/// What a rule keeps about its devices. Blobs of one slot lie in one arena: no allocation a device.
#[derive(Clone, Debug, Default)]
pub struct KeyedState {
    slots: BTreeMap<u32, Slot>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    /// By device handle.
    places: Vec<Place>,
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

impl Slot {
    fn get(&self, device: DeviceHandle) -> &[u8] {
        self.places.get(device.0 as usize).map_or(&[], |p| &self.arena[p.start..p.start + p.length as usize])
    }

    fn set(&mut self, device: DeviceHandle, blob: &[u8]) {
        let i = device.0 as usize;
        if i >= self.places.len() {
            if blob.is_empty() {
                return;
            }
            self.places.resize(i + 1, Place::default());
        }
        let place = &mut self.places[i];
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
        for place in &mut self.places {
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
        self.slots.entry(slot).or_default().set(device, blob);
    }

    /// Stores entry i of `blobs` for `devices[i]`. The caller has checked that there are as many.
    pub fn set_many(&mut self, slot: u32, devices: &[DeviceHandle], blobs: &Blobs) {
        let slot = self.slots.entry(slot).or_default();
        for (&device, blob) in devices.iter().zip(blobs.iter()) {
            slot.set(device, blob);
        }
    }

    /// The slots in use, in order.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.slots.keys().copied()
    }

    /// Everything that is stored, ordered by (slot, device).
    pub fn iter(&self) -> impl Iterator<Item = (u32, DeviceHandle, &[u8])> {
        self.slots.iter().flat_map(|(&number, slot)| {
            (0..slot.places.len() as u32)
                .map(DeviceHandle)
                .map(move |device| (number, device, slot.get(device)))
                .filter(|(_, _, blob)| !blob.is_empty())
        })
    }

    /// What changed since the last call, ordered by (slot, device), with the present blob (empty: removed);
    /// forgets that it changed.
    pub fn take_dirty(&mut self) -> Vec<(u32, DeviceHandle, Box<[u8]>)> {
        let mut changed = Vec::new();
        for (&number, slot) in &mut self.slots {
            let mut dirty = std::mem::take(&mut slot.dirty);
            dirty.sort_unstable();
            for device in dirty {
                slot.places[device.0 as usize].dirty = false;
                changed.push((number, device, slot.get(device).into()));
            }
        }
        changed
    }

    /// Marks everything stored as changed: the next checkpoint writes all of it.
    pub fn mark_all_dirty(&mut self) {
        for slot in self.slots.values_mut() {
            for (i, place) in slot.places.iter_mut().enumerate().filter(|(_, place)| place.length > 0) {
                if !std::mem::replace(&mut place.dirty, true) {
                    slot.dirty.push(DeviceHandle(i as u32));
                }
            }
        }
    }

    /// Removes all state of a device.
    pub fn remove_device(&mut self, device: DeviceHandle) {
        for slot in self.slots.values_mut() {
            slot.set(device, &[]);
        }
    }

    /// Bytes stored, without overhead.
    pub fn bytes(&self) -> u64 {
        self.slots.values().flat_map(|slot| &slot.places).map(|place| u64::from(place.length)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap as Map;

    #[test]
    fn behaves_as_a_map_through_growth_shrinking_and_removal() {
        let (mut state, mut model) = (KeyedState::new(), Map::new());
        let mut x = 7_u64;
        let mut random = |n: u64| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 33) % n
        };
        for _ in 0..20_000 {
            let (slot, device, length) =
                (random(3) as u32, DeviceHandle(random(50) as u32), random(90) as usize);
            let blob = vec![random(256) as u8; if length < 8 { 0 } else { length }];
            state.set(slot, device, &blob);
            if blob.is_empty() {
                model.remove(&(slot, device))
            } else {
                model.insert((slot, device), blob)
            };
        }
        let all =
            |state: &KeyedState| state.iter().map(|(s, d, b)| ((s, d), b.to_vec())).collect::<Map<_, _>>();
        assert_eq!(all(&state), model);
        assert_eq!(state.bytes(), model.values().map(|b| b.len() as u64).sum::<u64>());
        assert_eq!(state.take_dirty().len(), 150);
        assert!(state.take_dirty().is_empty());
        state.set(0, DeviceHandle(3), b"new");
        assert_eq!(state.take_dirty(), [(0, DeviceHandle(3), b"new"[..].into())]);
        state.remove_device(DeviceHandle(3));
        assert!(state.get(0, DeviceHandle(3)).is_empty());
        state.mark_all_dirty();
        assert!(state.take_dirty().len() >= state.iter().count());
    }
}
