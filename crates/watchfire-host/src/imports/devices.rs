//! `devices`: the registry as of this place in the log.

use wasmtime::Result;
use watchfire_model::DeviceHandle;

use super::{size, to_guest};
use crate::bindings::{devices, types};
use crate::data::{Answer, Data, Need};
use crate::failure::trap;

/// Bytes of an optional value in the memory of a guest, beyond its text.
const ENTRY: usize = 24;

impl devices::Host for Data {
    fn name(&mut self, device: u32) -> Result<String> {
        self.enter("devices.name", Need::Callback)?;
        let device = self.check_device("devices.name", device)?;
        let device = self.context()?.devices.get(device).ok_or_else(|| trap("no such device"))?;
        Ok(device.spec.id.clone())
    }

    fn attribute(&mut self, name: String, devices: Vec<u32>) -> Result<Vec<Option<types::Value>>> {
        self.enter("devices.attribute", Need::Callback)?;
        self.check_devices("devices.attribute", &devices)?;
        let registry = &self.context()?.devices;
        let mut answer = Answer::new("devices.attribute", &self.limits);
        let mut values = Vec::new();
        for device in devices {
            let value = registry.get(DeviceHandle(device)).and_then(|device| device.spec.attribute(&name));
            answer.add(ENTRY + value.as_ref().map_or(0, size))?;
            values.push(value.map(to_guest));
        }
        Ok(values)
    }

    fn find(&mut self, name: String) -> Result<Option<u32>> {
        self.enter("devices.find", Need::Callback)?;
        Ok(self.context()?.devices.find(&name).map(|device| device.0))
    }

    fn selected(&mut self, after: Option<u32>, limit: u32) -> Result<Vec<u32>> {
        self.enter("devices.selected", Need::Callback)?;
        let Some(from) = after.map_or(Some(0), |device| device.checked_add(1)) else { return Ok(Vec::new()) };
        let selected = &self.context()?.selected;
        Ok(selected.iter_from(from).take(limit as usize).map(|device| device.0).collect())
    }

    fn version(&mut self) -> Result<u64> {
        self.enter("devices.version", Need::Callback)?;
        Ok(self.context()?.devices.version())
    }
}
