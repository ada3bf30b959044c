//! What a transition says to whoever is told of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use watchfire_model::{Severity, Timestamp};
use watchfire_store::labels::with_severity;
use watchfire_store::{AlertRow, AlertSource, LabelSet, Outbox, fingerprint};

use crate::message::{alert_url, annotations};

/// What a notice tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It began.
    #[default]
    Raised,
    /// It goes on, or went on, with another severity.
    SeverityChanged,
    /// It stands for so long that people are told again.
    Realarmed,
    /// It ended.
    Resolved,
    /// Somebody looks after it.
    Acknowledged,
    /// Nobody looks after it any more.
    Unacknowledged,
    /// It will be told again soon: shelving ends.
    ShelveExpiring,
    /// It fires on, and something else of its group changed.
    Standing,
}

impl Event {
    /// Of the kind that the outbox names; `None`: nobody is told of it.
    fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "raised" => Self::Raised,
            "severity_changed" => Self::SeverityChanged,
            "realarmed" => Self::Realarmed,
            "resolved" => Self::Resolved,
            "acknowledged" => Self::Acknowledged,
            "unacknowledged" => Self::Unacknowledged,
            "shelve_expiring" => Self::ShelveExpiring,
            _ => return None,
        })
    }

    /// Whether it says what somebody did, and nothing of the condition.
    pub fn is_response(self) -> bool {
        self.response().is_some()
    }

    /// What somebody did, where it says that.
    pub fn response(self) -> Option<&'static str> {
        match self {
            Self::Acknowledged => Some("acknowledged"),
            Self::Unacknowledged => Some("unacknowledged"),
            Self::ShelveExpiring => Some("shelve_expiring"),
            _ => None,
        }
    }
}

/// One label set that fires or is resolved, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The transition that it tells of, and which part of it.
    pub cause: String,
    /// The place of that transition in the store, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition: Option<i64>,
    /// What it tells of.
    #[serde(default)]
    pub event: Event,
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
    event: Event,
    outbox: &Outbox,
    severity: Severity,
    starts_at: Timestamp,
    ends_at: Option<Timestamp>,
    public_url: Option<&str>,
) -> Notice {
    // Those of others are told as they were given: only so does their sender know its own.
    let labels = match &outbox.generator_url {
        None => with_severity(&outbox.labels, severity),
        Some(_) => outbox.labels.clone(),
    };
    let part = if ends_at.is_some() { "resolved" } else { "firing" };
    let mut annotations = annotations(outbox, &labels, ends_at, public_url);
    for (name, value) in [("response_by", &outbox.actor), ("response_comment", &outbox.comment)] {
        if let Some(value) = value.as_ref().filter(|_| event.is_response()) {
            annotations.insert(name.into(), value.clone());
        }
    }
    Notice {
        cause: format!("{}#{part}", outbox.transition),
        transition: Some(outbox.transition_sequence).filter(|place| *place > 0),
        event,
        alert: outbox.alert.clone(),
        fingerprint: fingerprint(&labels),
        annotations,
        labels,
        starts_at,
        ends_at,
        url: match &outbox.generator_url {
            None => alert_url(public_url, &outbox.alert).unwrap_or_default(),
            Some(url) => url.clone(),
        },
        recorded_at: Some(outbox.recorded_at),
    }
}

/// The notices of a transition, in the order in which they are told. A change of severity is another label
/// set: the old one is resolved, then the new one fires.
pub fn notices(outbox: &Outbox, public_url: Option<&str>) -> Vec<Notice> {
    let Some(event) = Event::of(&outbox.kind) else { return Vec::new() };
    let since = outbox.from_since.unwrap_or(outbox.raised_at);
    match (event, outbox.from_severity) {
        (Event::SeverityChanged, Some(from)) => vec![
            notice(event, outbox, from, since, Some(outbox.at), public_url),
            notice(event, outbox, outbox.severity, outbox.at, None, public_url),
        ],
        (Event::Resolved, _) => {
            vec![notice(event, outbox, outbox.severity, since, Some(outbox.at), public_url)]
        }
        (Event::Raised | Event::SeverityChanged, _) => {
            vec![notice(event, outbox, outbox.severity, outbox.at, None, public_url)]
        }
        _ => vec![notice(event, outbox, outbox.severity, since, None, public_url)],
    }
}

/// What an alert says that fires on.
pub fn standing(row: &AlertRow, public_url: Option<&str>) -> Notice {
    let outbox = Outbox {
        sequence: 0,
        transition: row.id.clone(),
        transition_sequence: 0,
        kind: String::new(),
        alert: row.id.clone(),
        labels: row.labels.clone(),
        severity: row.severity,
        from_severity: None,
        from_since: None,
        reason: None,
        actor: None,
        comment: None,
        summary: row.summary.clone(),
        details: row.details.clone(),
        at: row.severity_since,
        recorded_at: row.severity_since,
        raised_at: row.raised_at,
        rule: row.rule.clone(),
        rule_version: row.rule_version,
        generator_url: (row.source == AlertSource::External).then(|| row.generator_url.clone()),
    };
    let notice = notice(Event::Standing, &outbox, row.severity, row.severity_since, None, public_url);
    Notice { recorded_at: None, ..notice }
}
