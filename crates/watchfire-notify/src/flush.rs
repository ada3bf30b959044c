//! The task that turns what happened into deliveries: woken by the store, or by the timer of a group.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use watchfire_log::Clock;
use watchfire_model::{Duration as Span, Timestamp};
use watchfire_store::stand_ins::Looked;
use watchfire_store::{ResponseRow, Silence, Store, StoreError};
use watchfire_telemetry::metrics;

use crate::backwards::Backwards;
use crate::own::{self, Own, SILENCE_ENDS};
use crate::stages::fleet::Fleet;
use crate::stages::hold::Flags;
use crate::stages::plan::{self, Found, Groups, Settings};
use crate::stages::silence::Silences;
use crate::stages::storm::Standing;
use crate::turning::Turning;

/// Transitions in one flush at most.
const BATCH: u32 = 1000;
/// Deliveries to a receiver that is not in the configuration any more wait this long for it to come back: as long as
/// those of one that is there do unless it says otherwise.
const ABANDONED: Span = Span::from_secs(24 * 3600);
/// The longest sleep: clocks that run faster than time are looked at again, and gauges are kept fresh.
const SLEEP: Duration = Duration::from_secs(1);

/// So long before its end a silence is told of ...
const ENDS_SOON: Span = Span::from_secs(15 * 60);
/// ... if it holds for longer than this.
const HOLDS_LONG: Span = Span::from_secs(3600);
/// How often what the fleet consists of is counted anew, where storms are looked for.
const FLEET: Duration = Duration::from_secs(60);
/// Sweeps over what people did for a time, one after another, at most: each ends some hundred alerts.
const SWEEPS: usize = 10;

pub(crate) struct Flusher {
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub settings: watch::Receiver<Arc<Settings>>,
    pub stop: watch::Receiver<bool>,
    pub own: Own,
    /// The groups as the store has them; `None`: to be read from it.
    pub groups: Option<Groups>,
    /// What of them holds alerts, for others to see.
    pub storms: watch::Sender<Arc<Standing>>,
    pub fleet: Fleet,
    pub counted: Option<Instant>,
    /// The settings that the groups know.
    pub configured: Option<Arc<Settings>>,
    pub turning: Turning,
    pub backwards: Backwards,
    /// How far deliveries were looked at for those who stand in, by whose they are and who stands in.
    pub looked: HashMap<(String, String), Looked>,
}

impl Flusher {
    pub(crate) async fn run(mut self) {
        let mut changes = self.store.subscribe();
        let mut silences = self.store.subscribe_silences();
        let mut failures = 0_u32;
        let mut measured = Instant::now() - 2 * SLEEP;
        loop {
            changes.borrow_and_update();
            let ending = *self.stop.borrow();
            let wait = match self.turn(&mut silences).await {
                // More may wait where a batch was full.
                Ok(true) => {
                    self.turning.turned();
                    continue;
                }
                Ok(false) => {
                    failures = 0;
                    self.turning.turned();
                    let now = self.clock.wall();
                    let next = self.groups.as_ref().and_then(Groups::next);
                    next.map_or(SLEEP, |next| next.since(now).to_std().clamp(Duration::from_millis(1), SLEEP))
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
                changed = silences.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // That it was waited for is not that it was read.
                    silences.mark_changed();
                }
                () = tokio::time::sleep(wait) => {}
                changed = self.settings.changed() => if changed.is_err() { return },
                _ = self.stop.changed() => {}
            }
        }
    }

    /// One flush; says whether there is more to do at once.
    async fn turn(&mut self, silences: &mut watch::Receiver<u64>) -> Result<bool, StoreError> {
        let settings = self.settings.borrow_and_update().clone();
        if self.groups.is_none() {
            silences.mark_changed();
            let mut groups = read(&self.store, &settings).await?;
            groups.set_back(Span::ZERO, self.clock.wall());
            show(&self.storms, &groups);
            self.groups = Some(groups);
        } else if self.settings_are_new(&settings) {
            let active = self.store.active_labels().await?;
            if let Some(groups) = &mut self.groups {
                groups.reconfigure(&settings, &active);
                show(&self.storms, groups);
            }
        }
        self.configured = Some(settings.clone());
        if silences.has_changed().unwrap_or(false) {
            silences.borrow_and_update();
            let all = self.store.silences().await?;
            let silences = Silences::new(&all);
            for (id, fault) in silences.faulty() {
                tracing::warn!(silence = id, fault, "a silence cannot be used");
            }
            if let Some(groups) = &mut self.groups {
                groups.silence(silences);
            }
        }
        if let Some(by) = self.backwards.look(&*self.clock) {
            tracing::warn!(%by, "the clock was set back: what waits does not wait for longer");
            if let Some(groups) = &mut self.groups {
                groups.set_back(by, self.clock.wall());
            }
        }
        self.count_fleet(&settings).await?;
        match self.flush(&settings).await {
            Ok(more) => Ok(more),
            Err(error) => {
                // What was decided is not written: it is not how things are.
                self.groups = None;
                Err(error)
            }
        }
    }

    fn settings_are_new(&self, settings: &Arc<Settings>) -> bool {
        self.configured.as_ref().is_none_or(|before| !Arc::ptr_eq(before, settings))
    }

    async fn count_fleet(&mut self, settings: &Settings) -> Result<(), StoreError> {
        if settings.storms.is_empty() || self.counted.is_some_and(|counted| counted.elapsed() < FLEET) {
            return Ok(());
        }
        let mut fleet = Fleet::default();
        self.store.each_device(|device| fleet.add(device)).await?;
        (self.fleet, self.counted) = (fleet, Some(Instant::now()));
        Ok(())
    }

    /// One transaction: routes what is in the outbox and tells groups whose time has come.
    async fn flush(&mut self, settings: &Settings) -> Result<bool, StoreError> {
        let Some(groups) = &mut self.groups else { return Ok(false) };
        let outbox = self.store.unrouted(BATCH).await?;
        let now = self.clock.wall();
        if outbox.is_empty() && groups.next().is_none_or(|next| next > now) {
            return Ok(false);
        }
        groups.take(settings, &self.fleet, &outbox, now);
        let mut full = outbox.len() >= BATCH as usize;
        while let Some(wanted) = groups.round(settings, now) {
            let mut found = Found::default();
            if !wanted.alerts.is_empty() {
                let ids: Vec<&str> = wanted.alerts.iter().map(String::as_str).collect();
                let rows = self.store.alerts_by_id(&ids).await?;
                found.alerts = rows.into_iter().map(|row| (row.id.clone(), row)).collect();
            }
            if !wanted.transitions.is_empty() {
                let places: Vec<i64> = wanted.transitions.into_iter().collect();
                let rows = self.store.transitions_at(&places).await?;
                found.transitions = rows.into_iter().map(|row| (row.transition_sequence, row)).collect();
            }
            groups.work(settings, &found, now);
        }
        let flush = groups.finish(settings, now);
        full |= groups.next().is_some_and(|next| next <= now);
        self.store.apply_flush(&flush, now).await?;
        show(&self.storms, groups);
        metrics().alerts.routed.inc_by(outbox.len() as u64);
        Ok(full)
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

    /// What is told of silences before they end: that people are told again.
    async fn silences_that_end(&self, now: Timestamp) -> Result<Vec<own::Notice>, StoreError> {
        let ending = self.store.ending_silences(now, ENDS_SOON, HOLDS_LONG).await?;
        let notice = |silence: Silence| own::Notice {
            since: silence.ends_at - ENDS_SOON,
            text: format!(
                "the silence {} of {} ends at {}: what it holds back is told from then on. It says: {}",
                silence.id, silence.created_by, silence.ends_at, silence.comment
            ),
            about: silence.id,
        };
        Ok(ending.into_iter().map(notice).collect())
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
        match self.silences_that_end(now).await {
            Ok(ending) => self.own.set(SILENCE_ENDS, ending),
            Err(error) => tracing::error!(error = error.chain(), "cannot look for silences that end"),
        }
        match self.store.given_up_deliveries(now - own::LATELY).await {
            Ok(given_up) => {
                if let Err(error) = self.own.look(&self.store, &settings, &waiting, &given_up, now).await {
                    tracing::error!(
                        error = error.chain(),
                        "cannot tell what is wrong with the engine itself"
                    );
                }
            }
            Err(error) => tracing::error!(error = error.chain(), "cannot look for what was given up"),
        }
        self.stand_in(&settings, now).await;
        for waits in waiting {
            if waits.oldest < now - ABANDONED && !settings.receivers.contains_key(&waits.receiver) {
                self.abandon(&waits.receiver, now).await;
            }
            let receiver = [("receiver", waits.receiver)];
            telemetry.pending.get_or_create(&receiver).set(waits.pending as i64);
            let age = now.since(waits.oldest).as_secs_f64() as i64;
            telemetry.undelivered_age.get_or_create(&receiver).set(age);
        }
    }
}

/// Lets others see the storms, where anything changed of them.
fn show(storms: &watch::Sender<Arc<Standing>>, groups: &Groups) {
    let standing = groups.storms();
    storms.send_if_modified(|shown| {
        let changed = **shown != standing;
        if changed {
            *shown = Arc::new(standing);
        }
        changed
    });
}

/// The groups as the store has them.
async fn read(store: &Store, settings: &Settings) -> Result<Groups, StoreError> {
    let rows = store.groups().await?;
    let places: Vec<i64> = rows.pending.iter().map(|pending| pending.transition).collect();
    let pending = store.transitions_at(&places).await?;
    let flags = store.responses().await?.into_iter().map(|row| {
        let ResponseRow { alert, acknowledged, shelved, suppressed } = row;
        (alert, Flags { acknowledged, shelved, suppressed })
    });
    let bounds = store.setting(plan::SETTING).await?;
    let active = store.active_labels().await?;
    let (groups, damaged) =
        Groups::restore(rows, &pending, flags.collect(), bounds.as_deref(), settings, &active);
    for group in damaged {
        tracing::error!(group, "a notification group cannot be read and begins anew");
    }
    Ok(groups)
}
