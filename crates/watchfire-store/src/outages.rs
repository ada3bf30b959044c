//! Rules that were taken out of a partition because they kept failing, as the log says.

use serde::Serialize;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use utoipa::ToSchema;
use watchfire_model::{PartitionId, Timestamp};

use crate::Store;
use crate::db::{commit, limit, time, time_opt};
use crate::error::StoreError;

/// How many times that a rule was out are kept of it.
pub const KEPT: u32 = 100;

/// One time that a rule was out of a partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct OutageRow {
    /// `epoch/partition/offset` of the record that says so.
    pub position: String,
    /// The rule.
    pub rule: String,
    /// Its version.
    pub rule_version: u32,
    /// The partition.
    pub partition: u16,
    /// When the breaker opened.
    #[schema(value_type = String)]
    pub opened_at: Timestamp,
    /// How much failed.
    pub why: String,
    /// What the last call or try that failed said.
    pub reason: String,
    /// Tries that failed.
    pub tries: u32,
    /// When the breaker closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub closed_at: Option<Timestamp>,
    /// How: `tried`, `deployed` or `removed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_by: Option<String>,
    /// Where what was given to the rule again begins: an offset of the partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed_from: Option<u64>,
    /// Up to where the rule was given it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caught_up_to: Option<u64>,
    /// Where what was not kept for it begins: an offset of the partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_from: Option<u64>,
    /// Where that ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_to: Option<u64>,
}

impl sqlx::FromRow<'_, SqliteRow> for OutageRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let number =
            |name: &str| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(name)?.map(|x| x as u64));
        Ok(Self {
            position: row.try_get("position")?,
            rule: row.try_get("rule")?,
            rule_version: row.try_get::<i64, _>("rule_version")? as u32,
            partition: row.try_get::<i64, _>("partition")? as u16,
            opened_at: time(row, "opened_at")?,
            why: row.try_get("why")?,
            reason: row.try_get("reason")?,
            tries: row.try_get::<i64, _>("tries")? as u32,
            closed_at: time_opt(row, "closed_at")?,
            closed_by: row.try_get("closed_by")?,
            missed_from: number("missed_from")?,
            caught_up_to: number("caught_up_to")?,
            lost_from: number("lost_from")?,
            lost_to: number("lost_to")?,
        })
    }
}

/// What the log says of the latest time that a rule was out of a partition.
#[derive(Clone, Debug, PartialEq)]
pub enum OutageChange {
    /// A try failed.
    Tried {
        /// What it said.
        reason: String,
    },
    /// The breaker closed.
    Closed {
        /// `tried`, `deployed` or `removed`.
        by: &'static str,
    },
    /// The rule was given this much of what it missed.
    CaughtUp {
        /// From this offset on ...
        from: u64,
        /// ... up to before this one.
        to: u64,
    },
    /// This was not kept.
    Lost {
        /// From this offset on ...
        from: u64,
        /// ... up to before this one.
        to: u64,
    },
}

impl Store {
    /// Keeps that a rule was taken out; one that is known stays as it is. The latest [`KEPT`] of a rule are kept.
    pub async fn add_outage(&self, row: &OutageRow) -> Result<(), StoreError> {
        const ACTION: &str = "keep that a rule is out";
        let mut connection = self.db().write().await?;
        sqlx::query(
            "INSERT INTO rule_outages (position, rule, rule_version, partition, opened_at, why, reason) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (position) DO NOTHING",
        )
        .bind(&row.position)
        .bind(&row.rule)
        .bind(i64::from(row.rule_version))
        .bind(i64::from(row.partition))
        .bind(row.opened_at.0)
        .bind(&row.why)
        .bind(&row.reason)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::sql(ACTION))?;
        sqlx::query(
            "DELETE FROM rule_outages WHERE rule = $1 AND rowid NOT IN (SELECT rowid FROM rule_outages \
             WHERE rule = $1 ORDER BY opened_at DESC, rowid DESC LIMIT $2)",
        )
        .bind(&row.rule)
        .bind(KEPT)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::sql(ACTION))?;
        commit(connection, ACTION).await
    }

    /// Changes the latest time that a rule was out of a partition by then, if it ever was. A change that is made again,
    /// because the log is read again, changes nothing.
    pub async fn change_outage(
        &self,
        rule: &str,
        partition: PartitionId,
        at: Timestamp,
        change: &OutageChange,
    ) -> Result<(), StoreError> {
        const LATEST: &str = " WHERE position = (SELECT position FROM rule_outages WHERE rule = $1 \
             AND partition = $2 AND opened_at <= $3 ORDER BY opened_at DESC, rowid DESC LIMIT 1)";
        let set = match change {
            OutageChange::Tried { .. } => {
                "reason = $4, tries = tries + (coalesce(tried_at, opened_at - 1) < $3), \
                 tried_at = max(coalesce(tried_at, $3), $3)"
            }
            OutageChange::Closed { .. } => {
                "closed_by = coalesce(closed_by, $4), closed_at = coalesce(closed_at, $3)"
            }
            OutageChange::CaughtUp { .. } => {
                "missed_from = coalesce(missed_from, $4), caught_up_to = max(coalesce(caught_up_to, $5), $5)"
            }
            OutageChange::Lost { .. } => {
                "lost_from = coalesce(lost_from, $4), lost_to = max(coalesce(lost_to, $5), $5)"
            }
        };
        // Of fixed parts only.
        let sql = sqlx::AssertSqlSafe(format!("UPDATE rule_outages SET {set}{LATEST}"));
        let query = sqlx::query(sql).bind(rule).bind(i64::from(partition.0)).bind(at.0);
        let query = match change {
            OutageChange::Tried { reason } => query.bind(reason.as_str()),
            OutageChange::Closed { by } => query.bind(*by),
            OutageChange::CaughtUp { from, to } | OutageChange::Lost { from, to } => {
                query.bind(*from as i64).bind(*to as i64)
            }
        };
        query
            .execute(self.db().writer())
            .await
            .map(drop)
            .map_err(StoreError::sql("change that a rule is out"))
    }

    /// When a rule was out, the latest first; at most so many.
    pub async fn outages(&self, rule: &str, most: u32) -> Result<Vec<OutageRow>, StoreError> {
        sqlx::query_as(
            "SELECT * FROM rule_outages WHERE rule = $1 ORDER BY opened_at DESC, rowid DESC LIMIT $2",
        )
        .bind(rule)
        .bind(i64::from(limit(most)))
        .fetch_all(self.db().read())
        .await
        .map_err(StoreError::sql("list when a rule was out"))
    }
}
