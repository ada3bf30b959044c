//! What a device said, out of the log.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use utoipa::IntoParams;
use watchfire_log::{Log, LogError, Record};
use watchfire_model::device::Registries;
use watchfire_model::{DeviceHandle, Offset, PartitionId, READINGS, Timestamp};

use super::AppState;
use super::extract::{Path, Query, Viewer};
use super::sinks::time;
use crate::problem::Problem;
use crate::readings::reading;

/// Readings of one answer, where the caller does not say how many.
const USUAL: u64 = 100_000;

/// And at most: some hundred megabytes.
const MOST: u64 = 1_000_000;

/// Answers of this kind that are made at the same time: each reads the log from the disk, and holds a thread.
pub(super) const AT_ONCE: usize = 2;

/// Pieces that wait for the network.
const PIECES: usize = 4;

/// Bytes of a piece, about.
const PIECE: usize = 64 << 10;

/// How long a reader may take nothing: it must not keep others away for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which part of the log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecordedParameters {
    /// Received then or later.
    from: String,
    /// And before then; missing: now.
    to: Option<String>,
    /// So many readings, and the rest of those that were received together; missing: 100 000, at most 1 000 000.
    limit: Option<u64>,
}

/// The readings of a device as the log received them
///
/// One JSON document a line, `{"device","time","metrics","received"}`, in the order of the log, as far back as the log
/// is kept. Where there are more than `limit`, the last line is `{"next":TIME}`: ask again from there.
#[utoipa::path(get, path = "/devices/{id}/readings", tag = "devices",
    params(("id" = String, Path), RecordedParameters),
    responses((status = 200, content_type = "application/x-ndjson"), (status = 400), (status = 404),
        (status = 503, description = "others are reading the log")))]
pub(crate) async fn device_readings(
    _: Viewer,
    State(state): State<AppState>,
    Path(device): Path<String>,
    Query(asked): Query<RecordedParameters>,
) -> Result<Response, Problem> {
    let from = time("from", &asked.from)?;
    let to = asked.to.map(|to| time("to", &to)).transpose()?;
    let limit = asked.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        let problem = Problem::bad_request("query", format!("limit is 1 to {MOST}"));
        return Err(problem.with("parameter", "limit"));
    }
    let registries = state.control.registries();
    let found = registries.find(&device);
    let (partition, handle) = found.ok_or_else(|| Problem::not_found("device", &device))?;
    let permit = state
        .reading_log
        .clone()
        .try_acquire_owned()
        .map_err(|_| Problem::unavailable("log-busy", "others are reading the log: try again soon"))?;
    let (sender, receiver) = mpsc::channel(PIECES);
    let (log, runtime) = (state.log.clone(), tokio::runtime::Handle::current());
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let send = |piece| {
            let sent = runtime.block_on(tokio::time::timeout(PATIENCE, sender.send(piece)));
            matches!(sent, Ok(Ok(())))
        };
        let part = Part { log, registries, partition, handle, from, to, limit };
        if let Err(error) = part.write(|bytes| send(Ok(bytes))) {
            tracing::warn!(device, error = watchfire_model::chain(&error), "reading the log broke off");
            // Breaks the connection off: half an answer must not look like a whole one.
            send(Err(io::Error::other("the log could not be read")));
        }
    });
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece: io::Result<Bytes>| (piece, receiver))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response())
}

/// Readings of one device that were received in a span of time.
struct Part {
    log: Arc<dyn Log>,
    registries: Arc<Registries>,
    partition: PartitionId,
    handle: DeviceHandle,
    from: Timestamp,
    to: Option<Timestamp>,
    limit: u64,
}

impl Part {
    /// Gives the lines in pieces, until `send` says no.
    fn write(&self, send: impl Fn(Bytes) -> bool) -> Result<(), LogError> {
        let end = self.log.range(self.partition).1;
        let Some(registry) = self.registries.0.get(usize::from(self.partition.0)) else { return Ok(()) };
        let mut reader = self.log.reader(self.partition, self.first()?)?;
        let (mut piece, mut count, mut last) = (Vec::with_capacity(PIECE), 0, self.from);
        // What comes while this is read is not waited for.
        while reader.offset() < end
            && let Some(entry) = reader.next()?
        {
            if self.to.is_some_and(|to| entry.appended_at >= to) {
                break;
            }
            let Record::Readings { stream, batch, .. } = &entry.record else { continue };
            if **stream != *READINGS {
                continue;
            }
            for (row, _) in (0..).zip(&batch.devices).filter(|(_, device)| **device == self.handle) {
                // What was received together has one time, and `next` must not fall into it.
                if count >= self.limit && entry.appended_at > last {
                    push(&mut piece, &json!({ "next": entry.appended_at }));
                    send(piece.into());
                    return Ok(());
                }
                let mut line = reading(batch, row, registry);
                line["received"] = json!(entry.appended_at);
                push(&mut piece, &line);
                (count, last) = (count + 1, entry.appended_at);
            }
            if piece.len() >= PIECE && !send(std::mem::take(&mut piece).into()) {
                return Ok(());
            }
        }
        send(piece.into());
        Ok(())
    }

    /// The first record that was received at `from` or later: times in the log never go back.
    fn first(&self) -> Result<Offset, LogError> {
        let (mut low, mut high) = self.log.range(self.partition);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.log.reader(self.partition, middle)?.next()? {
                Some(entry) if entry.appended_at < self.from => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }
}

fn push(piece: &mut Vec<u8>, line: &serde_json::Value) {
    piece.extend_from_slice(line.to_string().as_bytes());
    piece.push(b'\n');
}
