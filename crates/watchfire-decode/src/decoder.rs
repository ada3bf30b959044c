//! Finds the items of a payload and keeps what came of each.

use std::ops::Range;

use watchfire_model::{Batch, BatchBuilder, Duration, PartitionId, Timestamp};

use watchfire_model::device::Registries;

use crate::code;
use crate::item::{self, Refusal, Scope, Scratch};
use crate::json::{self, Cursor, Fault};
use crate::mapped::{self, Mapping};

/// Which times are accepted, around the receive time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How old a reading may be. Default 30 days: longer than an uplink is usually down.
    pub back: Duration,
    /// How far a device's clock may run ahead. Default 10 minutes.
    pub ahead: Duration,
}

impl Default for Window {
    fn default() -> Self {
        Self { back: Duration::from_secs(30 * 86_400), ahead: Duration::from_secs(600) }
    }
}

/// How much is accepted. Each bound keeps one payload from taking memory out of proportion to its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Metrics of one reading.
    pub metrics: usize,
    /// Different metrics of all readings that are decoded together: each is a column.
    pub columns: usize,
    /// Bytes of a metric's name.
    pub name_bytes: usize,
    /// Bytes of a text.
    pub text_bytes: usize,
    /// Nested objects.
    pub depth: usize,
    /// Items of one payload.
    pub items: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { metrics: 512, columns: 4096, name_bytes: 128, text_bytes: 1024, depth: 16, items: 100_000 }
    }
}

/// What decoding depends on besides the bytes.
#[derive(Clone, Copy)]
pub struct Context<'r> {
    /// Where devices are looked up.
    pub registries: &'r Registries,
    /// The receive time: readings without a time of their own get it.
    pub now: Timestamp,
    /// Which times are accepted.
    pub window: Window,
    /// How much is accepted.
    pub bounds: &'r Bounds,
    /// Which devices a payload may name; `None`: all.
    pub allowed: Option<&'r (dyn Fn(&str) -> bool + Sync)>,
}

/// What an item looks like.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'a> {
    /// `{"device":…,"time":…,"metrics":{…}}`.
    Event,
    /// The address names the device: the event form, `device` not needed, or the flat form, in which every field
    /// but `time` and `device` is a metric.
    Device(&'a str),
    /// A mapping says where things stand.
    Mapped {
        /// Where things stand.
        mapping: &'a Mapping,
        /// The device that the address names.
        device: Option<&'a str>,
        /// The metric that the address names.
        metric: Option<&'a str>,
    },
}

/// How the items of a payload stand in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// One JSON text; where lines begin with objects, NDJSON.
    #[default]
    Auto,
    /// A JSON text a line; empty lines are passed.
    Ndjson,
    /// One JSON text: an array of items, or one item.
    Json,
}

/// The rows of one partition.
#[derive(Debug, Default)]
pub struct PartitionRows {
    /// The rows.
    pub builder: BatchBuilder,
    /// Rows without a time of their own, ascending.
    pub untimed: Vec<u32>,
}

/// An item that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Which item of its payload, from 0; `None`: the payload as a whole.
    pub index: Option<u32>,
    /// One of [`code`].
    pub code: &'static str,
    /// What is wrong and where.
    pub reason: String,
    /// The bytes of the payload that it takes.
    pub bytes: Range<usize>,
}

/// An item of a device that is not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownDevice {
    /// Which item of its payload, from 0; `None`: the payload as a whole.
    pub index: Option<u32>,
    /// The id.
    pub device: String,
    /// The bytes of the payload that the item takes.
    pub bytes: Range<usize>,
}

/// What became of one payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Items that are rows now.
    pub accepted: u32,
    /// Items that could not be used.
    pub rejected: Vec<Rejected>,
    /// Items of devices that are not registered.
    pub unknown: Vec<UnknownDevice>,
}

/// Decodes payloads into columns.
pub struct Decoder<'r> {
    context: Context<'r>,
    partitions: Vec<PartitionRows>,
    scratch: Scratch,
}

impl<'r> Decoder<'r> {
    /// A decoder without rows.
    pub fn new(context: Context<'r>) -> Self {
        let partitions = context.registries.0.iter().map(|_| PartitionRows::default()).collect();
        Self { context, partitions, scratch: Scratch::default() }
    }

    /// The rows so far, a partition each.
    pub fn partitions(&self) -> &[PartitionRows] {
        &self.partitions
    }

    /// The partitions that have rows: the rows as columns, and which of them had no time of their own.
    pub fn finish(self) -> impl Iterator<Item = (PartitionId, Batch, Vec<u32>)> {
        let numbered = (0..).map(PartitionId).zip(self.partitions);
        numbered
            .filter(|(_, rows)| !rows.builder.is_empty())
            .map(|(partition, rows)| (partition, rows.builder.finish(), rows.untimed))
    }

    /// Decodes one payload.
    pub fn decode(&mut self, payload: &[u8], shape: &Shape<'_>, framing: Framing) -> Summary {
        let mut summary = Summary::default();
        let ndjson = match framing {
            Framing::Ndjson => true,
            Framing::Json => false,
            Framing::Auto => starts_lines_with_objects(payload),
        };
        if ndjson {
            self.lines(payload, shape, &mut summary);
        } else {
            self.text(payload, shape, &mut summary);
        }
        if summary == Summary::default() {
            let fault = Fault::new(code::EMPTY, 0, "the payload has no item");
            refuse(&mut summary, fault.into(), None, 0..payload.len());
        }
        summary
    }

    fn lines(&mut self, payload: &[u8], shape: &Shape<'_>, summary: &mut Summary) {
        let (mut start, mut index) = (0, 0);
        while start < payload.len() {
            let end = memchr::memchr(b'\n', &payload[start..]).map_or(payload.len(), |n| start + n);
            let line = start..end;
            start = end + 1;
            let mut cursor = Cursor::within(payload, line.start, line.end);
            if cursor.peek().is_none() {
                continue;
            }
            if index as usize >= self.context.bounds.items {
                let fault = self.too_many(line.start);
                refuse(summary, fault.into(), Some(index), line.start..payload.len());
                return;
            }
            let from = cursor.at();
            let result = self.item(&mut cursor, shape, true);
            match result {
                Ok(()) => summary.accepted += 1,
                Err(refusal) => {
                    // Only what is white space in JSON: a form feed is part of the item, and of its dead letter.
                    let last = payload[from..line.end].iter().rposition(|&byte| !json::is_space(byte));
                    refuse(summary, refusal, Some(index), from..from + last.map_or(0, |last| last + 1));
                }
            }
            index += 1;
        }
    }

    fn text(&mut self, payload: &[u8], shape: &Shape<'_>, summary: &mut Summary) {
        let mut cursor = Cursor::new(payload);
        match cursor.peek() {
            Some(b'[') => self.array(payload, &mut cursor, shape, summary),
            Some(_) => match self.item(&mut cursor, shape, true) {
                Ok(()) => summary.accepted += 1,
                Err(refusal) => refuse(summary, refusal, Some(0), 0..payload.len()),
            },
            None => {}
        }
    }

    fn array(&mut self, payload: &[u8], cursor: &mut Cursor<'_>, shape: &Shape<'_>, summary: &mut Summary) {
        cursor.seek(cursor.at() + 1);
        let mut index = 0;
        if cursor.peek() == Some(b']') {
            cursor.seek(cursor.at() + 1);
            index = u32::MAX;
        }
        while index != u32::MAX {
            cursor.peek();
            let from = cursor.at();
            if index as usize >= self.context.bounds.items {
                let fault = self.too_many(from);
                return refuse(summary, fault.into(), Some(index), from..payload.len());
            }
            match self.item(cursor, shape, false) {
                Ok(()) => summary.accepted += 1,
                Err(refusal) => {
                    // Where it ends is found again from its start, so that what stands behind it passes.
                    cursor.seek(from);
                    // Deeper than an item may be, so that a deep one costs only itself.
                    let whole = cursor.skip(self.context.bounds.depth.max(8) * 64).is_ok();
                    let to = if whole { cursor.at() } else { payload.len() };
                    refuse(summary, refusal, Some(index), from..to);
                    if !whole {
                        return;
                    }
                }
            }
            index += 1;
            match cursor.peek() {
                Some(b',') => cursor.seek(cursor.at() + 1),
                Some(b']') => {
                    cursor.seek(cursor.at() + 1);
                    break;
                }
                _ => {
                    let fault = cursor.unexpected("',' or ']'");
                    return refuse(summary, fault.into(), Some(index), cursor.at()..payload.len());
                }
            }
        }
        if cursor.peek().is_some() {
            let fault = Fault::new(code::TRAILING, cursor.at(), "something stands behind the array");
            refuse(summary, fault.into(), None, cursor.at()..payload.len());
        }
    }

    fn too_many(&self, at: usize) -> Fault {
        let what =
            format!("more than {} items; this and what follows was not read", self.context.bounds.items);
        Fault::new(code::TOO_MANY_ITEMS, at, what)
    }

    /// `last`: nothing may stand behind the item.
    fn item(&mut self, cursor: &mut Cursor<'_>, shape: &Shape<'_>, last: bool) -> Result<(), Refusal> {
        let Self { context, partitions, scratch } = self;
        scratch.path.clear();
        let start = cursor.clone();
        let result = match shape {
            Shape::Event => item::read(cursor, None, last, context, partitions, scratch),
            Shape::Device(id) => {
                let place = match item::find(context, id, cursor.at()) {
                    Ok(place) => Some(place),
                    Err(Refusal::Unknown(_)) => None,
                    Err(refusal) => return Err(refusal),
                };
                item::read(cursor, Some(Scope { id, place }), last, context, partitions, scratch)
            }
            Shape::Mapped { mapping, device, metric } => {
                mapped::read(cursor, mapping, (*device, *metric), last, context, partitions, scratch)
            }
        };
        // Garbage that names a new device must not register it.
        if matches!(result, Err(Refusal::Unknown(_))) {
            let mut rest = start;
            rest.skip(context.bounds.depth)?;
            item::check_end(&mut rest, last)?;
        }
        result
    }
}

/// Whether the payload is NDJSON by its look: it begins with an object, and so does a later line. A text that is
/// printed over several lines indents what is inside of it.
fn starts_lines_with_objects(payload: &[u8]) -> bool {
    payload.trim_ascii_start().first() == Some(&b'{')
        && memchr::memchr_iter(b'\n', payload).any(|at| payload.get(at + 1) == Some(&b'{'))
}

fn refuse(summary: &mut Summary, refusal: Refusal, index: Option<u32>, bytes: Range<usize>) {
    match refusal {
        Refusal::Unknown(device) => summary.unknown.push(UnknownDevice { index, device, bytes }),
        Refusal::Fault(Fault { code, at, what }) => {
            let reason = format!("{what} (byte {at})");
            summary.rejected.push(Rejected { index, code, reason, bytes });
        }
    }
}
