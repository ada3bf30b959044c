//! What stands, said again to those who would forget it otherwise.

use watchfire_model::Timestamp;
use watchfire_telemetry::metrics;

use crate::channel::payload::Alert;
use crate::channel::{Channel, Outcome};
use crate::lane::Lane;
use crate::stages::notice::standing;

/// Alerts of one request.
const PART: u32 = 500;

impl Lane {
    /// Says everything again that this receiver was told and that still fires. Nothing else is under way meanwhile: an
    /// end must not be overtaken by what was read before it.
    pub(crate) async fn resend(&self, now: Timestamp) {
        let Channel::Alertmanager(channel) = &self.channel else { return };
        let mut after = (0, String::new());
        let count = |outcome: &str| {
            let labels = [("receiver", self.config.name.clone()), ("outcome", outcome.to_string())];
            metrics().alerts.attempts.get_or_create(&labels).inc();
        };
        loop {
            if *self.stop.borrow() {
                return;
            }
            let page = match self.store.told_alerts(&self.config.name, &after, PART).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(
                        receiver = self.config.name,
                        error = error.chain(),
                        "cannot read what stands"
                    );
                    return;
                }
            };
            let last = page.len() < PART as usize;
            if let Some(told) = page.last() {
                after = (told.group, told.fingerprint.clone());
            }
            // What has another label set by now is told as such.
            let same = page.iter().filter(|told| told.alert.fingerprint == told.fingerprint);
            let alerts = same.map(|told| Alert::from(&standing(&told.alert, self.public_url.as_deref())));
            match channel.resend(alerts.collect(), last, now).await {
                Outcome::Delivered { .. } => count("resent"),
                Outcome::Failed { error, .. } => {
                    count("resend_failed");
                    tracing::warn!(receiver = self.config.name, error, "what stands was not said again");
                    return;
                }
            }
            if last {
                return;
            }
        }
    }
}
