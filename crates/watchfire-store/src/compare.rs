//! Machine and store, compared once a partition is level after a start: a difference is repaired, counted and
//! logged as an error, because it means that one of the two was changed behind the other's back.
//!
//! The comparison comes through the same queue as transitions, so it sees exactly what was handed over before it.

use std::collections::HashMap;

use watchfire_model::alert::{Recovered, Transition, TransitionKind};
use watchfire_model::{PartitionId, Timestamp};
use watchfire_telemetry::metrics;

use crate::Store;
use crate::alerts::AlertRow;
use crate::db::{Database, commit, to_json};
use crate::error::StoreError;
use crate::fold::Fold;
use crate::keeper;

impl Store {
    /// The active alerts of a partition, oldest first.
    pub async fn active_alerts(&self, partition: PartitionId) -> Result<Vec<AlertRow>, StoreError> {
        active(self.db(), partition).await
    }
}

async fn active(database: &Database, partition: PartitionId) -> Result<Vec<AlertRow>, StoreError> {
    sqlx::query_as("SELECT * FROM alerts WHERE state = 'active' AND partition = $1 ORDER BY sequence")
        .bind(i64::from(partition.0))
        .fetch_all(database.read())
        .await
        .map_err(StoreError::sql("list active alerts"))
}

/// Brings the store in line with the machine; gives the sequence of the last transition that this took.
pub(crate) async fn recover(database: &Database, recovered: &Recovered) -> Result<Option<i64>, StoreError> {
    let mut machine: HashMap<&str, &Transition> =
        recovered.active.iter().map(|transition| (transition.alert.0.as_str(), transition)).collect();
    let (mut orphans, mut lacking) = (Vec::new(), Vec::new());
    for row in active(database, recovered.partition).await? {
        match machine.remove(row.id.as_str()) {
            None => orphans.push(row),
            Some(told) if told.severity != row.severity => {
                let kind = TransitionKind::SeverityChanged { from: row.severity };
                let latched = told.kind == TransitionKind::Cleared;
                lacking.push(Transition { id: format!("{}/severity", told.id), kind, ..told.clone() });
                // A change of severity is of one that stands: it is latched again behind it.
                lacking.extend(latched.then(|| told.clone()));
            }
            Some(_) => {}
        }
    }
    // In the order of the machine, so that two repairs of one store are the same.
    lacking
        .extend(recovered.active.iter().filter(|told| machine.contains_key(told.alert.0.as_str())).cloned());
    if orphans.is_empty() && lacking.is_empty() {
        return Ok(None);
    }
    tracing::error!(
        partition = %recovered.partition,
        orphans = orphans.len(),
        lacking = lacking.len(),
        "after the start the alerts in the store were not those of the loop; repaired"
    );
    metrics().alerts.repaired.inc_by((orphans.len() + lacking.len()) as u64);
    // Orphans first: one may have the identity of an alert that is lacking.
    let resolved = resolve_orphans(database, &orphans, recovered.at).await?;
    let written = keeper::write_as(database, &lacking, &HashMap::new(), Fold::restore).await?;
    Ok(written.or(resolved))
}

/// Resolves alerts that no machine knows of, reason `orphaned`; who was told of them is told.
async fn resolve_orphans(
    database: &Database,
    orphans: &[AlertRow],
    at: Timestamp,
) -> Result<Option<i64>, StoreError> {
    const ACTION: &str = "resolve orphaned alerts";
    let failed = StoreError::sql(ACTION);
    let mut last = None;
    if orphans.is_empty() {
        return Ok(last);
    }
    let mut connection = database.write().await?;
    for row in orphans {
        let ended = at.max(row.raised_at);
        let done = sqlx::query(
            "UPDATE alerts SET state = 'resolved', resolved_at = $1, resolve_reason = 'orphaned', \
             acknowledged_until = NULL, shelved_at = NULL, shelved_by = NULL, shelve_reason = NULL, \
             shelved_until = NULL, shelve_one_shot = FALSE, shelve_notice_at = NULL, suppressed_at = NULL, \
             suppressed_by = NULL, suppress_reason = NULL, suppressed_as = NULL \
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
        let sequence: i64 = sqlx::query_scalar(
            "INSERT INTO transitions (sequence, id, alert, kind, severity, from_since, reason, summary, \
             details, at, recorded_at, rule_version) SELECT coalesce(max(sequence), 0) + 1, \
             $1 || CAST(coalesce(max(sequence), 0) + 1 AS TEXT), $2, 'resolved', $3, $4, 'orphaned', $5, $6, $7, $8, $9 FROM transitions RETURNING sequence",
        )
        // With its sequence: an alert may be restored, and orphaned again.
        .bind(format!("orphaned/{}/", row.id))
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
            .bind(sequence)
            .execute(&mut *connection)
            .await
            .map_err(&failed)?;
        last = Some(sequence);
    }
    commit(connection, ACTION).await?;
    Ok(last)
}
