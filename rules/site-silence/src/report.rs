//! The first step: counts of this partition, published for the devices that stand for sites.

use std::collections::BTreeSet;

use watchfire_rule::devices;
use watchfire_rule::prelude::*;
use watchfire_rule::timers;

use crate::sites::{Sites, partition};
use crate::{BETWEEN, DEVICES, NAMES, PART, SILENT};

state! {
    /// Whether the device is silent.
    struct Reported { silent: bool }
}

/// Counts when a device falls silent, when it is back, and each minute: what the registry does to the devices of a site is
/// heard of in no other way.
pub struct Report {
    prefix: String,
    most_names: usize,
    sites: Sites,
    state: DeviceState<Reported>,
}

impl Report {
    pub fn new(prefix: String, most_names: usize) -> Self {
        Self { prefix, most_names, sites: Sites::default(), state: DeviceState::new(0) }
    }

    pub fn on_batch(&mut self, batch: &Batch) {
        // The common case: nobody was silent, so whose readings these are need not be known.
        if self.state.covers_selected(devices::version()) && self.state.occupied() == 0 {
            return;
        }
        self.state.load(batch.devices());
        if self.state.occupied() == 0 {
            return;
        }
        let mut back = Vec::new();
        for &device in batch.devices() {
            if self.state.get(device).silent {
                self.state.set(device, Reported::default());
                back.push(Timer { device, tag: 0, at: now() });
            }
        }
        self.state.save();
        if !back.is_empty() {
            // Not counted here: many come back at once, and where a batch is cut is chance. All timers of one time are one
            // callback.
            timers::set(&back);
        }
    }

    pub fn on_silence(&mut self, silent: &[SilentDevice]) {
        let devices: Vec<Device> = silent.iter().map(|silent| silent.device).collect();
        self.state.load(&devices);
        for &device in &devices {
            self.state.set(device, Reported { silent: true });
        }
        self.publish_sites_of(&devices);
        self.state.save();
    }

    /// Counts the sites of these devices.
    pub fn publish_sites_of(&mut self, devices: &[Device]) {
        self.sites.refresh();
        let sites: BTreeSet<&str> = devices.iter().filter_map(|device| self.sites.of(*device)).collect();
        let sites: Vec<String> = sites.into_iter().map(String::from).collect();
        self.publish(&sites);
    }

    /// Counts every site.
    pub fn publish_all(&mut self) {
        self.sites.refresh();
        let sites: Vec<String> = self.sites.all().map(String::from).collect();
        self.publish(&sites);
    }

    fn publish(&mut self, sites: &[String]) {
        let Self { prefix, most_names, sites: known, state } = self;
        for site in sites {
            let devices = known.devices(site);
            state.load(devices);
            let silent: Vec<Device> =
                devices.iter().copied().filter(|device| state.get(*device).silent).collect();
            let mut names: Vec<_> = silent.iter().map(|device| DeviceRef::from(*device).name()).collect();
            names.sort_unstable();
            names.truncate(*most_names);
            let (device, time) = ([prefix.as_str(), site].concat(), now());
            emit(&device, PART, partition(), time);
            emit(&device, DEVICES, devices.len() as f64, time);
            emit(&device, SILENT, silent.len() as f64, time);
            if !names.is_empty() {
                emit(&device, NAMES, names.join(&*BETWEEN.to_string()), time);
            }
        }
    }
}
