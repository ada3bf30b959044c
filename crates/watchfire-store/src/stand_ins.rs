//! Who is told in the place of a receiver that takes nothing, or not this.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use watchfire_model::{Duration, Timestamp};

use crate::Store;
use crate::db::{json, parsed, time, time_opt};
use crate::deliveries::DeliveryState;
use crate::error::StoreError;

/// What was given up longer ago is not given over any more: somebody would be told of a day that is over because a
/// configuration names a stand-in since today.
const RECENT: Duration = Duration::from_secs(3600);

/// A delivery of which somebody else is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// Its place in the ledger.
    pub sequence: i64,
    /// Its id.
    pub id: String,
    /// Its group.
    pub group_key: String,
    /// `firing` or `resolved`.
    pub status: String,
    /// How far it got: one that was delivered is the end of what the stand-in was told of.
    pub state: DeliveryState,
    /// The message: JSON.
    pub payload: String,
    /// The alerts that it was made for.
    pub alerts: Vec<String>,
    /// When the log received the first that it tells of.
    pub caused_at: Option<Timestamp>,
}

/// What a receiver will not be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The receiver.
    pub receiver: String,
    /// How many deliveries.
    pub count: u64,
    /// Since when.
    pub since: Timestamp,
    /// What it said to one of them, where it said anything.
    pub error: Option<String>,
}

impl Store {
    /// Deliveries for `receiver` of which `to` is to be told in its place, in order; at most so many: what has waited since
    /// `before` or longer, what was refused for good or ran out of its time, and the end of what `to` was told of. What
    /// was itself given over stays where it is: two receivers that stand in for each other would pass it on for ever.
    pub async fn late_deliveries(
        &self,
        receiver: &str,
        before: Timestamp,
        now: Timestamp,
        to: &str,
        most: u32,
    ) -> Result<Vec<Late>, StoreError> {
        let failed = StoreError::sql("read what waits for too long");
        let rows = sqlx::query(
            // Of each group the last that was given over.
            "WITH open AS (SELECT max(original) AS original, group_key, status FROM stand_ins \
               WHERE receiver = $1 AND instead_of = $2 GROUP BY group_key) \
             SELECT sequence, id, group_key, status, state, payload, caused_at, \
               (SELECT json_group_array(alert) FROM delivery_alerts WHERE delivery = d.sequence) AS alerts \
             FROM deliveries AS d WHERE reason <> 'fallback' AND sequence IN ( \
               SELECT sequence FROM deliveries WHERE state = 'pending' AND receiver = $2 AND created_at <= $3 \
               UNION SELECT sequence FROM deliveries WHERE state IN ('refused', 'expired') AND finished_at > $4 \
                 AND receiver = $2 \
               UNION SELECT e.sequence FROM open JOIN delivery_alerts AS a ON a.delivery = open.original \
                 JOIN delivery_alerts AS b ON b.alert = a.alert AND b.delivery > open.original \
                 JOIN deliveries AS e ON e.sequence = b.delivery \
                 WHERE open.status = 'firing' AND e.receiver = $2 AND e.group_key = open.group_key \
                 AND e.status = 'resolved') \
             AND NOT EXISTS (SELECT 1 FROM stand_ins AS s WHERE s.receiver = $1 AND s.original = d.sequence) \
             ORDER BY sequence LIMIT $5",
        )
        .bind(to)
        .bind(receiver)
        .bind(before.0)
        .bind((now - RECENT).0)
        .bind(i64::from(most))
        .fetch_all(self.db().read())
        .await
        .map_err(&failed)?;
        let late = |row: &SqliteRow| {
            Ok(Late {
                sequence: row.try_get("sequence")?,
                id: row.try_get("id")?,
                group_key: row.try_get("group_key")?,
                status: row.try_get("status")?,
                state: parsed(row, "state")?,
                payload: row.try_get("payload")?,
                alerts: json(row, "alerts")?,
                caused_at: time_opt(row, "caused_at")?,
            })
        };
        rows.iter().map(late).collect::<Result<_, sqlx::Error>>().map_err(&failed)
    }

    /// What was refused for good or ran out of its time since then, by receiver.
    pub async fn given_up_deliveries(&self, since: Timestamp) -> Result<Vec<GivenUp>, StoreError> {
        let failed = StoreError::sql("count what was given up");
        let rows = sqlx::query(
            "SELECT receiver, count(*) AS n, min(finished_at) AS since, max(last_error) AS error FROM deliveries \
             WHERE state IN ('refused', 'expired') AND finished_at > $1 GROUP BY receiver",
        )
        .bind(since.0)
        .fetch_all(self.db().read())
        .await
        .map_err(&failed)?;
        let given_up = |row: &SqliteRow| {
            Ok(GivenUp {
                receiver: row.try_get("receiver")?,
                count: row.try_get::<i64, _>("n")? as u64,
                since: time(row, "since")?,
                error: row.try_get("error")?,
            })
        };
        rows.iter().map(given_up).collect::<Result<_, sqlx::Error>>().map_err(&failed)
    }
}

/// Writes that somebody was told of deliveries in the place of another.
pub(crate) async fn write(
    connection: &mut SqliteConnection,
    stand_ins: &[(String, i64)],
) -> Result<(), sqlx::Error> {
    for (receiver, original) in stand_ins {
        sqlx::query(
            "INSERT INTO stand_ins (receiver, original, instead_of, group_key, status) \
             SELECT $1, sequence, receiver, group_key, status FROM deliveries WHERE sequence = $2 \
             ON CONFLICT (original, receiver) DO NOTHING",
        )
        .bind(receiver.as_str())
        .bind(original)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
