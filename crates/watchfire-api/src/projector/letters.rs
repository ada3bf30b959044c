//! Dead letters out of the log.

use std::sync::Arc;

use watchfire_log::record::Skipped;
use watchfire_log::{Entry, Log, LogError, Record, Reject};
use watchfire_model::{Batch, DeviceHandle, Offset, PartitionId, Position, Registry};
use watchfire_store::{NewDeadLetter, Store, StoreError};

use crate::readings::reading;

/// Bytes of rows after which a dead letter of a rule is closed and the next row begins a further one; they are replayed
/// together. A record has some thousand rows, which mostly come to less; but a long text, which a column holds once,
/// stands in each line again, and may come to more than one document should be.
const LETTER: usize = 1 << 20;

/// Bytes of dead letters that wait to be written together. A stretch in which every record failed has far more.
const WAITING: usize = 4 << 20;

/// Dead letters of a stretch of one partition, on their way to the store.
pub(super) struct Letters<'a> {
    store: &'a Store,
    waiting: Vec<NewDeadLetter>,
    bytes: usize,
    stored: u64,
    /// The record that a failure made us read once more.
    read: Option<Arc<Entry>>,
}

impl<'a> Letters<'a> {
    pub fn new(store: &'a Store) -> Self {
        Self { store, waiting: Vec::new(), bytes: 0, stored: 0, read: None }
    }

    /// How many were written so far.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    pub async fn push(&mut self, letter: NewDeadLetter) -> Result<(), StoreError> {
        self.bytes += letter.payload.len();
        self.waiting.push(letter);
        if self.bytes >= WAITING { self.write().await } else { Ok(()) }
    }

    /// Writes what waits. Writing a letter again changes nothing.
    pub async fn write(&mut self) -> Result<(), StoreError> {
        self.store.add_dead_letters(&self.waiting).await?;
        let count = self.waiting.len() as u64;
        watchfire_telemetry::metrics().api.dead_letters.inc_by(count);
        self.stored += count;
        self.bytes = 0;
        self.waiting.clear();
        Ok(())
    }

    /// The record that a rule failed on: as a rule one of this stretch, for a failure stands close behind what failed.
    /// Where the loop was far behind, it is read once more, and kept for the next rule that failed on it. `None`: it
    /// is gone.
    pub async fn record(
        &mut self,
        log: &Arc<dyn Log>,
        entries: &[Arc<Entry>],
        partition: PartitionId,
        offset: Offset,
    ) -> Result<Option<Arc<Entry>>, LogError> {
        let known = entries.iter().chain(&self.read).find(|entry| entry.position.offset == offset);
        if let Some(known) = known {
            return Ok(Some(known.clone()));
        }
        let log = log.clone();
        let read = tokio::task::spawn_blocking(move || log.reader(partition, offset)?.next());
        self.read = match read.await {
            Ok(Ok(read)) => read,
            Ok(Err(LogError::Gone { .. })) | Err(_) => None,
            Ok(Err(error)) => return Err(error),
        };
        Ok(self.read.clone())
    }

    /// The rows that a rule did not get to see of the record that it failed on: whole, so that they can be evaluated
    /// again when the log has let go of that. Where there are none, because the call was for something else or they
    /// are gone, the failure is told all the same.
    pub async fn add_failure(
        &mut self,
        entry: &Entry,
        skipped: &Skipped,
        record: Option<&Record>,
        registry: &Registry,
    ) -> Result<(), StoreError> {
        let (stream, batch) = match record {
            Some(Record::Readings { stream, batch, .. }) => (stream, batch),
            Some(Record::Redo(redo)) => (&redo.stream, &redo.batch),
            _ => return self.push(of_failure(entry, skipped)).await,
        };
        let mut rows = &skipped.rows[..];
        let mut index = 0;
        loop {
            let (payload, handles) = lines(batch, &mut rows, registry);
            let Some(&first) = handles.first() else { break };
            let one = handles.iter().all(|handle| *handle == first);
            let device = registry.get(DeviceHandle(first)).filter(|_| one);
            let state_before = state_before(skipped, &handles, registry);
            self.push(NewDeadLetter {
                id: format!("{}/{index}", entry.position),
                source: stream.to_string(),
                device: device.map(|device| device.spec.id.clone()),
                payload,
                rows: handles.len() as u64,
                handles,
                state_before,
                ..of_failure(entry, skipped)
            })
            .await?;
            index += 1;
        }
        // Rows that the record does not have: only damage, or a fault of ours, can name them.
        if index == 0 { self.push(of_failure(entry, skipped)).await } else { Ok(()) }
    }
}

/// Takes rows from the front, as many as one letter holds: a line each, and the handles of their devices.
fn lines(batch: &Batch, rows: &mut &[u32], registry: &Registry) -> (Vec<u8>, Vec<u32>) {
    let (mut payload, mut handles) = (Vec::new(), Vec::new());
    while let [row, rest @ ..] = rows
        && payload.len() < LETTER
    {
        *rows = rest;
        let Some(device) = batch.devices.get(*row as usize) else { continue };
        if !payload.is_empty() {
            payload.push(b'\n');
        }
        payload.extend_from_slice(reading(batch, *row, registry).to_string().as_bytes());
        handles.push(device.0);
    }
    (payload, handles)
}

/// The state of these devices by their names, where it was noted.
fn state_before(skipped: &Skipped, handles: &[u32], registry: &Registry) -> Option<serde_json::Value> {
    let of_these = skipped.state_before.iter().filter(|state| handles.contains(&state.device.0));
    let named = of_these.filter_map(|state| {
        let device = registry.get(state.device)?;
        Some((device.spec.id.clone(), serde_json::json!(state.slots)))
    });
    let named: serde_json::Map<String, serde_json::Value> = named.collect();
    (!named.is_empty()).then(|| named.into())
}

fn of_failure(entry: &Entry, skipped: &Skipped) -> NewDeadLetter {
    NewDeadLetter {
        id: format!("{}/0", entry.position),
        at: entry.appended_at,
        kind: "rule".into(),
        code: serde_json::to_value(skipped.kind)
            .ok()
            .and_then(|kind| kind.as_str().map(String::from))
            .unwrap_or_default(),
        reason: skipped.reason.clone(),
        rule: Some(skipped.rule.clone()),
        rule_version: Some(skipped.version),
        position: Position { offset: skipped.rows_at.unwrap_or(skipped.offset), ..entry.position }
            .to_string(),
        callback: Some(skipped.callback_name.clone()),
        rows: skipped.rows.len() as u64,
        ..NewDeadLetter::default()
    }
}

pub(super) fn of_reject(entry: &Entry, index: usize, reject: &Reject) -> NewDeadLetter {
    NewDeadLetter {
        id: format!("{}/{index}", entry.position),
        at: entry.appended_at,
        kind: "decode".into(),
        source: reject.source.clone(),
        address: reject.address.clone(),
        device: reject.device.clone(),
        sender: reject.sender.clone(),
        code: reject.code.clone(),
        reason: match reject.index {
            Some(item) => format!("item {item}: {}", reject.reason),
            None => reject.reason.clone(),
        },
        payload: reject.payload.clone(),
        position: entry.position.to_string(),
        ..NewDeadLetter::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_model::{BatchBuilder, DeviceSpec, Timestamp};

    #[test]
    fn rows_of_long_texts_are_several_letters_and_none_is_lost() {
        let mut registry = Registry::default();
        registry.put(DeviceSpec { id: "a".into(), ..DeviceSpec::default() });
        let mut builder = BatchBuilder::new();
        for row in 0..1000_i64 {
            builder.begin(DeviceHandle(0), Timestamp(row));
            builder.text("manual", &"x".repeat(4096)).unwrap();
            builder.commit();
        }
        let batch = builder.finish();
        // A row that the batch does not have, as only a damaged record could name it, is passed over.
        let all: Vec<u32> = (0..1000).step_by(2).chain([5000]).collect();
        let (mut rows, mut letters) = (&all[..], Vec::new());
        loop {
            let (payload, handles) = lines(&batch, &mut rows, &registry);
            if handles.is_empty() {
                break;
            }
            assert!(payload.len() < LETTER + 5000);
            assert_eq!(payload.split(|byte| *byte == b'\n').count(), handles.len());
            letters.extend(payload);
            letters.push(b'\n');
        }
        let line = |row: u32| reading(&batch, row, &registry).to_string() + "\n";
        let expected: String = (0..1000).step_by(2).map(line).collect();
        assert!(letters == expected.as_bytes());
    }
}
