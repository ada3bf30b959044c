//! Chunks as messages. A reading is the common JSON event, a transition a CloudEvent ("CloudEvents Kafka protocol binding
//! 1.0.2"), a dead letter the bytes that came, with what is known of them in headers, as Kafka Connect does it.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;

use serde_json::json;
use watchfire_log::record::Skipped;
use watchfire_log::{Record, Reject};
use watchfire_model::{Batch, Timestamp};
use watchfire_store::{AlertRow, EventRow};

use super::config::{Events, KafkaConfig};
use crate::chunk::{Chunk, Content, Filter, Interests, Row, Taken, WHOLE};
use crate::contract::Encoder;
use crate::events::{MetricNames, put_metrics, put_text, transition};

/// The header with what is unique to a message and the same on every attempt.
pub const ID: &str = "watchfire-id";

/// A message: where its parts are in [`Encoded::bytes`], one behind the other from `start` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub row: Row,
    /// Which of [`Encoded::topics`].
    pub topic: u32,
    pub start: u32,
    pub key: u32,
    pub value: u32,
    pub end: u32,
    /// When the log received it, in milliseconds: what the broker keeps it by. The time of the device stands in the value:
    /// a clock that runs ahead or a reading of weeks ago would have the broker refuse it, or drop it early.
    pub time: i64,
    /// Which of [`Encoded::headers`], beside the id; `u32::MAX`: none.
    pub headers: u32,
}

/// What is written of a chunk.
#[derive(Debug, Default)]
pub struct Messages {
    pub(super) topics: Vec<String>,
    pub(super) bytes: Vec<u8>,
    pub(super) messages: Vec<Message>,
    pub(super) headers: Vec<Vec<(&'static str, String)>>,
}

impl Messages {
    /// The id of a message.
    pub(super) fn id(&self, message: &Message) -> &[u8] {
        &self.bytes[message.start as usize..message.key as usize]
    }

    /// Its key; empty: it has none.
    pub(super) fn key(&self, message: &Message) -> &[u8] {
        &self.bytes[message.key as usize..message.value as usize]
    }

    /// Its value.
    pub(super) fn value(&self, message: &Message) -> &[u8] {
        &self.bytes[message.value as usize..message.end as usize]
    }

    fn topic(&mut self, name: &str) -> u32 {
        let found = self.topics.iter().position(|topic| topic == name);
        found.unwrap_or_else(|| {
            self.topics.push(name.to_string());
            self.topics.len() - 1
        }) as u32
    }

    fn push(
        &mut self,
        row: Row,
        topic: u32,
        time: Timestamp,
        headers: Vec<(&'static str, String)>,
        parts: [&[u8]; 3],
    ) {
        let start = self.bytes.len() as u32;
        let mut ends = [0; 3];
        for (part, end) in parts.into_iter().zip(&mut ends) {
            self.bytes.extend_from_slice(part);
            *end = self.bytes.len() as u32;
        }
        let [key, value, end] = ends;
        self.headers.push(headers);
        let headers = self.headers.len() as u32 - 1;
        self.messages.push(Message { row, topic, start, key, value, end, time: milliseconds(time), headers });
    }
}

/// Shared with the thread that sends it.
pub type Encoded = Arc<Messages>;

/// Encodes the chunks of one lane.
pub struct KafkaEncoder {
    config: Arc<KafkaConfig>,
    /// Which metrics are taken.
    filter: Filter,
    names: MetricNames,
    topics: HashMap<Arc<str>, String>,
}

impl KafkaEncoder {
    pub(super) fn new(config: Arc<KafkaConfig>) -> Self {
        let filter = Filter::new(config.takes(), Interests::default());
        Self { config, filter, names: MetricNames::default(), topics: HashMap::new() }
    }

    fn record(&mut self, chunk: &Chunk, item: u32, taken: &Taken, messages: &mut Messages) {
        let at = taken.entry.appended_at;
        match &taken.entry.record {
            Record::Readings { stream, batch, .. } => {
                let topic = self.topics.entry(stream.clone()).or_insert_with(|| self.config.topic(stream));
                let topic = messages.topic(topic);
                self.readings(chunk, item, taken, batch, topic, messages);
            }
            Record::Rejects(rejects) => {
                let topic = messages.topic(&self.config.dead_letters_topic());
                for (row, reject) in (0..).zip(rejects) {
                    let row = Row { item, row, column: WHOLE };
                    let device = reject.device.as_deref().unwrap_or_default();
                    let id = chunk.row_id(row);
                    let parts = [id.as_bytes(), device.as_bytes(), &reject.payload[..]];
                    messages.push(row, topic, at, headers_of_reject(reject), parts);
                }
            }
            Record::Skipped(skipped) => {
                let topic = messages.topic(&self.config.dead_letters_topic());
                let row = Row { item, row: 0, column: WHOLE };
                let value = serde_json::to_vec(skipped).unwrap_or_default();
                let id = chunk.row_id(row);
                let parts = [id.as_bytes(), &[][..], &value[..]];
                messages.push(row, topic, at, headers_of_skip(skipped), parts);
            }
            _ => {}
        }
    }

    fn readings(
        &mut self,
        chunk: &Chunk,
        item: u32,
        taken: &Taken,
        batch: &Batch,
        topic: u32,
        messages: &mut Messages,
    ) {
        let mut columns = self.names.columns(batch, &mut self.filter);
        let place = taken.entry.position.to_string();
        let time = milliseconds(taken.entry.appended_at);
        let rows = taken.rows.as_ref().map_or(batch.rows(), Vec::len);
        messages.messages.reserve(rows);
        messages.bytes.reserve(rows * (96 + 32 * columns.len()));
        let bytes = &mut messages.bytes;
        let put = |row: u32| {
            let start = bytes.len();
            bytes.extend_from_slice(place.as_bytes());
            bytes.push(b'/');
            put_number(bytes, row);
            let key = bytes.len();
            let device = chunk.device(batch.devices[row as usize]);
            bytes.extend_from_slice(device.as_bytes());
            let value = bytes.len();
            bytes.extend_from_slice(b"{\"device\":");
            put_text(bytes, device);
            bytes.extend_from_slice(b",\"time\":\"");
            put_time(bytes, batch.times[row as usize]);
            bytes.extend_from_slice(b"\",\"metrics\":");
            if !put_metrics(bytes, &mut columns, row) {
                // None of its metrics is taken: there is nothing to say.
                bytes.truncate(start);
                return;
            }
            bytes.push(b'}');
            messages.messages.push(Message {
                row: Row { item, row, column: WHOLE },
                topic,
                start: start as u32,
                key: key as u32,
                value: value as u32,
                end: bytes.len() as u32,
                time,
                headers: u32::MAX,
            });
        };
        taken.each_row(batch, put);
    }

    fn transition(&self, row: Row, topic: u32, event: &EventRow, alert: &AlertRow, messages: &mut Messages) {
        let data = transition(event, alert);
        let severity = data["severity"].as_str().unwrap_or_default().to_string();
        let kind = format!("watchfire.alert.{}", event.kind);
        let time = event.at.to_string();
        let (headers, value) = match self.config.events {
            Events::Binary => {
                let headers = vec![
                    ("ce_specversion", "1.0".to_string()),
                    ("ce_id", event.id.clone()),
                    ("ce_source", self.config.event_source.clone()),
                    ("ce_type", kind),
                    ("ce_time", time),
                    ("ce_subject", alert.device.clone()),
                    ("ce_severity", severity),
                    ("content-type", "application/json".to_string()),
                ];
                (headers, data)
            }
            Events::Structured => {
                let envelope = json!({
                    "specversion": "1.0",
                    "id": event.id,
                    "source": self.config.event_source,
                    "type": kind,
                    "time": time,
                    "subject": alert.device,
                    "severity": severity,
                    "datacontenttype": "application/json",
                    "data": data,
                });
                (vec![("content-type", "application/cloudevents+json; charset=utf-8".to_string())], envelope)
            }
        };
        let value = serde_json::to_vec(&value).unwrap_or_default();
        let parts = [event.id.as_bytes(), alert.device.as_bytes(), &value[..]];
        messages.push(row, topic, event.recorded_at, headers, parts);
    }
}

impl Encoder for KafkaEncoder {
    type Encoded = Encoded;

    fn encode(&mut self, chunk: &Chunk) -> Encoded {
        let mut messages = Messages::default();
        match &chunk.content {
            Content::Records(records) => {
                for (item, taken) in (0..).zip(records) {
                    self.record(chunk, item, taken, &mut messages);
                }
            }
            Content::Transitions(transitions) => {
                let topic = messages.topic(&self.config.alerts_topic());
                for (item, (event, alert)) in (0..).zip(transitions) {
                    let row = Row { item, row: 0, column: WHOLE };
                    self.transition(row, topic, event, alert, &mut messages);
                }
            }
        }
        Arc::new(messages)
    }
}

fn headers_of_reject(reject: &Reject) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("watchfire-kind", "input".to_string()),
        ("watchfire-code", reject.code.clone()),
        ("watchfire-reason", reject.reason.clone()),
        ("watchfire-source", reject.source.clone()),
        ("watchfire-address", reject.address.clone()),
    ];
    headers.extend(reject.index.map(|index| ("watchfire-index", index.to_string())));
    headers
}

fn headers_of_skip(skipped: &Skipped) -> Vec<(&'static str, String)> {
    let code = serde_json::to_value(skipped.kind).unwrap_or_default();
    vec![
        ("watchfire-kind", "rule".to_string()),
        ("watchfire-code", code.as_str().unwrap_or_default().to_string()),
        ("watchfire-reason", skipped.reason.clone()),
        ("watchfire-source", skipped.rule.clone()),
        ("content-type", "application/json".to_string()),
    ]
}

fn milliseconds(time: Timestamp) -> i64 {
    // 0 is what librdkafka takes for "now".
    (time.0 / 1000).max(1)
}

fn put_number(bytes: &mut Vec<u8>, number: u32) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(bytes, &number);
}

/// As [`Timestamp`] is written, without the detour over a calendar: it is done for every reading.
fn put_time(bytes: &mut Vec<u8>, time: Timestamp) {
    const DAY: i64 = 86_400_000_000;
    let (days, rest) = (time.0.div_euclid(DAY), time.0.rem_euclid(DAY));
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if !(0..=9999).contains(&year) {
        let _ = write!(bytes, "{time}");
        return;
    }
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let mut digits = |end: usize, count: usize, mut value: i64| {
        for place in (end - count..end).rev() {
            text[place] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    digits(4, 4, year);
    digits(7, 2, month);
    digits(10, 2, day);
    digits(13, 2, rest / 3_600_000_000);
    digits(16, 2, rest / 60_000_000 % 60);
    digits(19, 2, rest / 1_000_000 % 60);
    digits(26, 6, rest % 1_000_000);
    bytes.extend_from_slice(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_everywhere() {
        let check = |time: i64| {
            let mut bytes = Vec::new();
            put_time(&mut bytes, Timestamp(time));
            assert_eq!(String::from_utf8(bytes).unwrap(), Timestamp(time).to_string(), "{time}");
        };
        for time in [
            0,
            1,
            -1,
            i64::MAX,
            i64::MIN,
            951_782_400_000_000,
            4_107_542_399_999_999,
            -62_167_219_200_000_001,
        ] {
            check(time);
        }
        // Through all months of four centuries, and beyond them.
        for step in 0..40_000_i64 {
            check(step * 403_567_890_123 - 2_000_000_000_000_000);
        }
    }
}
