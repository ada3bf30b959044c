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

use super::{Tally, client};

/// Messages of one device that wait to be sent.
const QUEUE: usize = 256;

#[derive(Deserialize)]
struct Event {
    device: String,
    time: Timestamp,
    metrics: serde_json::Map<String, serde_json::Value>,
}

/// Recorded readings, ordered by time.
pub struct Recording(Vec<Event>);

impl Recording {
    /// Reads NDJSON: `{"device","time","metrics"}` a line.
    pub fn read(file: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let mut events = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = || format!("{}, line {}", file.display(), number + 1);
            let event: Event = serde_json::from_str(line).with_context(place)?;
            DeviceSpec::check_id(&event.device).map_err(anyhow::Error::msg).with_context(place)?;
            events.push(event);
        }
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
