//! Between alerts and deliveries: the outbox, the notification groups, and the one transaction that turns
//! the former into the latter.

use sqlx::{QueryBuilder, Row as _, Sqlite};
use watchfire_model::alert::Detail;
use watchfire_model::{Severity, Timestamp};

use crate::Store;
use crate::alerts::AlertSource;
use crate::db::{chunk, commit, json, parsed, parsed_opt, time, time_opt};
use crate::error::StoreError;
use crate::labels::LabelSet;

/// A transition that people may have to be told of, with what is needed to tell them.
#[derive(Clone, Debug, PartialEq)]
pub struct Outbox {
    /// The place in the outbox.
    pub sequence: i64,
    /// The id of the transition.
    pub transition: String,
    /// `raised`, `severity_changed`, `realarmed` or `resolved`.
    pub kind: String,
    /// The alert.
    pub alert: String,
    /// The labels of the alert; the severity among them may be a later one.
    pub labels: LabelSet,
    /// From the transition on.
    pub severity: Severity,
    /// Before it, where it changed.
    pub from_severity: Option<Severity>,
    /// Since when the severity before the transition stood.
    pub from_since: Option<Timestamp>,
    /// Why it was resolved.
    pub reason: Option<String>,
    /// Of the transition.
    pub summary: String,
    /// Of the transition.
    pub details: Vec<Detail>,
    /// When it happened, by the clock of the device.
    pub at: Timestamp,
    /// When the log received what caused it.
    pub recorded_at: Timestamp,
    /// When the alert began.
    pub raised_at: Timestamp,
    /// The rule.
    pub rule: String,
    /// Its version at the transition.
    pub rule_version: u32,
    /// With an alert of others: where it leads, which may be nowhere. Its labels and details are told as they are.
    pub generator_url: Option<String>,
}

/// A notification group. What the body says is the business of the crate that routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// Who is told.
    pub receiver: String,
    /// The group.
    pub group_key: String,
    /// JSON.
    pub body: String,
}

/// A delivery that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDelivery {
    /// The idempotency key.
    pub id: String,
    /// Who is told.
    pub receiver: String,
    /// The group.
    pub group_key: String,
    /// `firing` or `resolved`.
    pub status: String,
    /// Why it is made.
    pub reason: String,
    /// JSON.
    pub payload: String,
    /// The alerts that it is made for.
    pub alerts: Vec<String>,
    /// When the log received the first that it tells of; `None`: it tells nothing new.
    pub caused_at: Option<Timestamp>,
}

/// What routing decided: everything of it is written, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// Places of the outbox that are done with.
    pub routed: Vec<i64>,
    /// In order.
    pub deliveries: Vec<NewDelivery>,
    /// Groups as they are from now on.
    pub groups: Vec<GroupRow>,
    /// Groups that ended: receiver and key.
    pub ended: Vec<(String, String)>,
    /// Deliveries that newer ones say everything of.
    pub superseded: Vec<String>,
}

impl Store {
    /// What is not routed yet, in order.
    pub async fn unrouted(&self, limit: u32) -> Result<Vec<Outbox>, StoreError> {
        let failed = StoreError::sql("read the outbox");
        let rows = sqlx::query(
            "SELECT o.sequence AS place, t.id AS transition, t.kind, t.alert, t.severity, t.from_severity, \
             t.from_since, t.reason, t.summary, t.details, t.at, t.recorded_at, t.rule_version, a.labels, a.raised_at, a.rule, \
             a.source, a.generator_url \
             FROM outbox AS o JOIN transitions AS t ON t.sequence = o.transition \
             JOIN alerts AS a ON a.id = t.alert WHERE o.routed_at IS NULL ORDER BY o.sequence LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(self.db().read())
        .await
        .map_err(&failed)?;
        rows.iter()
            .map(|row| {
                Ok(Outbox {
                    sequence: row.try_get("place")?,
                    transition: row.try_get("transition")?,
                    kind: row.try_get("kind")?,
                    alert: row.try_get("alert")?,
                    labels: json(row, "labels")?,
                    severity: parsed(row, "severity")?,
                    from_severity: parsed_opt(row, "from_severity")?,
                    from_since: time_opt(row, "from_since")?,
                    reason: row.try_get("reason")?,
                    summary: row.try_get("summary")?,
                    details: json(row, "details")?,
                    at: time(row, "at")?,
                    recorded_at: time(row, "recorded_at")?,
                    raised_at: time(row, "raised_at")?,
                    rule: row.try_get("rule")?,
                    rule_version: row.try_get::<i64, _>("rule_version")? as u32,
                    generator_url: match parsed(row, "source")? {
                        AlertSource::Rule => None,
                        AlertSource::External => Some(row.try_get("generator_url")?),
                    },
                })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(&failed)
    }

    /// All notification groups.
    pub async fn groups(&self) -> Result<Vec<GroupRow>, StoreError> {
        let failed = StoreError::sql("read notification groups");
        let rows = sqlx::query("SELECT receiver, group_key, body FROM notify_groups")
            .fetch_all(self.db().read())
            .await
            .map_err(&failed)?;
        rows.iter()
            .map(|row| {
                Ok(GroupRow {
                    receiver: row.try_get("receiver")?,
                    group_key: row.try_get("group_key")?,
                    body: row.try_get("body")?,
                })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(&failed)
    }

    /// Writes what routing decided in one transaction.
    pub async fn apply_flush(&self, flush: &Flush, now: Timestamp) -> Result<(), StoreError> {
        const ACTION: &str = "write what routing decided";
        let failed = StoreError::sql(ACTION);
        let mut connection = self.db().write().await?;
        for part in flush.routed.chunks(chunk(1)) {
            let mut query = QueryBuilder::<Sqlite>::new("UPDATE outbox SET routed_at = ");
            query.push_bind(now.0).push(" WHERE sequence IN (");
            let mut list = query.separated(", ");
            for sequence in part {
                list.push_bind(*sequence);
            }
            query.push(")");
            query.build().execute(&mut *connection).await.map_err(&failed)?;
        }
        for id in &flush.superseded {
            sqlx::query(
                "UPDATE deliveries SET state = 'superseded', finished_at = $1 WHERE id = $2 AND state = 'pending'",
            )
            .bind(now.0)
            .bind(id)
            .execute(&mut *connection)
            .await
            .map_err(&failed)?;
        }
        let mut last: i64 = sqlx::query_scalar("SELECT coalesce(max(sequence), 0) FROM deliveries")
            .fetch_one(&mut *connection)
            .await
            .map_err(&failed)?;
        let mut alerts: Vec<(&str, i64)> = Vec::new();
        for part in flush.deliveries.chunks(chunk(10)) {
            let mut query = QueryBuilder::<Sqlite>::new(
                "INSERT INTO deliveries (sequence, id, receiver, group_key, status, reason, payload, state, \
                 next_try, created_at, caused_at) ",
            );
            query.push_values(part, |mut tuple, delivery| {
                last += 1;
                alerts.extend(delivery.alerts.iter().map(|alert| (alert.as_str(), last)));
                tuple
                    .push_bind(last)
                    .push_bind(delivery.id.as_str())
                    .push_bind(delivery.receiver.as_str())
                    .push_bind(delivery.group_key.as_str())
                    .push_bind(delivery.status.as_str())
                    .push_bind(delivery.reason.as_str())
                    .push_bind(delivery.payload.as_str())
                    .push("'pending'")
                    .push_bind(now.0)
                    .push_bind(now.0)
                    .push_bind(delivery.caused_at.map(|time| time.0));
            });
            query.build().execute(&mut *connection).await.map_err(&failed)?;
        }
        for part in alerts.chunks(chunk(2)) {
            let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO delivery_alerts (alert, delivery) ");
            query.push_values(part, |mut tuple, (alert, delivery)| {
                tuple.push_bind(*alert).push_bind(*delivery);
            });
            query.push(" ON CONFLICT (alert, delivery) DO NOTHING");
            query.build().execute(&mut *connection).await.map_err(&failed)?;
        }
        for part in flush.groups.chunks(chunk(3)) {
            let mut query =
                QueryBuilder::<Sqlite>::new("INSERT INTO notify_groups (receiver, group_key, body) ");
            query.push_values(part, |mut tuple, group| {
                tuple
                    .push_bind(group.receiver.as_str())
                    .push_bind(group.group_key.as_str())
                    .push_bind(group.body.as_str());
            });
            query.push(" ON CONFLICT (receiver, group_key) DO UPDATE SET body = excluded.body");
            query.build().execute(&mut *connection).await.map_err(&failed)?;
        }
        for part in flush.ended.chunks(chunk(2)) {
            let mut query =
                QueryBuilder::<Sqlite>::new("DELETE FROM notify_groups WHERE (receiver, group_key) IN (");
            query.push_values(part, |mut tuple, (receiver, key)| {
                tuple.push_bind(receiver.as_str()).push_bind(key.as_str());
            });
            query.push(")");
            query.build().execute(&mut *connection).await.map_err(&failed)?;
        }
        commit(connection, ACTION).await?;
        if !flush.deliveries.is_empty() || !flush.superseded.is_empty() {
            self.announce_deliveries();
        }
        Ok(())
    }
}
