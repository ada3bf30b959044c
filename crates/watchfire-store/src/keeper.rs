//! The keeper of alerts: takes what the partition loops make, and commits many transitions at a time.
//!
//! One task writes. While a commit runs, the next batch collects, so that a storm makes larger commits and
//! not a longer queue. A batch that cannot be written is tried again until it can: the loop waits, and
//! nothing it decided is lost.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use tokio::sync::Notify;
use watchfire_model::alert::{AlertChanges, AlertKeeper, AlertUpdate, Recovered, Transition};
use watchfire_telemetry::metrics;

use crate::alerts::AlertRow;
use crate::compare;
use crate::db::{Database, PIECE, commit, pieces, to_json};
use crate::error::StoreError;
use crate::fold::{Fold, Recorded};
use crate::responses::write_response;
use crate::service::Standing;

/// Transitions and updates that wait at most. The loop blocks above it. An alert with evidence is a few
/// KiB, so this is some tens of MiB.
const QUEUE: usize = 8192;
/// Transitions in one commit at most: past it a commit takes longer than it saves.
const BATCH: usize = 4096;
/// How often whoever waits for room looks whether the end has come.
const LOOK: Duration = Duration::from_millis(200);
/// Once the end has come, a store that wrote nothing for so long will not: far longer than a commit takes, and
/// shorter than whoever stops a service waits before it kills it.
const GIVE_UP: Duration = Duration::from_secs(5);
/// How often what is known of repeated triggers is written.
const FLUSH_UPDATES: Duration = Duration::from_secs(1);
/// Updates that are kept in memory at most before they are written early.
const UPDATES: usize = 50_000;

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(u64, AlertChanges)>,
    /// Transitions and updates in `waiting`.
    size: usize,
    submitted: u64,
    committed: u64,
    /// The end comes: whoever waits for room does so only while something is still written.
    ending: bool,
    closed: bool,
}

/// Shared by the loops and the writing task.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// There is room, or something was committed.
    changed: Condvar,
    /// Something waits.
    ready: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing waits, and whether the end has come.
    fn idle(&self) -> (bool, bool) {
        let state = self.lock();
        (state.waiting.is_empty(), state.closed)
    }

    /// The end comes, and whoever submits has to come to one: see [`Store::ending`](crate::Store::ending).
    pub(crate) fn end(&self) {
        self.lock().ending = true;
        self.changed.notify_all();
    }

    /// No more is taken; what waits is still written.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_one();
        self.changed.notify_all();
    }
}

/// What the partition loops see of the store.
#[derive(Clone, Debug)]
pub(crate) struct Keeper(pub(crate) Arc<Shared>);

impl AlertKeeper for Keeper {
    fn submit(&self, changes: AlertChanges) -> u64 {
        let size = changes.transitions.len() + changes.updates.len();
        let mut state = self.0.lock();
        let (mut seen, mut since) = (state.committed, Instant::now());
        // One submission larger than the queue passes when it is alone: refusing it would block for ever.
        while state.size > 0 && state.size + size > QUEUE && !state.closed {
            let waited = self.0.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if state.committed != seen || !state.ending {
                (seen, since) = (state.committed, Instant::now());
            } else if since.elapsed() >= GIVE_UP {
                // From here on nothing is taken of anybody: had a later one been, its commit would cover this.
                tracing::error!(
                    "alerts cannot be written and the end has come: the next start evaluates them again"
                );
                state.closed = true;
                self.0.changed.notify_all();
            }
        }
        state.submitted += 1;
        let number = state.submitted;
        // After the end nothing is taken: `committed` stays below this number, so no checkpoint covers it.
        if !state.closed {
            state.size += size;
            state.waiting.push_back((number, changes));
        }
        drop(state);
        self.0.ready.notify_one();
        number
    }

    fn committed(&self) -> u64 {
        self.0.lock().committed
    }

    fn wait_committed(&self, number: u64, timeout: Duration) -> u64 {
        let state = self.0.lock();
        let (state, _) = self
            .0
            .changed
            .wait_timeout_while(state, timeout, |state| state.committed < number && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.committed
    }
}

/// What of the queue goes into one commit.
struct Taken {
    up_to: u64,
    transitions: Vec<Transition>,
    updates: Vec<AlertUpdate>,
    recovered: Option<Recovered>,
}

fn take(shared: &Shared) -> (Option<Taken>, bool) {
    let mut state = shared.lock();
    let mut taken = Taken { up_to: 0, transitions: Vec::new(), updates: Vec::new(), recovered: None };
    while let Some((_, changes)) = state.waiting.front() {
        if taken.up_to > 0 && taken.transitions.len() + changes.transitions.len() > BATCH {
            break;
        }
        let Some((number, changes)) = state.waiting.pop_front() else { break };
        state.size -= changes.transitions.len() + changes.updates.len();
        taken.up_to = number;
        taken.transitions.extend(changes.transitions);
        taken.updates.extend(changes.updates);
        // A comparison is of what came before it, not of what comes after.
        taken.recovered = changes.recovered;
        if taken.recovered.is_some() {
            break;
        }
    }
    let closed = state.closed;
    drop(state);
    shared.changed.notify_all();
    ((taken.up_to > 0).then_some(taken), closed)
}

/// The task that writes; ends when the keeper is closed and everything is written.
pub(crate) async fn run(shared: Arc<Shared>, database: Database, announce: impl Fn(i64) + Send + 'static) {
    let mut updates: HashMap<String, AlertUpdate> = HashMap::new();
    let mut flushed = Instant::now();
    loop {
        let (taken, closed) = take(&shared);
        if let Some(taken) = taken {
            for update in &taken.updates {
                updates.insert(update.alert.0.clone(), update.clone());
            }
            let mut wait = Duration::from_millis(50);
            loop {
                match write_taken(&database, &taken, &updates).await {
                    Ok(written) => {
                        for transition in &taken.transitions {
                            updates.remove(&transition.alert.0);
                        }
                        if let Some(last) = written {
                            announce(last);
                        }
                        break;
                    }
                    Err(error) => {
                        metrics().alerts.store_failures.inc();
                        tracing::error!(error = error.chain(), "alerts could not be written; trying again");
                        if shared.lock().closed && wait > Duration::from_secs(2) {
                            // Shutting down with a disk that refuses: the log still has the cause.
                            return;
                        }
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(Duration::from_secs(5));
                    }
                }
            }
            shared.lock().committed = taken.up_to;
            shared.changed.notify_all();
        }
        let due = flushed.elapsed() >= FLUSH_UPDATES || updates.len() > UPDATES || closed;
        if due && !updates.is_empty() {
            match flush(&database, &updates).await {
                Ok(()) => updates.clear(),
                Err(error) => tracing::warn!(error = error.chain(), "repeated triggers could not be written"),
            }
        }
        if due {
            flushed = Instant::now();
        }
        let (empty, closed) = shared.idle();
        if !empty {
            continue;
        }
        if closed {
            break;
        }
        let idle = if updates.is_empty() { Duration::from_secs(3600) } else { FLUSH_UPDATES };
        let _ = tokio::time::timeout(idle, shared.ready.notified()).await;
    }
}

/// Writes what was taken, and compares where that is asked for: both change nothing when they are done again.
async fn write_taken(
    database: &Database,
    taken: &Taken,
    updates: &HashMap<String, AlertUpdate>,
) -> Result<Option<i64>, StoreError> {
    let written = write(database, &taken.transitions, updates).await?;
    match &taken.recovered {
        Some(recovered) => Ok(compare::recover(database, recovered).await?.or(written)),
        None => Ok(written),
    }
}

/// Writes a batch in one transaction; gives the sequence of the last transition, if any was new.
pub(crate) async fn write(
    database: &Database,
    transitions: &[Transition],
    updates: &HashMap<String, AlertUpdate>,
) -> Result<Option<i64>, StoreError> {
    write_as(database, transitions, updates, Fold::apply).await
}

/// As [`write`], with what a transition does to the alerts.
pub(crate) async fn write_as(
    database: &Database,
    transitions: &[Transition],
    updates: &HashMap<String, AlertUpdate>,
    apply: fn(&mut Fold, &Transition),
) -> Result<Option<i64>, StoreError> {
    if transitions.is_empty() {
        return Ok(None);
    }
    const ACTION: &str = "write alerts";
    let started = Instant::now();
    let mut connection = database.write().await?;
    // The id decides first: what is there already changes nothing. One connection writes, so that nobody
    // comes between this question and the insert; the unique index would refuse it if somebody did.
    let mut known = known_ids(&mut connection, transitions).await.map_err(StoreError::sql(ACTION))?;
    let new: Vec<&Transition> =
        transitions.iter().filter(|transition| known.insert(transition.id.clone())).collect();
    if new.is_empty() {
        return Ok(None);
    }
    let rows = load(&mut connection, &new).await.map_err(StoreError::sql(ACTION))?;
    let last: i64 = sqlx::query_scalar("SELECT coalesce(max(sequence), 0) FROM transitions")
        .fetch_one(&mut *connection)
        .await
        .map_err(StoreError::sql(ACTION))?;
    let identities: Vec<(&str, &str, &str)> = new
        .iter()
        .map(|transition| (transition.rule.as_str(), transition.device.id.as_str(), transition.key.as_str()))
        .collect();
    let standing = Standing::load(&mut connection, &identities).await.map_err(StoreError::sql(ACTION))?;
    let mut fold = Fold::new(rows, last, standing);
    for transition in &new {
        if let Some(update) = updates.get(&transition.alert.0) {
            fold.update(update);
        }
        apply(&mut fold, transition);
    }
    insert(&mut connection, &fold).await.map_err(StoreError::sql(ACTION))?;
    commit(connection, ACTION).await?;
    let telemetry = &metrics().alerts;
    telemetry.transitions.inc_by(new.len() as u64);
    telemetry.commit_seconds.observe(started.elapsed().as_secs_f64());
    if fold.repaired > 0 {
        telemetry.repaired.inc_by(fold.repaired);
        tracing::warn!(repaired = fold.repaired, "transitions did not fit the alerts in the store; repaired");
    }
    Ok(fold.recorded.last().map(|recorded| recorded.sequence))
}

async fn known_ids(
    connection: &mut SqliteConnection,
    transitions: &[Transition],
) -> Result<HashSet<String>, sqlx::Error> {
    let mut known = HashSet::new();
    for part in pieces(transitions) {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT id FROM transitions WHERE id IN (");
        let mut list = query.separated(", ");
        for transition in part {
            list.push_bind(transition.id.as_str());
        }
        query.push(")");
        known.extend(query.build_query_scalar::<String>().fetch_all(&mut *connection).await?);
    }
    Ok(known)
}

/// The alerts of these transitions, and the active alerts of their identities.
async fn load(
    connection: &mut SqliteConnection,
    transitions: &[&Transition],
) -> Result<Vec<AlertRow>, sqlx::Error> {
    let mut rows: HashMap<String, AlertRow> = HashMap::new();
    for part in pieces(transitions) {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM alerts WHERE id IN (");
        let mut list = query.separated(", ");
        for transition in part {
            list.push_bind(transition.alert.0.as_str());
        }
        query.push(")");
        for row in query.build_query_as::<AlertRow>().fetch_all(&mut *connection).await? {
            rows.insert(row.id.clone(), row);
        }
        // Joined this way round, so that each identity is looked up and the active ones are not all read.
        let mut query = QueryBuilder::<Sqlite>::new("SELECT a.* FROM (");
        query.push_values(part, |mut tuple, transition| {
            tuple
                .push_bind(transition.rule.as_str())
                .push_bind(transition.device.id.as_str())
                .push_bind(transition.key.as_str());
        });
        query.push(
            ") AS w CROSS JOIN alerts AS a WHERE a.state = 'active' AND a.rule = w.column1 \
             AND a.device = w.column2 AND a.key = w.column3",
        );
        for row in query.build_query_as::<AlertRow>().fetch_all(&mut *connection).await? {
            rows.insert(row.id.clone(), row);
        }
    }
    Ok(rows.into_values().collect())
}

async fn insert(connection: &mut SqliteConnection, fold: &Fold) -> Result<(), sqlx::Error> {
    insert_transitions(connection, &fold.recorded).await?;
    let mut seen = HashSet::new();
    let mut rows: Vec<&AlertRow> = fold
        .touched
        .iter()
        .filter(|id| seen.insert(id.as_str()))
        .filter_map(|id| fold.rows.get(id))
        .collect();
    // Resolved ones first: the unique index looks at each row as it is written, and an identity may have
    // been resolved and raised again within the batch.
    rows.sort_by_key(|row| row.state == crate::alerts::AlertState::Active);
    for part in pieces(&rows) {
        upsert_alerts(connection, part).await?;
    }
    for part in pieces(&fold.evidence) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO alert_evidence (alert, evidence) ");
        query.push_values(part, |mut tuple, (alert, evidence)| {
            tuple.push_bind(alert.as_str()).push_bind(evidence.as_str());
        });
        query.push(" ON CONFLICT (alert) DO NOTHING").build().execute(&mut *connection).await?;
    }
    for row in fold.responded.iter().filter_map(|id| fold.rows.get(id)) {
        write_response(connection, row).await?;
    }
    let outbox = told_in_order(&fold.recorded);
    for part in pieces(&outbox) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO outbox (transition) ");
        query.push_values(part, |mut tuple, sequence| {
            tuple.push_bind(*sequence);
        });
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}

/// What goes into the outbox, in order. That an alert is suppressed or shelved from its beginning stands in front of its
/// raise, so that whoever tells of the raise knows: it might read no further.
fn told_in_order(recorded: &[Recorded]) -> Vec<i64> {
    let mut outbox: Vec<i64> = Vec::with_capacity(recorded.len());
    let mut raise: Option<(usize, &str)> = None;
    for recorded in recorded.iter().filter(|recorded| recorded.outbox) {
        match (recorded.kind, raise) {
            ("suppressed" | "shelved", Some((place, alert))) if alert == recorded.alert => {
                outbox.insert(place, recorded.sequence);
                raise = Some((place + 1, alert));
            }
            (kind, _) => {
                raise = (kind == "raised").then_some((outbox.len(), recorded.alert.as_str()));
                outbox.push(recorded.sequence);
            }
        }
    }
    outbox
}

async fn insert_transitions(
    connection: &mut SqliteConnection,
    recorded: &[Recorded],
) -> Result<(), sqlx::Error> {
    for part in pieces(recorded) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO transitions (sequence, id, alert, kind, severity, from_severity, from_since, reason, \
             summary, details, at, recorded_at, position, rule_version, actor, comment) ",
        );
        query.push_values(part, |mut tuple, recorded| {
            tuple
                .push_bind(recorded.sequence)
                .push_bind(recorded.id.as_str())
                .push_bind(recorded.alert.as_str())
                .push_bind(recorded.kind)
                .push_bind(recorded.severity.as_str())
                .push_bind(recorded.from_severity.map(|severity| severity.as_str()))
                .push_bind(recorded.from_since.map(|time| time.0))
                .push_bind(recorded.reason)
                .push_bind(recorded.summary.as_str())
                .push_bind(recorded.details.as_str())
                .push_bind(recorded.at.0)
                .push_bind(recorded.recorded_at.0)
                .push_bind(recorded.position.as_deref())
                .push_bind(i64::from(recorded.rule_version))
                .push_bind(recorded.actor.as_deref())
                .push_bind(recorded.comment.as_deref());
        });
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}

async fn upsert_alerts(connection: &mut SqliteConnection, rows: &[&AlertRow]) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "INSERT INTO alerts (id, sequence, rule, device, key, severity, summary, details, labels, \
         fingerprint, state, raised_at, severity_since, cleared_at, resolved_at, resolve_reason, last_seen, \
         count, partition, position, rule_version, module, source, generator_url) ",
    );
    query.push_values(rows, |mut tuple, row| {
        tuple
            .push_bind(row.id.as_str())
            .push_bind(row.sequence)
            .push_bind(row.rule.as_str())
            .push_bind(row.device.as_str())
            .push_bind(row.key.as_str())
            .push_bind(row.severity.as_str())
            .push_bind(row.summary.as_str())
            .push_bind(to_json(&row.details))
            .push_bind(to_json(&row.labels))
            .push_bind(row.fingerprint.as_str())
            .push_bind(row.state.as_str())
            .push_bind(row.raised_at.0)
            .push_bind(row.severity_since.0)
            .push_bind(row.cleared_at.map(|time| time.0))
            .push_bind(row.resolved_at.map(|time| time.0))
            .push_bind(row.resolve_reason.as_deref())
            .push_bind(row.last_seen.0)
            .push_bind(row.count as i64)
            .push_bind(i64::from(row.partition))
            .push_bind(row.position.as_str())
            .push_bind(i64::from(row.rule_version))
            .push_bind(row.module.as_deref())
            .push_bind(row.source.as_str())
            .push_bind(row.generator_url.as_str());
    });
    // What people said and where it began are not the loop's to change.
    query.push(
        " ON CONFLICT (id) DO UPDATE SET severity = excluded.severity, summary = excluded.summary, \
         details = excluded.details, labels = excluded.labels, fingerprint = excluded.fingerprint, \
         state = excluded.state, severity_since = excluded.severity_since, \
         cleared_at = excluded.cleared_at, resolved_at = excluded.resolved_at, \
         resolve_reason = excluded.resolve_reason, last_seen = excluded.last_seen, \
         count = excluded.count, generator_url = excluded.generator_url",
    );
    query.build().execute(&mut *connection).await?;
    Ok(())
}

async fn flush(database: &Database, updates: &HashMap<String, AlertUpdate>) -> Result<(), StoreError> {
    const ACTION: &str = "write repeated triggers";
    let updates: Vec<&AlertUpdate> = updates.values().collect();
    // Several short transactions: transitions must not wait long behind them.
    for part in updates.chunks(PIECE) {
        let mut connection = database.write().await?;
        for piece in pieces(part) {
            write_updates(&mut connection, piece).await.map_err(StoreError::sql(ACTION))?;
        }
        commit(connection, ACTION).await?;
    }
    Ok(())
}

async fn write_updates(
    connection: &mut SqliteConnection,
    updates: &[&AlertUpdate],
) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "UPDATE alerts SET last_seen = u.column2, count = u.column3, summary = u.column4, \
         details = u.column5 FROM (",
    );
    query.push_values(updates, |mut tuple, update| {
        tuple
            .push_bind(update.alert.0.as_str())
            .push_bind(update.last_seen.0)
            .push_bind(update.count as i64)
            .push_bind(update.summary.as_str())
            .push_bind(to_json(&update.details));
    });
    query.push(") AS u WHERE alerts.id = u.column1 AND alerts.state = 'active'");
    query.build().execute(connection).await.map(drop)
}
