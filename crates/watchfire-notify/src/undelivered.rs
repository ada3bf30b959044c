//! A receiver that takes nothing is itself something to be told of: by another one.
//!
//! Once for each time that it happens: the id of the notice follows from the delivery that waits longest, so that a
//! restart does not tell it again, and the receiver is told again only after it had caught up. The notice goes where
//! routes send an alert `watchfire-undelivered` with the label `receiver`; where they send it to nobody else than who
//! takes nothing, to the first other receiver by name.

use std::collections::{BTreeMap, HashMap};

use watchfire_model::{Duration, Timestamp};
use watchfire_store::deliveries::Waiting;
use watchfire_store::{Flush, LabelSet, NewDelivery, Store, StoreError};

use crate::channel::payload::own_message;
use crate::stages::plan::Settings;

/// What waits for longer is not on its way any more: many times the longest wait between two attempts.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

const NAME: &str = "watchfire-undelivered";

/// Receivers that others were told of, with when the delivery was made that waited longest.
#[derive(Debug, Default)]
pub(crate) struct Undelivered {
    /// `None`: not read from the store yet.
    told: Option<BTreeMap<String, Timestamp>>,
}

/// The setting that keeps it over restarts: JSON.
const SETTING: &str = "notify.undelivered";

impl Undelivered {
    /// Looks at what waits; tells of receivers that take nothing, and of those that do again.
    pub async fn look(
        &mut self,
        store: &Store,
        settings: &Settings,
        waiting: &[Waiting],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let late = |waits: &&Waiting| {
            settings.max_alerts.contains_key(&waits.receiver) && waits.oldest + PATIENCE < now
        };
        let late: HashMap<&str, &Waiting> =
            waiting.iter().filter(late).map(|waits| (waits.receiver.as_str(), waits)).collect();
        let told = match &mut self.told {
            Some(told) => told,
            None => {
                let kept = store.setting(SETTING).await?;
                self.told.insert(kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
            }
        };
        let mut flush = Flush::default();
        for (&receiver, waits) in &late {
            if !told.contains_key(receiver) {
                let text = format!(
                    "{receiver} has taken nothing since {}: {} deliveries wait for it",
                    waits.oldest, waits.pending
                );
                let to = others(settings, receiver, |other| late.contains_key(other));
                tell(&mut flush, settings, &to, receiver, waits.oldest, None, &text, store).await?;
            }
        }
        let over: Vec<(String, Timestamp)> = told
            .iter()
            .filter(|(receiver, _)| !late.contains_key(receiver.as_str()))
            .map(|(receiver, since)| (receiver.clone(), *since))
            .collect();
        for (receiver, since) in &over {
            let text = format!("nothing waits too long for {receiver} any more");
            let to = others(settings, receiver, |other| late.contains_key(other));
            tell(&mut flush, settings, &to, receiver, *since, Some(now), &text, store).await?;
        }
        if !flush.deliveries.is_empty() {
            store.apply_flush(&flush, now).await?;
        }
        let mut now_told = told.clone();
        for (receiver, _) in over {
            now_told.remove(&receiver);
        }
        for (receiver, waits) in late {
            now_told.entry(receiver.into()).or_insert(waits.oldest);
        }
        if now_told != *told {
            let text = serde_json::to_string(&now_told).unwrap_or_default();
            store.set_setting(SETTING, Some(&text)).await?;
            *told = now_told;
        }
        Ok(())
    }
}

fn labels(receiver: &str) -> LabelSet {
    [("alertname", NAME), ("rule", NAME), ("receiver", receiver), ("severity", "major")]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .into()
}

/// Who is told of a receiver.
fn others(settings: &Settings, receiver: &str, late: impl Fn(&str) -> bool) -> Vec<String> {
    let routed = settings.router.route(&labels(receiver)).into_iter().map(|target| target.receiver);
    let mut routed: Vec<String> = routed.filter(|other| other != receiver && !late(other)).collect();
    routed.sort();
    routed.dedup();
    if routed.is_empty() {
        let rest = settings.max_alerts.keys().filter(|other| *other != receiver && !late(other));
        routed.extend(rest.min().cloned());
    }
    routed
}

#[allow(clippy::too_many_arguments)]
async fn tell(
    flush: &mut Flush,
    settings: &Settings,
    to: &[String],
    receiver: &str,
    since: Timestamp,
    until: Option<Timestamp>,
    text: &str,
    store: &Store,
) -> Result<(), StoreError> {
    tracing::error!(receiver, "{text}");
    for other in to {
        let message =
            own_message(other, settings.public_url.as_deref(), labels(receiver), text, since, until);
        let id = format!("undelivered-{receiver}-{}-{other}-{}", since.0, message.status);
        // The life before this one may have told it.
        match store.delivery(&id).await {
            Err(StoreError::NotFound { .. }) => flush.deliveries.push(NewDelivery {
                id,
                receiver: other.clone(),
                group_key: message.group_key.clone(),
                status: message.status.clone(),
                reason: message.notification_reason.clone(),
                payload: serde_json::to_string(&message).unwrap_or_default(),
                alerts: Vec::new(),
                caused_at: None,
            }),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
