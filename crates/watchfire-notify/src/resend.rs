//! What stands, said again to those who would forget it otherwise: a page of it at a time, between deliveries.

use watchfire_model::Timestamp;
use watchfire_telemetry::metrics;

use crate::channel::alertmanager::Alertmanager;
use crate::channel::payload::Alert;
use crate::channel::{Channel, Outcome};
use crate::lane::Lane;
use crate::stages::notice::standing;

/// Alerts of one request.
const PART: u32 = 500;

/// How far it is said.
#[derive(Debug)]
pub(crate) enum Pass {
    /// What stands, behind this group and fingerprint.
    Standing((i64, String)),
    /// What ended lately, as far as it is left.
    Ended(Vec<Alert>),
}

impl Pass {
    pub fn new() -> Self {
        Self::Standing((0, String::new()))
    }
}

impl Lane {
    /// Says a page of everything that this receiver was told and that still fires. Nothing else is under way meanwhile: an
    /// end must not be overtaken by what was read before it. Gives what is left, if anything is.
    pub(crate) async fn resend(&self, pass: Pass, now: Timestamp) -> Option<Pass> {
        let Channel::Alertmanager(channel) = &self.channel else { return None };
        match pass {
            Pass::Standing(after) => self.resend_standing(channel, after, now).await,
            Pass::Ended(mut ended) => {
                let page: Vec<Alert> = ended.drain(..ended.len().min(PART as usize)).collect();
                let said = page.is_empty() || self.said(channel.resend_ended(&page, now).await);
                (said && !ended.is_empty()).then_some(Pass::Ended(ended))
            }
        }
    }

    async fn resend_standing(
        &self,
        channel: &Alertmanager,
        after: (i64, String),
        now: Timestamp,
    ) -> Option<Pass> {
        let page = match self.store.told_alerts(&self.config.name, &after, PART).await {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(
                    receiver = self.config.name,
                    error = error.chain(),
                    "cannot read what stands"
                );
                return None;
            }
        };
        // What has another label set by now is told as such.
        let same = page.iter().filter(|told| told.alert.fingerprint == told.fingerprint);
        let alerts: Vec<Alert> =
            same.map(|told| Alert::from(&standing(&told.alert, self.public_url.as_deref()))).collect();
        if !self.said(channel.resend(&alerts, now).await) {
            return None;
        }
        match page.last() {
            Some(last) if page.len() == PART as usize => {
                Some(Pass::Standing((last.group, last.fingerprint.clone())))
            }
            _ => Some(Pass::Ended(channel.ended(now))),
        }
    }

    fn said(&self, outcome: Outcome) -> bool {
        let count = |outcome: &str| {
            let labels = [("receiver", self.config.name.clone()), ("outcome", outcome.to_string())];
            metrics().alerts.attempts.get_or_create(&labels).inc();
        };
        match outcome {
            Outcome::Delivered { .. } => {
                count("resent");
                true
            }
            Outcome::Failed { error, .. } => {
                count("resend_failed");
                tracing::warn!(receiver = self.config.name, error, "what stands was not said again");
                false
            }
        }
    }
}
