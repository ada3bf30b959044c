//! Telegram: a message of a bot (<https://core.telegram.org/bots/api#sendmessage>).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use watchfire_model::{Duration, Secret};
use watchfire_outbound::{Sender, Target};

use super::text::{Text, cut};
use super::{Delivering, Outcome, unreadable};

/// Characters of a message at most, after its formatting is read.
const MESSAGE: usize = 4096;
const DESCRIPTION: usize = 700;
const ALERTS: usize = 5;

/// Where the messages go.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelegramConfig {
    /// `https://api.telegram.org/bot<token>/sendMessage`: whoever has it can post as the bot.
    pub url: Secret,
    /// The chat, by its number or as `@name`.
    pub chat: String,
    /// For a whole request. Default 10s.
    #[serde(default = "super::timeout")]
    pub timeout: Duration,
}

super::hidden!(TelegramConfig);

fn target<'a>(config: &'a TelegramConfig, none: &'a BTreeMap<String, Secret>) -> Target<'a> {
    Target { url: &config.url, headers: none, timeout: config.timeout.to_std(), reserved: &[] }
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &TelegramConfig) -> Result<(), String> {
    if config.chat.is_empty() {
        return Err("chat: is a number, or a name with @ before it".into());
    }
    target(config, &BTreeMap::new()).check()
}

/// A bot in a chat.
#[derive(Clone, Debug)]
pub struct Telegram {
    sender: Sender,
    chat: String,
}

impl Telegram {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &TelegramConfig) -> Result<Self, String> {
        Ok(Self { sender: Sender::new(&target(config, &BTreeMap::new()))?, chat: config.chat.clone() })
    }

    /// One attempt.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let body = body(&self.chat, &Text::of(&message, ALERTS)).to_string();
        self.sender.post(delivering.id, "application/json", &[], body, delivering.now).await
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn body(chat: &str, text: &Text) -> serde_json::Value {
    let mut said = format!("<b>{}</b>", escape(&cut(&text.title, 200)));
    let mut length = text.title.chars().count().min(200);
    for line in &text.lines {
        let description = cut(&line.description, DESCRIPTION);
        length += description.chars().count() + 20;
        if length > MESSAGE {
            break;
        }
        said.push_str(&format!("\n\n{}", escape(&description)));
        if line.fires
            && let Some(url) = &line.acknowledge
        {
            said.push_str(&format!("\n<a href=\"{}\">Acknowledge</a>", escape(url)));
        }
    }
    said.extend(text.rest().map(|rest| format!("\n\n{rest}")));
    json!({"chat_id": chat, "text": said, "parse_mode": "HTML", "link_preview_options": {"is_disabled": true}})
}
