//! Streams of the log, live.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use utoipa::{IntoParams, ToSchema};
use watchfire_log::{Entry, LogError, LogReader, Record};
use watchfire_model::{PartitionId, READINGS};

use super::AppState;
use super::extract::{Path, Query, Viewer};
use super::page::{Listing, PageQuery};
use crate::problem::Problem;
use crate::readings::reading;

/// Records that are read before they are sent.
const CHUNK: usize = 64;

/// A stream and who publishes it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamView {
    name: String,
    /// The rules that publish it; none: what devices send.
    published_by: Vec<String>,
    /// The rules that read it.
    read_by: Vec<String>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct TailQuery {
    /// Only readings of this device.
    device: Option<String>,
}

/// A comment now and then tells proxies, and ourselves, whether the reader is still there.
pub(super) fn keep_alive() -> KeepAlive {
    KeepAlive::new().interval(Duration::from_secs(15))
}

/// A place among the open event streams, of which there are only so many: each holds a task and a queue.
pub(super) fn permit(state: &AppState) -> Result<OwnedSemaphorePermit, Problem> {
    state
        .event_streams
        .clone()
        .try_acquire_owned()
        .map_err(|_| Problem::unavailable("too-many-streams", "too many event streams are open"))
}

/// All streams that rules read or publish
#[utoipa::path(get, path = "/streams", tag = "streams", params(PageQuery),
    responses((status = 200, body = Listing<StreamView>)))]
pub(crate) async fn list_streams(
    _: Viewer,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
) -> Result<axum::Json<Listing<StreamView>>, Problem> {
    let mut streams = std::collections::BTreeMap::<String, (Vec<String>, Vec<String>)>::new();
    streams.entry(READINGS.into()).or_default();
    state.control.with_rules(|rules| {
        for version in rules.active() {
            streams.entry(version.spec.input.clone()).or_default().1.push(version.spec.name.clone());
            if let Some(output) = &version.spec.output {
                streams.entry(output.clone()).or_default().0.push(version.spec.name.clone());
            }
        }
    });
    let views = streams
        .into_iter()
        .map(|(name, (published_by, read_by))| StreamView { name, published_by, read_by })
        .collect();
    Ok(axum::Json(page.cut(views, |view| &view.name)?))
}

/// The readings of a stream, as the log takes them
///
/// Server-sent events, one reading each. The last one of a record carries the id to resume behind it with
/// `Last-Event-ID`; without that header the stream begins with what comes next.
#[utoipa::path(get, path = "/streams/{name}/tail", tag = "streams", params(("name" = String, Path), TailQuery),
    responses((status = 200, content_type = "text/event-stream"), (status = 404)))]
pub(crate) async fn tail_stream(
    _: Viewer,
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(query): Query<TailQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // A name that nothing publishes is most often misspelt, and would stay silent for ever. A rule that was removed
    // leaves its stream behind: it can still be read.
    let known = name == READINGS
        || state.control.with_rules(|rules| {
            let mut versions = rules.iter().flat_map(|rule| rule.versions.values());
            versions
                .any(|version| version.spec.output.as_deref() == Some(&*name) || version.spec.input == name)
        });
    if !known {
        return Err(Problem::not_found("stream", &name));
    }
    let permit = permit(&state)?;
    let from = match headers.get("last-event-id") {
        Some(id) => Some(parse_id(id.to_str().unwrap_or_default(), state.log.partitions())?),
        None => None,
    };
    let readers = (0..state.log.partitions())
        .map(|partition| {
            let (first, end) = state.log.range(PartitionId(partition));
            let from = from.as_ref().map_or(end, |from| from[usize::from(partition)].clamp(first, end));
            state.log.reader(PartitionId(partition), from)
        })
        .collect::<Result<Vec<_>, LogError>>()
        .map_err(|error| Problem::internal(&error))?;
    let (sender, receiver) = mpsc::channel(CHUNK);
    tokio::spawn(async move {
        let _permit = permit;
        if let Err(error) = pump(&state, readers, &name, query.device.as_deref(), &sender).await {
            tracing::warn!(
                stream = name,
                error = watchfire_model::chain(&error),
                "a stream's tail broke off"
            );
        }
    });
    let events = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|event| (Ok::<_, Infallible>(event), receiver))
    });
    Ok(Sse::new(events).keep_alive(keep_alive()).into_response())
}

type Readers = Vec<Box<dyn LogReader>>;

async fn pump(
    state: &AppState,
    mut readers: Readers,
    stream: &str,
    device: Option<&str>,
    sender: &mpsc::Sender<Event>,
) -> Result<(), LogError> {
    loop {
        // Asked before reading: what is synced while we read wakes us at once.
        let group = state.log.synced_group();
        let (returned, entries) = read(readers).await?;
        readers = returned;
        if entries.is_empty() {
            tokio::select! {
                _ = state.log.synced_past(group) => continue,
                () = sender.closed() => return Ok(()),
                () = state.stop.cancelled() => return Ok(()),
            }
        }
        let registries = state.control.registries();
        for (entry, id) in entries {
            let Record::Readings { stream: of, batch, .. } = &entry.record else { continue };
            let Some(registry) = registries.0.get(usize::from(entry.position.partition.0)) else { continue };
            if **of != *stream {
                continue;
            }
            let wanted = |row: &u32| {
                let handle = batch.devices.get(*row as usize);
                device.is_none_or(|id| {
                    handle.and_then(|&handle| registry.get(handle)).is_some_and(|device| device.spec.id == id)
                })
            };
            let rows: Vec<u32> = (0..batch.rows() as u32).filter(wanted).collect();
            for (i, &row) in rows.iter().enumerate() {
                let mut event =
                    Event::default().event("reading").data(reading(batch, row, registry).to_string());
                if i + 1 == rows.len() {
                    event = event.id(id.clone());
                }
                if sender.send(event).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Reads on from all partitions, on a thread that may wait for the disk. With each record comes the id to
/// resume behind it.
async fn read(mut readers: Readers) -> Result<(Readers, Vec<(Arc<Entry>, String)>), LogError> {
    let task = tokio::task::spawn_blocking(move || {
        let mut entries = Vec::new();
        for at in 0..readers.len() {
            while entries.len() < CHUNK * (at + 1) / readers.len().max(1) {
                let Some(entry) = readers[at].next()? else { break };
                let id: Vec<String> = readers.iter().map(|reader| reader.offset().to_string()).collect();
                entries.push((entry, id.join(",")));
            }
        }
        Ok((readers, entries))
    });
    task.await.unwrap_or_else(|_| Err(LogError::Format("the reading task ended".into())))
}

fn parse_id(text: &str, partitions: u16) -> Result<Vec<u64>, Problem> {
    let offsets: Option<Vec<u64>> = text.split(',').map(|offset| offset.trim().parse().ok()).collect();
    offsets.filter(|offsets| offsets.len() == usize::from(partitions)).ok_or_else(|| {
        Problem::bad_request("last-event-id", format!("{text:?} is no id of an event of this stream"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_an_offset_in_each_partition() {
        assert_eq!(parse_id("3, 5", 2).unwrap(), [3, 5]);
        for bad in ["", "3", "3,5,7", "3,x"] {
            assert!(parse_id(bad, 2).is_err(), "{bad}");
        }
    }
}
