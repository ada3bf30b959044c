//! State of no fixed size: bytes of each device, of which the rule alone knows what they are.

use std::collections::HashMap;

use crate::Device;
use crate::bindings::watchfire::rule::state;
use crate::bindings::watchfire::rule::types::Blobs;

/// Bytes of one slot, by device: for lists whose length nobody knows before. What has a fixed size is better off
/// in a [`crate::DeviceState`]. [`DeviceBytes::load`] what a callback meets, then get and set, and
/// [`DeviceBytes::save`] before it returns. No bytes are "nothing", and not stored.
pub struct DeviceBytes {
    slot: u32,
    known: HashMap<Device, Kept>,
    /// In the order in which they changed.
    dirty: Vec<Device>,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    dirty: bool,
}

impl DeviceBytes {
    /// The bytes in a slot, nothing of them loaded.
    pub fn new(slot: u32) -> Self {
        Self { slot, known: HashMap::new(), dirty: Vec::new() }
    }

    /// Loads the bytes of those of the devices that were not met before.
    pub fn load(&mut self, devices: &[Device]) {
        let mut missing: Vec<Device> =
            devices.iter().copied().filter(|device| !self.known.contains_key(device)).collect();
        if missing.is_empty() {
            return;
        }
        missing.sort_unstable();
        missing.dedup();
        let blobs = state::load(self.slot, &missing);
        let mut at = 0;
        for (&device, &length) in missing.iter().zip(&blobs.lengths) {
            let end = at + length as usize;
            self.known.insert(device, Kept { bytes: blobs.data[at..end].to_vec(), dirty: false });
            at = end;
        }
    }

    /// The bytes of a device that was loaded; none where it has none.
    pub fn get(&self, device: Device) -> &[u8] {
        self.known.get(&device).map_or(&[], |known| &known.bytes)
    }

    /// Changes the bytes of a device that was loaded.
    ///
    /// # Panics
    /// Where it was not loaded: what it had stored would be lost.
    pub fn set(&mut self, device: Device, bytes: Vec<u8>) {
        let Some(known) = self.known.get_mut(&device) else {
            panic!("the state of device {device} was not loaded")
        };
        if known.bytes != bytes {
            known.bytes = bytes;
            if !std::mem::replace(&mut known.dirty, true) {
                self.dirty.push(device);
            }
        }
    }

    /// Stores what changed. To be called before each callback returns.
    pub fn save(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        let mut blobs = Blobs { lengths: Vec::with_capacity(self.dirty.len()), data: Vec::new() };
        for device in &self.dirty {
            let Some(known) = self.known.get_mut(device) else { continue };
            known.dirty = false;
            blobs.lengths.push(known.bytes.len() as u32);
            blobs.data.extend_from_slice(&known.bytes);
        }
        state::store(self.slot, &self.dirty, &blobs);
        self.dirty.clear();
    }
}
