//! The second step, at the device that stands for a site: each value is answered with what its peers have.

use std::collections::BTreeMap;

use watchfire_rule::prelude::*;
use watchfire_rule::{DeviceBytes, TextColumn};

use crate::peers::Peers;
use crate::{DEVICE, Names, TYPE};

/// Keeps the last value of each device of a site, by type, and publishes for the device of a value: the value, and of the
/// others their median, their deviation and how many they are.
pub struct Compare {
    names: Names,
    least_peers: usize,
    least_deviation: f64,
    /// In microseconds.
    fresh: i64,
    /// The [`Peers`] of a type, in the slot of its name.
    types: BTreeMap<String, DeviceBytes>,
}

impl Compare {
    pub fn new(names: Names, (least_peers, least_deviation): (usize, f64), fresh: f64) -> Self {
        Self { names, least_peers, least_deviation, fresh: seconds(fresh), types: BTreeMap::new() }
    }

    pub fn on_batch(&mut self, batch: &Batch) {
        let values = batch.numbers(&self.names.metric);
        let (names, types) = (batch.texts(DEVICE), batch.texts(TYPE));
        let (sites, times) = (batch.devices(), batch.times());
        for (row, &value) in values.iter().enumerate() {
            let Some(name) = text(&names, row).filter(|_| !value.is_nan()) else { continue };
            let kind = text(&types, row).unwrap_or_default();
            if !self.types.contains_key(kind) {
                let slot = slot_of(&[&self.names.metric, "/", kind].concat());
                self.types.insert(kind.into(), DeviceBytes::new(slot));
            }
            let Some(state) = self.types.get_mut(kind) else { continue };
            state.load(&sites[row..=row]);
            let mut peers = Peers::read(state.get(sites[row]));
            // What is older than what is known, of this device or by too much of all, compares with nothing.
            if !peers.add(name, times[row], value, self.fresh) {
                continue;
            }
            state.set(sites[row], peers.write());
            let (names, time) = (&self.names, times[row]);
            let others = peers.others(name);
            emit(name, &names.metric, value, time);
            emit(name, &names.peers, others.len() as f64, time);
            if others.len() < self.least_peers {
                continue;
            }
            let (median, deviation) = crate::peers::median_and_deviation(others);
            emit(name, &names.median, median, time);
            emit(name, &names.deviation, deviation.max(self.least_deviation), time);
        }
        self.types.values_mut().for_each(DeviceBytes::save);
    }
}

fn text(column: &TextColumn, row: usize) -> Option<&str> {
    column.dictionary.get(column.codes[row] as usize).map(String::as_str)
}
