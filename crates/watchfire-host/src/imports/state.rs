//! `state`: handed over flat, without work for each device beyond finding its bytes.

use wasmtime::Result;
use watchfire_model::DeviceHandle;
use watchfire_model::state::Blobs;

use crate::bindings::{state, types};
use crate::data::{Answer, Data, Need};
use crate::failure::trap;

impl state::Host for Data {
    fn load(&mut self, slot: u32, devices: Vec<u32>) -> Result<types::Blobs> {
        const NAME: &str = "state.load";
        self.enter(NAME, Need::Callback)?;
        self.check_devices(NAME, &devices)?;
        let stored = !self.effects.stores.is_empty() && self.index_stores(slot);
        let state = &self.context()?.state;
        let mut answer = Answer::new(NAME, &self.limits);
        let mut blobs = types::Blobs { lengths: Vec::with_capacity(devices.len()), data: Vec::new() };
        for &device in &devices {
            let own = if stored { self.stored(slot, device) } else { None };
            let blob = own.unwrap_or_else(|| state.get(slot, DeviceHandle(device)));
            answer.add(4 + blob.len())?;
            // A blob came out of a list of the Component Model: its length fits.
            blobs.lengths.push(blob.len() as u32);
            blobs.data.extend_from_slice(blob);
        }
        Ok(blobs)
    }

    fn store(&mut self, slot: u32, devices: Vec<u32>, states: types::Blobs) -> Result<()> {
        const NAME: &str = "state.store";
        self.enter(NAME, Need::Callback)?;
        self.check_devices(NAME, &devices)?;
        let blobs = Blobs { lengths: states.lengths, data: states.data };
        if blobs.lengths.len() != devices.len() || !blobs.is_consistent() {
            let (devices, lengths, data) = (devices.len(), blobs.lengths.len(), blobs.data.len());
            return Err(trap(format!(
                "{NAME}: {devices} devices, {lengths} lengths, which must add up to the {data} bytes of data"
            )));
        }
        self.check_once(NAME, &devices)?;
        // What a device costs beyond its bytes: its handle and its length; and what a call without any does.
        self.count_output(64 + blobs.data.len() + devices.len() * 8)?;
        self.effects.stores.push((slot, devices.into_iter().map(DeviceHandle).collect(), blobs));
        Ok(())
    }
}
