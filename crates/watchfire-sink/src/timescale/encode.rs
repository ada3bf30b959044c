//! Chunks as the binary form of `COPY` (PostgreSQL documentation, "COPY", section Binary Format), and as JSON for what
//! is rare.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};
use watchfire_log::Record;
use watchfire_model::{Control, DeviceSpec, Timestamp};
use watchfire_store::EventRow;

use super::config::table_of;
use super::schema::HOUR;
use crate::chunk::{Cell, Cells, Chunk, Content, Filter, Interests, Row, Takes, WHOLE};
use crate::contract::{Encoder, Refusal};

/// The signature, no flags, no extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// A row of -1 fields.
pub(super) const TRAILER: &[u8] = &[0xff, 0xff];

/// The columns in the order in which they are written.
pub(super) const COLUMNS: &str = "time, device, metric, value, text, flag";

/// Microseconds from the Unix epoch to that of PostgreSQL, 2000-01-01.
const EPOCH: i64 = 946_684_800_000_000;

/// Rows of one table.
#[derive(Debug, Default)]
pub struct Table {
    /// Its name, without the schema.
    pub name: String,
    /// The rows, one behind the other.
    pub bytes: Vec<u8>,
    /// Which each is, and the byte behind it.
    pub rows: Vec<(Row, u32)>,
    /// The hours since the Unix epoch that their times lie in.
    pub hours: BTreeSet<i64>,
}

/// What is written of a chunk.
#[derive(Debug, Default)]
pub struct Encoded {
    /// Readings.
    pub tables: Vec<Table>,
    /// Devices that were registered, changed or deleted, each with the row it is from; the last of a device counts.
    pub devices: Vec<(Row, Value)>,
    /// Transitions of alerts.
    pub transitions: Vec<(Row, Value)>,
    /// The alerts themselves, each as it stands now.
    pub alerts: Vec<(Row, Value)>,
    /// What PostgreSQL cannot hold.
    pub impossible: Vec<Refusal>,
}

/// Encodes the chunks of one lane.
pub struct TimescaleEncoder {
    /// Which metrics are taken.
    filter: Filter,
    devices: bool,
    names: HashMap<Arc<str>, String>,
}

impl TimescaleEncoder {
    pub(super) fn new(takes: Takes, devices: bool) -> Self {
        Self { filter: Filter::new(takes, Interests::default()), devices, names: HashMap::new() }
    }

    fn readings(&mut self, chunk: &Chunk, encoded: &mut Encoded) {
        let Content::Records(records) = &chunk.content else { return };
        for (item, taken) in (0..).zip(records) {
            match &taken.entry.record {
                Record::Readings { stream, batch, .. } => {
                    let name = self.names.entry(stream.clone()).or_insert_with(|| table_of(stream)).as_str();
                    let place = match encoded.tables.iter().position(|table| table.name == name) {
                        Some(place) => place,
                        None => {
                            encoded.tables.push(Table { name: name.to_string(), ..Table::default() });
                            encoded.tables.len() - 1
                        }
                    };
                    let table = &mut encoded.tables[place];
                    // The name of each row's device, once for all columns.
                    let devices: Vec<&[u8]> =
                        batch.devices.iter().map(|handle| chunk.device(*handle).as_bytes()).collect();
                    let mut last_hour = None;
                    for (place, column) in (0..).zip(&batch.columns) {
                        if !self.filter.metric(&column.metric) {
                            continue;
                        }
                        let metric = column.metric.as_bytes();
                        let mut cells = Cells::of(column);
                        let put = |row: u32| {
                            let Some(cell) = cells.at(row) else { return };
                            let at = Row { item, row, column: place };
                            let time = batch.times[row as usize];
                            if matches!(cell, Cell::Text(text) if text.contains('\0')) {
                                let reason = "PostgreSQL has no text with a NUL in it".to_string();
                                encoded.impossible.push(Refusal { row: at, reason });
                                return;
                            }
                            let hour = time.0.div_euclid(HOUR);
                            if last_hour != Some(hour) {
                                last_hour = Some(hour);
                                table.hours.insert(hour);
                            }
                            put_row(&mut table.bytes, time, devices[row as usize], metric, cell);
                            table.rows.push((at, table.bytes.len() as u32));
                        };
                        taken.each_row(batch, put);
                    }
                }
                Record::Control(control) if self.devices => match &**control {
                    Control::DevicesPut { devices, .. } => {
                        for (row, device) in (0..).zip(devices) {
                            let at = Row { item, row, column: WHOLE };
                            if own(chunk, &device.id) {
                                encoded
                                    .devices
                                    .push((at, device_row(device, taken.entry.appended_at, false)));
                            }
                        }
                    }
                    Control::DeviceDeleted { id, .. } if own(chunk, id) => {
                        let gone = DeviceSpec { id: id.clone(), ..DeviceSpec::default() };
                        let at = Row { item, row: 0, column: WHOLE };
                        encoded.devices.push((at, device_row(&gone, taken.entry.appended_at, true)));
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }
}

impl Encoder for TimescaleEncoder {
    type Encoded = Encoded;

    fn encode(&mut self, chunk: &Chunk) -> Encoded {
        let mut encoded = Encoded::default();
        if chunk.first
            && self.devices
            && let Some(partition) = chunk.partition()
        {
            // The records that registered them may not be kept any more.
            let registry = chunk.registries.0.get(usize::from(partition.0));
            let devices = registry.map_or(&[][..], |registry| registry.devices());
            for device in devices.iter().filter(|device| !device.deleted) {
                let row = device_row(&device.spec, Timestamp(0), false);
                encoded.devices.push((Row { item: u32::MAX, row: 0, column: WHOLE }, row));
            }
        }
        self.readings(chunk, &mut encoded);
        if let Content::Transitions(transitions) = &chunk.content {
            for (item, (event, alert)) in (0..).zip(transitions) {
                let row = Row { item, row: 0, column: WHOLE };
                encoded.transitions.push((row, transition_row(event, alert)));
                let alert = serde_json::to_value(&**alert).unwrap_or_default();
                encoded.alerts.push((row, alert));
            }
        }
        keep_last(&mut encoded.devices);
        keep_last(&mut encoded.alerts);
        encoded
    }
}

/// Of the documents with one id in a chunk the last counts: one statement may not touch a row twice.
fn keep_last(documents: &mut Vec<(Row, Value)>) {
    let mut seen = HashSet::new();
    documents.reverse();
    documents.retain(|(_, document)| seen.insert(document["id"].as_str().unwrap_or_default().to_string()));
    documents.reverse();
}

/// Whether a device is of the partition of the chunk: a control record is in all of them.
fn own(chunk: &Chunk, id: &str) -> bool {
    chunk.partition() == Some(chunk.registries.partition_of(id))
}

fn device_row(device: &DeviceSpec, at: Timestamp, deleted: bool) -> Value {
    json!({
        "id": device.id,
        "type": device.kind,
        "site": device.site,
        "labels": device.labels,
        "expected_interval_seconds": device.interval.map(|interval| interval.as_secs_f64()),
        "deleted": deleted,
        // 0: known from before, and not since when.
        "changed_at": (at != Timestamp(0)).then_some(at),
    })
}

fn transition_row(event: &EventRow, alert: &watchfire_store::AlertRow) -> Value {
    let mut row = serde_json::to_value(event).unwrap_or_default();
    row["rule"] = json!(alert.rule);
    row["device"] = json!(alert.device);
    row["key"] = json!(alert.key);
    row
}

fn put_row(bytes: &mut Vec<u8>, time: Timestamp, device: &[u8], metric: &[u8], cell: Cell<'_>) {
    bytes.extend_from_slice(&6_i16.to_be_bytes());
    bytes.extend_from_slice(&8_i32.to_be_bytes());
    bytes.extend_from_slice(&(time.0 - EPOCH).to_be_bytes());
    for text in [device, metric] {
        bytes.extend_from_slice(&(text.len() as i32).to_be_bytes());
        bytes.extend_from_slice(text);
    }
    const NULL: [u8; 4] = (-1_i32).to_be_bytes();
    match cell {
        Cell::Number(number) => {
            bytes.extend_from_slice(&8_i32.to_be_bytes());
            bytes.extend_from_slice(&number.to_be_bytes());
            bytes.extend_from_slice(&NULL);
            bytes.extend_from_slice(&NULL);
        }
        Cell::Text(text) => {
            bytes.extend_from_slice(&NULL);
            bytes.extend_from_slice(&(text.len() as i32).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
            bytes.extend_from_slice(&NULL);
        }
        Cell::Flag(flag) => {
            bytes.extend_from_slice(&NULL);
            bytes.extend_from_slice(&NULL);
            bytes.extend_from_slice(&1_i32.to_be_bytes());
            bytes.push(flag.into());
        }
    }
}
