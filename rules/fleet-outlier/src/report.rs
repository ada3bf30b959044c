//! The first step: what each device has, published for the device that stands for its site.

use watchfire_rule::prelude::*;

use crate::{DEVICE, Names, TYPE};

/// Publishes the mean of each device over spans of one length, once each is over.
pub struct Report {
    names: Names,
    /// In microseconds.
    every: i64,
    prefix: String,
    state: DeviceState<TumblingWindow>,
}

impl Report {
    pub fn new(names: Names, every: f64, prefix: String) -> Self {
        Self { state: DeviceState::new(slot_of(&names.metric)), every: seconds(every), prefix, names }
    }

    pub fn on_batch(&mut self, batch: &Batch) {
        let values = batch.numbers(&self.names.metric);
        let (devices, times) = (batch.devices(), batch.times());
        self.state.load(devices);
        for ((&value, &device), &time) in values.iter().zip(devices).zip(times) {
            if value.is_nan() {
                continue;
            }
            if let Some(closed) = self.state.modify(device).add(time, value, self.every) {
                self.publish(device.into(), closed.mean, closed.end);
            }
        }
        self.state.save();
    }

    fn publish(&self, device: DeviceRef, mean: f64, time: Timestamp) {
        // Without a site it has no peers.
        let Some(site) = device.site().filter(|site| !site.is_empty()) else { return };
        let site = [&self.prefix, &*site].concat();
        // The metric first: where a value of the same site and time is there already, it begins a reading of its own.
        emit(&site, &self.names.metric, mean, time);
        emit(&site, DEVICE, &*device.name(), time);
        if let Some(kind) = device.kind().filter(|kind| !kind.is_empty()) {
            emit(&site, TYPE, &*kind, time);
        }
    }
}
