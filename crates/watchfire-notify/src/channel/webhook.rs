//! An HTTP POST with the body of Alertmanager's webhook.

use watchfire_model::Timestamp;
pub use watchfire_outbound::IDEMPOTENCY_KEY;
use watchfire_outbound::{Sender, Target};

use crate::channel::Outcome;
use crate::config::WebhookConfig;

/// The id of the delivery, for people who look into requests.
pub const DELIVERY: &str = "x-watchfire-delivery";

fn target(config: &WebhookConfig) -> Target<'_> {
    Target {
        url: &config.url,
        headers: &config.headers,
        timeout: config.timeout.to_std(),
        reserved: &[DELIVERY],
    }
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &WebhookConfig) -> Result<(), String> {
    target(config).check()
}

/// A webhook that is ready to be called. Its connections are kept open.
#[derive(Clone, Debug)]
pub struct Webhook(Sender);

impl Webhook {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &WebhookConfig) -> Result<Self, String> {
        Sender::new(&target(config)).map(Self)
    }

    /// One attempt.
    pub async fn send(&self, id: &str, body: String, now: Timestamp) -> Outcome {
        self.0.post(id, "application/json", &[(DELIVERY, id)], body, now).await
    }
}
