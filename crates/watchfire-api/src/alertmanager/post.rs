//! Alerts that others send: Prometheus, vmalert, Grafana. What they say becomes a record of the log; the partition loop
//! makes alerts of it.
//!
//! Senders say everything again every minute or so, to every Alertmanager they know. What only moves an end on is
//! written once a third of the time to that end is over: so the log stays small, and an alert of a sender that fell
//! silent ends at most that third earlier than its last word said.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use watchfire_log::{Append, Record};
use watchfire_model::external::{ExternalAlert, ExternalAlerts};
use watchfire_model::{Duration, PartitionId, Timestamp};
use watchfire_store::fingerprint;

use super::Failure;
use crate::http::AppState;
use crate::http::extract::{Operator, Raw};

/// Bytes of a body at most: Prometheus sends 64 alerts at once, some send all that they have.
pub(crate) const BODY: usize = 16 << 20;
/// Alerts in one record at most, so that none becomes very large.
const RECORD: usize = 500;
/// Bytes of labels and annotations of one alert at most.
const ALERT_BYTES: usize = 64 << 10;
/// Alerts that are remembered at most; what is beyond them is written each time.
const REMEMBERED: usize = 200_000;
/// What is over is said again for 15 minutes by Prometheus.
const FORGET: Duration = Duration::from_secs(3600);

/// What `POST` takes. Unknown members are left alone, as Alertmanager does.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostableAlert {
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    starts_at: Option<Timestamp>,
    #[serde(default)]
    ends_at: Option<Timestamp>,
    #[serde(default, rename = "generatorURL")]
    generator_url: Option<String>,
}

/// Go writes a time that is not set as the first second of the year 1.
fn set(time: Option<Timestamp>) -> Option<Timestamp> {
    time.filter(|time| *time > Timestamp(-62_135_596_800_000_000))
}

/// Checks what somebody said, as Alertmanager does (`model.Alert.Validate`).
fn checked(said: PostableAlert, resolve_timeout: Duration) -> Result<ExternalAlert, String> {
    let mut labels = said.labels;
    labels.retain(|_, value| !value.is_empty());
    let annotations = said.annotations.unwrap_or_default();
    let (starts_at, ends_at) = (set(said.starts_at), set(said.ends_at));
    let generator_url = said.generator_url.unwrap_or_default();
    if let (Some(starts), Some(ends)) = (starts_at, ends_at)
        && ends < starts
    {
        return Err("start time must be before end time".into());
    }
    if labels.is_empty() {
        return Err("at least one label pair required".into());
    }
    if labels.keys().any(String::is_empty) {
        return Err("invalid label set: invalid name \"\"".into());
    }
    if annotations.keys().any(String::is_empty) {
        return Err("invalid annotations: invalid name \"\"".into());
    }
    let bytes: usize = labels.iter().chain(&annotations).map(|(name, value)| name.len() + value.len()).sum();
    if bytes + generator_url.len() > ALERT_BYTES {
        return Err(format!("labels and annotations of one alert have {ALERT_BYTES} bytes at most"));
    }
    let fingerprint = fingerprint(&labels);
    Ok(ExternalAlert { fingerprint, labels, annotations, generator_url, starts_at, ends_at, resolve_timeout })
}

/// What was said of alerts of others and is in the log.
#[derive(Debug, Default)]
pub(crate) struct Said(Mutex<HashMap<String, Written>>);

/// What was written of one alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    /// Of everything but its end.
    content: u64,
    at: Timestamp,
    ends_at: Timestamp,
}

/// Of everything but its end.
fn content(alert: &ExternalAlert) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&alert.annotations, &alert.generator_url, alert.starts_at).hash(&mut hasher);
    hasher.finish()
}

impl Written {
    fn of(alert: &ExternalAlert, now: Timestamp) -> Self {
        let ends_at = alert.ends_at.unwrap_or(now + alert.resolve_timeout);
        Self { content: content(alert), at: now, ends_at }
    }

    /// Whether what is said now has to be written too.
    fn lacks(&self, next: &Self, now: Timestamp) -> bool {
        let over = |end: Timestamp| end <= now;
        match (over(self.ends_at), over(next.ends_at)) {
            // It was said that it is over, and is said again.
            (true, true) => false,
            (false, false) => {
                let third = Duration(self.ends_at.since(self.at).0 / 3);
                self.content != next.content || now >= self.at + third
            }
            _ => true,
        }
    }
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of this has to be written, the last word on each alert where one is there twice.
    fn needed(&self, alerts: Vec<ExternalAlert>, now: Timestamp) -> Vec<ExternalAlert> {
        let known = self.lock();
        let lacks = |alert: &ExternalAlert| {
            let next = Written::of(alert, now);
            known.get(&alert.fingerprint).is_none_or(|known| known.lacks(&next, now))
        };
        alerts.into_iter().filter(lacks).collect()
    }

    /// It is in the log.
    fn wrote(&self, alerts: &[ExternalAlert], now: Timestamp) {
        let mut known = self.lock();
        if known.len() + alerts.len() > REMEMBERED {
            known.retain(|_, written| written.ends_at + FORGET > now);
        }
        for alert in alerts {
            if known.len() < REMEMBERED || known.contains_key(&alert.fingerprint) {
                known.insert(alert.fingerprint.clone(), Written::of(alert, now));
            }
        }
    }
}

pub(super) async fn post(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Raw(body): Raw,
) -> Result<Response, Failure> {
    let said: Vec<PostableAlert> =
        serde_json::from_slice(&body).map_err(|error| Failure::body("alerts", &error))?;
    let telemetry = &watchfire_telemetry::metrics().api;
    // The time that the loop will see, as near as it can be known here.
    let now = state.log.now();
    let (mut alerts, mut faults) = (Vec::with_capacity(said.len()), Vec::new());
    for one in said {
        let over = set(one.ends_at).is_some_and(|end| end <= now);
        let status = if over { "resolved" } else { "firing" };
        telemetry.external_received.get_or_create(&[("status", status)]).inc();
        match checked(one, state.options.resolve_timeout) {
            Ok(alert) => alerts.push(alert),
            Err(fault) => {
                telemetry.external_invalid.inc();
                faults.push(fault);
            }
        }
    }
    let count = alerts.len();
    let alerts = state.said.needed(alerts, now);
    telemetry.external_unchanged.inc_by((count - alerts.len()) as u64);
    if !alerts.is_empty() {
        let by = caller.actor(None);
        let mut parts: BTreeMap<PartitionId, Vec<ExternalAlert>> = BTreeMap::new();
        for alert in &alerts {
            let partition = PartitionId::of(&alert.fingerprint, state.log.partitions());
            parts.entry(partition).or_default().push(alert.clone());
        }
        let mut records = Vec::new();
        for (partition, alerts) in parts {
            let record = |alerts: &[ExternalAlert]| {
                Record::External(Box::new(ExternalAlerts { by: by.clone(), alerts: alerts.to_vec() }))
            };
            records.extend(alerts.chunks(RECORD).map(|part| (partition, record(part))));
        }
        let appended = match state.log.append(Append::Records(records)) {
            Ok(ticket) => ticket.durable().await.map(|_| ()),
            Err(error) => Err(error),
        };
        appended.map_err(|error| Failure::unavailable(error.to_string()))?;
        state.said.wrote(&alerts, now);
    }
    // Those that are well are taken all the same.
    if faults.is_empty() { Ok(StatusCode::OK.into_response()) } else { Err(Failure::bad(faults.join("\n"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_767_225_600_000_000);

    fn said(document: serde_json::Value) -> Result<ExternalAlert, String> {
        checked(serde_json::from_value(document).unwrap(), Duration::from_secs(300))
    }

    #[test]
    fn what_makes_no_sense_is_said_in_alertmanagers_words() {
        for (document, expected) in [
            (serde_json::json!({"labels": {}}), "at least one label pair required"),
            (serde_json::json!({"labels": {"a": ""}}), "at least one label pair required"),
            (serde_json::json!({"labels": {"": "a"}}), "invalid label set"),
            (serde_json::json!({"labels": {"a": "b"}, "annotations": {"": "x"}}), "invalid annotations"),
            (
                serde_json::json!({"labels": {"a": "b"}, "startsAt": "2026-01-02T00:00:00Z", "endsAt": "2026-01-01T00:00:00Z"}),
                "start time must be before end time",
            ),
        ] {
            let fault = said(document).unwrap_err();
            assert!(fault.contains(expected), "{fault:?} does not say {expected:?}");
        }
        let alert = said(serde_json::json!({
            "labels": {"alertname": "Down", "empty": ""}, "generatorURL": "http://p/graph",
            "startsAt": "0001-01-01T00:00:00Z", "endsAt": "0001-01-01T00:00:00Z", "more": 1,
        }))
        .unwrap();
        assert_eq!(alert.labels, BTreeMap::from([("alertname".to_string(), "Down".to_string())]));
        assert_eq!((alert.starts_at, alert.ends_at), (None, None));
    }

    #[test]
    fn what_changes_nothing_is_written_once_a_third_of_the_time_to_its_end_is_over() {
        let memory = Said::default();
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let alert = |at: Timestamp, text: &str, span: u64| {
            let mut alert =
                said(serde_json::json!({"labels": {"a": "b"}, "annotations": {"t": text}})).unwrap();
            alert.ends_at = Some(at + minutes(span));
            alert
        };
        let say = |at: Timestamp, text: &str, span: u64| {
            let needed = memory.needed(vec![alert(at, text, span)], at);
            memory.wrote(&needed, at);
            !needed.is_empty()
        };
        assert!(say(START, "x", 6));
        assert!(!say(START + minutes(1), "x", 6));
        assert!(say(START + minutes(1), "y", 6), "it says something else");
        assert!(!say(START + minutes(2), "y", 6));
        assert!(say(START + minutes(3), "y", 6), "two of six minutes are over");
        assert!(say(START + minutes(4), "y", 0), "it is over");
        assert!(!say(START + minutes(5), "y", 0), "it is still over");
        assert!(say(START + minutes(6), "y", 6), "it is there again");
        assert!(say(START + minutes(13), "y", 6), "it ended by itself meanwhile");
    }

    #[test]
    fn what_the_log_did_not_take_is_said_again() {
        let memory = Said::default();
        let alert = said(serde_json::json!({"labels": {"a": "b"}})).unwrap();
        assert_eq!(memory.needed(vec![alert.clone()], START).len(), 1);
        assert_eq!(memory.needed(vec![alert.clone()], START).len(), 1);
        memory.wrote(std::slice::from_ref(&alert), START);
        assert_eq!(memory.needed(vec![alert], START), []);
    }
}
