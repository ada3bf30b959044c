//! An HTTP POST with the body of Alertmanager's webhook.

pub use watchfire_outbound::IDEMPOTENCY_KEY;
use watchfire_outbound::{Sender, Target};

use crate::channel::signature::{self, Signer};
use crate::channel::template::Template;
use crate::channel::{Delivering, Outcome, Retry, unreadable};
use crate::config::WebhookConfig;

/// The id of the delivery, for people who look into requests.
pub const DELIVERY: &str = "x-watchfire-delivery";

fn target(config: &WebhookConfig) -> Target<'_> {
    Target {
        url: &config.url,
        headers: &config.headers,
        timeout: config.timeout.to_std(),
        reserved: match config.signing_secret {
            Some(_) => &[DELIVERY, signature::ID, signature::TIMESTAMP, signature::SIGNATURE],
            None => &[DELIVERY],
        },
    }
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &WebhookConfig) -> Result<(), String> {
    target(config).check()?;
    let (kind, rest) = config.content_type.split_once('/').unwrap_or_default();
    let plain = |c: char| c == ' ' || c.is_ascii_graphic();
    if kind.is_empty() || rest.is_empty() || !config.content_type.chars().all(plain) {
        return Err(format!("content_type: {:?} is no media type, such as text/plain", config.content_type));
    }
    config.body.as_deref().map(Template::new).transpose()?;
    config.signing_secret.as_ref().map_or(Ok(()), signature::check)
}

/// A webhook that is ready to be called. Its connections are kept open.
#[derive(Clone, Debug)]
pub struct Webhook {
    sender: Sender,
    signer: Option<Signer>,
    template: Option<Template>,
    content_type: String,
}

impl Webhook {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &WebhookConfig) -> Result<Self, String> {
        let signer = config.signing_secret.as_ref().map(Signer::new).transpose()?;
        let template = config.body.as_deref().map(Template::new).transpose()?;
        let content_type = config.content_type.clone();
        Ok(Self { sender: Sender::new(&target(config))?, signer, template, content_type })
    }

    /// One attempt.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Delivering { id, now, .. } = *delivering;
        let body = match &self.template {
            None => delivering.payload.to_string(),
            Some(template) => {
                let Ok(message) = delivering.message() else { return unreadable() };
                match template.render(&message) {
                    Ok(body) => body,
                    Err(error) => return Outcome::Failed { retry: Retry::Never, status: None, error },
                }
            }
        };
        let Some(signer) = &self.signer else {
            return self.sender.post(id, &self.content_type, &[(DELIVERY, id)], body, now).await;
        };
        let (seconds, signed) = signer.sign(id, &body, now);
        let beside = [
            (DELIVERY, id),
            (signature::ID, id),
            (signature::TIMESTAMP, seconds.as_str()),
            (signature::SIGNATURE, signed.as_str()),
        ];
        let outcome = self.sender.post(id, &self.content_type, &beside, body, now).await;
        if matches!(outcome, Outcome::Failed { .. }) {
            signer.read_anew();
        }
        outcome
    }
}
