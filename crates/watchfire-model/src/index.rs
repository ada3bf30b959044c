//! Handles by device id, for the one look-up that every reading makes.
//!
//! A map of `String`s costs three places in memory for each look-up, which in a fleet that does not fit the cache is
//! most of its price. Here an entry and the id itself are two, and both are small.

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;

use crate::id::DeviceHandle;

/// A hash table with open addressing, at most half full. Hashes are keyed by the process: ids come from outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    keys: RandomState,
    /// As many as a power of two; empty where there is no id.
    slots: Vec<Option<Slot>>,
    used: usize,
    /// All ids that were ever added, one behind the other: a handle is never given twice either.
    ids: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    handle: DeviceHandle,
    /// The upper half of the hash: nearly always tells ids apart before they are compared.
    tag: u32,
    start: u32,
    /// The length of the id and one, so that an empty slot needs no room for saying so.
    past: NonZeroU32,
}

impl Index {
    pub fn find(&self, id: &str) -> Option<DeviceHandle> {
        self.place(id).and_then(|place| self.slots[place]).map(|slot| slot.handle)
    }

    /// The place of an id that is there.
    fn place(&self, id: &str) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let hash = self.keys.hash_one(id);
        let mut place = hash as usize & mask;
        // Ends: at least half of the slots are empty.
        while let Some(slot) = self.slots[place] {
            if slot.tag == (hash >> 32) as u32 && self.id(slot) == id.as_bytes() {
                return Some(place);
            }
            place = (place + 1) & mask;
        }
        None
    }

    fn id(&self, slot: Slot) -> &[u8] {
        &self.ids[slot.start as usize..][..slot.past.get() as usize - 1]
    }

    /// Adds an id, or gives the one that is there another handle.
    pub fn insert(&mut self, id: &str, handle: DeviceHandle) {
        if let Some(place) = self.place(id) {
            if let Some(slot) = &mut self.slots[place] {
                slot.handle = handle;
            }
            return;
        }
        if (self.used + 1) * 2 > self.slots.len() {
            let larger = vec![None; (self.slots.len() * 2).max(16)];
            for slot in std::mem::replace(&mut self.slots, larger).into_iter().flatten() {
                self.fill(slot);
            }
        }
        let (start, past) = (self.ids.len() as u32, NonZeroU32::MIN.saturating_add(id.len() as u32));
        self.ids.extend_from_slice(id.as_bytes());
        let tag = (self.keys.hash_one(id) >> 32) as u32;
        self.fill(Slot { handle, tag, start, past });
        self.used += 1;
    }

    /// Puts an entry into the first empty slot from its own on.
    fn fill(&mut self, slot: Slot) {
        let mask = self.slots.len() - 1;
        let mut place = self.home(slot);
        while self.slots[place].is_some() {
            place = (place + 1) & mask;
        }
        self.slots[place] = Some(slot);
    }

    fn home(&self, slot: Slot) -> usize {
        // What was added is a text.
        let id = std::str::from_utf8(self.id(slot)).unwrap_or_default();
        self.keys.hash_one(id) as usize & (self.slots.len() - 1)
    }

    /// Removes an id; gives its handle.
    pub fn remove(&mut self, id: &str) -> Option<DeviceHandle> {
        let mut empty = self.place(id)?;
        let handle = self.slots[empty].take()?.handle;
        self.used -= 1;
        // What stands behind it and would not be found over the gap takes its place.
        let mask = self.slots.len() - 1;
        let mut place = empty;
        loop {
            place = (place + 1) & mask;
            let Some(slot) = self.slots[place] else { return Some(handle) };
            let home = self.home(slot);
            if place.wrapping_sub(home) & mask >= place.wrapping_sub(empty) & mask {
                self.slots[empty] = self.slots[place].take();
                empty = place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn behaves_as_a_map() {
        let (mut index, mut model) = (Index::default(), HashMap::new());
        let mut x = 7_u64;
        for step in 0..40_000_u32 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let id = format!("press-{}", (x >> 33) % 700);
            assert_eq!(index.find(&id), model.get(&id).copied());
            if x >> 62 == 0 {
                assert_eq!(index.remove(&id), model.remove(&id));
            } else {
                index.insert(&id, DeviceHandle(step));
                model.insert(id, DeviceHandle(step));
            }
        }
        assert_eq!(index.used, model.len());
        for (id, handle) in &model {
            assert_eq!(index.find(id), Some(*handle));
        }
        assert_eq!(Index::default().find("x"), None);
        assert_eq!(Index::default().remove("x"), None);
    }
}
