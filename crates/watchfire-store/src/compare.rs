//! Machine and store, compared after a recovery: a difference is repaired and counted.

use std::collections::HashMap;

use watchfire_model::{PartitionId, Severity, Timestamp};
use watchfire_telemetry::metrics;

use crate::Store;
use crate::alerts::AlertRow;
use crate::db::{commit, to_json};
use crate::error::StoreError;

/// An alert that the condition machine holds as active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveCondition {
    /// The alert.
    pub alert: String,
    /// Its severity.
    pub severity: Severity,
}

/// Where machine and store disagree about a partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Active in the store, unknown to the machine: nothing would ever resolve them.
    pub orphans: Vec<AlertRow>,
    /// Active in the machine, not so in the store.
    pub missing: Vec<String>,
    /// Active in both with different severities: the alert and what the machine holds.
    pub severities: Vec<(AlertRow, Severity)>,
}

impl Comparison {
    /// Whether they agree.
    pub fn is_empty(&self) -> bool {
        self.orphans.is_empty() && self.missing.is_empty() && self.severities.is_empty()
    }
}

impl Store {
    /// The active alerts of a partition, and of a rule where one is named.
    pub async fn active_alerts(
        &self,
        partition: PartitionId,
        rule: Option<&str>,
    ) -> Result<Vec<AlertRow>, StoreError> {
        sqlx::query_as(
            "SELECT * FROM alerts WHERE state = 'active' AND partition = $1 AND ($2 IS NULL OR rule = $2) \
             ORDER BY sequence",
        )
        .bind(i64::from(partition.0))
        .bind(rule)
        .fetch_all(self.db().read())
        .await
        .map_err(StoreError::sql("list active alerts"))
    }

    /// Compares what the machine of a partition holds as active with the store. Everything that the machine
    /// submitted must be committed.
    pub async fn compare_active(
        &self,
        partition: PartitionId,
        conditions: &[ActiveCondition],
    ) -> Result<Comparison, StoreError> {
        let mut machine: HashMap<&str, Severity> =
            conditions.iter().map(|condition| (condition.alert.as_str(), condition.severity)).collect();
        let mut comparison = Comparison::default();
        for row in self.active_alerts(partition, None).await? {
            match machine.remove(row.id.as_str()) {
                None => comparison.orphans.push(row),
                Some(severity) if severity != row.severity => comparison.severities.push((row, severity)),
                Some(_) => {}
            }
        }
        comparison.missing = machine.into_keys().map(Into::into).collect();
        comparison.missing.sort();
        Ok(comparison)
    }

    /// Resolves alerts that no machine knows of, reason `orphaned`, and tells those who were told of them.
    pub async fn resolve_orphans(&self, orphans: &[AlertRow], at: Timestamp) -> Result<u64, StoreError> {
        const ACTION: &str = "resolve orphaned alerts";
        let failed = StoreError::sql(ACTION);
        let mut connection = self.db().write().await?;
        let mut last = 0;
        let mut resolved = 0;
        for row in orphans {
            let ended = at.max(row.raised_at);
            let done = sqlx::query(
                "UPDATE alerts SET state = 'resolved', resolved_at = $1, resolve_reason = 'orphaned' \
                 WHERE id = $2 AND state = 'active'",
            )
            .bind(ended.0)
            .bind(&row.id)
            .execute(&mut *connection)
            .await
            .map_err(&failed)?;
            if done.rows_affected() == 0 {
                continue;
            }
            last = sqlx::query_scalar(
                "INSERT INTO transitions (sequence, id, alert, kind, severity, from_since, reason, summary, \
                 details, at, recorded_at, rule_version) SELECT coalesce(max(sequence), 0) + 1, $1, $2, \
                 'resolved', $3, $4, 'orphaned', $5, $6, $7, $8, $9 FROM transitions RETURNING sequence",
            )
            .bind(format!("orphaned/{}", row.id))
            .bind(&row.id)
            .bind(row.severity.as_str())
            .bind(row.severity_since.0)
            .bind(&row.summary)
            .bind(to_json(&row.details))
            .bind(ended.0)
            .bind(at.0)
            .bind(i64::from(row.rule_version))
            .fetch_one(&mut *connection)
            .await
            .map_err(&failed)?;
            sqlx::query("INSERT INTO outbox (transition) VALUES ($1)")
                .bind(last)
                .execute(&mut *connection)
                .await
                .map_err(&failed)?;
            resolved += 1;
        }
        commit(connection, ACTION).await?;
        metrics().alerts.repaired.inc_by(resolved);
        self.announce_transitions(last);
        Ok(resolved)
    }
}
