//! The alerts that are active, in memory: a list that every client asks for every few seconds must not cost a read of
//! all of them. What changed since the last call is read from the store by the events of alerts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::Mutex;
use watchfire_model::Timestamp;
use watchfire_notify::matcher::Matcher;
use watchfire_notify::stages::inhibit::Inhibitor;
use watchfire_notify::stages::notice::standing;
use watchfire_notify::stages::plan::Settings;
use watchfire_notify::stages::route::Target;
use watchfire_store::{AlertFilter, AlertRow, AlertState, LabelSet, Store, StoreError};

use super::index::{Index, fits};

/// Events that are read at once.
const EVENTS: u32 = 1000;
/// Further behind than this, reading all alerts anew is cheaper than following.
const FAR: i64 = 50_000;

/// An alert as it is told to the outside.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveAlert {
    /// Its id.
    pub id: String,
    /// Of the labels, as Alertmanager computes it.
    pub fingerprint: String,
    /// Its labels.
    pub labels: LabelSet,
    /// Summary, description and details.
    pub annotations: BTreeMap<String, String>,
    /// Since when this label set fires.
    pub starts_at: Timestamp,
    /// When something of it was last heard of.
    pub updated_at: Timestamp,
    /// Where people look at it.
    pub url: String,
    /// Who is told, in which group.
    pub targets: Vec<Target>,
    /// What people did that keeps it from being told, in the words of a silence: `shelved:` or `suppressed:` and its id.
    pub held: Vec<String>,
}

/// The alerts that are active.
#[derive(Clone, Debug, Default)]
pub struct Alerts {
    /// By fingerprint and id, so that two alerts that look the same to the outside are both there.
    all: BTreeMap<(String, String), Entry>,
    inhibitor: Inhibitor,
    index: Index,
}

/// An alert, and its place in the index.
#[derive(Clone, Debug)]
struct Entry {
    alert: Arc<ActiveAlert>,
    place: u32,
}

impl Alerts {
    /// In the order of their fingerprints.
    pub fn values(&self) -> impl Iterator<Item = &Arc<ActiveAlert>> {
        self.all.values().map(|entry| &entry.alert)
    }

    /// Those that all of these matchers take, in the order of their fingerprints.
    pub fn matching(&self, matchers: &[Matcher]) -> Vec<&Arc<ActiveAlert>> {
        let fit = |alert: &&Arc<ActiveAlert>| fits(matchers, &alert.labels);
        match self.index.candidates(matchers) {
            None => self.values().filter(fit).collect(),
            Some(candidates) => {
                let mut all: Vec<_> = candidates.into_iter().filter(fit).collect();
                all.sort_unstable_by_key(|alert| (&alert.fingerprint, &alert.id));
                all
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The fingerprints of those that inhibit one of them.
    pub fn inhibited_by(&self, alert: &ActiveAlert) -> Vec<String> {
        self.inhibitor.inhibited_by(&alert.labels, &alert.fingerprint)
    }

    fn add(&mut self, alert: ActiveAlert) {
        let (key, alert) = ((alert.fingerprint.clone(), alert.id.clone()), Arc::new(alert));
        let place = self.index.add(alert.clone());
        if let Some(before) = self.all.insert(key, Entry { alert, place }) {
            self.index.remove(before.place);
        }
        if self.index.is_sparse() {
            self.index = Index::default();
            for entry in self.all.values_mut() {
                entry.place = self.index.add(entry.alert.clone());
            }
        }
    }

    fn remove(&mut self, fingerprint: String, id: String) {
        if let Some(entry) = self.all.remove(&(fingerprint.clone(), id)) {
            self.index.remove(entry.place);
        }
        // Another one may look the same to the outside.
        let next = self.all.range((fingerprint.clone(), String::new())..).next();
        if next.is_none_or(|((other, _), _)| *other != fingerprint) {
            self.inhibitor.remove(&fingerprint);
        }
    }
}

/// The alerts that are active, as of the last call.
#[derive(Debug)]
pub struct ActiveAlerts {
    store: Store,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What targets and links were made with.
    settings: Option<Arc<Settings>>,
    /// The last event that is in.
    seen: i64,
    alerts: Arc<Alerts>,
    by_id: HashMap<String, String>,
}

impl ActiveAlerts {
    /// Over this store; nothing is read before the first call.
    pub fn new(store: Store) -> Self {
        Self { store, state: Mutex::default() }
    }

    /// All of them as of now. With other settings than before, everything is made anew.
    pub async fn current(&self, settings: &Arc<Settings>) -> Result<Arc<Alerts>, StoreError> {
        let mut state = self.state.lock().await;
        let last = *self.store.subscribe().borrow();
        let known = state.settings.as_ref().is_some_and(|known| Arc::ptr_eq(known, settings));
        if !known || last - state.seen > FAR {
            // A load that fails leaves nothing that counts as whole.
            *state = State::default();
            let empty = Alerts { inhibitor: Inhibitor::new(&settings.inhibit), ..Alerts::default() };
            let (settings_now, alerts) = (Some(settings.clone()), Arc::new(empty));
            let mut fresh = State { seen: last, settings: settings_now, alerts, ..State::default() };
            self.load(&mut fresh, settings).await?;
            *state = fresh;
        }
        while state.seen < *self.store.subscribe().borrow() {
            let events = self.store.events_after(state.seen, EVENTS).await?;
            let Some(end) = events.last().map(|event| event.sequence) else { break };
            let rows = self.store.alert_rows(events.iter().map(|event| event.alert.as_str())).await?;
            for row in rows.values() {
                state.put(row, settings);
            }
            state.seen = end;
        }
        Ok(state.alerts.clone())
    }

    async fn load(&self, state: &mut State, settings: &Settings) -> Result<(), StoreError> {
        let mut filter =
            AlertFilter { state: Some(AlertState::Active), limit: 1000, ..AlertFilter::default() };
        loop {
            let page = self.store.alerts(&filter).await?;
            for row in &page.items {
                state.put(row, settings);
            }
            match page.next {
                Some(next) => filter.cursor = Some(next),
                None => return Ok(()),
            }
        }
    }
}

impl State {
    fn put(&mut self, row: &AlertRow, settings: &Settings) {
        let alerts = Arc::make_mut(&mut self.alerts);
        if let Some(fingerprint) = self.by_id.remove(&row.id) {
            alerts.remove(fingerprint, row.id.clone());
        }
        if row.state == AlertState::Active {
            self.by_id.insert(row.id.clone(), row.fingerprint.clone());
            alerts.inhibitor.add(&row.fingerprint, &row.labels);
            alerts.add(told(row, settings));
        }
    }
}

/// How an alert is told: as the messages about it do.
fn told(row: &AlertRow, settings: &Settings) -> ActiveAlert {
    let public_url = settings.public_url.as_deref();
    let notice = standing(row, public_url);
    let mut annotations = notice.annotations;
    // Alertmanager has no word for it: a program that looks for it finds it here.
    if let (Some(at), Some(by)) = (row.acknowledged_at, &row.acknowledged_by) {
        let comment = row.acknowledge_comment.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
        annotations.insert("acknowledged".into(), format!("by {by} at {at}{comment}"));
    }
    ActiveAlert {
        id: row.id.clone(),
        fingerprint: row.fingerprint.clone(),
        labels: row.labels.clone(),
        annotations,
        starts_at: row.severity_since,
        updated_at: row.last_seen.max(row.severity_since).max(row.acknowledged_at.unwrap_or_default()),
        url: notice.url,
        targets: settings.router.route(&row.labels),
        held: [("shelved", row.response.shelved_at), ("suppressed", row.response.suppressed_at)]
            .into_iter()
            .filter_map(|(what, since)| since.map(|_| format!("{what}:{}", row.id)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_notify::stages::route::Target;

    fn alert(id: usize) -> ActiveAlert {
        let labels: LabelSet = [
            ("alertname", format!("a{}", id % 3)),
            ("device", format!("press-{id}")),
            ("site", if id.is_multiple_of(2) { "lyon".into() } else { String::new() }),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_string(), value))
        .collect();
        ActiveAlert {
            id: id.to_string(),
            fingerprint: watchfire_store::fingerprint(&labels),
            labels,
            annotations: BTreeMap::new(),
            starts_at: Timestamp(0),
            updated_at: Timestamp(0),
            url: String::new(),
            targets: Vec::<Target>::new(),
            held: Vec::new(),
        }
    }

    #[test]
    fn what_is_found_by_labels_is_what_a_look_at_all_finds() {
        let mut alerts = Alerts::default();
        for id in 0..4000 {
            alerts.add(alert(id));
        }
        // Most go, so that the index is made anew; some are said again, and some come back.
        for id in (0..4000).filter(|id| id % 4 != 0) {
            let gone = alert(id);
            alerts.remove(gone.fingerprint, gone.id);
        }
        for id in (0..200).chain(3900..4000) {
            alerts.add(alert(id));
        }
        for texts in [
            &["alertname=\"a1\""][..],
            &["device=\"press-40\""],
            &["device=\"press-41\"", "site=\"\""],
            &["alertname=~\"a0|a2\"", "site=\"lyon\""],
            &["device=~\"press-1.*\""],
            &["site!=\"lyon\""],
            &["site=\"\""],
            &["nothing=\"x\""],
            &[],
        ] {
            let matchers: Vec<Matcher> = texts.iter().map(|text| text.parse().unwrap()).collect();
            let ids = |all: Vec<&Arc<ActiveAlert>>| -> Vec<String> {
                all.into_iter().map(|alert| alert.id.clone()).collect()
            };
            let all = alerts.values().filter(|alert| fits(&matchers, &alert.labels)).collect();
            assert_eq!(ids(alerts.matching(&matchers)), ids(all), "{texts:?}");
        }
    }
}
