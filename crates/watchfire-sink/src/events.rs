//! What a chunk holds as events: a JSON object each, with the id that is the same on every attempt. HTTP carries them as
//! lines, MQTT as messages.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use watchfire_log::Record;
use watchfire_model::Batch;
use watchfire_store::{AlertRow, EventRow};

use crate::chunk::{Cell, Cells, Chunk, Content, Filter, Interests, Row, Taken, Takes, WHOLE};

/// An event: its bytes are those of [`Events::bytes`] up to `end`, from where the one before it ends.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub row: Row,
    pub end: usize,
    /// Of a reading the stream it is of.
    pub stream: Option<Arc<str>>,
    pub device: Arc<str>,
}

/// The events of a chunk. A line end stands behind each.
#[derive(Debug)]
pub struct Events {
    /// Which making this is: a lane that got a part of it through knows by this that it is asked for the rest.
    pub(crate) serial: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) events: Vec<Event>,
}

impl Events {
    fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(1);
        Self { serial: MADE.fetch_add(1, Ordering::Relaxed), bytes: Vec::new(), events: Vec::new() }
    }

    /// An event with its line end.
    pub(crate) fn line(&self, place: usize) -> &[u8] {
        let start = if place == 0 { 0 } else { self.events[place - 1].end };
        &self.bytes[start..self.events[place].end]
    }

    /// An event alone.
    pub(crate) fn event(&self, place: usize) -> &[u8] {
        let line = self.line(place);
        line.strip_suffix(b"\n").unwrap_or(line)
    }
}

/// Makes the events of the chunks of one lane.
pub struct EventEncoder {
    /// Which metrics are taken.
    filter: Filter,
    names: MetricNames,
}

impl EventEncoder {
    pub(crate) fn new(takes: Takes) -> Self {
        Self { filter: Filter::new(takes, Interests::default()), names: MetricNames::default() }
    }

    fn readings(&mut self, chunk: &Chunk, item: u32, taken: &Taken, made: &mut Events) {
        let Record::Readings { stream, batch, .. } = &taken.entry.record else { return };
        let mut columns = self.names.columns(batch, &mut self.filter);
        // What is the same in all rows of the record.
        let mut begin = b"{\"id\":\"".to_vec();
        begin.extend_from_slice(taken.entry.position.to_string().as_bytes());
        begin.push(b'/');
        let mut of_stream = b"\",\"type\":\"reading\",\"stream\":".to_vec();
        put_text(&mut of_stream, stream);
        of_stream.extend_from_slice(b",\"device\":");
        let mut devices: HashMap<_, Arc<str>> = HashMap::new();
        let put = |row: u32| {
            let start = made.bytes.len();
            let bytes = &mut made.bytes;
            bytes.extend_from_slice(&begin);
            bytes.extend_from_slice(row.to_string().as_bytes());
            bytes.extend_from_slice(&of_stream);
            let handle = batch.devices[row as usize];
            let device = devices.entry(handle).or_insert_with(|| chunk.device(handle).into());
            put_text(bytes, device);
            bytes.extend_from_slice(b",\"time\":\"");
            bytes.extend_from_slice(batch.times[row as usize].to_string().as_bytes());
            bytes.extend_from_slice(b"\",\"metrics\":");
            if !put_metrics(bytes, &mut columns, row) {
                // None of its metrics is taken: there is nothing to say.
                bytes.truncate(start);
                return;
            }
            bytes.extend_from_slice(b"}\n");
            let end = bytes.len();
            let row = Row { item, row, column: WHOLE };
            made.events.push(Event { row, end, stream: Some(stream.clone()), device: device.clone() });
        };
        taken.each_row(batch, put);
    }
}

impl crate::contract::Encoder for EventEncoder {
    type Encoded = Events;

    fn encode(&mut self, chunk: &Chunk) -> Events {
        let mut made = Events::new();
        match &chunk.content {
            Content::Records(records) => {
                for (item, taken) in (0..).zip(records) {
                    self.readings(chunk, item, taken, &mut made);
                }
            }
            Content::Transitions(transitions) => {
                for (item, (event, alert)) in (0..).zip(transitions) {
                    put_transition(&mut made, Row { item, row: 0, column: WHOLE }, event, alert);
                }
            }
        }
        made
    }
}

fn put_transition(made: &mut Events, row: Row, event: &EventRow, alert: &AlertRow) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(&mut made.bytes, &transition(event, alert));
    made.bytes.push(b'\n');
    let end = made.bytes.len();
    made.events.push(Event { row, end, stream: None, device: alert.device.as_str().into() });
}

/// A transition. Of the alert only what never changes, so that a repeat is the same to the byte.
pub(crate) fn transition(event: &EventRow, alert: &AlertRow) -> serde_json::Value {
    let mut value = json!({
        "id": event.id,
        "type": format!("alert.{}", event.kind),
        "device": alert.device,
        "time": event.at,
        "alert": event.alert,
        "rule": alert.rule,
        "rule_version": event.rule_version,
        "key": alert.key,
        "severity": event.severity,
        "summary": event.summary,
        "details": event.details,
        "labels": alert.labels,
        "raised_at": alert.raised_at,
        "recorded_at": event.recorded_at,
    });
    let optional = [
        ("from_severity", event.from_severity.map(|severity| json!(severity))),
        ("reason", event.reason.as_ref().map(|reason| json!(reason))),
        ("actor", event.actor.as_ref().map(|actor| json!(actor))),
        ("comment", event.comment.as_ref().map(|comment| json!(comment))),
    ];
    for (name, optional) in optional {
        if let Some(given) = optional {
            value[name] = given;
        }
    }
    value
}

/// Names of metrics in quotes, with what JSON wants escaped, and a colon: made once each.
#[derive(Default)]
pub(crate) struct MetricNames(HashMap<Arc<str>, Vec<u8>>);

impl MetricNames {
    /// The columns of a batch that are taken, each with its name, to be asked for rows that go up.
    pub fn columns<'a>(&'a mut self, batch: &'a Batch, filter: &mut Filter) -> Vec<(&'a [u8], Cells<'a>)> {
        let taken: Vec<_> = batch.columns.iter().filter(|column| filter.metric(&column.metric)).collect();
        for column in &taken {
            if !self.0.contains_key(&column.metric) {
                let mut name = Vec::new();
                put_text(&mut name, &column.metric);
                name.push(b':');
                self.0.insert(column.metric.clone(), name);
            }
        }
        taken.into_iter().map(|column| (&self.0[&column.metric][..], Cells::of(column))).collect()
    }
}

/// The metrics of a row as a JSON object; whether it has any.
pub(crate) fn put_metrics(bytes: &mut Vec<u8>, columns: &mut [(&[u8], Cells<'_>)], row: u32) -> bool {
    bytes.push(b'{');
    let mut any = false;
    for (name, cells) in columns {
        let Some(cell) = cells.at(row) else { continue };
        if any {
            bytes.push(b',');
        }
        any = true;
        bytes.extend_from_slice(name);
        put_cell(bytes, cell);
    }
    bytes.push(b'}');
    any
}

fn put_cell(bytes: &mut Vec<u8>, cell: Cell<'_>) {
    match cell {
        Cell::Number(number) => {
            let _ = serde_json::to_writer(bytes, &number);
        }
        Cell::Flag(true) => bytes.extend_from_slice(b"true"),
        Cell::Flag(false) => bytes.extend_from_slice(b"false"),
        Cell::Text(text) => put_text(bytes, text),
    }
}

pub(crate) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(bytes, text);
}
