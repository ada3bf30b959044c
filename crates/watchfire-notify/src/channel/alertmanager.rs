//! Forwarding into an Alertmanager, or several that are one cluster: alerts go to all of them, for they tell each other of
//! silences and notices and not of alerts. An Alertmanager forgets what is not said again: what stands is, at an
//! interval, and each time with an end some intervals ahead, so that it neither times out what still fires nor keeps what
//! we cannot end any more.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use watchfire_model::{Duration, Secret, Timestamp};
use watchfire_outbound::{Sender, Target};

use super::payload::{ACKNOWLEDGE_URL, Alert};
use super::{Delivering, Outcome, Retry, unreadable};

/// Where alerts are taken.
const PATH: &str = "/api/v2/alerts";
/// What fires ends after so many intervals unless it is said again, as Prometheus does it.
const INTERVALS: u64 = 4;
/// What ended is said again for so long: a member of the cluster may have missed it. Prometheus does the same.
const ENDED: Duration = Duration::from_secs(15 * 60);
/// What is not said again ends after so long where its end is never told.
const OWN: Duration = Duration::from_secs(24 * 3600);
/// Alerts that ended and are still said, at most: beyond it, what a member missed runs out of its time there.
const KEPT: usize = 10_000;

/// Where the alerts go.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertmanagerConfig {
    /// The addresses of all members, such as `http://alertmanager:9093`, not that of a balancer before them.
    pub urls: Vec<String>,
    /// Sent with each request, such as `Authorization`.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// How often what stands is said again. Default 1m.
    #[serde(default = "resend")]
    pub resend: Duration,
    /// For a whole request. Default 10s.
    #[serde(default = "super::timeout")]
    pub timeout: Duration,
}

super::hidden!(AlertmanagerConfig);

fn resend() -> Duration {
    Duration::from_secs(60)
}

impl AlertmanagerConfig {
    fn senders(&self) -> Result<Vec<Sender>, String> {
        let sender = |(i, url): (usize, &String)| {
            let url = Secret::from(format!("{}{PATH}", url.trim_end_matches('/')));
            let timeout = self.timeout.to_std();
            let target = Target { url: &url, headers: &self.headers, timeout, reserved: &[] };
            target.check().map_err(|fault| match fault.strip_prefix("url:") {
                Some(fault) => format!("urls[{i}]:{fault}"),
                None => fault,
            })?;
            Sender::new(&target)
        };
        self.urls.iter().enumerate().map(sender).collect()
    }
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &AlertmanagerConfig) -> Result<(), String> {
    if config.urls.is_empty() {
        return Err("urls: names no Alertmanager".into());
    }
    if config.resend < Duration::from_secs(1) {
        return Err("resend: is at least 1s".into());
    }
    config.senders().map(drop)
}

/// A cluster of Alertmanagers.
#[derive(Clone, Debug)]
pub struct Alertmanager {
    senders: Vec<Sender>,
    resend: Duration,
    /// What ended lately, by fingerprint, and when.
    ended: Arc<Mutex<HashMap<String, (Timestamp, Alert)>>>,
}

impl Alertmanager {
    /// Makes the clients of a configuration. Connects to nothing.
    pub fn new(config: &AlertmanagerConfig) -> Result<Self, String> {
        Ok(Self { senders: config.senders()?, resend: config.resend, ended: Arc::default() })
    }

    /// How often what stands is to be said again.
    pub fn resend_interval(&self) -> Duration {
        self.resend
    }

    /// One attempt.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let outcome = self.post(delivering.id, &message.alerts, delivering.now).await;
        if matches!(outcome, Outcome::Delivered { .. }) {
            self.note(message.alerts, delivering.now);
        }
        outcome
    }

    /// Some of what stands, said again.
    pub async fn resend(&self, standing: &[Alert], now: Timestamp) -> Outcome {
        {
            let mut ended = self.lock();
            for alert in standing {
                ended.remove(&alert.fingerprint);
            }
        }
        self.post(&format!("resend-{}", now.0), standing, now).await
    }

    /// What ended lately, to be said again once all that stands was.
    pub fn ended(&self, now: Timestamp) -> Vec<Alert> {
        let mut ended = self.lock();
        ended.retain(|_, (at, _)| *at + ENDED > now);
        ended.values().map(|(_, alert)| alert.clone()).collect()
    }

    /// Says some of it again.
    pub async fn resend_ended(&self, ended: &[Alert], now: Timestamp) -> Outcome {
        self.post(&format!("resend-{}", now.0), ended, now).await
    }

    fn note(&self, alerts: Vec<Alert>, now: Timestamp) {
        let mut ended = self.lock();
        for alert in alerts {
            if alert.status == "firing" {
                ended.remove(&alert.fingerprint);
            } else if ended.len() < KEPT {
                ended.insert(alert.fingerprint.clone(), (now, alert));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Timestamp, Alert)>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To all members at once. One that took it is enough: the others hear it when it is said again. A 400 says that some
    /// of the alerts were refused, and that the others are stored: the same request will never fare better.
    async fn post(&self, id: &str, alerts: &[Alert], now: Timestamp) -> Outcome {
        let until = (now + Duration(self.resend.0.saturating_mul(INTERVALS))).to_string();
        let day = (now + OWN).to_string();
        // No alert stands behind the notices of the engine itself and of storms: they are not said again, and their end is
        // told.
        let own =
            |alert: &Alert| alert.labels.get("alertname").is_some_and(|name| name.starts_with("watchfire-"));
        let body: Vec<Value> =
            alerts.iter().map(|alert| posted(alert, if own(alert) { &day } else { &until })).collect();
        let body = Value::from(body).to_string();
        let mut posts = JoinSet::new();
        for sender in &self.senders {
            let (sender, id, body) = (sender.clone(), id.to_string(), body.clone());
            posts.spawn(async move {
                let outcome = sender.post(&id, "application/json", &[], body, now).await;
                if let Outcome::Failed { error, .. } = &outcome {
                    tracing::warn!(member = sender.origin(), error, "an Alertmanager took no alerts");
                }
                outcome
            });
        }
        posts.join_all().await.into_iter().min_by_key(rank).unwrap_or_else(unreadable)
    }
}

/// The best that came of several posts. While a member may take it yet, what another one says of it is not the last word.
fn rank(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Delivered { .. } => 0,
        Outcome::Failed { retry: Retry::Later(_), .. } => 1,
        Outcome::Failed { retry: Retry::Never, .. } => 2,
    }
}

fn posted(alert: &Alert, until: &str) -> Value {
    let ends_at = if alert.status == "firing" { until } else { &alert.ends_at };
    // Whoever is told by the Alertmanager is not the receiver that such a link is for.
    let annotations: BTreeMap<_, _> =
        alert.annotations.iter().filter(|(name, _)| *name != ACKNOWLEDGE_URL).collect();
    let mut posted = json!({
        "labels": alert.labels,
        "annotations": annotations,
        "startsAt": alert.starts_at,
        "endsAt": ends_at,
    });
    if !alert.generator_url.is_empty() {
        posted["generatorURL"] = json!(alert.generator_url);
    }
    posted
}
