//! PagerDuty: events of its API, version 2 (<https://developer.pagerduty.com/docs/events-api-v2-overview>). Each alert is an
//! incident of its own, found again by its fingerprint: it is triggered, acknowledged and resolved there as it is here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use watchfire_model::{Duration, Secret};
use watchfire_outbound::{Sender, Target};

use super::text::{Line, Text, cut};
use super::{Delivering, Outcome, unreadable};

/// Characters of a summary at most.
const SUMMARY: usize = 1024;
/// Where events go.
const ADDRESS: &str = "https://events.pagerduty.com/v2/enqueue";

/// Where the events go.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagerDutyConfig {
    /// The integration key of the service.
    pub routing_key: Secret,
    /// Where events go. Default: PagerDuty's own address.
    #[serde(default = "address")]
    pub url: Secret,
    /// For each request. Default 10s.
    #[serde(default = "super::timeout")]
    pub timeout: Duration,
}

super::hidden!(PagerDutyConfig);

fn address() -> Secret {
    ADDRESS.into()
}

fn target<'a>(config: &'a PagerDutyConfig, none: &'a BTreeMap<String, Secret>) -> Target<'a> {
    Target { url: &config.url, headers: none, timeout: config.timeout.to_std(), reserved: &[] }
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &PagerDutyConfig) -> Result<(), String> {
    let key = config.routing_key.read().map_err(|error| format!("routing_key: {error}"))?;
    if key.len() != 32 || !key.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err("routing_key: is 32 letters and digits".into());
    }
    target(config, &BTreeMap::new()).check()
}

/// A service of PagerDuty's.
#[derive(Clone, Debug)]
pub struct PagerDuty {
    sender: Sender,
    routing_key: Secret,
}

impl PagerDuty {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &PagerDutyConfig) -> Result<Self, String> {
        let sender = Sender::new(&target(config, &BTreeMap::new()))?;
        Ok(Self { sender, routing_key: config.routing_key.clone() })
    }

    /// One attempt: an event for each alert, in order. Where one is not taken, all come again: PagerDuty knows them by
    /// their key, and saying one twice changes nothing.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let Ok(key) = self.routing_key.read() else { return super::no_secret("routing_key") };
        let text = Text::of(&message, usize::MAX);
        let mut last = Outcome::Delivered { status: 202 };
        for (line, alert) in text.lines.iter().zip(&message.alerts) {
            let body = event(&key, line, alert, &message.external_url).to_string();
            let id = format!("{}/{}", delivering.id, line.fingerprint);
            last = self.sender.post(&id, "application/json", &[], body, delivering.now).await;
            if matches!(last, Outcome::Failed { .. }) {
                break;
            }
        }
        last
    }
}

fn severity(ours: &str) -> &'static str {
    match ours {
        "critical" => "critical",
        "major" => "error",
        "minor" | "warning" => "warning",
        _ => "info",
    }
}

fn event(key: &str, line: &Line, alert: &super::payload::Alert, client_url: &str) -> serde_json::Value {
    let action = match (line.fires, alert.response.as_deref()) {
        (false, _) => "resolve",
        (true, Some("acknowledged")) => "acknowledge",
        (true, _) => "trigger",
    };
    let mut event = json!({
        "routing_key": key,
        "event_action": action,
        "dedup_key": line.fingerprint,
        "client": "Watchfire",
        "payload": {
            "summary": cut(&line.summary, SUMMARY),
            "source": line.source,
            "severity": severity(&line.severity),
            "timestamp": alert.starts_at,
            "class": line.rule,
            "component": line.source,
            "custom_details": {"labels": alert.labels, "description": cut(&line.description, 4096)},
        },
    });
    if !client_url.is_empty() {
        event["client_url"] = json!(client_url);
    }
    let links = [(&line.url, "The alert"), (&line.acknowledge, "Acknowledge")];
    let links =
        links.iter().filter_map(|(url, text)| url.as_ref().map(|url| json!({"href": url, "text": text})));
    event["links"] = links.collect();
    event
}
