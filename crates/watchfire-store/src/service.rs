//! Devices and rules that are out of service, or suppressed by design: their alerts are evaluated and recorded as
//! ever, and nobody is told of them.
//!
//! An alert takes the flag when it is raised, in the same transaction. Those that are active when a device or a rule
//! goes out of service, or comes back, take or lose it part by part, because they may be many: how far that got is kept,
//! so that it goes on after a restart.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection};
use utoipa::ToSchema;
use watchfire_model::Timestamp;

use crate::Store;
use crate::alerts::AlertRow;
use crate::db::{Page, commit, limit, parsed, pieces, time, time_opt, to_json};
use crate::error::StoreError;
use crate::fold::Identity;
use crate::response::{ShelfRow, SuppressedAs, suppress, unsuppress};
use crate::responses::{PART, record, write_response};

/// A device, a rule, or a rule on a device, of whose alerts nobody is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ServiceRow {
    /// Alerts of this device; missing: of any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Alerts of this rule; missing: of any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Which of the two.
    pub kind: SuppressedAs,
    /// Why.
    pub reason: String,
    /// Who said so.
    pub created_by: String,
    /// When.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
    /// It ends by itself then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub until: Option<Timestamp>,
}

impl ServiceRow {
    fn key(&self) -> (&str, &str) {
        (self.device.as_deref().unwrap_or_default(), self.rule.as_deref().unwrap_or_default())
    }

    fn check(&self) -> Result<(), StoreError> {
        let refuse = |why: &str| Err(StoreError::Refused(why.into()));
        if self.key() == ("", "") {
            return refuse("a device, a rule or both have to be named: a silence is for everything else");
        }
        if self.reason.trim().is_empty() {
            return refuse("whoever takes something out of service says why");
        }
        if self.until.is_some_and(|until| until <= self.created_at) {
            return refuse("the time is over already: nothing would be out of service");
        }
        Ok(())
    }
}

/// A row with what only the sweep looks at.
struct Changing {
    row: ServiceRow,
    ends: bool,
    progress: i64,
    ended_by: Option<String>,
    ended_comment: Option<String>,
}

fn optional(row: &SqliteRow, column: &str) -> Result<Option<String>, sqlx::Error> {
    Ok(Some(row.try_get::<String, _>(column)?).filter(|text| !text.is_empty()))
}

impl sqlx::FromRow<'_, SqliteRow> for ServiceRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            device: optional(row, "device")?,
            rule: optional(row, "rule")?,
            kind: parsed(row, "kind")?,
            reason: row.try_get("reason")?,
            created_by: row.try_get("created_by")?,
            created_at: time(row, "created_at")?,
            until: time_opt(row, "until")?,
        })
    }
}

impl sqlx::FromRow<'_, SqliteRow> for Changing {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            ends: row.try_get::<&str, _>("phase")? == "ending",
            progress: row.try_get("progress")?,
            ended_by: row.try_get("ended_by")?,
            ended_comment: row.try_get("ended_comment")?,
            row: ServiceRow::from_row(row)?,
        })
    }
}

impl Store {
    /// Takes something out of service, or says anew why and until when. Alerts that are active take the flag with the
    /// following calls of [`Store::settle_service`].
    pub async fn take_out_of_service(&self, row: &ServiceRow) -> Result<(), StoreError> {
        row.check()?;
        let (device, rule) = row.key();
        sqlx::query(
            "INSERT INTO out_of_service (device, rule, kind, reason, created_by, created_at, until, phase, progress) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, 'beginning', 0) ON CONFLICT (device, rule) DO UPDATE SET \
             kind = excluded.kind, reason = excluded.reason, created_by = excluded.created_by, \
             created_at = excluded.created_at, until = excluded.until, phase = 'beginning', progress = 0, \
             ended_by = NULL, ended_comment = NULL",
        )
        .bind(device)
        .bind(rule)
        .bind(row.kind.as_str())
        .bind(row.reason.trim())
        .bind(&row.created_by)
        .bind(row.created_at.0)
        .bind(row.until.map(|until| until.0))
        .execute(self.db().writer())
        .await
        .map(drop)
        .map_err(StoreError::sql("take something out of service"))
    }

    /// Brings something back into service; says whether it was out of it. Alerts that are active lose the flag with
    /// the following calls of [`Store::settle_service`].
    pub async fn bring_into_service(
        &self,
        device: Option<&str>,
        rule: Option<&str>,
        by: &str,
        comment: Option<&str>,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE out_of_service SET phase = 'ending', progress = 0, ended_by = $3, ended_comment = $4 \
             WHERE device = $1 AND rule = $2 AND phase <> 'ending'",
        )
        .bind(device.unwrap_or_default())
        .bind(rule.unwrap_or_default())
        .bind(by)
        .bind(comment)
        .execute(self.db().writer())
        .await
        .map_err(StoreError::sql("bring something into service"))?;
        Ok(done.rows_affected() > 0)
    }

    /// What is out of service, by device and rule; of this device or this rule, where they are given.
    pub async fn out_of_service(
        &self,
        device: Option<&str>,
        rule: Option<&str>,
        cursor: Option<&str>,
        asked: u32,
    ) -> Result<Page<ServiceRow>, StoreError> {
        let limit = limit(asked);
        let after: (String, String) = match cursor {
            Some(cursor) => serde_json::from_str(cursor).map_err(|_| StoreError::Cursor(cursor.into()))?,
            None => Default::default(),
        };
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT * FROM out_of_service WHERE phase <> 'ending' AND (device, rule) > (",
        );
        query.push_bind(after.0).push(", ").push_bind(after.1).push(")");
        for (column, value) in [(" AND device = ", device), (" AND rule = ", rule)] {
            if let Some(value) = value {
                query.push(column).push_bind(value);
            }
        }
        query.push(" ORDER BY device, rule LIMIT ").push_bind(i64::from(limit) + 1);
        let rows: Vec<ServiceRow> = query
            .build_query_as()
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("list what is out of service"))?;
        Ok(Page::of(rows, limit, |row| to_json(&row.key())))
    }

    /// Gives the flag to active alerts of what went out of service, and takes it from those of what came back or whose
    /// time is over, as of `now`. Does a bounded part; gives how many alerts changed, and whether there is more.
    pub async fn settle_service(&self, now: Timestamp) -> Result<(u64, bool), StoreError> {
        const ACTION: &str = "settle what is out of service";
        let failed = StoreError::sql(ACTION);
        // Asked without the connection that writes: nearly always nothing changes.
        let waits: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM out_of_service WHERE phase <> 'in_force') \
             OR EXISTS (SELECT 1 FROM out_of_service WHERE until <= $1)",
        )
        .bind(now.0)
        .fetch_one(self.db().read())
        .await
        .map_err(&failed)?;
        if !waits {
            return Ok((0, false));
        }
        let mut connection = self.db().write().await?;
        let (last, changed) = settle_part(&mut connection, now).await.map_err(&failed)?;
        commit(connection, ACTION).await?;
        if let Some(sequence) = last {
            self.announce_transitions(sequence);
        }
        // What comes next may wait for somebody else: whoever calls asks again.
        Ok((changed, true))
    }
}

/// One part of one row. Gives the sequence of the last transition, and how many alerts changed.
async fn settle_part(
    connection: &mut SqliteConnection,
    now: Timestamp,
) -> Result<(Option<i64>, u64), sqlx::Error> {
    sqlx::query(
        "UPDATE out_of_service SET phase = 'ending', progress = 0 WHERE until <= $1 AND phase <> 'ending'",
    )
    .bind(now.0)
    .execute(&mut *connection)
    .await?;
    let changing: Option<Changing> = sqlx::query_as(
        "SELECT * FROM out_of_service WHERE phase <> 'in_force' ORDER BY device, rule LIMIT 1",
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(Changing { row, ends, progress, ended_by, ended_comment }) = changing else {
        return Ok((None, 0));
    };
    let mut query =
        QueryBuilder::<Sqlite>::new("SELECT * FROM alerts WHERE state = 'active' AND sequence > ");
    query.push_bind(progress);
    for (column, value) in [(" AND device = ", &row.device), (" AND rule = ", &row.rule)] {
        if let Some(value) = value {
            query.push(column).push_bind(value.as_str());
        }
    }
    query.push(" ORDER BY sequence LIMIT ").push_bind(i64::from(PART));
    let alerts: Vec<AlertRow> = query.build_query_as().fetch_all(&mut *connection).await?;
    let full = alerts.len() >= PART as usize;
    let behind = alerts.last().map_or(progress, |alert| alert.sequence);
    let (mut last, mut changed) = (None, 0);
    for mut alert in alerts {
        // With what ends still among them an alert would never be free of it.
        let standing = covering(connection, &alert).await?;
        let response = &alert.response;
        let as_told = standing.as_ref().is_some_and(|standing| {
            response.suppressed_as == Some(standing.kind)
                && response.suppress_reason.as_ref() == Some(&standing.reason)
        });
        let (event, actor) = match standing {
            Some(_) if as_told => continue,
            Some(by) => (suppress(&mut alert, by.kind, &by.created_by, &by.reason, now), Some(by.created_by)),
            None if alert.response.suppressed_at.is_none() => continue,
            None => {
                let expired = ended_by.is_none();
                (unsuppress(&mut alert, ended_comment.as_deref(), expired), ended_by.clone())
            }
        };
        last = Some(record(connection, &alert, &event, actor.as_deref(), now).await?);
        write_response(connection, &alert).await?;
        changed += 1;
    }
    let (device, rule) = row.key();
    let query = match (full, ends) {
        (true, _) => sqlx::query("UPDATE out_of_service SET progress = $3 WHERE device = $1 AND rule = $2"),
        (false, true) => sqlx::query("DELETE FROM out_of_service WHERE device = $1 AND rule = $2"),
        (false, false) => sqlx::query(
            "UPDATE out_of_service SET phase = 'in_force', progress = $3 WHERE device = $1 AND rule = $2",
        ),
    };
    let query = query.bind(device).bind(rule);
    let query = if !full && ends { query } else { query.bind(behind) };
    query.execute(&mut *connection).await?;
    Ok((last, changed))
}

/// What an alert is out of service by: what says most of it, where there are several.
async fn covering(
    connection: &mut SqliteConnection,
    alert: &AlertRow,
) -> Result<Option<ServiceRow>, sqlx::Error> {
    sqlx::query_as(
        "SELECT * FROM out_of_service WHERE device IN ($1, '') AND rule IN ($2, '') AND phase <> 'ending' \
         ORDER BY device DESC, rule DESC LIMIT 1",
    )
    .bind(&alert.device)
    .bind(&alert.rule)
    .fetch_optional(connection)
    .await
}

/// What alerts are born with: out of service, or shelved.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    services: HashMap<(String, String), ServiceRow>,
    shelves: HashMap<Identity, ShelfRow>,
}

impl Standing {
    /// What concerns alerts of these rules, devices and keys.
    pub(crate) async fn load(
        connection: &mut SqliteConnection,
        identities: &[(&str, &str, &str)],
    ) -> Result<Self, sqlx::Error> {
        let mut standing = Self::default();
        let row = sqlx::query(
            "SELECT EXISTS (SELECT 1 FROM out_of_service) AS services, EXISTS (SELECT 1 FROM shelves) AS shelves",
        )
        .fetch_one(&mut *connection)
        .await?;
        if row.try_get::<bool, _>("services")? {
            for part in pieces(identities) {
                let mut query = QueryBuilder::<Sqlite>::new("SELECT DISTINCT o.* FROM (");
                query.push_values(part, |mut tuple, (rule, device, _)| {
                    tuple.push_bind(*rule).push_bind(*device);
                });
                query.push(
                    ") AS w CROSS JOIN out_of_service AS o WHERE o.device IN (w.column2, '') \
                     AND o.rule IN (w.column1, '') AND o.phase <> 'ending'",
                );
                for row in query.build_query_as::<ServiceRow>().fetch_all(&mut *connection).await? {
                    let (device, rule) = row.key();
                    standing.services.insert((device.into(), rule.into()), row);
                }
            }
        }
        if row.try_get::<bool, _>("shelves")? {
            for part in pieces(identities) {
                let mut query = QueryBuilder::<Sqlite>::new("SELECT DISTINCT s.* FROM (");
                query.push_values(part, |mut tuple, (rule, device, key)| {
                    tuple.push_bind(*rule).push_bind(*device).push_bind(*key);
                });
                query.push(
                    ") AS w CROSS JOIN shelves AS s WHERE s.rule = w.column1 AND s.device = w.column2 \
                     AND s.key = w.column3",
                );
                for row in query.build_query_as::<ShelfRow>().fetch_all(&mut *connection).await? {
                    let of = (row.rule.clone(), row.device.clone(), row.key.clone(), row.source);
                    standing.shelves.insert(of, row);
                }
            }
        }
        Ok(standing)
    }

    /// What an alert of this rule and device is out of service by: what says most of it.
    pub(crate) fn service(&self, alert: &AlertRow) -> Option<&ServiceRow> {
        if self.services.is_empty() {
            return None;
        }
        [(alert.device.as_str(), alert.rule.as_str()), (&alert.device, ""), ("", &alert.rule)]
            .into_iter()
            .find_map(|(device, rule)| self.services.get(&(device.to_string(), rule.to_string())))
    }

    /// The shelf of its condition.
    pub(crate) fn shelf(&self, alert: &AlertRow) -> Option<&ShelfRow> {
        if self.shelves.is_empty() {
            return None;
        }
        let of = (alert.rule.clone(), alert.device.clone(), alert.key.clone(), alert.source);
        self.shelves.get(&of)
    }
}
