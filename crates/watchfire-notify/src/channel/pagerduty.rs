//! PagerDuty: events of its API, version 2 (<https://developer.pagerduty.com/docs/events-api-v2-overview>). Each alert is an
//! incident of its own, found again by its fingerprint: it is triggered, acknowledged and resolved there as it is here.

use serde::Deserialize;
use serde_json::json;
use watchfire_model::{Duration, Secret};
use watchfire_outbound::Sender;

use super::text::{Line, Text, cut};
use super::{Delivering, Halfway, Outcome, Retry, target, unreadable};

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

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &PagerDutyConfig) -> Result<(), String> {
    let key = config.routing_key.read().map_err(|error| format!("routing_key: {error}"))?;
    if key.len() != 32 || !key.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err("routing_key: is 32 letters and digits".into());
    }
    target(&config.url, config.timeout).check()
}

/// A service of PagerDuty's.
#[derive(Clone, Debug)]
pub struct PagerDuty {
    sender: Sender,
    routing_key: Secret,
    halfway: Halfway<Progress>,
}

/// How far a delivery got.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// Events that were answered for good.
    done: usize,
    /// As many of them were refused ...
    refused: usize,
    /// ... the first like this.
    why: Option<(Option<u16>, String)>,
}

impl PagerDuty {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &PagerDutyConfig) -> Result<Self, String> {
        let sender = Sender::new(&target(&config.url, config.timeout))?;
        Ok(Self { sender, routing_key: config.routing_key.clone(), halfway: Halfway::default() })
    }

    /// One attempt: an event for each alert, in order. One that is refused keeps none behind it back. What comes again
    /// goes on behind what was taken; after a restart from the first, which changes nothing: PagerDuty knows them by
    /// their key.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let Ok(key) = self.routing_key.read() else { return super::no_secret("routing_key") };
        let text = Text::of(&message, usize::MAX);
        let mut progress = self.halfway.take(delivering.id).unwrap_or_default();
        for (line, alert) in text.lines.iter().zip(&message.alerts).skip(progress.done) {
            let body = event(&key, line, alert, &message.external_url).to_string();
            let id = format!("{}/{}", delivering.id, line.fingerprint);
            match self.sender.post(&id, "application/json", &[], body, delivering.now).await {
                Outcome::Delivered { .. } => {}
                Outcome::Failed { retry: Retry::Never, status, error } => {
                    progress.refused += 1;
                    progress.why.get_or_insert((status, error));
                }
                later => {
                    self.halfway.keep(delivering.id, progress);
                    return later;
                }
            }
            progress.done += 1;
        }
        match progress.why {
            None => Outcome::Delivered { status: 202 },
            Some((status, error)) => {
                let error = match (progress.refused, progress.done) {
                    (refused, all) if refused == all => error,
                    (refused, all) => format!("{refused} of {all} events: {error}"),
                };
                Outcome::Failed { retry: Retry::Never, status, error }
            }
        }
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
