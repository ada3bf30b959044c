//! Microsoft Teams: a workflow that posts what a webhook receives, as an Adaptive Card
//! (<https://learn.microsoft.com/power-automate/teams/send-a-message-in-teams>).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use watchfire_model::{Duration, Secret};
use watchfire_outbound::{Sender, Target};

use super::text::{Text, cut};
use super::{Delivering, Outcome, unreadable};

/// A card is 28 KB at most.
const DESCRIPTION: usize = 1000;
const ALERTS: usize = 10;

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

fn target<'a>(config: &'a TeamsConfig, none: &'a BTreeMap<String, Secret>) -> Target<'a> {
    Target { url: &config.url, headers: none, timeout: config.timeout.to_std(), reserved: &[] }
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &TeamsConfig) -> Result<(), String> {
    target(config, &BTreeMap::new()).check()
}

/// A workflow of Teams'.
#[derive(Clone, Debug)]
pub struct Teams(Sender);

impl Teams {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &TeamsConfig) -> Result<Self, String> {
        Ok(Self(Sender::new(&target(config, &BTreeMap::new()))?))
    }

    /// One attempt.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let body = body(&Text::of(&message, ALERTS)).to_string();
        self.0.post(delivering.id, "application/json", &[], body, delivering.now).await
    }
}

fn body(text: &Text) -> serde_json::Value {
    let color = match (text.fires, text.severity.as_str()) {
        (false, _) => "good",
        (true, "critical" | "major") => "attention",
        (true, _) => "warning",
    };
    let mut card = vec![json!({
        "type": "TextBlock", "text": text.title, "weight": "bolder", "size": "medium", "color": color, "wrap": true,
    })];
    let mut actions = Vec::new();
    for line in &text.lines {
        card.push(json!({"type": "TextBlock", "text": cut(&line.description, DESCRIPTION), "wrap": true}));
        if line.fires
            && let Some(url) = &line.acknowledge
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
