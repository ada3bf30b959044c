//! Slack: an incoming webhook (<https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>), or a bot
//! (<https://docs.slack.dev/reference/methods/chat.postMessage>).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use watchfire_model::{Duration, Secret};
use watchfire_outbound::{Sender, Target};

use super::text::{Text, cut};
use super::{Delivering, Outcome, Renewed, Retry, unreadable};

/// Bytes of a section's text as it is sent, and characters of a header's, at most; and alerts, each a section: Slack takes
/// 50 blocks, and in practice some 13 000 characters of them.
const SECTION: usize = 1200;
const HEADER: usize = 150;
const ALERTS: usize = 10;

/// Where a bot posts.
const POST: &str = "https://slack.com/api/chat.postMessage";

/// Where the messages go.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlackConfig {
    /// The address of an incoming webhook: whoever has it can post. With a token: where a bot posts instead of Slack's own
    /// address.
    pub url: Option<Secret>,
    /// The token of a bot, in place of a webhook.
    pub token: Option<Secret>,
    /// The channel: a bot needs one, a webhook has its own.
    pub channel: Option<String>,
    /// For a whole request. Default 10s.
    #[serde(default = "super::timeout")]
    pub timeout: Duration,
}

super::hidden!(SlackConfig);

impl SlackConfig {
    fn sender(&self) -> Result<Sender, String> {
        let url = match (&self.url, &self.token) {
            (Some(url), _) => url.clone(),
            (None, Some(_)) => POST.into(),
            (None, None) => return Err("url or token: one of them is given".into()),
        };
        let mut headers = BTreeMap::new();
        if let Some(token) = &self.token {
            let token = token.read().map_err(|error| format!("token: {error}"))?;
            headers.insert("authorization".to_string(), Secret::from(format!("Bearer {token}")));
        }
        let target = Target { url: &url, headers: &headers, timeout: self.timeout.to_std(), reserved: &[] };
        target.check()?;
        Sender::new(&target)
    }
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &SlackConfig) -> Result<(), String> {
    if config.token.is_some() && config.channel.as_ref().is_none_or(String::is_empty) {
        return Err("channel: a bot posts to one".into());
    }
    config.sender().map(drop)
}

/// A webhook or a bot.
#[derive(Clone, Debug)]
pub struct Slack {
    config: SlackConfig,
    sender: Renewed<Sender>,
}

impl Slack {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &SlackConfig) -> Result<Self, String> {
        Ok(Self { config: config.clone(), sender: Renewed::new(config.sender()?) })
    }

    /// One attempt.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let mut body = body(&Text::of(&message, ALERTS));
        if let Some(channel) = &self.config.channel {
            body["channel"] = json!(channel);
        }
        let sender = self.sender.get();
        let (outcome, answer) =
            sender.ask(delivering.id, "application/json", &[], body.to_string(), delivering.now).await;
        let outcome = match outcome {
            Outcome::Delivered { status } if self.config.token.is_some() => said(status, &answer),
            outcome => outcome,
        };
        if matches!(outcome, Outcome::Failed { .. })
            && self.config.token.as_ref().is_some_and(|t| t.file().is_some())
        {
            self.sender.renew(self.config.sender());
        }
        outcome
    }
}

/// What the API of Slack made of a message: it answers 200 in any case. What is about the message is final; what is about
/// the bot, its token or the channel may be put right.
fn said(status: u16, answer: &[u8]) -> Outcome {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    if answer["ok"] == true {
        return Outcome::Delivered { status };
    }
    let error = answer["error"].as_str().unwrap_or("no JSON").to_string();
    let never = ["msg_too_long", "msg_blocks_too_long", "no_text", "invalid_blocks", "invalid_blocks_format"];
    let retry = if never.contains(&error.as_str()) { Retry::Never } else { Retry::Later(None) };
    Outcome::Failed { retry, status: Some(status), error: format!("answered {status}: {error}") }
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
