//! Who is told in the place of a receiver that takes nothing, or not this: the `fallback` of its configuration.

use std::collections::{BTreeSet, HashSet};

use watchfire_model::Timestamp;
use watchfire_store::stand_ins::{Late, Looked};
use watchfire_store::{DecisionRow, DeliveryState, Flush, NewDelivery, StoreError};
use watchfire_telemetry::metrics;

use crate::channel::payload::{self, Message};
use crate::config::FallbackConfig;
use crate::flush::Flusher;
use crate::ids;
use crate::stages::cap::Allowed;
use crate::stages::plan::{ReceiverSettings, Settings};

/// Deliveries that are given over at once; the rest a second later.
const GIVEN_OVER: u32 = 500;

impl Flusher {
    /// Gives over what is late of every receiver that has somebody who stands in for it.
    pub(crate) async fn stand_in(&mut self, settings: &Settings, now: Timestamp) {
        for (receiver, one) in &settings.receivers {
            let Some(fallback) = &one.fallback else { continue };
            if let Err(error) = self.give_over(receiver, fallback, settings, now).await {
                tracing::error!(
                    receiver,
                    error = error.chain(),
                    "nobody is told instead of who takes nothing"
                );
            }
        }
    }

    /// What waits stays where it is as well: who takes nothing now may be the one who matters later.
    async fn give_over(
        &mut self,
        receiver: &str,
        fallback: &FallbackConfig,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let FallbackConfig { receiver: to, after } = fallback;
        let pair = (receiver.to_string(), to.clone());
        let looked = self.looked.get(&pair).copied().unwrap_or_default();
        let late = self.store.late_deliveries(receiver, now - *after, now, to, looked, GIVEN_OVER).await?;
        let (late, behind) = late;
        let (Some(other), Some(groups)) = (settings.receivers.get(to), &mut self.groups) else {
            return Ok(());
        };
        let mut waits = false;
        // What no bound holds back waits all the same where something before it does, of its group or, as a digest is of
        // another, of its alerts.
        let (mut given, mut bounded) = (Vec::new(), Vec::new());
        let (mut groups_wait, mut alerts_wait) = (HashSet::new(), HashSet::new());
        for one in late {
            let is_behind = groups_wait.contains(&one.group_key)
                || one.alerts.iter().any(|alert| alerts_wait.contains(alert));
            if is_behind || !bypasses(other, &one.payload) {
                groups_wait.insert(one.group_key.clone());
                alerts_wait.extend(one.alerts.iter().cloned());
                bounded.push(one);
            } else {
                given.push(one);
            }
        }
        groups.sends(to, given.len(), settings, now);
        let (mut flush, mut together) = (Flush::default(), None);
        match groups.allows(to, bounded.len(), settings, now) {
            Allowed::Each => {
                groups.sends(to, bounded.len(), settings, now);
                given.extend(bounded);
                given.sort_by_key(|one| one.sequence);
            }
            Allowed::Digest => {
                groups.sends(to, 1, settings, now);
                let delivery = digest(to, &bounded, settings.public_url.as_deref());
                let decide = |one: &Late| decisions(one, receiver, to, &delivery.group_key, fallback, now);
                flush.decisions.extend(bounded.iter().flat_map(decide));
                flush.stand_ins.extend(bounded.iter().map(|one| (to.clone(), one.sequence)));
                together = Some(delivery);
            }
            // It waits until there is room: the bound is there for whoever reads.
            Allowed::Not { .. } => waits = !bounded.is_empty(),
        }
        for one in &given {
            flush.decisions.extend(decisions(one, receiver, to, &one.group_key, fallback, now));
            flush.stand_ins.push((to.clone(), one.sequence));
            flush.deliveries.push(single(to, one));
        }
        // Behind what goes out by itself: that told of its alerts before.
        flush.deliveries.extend(together);
        if flush.deliveries.is_empty() {
            if let Some(behind) = behind.filter(|_| !waits) {
                self.looked.insert(pair, behind);
            }
            return Ok(());
        }
        let labels = [("receiver", receiver.to_string()), ("to", to.clone())];
        metrics().alerts.given_over.get_or_create(&labels).inc_by(flush.stand_ins.len() as u64);
        tracing::warn!(receiver, to, deliveries = flush.stand_ins.len(), "another receiver is told instead");
        self.store.apply_flush(&flush, now).await?;
        // What tells more of these may be there already.
        let first = flush.stand_ins.iter().map(|(_, original)| *original).min();
        let follows = looked.follows.into_iter().chain(first).min();
        let behind = behind.filter(|_| !waits).unwrap_or(looked);
        self.looked.insert(pair, Looked { follows, ..behind });
        Ok(())
    }
}

/// Whether the bound on messages does not hold back something in it.
fn bypasses(to: &ReceiverSettings, payload: &str) -> bool {
    let read = || serde_json::from_str::<Message>(payload).ok();
    to.max_per_minute.is_none()
        || read().is_some_and(|message| message.alerts.iter().any(|alert| to.lets_through(&alert.labels)))
}

fn single(to: &str, late: &Late) -> NewDelivery {
    let payload = match serde_json::from_str::<Message>(&late.payload) {
        Ok(message) => serde_json::to_string(&Message { receiver: to.into(), ..message }).unwrap_or_default(),
        Err(_) => late.payload.clone(),
    };
    NewDelivery {
        id: format!("fallback/{to}/{}", late.id),
        receiver: to.into(),
        group_key: late.group_key.clone(),
        status: late.status.clone(),
        reason: "fallback".into(),
        payload,
        alerts: late.alerts.clone(),
        caused_at: late.caused_at,
    }
}

/// More than may go out, as one message.
fn digest(to: &str, late: &[Late], public_url: Option<&str>) -> NewDelivery {
    let messages: Vec<Message> =
        late.iter().filter_map(|one| serde_json::from_str(&one.payload).ok()).collect();
    let message = payload::together(to, &messages, public_url);
    let alerts: BTreeSet<&String> = late.iter().flat_map(|one| &one.alerts).collect();
    NewDelivery {
        id: format!("fallback/{to}/{}", ids::of(late.iter().map(|one| one.id.as_str()))),
        receiver: to.into(),
        group_key: message.group_key.clone(),
        status: message.status.clone(),
        reason: "fallback".into(),
        payload: serde_json::to_string(&message).unwrap_or_default(),
        alerts: alerts.into_iter().cloned().collect(),
        caused_at: late.iter().filter_map(|one| one.caused_at).min(),
    }
}

/// Why somebody else is told, of each alert.
fn decisions(
    late: &Late,
    receiver: &str,
    to: &str,
    group_key: &str,
    fallback: &FallbackConfig,
    now: Timestamp,
) -> Vec<DecisionRow> {
    let detail = match late.state {
        DeliveryState::Refused => format!("{receiver} refused it for good"),
        DeliveryState::Expired => format!("{receiver} did not take it in time"),
        DeliveryState::Pending => format!("{receiver} took nothing for {}", fallback.after),
        DeliveryState::Delivered | DeliveryState::Superseded => {
            format!("more of what was told instead of {receiver}")
        }
    };
    let decision = |alert: &String| DecisionRow {
        at: now,
        alert: alert.clone(),
        receiver: to.to_string(),
        group_key: group_key.to_string(),
        stage: "fallback".into(),
        outcome: "told".into(),
        detail: detail.clone(),
    };
    late.alerts.iter().map(decision).collect()
}
