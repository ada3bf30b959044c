//! The alerts that are active, in memory: a list that every client asks for every few seconds must not cost a read of
//! all of them. What changed since the last call is read from the store by the events of alerts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::Mutex;
use watchfire_model::Timestamp;
use watchfire_notify::stages::inhibit::Inhibitor;
use watchfire_notify::stages::notice::standing;
use watchfire_notify::stages::plan::Settings;
use watchfire_notify::stages::route::Target;
use watchfire_store::{AlertFilter, AlertRow, AlertState, LabelSet, Store, StoreError};

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
    all: BTreeMap<(String, String), Arc<ActiveAlert>>,
    inhibitor: Inhibitor,
}

impl Alerts {
    /// In the order of their fingerprints.
    pub fn values(&self) -> impl Iterator<Item = &Arc<ActiveAlert>> {
        self.all.values()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The fingerprints of those that inhibit one of them.
    pub fn inhibited_by(&self, alert: &ActiveAlert) -> Vec<String> {
        self.inhibitor.inhibited_by(&alert.labels, &alert.fingerprint)
    }

    fn remove(&mut self, fingerprint: String, id: String) {
        self.all.remove(&(fingerprint.clone(), id));
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
            alerts.all.insert((row.fingerprint.clone(), row.id.clone()), Arc::new(told(row, settings)));
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
