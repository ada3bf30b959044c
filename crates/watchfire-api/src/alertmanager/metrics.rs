//! Metrics under Alertmanager's names, where ours mean the same: dashboards and rules that are there go on.
//!
//! Not here, because ours mean something else: `alertmanager_notification_latency_seconds` (ours counts from the
//! making of a delivery over all attempts) and everything about gossip between nodes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use watchfire_store::SilenceState;

use super::{API_LEVEL, Failure};
use crate::http::AppState;
use crate::http::extract::Viewer;

/// Everything, in the Prometheus text format 0.0.4.
pub(super) async fn metrics(_: Viewer, State(state): State<AppState>) -> Result<Response, Failure> {
    let mut text = Text::default();
    text.head("alertmanager_build_info", "gauge", "The release of Alertmanager whose API this is.");
    text.line("alertmanager_build_info", &[("branch", "watchfire"), ("version", API_LEVEL)], 1);
    let (active, suppressed) = super::alerts::counts(&state).await?;
    text.head("alertmanager_alerts", "gauge", "How many alerts by state.");
    for (name, count) in [("active", active), ("suppressed", suppressed), ("unprocessed", 0)] {
        text.line("alertmanager_alerts", &[("state", name)], count as u64);
    }
    let (now, silences) = (state.clock.wall(), state.silences.all().await?);
    text.head("alertmanager_silences", "gauge", "How many silences by state.");
    for wanted in [SilenceState::Active, SilenceState::Expired, SilenceState::Pending] {
        let count = silences.all.iter().filter(|silence| silence.state(now) == wanted).count();
        text.line("alertmanager_silences", &[("state", wanted.as_str())], count as u64);
    }
    text.head("alertmanager_cluster_members", "gauge", "Number of nodes, this one included.");
    text.line("alertmanager_cluster_members", &[], 1);
    let channels: BTreeMap<String, String> = state
        .receivers
        .list()
        .into_iter()
        .map(|receiver| (receiver.name, channel(&receiver.channels)))
        .collect();
    let ours = watchfire_telemetry::render();
    let in_force = ours.lines().any(|line| line == "watchfire_config_in_force 1");
    let name = "alertmanager_config_last_reload_successful";
    text.head(name, "gauge", "Whether the last configuration reload attempt was successful.");
    text.line(name, &[], in_force.into());
    received(&ours, &mut text);
    notifications(&ours, &channels, &mut text);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text.0).into_response())
}

/// The integration: a channel says where it leads after its name.
fn channel(channels: &[String]) -> String {
    channels.first().and_then(|channel| channel.split(' ').next()).unwrap_or_default().to_string()
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

/// The labels and the value of a line of our own metrics, where it is of this one.
fn own<'a>(line: &'a str, name: &str) -> Option<(BTreeMap<&'a str, String>, u64)> {
    let rest = line.strip_prefix(name)?.strip_prefix('{')?;
    let (labels, value) = rest.rsplit_once("} ")?;
    let mut found = BTreeMap::new();
    let mut rest = labels;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut end = 0;
        let bytes = after.as_bytes();
        while end < bytes.len() && bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        let value = after.get(..end)?;
        found.insert(name, value.replace("\\n", "\n").replace("\\\"", "\"").replace("\\\\", "\\"));
        rest = after.get(end + 1..)?.strip_prefix(',').unwrap_or("");
    }
    Some((found, value.parse::<f64>().ok()? as u64))
}

/// What others sent.
fn received(ours: &str, text: &mut Text) {
    text.head("alertmanager_alerts_received_total", "counter", "The total number of received alerts.");
    let statuses = ours.lines().filter_map(|line| own(line, "watchfire_external_alerts_received_total"));
    let counts: BTreeMap<String, u64> =
        statuses.filter_map(|(labels, value)| Some((labels.get("status")?.clone(), value))).collect();
    for status in ["firing", "resolved"] {
        let value = counts.get(status).copied().unwrap_or(0);
        text.line("alertmanager_alerts_received_total", &[("status", status), ("version", "v2")], value);
    }
    let invalid = "watchfire_external_alerts_invalid_total ";
    let value = ours.lines().find_map(|line| line.strip_prefix(invalid)?.parse::<f64>().ok());
    text.head("alertmanager_alerts_invalid_total", "counter", "Received alerts that were invalid.");
    text.line("alertmanager_alerts_invalid_total", &[("version", "v2")], value.unwrap_or(0.0) as u64);
}

/// Attempts are requests, deliveries that came to an end are notifications.
fn notifications(ours: &str, channels: &BTreeMap<String, String>, text: &mut Text) {
    type Counts = BTreeMap<(String, String), u64>;
    let (mut requests, mut failed): (Counts, Counts) = Default::default();
    let (mut told, mut given_up): (Counts, BTreeMap<(String, String, &str), u64>) = Default::default();
    let integration = |receiver: &str| channels.get(receiver).cloned().unwrap_or_default();
    let key = |labels: &BTreeMap<&str, String>| {
        let receiver = labels.get("receiver").cloned().unwrap_or_default();
        (integration(&receiver), receiver)
    };
    for line in ours.lines() {
        if let Some((labels, value)) = own(line, "watchfire_delivery_attempts_total") {
            *requests.entry(key(&labels)).or_default() += value;
            let well = labels.get("outcome").is_some_and(|outcome| outcome == "delivered");
            *failed.entry(key(&labels)).or_default() += if well { 0 } else { value };
        } else if let Some((labels, value)) = own(line, "watchfire_deliveries_total") {
            let state = labels.get("state").map(String::as_str);
            // What a newer one made moot was never sent.
            if state == Some("superseded") {
                continue;
            }
            *told.entry(key(&labels)).or_default() += value;
            let reason = match state {
                Some("refused") => "clientError",
                Some("expired") => "contextDeadlineExceeded",
                _ => continue,
            };
            let (integration, receiver) = key(&labels);
            *given_up.entry((integration, receiver, reason)).or_default() += value;
        }
    }
    for (name, help, counts) in [
        ("alertmanager_notification_requests_total", "Attempts to notify.", &requests),
        ("alertmanager_notification_requests_failed_total", "Attempts to notify that failed.", &failed),
        ("alertmanager_notifications_total", "Notifications that came to an end.", &told),
    ] {
        text.head(name, "counter", help);
        for ((integration, receiver), value) in counts {
            text.line(name, &[("integration", integration), ("receiver_name", receiver)], *value);
        }
    }
    let name = "alertmanager_notifications_failed_total";
    text.head(name, "counter", "Notifications that were refused, or given up.");
    for ((integration, receiver, reason), value) in &given_up {
        let labels = [("integration", integration.as_str()), ("receiver_name", receiver), ("reason", reason)];
        text.line(name, &labels, *value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_numbers_are_told_under_alertmanagers_names() {
        let ours = "watchfire_delivery_attempts_total{receiver=\"o\\\"ps\",outcome=\"delivered\"} 3\n\
                    watchfire_delivery_attempts_total{receiver=\"o\\\"ps\",outcome=\"later\"} 2\n\
                    watchfire_deliveries_total{receiver=\"o\\\"ps\",state=\"delivered\"} 3\n\
                    watchfire_deliveries_total{receiver=\"o\\\"ps\",state=\"refused\"} 1\n\
                    watchfire_deliveries_total{receiver=\"o\\\"ps\",state=\"superseded\"} 7\n";
        let channels = BTreeMap::from([("o\"ps".to_string(), "webhook".to_string())]);
        let mut text = Text::default();
        notifications(ours, &channels, &mut text);
        let labels = "integration=\"webhook\",receiver_name=\"o\\\"ps\"";
        for line in [
            format!("alertmanager_notification_requests_total{{{labels}}} 5"),
            format!("alertmanager_notification_requests_failed_total{{{labels}}} 2"),
            format!("alertmanager_notifications_total{{{labels}}} 4"),
            format!("alertmanager_notifications_failed_total{{{labels},reason=\"clientError\"}} 1"),
        ] {
            assert!(text.0.lines().any(|other| other == line), "no {line} in\n{}", text.0);
        }
    }
}
