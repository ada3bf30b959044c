//! Inputs that could not be used, and rows whose rule failed: kept whole, within bounds.

use std::sync::PoisonError;

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};
use utoipa::ToSchema;
use watchfire_model::Timestamp;
use watchfire_telemetry::metrics;

use crate::Store;
use crate::db::{Page, commit, limit, pieces, sequence_cursor, time, time_opt};
use crate::error::StoreError;

/// How many dead letters are kept; past a bound the oldest go, and are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterBounds {
    /// Letters.
    pub letters: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

impl Default for DeadLetterBounds {
    /// 100 000 letters or 256 MiB: days of a normal fleet, minutes of one that sends nothing but garbage.
    fn default() -> Self {
        Self { letters: 100_000, bytes: 256 << 20 }
    }
}

/// What the table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetterTotals {
    /// Letters.
    pub letters: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Letters that the bounds dropped, ever.
    pub dropped: u64,
}

/// A dead letter that is to be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewDeadLetter {
    /// `epoch/partition/offset/index`; unique, so that projecting a record again changes nothing.
    pub id: String,
    /// When the log received it.
    pub at: Timestamp,
    /// `decode` or `rule`.
    pub kind: String,
    /// The source: `mqtt`, `http`, or the name of a configured one; of a rule's: the stream.
    pub source: String,
    /// Topic or path.
    pub address: String,
    /// The device, where it is known.
    pub device: Option<String>,
    /// Who sent it, by kind and name, such as `device:press-1`.
    pub sender: Option<String>,
    /// A stable code.
    pub code: String,
    /// What is wrong, for people.
    pub reason: String,
    /// The bytes as they came; with kind `rule` the rows that the rule did not get to see, a line of JSON each.
    pub payload: Vec<u8>,
    /// With kind `rule`: which.
    pub rule: Option<String>,
    /// With kind `rule`: its version.
    pub rule_version: Option<u32>,
    /// The record: `epoch/partition/offset`.
    pub position: String,
    /// With kind `rule`: the callback that failed.
    pub callback: Option<String>,
    /// With kind `rule`: how many rows the rule did not get to see.
    pub rows: u64,
    /// With kind `rule`: the handles of their devices, one for each line of the payload; none where the rows could
    /// not be kept.
    pub handles: Vec<u32>,
    /// With kind `rule`: the state of their devices before the call, blobs as hex digits by slot, by device; `None`:
    /// there was none, or more than is noted.
    pub state_before: Option<serde_json::Value>,
}

/// Rows of a dead letter, as a replay needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRows {
    /// Their letter.
    pub id: String,
    /// Its place in the order of letters.
    pub sequence: i64,
    /// The stream.
    pub source: String,
    /// A line of JSON each.
    pub payload: Vec<u8>,
    /// The handles of their devices.
    pub handles: Vec<u32>,
}

/// A dead letter that is kept.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DeadLetterRow {
    /// The order in which they were kept.
    pub sequence: i64,
    /// `epoch/partition/offset/index`.
    pub id: String,
    /// When the log received it.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// `decode` or `rule`.
    pub kind: String,
    /// The source.
    pub source: String,
    /// Topic or path.
    pub address: String,
    /// The device, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Who sent it, by kind and name, such as `device:press-1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// A stable code.
    pub code: String,
    /// What is wrong, for people.
    pub reason: String,
    /// The bytes as they came; in lists the first 1024 of them. Not part of JSON: whoever answers with it
    /// decides between text and base64.
    #[serde(skip)]
    pub payload: Vec<u8>,
    /// How many bytes there are.
    pub size: u64,
    /// The rule that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_version: Option<u32>,
    /// The record.
    pub position: String,
    /// The callback that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
    /// How many rows the rule did not get to see: lines of the payload.
    #[serde(skip_serializing_if = "is_zero")]
    pub rows: u64,
    /// What the rule had stored of their devices before the call: blobs as hex digits by slot, by device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub state_before: Option<serde_json::Value>,
    /// When it was replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub replayed_at: Option<Timestamp>,
    /// By whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed_by: Option<String>,
}

fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

impl sqlx::FromRow<'_, SqliteRow> for DeadLetterRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            sequence: row.try_get("sequence")?,
            id: row.try_get("id")?,
            at: time(row, "at")?,
            kind: row.try_get("kind")?,
            source: row.try_get("source")?,
            address: row.try_get("address")?,
            device: row.try_get("device")?,
            sender: row.try_get("sender")?,
            code: row.try_get("code")?,
            reason: row.try_get("reason")?,
            payload: row.try_get("payload")?,
            size: row.try_get::<i64, _>("size")? as u64,
            rule: row.try_get("rule")?,
            rule_version: row.try_get::<Option<i64>, _>("rule_version")?.map(|version| version as u32),
            position: row.try_get("position")?,
            callback: row.try_get("callback")?,
            rows: row.try_get::<i64, _>("row_count")? as u64,
            state_before: row
                .try_get::<Option<String>, _>("state_before")?
                .and_then(|text| serde_json::from_str(&text).ok()),
            replayed_at: time_opt(row, "replayed_at")?,
            replayed_by: row.try_get("replayed_by")?,
        })
    }
}

/// Which dead letters; what is not said selects all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeadLetterFilter {
    /// `decode` or `rule`.
    pub kind: Option<String>,
    /// From this source.
    pub source: Option<String>,
    /// Of this device; with kind `rule`: with a row of it.
    pub device: Option<String>,
    /// With this code.
    pub code: Option<String>,
    /// Of this rule.
    pub rule: Option<String>,
    /// Replayed ones, or the others.
    pub replayed: Option<bool>,
    /// Received then or later.
    pub since: Option<Timestamp>,
    /// What the page before gave as `next`.
    pub cursor: Option<String>,
    /// How many; 0: 100; at most 1000.
    pub limit: u32,
}

const COLUMNS: &str = "sequence, id, at, kind, source, address, device, sender, code, reason, rule, \
                       rule_version, position, callback, row_count, state_before, replayed_at, replayed_by, length(payload) AS size";

impl Store {
    /// Changes how many dead letters are kept; counts from the next one that comes.
    pub fn set_dead_letter_bounds(&self, bounds: DeadLetterBounds) {
        *self.bounds().lock().unwrap_or_else(PoisonError::into_inner) = bounds;
    }

    /// Keeps dead letters, in one transaction; those that are there already stay as they are.
    pub async fn add_dead_letters(&self, letters: &[NewDeadLetter]) -> Result<(), StoreError> {
        const ACTION: &str = "keep dead letters";
        if letters.is_empty() {
            return Ok(());
        }
        let failed = StoreError::sql(ACTION);
        let bounds = *self.bounds().lock().unwrap_or_else(PoisonError::into_inner);
        let mut connection = self.db().write().await?;
        let (mut count, mut bytes, mut dropped) = (0_i64, 0_i64, 0_i64);
        for part in pieces(letters) {
            let mut query = QueryBuilder::<Sqlite>::new(
                "INSERT INTO dead_letters (id, at, kind, source, address, device, sender, code, reason, payload, \
                 rule, rule_version, position, callback, row_count, handles, state_before) ",
            );
            query.push_values(part, |mut tuple, letter| {
                let handles = (!letter.handles.is_empty()).then(|| crate::db::to_json(&letter.handles));
                tuple
                    .push_bind(letter.id.as_str())
                    .push_bind(letter.at.0)
                    .push_bind(letter.kind.as_str())
                    .push_bind(letter.source.as_str())
                    .push_bind(letter.address.as_str())
                    .push_bind(letter.device.as_deref())
                    .push_bind(letter.sender.as_deref())
                    .push_bind(letter.code.as_str())
                    .push_bind(letter.reason.as_str())
                    .push_bind(letter.payload.as_slice())
                    .push_bind(letter.rule.as_deref())
                    .push_bind(letter.rule_version.map(i64::from))
                    .push_bind(letter.position.as_str())
                    .push_bind(letter.callback.as_deref())
                    .push_bind(letter.rows as i64)
                    .push_bind(handles)
                    .push_bind(letter.state_before.as_ref().map(ToString::to_string));
            });
            query.push(" ON CONFLICT (id) DO NOTHING RETURNING length(payload)");
            let kept: Vec<i64> =
                query.build_query_scalar().fetch_all(&mut *connection).await.map_err(&failed)?;
            count += kept.len() as i64;
            bytes += kept.iter().sum::<i64>();
        }
        let (held, held_bytes): (i64, i64) = sqlx::query_as(
            "UPDATE dead_letter_totals SET letters = letters + $1, bytes = bytes + $2 WHERE id = 1 \
             RETURNING letters, bytes",
        )
        .bind(count)
        .bind(bytes)
        .fetch_one(&mut *connection)
        .await
        .map_err(&failed)?;
        let (mut over, mut over_bytes) = (held - bounds.letters as i64, held_bytes - bounds.bytes as i64);
        while over > 0 || over_bytes > 0 {
            // The oldest first, a few at a time, and never more than the bounds ask for.
            let oldest: Vec<(i64, i64)> = sqlx::query_as(
                "SELECT sequence, length(payload) FROM dead_letters ORDER BY sequence LIMIT 256",
            )
            .fetch_all(&mut *connection)
            .await
            .map_err(&failed)?;
            let mut last = None;
            let (mut gone, mut gone_bytes) = (0_i64, 0_i64);
            for (sequence, size) in oldest {
                if over <= 0 && over_bytes <= 0 {
                    break;
                }
                last = Some(sequence);
                gone += 1;
                gone_bytes += size;
                over -= 1;
                over_bytes -= size;
            }
            let Some(last) = last else { break };
            sqlx::query("DELETE FROM dead_letters WHERE sequence <= $1")
                .bind(last)
                .execute(&mut *connection)
                .await
                .map_err(&failed)?;
            sqlx::query(
                "UPDATE dead_letter_totals SET letters = letters - $1, bytes = bytes - $2, \
                 dropped = dropped + $1 WHERE id = 1",
            )
            .bind(gone)
            .bind(gone_bytes)
            .execute(&mut *connection)
            .await
            .map_err(&failed)?;
            dropped += gone;
        }
        commit(connection, ACTION).await?;
        metrics().alerts.dead_letters_dropped.inc_by(dropped as u64);
        Ok(())
    }

    /// Dead letters, the latest first.
    pub async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Page<DeadLetterRow>, StoreError> {
        let limit = limit(filter.limit);
        let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
        query.push(COLUMNS).push(", substr(payload, 1, 1024) AS payload FROM dead_letters WHERE sequence < ");
        query.push_bind(sequence_cursor(filter.cursor.as_deref())?);
        narrow(&mut query, filter);
        query.push(" ORDER BY sequence DESC LIMIT ").push_bind(i64::from(limit) + 1);
        let rows = query
            .build_query_as::<DeadLetterRow>()
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("list dead letters"))?;
        Ok(Page::of(rows, limit, |row| row.sequence.to_string()))
    }

    /// The sequence of the latest letter; 0: there is none.
    pub async fn last_letter(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar("SELECT coalesce(max(sequence), 0) FROM dead_letters")
            .fetch_one(self.db().read())
            .await
            .map_err(StoreError::sql("read the latest dead letter"))
    }

    /// The ids of letters that were not replayed, the earliest first, behind a sequence and up to another; with their own
    /// sequences.
    pub async fn letters_to_replay(
        &self,
        filter: &DeadLetterFilter,
        behind: i64,
        upto: i64,
    ) -> Result<Vec<(i64, String)>, StoreError> {
        let mut query =
            QueryBuilder::<Sqlite>::new("SELECT sequence, id FROM dead_letters WHERE sequence > ");
        query.push_bind(behind);
        query.push(" AND sequence <= ").push_bind(upto);
        narrow(&mut query, &DeadLetterFilter { replayed: Some(false), ..filter.clone() });
        // What a rule failed on without rows, a timer or a schedule, is over and cannot come again.
        query.push(" AND (kind <> 'rule' OR handles IS NOT NULL)");
        query.push(" ORDER BY sequence LIMIT ").push_bind(i64::from(limit(filter.limit)));
        let rows = query.build_query_as::<(i64, String)>().fetch_all(self.db().read()).await;
        rows.map_err(StoreError::sql("list dead letters"))
    }

    /// One dead letter with all of its payload.
    pub async fn dead_letter(&self, id: &str) -> Result<DeadLetterRow, StoreError> {
        sqlx::query_as("SELECT *, length(payload) AS size FROM dead_letters WHERE id = $1")
            .bind(id)
            .fetch_optional(self.db().read())
            .await
            .map_err(StoreError::sql("read a dead letter"))?
            .ok_or_else(|| StoreError::NotFound { what: "dead letter", id: id.into() })
    }

    /// Marks a dead letter as replayed; says whether it was not before.
    pub async fn mark_replayed(&self, id: &str, by: &str, at: Timestamp) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE dead_letters SET replayed_at = $1, replayed_by = $2 \
             WHERE id = $3 AND replayed_at IS NULL",
        )
        .bind(at.0)
        .bind(by)
        .bind(id)
        .execute(self.db().writer())
        .await
        .map_err(StoreError::sql("mark a dead letter"))?;
        Ok(done.rows_affected() > 0)
    }

    /// The next of the letters of one record and rule with rows that were not replayed, behind one of them.
    pub async fn kept_rows(
        &self,
        rule: &str,
        position: &str,
        behind: i64,
    ) -> Result<Option<KeptRows>, StoreError> {
        const ACTION: &str = "read the rows of a dead letter";
        let found: Option<(String, i64, String, Vec<u8>, String)> = sqlx::query_as(
            "SELECT id, sequence, source, payload, handles FROM dead_letters WHERE position = $1 AND rule = $2 \
             AND sequence > $3 AND handles IS NOT NULL AND replayed_at IS NULL ORDER BY sequence LIMIT 1",
        )
        .bind(position)
        .bind(rule)
        .bind(behind)
        .fetch_optional(self.db().read())
        .await
        .map_err(StoreError::sql(ACTION))?;
        let Some((id, sequence, source, payload, handles)) = found else { return Ok(None) };
        let handles = serde_json::from_str(&handles)
            .map_err(|error| StoreError::sql(ACTION)(sqlx::Error::Decode(error.into())))?;
        Ok(Some(KeptRows { id, sequence, source, payload, handles }))
    }

    /// Marks the letters of one record and rule as replayed, up to `upto`, the last one that was used: the rule sees them
    /// together. Those that were marked before stay as they are. Gives how many.
    pub async fn mark_record_replayed(
        &self,
        rule: &str,
        position: &str,
        upto: &str,
        by: &str,
        at: Timestamp,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "UPDATE dead_letters SET replayed_at = $1, replayed_by = $2 \
             WHERE position = $3 AND rule = $4 AND handles IS NOT NULL AND replayed_at IS NULL \
             AND sequence <= (SELECT sequence FROM dead_letters WHERE id = $5)",
        )
        .bind(at.0)
        .bind(by)
        .bind(position)
        .bind(rule)
        .bind(upto)
        .execute(self.db().writer())
        .await
        .map_err(StoreError::sql("mark dead letters"))?;
        Ok(done.rows_affected())
    }

    /// Deletes a dead letter; says whether it was there.
    pub async fn delete_dead_letter(&self, id: &str) -> Result<bool, StoreError> {
        const ACTION: &str = "delete a dead letter";
        let failed = StoreError::sql(ACTION);
        let mut connection = self.db().write().await?;
        let size: Option<i64> =
            sqlx::query_scalar("DELETE FROM dead_letters WHERE id = $1 RETURNING length(payload)")
                .bind(id)
                .fetch_optional(&mut *connection)
                .await
                .map_err(&failed)?;
        if let Some(size) = size {
            sqlx::query(
                "UPDATE dead_letter_totals SET letters = letters - 1, bytes = bytes - $1 WHERE id = 1",
            )
            .bind(size)
            .execute(&mut *connection)
            .await
            .map_err(&failed)?;
        }
        commit(connection, ACTION).await?;
        Ok(size.is_some())
    }

    /// What the table holds, and what its bounds made it drop.
    pub async fn dead_letter_totals(&self) -> Result<DeadLetterTotals, StoreError> {
        let (letters, bytes, dropped): (i64, i64, i64) =
            sqlx::query_as("SELECT letters, bytes, dropped FROM dead_letter_totals WHERE id = 1")
                .fetch_one(self.db().read())
                .await
                .map_err(StoreError::sql("count dead letters"))?;
        Ok(DeadLetterTotals { letters: letters as u64, bytes: bytes as u64, dropped: dropped as u64 })
    }
}

/// Adds what a filter asks for to a query; its cursor and limit are the caller's.
fn narrow(query: &mut QueryBuilder<Sqlite>, filter: &DeadLetterFilter) {
    let texts = [
        (" AND kind = ", &filter.kind),
        (" AND source = ", &filter.source),
        (" AND code = ", &filter.code),
        (" AND rule = ", &filter.rule),
    ];
    for (sql, value) in texts {
        if let Some(value) = value {
            query.push(sql).push_bind(value.as_str());
        }
    }
    if let Some(device) = &filter.device {
        query.push(" AND (device = ").push_bind(device.as_str());
        // Rows of many devices are one letter. A name stands at the beginning of a line, where nothing else that
        // a device says can stand, for JSON writes a line break within a text as `\n`. What no such letter can
        // answer stays with the index.
        if filter.kind.as_deref() != Some("decode") {
            let line = format!("{{\"device\":{},", crate::db::to_json(device));
            let (behind, length) = (format!("\n{line}"), line.len() as i64);
            query.push(" OR (device IS NULL AND kind = 'rule' AND (substr(payload, 1, ").push_bind(length);
            query.push(") = ").push_bind(line.into_bytes());
            query.push(" OR instr(payload, ").push_bind(behind.into_bytes()).push(") > 0))");
        }
        query.push(")");
    }
    if let Some(replayed) = filter.replayed {
        query.push(if replayed { " AND replayed_at IS NOT NULL" } else { " AND replayed_at IS NULL" });
    }
    if let Some(since) = filter.since {
        query.push(" AND at >= ").push_bind(since.0);
    }
}
