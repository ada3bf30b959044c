//! Which silences match which alerts, and what follows of it for silences that end with their last alert.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use watchfire_log::clock::Clock;
use watchfire_model::Timestamp;
use watchfire_notify::matcher::Matchers;
use watchfire_notify::stages::plan::Settings;
use watchfire_notify::stages::silence::conditions;
use watchfire_store::{Silence, SilenceState, Store, StoreError};

use super::active::{ActiveAlerts, Alerts};

/// How exactly it is known when a silence last matched something.
const NOTED: watchfire_model::Duration = watchfire_model::Duration::from_secs(60);
/// The silences as of their last change, ready to be asked.
#[derive(Debug)]
pub struct Silences {
    store: Store,
    compiled: Mutex<Option<(u64, Arc<Vec<Compiled>>)>>,
}

/// A silence, ready to be asked.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// As it is kept.
    pub silence: Silence,
    /// What it asks.
    pub conditions: Matchers,
}

impl Silences {
    /// Over this store.
    pub fn new(store: Store) -> Self {
        Self { store, compiled: Mutex::default() }
    }

    /// All that are kept, the ended ones included.
    pub async fn all(&self) -> Result<Arc<Vec<Compiled>>, StoreError> {
        // Taken before reading: what changes meanwhile is read by the next call.
        let generation = *self.store.subscribe_silences().borrow();
        if let Some((of, list)) = &*self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
            && *of == generation
        {
            return Ok(list.clone());
        }
        let mut list = Vec::new();
        for silence in self.store.silences().await? {
            match conditions(&silence.matchers) {
                Ok(conditions) => list.push(Compiled { silence, conditions }),
                Err(fault) => {
                    tracing::error!(silence = silence.id, fault, "a silence that is kept cannot be used");
                }
            }
        }
        let list = Arc::new(list);
        *self.compiled.lock().unwrap_or_else(PoisonError::into_inner) = Some((generation, list.clone()));
        Ok(list)
    }
}

/// The silences among these that hold now.
pub fn holding(all: &[Compiled], now: Timestamp) -> Vec<&Compiled> {
    all.iter().filter(|one| one.silence.state(now) == SilenceState::Active).collect()
}

/// What a look at silences and alerts comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// These match an active alert.
    pub matching: Vec<String>,
    /// The last alert that these matched has resolved.
    pub over: Vec<String>,
}

/// Decides which silences match something now, and which end because nothing of what they matched is left. `matched`
/// says of a silence whether it ever matched.
pub fn follow(all: &[Compiled], alerts: &Alerts, matched: impl Fn(&str) -> bool, now: Timestamp) -> Followed {
    let mut followed = Followed::default();
    for one in holding(all, now) {
        let id = &one.silence.id;
        if alerts.values().any(|alert| one.conditions.matches(&alert.labels)) {
            followed.matching.push(id.clone());
        } else if one.silence.until_resolved && matched(id) {
            followed.over.push(id.clone());
        }
    }
    followed
}

/// Follows alerts and silences until the end: silences that end with their last alert do, and it is noted when each
/// last matched something.
pub async fn follow_silences(
    store: Store,
    active: Arc<ActiveAlerts>,
    settings: impl Fn() -> Arc<Settings> + Send + Sync + 'static,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let silences = Silences::new(store.clone());
    let (mut alerts, mut changes) = (store.subscribe(), store.subscribe_silences());
    loop {
        alerts.mark_unchanged();
        changes.mark_unchanged();
        if let Err(error) = look(&store, &active, &settings(), &silences, clock.wall()).await {
            tracing::warn!(error = error.chain(), "silences could not be followed; it is tried again");
        }
        // A storm is looked at as a whole.
        let pause = tokio::time::sleep(Duration::from_millis(200));
        tokio::select! {
            () = pause => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            _ = alerts.changed() => {}
            _ = changes.changed() => {}
            () = tokio::time::sleep(NOTED.to_std()) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn look(
    store: &Store,
    active: &ActiveAlerts,
    settings: &Arc<Settings>,
    silences: &Silences,
    now: Timestamp,
) -> Result<(), StoreError> {
    let all = silences.all().await?;
    if holding(&all, now).is_empty() {
        return Ok(());
    }
    let uses = store.current_silences(now).await?;
    let matched_at = |id: &str| uses.iter().find(|one| one.silence.id == id).and_then(|one| one.matched_at);
    let alerts = active.current(settings).await?;
    let followed = follow(&all, &alerts, |id| matched_at(id).is_some(), now);
    let stale = |id: &&String| matched_at(id).is_none_or(|at| now.since(at) >= NOTED);
    let matching: Vec<String> = followed.matching.iter().filter(stale).cloned().collect();
    store.note_silence_matches(&matching, now).await?;
    for id in followed.over {
        store.expire_silence(&id, now).await?;
        tracing::info!(silence = id, "a silence ends: the last alert that it matched has resolved");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_until_resolved_ends_once_nothing_of_it_is_left() {
        let silence = Silence {
            id: "s".into(),
            matchers: vec![
                "alertname=hot".parse::<watchfire_notify::matcher::Matcher>().unwrap().to_silence(),
            ],
            starts_at: Timestamp(0),
            ends_at: Timestamp(100),
            created_by: String::new(),
            comment: String::new(),
            annotations: Default::default(),
            updated_at: Timestamp(0),
            until_resolved: true,
        };
        let conditions = conditions(&silence.matchers).unwrap();
        let all = [Compiled { silence, conditions }];
        let none = Alerts::default();
        let at = |now, matched| follow(&all, &none, |_| matched, Timestamp(now));
        assert_eq!(at(50, false), Followed::default(), "it never matched: its alert may still come");
        assert_eq!(at(50, true).over, ["s"]);
        assert_eq!(at(100, true), Followed::default(), "it ended by itself");
    }
}
