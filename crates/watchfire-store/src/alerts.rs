//! Alerts as they stand, their history, and what people do to them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};
use utoipa::ToSchema;
use watchfire_model::alert::Detail;
use watchfire_model::{Severity, Timestamp};

use crate::Store;
use crate::db::{Page, json, limit, parsed, parsed_opt, sequence_cursor, time, time_opt};
use crate::deliveries::{DeliveryFilter, DeliveryRow};
use crate::error::StoreError;
use crate::labels::LabelSet;
use crate::response::Response;

/// Whether an alert goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// It goes on.
    Active,
    /// It ended.
    Resolved,
}

impl AlertState {
    /// As written in documents and queries.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Resolved => "resolved",
        }
    }
}

impl std::str::FromStr for AlertState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "active" => Ok(Self::Active),
            "resolved" => Ok(Self::Resolved),
            _ => Err(format!("{text:?} is no state of an alert: active or resolved")),
        }
    }
}

/// An alert as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct AlertRow {
    /// 16 hex digits, the same in every replay.
    pub id: String,
    /// The place of its raise in the commit order.
    pub sequence: i64,
    /// The rule.
    pub rule: String,
    /// The device.
    pub device: String,
    /// The key; with rule and device the identity of the condition.
    pub key: String,
    /// The severity as it stands.
    #[schema(value_type = String)]
    pub severity: Severity,
    /// For people.
    pub summary: String,
    /// Numbers and texts behind the summary.
    #[schema(value_type = Vec<Object>)]
    pub details: Vec<Detail>,
    /// Frozen when raised, but for the severity.
    #[schema(value_type = Object)]
    pub labels: LabelSet,
    /// Of the labels, as Alertmanager computes it.
    pub fingerprint: String,
    /// Whether it goes on.
    pub state: AlertState,
    /// When it began, by the clock of the device.
    #[schema(value_type = String)]
    pub raised_at: Timestamp,
    /// Since when it has its severity.
    #[schema(value_type = String)]
    pub severity_since: Timestamp,
    /// The condition cleared then, but the alert is latched.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub cleared_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub resolved_at: Option<Timestamp>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolve_reason: Option<String>,
    /// The latest trigger.
    #[schema(value_type = String)]
    pub last_seen: Timestamp,
    /// Triggers since it was raised.
    pub count: u64,
    /// Somebody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub acknowledged_at: Option<Timestamp>,
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<String>,
    /// What was said with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledge_comment: Option<String>,
    /// The partition of its device.
    pub partition: u16,
    /// The record that raised it.
    pub position: String,
    /// The version of the rule that raised it.
    pub rule_version: u32,
    /// The module that raised it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Whose it is.
    pub source: AlertSource,
    /// Where one of others leads.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub generator_url: String,
    /// What else people did to it.
    #[serde(flatten)]
    pub response: Response,
}

/// Whose alert it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AlertSource {
    /// A rule of ours made it.
    Rule,
    /// Others sent it: its labels and details are what they said.
    External,
}

impl AlertSource {
    /// As written in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::External => "external",
        }
    }
}

impl std::str::FromStr for AlertSource {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rule" => Ok(Self::Rule),
            "external" => Ok(Self::External),
            _ => Err(format!("{text:?} is no source of alerts: rule or external")),
        }
    }
}

impl sqlx::FromRow<'_, SqliteRow> for AlertRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            sequence: row.try_get("sequence")?,
            rule: row.try_get("rule")?,
            device: row.try_get("device")?,
            key: row.try_get("key")?,
            severity: parsed(row, "severity")?,
            summary: row.try_get("summary")?,
            details: json(row, "details")?,
            labels: json(row, "labels")?,
            fingerprint: row.try_get("fingerprint")?,
            state: parsed(row, "state")?,
            raised_at: time(row, "raised_at")?,
            severity_since: time(row, "severity_since")?,
            cleared_at: time_opt(row, "cleared_at")?,
            resolved_at: time_opt(row, "resolved_at")?,
            resolve_reason: row.try_get("resolve_reason")?,
            last_seen: time(row, "last_seen")?,
            count: row.try_get::<i64, _>("count")? as u64,
            acknowledged_at: time_opt(row, "acknowledged_at")?,
            acknowledged_by: row.try_get("acknowledged_by")?,
            acknowledge_comment: row.try_get("acknowledge_comment")?,
            partition: row.try_get::<i64, _>("partition")? as u16,
            position: row.try_get("position")?,
            rule_version: row.try_get::<i64, _>("rule_version")? as u32,
            module: row.try_get("module")?,
            source: parsed(row, "source")?,
            generator_url: row.try_get("generator_url")?,
            response: Response::from_row(row)?,
        })
    }
}

/// Something that happened to an alert: a transition of its condition, or a response of somebody.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct EventRow {
    /// The place in the commit order of all alerts.
    pub sequence: i64,
    /// Unique; of a transition the same in every replay.
    pub id: String,
    /// The alert.
    pub alert: String,
    /// Of the condition: `raised`, `severity_changed`, `cleared`, `realarmed`, `resolved`. Of people, and of what they
    /// did for a time: `acknowledged`, `unacknowledged`, `confirmed`, `shelved`, `shelve_expiring`, `unshelved`,
    /// `suppressed`, `unsuppressed`, `assigned`, `unassigned`, `commented`.
    pub kind: String,
    /// From then on.
    #[schema(value_type = String)]
    pub severity: Severity,
    /// Before, where it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub from_severity: Option<Severity>,
    /// Why it was resolved; with `raised`, `restored`: it had been resolved here, and the loop says that it goes on; with
    /// what ends, `expired`: its time was over; with `shelved`, `continued`: an alert before it was, of the same condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For people.
    pub summary: String,
    /// Numbers and texts behind the summary.
    #[schema(value_type = Vec<Object>)]
    pub details: Vec<Detail>,
    /// When it happened, by the clock of the device or of the one who did it.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// When it became known here.
    #[schema(value_type = String)]
    pub recorded_at: Timestamp,
    /// The record that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// The version of the rule.
    pub rule_version: u32,
    /// Who did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// What was said with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl sqlx::FromRow<'_, SqliteRow> for EventRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            sequence: row.try_get("sequence")?,
            id: row.try_get("id")?,
            alert: row.try_get("alert")?,
            kind: row.try_get("kind")?,
            severity: parsed(row, "severity")?,
            from_severity: parsed_opt(row, "from_severity")?,
            reason: row.try_get("reason")?,
            summary: row.try_get("summary")?,
            details: json(row, "details")?,
            at: time(row, "at")?,
            recorded_at: time(row, "recorded_at")?,
            position: row.try_get("position")?,
            rule_version: row.try_get::<i64, _>("rule_version")? as u32,
            actor: row.try_get("actor")?,
            comment: row.try_get("comment")?,
        })
    }
}

/// Which alerts; what is not said selects all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AlertFilter {
    /// Active or resolved.
    pub state: Option<AlertState>,
    /// One of these.
    pub severity: Vec<Severity>,
    /// Of this rule.
    pub rule: Option<String>,
    /// Of this device.
    pub device: Option<String>,
    /// Raised then or later.
    pub since: Option<Timestamp>,
    /// Acknowledged, or not.
    pub acknowledged: Option<bool>,
    /// Shelved, or not.
    pub shelved: Option<bool>,
    /// Suppressed, by design or because something is out of service, or not.
    pub suppressed: Option<bool>,
    /// Assigned to this person.
    pub assigned_to: Option<String>,
    /// What the page before gave as `next`.
    pub cursor: Option<String>,
    /// How many; 0: 100; at most 1000.
    pub limit: u32,
}

/// An alert with everything that is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct AlertDetail {
    /// As it stands.
    #[serde(flatten)]
    pub alert: AlertRow,
    /// What happened to it, in order.
    pub history: Vec<EventRow>,
    /// What the verdict rests on, as the model's `Evidence` is written.
    #[schema(value_type = Option<Object>)]
    pub evidence: Option<serde_json::Value>,
    /// Who was told, newest first; the latest hundred.
    pub deliveries: Vec<DeliveryRow>,
}

impl Store {
    /// Alerts, the latest raise first.
    pub async fn alerts(&self, filter: &AlertFilter) -> Result<Page<AlertRow>, StoreError> {
        let limit = limit(filter.limit);
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM alerts WHERE sequence < ");
        query.push_bind(sequence_cursor(filter.cursor.as_deref())?);
        if let Some(state) = filter.state {
            // Not a parameter: only so can the index of the active ones be used.
            query.push(match state {
                AlertState::Active => " AND state = 'active'",
                AlertState::Resolved => " AND state = 'resolved'",
            });
        }
        if !filter.severity.is_empty() {
            query.push(" AND severity IN (");
            let mut list = query.separated(", ");
            for severity in &filter.severity {
                list.push_bind(severity.as_str());
            }
            query.push(")");
        }
        if let Some(rule) = &filter.rule {
            query.push(" AND rule = ").push_bind(rule.as_str());
        }
        if let Some(device) = &filter.device {
            query.push(" AND device = ").push_bind(device.as_str());
        }
        if let Some(since) = filter.since {
            query.push(" AND raised_at >= ").push_bind(since.0);
        }
        for (wanted, with, without) in [
            (filter.acknowledged, " AND acknowledged_at IS NOT NULL", " AND acknowledged_at IS NULL"),
            (filter.shelved, " AND shelved_at IS NOT NULL", " AND shelved_at IS NULL"),
            (filter.suppressed, " AND suppressed_at IS NOT NULL", " AND suppressed_at IS NULL"),
        ] {
            if let Some(wanted) = wanted {
                query.push(if wanted { with } else { without });
            }
        }
        if let Some(assigned_to) = &filter.assigned_to {
            query.push(" AND assigned_to = ").push_bind(assigned_to.as_str());
        }
        query.push(" ORDER BY sequence DESC LIMIT ").push_bind(i64::from(limit) + 1);
        let rows = query
            .build_query_as::<AlertRow>()
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("list alerts"))?;
        Ok(Page::of(rows, limit, |row| row.sequence.to_string()))
    }

    /// One alert with history, evidence and deliveries.
    pub async fn alert(&self, id: &str) -> Result<AlertDetail, StoreError> {
        let failed = StoreError::sql("read an alert");
        let alert: AlertRow = sqlx::query_as("SELECT * FROM alerts WHERE id = $1")
            .bind(id)
            .fetch_optional(self.db().read())
            .await
            .map_err(&failed)?
            .ok_or_else(|| StoreError::NotFound { what: "alert", id: id.into() })?;
        let history =
            sqlx::query_as("SELECT * FROM transitions WHERE alert = $1 ORDER BY sequence LIMIT 10000")
                .bind(id)
                .fetch_all(self.db().read())
                .await
                .map_err(&failed)?;
        let evidence: Option<String> =
            sqlx::query_scalar("SELECT evidence FROM alert_evidence WHERE alert = $1")
                .bind(id)
                .fetch_optional(self.db().read())
                .await
                .map_err(&failed)?;
        let evidence = evidence.and_then(|text| serde_json::from_str(&text).ok());
        let filter = DeliveryFilter { alert: Some(id.into()), ..DeliveryFilter::default() };
        let deliveries = self.deliveries(&filter).await?.items;
        Ok(AlertDetail { alert, history, evidence, deliveries })
    }

    /// What happened to all alerts after a place in the commit order, oldest first: for followers, who come
    /// again with the sequence of the last one they got.
    pub async fn events_after(&self, sequence: i64, limit: u32) -> Result<Vec<EventRow>, StoreError> {
        sqlx::query_as("SELECT * FROM transitions WHERE sequence > $1 ORDER BY sequence LIMIT $2")
            .bind(sequence)
            .bind(i64::from(limit))
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("read what happened to alerts"))
    }

    /// Alerts as they stand, by id; those that are not kept any more are left out. As many as
    /// [`Store::events_after`] gives at once may be asked for.
    pub async fn alert_rows<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a str>,
    ) -> Result<HashMap<String, Arc<AlertRow>>, StoreError> {
        let ids: BTreeSet<&str> = ids.into_iter().collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM alerts WHERE id IN (");
        let mut list = query.separated(", ");
        for id in ids {
            list.push_bind(id);
        }
        query.push(")");
        let rows: Vec<AlertRow> = query
            .build_query_as()
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("read alerts"))?;
        Ok(rows.into_iter().map(|row| (row.id.clone(), Arc::new(row))).collect())
    }

    /// The active alerts of a rule, as device, key and severity, in this order.
    pub async fn active_of(&self, rule: &str) -> Result<Vec<(String, String, Severity)>, StoreError> {
        let failed = StoreError::sql("read the active alerts of a rule");
        let rows = sqlx::query(
            "SELECT device, key, severity FROM alerts WHERE state = 'active' AND rule = $1 ORDER BY device, key",
        )
        .bind(rule)
        .fetch_all(self.db().read())
        .await
        .map_err(&failed)?;
        rows.iter()
            .map(|row| Ok((row.try_get("device")?, row.try_get("key")?, parsed(row, "severity")?)))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(failed)
    }

    /// How many alerts are active, by severity.
    pub async fn active_counts(&self) -> Result<Vec<(Severity, u64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT severity, count(*) AS n FROM alerts WHERE state = 'active' GROUP BY severity",
        )
        .fetch_all(self.db().read())
        .await
        .map_err(StoreError::sql("count alerts"))?;
        rows.iter()
            .map(|row| Ok((parsed(row, "severity")?, row.try_get::<i64, _>("n")? as u64)))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(StoreError::sql("count alerts"))
    }
}
