//! The task that turns what happened into deliveries: woken by the store, or by the timer of a group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use watchfire_log::Clock;
use watchfire_model::{Duration as Span, Timestamp};
use watchfire_store::{Store, StoreError};
use watchfire_telemetry::metrics;

use crate::own::Own;
use crate::stages::plan::{Groups, Settings};

/// Transitions in one flush at most.
const BATCH: u32 = 1000;
/// Deliveries to a receiver that is not in the configuration any more wait this long for it to come back: as long as
/// those of one that is there do unless it says otherwise.
const ABANDONED: Span = Span::from_secs(24 * 3600);
/// The longest sleep: clocks that run faster than time are looked at again, and gauges are kept fresh.
const SLEEP: Duration = Duration::from_secs(1);

/// Sweeps over what people did for a time, one after another, at most: each ends some hundred alerts.
const SWEEPS: usize = 10;

pub(crate) struct Flusher {
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub settings: watch::Receiver<Arc<Settings>>,
    pub stop: watch::Receiver<bool>,
    pub groups: Groups,
    pub own: Own,
}

impl Flusher {
    pub(crate) async fn run(mut self) {
        let mut changes = self.store.subscribe();
        let mut failures = 0_u32;
        let mut measured = Instant::now() - 2 * SLEEP;
        loop {
            changes.borrow_and_update();
            let ending = *self.stop.borrow();
            let wait = match self.flush().await {
                // More may wait where a batch was full.
                Ok(routed) if routed >= BATCH as usize => continue,
                Ok(_) => {
                    failures = 0;
                    let now = self.clock.wall();
                    let next = self.groups.next().map(|next| next.since(now).to_std());
                    next.map_or(SLEEP, |next| next.clamp(Duration::from_millis(1), SLEEP))
                }
                Err(error) => {
                    failures += 1;
                    tracing::error!(error = error.chain(), "routing failed; trying again");
                    Duration::from_millis(50 << failures.min(6))
                }
            };
            if ending {
                return;
            }
            if measured.elapsed() >= SLEEP {
                measured = Instant::now();
                self.measure().await;
            }
            if failures > 0 {
                tokio::time::sleep(wait).await;
                continue;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
                _ = self.settings.changed() => {}
                _ = self.stop.changed() => {}
            }
        }
    }

    /// One transaction: routes what is in the outbox and tells groups whose time has come.
    async fn flush(&mut self) -> Result<usize, StoreError> {
        let outbox = self.store.unrouted(BATCH).await?;
        let now = self.clock.wall();
        if outbox.is_empty() && self.groups.next().is_none_or(|next| next > now) {
            return Ok(0);
        }
        let settings = self.settings.borrow().clone();
        let plan = self.groups.plan(&settings, &outbox, now);
        self.store.apply_flush(&plan.flush, now).await?;
        self.groups.accept(plan);
        metrics().alerts.routed.inc_by(outbox.len() as u64);
        Ok(outbox.len())
    }

    /// Gives up what waits for a receiver that is not configured any more: no worker of its own does.
    async fn abandon(&self, receiver: &str, now: Timestamp) {
        match self.store.expire_deliveries(receiver, now - ABANDONED, now).await {
            Ok(expired) => {
                let labels = [("receiver", receiver.to_string()), ("state", "expired".to_string())];
                metrics().alerts.deliveries.get_or_create(&labels).inc_by(expired);
                tracing::error!(receiver, expired, "deliveries to a receiver that is gone were given up");
            }
            Err(error) => tracing::error!(receiver, error = error.chain(), "cannot expire deliveries"),
        }
    }

    /// Ends what people did to alerts for a time. Bounded: routing waits meanwhile.
    async fn expire(&self) {
        let now = self.clock.wall();
        for _ in 0..SWEEPS {
            match self.store.expire_responses(now).await {
                Ok(expired) if expired.more => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::error!(error = error.chain(), "what people did for a time could not be ended");
                    return;
                }
            }
        }
    }

    async fn measure(&mut self) {
        let telemetry = &metrics().alerts;
        self.expire().await;
        if let Ok(counts) = self.store.standing_counts(self.clock.wall()).await {
            telemetry.standing.set(counts.standing as i64);
            telemetry.shelved.set(counts.shelved as i64);
            telemetry.suppressed.set(counts.suppressed as i64);
            telemetry.raised_lately.set(counts.raised_lately as i64);
        }
        if let Ok(counts) = self.store.active_counts().await {
            for severity in watchfire_model::Severity::ALL {
                let count = counts.iter().find(|(one, _)| *one == severity).map_or(0, |(_, count)| *count);
                telemetry.active.get_or_create(&[("severity", severity.to_string())]).set(count as i64);
            }
        }
        let Ok(waiting) = self.store.waiting_deliveries().await else { return };
        // Receivers that nothing waits for any more go back to zero by being left out.
        telemetry.pending.clear();
        telemetry.undelivered_age.clear();
        let now = self.clock.wall();
        let settings = self.settings.borrow().clone();
        if let Err(error) = self.own.look(&self.store, &settings, &waiting, now).await {
            tracing::error!(error = error.chain(), "cannot tell what is wrong with the engine itself");
        }
        for waits in waiting {
            if waits.oldest < now - ABANDONED && !settings.max_alerts.contains_key(&waits.receiver) {
                self.abandon(&waits.receiver, now).await;
            }
            let receiver = [("receiver", waits.receiver)];
            telemetry.pending.get_or_create(&receiver).set(waits.pending as i64);
            let age = now.since(waits.oldest).as_secs_f64() as i64;
            telemetry.undelivered_age.get_or_create(&receiver).set(age);
        }
    }
}
