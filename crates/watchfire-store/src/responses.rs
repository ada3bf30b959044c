//! What people do to alerts, written: each a row of the history and, where somebody may have to be told, of the
//! outbox, with the alert as it then stands, in one transaction. And the sweep that ends what was for a time.

use sqlx::{Row as _, SqliteConnection};
use watchfire_model::Timestamp;
use watchfire_telemetry::metrics;

use crate::Store;
use crate::alerts::{AlertRow, AlertState};
use crate::db::{Page, commit, limit, parsed, time, time_opt, to_json};
use crate::error::StoreError;
use crate::response::{Act, Event, ShelfRow, expire};

/// Alerts in one transaction at most: others want to write too.
pub(crate) const PART: u32 = 500;

/// What a sweep ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Acknowledgements that were for a time.
    pub unacknowledged: u64,
    /// Alerts whose shelving is over.
    pub unshelved: u64,
    /// Alerts whose shelving is over soon.
    pub expiring: u64,
    /// Alerts that lost or took a flag because a device or a rule came into service or went out of it.
    pub service: u64,
    /// There is more to do at once.
    pub more: bool,
}

/// What came of something that was done to many alerts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Done {
    /// The alerts that changed, as they stand.
    pub changed: Vec<AlertRow>,
    /// Those that were so already, or are over or gone by now.
    pub unchanged: u64,
}

impl Store {
    /// Does something to an alert; gives it as it then stands. What is so already changes nothing.
    pub async fn respond(
        &self,
        id: &str,
        act: &Act,
        by: &str,
        at: Timestamp,
    ) -> Result<AlertRow, StoreError> {
        const ACTION: &str = "record a response";
        let mut connection = self.db().write().await?;
        let mut alert = load(&mut connection, id)
            .await
            .map_err(StoreError::sql(ACTION))?
            .ok_or_else(|| StoreError::NotFound { what: "alert", id: id.into() })?;
        if matches!(act, Act::Unshelve { .. }) && alert.state == AlertState::Resolved {
            refuse_if_newer(&mut connection, &alert).await?;
        }
        let Some(sequence) = act_on(&mut connection, &mut alert, act, by, at).await? else {
            return Ok(alert);
        };
        commit(connection, ACTION).await?;
        self.announce_transitions(sequence);
        Ok(alert)
    }

    /// Does the same to many alerts, all of it or nothing. Those to which it cannot be done stay as they are.
    pub async fn respond_all(
        &self,
        ids: &[String],
        act: &Act,
        by: &str,
        at: Timestamp,
    ) -> Result<Done, StoreError> {
        const ACTION: &str = "record responses";
        let mut done = Done::default();
        let mut last = None;
        let mut connection = self.db().write().await?;
        for id in ids {
            let found = load(&mut connection, id).await.map_err(StoreError::sql(ACTION))?;
            let Some(mut alert) = found else {
                done.unchanged += 1;
                continue;
            };
            match act_on(&mut connection, &mut alert, act, by, at).await {
                Ok(Some(sequence)) => {
                    last = Some(sequence);
                    done.changed.push(alert);
                }
                Ok(None) | Err(StoreError::Refused(_)) => done.unchanged += 1,
                Err(error) => return Err(error),
            }
        }
        if let Some(sequence) = last {
            commit(connection, ACTION).await?;
            self.announce_transitions(sequence);
        }
        Ok(done)
    }

    /// Somebody knows of the alert, until it ends. Saying it again changes nothing and gives the alert as it is.
    pub async fn acknowledge(
        &self,
        id: &str,
        by: &str,
        comment: Option<&str>,
        at: Timestamp,
    ) -> Result<AlertRow, StoreError> {
        let act = Act::Acknowledge { until: None, comment: comment.map(Into::into) };
        self.respond(id, &act, by, at).await
    }

    /// A remark in the history of the alert.
    pub async fn comment(
        &self,
        id: &str,
        by: &str,
        comment: &str,
        at: Timestamp,
    ) -> Result<AlertRow, StoreError> {
        self.respond(id, &Act::Comment { comment: comment.into() }, by, at).await
    }

    /// Ends what was for a time, and tells of what will end soon, as of `now`. Does a bounded part of it: where there
    /// is `more`, it wants to be called again.
    pub async fn expire_responses(&self, now: Timestamp) -> Result<Expired, StoreError> {
        let mut expired = Expired::default();
        if self.something_is_over(now).await? {
            self.expire_part(now, &mut expired).await?;
        }
        let (alerts, more) = self.settle_service(now).await?;
        expired.service = alerts;
        expired.more |= more;
        Ok(expired)
    }

    /// Asked without the connection that writes: nearly always nothing is.
    async fn something_is_over(&self, now: Timestamp) -> Result<bool, StoreError> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM alerts WHERE acknowledged_until <= $1) \
             OR EXISTS (SELECT 1 FROM alerts WHERE shelved_until <= $1) \
             OR EXISTS (SELECT 1 FROM alerts WHERE shelve_notice_at <= $1) \
             OR EXISTS (SELECT 1 FROM shelves WHERE until <= $1)",
        )
        .bind(now.0)
        .fetch_one(self.db().read())
        .await
        .map_err(StoreError::sql("look for what is over"))
    }

    async fn expire_part(&self, now: Timestamp, expired: &mut Expired) -> Result<(), StoreError> {
        const ACTION: &str = "end what was for a time";
        let failed = StoreError::sql(ACTION);
        let mut connection = self.db().write().await?;
        // Each of the three in its own index, the earliest first.
        let due: Vec<AlertRow> = sqlx::query_as(
            "SELECT * FROM alerts WHERE id IN ( \
             SELECT id FROM (SELECT id FROM alerts WHERE acknowledged_until <= $1 ORDER BY acknowledged_until LIMIT $2) \
             UNION SELECT id FROM (SELECT id FROM alerts WHERE shelved_until <= $1 ORDER BY shelved_until LIMIT $2) \
             UNION SELECT id FROM (SELECT id FROM alerts WHERE shelve_notice_at <= $1 ORDER BY shelve_notice_at LIMIT $2)) \
             ORDER BY sequence",
        )
        .bind(now.0)
        .bind(i64::from(PART))
        .fetch_all(&mut *connection)
        .await
        .map_err(&failed)?;
        let mut last = None;
        for mut alert in due {
            for event in expire(&mut alert, now) {
                last = Some(record(&mut connection, &alert, &event, None, now).await.map_err(&failed)?);
                match event.kind {
                    "unacknowledged" => expired.unacknowledged += 1,
                    "unshelved" => expired.unshelved += 1,
                    _ => expired.expiring += 1,
                }
            }
            write_response(&mut connection, &alert).await.map_err(&failed)?;
        }
        sqlx::query("DELETE FROM shelves WHERE until <= $1")
            .bind(now.0)
            .execute(&mut *connection)
            .await
            .map_err(&failed)?;
        commit(connection, ACTION).await?;
        let ended = expired.unacknowledged + expired.unshelved + expired.expiring;
        expired.more |= ended >= u64::from(PART);
        if let Some(sequence) = last {
            self.announce_transitions(sequence);
        }
        Ok(())
    }

    /// Conditions that are shelved for a time, by rule, device and key. An alert of theirs that is active is shelved
    /// as well; where there is none, the next one will be.
    pub async fn shelves(&self, cursor: Option<&str>, asked: u32) -> Result<Page<ShelfRow>, StoreError> {
        let limit = limit(asked);
        let after: (String, String, String, String) = match cursor {
            Some(cursor) => serde_json::from_str(cursor).map_err(|_| StoreError::Cursor(cursor.into()))?,
            None => Default::default(),
        };
        let rows: Vec<ShelfRow> = sqlx::query_as(
            "SELECT * FROM shelves WHERE (rule, device, key, source) > ($1, $2, $3, $4) \
             ORDER BY rule, device, key, source LIMIT $5",
        )
        .bind(after.0)
        .bind(after.1)
        .bind(after.2)
        .bind(after.3)
        .bind(i64::from(limit) + 1)
        .fetch_all(self.db().read())
        .await
        .map_err(StoreError::sql("list shelves"))?;
        Ok(Page::of(rows, limit, |row| to_json(&(&row.rule, &row.device, &row.key, row.source.as_str()))))
    }
}

impl sqlx::FromRow<'_, sqlx::sqlite::SqliteRow> for ShelfRow {
    fn from_row(row: &sqlx::sqlite::SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            rule: row.try_get("rule")?,
            device: row.try_get("device")?,
            key: row.try_get("key")?,
            source: parsed(row, "source")?,
            alert: row.try_get("alert")?,
            shelved_at: time(row, "shelved_at")?,
            shelved_by: row.try_get("shelved_by")?,
            reason: row.try_get("reason")?,
            until: time(row, "until")?,
            notice_at: time_opt(row, "notice_at")?,
        })
    }
}

async fn load(connection: &mut SqliteConnection, id: &str) -> Result<Option<AlertRow>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM alerts WHERE id = $1").bind(id).fetch_optional(connection).await
}

/// Whoever ends the shelving of a condition by an alert that is over means the one that is not, if there is one.
async fn refuse_if_newer(connection: &mut SqliteConnection, alert: &AlertRow) -> Result<(), StoreError> {
    let newer: Option<String> = sqlx::query_scalar(
        "SELECT id FROM alerts WHERE state = 'active' AND rule = $1 AND device = $2 AND key = $3 \
         AND source = $4 AND shelved_at IS NOT NULL",
    )
    .bind(&alert.rule)
    .bind(&alert.device)
    .bind(&alert.key)
    .bind(alert.source.as_str())
    .fetch_optional(connection)
    .await
    .map_err(StoreError::sql("look for a newer alert"))?;
    match newer {
        Some(id) => {
            Err(StoreError::Refused(format!("the alert is resolved, and the one that is shelved is {id}")))
        }
        None => Ok(()),
    }
}

/// Does it within a transaction; gives the sequence of what was written. `None`: nothing was.
async fn act_on(
    connection: &mut SqliteConnection,
    alert: &mut AlertRow,
    act: &Act,
    by: &str,
    at: Timestamp,
) -> Result<Option<i64>, StoreError> {
    let failed = StoreError::sql("record a response");
    let first = alert.acknowledged_at.is_none();
    let mut event = act.apply(alert, by, at)?;
    if let Act::Unshelve { comment } = act
        && forget_shelf(connection, alert).await.map_err(&failed)?
        && event.is_none()
    {
        // The alert is over, and its condition was still shelved.
        event = Some(Event { comment: comment.clone(), ..Event::new("unshelved", false) });
    }
    let Some(event) = event else { return Ok(None) };
    if let Act::Shelve { until, one_shot, notice_at, reason } = act {
        forget_shelf(connection, alert).await.map_err(&failed)?;
        if !one_shot {
            keep_shelf(connection, alert, by, at, *until, *notice_at, reason).await.map_err(&failed)?;
        }
    }
    if event.kind == "acknowledged" && first {
        measure_acknowledgement(connection, alert, at).await.map_err(&failed)?;
    }
    let sequence = record(connection, alert, &event, Some(by), at).await.map_err(&failed)?;
    write_response(connection, alert).await.map_err(&failed)?;
    Ok(Some(sequence))
}

/// How long it took from when the raise became known here to the first acknowledgement.
async fn measure_acknowledgement(
    connection: &mut SqliteConnection,
    alert: &AlertRow,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    let raised: Option<i64> = sqlx::query_scalar(
        "SELECT recorded_at FROM transitions WHERE sequence = $1 AND alert = $2 AND NOT EXISTS \
         (SELECT 1 FROM transitions WHERE alert = $2 AND kind = 'acknowledged')",
    )
    .bind(alert.sequence)
    .bind(&alert.id)
    .fetch_optional(connection)
    .await?;
    if let Some(raised) = raised {
        metrics().alerts.acknowledge_seconds.observe(at.since(Timestamp(raised)).as_secs_f64());
    }
    Ok(())
}

async fn forget_shelf(connection: &mut SqliteConnection, alert: &AlertRow) -> Result<bool, sqlx::Error> {
    let done =
        sqlx::query("DELETE FROM shelves WHERE rule = $1 AND device = $2 AND key = $3 AND source = $4")
            .bind(&alert.rule)
            .bind(&alert.device)
            .bind(&alert.key)
            .bind(alert.source.as_str())
            .execute(connection)
            .await?;
    Ok(done.rows_affected() > 0)
}

async fn keep_shelf(
    connection: &mut SqliteConnection,
    alert: &AlertRow,
    by: &str,
    at: Timestamp,
    until: Timestamp,
    notice_at: Option<Timestamp>,
    reason: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO shelves (rule, device, key, alert, shelved_at, shelved_by, reason, until, notice_at, source) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(&alert.rule)
    .bind(&alert.device)
    .bind(&alert.key)
    .bind(&alert.id)
    .bind(at.0)
    .bind(by)
    .bind(reason)
    .bind(until.0)
    .bind(notice_at.map(|time| time.0))
    .bind(alert.source.as_str())
    .execute(connection)
    .await
    .map(drop)
}

/// A row of the history, and of the outbox where somebody may have to be told; gives its sequence.
pub(crate) async fn record(
    connection: &mut SqliteConnection,
    alert: &AlertRow,
    event: &Event,
    by: Option<&str>,
    at: Timestamp,
) -> Result<i64, sqlx::Error> {
    let sequence: i64 = sqlx::query_scalar(
        "INSERT INTO transitions (sequence, id, alert, kind, severity, from_since, reason, summary, details, at, \
         recorded_at, rule_version, actor, comment) \
         SELECT coalesce(max(sequence), 0) + 1, \
         'response/' || CAST(coalesce(max(sequence), 0) + 1 AS TEXT), $1, $2, $3, $4, $5, $6, $7, $8, $8, \
         $9, $10, $11 FROM transitions RETURNING sequence",
    )
    .bind(&alert.id)
    .bind(event.kind)
    .bind(alert.severity.as_str())
    .bind(alert.severity_since.0)
    .bind(event.reason)
    .bind(&alert.summary)
    .bind(to_json(&event.details))
    .bind(at.0)
    .bind(i64::from(alert.rule_version))
    .bind(by)
    .bind(&event.comment)
    .fetch_one(&mut *connection)
    .await?;
    if event.outbox {
        sqlx::query("INSERT INTO outbox (transition) VALUES ($1)")
            .bind(sequence)
            .execute(&mut *connection)
            .await?;
    }
    metrics().alerts.responses.get_or_create(&[("kind", event.kind.to_string())]).inc();
    Ok(sequence)
}

/// The flags of an alert as they stand.
pub(crate) async fn write_response(
    connection: &mut SqliteConnection,
    alert: &AlertRow,
) -> Result<(), sqlx::Error> {
    let response = &alert.response;
    let time = |time: Option<Timestamp>| time.map(|time| time.0);
    sqlx::query(
        "UPDATE alerts SET acknowledged_at = $2, acknowledged_by = $3, acknowledge_comment = $4, \
         acknowledged_until = $5, confirmed_at = $6, confirmed_by = $7, confirm_comment = $8, shelved_at = $9, \
         shelved_by = $10, shelve_reason = $11, shelved_until = $12, shelve_one_shot = $13, \
         shelve_notice_at = $14, suppressed_at = $15, suppressed_by = $16, suppress_reason = $17, \
         suppressed_as = $18, assigned_to = $19, assigned_by = $20, assigned_at = $21 WHERE id = $1",
    )
    .bind(&alert.id)
    .bind(time(alert.acknowledged_at))
    .bind(&alert.acknowledged_by)
    .bind(&alert.acknowledge_comment)
    .bind(time(response.acknowledged_until))
    .bind(time(response.confirmed_at))
    .bind(&response.confirmed_by)
    .bind(&response.confirm_comment)
    .bind(time(response.shelved_at))
    .bind(&response.shelved_by)
    .bind(&response.shelve_reason)
    .bind(time(response.shelved_until))
    .bind(response.shelve_one_shot)
    .bind(time(response.shelve_notice_at))
    .bind(time(response.suppressed_at))
    .bind(&response.suppressed_by)
    .bind(&response.suppress_reason)
    .bind(response.suppressed_as.map(|kind| kind.as_str()))
    .bind(&response.assigned_to)
    .bind(&response.assigned_by)
    .bind(time(response.assigned_at))
    .execute(connection)
    .await
    .map(drop)
}
