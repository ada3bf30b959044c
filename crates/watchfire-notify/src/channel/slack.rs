//! Slack, and what takes the same body (Mattermost, Rocket.Chat): an incoming webhook
//! (<https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use watchfire_model::{Duration, Secret};
use watchfire_outbound::{Sender, Target};

use super::text::{Text, cut};
use super::{Delivering, Outcome, unreadable};

/// Characters of a section's text, and of a header's, at most; and alerts, each a section: Slack takes 50 blocks, and in
/// practice some 13 000 characters of them.
const SECTION: usize = 1000;
const HEADER: usize = 150;
const ALERTS: usize = 10;

/// Where the messages go.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlackConfig {
    /// The address of the webhook: whoever has it can post.
    pub url: Secret,
    /// For a whole request. Default 10s.
    #[serde(default = "super::timeout")]
    pub timeout: Duration,
}

super::hidden!(SlackConfig);

fn target<'a>(config: &'a SlackConfig, none: &'a BTreeMap<String, Secret>) -> Target<'a> {
    Target { url: &config.url, headers: none, timeout: config.timeout.to_std(), reserved: &[] }
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &SlackConfig) -> Result<(), String> {
    target(config, &BTreeMap::new()).check()
}

/// A webhook of Slack's.
#[derive(Clone, Debug)]
pub struct Slack(Sender);

impl Slack {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &SlackConfig) -> Result<Self, String> {
        Ok(Self(Sender::new(&target(config, &BTreeMap::new()))?))
    }

    /// One attempt.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let body = body(&Text::of(&message, ALERTS)).to_string();
        self.0.post(delivering.id, "application/json", &[], body, delivering.now).await
    }
}

/// In text that Slack formats, these three are written otherwise.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn body(text: &Text) -> serde_json::Value {
    let mut blocks = vec![json!({
        "type": "header",
        "text": {"type": "plain_text", "text": cut(&text.title, HEADER)},
    })];
    for line in &text.lines {
        let state = if line.fires { line.severity.as_str() } else { "resolved" };
        let mut said = format!("*{}* {}", escape(state), escape(&cut(&line.description, SECTION)));
        if line.fires
            && let Some(url) = &line.acknowledge
        {
            said.push_str(&format!("\n<{url}|Acknowledge>"));
        }
        blocks.push(json!({"type": "section", "text": {"type": "mrkdwn", "text": said}}));
    }
    blocks.extend(
        text.rest().map(|rest| json!({"type": "context", "elements": [{"type": "mrkdwn", "text": rest}]})),
    );
    // The text is what a notification on a phone shows.
    json!({"text": escape(&text.title), "blocks": blocks})
}
