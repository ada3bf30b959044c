//! What stands, said again to those who would forget it otherwise: a page of it at a time, between deliveries.

use watchfire_model::Timestamp;
use watchfire_store::{AlertRow, StoreError};
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
    /// What stands of what it was meant to be told, behind this group and fingerprint.
    Standing((i64, String)),
    /// What stands of what it was told in the place of another, behind this fingerprint.
    Instead(String),
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
        let name = &self.config.name;
        match pass {
            Pass::Standing(after) => {
                let page = self.read(self.store.told_alerts(name, &after, PART).await)?;
                // What has another label set by now is told as such.
                let same = page.iter().filter(|told| told.alert.fingerprint == told.fingerprint);
                self.say(channel, same.map(|told| &told.alert), now).await?;
                let last = page.last().filter(|_| page.len() == PART as usize);
                let next = last.map(|last| Pass::Standing((last.group, last.fingerprint.clone())));
                Some(next.unwrap_or(Pass::Instead(String::new())))
            }
            Pass::Instead(after) => {
                let page = self.read(self.store.told_instead(name, &after, PART).await)?;
                self.say(channel, page.iter(), now).await?;
                let last = page.last().filter(|_| page.len() == PART as usize);
                let next = last.map(|last| Pass::Instead(last.fingerprint.clone()));
                Some(next.unwrap_or_else(|| Pass::Ended(channel.ended(now))))
            }
            Pass::Ended(mut ended) => {
                let page: Vec<Alert> = ended.drain(..ended.len().min(PART as usize)).collect();
                let said = page.is_empty() || self.said(channel.resend_ended(&page, now).await);
                (said && !ended.is_empty()).then_some(Pass::Ended(ended))
            }
        }
    }

    fn read<T>(&self, page: Result<T, StoreError>) -> Option<T> {
        let failed = |error: &StoreError| {
            tracing::error!(receiver = self.config.name, error = error.chain(), "cannot read what stands");
        };
        page.inspect_err(failed).ok()
    }

    async fn say(
        &self,
        channel: &Alertmanager,
        page: impl Iterator<Item = &AlertRow>,
        now: Timestamp,
    ) -> Option<()> {
        let alerts: Vec<Alert> =
            page.map(|alert| Alert::from(&standing(alert, self.public_url.as_deref()))).collect();
        (alerts.is_empty() || self.said(channel.resend(&alerts, now).await)).then_some(())
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
