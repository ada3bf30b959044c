//! A stretch of the log, with what a sink takes of it.

use std::collections::HashMap;
use std::sync::Arc;

use watchfire_log::record::Skipped;
use watchfire_log::{Entry, Record};
use watchfire_model::batch::{NO_BOOLEAN, NO_TEXT, Values};
use watchfire_model::device::Registries;
use watchfire_model::rule::metric_matches;
use watchfire_model::{Batch, Column, DeviceHandle, PartitionId, Position, Selector, Timestamp};
use watchfire_store::{AlertRow, EventRow};

use crate::contract::{LaneId, Place};

/// What a sink takes: the part of its configuration that all sinks share.
#[derive(Clone, Debug, PartialEq)]
pub struct Takes {
    /// Streams: `readings` is what devices sent, the others are what rules publish.
    pub streams: Vec<String>,
    /// Devices.
    pub select: Selector,
    /// Metrics, by name or with a `*` at the end; empty: all.
    pub metrics: Vec<String>,
    /// Alerts and their transitions.
    pub alerts: bool,
}

impl Takes {
    /// Whether alerts of a device are taken. Of one that is deleted, or was never registered, nothing is known to select
    /// by but its name.
    pub fn alerts_of(&self, device: &str, registries: &Registries) -> bool {
        if self.select.is_everything() {
            return true;
        }
        let found = registries.find(device);
        let found = found.and_then(|(p, handle)| registries.0.get(usize::from(p.0))?.get(handle));
        match found {
            Some(device) => self.select.matches(&device.spec),
            None => self.select.devices.iter().any(|name| name == device),
        }
    }
}

impl Default for Takes {
    fn default() -> Self {
        Self {
            streams: vec![watchfire_model::READINGS.to_string()],
            select: Selector::default(),
            metrics: Vec::new(),
            alerts: true,
        }
    }
}

/// Which kinds of records a sink has use for, beside the streams that its configuration names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interests {
    /// The registry.
    pub devices: bool,
    /// What could not be used.
    pub dead_letters: bool,
}

/// The log did not keep it for as long as the service was away.
pub const NOT_KEPT: &str = "not-kept";

/// A restore of a backup ended that life of the log.
pub const RESTORED: &str = "restored";

/// A part of the log that the lane will never see: it was not kept for as long as the service was away, or belongs to
/// a life of the log that a restore of a backup ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// What comes after what was written.
    pub from: Place,
    /// Where it goes on.
    pub to: Place,
    /// [`NOT_KEPT`] or [`RESTORED`].
    pub reason: &'static str,
}

/// A stretch of a lane.
#[derive(Debug)]
pub struct Chunk {
    /// The lane.
    pub lane: LaneId,
    /// What comes next once it is written.
    pub to: Place,
    /// What is missing before it.
    pub gap: Option<Gap>,
    /// Nothing was written before: what tells of a state and not of changes begins whole.
    pub first: bool,
    /// What it holds.
    pub content: Content,
    /// Names for the handles in it.
    pub registries: Arc<Registries>,
}

/// What a chunk holds.
#[derive(Debug)]
pub enum Content {
    /// Records of a partition, those that the sink takes.
    Records(Vec<Taken>),
    /// Transitions of alerts, each with the alert as it stands now.
    Transitions(Vec<(EventRow, Arc<AlertRow>)>),
}

/// A record, and which rows of it.
#[derive(Debug)]
pub struct Taken {
    /// The record.
    pub entry: Arc<Entry>,
    /// Of a batch: the rows that are selected; `None`: all.
    pub rows: Option<Vec<u32>>,
}

impl Taken {
    /// The selected rows of its batch, in order.
    pub fn each_row(&self, batch: &Batch, mut look: impl FnMut(u32)) {
        match &self.rows {
            None => (0..batch.rows() as u32).for_each(look),
            Some(rows) => rows.iter().for_each(|row| look(*row)),
        }
    }
}

/// A row of a chunk, as a sink counts them: a record or transition, of a batch the reading, and of a reading one of
/// its columns, where each value is a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// The place of the record or transition in the chunk.
    pub item: u32,
    /// The row of its batch; 0: it is none.
    pub row: u32,
    /// The column of the batch; `u32::MAX`: all of them.
    pub column: u32,
}

/// All columns.
pub const WHOLE: u32 = u32::MAX;

impl Chunk {
    /// The partition, where it is of one.
    pub fn partition(&self) -> Option<PartitionId> {
        match self.lane {
            LaneId::Partition(partition) => Some(partition),
            LaneId::Alerts => None,
        }
    }

    /// The id of a device of the partition; handles stay valid when a device is deleted.
    pub fn device(&self, handle: DeviceHandle) -> &str {
        let registry = self.partition().and_then(|partition| self.registries.0.get(usize::from(partition.0)));
        registry.and_then(|registry| registry.get(handle)).map_or("", |device| device.spec.id.as_str())
    }

    /// How many records or transitions it holds.
    pub fn items(&self) -> usize {
        match &self.content {
            Content::Records(records) => records.len(),
            Content::Transitions(transitions) => transitions.len(),
        }
    }

    /// How many readings, transitions and other records it holds.
    pub fn rows(&self) -> usize {
        match &self.content {
            Content::Transitions(transitions) => transitions.len(),
            Content::Records(records) => records
                .iter()
                .map(|taken| match (&taken.entry.record, &taken.rows) {
                    (Record::Readings { batch, .. }, None) => batch.rows(),
                    (Record::Readings { .. }, Some(rows)) => rows.len(),
                    _ => 1,
                })
                .sum(),
        }
    }

    /// What is unique to a row, and the same on every attempt: `epoch/partition/offset/row`, of a transition its id.
    pub fn row_id(&self, row: Row) -> String {
        match &self.content {
            Content::Records(records) => match records.get(row.item as usize) {
                Some(taken) if row.column == WHOLE => format!("{}/{}", taken.entry.position, row.row),
                Some(taken) => format!("{}/{}/{}", taken.entry.position, row.row, row.column),
                None => String::new(),
            },
            Content::Transitions(transitions) => {
                transitions.get(row.item as usize).map_or_else(String::new, |(event, _)| event.id.clone())
            }
        }
    }

    /// When the log received what a row is of, and where that stands.
    pub fn origin(&self, row: Row) -> (Timestamp, Option<Position>) {
        match &self.content {
            Content::Records(records) => match records.get(row.item as usize) {
                Some(taken) => (taken.entry.appended_at, Some(taken.entry.position)),
                None => (Timestamp(0), None),
            },
            Content::Transitions(transitions) => match transitions.get(row.item as usize) {
                Some((event, _)) => {
                    (event.recorded_at, event.position.as_ref().and_then(|position| position.parse().ok()))
                }
                None => (Timestamp(0), None),
            },
        }
    }

    /// A row in its common form, for people and dead letters.
    pub fn show(&self, row: Row) -> serde_json::Value {
        match &self.content {
            Content::Records(records) => {
                match records.get(row.item as usize).map(|taken| &taken.entry.record) {
                    Some(Record::Readings { batch, .. }) => self.reading(batch, row),
                    Some(Record::Control(control)) => serde_json::to_value(control).unwrap_or_default(),
                    Some(Record::Rejects(rejects)) => {
                        serde_json::to_value(rejects.get(row.row as usize)).unwrap_or_default()
                    }
                    Some(Record::Skipped(skipped)) => serde_json::to_value(skipped).unwrap_or_default(),
                    _ => serde_json::Value::Null,
                }
            }
            Content::Transitions(transitions) => {
                transitions.get(row.item as usize).map_or(serde_json::Value::Null, |(event, _)| {
                    serde_json::to_value(event).unwrap_or_default()
                })
            }
        }
    }

    /// The device that a row is of, where it is of one.
    pub fn device_of(&self, row: Row) -> Option<String> {
        match &self.content {
            Content::Records(records) => match &records.get(row.item as usize)?.entry.record {
                Record::Readings { batch, .. } => {
                    Some(self.device(*batch.devices.get(row.row as usize)?).to_string())
                }
                Record::Rejects(rejects) => rejects.get(row.row as usize)?.device.clone(),
                _ => None,
            },
            Content::Transitions(transitions) => Some(transitions.get(row.item as usize)?.1.device.clone()),
        }
    }

    /// Where a row comes from: the stream, or what else it is.
    pub fn source_of(&self, row: Row) -> &str {
        match &self.content {
            Content::Records(records) => {
                match records.get(row.item as usize).map(|taken| &taken.entry.record) {
                    Some(Record::Readings { stream, .. }) => stream,
                    Some(Record::Control(_)) => "devices",
                    Some(_) => "dead-letters",
                    None => "",
                }
            }
            Content::Transitions(_) => "alerts",
        }
    }

    fn reading(&self, batch: &Batch, row: Row) -> serde_json::Value {
        let metrics: serde_json::Map<String, serde_json::Value> = batch
            .columns
            .iter()
            .enumerate()
            .filter(|(place, _)| row.column == WHOLE || row.column as usize == *place)
            .filter_map(|(_, column)| {
                Some((column.metric.to_string(), Cells::of(column).at(row.row)?.to_json()))
            })
            .collect();
        let at = row.row as usize;
        serde_json::json!({
            "device": batch.devices.get(at).map_or("", |handle| self.device(*handle)),
            "time": batch.times.get(at),
            "metrics": metrics,
        })
    }
}

/// A value of a reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// A finite number.
    Number(f64),
    /// A flag.
    Flag(bool),
    /// A text.
    Text(&'a str),
}

impl Cell<'_> {
    /// As JSON.
    pub fn to_json(self) -> serde_json::Value {
        match self {
            Self::Number(number) => number.into(),
            Self::Flag(flag) => flag.into(),
            Self::Text(text) => text.into(),
        }
    }
}

/// The values of a column, row by row. Asked for rows that go up, it searches nothing.
pub struct Cells<'a> {
    column: &'a Column,
    /// Of a sparse column: the entry to look at first.
    next: usize,
}

impl<'a> Cells<'a> {
    /// From the first row on.
    pub fn of(column: &'a Column) -> Self {
        Self { column, next: 0 }
    }

    /// The value of a row; rows are asked for in ascending order.
    pub fn at(&mut self, row: u32) -> Option<Cell<'a>> {
        let place = match &self.column.rows {
            None => row as usize,
            Some(rows) => {
                while rows.get(self.next).is_some_and(|at| *at < row) {
                    self.next += 1;
                }
                (rows.get(self.next) == Some(&row)).then_some(self.next)?
            }
        };
        match &self.column.values {
            Values::Numbers(numbers) => {
                numbers.get(place).filter(|number| !number.is_nan()).map(|number| Cell::Number(*number))
            }
            Values::Texts(texts) => {
                let code = *texts.codes.get(place)?;
                if code == NO_TEXT {
                    return None;
                }
                texts.dictionary.get(code as usize).map(|text| Cell::Text(text))
            }
            Values::Booleans(flags) => {
                flags.get(place).filter(|flag| **flag != NO_BOOLEAN).map(|flag| Cell::Flag(*flag != 0))
            }
        }
    }
}

/// Decides what a sink takes. What it decided of a device or metric it remembers.
pub struct Filter {
    takes: Takes,
    interests: Interests,
    metrics: HashMap<Arc<str>, bool>,
    /// By handle, for one version of the registry of the lane's partition.
    devices: Vec<Option<bool>>,
    version: u64,
}

impl Filter {
    /// A filter for one lane.
    pub fn new(takes: Takes, interests: Interests) -> Self {
        Self { takes, interests, metrics: HashMap::new(), devices: Vec::new(), version: 0 }
    }

    /// Whether a metric is taken.
    pub fn metric(&mut self, metric: &Arc<str>) -> bool {
        if self.takes.metrics.is_empty() {
            return true;
        }
        if let Some(known) = self.metrics.get(metric) {
            return *known;
        }
        let taken = self.takes.metrics.iter().any(|pattern| metric_matches(pattern, metric));
        self.metrics.insert(metric.clone(), taken);
        taken
    }

    /// A record with the rows that are taken; `None`: nothing of it is.
    pub fn take(&mut self, entry: Arc<Entry>, registries: &Registries) -> Option<Taken> {
        let rows = match &entry.record {
            Record::Readings { stream, batch, .. } => {
                if !self.takes.streams.iter().any(|name| **name == **stream) {
                    return None;
                }
                if self.takes.select.is_everything() {
                    None
                } else {
                    let rows = self.select(batch, entry.position.partition, registries);
                    if rows.is_empty() {
                        return None;
                    }
                    (rows.len() < batch.rows()).then_some(rows)
                }
            }
            Record::Control(control) => {
                use watchfire_model::Control::{DeviceDeleted, DevicesPut};
                let devices = matches!(**control, DevicesPut { .. } | DeviceDeleted { .. });
                if !(self.interests.devices && devices) {
                    return None;
                }
                None
            }
            Record::Rejects(_) if self.interests.dead_letters => None,
            Record::Skipped(skipped) if self.interests.dead_letters && has_rows(skipped) => None,
            _ => return None,
        };
        Some(Taken { entry, rows })
    }

    fn select(&mut self, batch: &Batch, partition: PartitionId, registries: &Registries) -> Vec<u32> {
        let Some(registry) = registries.0.get(usize::from(partition.0)) else { return Vec::new() };
        if registry.version() != self.version {
            self.devices.clear();
            self.version = registry.version();
        }
        self.devices.resize(registry.devices().len(), None);
        let selected = |known: &mut Vec<Option<bool>>, handle: DeviceHandle| {
            let Some(device) = registry.get(handle) else { return false };
            *known[handle.0 as usize].get_or_insert_with(|| self.takes.select.matches(&device.spec))
        };
        (0..)
            .zip(&batch.devices)
            .filter(|(_, handle)| selected(&mut self.devices, **handle))
            .map(|(row, _)| row)
            .collect()
    }
}

fn has_rows(skipped: &Skipped) -> bool {
    !skipped.rows.is_empty()
}
