//! A recording, sent again by its devices when its times come.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use watchfire_log::{Clock, ScaledClock};
use watchfire_model::{DeviceSpec, Timestamp};

use super::{Tally, client, csv};

/// Messages of one device that wait to be sent.
const QUEUE: usize = 256;

#[derive(Deserialize)]
struct Event {
    device: String,
    time: Timestamp,
    metrics: serde_json::Map<String, serde_json::Value>,
}

fn csv_events(text: &str) -> Result<Vec<Event>, String> {
    let mut rows = csv::rows(text).into_iter();
    let Some((_, columns)) = rows.next() else { return Ok(Vec::new()) };
    let place = |name: &str| {
        let found = columns.iter().position(|column| column.trim() == name);
        found.ok_or_else(|| format!("line 1: there is no column {name:?}"))
    };
    let (device, time) = (place("device")?, place("time")?);
    let mut events = Vec::new();
    for (line, cells) in rows {
        let at = |what: String| format!("line {line}: {what}");
        if cells.len() != columns.len() {
            return Err(at(format!("{} cells, but {} columns", cells.len(), columns.len())));
        }
        DeviceSpec::check_id(&cells[device]).map_err(at)?;
        let text = cells[time].trim();
        // Milliseconds since the epoch stand in a table as a number.
        let when = match text.parse::<i64>() {
            Ok(milliseconds) => Timestamp::from_millis(milliseconds),
            Err(_) => text.parse().ok(),
        };
        let metrics = columns.iter().zip(&cells).enumerate();
        let metrics = metrics.filter(|(i, (_, cell))| *i != device && *i != time && !cell.trim().is_empty());
        events.push(Event {
            device: cells[device].clone(),
            time: when.ok_or_else(|| at(format!("{text:?} is no time")))?,
            metrics: metrics.map(|(_, (name, cell))| (name.trim().to_string(), csv::value(cell))).collect(),
        });
    }
    Ok(events)
}

/// Recorded readings, ordered by time.
pub struct Recording(Vec<Event>);

impl Recording {
    /// Reads NDJSON, `{"device","time","metrics"}` a line; or CSV where the file is named so: its first line names the
    /// columns, `device`, `time` and a metric each; an empty cell is no metric.
    pub fn read(file: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let mut events = Vec::new();
        if file.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("csv")) {
            events = csv_events(&text).map_err(|what| anyhow::anyhow!("{}, {what}", file.display()))?;
            return Self::of(events, file);
        }
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = || format!("{}, line {}", file.display(), number + 1);
            let event: Event = serde_json::from_str(line).with_context(place)?;
            DeviceSpec::check_id(&event.device).map_err(anyhow::Error::msg).with_context(place)?;
            events.push(event);
        }
        Self::of(events, file)
    }

    fn of(mut events: Vec<Event>, file: &Path) -> Result<Self> {
        if events.is_empty() {
            bail!("{} has no readings", file.display());
        }
        // Stable: what one device said at one time stays in its order.
        events.sort_by_key(|event| event.time);
        Ok(Self(events))
    }

    /// When it begins.
    pub fn first(&self) -> Timestamp {
        self.0[0].time
    }

    /// When it ends.
    pub fn last(&self) -> Timestamp {
        self.0[self.0.len() - 1].time
    }

    /// How many readings there are.
    pub fn readings(&self) -> usize {
        self.0.len()
    }

    /// Who reports.
    pub fn devices(&self) -> Vec<&str> {
        let mut devices: Vec<_> = self.0.iter().map(|event| event.device.as_str()).collect();
        devices.sort_unstable();
        devices.dedup();
        devices
    }

    /// Sends each reading when the clock shows its time. `tell` makes of its time, and the first one, the time
    /// that is sent with it. Returns once everything is acknowledged, or it was stopped.
    pub async fn play(
        &self,
        mqtt: SocketAddr,
        clock: Arc<ScaledClock>,
        tell: impl Fn(Timestamp, Timestamp) -> Timestamp,
        tally: Arc<Tally>,
        stop: CancellationToken,
    ) {
        let mut tasks = JoinSet::new();
        let mut queues: HashMap<&str, mpsc::Sender<client::Message>> = HashMap::new();
        for device in self.devices() {
            let (sender, receiver) = mpsc::channel(QUEUE);
            tasks.spawn(client::run(mqtt, device.into(), receiver, tally.clone(), stop.clone()));
            queues.insert(device, sender);
        }
        let first = self.first();
        for event in &self.0 {
            let ahead = event.time.since(clock.wall()).as_secs_f64() / clock.speed();
            if ahead > 0.0 {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs_f64(ahead)) => {}
                    () = stop.cancelled() => break,
                }
            }
            let time = tell(event.time, first);
            let body = serde_json::json!({ "time": time, "metrics": event.metrics });
            let topic = format!("devices/{}/telemetry", event.device);
            let Some(queue) = queues.get(event.device.as_str()) else { continue };
            if queue.send((topic, body.to_string().into_bytes())).await.is_err() {
                break;
            }
        }
        drop(queues);
        let all = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(20), all).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_a_recording() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            Recording::read(&file).map_err(|error| format!("{error:#}"))
        };
        let table = "device,time,temperature,door,note\r\n\
                     press-2,2026-01-01T00:00:01Z,71.5,,\"a, b\"\r\n\
                     press-1,1767225600000,,true,\r\n";
        let Recording(events) = read("r.csv", table).unwrap();
        let shown: Vec<_> =
            events.iter().map(|e| format!("{} {}", e.device, serde_json::json!(e.metrics))).collect();
        assert_eq!(shown, ["press-1 {\"door\":true}", "press-2 {\"note\":\"a, b\",\"temperature\":71.5}"]);
        assert_eq!(events[0].time, "2026-01-01T00:00:00Z".parse().unwrap());
        for (text, expected) in [
            ("device,temperature\na,1\n", "no column \"time\""),
            ("device,time\na\n", "line 2: 1 cells"),
            ("device,time\na,soon\n", "line 2: \"soon\" is no time"),
            ("device,time\na/b,0\n", "line 2: device id"),
            ("device,time\n", "no readings"),
        ] {
            assert!(read("bad.csv", text).err().unwrap().contains(expected), "{text:?}");
        }
    }
}
