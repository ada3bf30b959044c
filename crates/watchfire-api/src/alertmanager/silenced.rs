//! Which silences match which alerts, and what follows of it for silences that end with their last alert.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regex::Regex;
use tokio_util::sync::CancellationToken;
use watchfire_log::clock::Clock;
use watchfire_model::Timestamp;
use watchfire_notify::stages::plan::Settings;
use watchfire_store::{LabelSet, Silence, SilenceMatcher, SilenceState, Store, StoreError};

use super::active::{ActiveAlerts, Alerts};

/// How exactly it is known when a silence last matched something.
const NOTED: watchfire_model::Duration = watchfire_model::Duration::from_secs(60);
/// Bytes of one regular expression, compiled: no silence may take more than its share of memory.
const REGEX_BYTES: usize = 1 << 20;

/// One condition, ready to be asked.
#[derive(Clone, Debug)]
struct Test {
    name: String,
    value: String,
    regex: Option<Regex>,
    is_equal: bool,
}

impl Test {
    fn new(matcher: &SilenceMatcher) -> Result<Self, String> {
        if matcher.name.is_empty() {
            return Err(format!("invalid label name {:?}", matcher.name));
        }
        let regex = matcher
            .is_regex
            .then(|| {
                regex::RegexBuilder::new(&format!("^(?:{})$", matcher.value))
                    .size_limit(REGEX_BYTES)
                    // The dot of Alertmanager's does not stop at line ends either.
                    .dot_matches_new_line(true)
                    .build()
            })
            .transpose()
            .map_err(|error| format!("invalid regular expression {:?}: {error}", matcher.value))?;
        let (name, value) = (matcher.name.clone(), matcher.value.clone());
        Ok(Self { name, value, regex, is_equal: matcher.is_equal })
    }

    fn holds(&self, labels: &LabelSet) -> bool {
        let value = labels.get(&self.name).map_or("", String::as_str);
        let fits = match &self.regex {
            Some(regex) => regex.is_match(value),
            None => value == self.value,
        };
        fits == self.is_equal
    }
}

/// The conditions of a silence: all must hold.
#[derive(Clone, Debug)]
pub struct Conditions(Vec<Test>);

impl Conditions {
    /// Checked as Alertmanager does; an error says which one is wrong, and why.
    pub fn new(matchers: &[SilenceMatcher]) -> Result<Self, String> {
        let mut tests = Vec::with_capacity(matchers.len());
        for (i, matcher) in matchers.iter().enumerate() {
            tests.push(Test::new(matcher).map_err(|fault| format!("invalid label matcher {i}: {fault}"))?);
        }
        if tests.is_empty() {
            return Err("at least one matcher is required".into());
        }
        // One that excludes says nothing of what is there: only one that asks for a value counts.
        let empty = LabelSet::new();
        if tests.iter().all(|test| test.is_equal && test.holds(&empty)) {
            return Err("at least one matcher must not match the empty string".into());
        }
        Ok(Self(tests))
    }

    /// Whether all hold for these labels.
    pub fn match_labels(&self, labels: &LabelSet) -> bool {
        self.0.iter().all(|test| test.holds(labels))
    }
}

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
    pub conditions: Conditions,
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
            match Conditions::new(&silence.matchers) {
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
        if alerts.values().any(|alert| one.conditions.match_labels(&alert.labels)) {
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

    fn matcher(name: &str, value: &str, is_regex: bool, is_equal: bool) -> SilenceMatcher {
        SilenceMatcher { name: name.into(), value: value.into(), is_regex, is_equal }
    }

    fn check(matchers: &[SilenceMatcher], labels: &[(&str, &str)], expected: bool) {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        assert_eq!(Conditions::new(matchers).unwrap().match_labels(&labels), expected, "{matchers:?}");
    }

    #[test]
    fn all_conditions_must_hold() {
        let hot = matcher("alertname", "hot", false, true);
        check(std::slice::from_ref(&hot), &[("alertname", "hot")], true);
        check(std::slice::from_ref(&hot), &[("alertname", "hotter")], false);
        check(&[matcher("alertname", "h.t", true, true)], &[("alertname", "hot")], true);
        check(&[matcher("alertname", "h", true, true)], &[("alertname", "hot")], false);
        check(&[hot.clone(), matcher("site", "", false, false)], &[("alertname", "hot")], false);
        check(&[hot.clone(), matcher("site", "o.*", true, false)], &[("alertname", "hot")], true);
        check(&[hot, matcher("site", "o.*", true, false)], &[("alertname", "hot"), ("site", "oslo")], false);
    }

    #[test]
    fn a_silence_of_everything_by_mistake_is_refused() {
        for (matchers, said) in [
            (vec![], "at least one matcher is required"),
            (vec![matcher("a", "", false, true)], "must not match the empty string"),
            (vec![matcher("a", ".*", true, true)], "must not match the empty string"),
            (vec![matcher("a", "(", true, true)], "invalid label matcher 0: invalid regular expression"),
            (vec![matcher("", "b", false, true)], "invalid label name"),
        ] {
            let fault = Conditions::new(&matchers).unwrap_err();
            assert!(fault.contains(said), "{fault:?} does not say {said:?}");
        }
        assert!(Conditions::new(&[matcher("a", "", false, false)]).is_ok());
    }

    #[test]
    fn a_silence_until_resolved_ends_once_nothing_of_it_is_left() {
        let silence = Silence {
            id: "s".into(),
            matchers: vec![matcher("alertname", "hot", false, true)],
            starts_at: Timestamp(0),
            ends_at: Timestamp(100),
            created_by: String::new(),
            comment: String::new(),
            annotations: Default::default(),
            updated_at: Timestamp(0),
            until_resolved: true,
        };
        let conditions = Conditions::new(&silence.matchers).unwrap();
        let all = [Compiled { silence, conditions }];
        let none = Alerts::new();
        let at = |now, matched| follow(&all, &none, |_| matched, Timestamp(now));
        assert_eq!(at(50, false), Followed::default(), "it never matched: its alert may still come");
        assert_eq!(at(50, true).over, ["s"]);
        assert_eq!(at(100, true), Followed::default(), "it ended by itself");
    }
}
