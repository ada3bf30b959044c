//! Telegram: a message of a bot (<https://core.telegram.org/bots/api#sendmessage>).

use serde::Deserialize;
use serde_json::json;
use watchfire_model::{Duration, Secret};
use watchfire_outbound::Sender;

use super::text::{Text, cut, escape};
use super::{Delivering, Outcome, Renewed, Retry, target, unreadable};

/// Characters of a message at most, after its formatting is read.
const MESSAGE: usize = 4096;
const DESCRIPTION: usize = 700;
const ALERTS: usize = 5;

/// The API.
const ADDRESS: &str = "https://api.telegram.org";

/// Where the messages go.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelegramConfig {
    /// The token of the bot.
    pub token: Secret,
    /// The chat, by its number or as `@name`.
    pub chat_id: String,
    /// A topic of the chat.
    pub message_thread_id: Option<i64>,
    /// The API. Default: Telegram's own address.
    pub url: Option<String>,
    /// For a whole request. Default 10s.
    #[serde(default = "super::timeout")]
    pub timeout: Duration,
}

super::hidden!(TelegramConfig);

impl TelegramConfig {
    fn sender(&self) -> Result<Sender, String> {
        let token = self.token.read().map_err(|error| format!("token: {error}"))?;
        if token.is_empty() || !token.chars().all(|c| c.is_ascii_alphanumeric() || ":-_".contains(c)) {
            return Err("token: is letters, digits, :, - and _".into());
        }
        let base = self.url.as_deref().unwrap_or(ADDRESS).trim_end_matches('/');
        let url = Secret::from(format!("{base}/bot{token}/sendMessage"));
        let target = target(&url, self.timeout);
        target.check()?;
        Sender::new(&target)
    }
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &TelegramConfig) -> Result<(), String> {
    if config.chat_id.is_empty() {
        return Err("chat_id: is a number, or a name with @ before it".into());
    }
    config.sender().map(drop)
}

/// A bot in a chat.
#[derive(Clone, Debug)]
pub struct Telegram {
    config: TelegramConfig,
    sender: Renewed<Sender>,
    /// As configured, or where that chat has moved to.
    chat: Renewed<String>,
}

impl Telegram {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &TelegramConfig) -> Result<Self, String> {
        let (sender, chat) = (Renewed::new(config.sender()?), Renewed::new(config.chat_id.clone()));
        Ok(Self { config: config.clone(), sender, chat })
    }

    /// One attempt.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let mut body = body(&self.chat.get(), &Text::of(&message, ALERTS));
        if let Some(thread) = self.config.message_thread_id {
            body["message_thread_id"] = json!(thread);
        }
        let sender = self.sender.get();
        let (outcome, answer) =
            sender.ask(delivering.id, "application/json", &[], body.to_string(), delivering.now).await;
        let Outcome::Failed { retry, status, error } = outcome else { return outcome };
        if self.config.token.file().is_some() {
            self.sender.renew(self.config.sender());
        }
        // How long it wants to be left alone stands in the answer, and not in a header.
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
        // A group that becomes a supergroup has another number from then on.
        if let Some(chat) = answer["parameters"]["migrate_to_chat_id"].as_i64() {
            self.chat.renew(Ok(chat.to_string()));
            let error = format!("{error}: the chat has moved, its chat_id is {chat} now");
            return Outcome::Failed { retry: Retry::Later(None), status, error };
        }
        let after = answer["parameters"]["retry_after"]
            .as_u64()
            .map(|seconds| std::time::Duration::from_secs(seconds.min(3600)));
        let retry = match (retry, after) {
            (Retry::Later(None), Some(after)) => Retry::Later(Some(after)),
            (retry, _) => retry,
        };
        Outcome::Failed { retry, status, error }
    }
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
