//! A recording, sent again by its devices when its times come.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use watchfire_log::{Clock, ScaledClock};
use watchfire_model::Timestamp;
use watchfire_scenario::Recording;

use super::{Tally, client};

/// Messages of one device that wait to be sent.
const QUEUE: usize = 256;

/// Sends each reading when the clock shows when it came. `tell` makes of the time at which it was measured, and the first
/// one of the recording, the time that is sent with it. Returns once everything is acknowledged, or it was stopped.
pub async fn play(
    recording: &Recording,
    mqtt: SocketAddr,
    clock: Arc<ScaledClock>,
    tell: impl Fn(Timestamp, Timestamp) -> Timestamp,
    tally: Arc<Tally>,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    let mut queues: HashMap<&str, mpsc::Sender<client::Message>> = HashMap::new();
    for device in recording.devices() {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tasks.spawn(client::run(mqtt, device.into(), receiver, tally.clone(), stop.clone()));
        queues.insert(device, sender);
    }
    let first = recording.first();
    for recorded in recording.all() {
        let ahead = recorded.came().since(clock.wall()).as_secs_f64() / clock.speed();
        if ahead > 0.0 {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs_f64(ahead)) => {}
                () = stop.cancelled() => break,
            }
        }
        let time = tell(recorded.time, first);
        let body = serde_json::json!({ "time": time, "metrics": recorded.metrics });
        let topic = format!("devices/{}/telemetry", recorded.device);
        let Some(queue) = queues.get(recorded.device.as_str()) else { continue };
        if queue.send((topic, body.to_string().into_bytes())).await.is_err() {
            break;
        }
    }
    drop(queues);
    let all = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_secs(20), all).await;
}
