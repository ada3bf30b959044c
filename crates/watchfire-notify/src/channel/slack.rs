//! Slack: an incoming webhook (<https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>), or a bot
//! (<https://docs.slack.dev/reference/methods/chat.postMessage>). A bot changes its message in place while the group goes
//! on (<https://docs.slack.dev/reference/methods/chat.update>), so that a channel has one message for it that says how it
//! stands. Nobody is called by a change: what begins to fire meanwhile is said in the thread of the message too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use watchfire_model::{Duration, Secret};
use watchfire_outbound::{Sender, Target};

use super::payload::Message;
use super::text::{Text, cut, cut_bytes};
use super::{Delivering, Outcome, Renewed, Retry, Thread, target, unreadable};

/// Bytes of a section's text as it is sent, and characters of a header's, at most; and alerts, each a section: Slack takes
/// 50 blocks, and in practice some 13 000 characters of them.
const SECTION: usize = 1200;
const HEADER: usize = 150;
const RESPONSE: usize = 300;
const ALERTS: usize = 10;

/// The API that a bot speaks to.
const API: &str = "https://slack.com/api";

/// Where the messages go.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlackConfig {
    /// The address of an incoming webhook: whoever has it can post. With a token: the API, by default Slack's own.
    pub url: Option<Secret>,
    /// The token of a bot, in place of a webhook.
    pub token: Option<Secret>,
    /// The channel: a bot needs one, a webhook has its own.
    pub channel: Option<String>,
    /// Whether a bot changes its message in place. Default true.
    #[serde(default = "update")]
    pub update: bool,
    /// For a whole request. Default 10s.
    #[serde(default = "super::timeout")]
    pub timeout: Duration,
}

super::hidden!(SlackConfig);

fn update() -> bool {
    true
}

impl SlackConfig {
    /// Whether the message of a group is changed while it goes on.
    pub fn changes_in_place(&self) -> bool {
        self.token.is_some() && self.update
    }

    fn senders(&self) -> Result<Senders, String> {
        let Some(token) = &self.token else {
            let url = self.url.as_ref().ok_or("url or token: one of them is given")?;
            target(url, self.timeout).check()?;
            return Ok(Senders::Webhook(Sender::new(&target(url, self.timeout))?));
        };
        let token = token.read().map_err(|error| format!("token: {error}"))?;
        let headers =
            BTreeMap::from([("authorization".to_string(), Secret::from(format!("Bearer {token}")))]);
        let base = match &self.url {
            Some(url) => url.read().map_err(|error| format!("url: {error}"))?.to_string(),
            None => API.to_string(),
        };
        let sender = |method: &str| {
            let url = Secret::from(format!("{}/{method}", base.trim_end_matches('/')));
            let target =
                Target { url: &url, headers: &headers, timeout: self.timeout.to_std(), reserved: &[] };
            target.check()?;
            Sender::new(&target)
        };
        Ok(Senders::Bot { post: sender("chat.postMessage")?, update: sender("chat.update")? })
    }
}

/// What messages go through.
#[derive(Clone, Debug)]
enum Senders {
    Webhook(Sender),
    Bot { post: Sender, update: Sender },
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &SlackConfig) -> Result<(), String> {
    if config.token.is_some() && config.channel.as_ref().is_none_or(String::is_empty) {
        return Err("channel: a bot posts to one".into());
    }
    config.senders().map(drop)
}

/// A webhook or a bot.
#[derive(Clone, Debug)]
pub struct Slack {
    config: SlackConfig,
    senders: Renewed<Senders>,
}

/// Where the message of a group is, in Slack's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    channel: String,
    ts: String,
}

impl Slack {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &SlackConfig) -> Result<Self, String> {
        Ok(Self { config: config.clone(), senders: Renewed::new(config.senders()?) })
    }

    /// One attempt.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let text = Text::of(&message, ALERTS);
        let outcome = match self.senders.get() {
            Senders::Webhook(sender) => {
                let mut body = body(&text);
                if let Some(channel) = &self.config.channel {
                    body["channel"] = json!(channel);
                }
                ask(&sender, delivering, &body).await.0
            }
            Senders::Bot { post, update } => self.tell(&post, &update, delivering, &message, &text).await,
        };
        if matches!(outcome, Outcome::Failed { .. })
            && self.config.token.as_ref().is_some_and(|token| token.file().is_some())
        {
            self.senders.renew(self.config.senders());
        }
        outcome
    }

    /// As a bot: the message of the group is changed where there is one, and posted where there is none any more.
    async fn tell(
        &self,
        post: &Sender,
        update: &Sender,
        delivering: &Delivering<'_>,
        message: &Message,
        text: &Text,
    ) -> Outcome {
        let mut body = body(text);
        // Digests are of one group, and each tells of something else.
        let in_place = self.config.changes_in_place() && message.digest.is_none();
        let before = delivering.thread.before().and_then(|kept| serde_json::from_str::<Place>(kept).ok());
        if let Some(place) = before.filter(|_| in_place) {
            (body["channel"], body["ts"]) = (json!(place.channel), json!(place.ts));
            let (outcome, answer) = ask(update, delivering, &body).await;
            match said(outcome, &answer) {
                Outcome::Delivered { .. } => {
                    // Written anew each time: what is old is forgotten.
                    delivering.thread.leave(match delivering.thread.before() {
                        Some(kept) if text.fires => Thread::Keep(kept.to_string()),
                        _ => Thread::End,
                    });
                    return self.reply(post, delivering, message, text, &place).await;
                }
                // Somebody deleted it, or it is too old to be changed.
                Outcome::Failed { error, .. } if GONE.iter().any(|gone| error.ends_with(gone)) => {}
                failed => return failed,
            }
            body["ts"].take();
        }
        body["channel"] = json!(self.config.channel);
        let (outcome, answer) = ask(post, delivering, &body).await;
        let outcome = said(outcome, &answer);
        if matches!(outcome, Outcome::Delivered { .. }) && in_place {
            let place = serde_json::from_slice::<Place>(&answer).ok().filter(|_| text.fires);
            let place = place.and_then(|place| serde_json::to_string(&place).ok());
            delivering.thread.leave(place.map_or(Thread::End, Thread::Keep));
        }
        outcome
    }

    /// What fires calls people: a change of a message does not.
    async fn reply(
        &self,
        post: &Sender,
        delivering: &Delivering<'_>,
        message: &Message,
        text: &Text,
        place: &Place,
    ) -> Outcome {
        if !text.fires || !CALLS.contains(&message.notification_reason.as_str()) {
            return Outcome::Delivered { status: 200 };
        }
        let reply = json!({
            "channel": place.channel, "thread_ts": place.ts, "reply_broadcast": true, "text": escape(&text.title),
        });
        let (outcome, answer) = ask(post, delivering, &reply).await;
        said(outcome, &answer)
    }
}

/// Why a message is made that is to call people.
const CALLS: [&str; 3] = ["first notification", "new alerts added", "repeat interval elapsed"];

/// What Slack says of a message that cannot be changed any more.
const GONE: [&str; 4] =
    ["message_not_found", "cant_update_message", "edit_window_closed", "channel_not_found"];

async fn ask(sender: &Sender, delivering: &Delivering<'_>, body: &Value) -> (Outcome, Vec<u8>) {
    sender.ask(delivering.id, "application/json", &[], body.to_string(), delivering.now).await
}

/// What the API of Slack made of a message: it answers 200 in any case. What is about the message is final; what is about
/// the bot, its token or the channel may be put right.
fn said(outcome: Outcome, answer: &[u8]) -> Outcome {
    let Outcome::Delivered { status } = outcome else { return outcome };
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    if answer["ok"] == true {
        return Outcome::Delivered { status };
    }
    let error = answer["error"].as_str().unwrap_or("no JSON").to_string();
    let never = ["msg_too_long", "msg_blocks_too_long", "no_text", "invalid_blocks", "invalid_blocks_format"];
    let retry = if never.contains(&error.as_str()) { Retry::Never } else { Retry::Later(None) };
    Outcome::Failed { retry, status: Some(status), error: format!("answered {status}: {error}") }
}

/// In text that Slack formats, these three are written otherwise, and no others.
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
        let mut said = format!("*{}* {}", escape(state), cut_bytes(&escape(&line.description), SECTION));
        if let Some(response) = &line.response {
            said.push_str(&format!("\n_{}_", cut_bytes(&escape(response), RESPONSE)));
        }
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
    json!({"text": cut_bytes(&escape(&text.title), SECTION), "blocks": blocks})
}
