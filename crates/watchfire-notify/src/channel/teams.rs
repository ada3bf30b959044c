//! Microsoft Teams: a workflow that posts what a webhook receives, as an Adaptive Card
//! (<https://learn.microsoft.com/power-automate/teams/send-a-message-in-teams>).

use serde::Deserialize;
use serde_json::json;
use watchfire_model::{Duration, Secret};
use watchfire_outbound::Sender;

use super::text::{Text, cut, cut_bytes};
use super::{Delivering, Outcome, target, unreadable};

/// Bytes of a text and of a title, as they are sent: a card is 28 KB at most, addresses and the frame among them.
const DESCRIPTION: usize = 1500;
const TITLE: usize = 500;
const ALERTS: usize = 10;
/// Bytes of an address that is shown: one that is longer is left out.
const ADDRESS: usize = 1000;

/// Where the messages go.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeamsConfig {
    /// The address of the workflow: whoever has it can post.
    pub url: Secret,
    /// For a whole request. Default 10s.
    #[serde(default = "super::timeout")]
    pub timeout: Duration,
}

super::hidden!(TeamsConfig);

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &TeamsConfig) -> Result<(), String> {
    target(&config.url, config.timeout).check()
}

/// A workflow of Teams'.
#[derive(Clone, Debug)]
pub struct Teams(Sender);

impl Teams {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &TeamsConfig) -> Result<Self, String> {
        Ok(Self(Sender::new(&target(&config.url, config.timeout))?))
    }

    /// One attempt.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let body = body(&Text::of(&message, ALERTS)).to_string();
        self.0.post(delivering.id, "application/json", &[], body, delivering.now).await
    }
}

/// A text block reads Markdown: what a device or a rule is called is not formatting. A line break is an empty line there.
fn markdown(text: &str) -> String {
    let mut said = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => said.push_str("\n\n"),
            '*' | '_' | '[' | ']' | '`' | '\\' => said.extend(['\\', c]),
            c => said.push(c),
        }
    }
    said
}

fn body(text: &Text) -> serde_json::Value {
    let color = match (text.fires, text.severity.as_str()) {
        (false, _) => "good",
        (true, "critical" | "major") => "attention",
        (true, _) => "warning",
    };
    let mut card = vec![json!({
        "type": "TextBlock", "text": cut_bytes(&markdown(&text.title), TITLE), "weight": "bolder", "size": "medium", "color": color, "wrap": true,
    })];
    let mut actions = Vec::new();
    for line in &text.lines {
        card.push(json!({
            "type": "TextBlock", "text": cut_bytes(&markdown(&line.description), DESCRIPTION), "wrap": true,
        }));
        if line.fires
            && let Some(url) = line.acknowledge.as_ref().filter(|url| url.len() <= ADDRESS)
        {
            let title = cut(&format!("Acknowledge {}", line.source), 60);
            actions.push(json!({"type": "Action.OpenUrl", "title": title, "url": url}));
        }
    }
    // As many as a card shows without a menu.
    actions.truncate(6);
    card.extend(text.rest().map(|rest| json!({"type": "TextBlock", "text": rest, "isSubtle": true})));
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": card,
                "actions": actions,
            },
        }],
    })
}
