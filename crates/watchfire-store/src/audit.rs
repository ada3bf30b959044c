//! The audit trail: who did what, when, and what came of it.

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};
use utoipa::ToSchema;
use watchfire_model::Timestamp;

use crate::Store;
use crate::db::{Page, limit, sequence_cursor, time};
use crate::error::StoreError;

/// One line of the trail.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct AuditRow {
    /// The order; given by the store.
    pub sequence: i64,
    /// When.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// Who: the name of a token, or of the part of the engine that acted by itself.
    pub actor: String,
    /// What, such as `rule.deploy`.
    pub action: String,
    /// To what, such as the name of a rule.
    pub subject: String,
    /// The id of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// `done`, `refused` or `failed`.
    pub outcome: String,
    /// What else is worth knowing; never a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl sqlx::FromRow<'_, SqliteRow> for AuditRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            sequence: row.try_get("sequence")?,
            at: time(row, "at")?,
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            subject: row.try_get("subject")?,
            request: row.try_get("request")?,
            outcome: row.try_get("outcome")?,
            detail: row.try_get("detail")?,
        })
    }
}

/// Which lines; what is not said selects all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditFilter {
    /// By this one.
    pub actor: Option<String>,
    /// This action, or all that begin with it and a dot.
    pub action: Option<String>,
    /// To this.
    pub subject: Option<String>,
    /// Then or later.
    pub since: Option<Timestamp>,
    /// What the page before gave as `next`.
    pub cursor: Option<String>,
    /// How many; 0: 100; at most 1000.
    pub limit: u32,
}

impl Store {
    /// Writes a line; its `sequence` is given here, whatever it was.
    pub async fn add_audit(&self, row: &AuditRow) -> Result<i64, StoreError> {
        sqlx::query_scalar(
            "INSERT INTO audit (at, actor, action, subject, request, outcome, detail) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING sequence",
        )
        .bind(row.at.0)
        .bind(&row.actor)
        .bind(&row.action)
        .bind(&row.subject)
        .bind(row.request.as_deref())
        .bind(&row.outcome)
        .bind(row.detail.as_deref())
        .fetch_one(self.db().writer())
        .await
        .map_err(StoreError::sql("write the audit trail"))
    }

    /// The trail, the latest first.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Page<AuditRow>, StoreError> {
        let limit = limit(filter.limit);
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM audit WHERE sequence < ");
        query.push_bind(sequence_cursor(filter.cursor.as_deref())?);
        if let Some(actor) = &filter.actor {
            query.push(" AND actor = ").push_bind(actor.as_str());
        }
        if let Some(action) = &filter.action {
            query.push(" AND (action = ").push_bind(action.as_str());
            query.push(" OR substr(action, 1, ").push_bind(action.chars().count() as i64 + 1);
            query.push(") = ").push_bind(format!("{action}.")).push(")");
        }
        if let Some(subject) = &filter.subject {
            query.push(" AND subject = ").push_bind(subject.as_str());
        }
        if let Some(since) = filter.since {
            query.push(" AND at >= ").push_bind(since.0);
        }
        query.push(" ORDER BY sequence DESC LIMIT ").push_bind(i64::from(limit) + 1);
        let rows = query
            .build_query_as::<AuditRow>()
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("read the audit trail"))?;
        Ok(Page::of(rows, limit, |row| row.sequence.to_string()))
    }
}
