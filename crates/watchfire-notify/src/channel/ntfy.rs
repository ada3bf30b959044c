//! ntfy: a topic of a server, one's own or a public one (<https://docs.ntfy.sh/publish/#publish-as-json>).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use watchfire_model::{Duration, Secret};
use watchfire_outbound::{Sender, Target};

use super::text::{Text, cut};
use super::{Delivering, Outcome, unreadable};

/// Bytes of a message at most; a character is up to four.
const MESSAGE: usize = 1000;
const ALERTS: usize = 5;

/// Where the messages go.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NtfyConfig {
    /// The server, such as `https://ntfy.sh`.
    pub url: Secret,
    /// The topic: on a public server whoever knows it can read.
    pub topic: Secret,
    /// Sent with each request, such as `Authorization`.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// For a whole request. Default 10s.
    #[serde(default = "super::timeout")]
    pub timeout: Duration,
}

super::hidden!(NtfyConfig);

fn target(config: &NtfyConfig) -> Target<'_> {
    Target { url: &config.url, headers: &config.headers, timeout: config.timeout.to_std(), reserved: &[] }
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &NtfyConfig) -> Result<(), String> {
    let topic = config.topic.read().map_err(|error| format!("topic: {error}"))?;
    if topic.is_empty()
        || topic.len() > 64
        || !topic.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    {
        return Err("topic: is 1 to 64 letters, digits, - and _".into());
    }
    target(config).check()
}

/// A topic.
#[derive(Clone, Debug)]
pub struct Ntfy {
    sender: Sender,
    topic: Secret,
}

impl Ntfy {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &NtfyConfig) -> Result<Self, String> {
        Ok(Self { sender: Sender::new(&target(config))?, topic: config.topic.clone() })
    }

    /// One attempt.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let Ok(topic) = self.topic.read() else { return super::no_secret("topic") };
        let body = body(&topic, &Text::of(&message, ALERTS)).to_string();
        self.sender.post(delivering.id, "application/json", &[], body, delivering.now).await
    }
}

fn body(topic: &str, text: &Text) -> serde_json::Value {
    let priority = match (text.fires, text.severity.as_str()) {
        (true, "critical") => 5,
        (true, "major") => 4,
        (true, "minor" | "warning") => 3,
        _ => 2,
    };
    let lines = text.lines.iter().map(|line| line.description.clone()).chain(text.rest());
    let one = match &text.lines[..] {
        [one] => Some(one),
        _ => None,
    };
    let actions: Vec<_> = one
        .filter(|line| line.fires)
        .and_then(|line| line.acknowledge.as_ref())
        .map(|url| json!({"action": "view", "label": "Acknowledge", "url": url, "clear": true}))
        .into_iter()
        .collect();
    let mut body = json!({
        "topic": topic,
        "title": cut(&text.title, 200),
        "message": cut(&lines.collect::<Vec<_>>().join("\n\n"), MESSAGE),
        "priority": priority,
        "tags": [if text.fires { "rotating_light" } else { "white_check_mark" }],
        "actions": actions,
    });
    if let Some(url) = one.and_then(|line| line.url.as_ref()) {
        body["click"] = json!(url);
    }
    body
}
