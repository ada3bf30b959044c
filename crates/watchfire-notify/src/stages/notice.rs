//! What a transition says to whoever is told of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use watchfire_model::{Severity, Timestamp};
use watchfire_store::labels::with_severity;
use watchfire_store::{LabelSet, Outbox, fingerprint};

use crate::message::{alert_url, annotations};

/// One label set that fires or is resolved, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The transition that it tells of, and which part of it.
    pub cause: String,
    /// The alert.
    pub alert: String,
    /// Of the labels.
    pub fingerprint: String,
    /// The labels.
    pub labels: LabelSet,
    /// The message.
    pub annotations: BTreeMap<String, String>,
    /// Since when this label set fires.
    pub starts_at: Timestamp,
    /// When it was resolved; `None`: it fires.
    pub ends_at: Option<Timestamp>,
    /// Where people look at it.
    pub url: String,
    /// When the log received what caused it.
    #[serde(default)]
    pub recorded_at: Option<Timestamp>,
}

impl Notice {
    /// Whether it fires.
    pub fn fires(&self) -> bool {
        self.ends_at.is_none()
    }
}

fn notice(
    outbox: &Outbox,
    severity: Severity,
    starts_at: Timestamp,
    ends_at: Option<Timestamp>,
    public_url: Option<&str>,
) -> Notice {
    let labels = with_severity(&outbox.labels, severity);
    let part = if ends_at.is_some() { "resolved" } else { "firing" };
    Notice {
        cause: format!("{}#{part}", outbox.transition),
        alert: outbox.alert.clone(),
        fingerprint: fingerprint(&labels),
        annotations: annotations(outbox, &labels, ends_at, public_url),
        labels,
        starts_at,
        ends_at,
        url: alert_url(public_url, &outbox.alert).unwrap_or_default(),
        recorded_at: Some(outbox.recorded_at),
    }
}

/// The notices of a transition, in the order in which they are told. A change of severity is another label
/// set: the old one is resolved, then the new one fires.
pub fn notices(outbox: &Outbox, public_url: Option<&str>) -> Vec<Notice> {
    // What people did is no change of the alert: nobody is told of it by itself.
    if !matches!(outbox.kind.as_str(), "raised" | "severity_changed" | "realarmed" | "resolved") {
        return Vec::new();
    }
    let since = outbox.from_since.unwrap_or(outbox.raised_at);
    match (outbox.kind.as_str(), outbox.from_severity) {
        ("severity_changed", Some(from)) => vec![
            notice(outbox, from, since, Some(outbox.at), public_url),
            notice(outbox, outbox.severity, outbox.at, None, public_url),
        ],
        ("resolved", _) => vec![notice(outbox, outbox.severity, since, Some(outbox.at), public_url)],
        ("realarmed", _) => vec![notice(outbox, outbox.severity, since, None, public_url)],
        _ => vec![notice(outbox, outbox.severity, outbox.at, None, public_url)],
    }
}
