//! The message that a delivery holds: the body of Alertmanager's webhook, version 4
//! (`notify/webhook` and `template.Data` of prometheus/alertmanager).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use watchfire_model::Timestamp;
use watchfire_store::deliveries::DIGEST;

use crate::Links;
use crate::stages::digest::{self as summary, Summary};
use crate::stages::group::{GroupName, Telling};
use crate::stages::notice::Notice;

/// What Alertmanager writes where an alert has no end yet.
const NO_END: &str = "0001-01-01T00:00:00Z";

/// The body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// `4`.
    pub version: String,
    /// The group; opaque.
    pub group_key: String,
    /// How many alerts of the group are left out.
    pub truncated_alerts: usize,
    /// `firing` if any alert listed fires.
    pub status: String,
    /// Who is told.
    pub receiver: String,
    /// What the alerts of the group have in common by configuration.
    pub group_labels: BTreeMap<String, String>,
    /// What the alerts listed have in common.
    pub common_labels: BTreeMap<String, String>,
    /// What the alerts listed have in common.
    pub common_annotations: BTreeMap<String, String>,
    /// Where people reach this installation.
    #[serde(rename = "externalURL")]
    pub external_url: String,
    /// Why it is told.
    #[serde(rename = "notification_reason")]
    pub notification_reason: String,
    /// Labels of the route; there are none.
    pub route_labels: BTreeMap<String, String>,
    /// What changed, in order, then what goes on.
    pub alerts: Vec<Alert>,
    /// With a digest: what it says in numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Summary>,
}

/// An alert in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// `firing` or `resolved`.
    pub status: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The message.
    pub annotations: BTreeMap<String, String>,
    /// Since when.
    pub starts_at: String,
    /// When it ended.
    pub ends_at: String,
    /// Where people look at it.
    #[serde(rename = "generatorURL")]
    pub generator_url: String,
    /// Of the labels.
    pub fingerprint: String,
    /// What somebody did, where the message tells of that: `acknowledged`, `unacknowledged` or `shelve_expiring`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
}

impl From<&Notice> for Alert {
    fn from(notice: &Notice) -> Self {
        Self {
            status: if notice.fires() { "firing" } else { "resolved" }.into(),
            labels: notice.labels.clone(),
            annotations: notice.annotations.clone(),
            starts_at: notice.starts_at.to_string(),
            ends_at: notice.ends_at.map_or(NO_END.into(), |end| end.to_string()),
            generator_url: notice.url.clone(),
            fingerprint: notice.fingerprint.clone(),
            response: notice.event.response().map(Into::into),
        }
    }
}

fn common<'a>(mut maps: impl Iterator<Item = &'a BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let mut common = maps.next().cloned().unwrap_or_default();
    for map in maps {
        common.retain(|name, value| map.get(name) == Some(value));
    }
    common
}

/// The annotations of what is said in one text.
fn saying(text: &str) -> BTreeMap<String, String> {
    ["summary", "description"].map(|name| (name.to_string(), text.to_string())).into()
}

/// The body of a message of a group.
pub fn message(
    group: &GroupName,
    labels: &BTreeMap<String, String>,
    telling: &Telling,
    public_url: Option<&str>,
) -> Message {
    let alerts: Vec<Alert> = telling.changed.iter().chain(&telling.standing).map(Alert::from).collect();
    let firing = alerts.iter().any(|alert| alert.status == "firing");
    Message {
        version: "4".into(),
        group_key: group.key.clone(),
        truncated_alerts: telling.truncated,
        status: if firing { "firing" } else { "resolved" }.into(),
        receiver: group.receiver.clone(),
        group_labels: labels.clone(),
        common_labels: common(alerts.iter().map(|alert| &alert.labels)),
        common_annotations: common(alerts.iter().map(|alert| &alert.annotations)),
        external_url: public_url.unwrap_or_default().into(),
        notification_reason: telling.reason.as_str().into(),
        route_labels: BTreeMap::new(),
        alerts,
        digest: None,
    }
}

/// The annotation with the link by which an alert is acknowledged.
pub const ACKNOWLEDGE_URL: &str = "acknowledge_url";

/// Gives each alert of a message that fires its link.
pub fn add_links(message: &mut Message, telling: &Telling, links: &dyn Links) {
    let notices = telling.changed.iter().chain(&telling.standing);
    for (alert, notice) in message.alerts.iter_mut().zip(notices) {
        if !notice.fires() {
            continue;
        }
        if let Some(link) = links.acknowledge(&notice.alert, &message.receiver) {
            alert.annotations.insert(ACKNOWLEDGE_URL.into(), link);
        }
    }
    // What all alerts listed have in common is everything, where there is one.
    if let [alert] = &message.alerts[..]
        && let Some(link) = alert.annotations.get(ACKNOWLEDGE_URL)
    {
        message.common_annotations.insert(ACKNOWLEDGE_URL.into(), link.clone());
    }
}

/// The body of a digest: its first alerts, and in numbers what else happened.
pub fn digest(receiver: &str, summary: &Summary, telling: &Telling, public_url: Option<&str>) -> Message {
    // In a group of its own: the receiver of bounded messages gets all of them in one order anyway.
    let group = GroupName { receiver: receiver.into(), key: DIGEST.into() };
    let mut message = message(&group, &BTreeMap::new(), telling, public_url);
    message.notification_reason = "digest".into();
    message.common_annotations.extend(saying(&summary.text()));
    message.digest = Some(summary.clone());
    message
}

/// Messages that were made, as one: what they say of each label set last, in numbers and the first of them; of digests
/// among them what those say in numbers.
pub fn together(receiver: &str, messages: &[Message], public_url: Option<&str>) -> Message {
    let (digests, singles): (Vec<&Message>, Vec<&Message>) =
        messages.iter().partition(|message| message.digest.is_some());
    let mut all: Vec<&Alert> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for alert in singles.iter().flat_map(|message| &message.alerts) {
        let place = *places.entry(&alert.fingerprint).or_insert(all.len());
        match all.get_mut(place) {
            Some(before) => *before = alert,
            None => all.push(alert),
        }
    }
    let groups: BTreeSet<&str> = singles.iter().map(|message| message.group_key.as_str()).collect();
    let said = all.iter().map(|alert| (&alert.labels, alert.status == "firing"));
    let mut summary = Summary::of(groups.len() as u64, said);
    digests.iter().filter_map(|message| message.digest.as_ref()).for_each(|digest| summary.add(digest));
    all.extend(digests.iter().flat_map(|message| &message.alerts));
    let more: usize = messages.iter().map(|message| message.truncated_alerts).sum();
    let listed: Vec<Alert> = all.iter().take(summary::LISTED).map(|alert| (*alert).clone()).collect();
    Message {
        version: "4".into(),
        group_key: DIGEST.into(),
        truncated_alerts: all.len() - listed.len() + more,
        status: if summary.firing > 0 { "firing" } else { "resolved" }.into(),
        receiver: receiver.into(),
        group_labels: BTreeMap::new(),
        common_labels: common(listed.iter().map(|alert| &alert.labels)),
        common_annotations: saying(&summary.text()),
        external_url: public_url.unwrap_or_default().into(),
        notification_reason: "digest".into(),
        route_labels: BTreeMap::new(),
        alerts: listed,
        digest: Some(summary),
    }
}

/// What [`crate::Notifier::test_receiver`] sends: an alert that was never raised, and says so.
pub fn test_message(receiver: &str, public_url: Option<&str>, now: Timestamp) -> Message {
    let labels: BTreeMap<String, String> = [
        ("alertname", "watchfire-test"),
        ("rule", "watchfire-test"),
        ("device", "watchfire"),
        ("severity", "info"),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .into();
    let text = "This is a test: nothing is wrong";
    Message {
        notification_reason: "test".into(),
        ..own_message(receiver, public_url, "alertname", labels, text, now, None)
    }
}

/// A message of Watchfire's own, of no rule and no device: one alert that fires, or ended at `until`. The label
/// `about` says what it is about.
pub fn own_message(
    receiver: &str,
    public_url: Option<&str>,
    about: &str,
    labels: BTreeMap<String, String>,
    text: &str,
    since: Timestamp,
    until: Option<Timestamp>,
) -> Message {
    let annotations = saying(text);
    let name = labels.get("alertname").cloned().unwrap_or_default();
    let status = if until.is_some() { "resolved" } else { "firing" };
    // Those about one thing are one group: the end must not overtake the beginning.
    let of = labels.get(about).map(|of| format!(",{about}={of:?}")).unwrap_or_default();
    Message {
        version: "4".into(),
        group_key: format!("{{}}:{{alertname={name:?}{of}}}"),
        truncated_alerts: 0,
        status: status.into(),
        receiver: receiver.into(),
        group_labels: [("alertname".to_string(), name)].into(),
        common_labels: labels.clone(),
        common_annotations: annotations.clone(),
        external_url: public_url.unwrap_or_default().into(),
        notification_reason: if until.is_some() { "all alerts resolved" } else { "first notification" }
            .into(),
        route_labels: BTreeMap::new(),
        alerts: vec![Alert {
            status: status.into(),
            fingerprint: watchfire_store::fingerprint(&labels),
            labels,
            annotations,
            starts_at: since.to_string(),
            ends_at: until.map_or(NO_END.into(), |end| end.to_string()),
            generator_url: String::new(),
            response: None,
        }],
        digest: None,
    }
}
