//! Between alerts and deliveries: the outbox, the notification groups, and the one transaction that turns
//! the former into the latter.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection};
use watchfire_model::alert::Detail;
use watchfire_model::{Severity, Timestamp};

use crate::alerts::AlertSource;
use crate::db::{commit, json, parsed, parsed_opt, pieces, time, time_opt};
use crate::error::StoreError;
use crate::labels::LabelSet;
use crate::{AlertRow, Store, stand_ins};

/// A transition that people may have to be told of, with what is needed to tell them.
#[derive(Clone, Debug, PartialEq)]
pub struct Outbox {
    /// The place in the outbox.
    pub sequence: i64,
    /// The id of the transition.
    pub transition: String,
    /// Its place among transitions.
    pub transition_sequence: i64,
    /// `raised`, `severity_changed`, `realarmed`, `resolved`, or what somebody did to the alert.
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
    /// Who did it, where it was somebody.
    pub actor: Option<String>,
    /// What that somebody said.
    pub comment: Option<String>,
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

/// What is read of a transition to tell people of it: [`Outbox`] without its place.
const TRANSITION: &str = "t.id AS transition, t.sequence AS transition_sequence, t.kind, t.alert, t.severity, \
     t.from_severity, t.from_since, t.reason, t.actor, t.comment, t.summary, t.details, t.at, t.recorded_at, \
     t.rule_version, a.labels, a.raised_at, a.rule, a.source, a.generator_url";

fn outbox(row: &SqliteRow, sequence: i64) -> Result<Outbox, sqlx::Error> {
    Ok(Outbox {
        sequence,
        transition: row.try_get("transition")?,
        transition_sequence: row.try_get("transition_sequence")?,
        kind: row.try_get("kind")?,
        alert: row.try_get("alert")?,
        labels: json(row, "labels")?,
        severity: parsed(row, "severity")?,
        from_severity: parsed_opt(row, "from_severity")?,
        from_since: time_opt(row, "from_since")?,
        reason: row.try_get("reason")?,
        actor: row.try_get("actor")?,
        comment: row.try_get("comment")?,
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
}

/// A notification group. What the body says is the business of the crate that routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// What its members name it by.
    pub id: i64,
    /// Who is told.
    pub receiver: String,
    /// The group.
    pub group_key: String,
    /// JSON.
    pub body: String,
}

/// A label set that a group told, or holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// The group.
    pub group: i64,
    /// Of the label set.
    pub fingerprint: String,
    /// Whose label set it is.
    pub alert: String,
    /// Since when it is as it is.
    pub since: Timestamp,
    /// Whether people were told that it fires.
    pub told: bool,
    /// What holds back what is to be told of it, as JSON; `None`: nothing is to be told.
    pub held_by: Option<String>,
}

/// A label set that a group is still to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRow {
    /// The group.
    pub group: i64,
    /// The order in the group.
    pub position: i64,
    /// The place of the transition.
    pub transition: i64,
    /// `firing` or `resolved`.
    pub part: String,
}

/// An alert that somebody was told of.
#[derive(Clone, Debug, PartialEq)]
pub struct ToldAlert {
    /// The group.
    pub group: i64,
    /// Of the label set that was told; the alert may have another by now.
    pub fingerprint: String,
    /// As it stands.
    pub alert: AlertRow,
}

/// All that is kept of groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRows {
    /// The groups.
    pub groups: Vec<GroupRow>,
    /// What they told and hold.
    pub members: Vec<MemberRow>,
    /// What they are to tell, in order.
    pub pending: Vec<PendingRow>,
}

/// What people did to an alert, as far as it matters to whoever is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseRow {
    /// The alert.
    pub alert: String,
    /// Somebody looks after it.
    pub acknowledged: bool,
    /// Nobody wants to hear of it now.
    pub shelved: bool,
    /// By design, or out of service.
    pub suppressed: bool,
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

/// Why somebody was not told of an alert, or not at once, or by another way.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct DecisionRow {
    /// When.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// The alert.
    pub alert: String,
    /// Who.
    pub receiver: String,
    /// The group.
    pub group_key: String,
    /// What decided: `silence`, `inhibition`, `interval`, `shelved`, `suppressed`, `storm`, `rate`, `escalation`, ...
    pub stage: String,
    /// `held`, `released`, `dropped`, `digest`, `told`.
    pub outcome: String,
    /// For people.
    pub detail: String,
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
    /// Groups that ended, with all that belongs to them.
    pub ended: Vec<i64>,
    /// Members as they are from now on.
    pub members: Vec<MemberRow>,
    /// Members that are gone: group and fingerprint.
    pub left: Vec<(i64, String)>,
    /// What groups are to tell from now on: of the groups named in `emptied`, instead of what they were to tell.
    pub pending: Vec<PendingRow>,
    /// Groups of which everything that was to be told was told.
    pub emptied: Vec<i64>,
    /// Deliveries that newer ones say everything of.
    pub superseded: Vec<String>,
    /// In order.
    pub decisions: Vec<DecisionRow>,
    /// Settings as they are from now on.
    pub settings: Vec<(&'static str, String)>,
    /// Deliveries, by their places, of which another receiver is told: that one's name beside.
    pub stand_ins: Vec<(String, i64)>,
}

impl Store {
    /// What is not routed yet, in order.
    pub async fn unrouted(&self, limit: u32) -> Result<Vec<Outbox>, StoreError> {
        let failed = StoreError::sql("read the outbox");
        let mut query = QueryBuilder::<Sqlite>::new("SELECT o.sequence AS place, ");
        query.push(TRANSITION).push(
            " FROM outbox AS o JOIN transitions AS t ON t.sequence = o.transition \
             JOIN alerts AS a ON a.id = t.alert WHERE o.routed_at IS NULL ORDER BY o.sequence LIMIT ",
        );
        query.push_bind(i64::from(limit));
        let rows = query.build().fetch_all(self.db().read()).await.map_err(&failed)?;
        rows.iter()
            .map(|row| outbox(row, row.try_get("place")?))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(&failed)
    }

    /// Transitions by their places, in their order; those that are gone are left out.
    pub async fn transitions_at(&self, places: &[i64]) -> Result<Vec<Outbox>, StoreError> {
        let failed = StoreError::sql("read transitions");
        let mut found = Vec::with_capacity(places.len());
        for part in pieces(places) {
            let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
            query
                .push(TRANSITION)
                .push(" FROM transitions AS t JOIN alerts AS a ON a.id = t.alert WHERE t.sequence IN (");
            let mut list = query.separated(", ");
            for place in part {
                list.push_bind(*place);
            }
            query.push(") ORDER BY t.sequence");
            let rows = query.build().fetch_all(self.db().read()).await.map_err(&failed)?;
            for row in &rows {
                found.push(outbox(row, 0).map_err(&failed)?);
            }
        }
        Ok(found)
    }

    /// Alerts by their ids, in no order; those that are gone are left out.
    pub async fn alerts_by_id(&self, ids: &[&str]) -> Result<Vec<AlertRow>, StoreError> {
        let failed = StoreError::sql("read alerts");
        let mut found = Vec::with_capacity(ids.len());
        for part in pieces(ids) {
            let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM alerts WHERE id IN (");
            let mut list = query.separated(", ");
            for id in part {
                list.push_bind(*id);
            }
            query.push(")");
            found.extend(query.build_query_as().fetch_all(self.db().read()).await.map_err(&failed)?);
        }
        Ok(found)
    }

    /// The labels of all alerts that are active.
    pub async fn active_labels(&self) -> Result<Vec<LabelSet>, StoreError> {
        let failed = StoreError::sql("read the labels of active alerts");
        let rows = sqlx::query("SELECT labels FROM alerts WHERE state = 'active'")
            .fetch_all(self.db().read())
            .await
            .map_err(&failed)?;
        rows.iter().map(|row| json(row, "labels")).collect::<Result<_, sqlx::Error>>().map_err(&failed)
    }

    /// What people did to alerts that are active, of those to which they did anything.
    pub async fn responses(&self) -> Result<Vec<ResponseRow>, StoreError> {
        let failed = StoreError::sql("read what was done to alerts");
        let rows = sqlx::query(
            "SELECT id, acknowledged_at IS NOT NULL AS acknowledged, shelved_at IS NOT NULL AS shelved, \
             suppressed_at IS NOT NULL AS suppressed FROM alerts WHERE state = 'active' \
             AND (acknowledged_at IS NOT NULL OR shelved_at IS NOT NULL OR suppressed_at IS NOT NULL)",
        )
        .fetch_all(self.db().read())
        .await
        .map_err(&failed)?;
        let response = |row: &SqliteRow| {
            Ok(ResponseRow {
                alert: row.try_get("id")?,
                acknowledged: row.try_get("acknowledged")?,
                shelved: row.try_get("shelved")?,
                suppressed: row.try_get("suppressed")?,
            })
        };
        rows.iter().map(response).collect::<Result<_, sqlx::Error>>().map_err(&failed)
    }

    /// What a receiver was told of alerts that are active, behind a place (group and fingerprint) and in that order; at
    /// most so many.
    pub async fn told_alerts(
        &self,
        receiver: &str,
        after: &(i64, String),
        most: u32,
    ) -> Result<Vec<ToldAlert>, StoreError> {
        let failed = StoreError::sql("read what a receiver was told");
        let rows = sqlx::query(
            "SELECT a.*, m.group_id AS told_group, m.fingerprint AS told_fingerprint \
             FROM notification_groups AS g JOIN notification_members AS m ON m.group_id = g.id \
             JOIN alerts AS a ON a.id = m.alert WHERE g.receiver = $1 AND g.id >= $2 \
             AND (m.group_id, m.fingerprint) > ($2, $3) AND m.told AND a.state = 'active' \
             ORDER BY m.group_id, m.fingerprint LIMIT $4",
        )
        .bind(receiver)
        .bind(after.0)
        .bind(after.1.as_str())
        .bind(i64::from(most))
        .fetch_all(self.db().read())
        .await
        .map_err(&failed)?;
        let told = |row: &SqliteRow| {
            Ok(ToldAlert {
                group: row.try_get("told_group")?,
                fingerprint: row.try_get("told_fingerprint")?,
                alert: <AlertRow as sqlx::FromRow<'_, SqliteRow>>::from_row(row)?,
            })
        };
        rows.iter().map(told).collect::<Result<_, sqlx::Error>>().map_err(&failed)
    }

    /// All notification groups.
    pub async fn groups(&self) -> Result<GroupRows, StoreError> {
        let failed = StoreError::sql("read notification groups");
        // One snapshot: the three belong together.
        let mut transaction = self.db().read().begin().await.map_err(&failed)?;
        let read = async |connection: &mut SqliteConnection| -> Result<GroupRows, sqlx::Error> {
            let mut all = GroupRows::default();
            for row in sqlx::query("SELECT id, receiver, group_key, body FROM notification_groups")
                .fetch_all(&mut *connection)
                .await?
            {
                all.groups.push(GroupRow {
                    id: row.try_get("id")?,
                    receiver: row.try_get("receiver")?,
                    group_key: row.try_get("group_key")?,
                    body: row.try_get("body")?,
                });
            }
            for row in sqlx::query(
                "SELECT group_id, fingerprint, alert, since, told, held_by FROM notification_members",
            )
            .fetch_all(&mut *connection)
            .await?
            {
                all.members.push(MemberRow {
                    group: row.try_get("group_id")?,
                    fingerprint: row.try_get("fingerprint")?,
                    alert: row.try_get("alert")?,
                    since: time(&row, "since")?,
                    told: row.try_get("told")?,
                    held_by: row.try_get("held_by")?,
                });
            }
            for row in sqlx::query(
                "SELECT group_id, position, transition, part FROM notification_pending ORDER BY group_id, position",
            )
            .fetch_all(&mut *connection)
            .await?
            {
                all.pending.push(PendingRow {
                    group: row.try_get("group_id")?,
                    position: row.try_get("position")?,
                    transition: row.try_get("transition")?,
                    part: row.try_get("part")?,
                });
            }
            Ok(all)
        };
        read(&mut transaction).await.map_err(failed)
    }

    /// Decisions on an alert that deliveries do not show, in order; the latest thousand.
    pub async fn decisions(&self, alert: &str) -> Result<Vec<DecisionRow>, StoreError> {
        let failed = StoreError::sql("read decisions");
        let rows = sqlx::query(
            "SELECT * FROM (SELECT * FROM decisions WHERE alert = $1 ORDER BY sequence DESC LIMIT 1000) \
             ORDER BY sequence",
        )
        .bind(alert)
        .fetch_all(self.db().read())
        .await
        .map_err(&failed)?;
        rows.iter()
            .map(|row| {
                Ok(DecisionRow {
                    at: time(row, "at")?,
                    alert: row.try_get("alert")?,
                    receiver: row.try_get("receiver")?,
                    group_key: row.try_get("group_key")?,
                    stage: row.try_get("stage")?,
                    outcome: row.try_get("outcome")?,
                    detail: row.try_get("detail")?,
                })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(&failed)
    }

    /// Writes what routing decided in one transaction.
    pub async fn apply_flush(&self, flush: &Flush, now: Timestamp) -> Result<(), StoreError> {
        const ACTION: &str = "write what routing decided";
        let mut connection = self.db().write().await?;
        write(&mut connection, flush, now).await.map_err(StoreError::sql(ACTION))?;
        commit(connection, ACTION).await?;
        if !flush.deliveries.is_empty() || !flush.superseded.is_empty() {
            self.announce_deliveries();
        }
        Ok(())
    }
}

async fn write(connection: &mut SqliteConnection, flush: &Flush, now: Timestamp) -> Result<(), sqlx::Error> {
    for part in pieces(&flush.routed) {
        let mut query = QueryBuilder::<Sqlite>::new("UPDATE outbox SET routed_at = ");
        query.push_bind(now.0).push(" WHERE sequence IN (");
        in_list(query, part, &mut *connection).await?;
    }
    for id in &flush.superseded {
        sqlx::query(
            "UPDATE deliveries SET state = 'superseded', finished_at = $1 WHERE id = $2 AND state = 'pending'",
        )
        .bind(now.0)
        .bind(id)
        .execute(&mut *connection)
        .await?;
    }
    write_deliveries(connection, &flush.deliveries, now).await?;
    stand_ins::write(connection, &flush.stand_ins).await?;
    write_groups(connection, flush).await?;
    write_members(connection, flush).await?;
    for part in pieces(&flush.decisions) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO decisions (at, alert, receiver, group_key, stage, outcome, detail) ",
        );
        query.push_values(part, |mut tuple, decision| {
            tuple
                .push_bind(decision.at.0)
                .push_bind(decision.alert.as_str())
                .push_bind(decision.receiver.as_str())
                .push_bind(decision.group_key.as_str())
                .push_bind(decision.stage.as_str())
                .push_bind(decision.outcome.as_str())
                .push_bind(decision.detail.as_str());
        });
        query.build().execute(&mut *connection).await?;
    }
    for (key, value) in &flush.settings {
        sqlx::query(
            "INSERT INTO settings (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )
        .bind(*key)
        .bind(value)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Runs a statement that ends with `IN (`.
async fn in_list(
    mut query: QueryBuilder<Sqlite>,
    numbers: &[i64],
    connection: &mut SqliteConnection,
) -> Result<(), sqlx::Error> {
    let mut list = query.separated(", ");
    for number in numbers {
        list.push_bind(*number);
    }
    query.push(")");
    query.build().execute(connection).await.map(drop)
}

async fn write_deliveries(
    connection: &mut SqliteConnection,
    deliveries: &[NewDelivery],
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let mut last: i64 = sqlx::query_scalar("SELECT coalesce(max(sequence), 0) FROM deliveries")
        .fetch_one(&mut *connection)
        .await?;
    let mut alerts: Vec<(&str, i64)> = Vec::new();
    for part in pieces(deliveries) {
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
        query.build().execute(&mut *connection).await?;
    }
    for part in pieces(&alerts) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO delivery_alerts (alert, delivery) ");
        query.push_values(part, |mut tuple, (alert, delivery)| {
            tuple.push_bind(*alert).push_bind(*delivery);
        });
        query.push(" ON CONFLICT (alert, delivery) DO NOTHING");
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}

async fn write_groups(connection: &mut SqliteConnection, flush: &Flush) -> Result<(), sqlx::Error> {
    for part in pieces(&flush.groups) {
        let mut query =
            QueryBuilder::<Sqlite>::new("INSERT INTO notification_groups (id, receiver, group_key, body) ");
        query.push_values(part, |mut tuple, group| {
            tuple
                .push_bind(group.id)
                .push_bind(group.receiver.as_str())
                .push_bind(group.group_key.as_str())
                .push_bind(group.body.as_str());
        });
        query.push(" ON CONFLICT (id) DO UPDATE SET body = excluded.body");
        query.build().execute(&mut *connection).await?;
    }
    for part in pieces(&flush.ended) {
        for statement in [
            "DELETE FROM notification_groups WHERE id IN (",
            "DELETE FROM notification_members WHERE group_id IN (",
            "DELETE FROM notification_pending WHERE group_id IN (",
        ] {
            in_list(QueryBuilder::new(statement), part, &mut *connection).await?;
        }
    }
    Ok(())
}

async fn write_members(connection: &mut SqliteConnection, flush: &Flush) -> Result<(), sqlx::Error> {
    for part in pieces(&flush.left) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "DELETE FROM notification_members WHERE (group_id, fingerprint) IN (",
        );
        query.push_values(part, |mut tuple, (group, fingerprint)| {
            tuple.push_bind(*group).push_bind(fingerprint.as_str());
        });
        query.push(")");
        query.build().execute(&mut *connection).await?;
    }
    for part in pieces(&flush.members) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO notification_members (group_id, fingerprint, alert, since, told, held_by) ",
        );
        query.push_values(part, |mut tuple, member| {
            tuple
                .push_bind(member.group)
                .push_bind(member.fingerprint.as_str())
                .push_bind(member.alert.as_str())
                .push_bind(member.since.0)
                .push_bind(member.told)
                .push_bind(member.held_by.as_deref());
        });
        query.push(
            " ON CONFLICT (group_id, fingerprint) DO UPDATE SET alert = excluded.alert, since = excluded.since, \
             told = excluded.told, held_by = excluded.held_by",
        );
        query.build().execute(&mut *connection).await?;
    }
    for part in pieces(&flush.emptied) {
        let query = QueryBuilder::new("DELETE FROM notification_pending WHERE group_id IN (");
        in_list(query, part, &mut *connection).await?;
    }
    for part in pieces(&flush.pending) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO notification_pending (group_id, position, transition, part) ",
        );
        query.push_values(part, |mut tuple, pending| {
            tuple
                .push_bind(pending.group)
                .push_bind(pending.position)
                .push_bind(pending.transition)
                .push_bind(pending.part.as_str());
        });
        query.push(" ON CONFLICT (group_id, position) DO NOTHING");
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}
