//! A beat to somebody outside, who notices when it stops: what no alert of ours can tell.
//!
//! It goes out only while everything between a reading and a person advances. Before each beat a tick is appended to every
//! partition: that it becomes durable shows that the log takes records, and that it is evaluated shows that the loop of its
//! partition goes on. Routing and the workers of receivers say by themselves when they last went round.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use watchfire_engine::Engine;
use watchfire_log::{Append, Clock, Log, Record};
use watchfire_model::{PartitionId, Secret};
use watchfire_notify::Notifier;
use watchfire_outbound::{Outcome, Sender, Target};
use watchfire_telemetry::metrics;

/// Routing and the workers of receivers go round every second: so much later they stand still.
const ROUND: Duration = Duration::from_secs(30);

/// Where the beat goes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatConfig {
    /// Who is told that everything goes on: `http://` or `https://`.
    pub url: Secret,
    /// Sent with each beat, such as `Authorization`.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// Between two beats.
    #[serde(default = "interval")]
    pub interval: watchfire_model::Duration,
    /// For a whole request, and for each part to show that it goes on.
    #[serde(default = "timeout")]
    pub timeout: watchfire_model::Duration,
}

fn interval() -> watchfire_model::Duration {
    watchfire_model::Duration::from_secs(60)
}

fn timeout() -> watchfire_model::Duration {
    watchfire_model::Duration::from_secs(10)
}

impl HeartbeatConfig {
    fn target(&self) -> Target<'_> {
        Target { url: &self.url, headers: &self.headers, timeout: self.timeout.to_std(), reserved: &[] }
    }

    /// Says what is wrong, if anything is, beginning with the key.
    pub fn check(&self) -> Result<(), String> {
        if self.interval < watchfire_model::Duration::from_secs(1) {
            return Err("interval: is at least 1s".into());
        }
        self.target().check()
    }
}

/// What stands still, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `log`, `partition`, `routing` or `delivery`.
    pub part: &'static str,
    /// For people.
    pub why: String,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.why)
    }
}

/// What has to advance.
pub trait Parts: Send + Sync + 'static {
    /// Says which part stands still, if one does; takes no longer than about `patience`.
    fn standing(&self, patience: Duration) -> BoxFuture<'_, Option<Standing>>;
}

/// The real ones.
pub struct Running {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The partition loop.
    pub engine: Arc<Engine>,
    /// Routing and delivery.
    pub notifier: Arc<Notifier>,
}

impl Parts for Running {
    fn standing(&self, patience: Duration) -> BoxFuture<'_, Option<Standing>> {
        Box::pin(async move {
            let log = |why: String| Some(Standing { part: "log", why });
            let ticks = (0..self.log.partitions()).map(|id| (PartitionId(id), Record::Tick)).collect();
            let ticket = match self.log.append(Append::Records(ticks)) {
                Ok(ticket) => ticket,
                Err(error) => return log(error.to_string()),
            };
            let positions = match tokio::time::timeout(patience, ticket.durable()).await {
                Ok(Ok(positions)) => positions,
                Ok(Err(error)) => return log(error.to_string()),
                Err(_) => return log(format!("a record was not durable within {patience:?}")),
            };
            let deadline = tokio::time::Instant::now() + patience;
            for position in positions.iter() {
                let partition = position.partition;
                let why = match tokio::time::timeout_at(deadline, self.engine.wait_for(*position)).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => format!("{partition} has ended: {error}"),
                    Err(_) => format!("{partition} did not come to a record within {patience:?}"),
                };
                return Some(Standing { part: "partition", why });
            }
            let (part, since) = self.notifier.slowest();
            let stands = since > ROUND;
            let (part, why) = match part {
                None => ("routing", format!("it last went round {} s ago", since.as_secs())),
                Some(receiver) => (
                    "delivery",
                    format!("the worker of {receiver} last went round {} s ago", since.as_secs()),
                ),
            };
            stands.then_some(Standing { part, why })
        })
    }
}

/// Beats until it is stopped.
pub fn start(
    config: &HeartbeatConfig,
    parts: impl Parts,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, String> {
    let sender = Sender::new(&config.target())?;
    let (interval, patience) = (config.interval.to_std(), config.timeout.to_std());
    Ok(tokio::spawn(async move {
        let mut due = tokio::time::interval(interval);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stood = None;
        loop {
            tokio::select! {
                _ = due.tick() => {}
                () = stop.cancelled() => return,
            }
            let begun = Instant::now();
            let standing = parts.standing(patience).await;
            let outcome = match &standing {
                Some(_) => "withheld",
                None => beat(&sender, &*clock).await,
            };
            metrics().api.heartbeats.get_or_create(&[("outcome", outcome)]).inc();
            match (&stood, &standing) {
                (None, Some(standing)) => tracing::error!("no heartbeat is sent: {standing}"),
                (Some(_), None) => tracing::info!(took = ?begun.elapsed(), "heartbeats go on"),
                _ => {}
            }
            stood = standing;
        }
    }))
}

async fn beat(sender: &Sender, clock: &dyn Clock) -> &'static str {
    let now = clock.wall();
    let body = serde_json::json!({"status": "alive", "at": now}).to_string();
    // Each is another one: a beat that is missed is not made up for.
    match sender.post(&format!("heartbeat-{}", now.0), "application/json", &[], body, now).await {
        Outcome::Delivered { .. } => "sent",
        Outcome::Failed { error, .. } => {
            tracing::warn!(error, "a heartbeat did not arrive");
            "failed"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        let read = |text: &str| toml::from_str::<HeartbeatConfig>(text).unwrap().check();
        assert_eq!(read("url = \"https://example.org/beat\""), Ok(()));
        assert!(read("url = \"example.org\"").unwrap_err().starts_with("url"));
        assert!(read("url = \"https://example.org\"\ninterval = \"10ms\"").unwrap_err().contains("1s"));
        assert!(read("url = \"https://example.org\"\ntimeout = \"0s\"").unwrap_err().starts_with("timeout"));
    }
}
