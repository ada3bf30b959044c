//! How long history is kept. Without this the database grows for ever.
//!
//! What is removed is old, or beyond a number, and over: never an alert that is active, never a delivery that is
//! pending or what it tells of, never what is not routed yet. And never what the log could still replay: a transition
//! is recognised by its id, so one that is forgotten too early would be told again.
//!
//! Many small transactions with pauses between them: the one connection that writes is wanted by alerts. Room in the
//! file is used again, the file does not shrink; `VACUUM INTO` (a backup) makes a small one.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection};
use tokio::task::JoinHandle;
use watchfire_model::{Duration as Span, Offset, PartitionId, Position, Timestamp};
use watchfire_telemetry::metrics;

use crate::Store;
use crate::db::{commit, time, time_opt};
use crate::error::StoreError;

/// Rows in one transaction at most: a few milliseconds.
const PART: i64 = 200;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two looks at everything.
const PERIOD: Duration = Duration::from_secs(600);

/// What is kept for how long, and how many of it at most; whichever is over first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Alerts that are resolved, with everything that happened to them, from the last of it on.
    pub alerts_for: Span,
    /// As many of them.
    pub alerts: u64,
    /// As many resolved alerts keep their evidence, the latest: a few KiB each, 64 at most.
    pub evidence: u64,
    /// Deliveries that came to their end, with their attempts.
    pub deliveries_for: Span,
    /// As many of them.
    pub deliveries: u64,
    /// Silences that ended.
    pub silences_for: Span,
    /// Lines of the audit trail.
    pub audit_for: Span,
    /// As many of them.
    pub audit: u64,
}

impl Default for Retention {
    /// Some GiB at most: a season of alerts, a month of deliveries, a year of who did what.
    fn default() -> Self {
        let days = |days: u64| Span::from_secs(days * 86_400);
        Self {
            alerts_for: days(90),
            alerts: 1_000_000,
            evidence: 100_000,
            deliveries_for: days(30),
            deliveries: 1_000_000,
            // As Alertmanager keeps them.
            silences_for: days(5),
            audit_for: days(365),
            audit: 1_000_000,
        }
    }
}

/// What one look removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Alerts, with what happened to them.
    pub alerts: u64,
    /// Evidence of alerts that are still there.
    pub evidence: u64,
    /// Deliveries, with their attempts.
    pub deliveries: u64,
    /// Why people were not told, or not at once.
    pub decisions: u64,
    /// Rows of the outbox that were routed.
    pub outbox: u64,
    /// Silences that ended.
    pub silences: u64,
    /// Lines of the audit trail.
    pub audit: u64,
}

impl Tidied {
    fn count(&self) {
        let Self { alerts, evidence, deliveries, decisions, outbox, silences, audit } = *self;
        let counts = [
            ("alerts", alerts),
            ("evidence", evidence),
            ("deliveries", deliveries),
            ("decisions", decisions),
            ("outbox", outbox),
            ("silences", silences),
            ("audit", audit),
        ];
        for (kind, count) in counts {
            metrics().alerts.history_removed.get_or_create(&[("kind", kind.to_string())]).inc_by(count);
        }
    }
}

/// The task that looks now and then. Ends when it is dropped.
#[derive(Debug)]
pub struct Tidying(JoinHandle<()>);

impl Drop for Tidying {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The first offset of a partition that the log still has.
pub type Kept = Arc<dyn Fn(PartitionId) -> Offset + Send + Sync>;

impl Store {
    /// Keeps history within these bounds from now on. Must be called within a tokio runtime.
    pub fn keep_tidy(&self, retention: Retention, kept: Kept) -> Tidying {
        let store = self.clone();
        Tidying(tokio::spawn(async move {
            loop {
                tokio::time::sleep(PERIOD).await;
                match store.tidy(&retention, &*kept).await {
                    Ok(tidied) if tidied == Tidied::default() => {}
                    Ok(tidied) => tracing::info!(?tidied, "old history is removed"),
                    Err(error) => tracing::warn!(error = error.chain(), "old history could not be removed"),
                }
            }
        }))
    }

    /// Removes what is over by now.
    pub async fn tidy(
        &self,
        retention: &Retention,
        kept: &(dyn Fn(PartitionId) -> Offset + Send + Sync),
    ) -> Result<Tidied, StoreError> {
        let now = self.clock().wall();
        let deliveries = self.tidy_deliveries(retention, now).await?;
        let decisions = self.tidy_decisions(retention, now).await?;
        let outbox = self.tidy_outbox(now - retention.deliveries_for).await?;
        let alerts = self.tidy_alerts(retention, now, kept).await?;
        let evidence = self.tidy_evidence(retention.evidence).await?;
        let silences = self.remove_silences(now - retention.silences_for).await?;
        let audit = self.tidy_audit(retention, now).await?;
        let tidied = Tidied { alerts, evidence, deliveries, decisions, outbox, silences, audit };
        tidied.count();
        Ok(tidied)
    }

    /// From the oldest on, part by part, until a part has nothing to remove.
    async fn tidy_alerts(
        &self,
        retention: &Retention,
        now: Timestamp,
        kept: &(dyn Fn(PartitionId) -> Offset + Send + Sync),
    ) -> Result<u64, StoreError> {
        const ACTION: &str = "remove old alerts";
        let failed = StoreError::sql(ACTION);
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM alerts WHERE state = 'resolved'")
            .fetch_one(self.db().read())
            .await
            .map_err(&failed)?;
        let mut excess = count as u64 - retention.alerts.min(count as u64);
        let before = now - retention.alerts_for;
        let (mut removed, mut behind) = (0, i64::MIN);
        loop {
            // What happened last by the loop says where it stands in the log; what happened last at all, how old it
            // is. Whoever has the last event of all stays, lest its sequence is given again.
            let rows = sqlx::query(
                "SELECT a.id, a.sequence, a.partition, a.position, \
                 (SELECT t.position FROM transitions AS t WHERE t.alert = a.id AND t.position IS NOT NULL \
                  ORDER BY t.sequence DESC LIMIT 1) AS last, \
                 (SELECT max(t.recorded_at) FROM transitions AS t WHERE t.alert = a.id) AS recorded, \
                 EXISTS (SELECT 1 FROM transitions AS t WHERE t.alert = a.id AND (t.sequence = \
                  (SELECT max(sequence) FROM transitions) OR EXISTS (SELECT 1 FROM outbox AS o \
                  WHERE o.transition = t.sequence AND o.routed_at IS NULL))) \
                 OR EXISTS (SELECT 1 FROM delivery_alerts AS n JOIN deliveries AS d ON d.sequence = n.delivery \
                  WHERE n.alert = a.id AND d.state = 'pending') AS needed \
                 FROM alerts AS a WHERE a.state = 'resolved' AND a.sequence > $1 ORDER BY a.sequence LIMIT $2",
            )
            .bind(behind)
            .bind(PART)
            .fetch_all(self.db().read())
            .await
            .map_err(&failed)?;
            let mut over = Vec::new();
            for row in &rows {
                let get = |column| row.try_get::<Option<String>, _>(column).map_err(&failed);
                let partition = PartitionId(row.try_get::<i64, _>("partition").map_err(&failed)? as u16);
                let last = get("last")?.or(get("position")?).and_then(|text| text.parse::<Position>().ok());
                let replayable = last.is_some_and(|last| last.offset >= kept(partition));
                let recorded = time_opt(row, "recorded").map_err(&failed)?;
                let old = recorded.is_none_or(|recorded| recorded < before);
                behind = row.try_get("sequence").map_err(&failed)?;
                let needed: bool = row.try_get("needed").map_err(&failed)?;
                if replayable || needed || !(old || excess > 0) {
                    continue;
                }
                excess = excess.saturating_sub(1);
                over.push(row.try_get::<String, _>("id").map_err(&failed)?);
            }
            if over.is_empty() {
                return Ok(removed);
            }
            let places = [
                ("alert_evidence", "alert"),
                ("delivery_alerts", "alert"),
                ("decisions", "alert"),
                ("transitions", "alert"),
                ("alerts", "id"),
            ];
            removed += self.remove_part(ACTION, &places, &over).await?;
        }
    }

    async fn tidy_evidence(&self, keep: u64) -> Result<u64, StoreError> {
        const ACTION: &str = "remove old evidence";
        let failed = StoreError::sql(ACTION);
        let mut removed = 0;
        loop {
            let over: Vec<String> = sqlx::query_scalar(
                "SELECT e.alert FROM (SELECT a.id FROM alerts AS a WHERE a.state = 'resolved' \
                 ORDER BY a.sequence DESC LIMIT -1 OFFSET $1) AS a \
                 JOIN alert_evidence AS e ON e.alert = a.id LIMIT $2",
            )
            .bind(keep as i64)
            .bind(PART)
            .fetch_all(self.db().read())
            .await
            .map_err(&failed)?;
            if over.is_empty() {
                return Ok(removed);
            }
            removed += self.remove_part(ACTION, &[("alert_evidence", "alert")], &over).await?;
        }
    }

    async fn tidy_deliveries(&self, retention: &Retention, now: Timestamp) -> Result<u64, StoreError> {
        const ACTION: &str = "remove old deliveries";
        let failed = StoreError::sql(ACTION);
        let last: i64 = sqlx::query_scalar("SELECT coalesce(max(sequence), 0) FROM deliveries")
            .fetch_one(self.db().read())
            .await
            .map_err(&failed)?;
        // They are numbered without holes.
        let beyond = last - retention.deliveries.min(i64::MAX as u64) as i64;
        let before = now - retention.deliveries_for;
        // Threads of groups whose end was never delivered.
        let mut connection = self.db().write().await?;
        sqlx::query("DELETE FROM delivery_threads WHERE at < $1")
            .bind(before.0)
            .execute(&mut *connection)
            .await
            .map_err(&failed)?;
        commit(connection, ACTION).await?;
        let mut removed = 0;
        loop {
            let rows = sqlx::query(
                "SELECT sequence, finished_at FROM deliveries WHERE state <> 'pending' AND sequence < $1 \
                 ORDER BY sequence LIMIT $2",
            )
            .bind(last)
            .bind(PART)
            .fetch_all(self.db().read())
            .await
            .map_err(&failed)?;
            let mut over = Vec::new();
            for row in &rows {
                let sequence: i64 = row.try_get("sequence").map_err(&failed)?;
                let finished = time_opt(row, "finished_at").map_err(&failed)?;
                if sequence <= beyond || finished.is_none_or(|finished| finished < before) {
                    over.push(sequence);
                }
            }
            if over.is_empty() {
                return Ok(removed);
            }
            let places = [
                ("delivery_attempts", "delivery"),
                ("delivery_alerts", "delivery"),
                ("stand_ins", "original"),
                ("deliveries", "sequence"),
            ];
            removed += self.remove_part(ACTION, &places, &over).await?;
        }
    }

    /// Why people were not told is kept as long as what they were told, and as many of it.
    async fn tidy_decisions(&self, retention: &Retention, now: Timestamp) -> Result<u64, StoreError> {
        const ACTION: &str = "remove old decisions";
        let failed = StoreError::sql(ACTION);
        let last: i64 = sqlx::query_scalar("SELECT coalesce(max(sequence), 0) FROM decisions")
            .fetch_one(self.db().read())
            .await
            .map_err(&failed)?;
        let mut removed = 0;
        loop {
            // The last one stays: it says how many there were.
            let over: Vec<i64> = sqlx::query_scalar(
                "SELECT sequence FROM (SELECT sequence, at FROM decisions WHERE sequence < $1 \
                 ORDER BY sequence LIMIT $2) WHERE sequence <= $3 OR at < $4",
            )
            .bind(last)
            .bind(PART)
            .bind(last - retention.deliveries.min(i64::MAX as u64) as i64)
            .bind((now - retention.deliveries_for).0)
            .fetch_all(self.db().read())
            .await
            .map_err(&failed)?;
            if over.is_empty() {
                return Ok(removed);
            }
            removed += self.remove_part(ACTION, &[("decisions", "sequence")], &over).await?;
        }
    }

    async fn tidy_outbox(&self, before: Timestamp) -> Result<u64, StoreError> {
        const ACTION: &str = "remove what was routed";
        self.tidy_numbered(
            ACTION,
            "SELECT sequence FROM (SELECT sequence, routed_at FROM outbox WHERE sequence < \
             (SELECT max(sequence) FROM outbox) ORDER BY sequence LIMIT $2) WHERE routed_at < $1",
            "outbox",
            before,
        )
        .await
    }

    async fn tidy_audit(&self, retention: &Retention, now: Timestamp) -> Result<u64, StoreError> {
        const ACTION: &str = "remove old lines of the audit trail";
        let failed = StoreError::sql(ACTION);
        // Lines come in the order of their times, and are numbered without holes: a number is a time.
        let nth = sqlx::query(
            "SELECT at FROM audit WHERE sequence <= (SELECT max(sequence) FROM audit) - $1 \
                               ORDER BY sequence DESC LIMIT 1",
        )
        .bind(retention.audit.min(i64::MAX as u64) as i64)
        .fetch_optional(self.db().read())
        .await
        .map_err(&failed)?;
        let beyond = nth.map(|row| time(&row, "at")).transpose().map_err(&failed)?;
        let before =
            (now - retention.audit_for).max(beyond.map_or(Timestamp(i64::MIN), |at| Timestamp(at.0 + 1)));
        self.tidy_numbered(
            ACTION,
            "SELECT sequence FROM (SELECT sequence, at FROM audit WHERE sequence < \
             (SELECT max(sequence) FROM audit) ORDER BY sequence LIMIT $2) WHERE at < $1",
            "audit",
            before,
        )
        .await
    }

    async fn tidy_numbered(
        &self,
        action: &'static str,
        select: &'static str,
        table: &'static str,
        before: Timestamp,
    ) -> Result<u64, StoreError> {
        let failed = StoreError::sql(action);
        let mut removed = 0;
        loop {
            let over: Vec<i64> = sqlx::query_scalar(select)
                .bind(before.0)
                .bind(PART)
                .fetch_all(self.db().read())
                .await
                .map_err(&failed)?;
            if over.is_empty() {
                return Ok(removed);
            }
            removed += self.remove_part(action, &[(table, "sequence")], &over).await?;
        }
    }

    /// Removes what belongs to these from all places, in one transaction, and lets others write before the next.
    async fn remove_part<'a, T>(
        &self,
        action: &'static str,
        places: &[(&'static str, &'static str)],
        over: &'a [T],
    ) -> Result<u64, StoreError>
    where
        T: Sync,
        &'a T: sqlx::Encode<'a, Sqlite> + sqlx::Type<Sqlite> + Send,
    {
        let failed = StoreError::sql(action);
        let mut connection = self.db().write().await?;
        for (table, column) in places {
            delete(&mut connection, table, column, over).await.map_err(&failed)?;
        }
        commit(connection, action).await?;
        tokio::time::sleep(PAUSE).await;
        Ok(over.len() as u64)
    }
}

async fn delete<'a, T>(
    connection: &mut SqliteConnection,
    table: &'static str,
    column: &'static str,
    values: &'a [T],
) -> Result<(), sqlx::Error>
where
    &'a T: sqlx::Encode<'a, Sqlite> + sqlx::Type<Sqlite> + Send,
{
    let mut query = QueryBuilder::<Sqlite>::new("DELETE FROM ");
    query.push(table).push(" WHERE ").push(column).push(" IN (");
    let mut list = query.separated(", ");
    for value in values {
        list.push_bind(value);
    }
    query.push(")");
    query.build().execute(&mut *connection).await.map(drop)
}
