//! The batch of readings: columns, fetched when they are asked for.

use std::cell::OnceCell;

use crate::bindings::watchfire::rule::readings;
use crate::{Column, Device, TextColumn, Timestamp};

/// The readings of a callback. Rows are in the order of the log; where the batch was cut is chance.
#[derive(Default)]
pub struct Batch {
    devices: OnceCell<Vec<Device>>,
    times: OnceCell<Vec<Timestamp>>,
}

impl Batch {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        readings::rows() as usize
    }

    /// The stream that the readings are of.
    pub fn stream(&self) -> String {
        readings::stream_name()
    }

    /// The columns with at least one value, by name.
    pub fn columns(&self) -> Vec<Column> {
        readings::columns()
    }

    /// A numeric column; NaN: no value. Fetched anew each time.
    pub fn numbers(&self, metric: &str) -> Vec<f64> {
        readings::numbers(metric)
    }

    /// A text column: codes into a dictionary; `0xffff_ffff`: no value. Fetched anew each time.
    pub fn texts(&self, metric: &str) -> TextColumn {
        readings::texts(metric)
    }

    /// A column of flags: 0 false, 1 true, 255 no value. Fetched anew each time.
    pub fn booleans(&self, metric: &str) -> Vec<u8> {
        readings::booleans(metric)
    }

    /// The device of each row. Fetched once.
    pub fn devices(&self) -> &[Device] {
        self.devices.get_or_init(readings::devices)
    }

    /// The event time of each row: when the device says it measured. May go back. Fetched once.
    pub fn times(&self) -> &[Timestamp] {
        self.times.get_or_init(readings::times)
    }

    /// The device of a row.
    pub fn device(&self, row: usize) -> Device {
        self.devices()[row]
    }

    /// The event time of a row.
    pub fn time(&self, row: usize) -> Timestamp {
        self.times()[row]
    }
}
