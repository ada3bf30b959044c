//! Which silences match which alerts, and what follows of it for silences that end with their last alert.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use watchfire_log::clock::Clock;
use watchfire_model::Timestamp;
use watchfire_notify::stages::plan::Settings;
use watchfire_notify::stages::silence::Silences as Index;
use watchfire_store::{Silence, SilenceState, Store, StoreError};

use super::active::{ActiveAlerts, Alerts};

/// How exactly it is known when a silence last matched something.
const NOTED: watchfire_model::Duration = watchfire_model::Duration::from_secs(60);

/// The silences as of their last change, ready to be asked.
#[derive(Debug)]
pub struct Silences {
    store: Store,
    kept: Mutex<Option<(u64, Arc<Kept>)>>,
}

/// The silences that can be understood.
#[derive(Debug)]
pub struct Kept {
    /// All of them, the ended ones included.
    pub all: Vec<Silence>,
    /// Finds those that hold a label set.
    pub index: Index,
}

impl Kept {
    fn new(mut all: Vec<Silence>) -> Self {
        let index = Index::new(&all);
        for (id, fault) in index.faulty() {
            tracing::error!(silence = id, fault, "a silence that is kept cannot be used");
            all.retain(|silence| silence.id != *id);
        }
        Self { all, index }
    }

    fn holding(&self, now: Timestamp) -> impl Iterator<Item = &Silence> {
        self.all.iter().filter(move |silence| silence.state(now) == SilenceState::Active)
    }
}

impl Silences {
    /// Over this store.
    pub fn new(store: Store) -> Self {
        Self { store, kept: Mutex::default() }
    }

    /// All that are kept.
    pub async fn all(&self) -> Result<Arc<Kept>, StoreError> {
        // Taken before reading: what changes meanwhile is read by the next call.
        let generation = *self.store.subscribe_silences().borrow();
        if let Some((of, kept)) = &*self.kept.lock().unwrap_or_else(PoisonError::into_inner)
            && *of == generation
        {
            return Ok(kept.clone());
        }
        let kept = Arc::new(Kept::new(self.store.silences().await?));
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((generation, kept.clone()));
        Ok(kept)
    }
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
pub fn follow(kept: &Kept, alerts: &Alerts, matched: impl Fn(&str) -> bool, now: Timestamp) -> Followed {
    let mut followed = Followed::default();
    let matching: HashSet<String> =
        alerts.values().flat_map(|alert| kept.index.holding(&alert.labels, now)).collect();
    for silence in kept.holding(now) {
        let id = &silence.id;
        if matching.contains(id) {
            followed.matching.push(id.clone());
        } else if silence.until_resolved && matched(id) {
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
    let kept = silences.all().await?;
    if kept.holding(now).next().is_none() {
        return Ok(());
    }
    let uses = store.current_silences(now).await?;
    let matched_at = |id: &str| uses.iter().find(|one| one.silence.id == id).and_then(|one| one.matched_at);
    let alerts = active.current(settings).await?;
    let followed = follow(&kept, &alerts, |id| matched_at(id).is_some(), now);
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
        let kept = Kept::new(vec![silence]);
        let none = Alerts::default();
        let at = |now, matched| follow(&kept, &none, |_| matched, Timestamp(now));
        assert_eq!(at(50, false), Followed::default(), "it never matched: its alert may still come");
        assert_eq!(at(50, true).over, ["s"]);
        assert_eq!(at(100, true), Followed::default(), "it ended by itself");
    }
}
