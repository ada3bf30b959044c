//! Who is told in the place of a receiver that takes nothing, or not this.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use watchfire_model::{Duration, Timestamp};

use crate::db::{json, parsed, time, time_opt};
use crate::deliveries::DeliveryState;
use crate::error::StoreError;
use crate::{AlertRow, Store};

/// What was given up longer ago is not given over any more: somebody would be told of a day that is over because a
/// configuration names a stand-in since today.
const RECENT: Duration = Duration::from_secs(3600);

/// After a start so many deliveries before the last that was given over are looked at once more.
const BACK: i64 = 10_000;

/// How far deliveries of one receiver were looked at for the one that stands in for it, so that a look costs what is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// What was made before then and waits is given over.
    pub waiting: Timestamp,
    /// So is what was given up before then.
    pub given_up: Timestamp,
    /// Deliveries up to this place were looked at for news of what was given over. `None`: begin a little before what was
    /// given over last.
    pub follows: Option<i64>,
}

impl Default for Looked {
    fn default() -> Self {
        Self { waiting: Timestamp(i64::MIN), given_up: Timestamp(i64::MIN), follows: None }
    }
}

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
    /// What it said to the last of them, where it said anything.
    pub error: Option<String>,
}

impl Store {
    /// Deliveries for `receiver` of which `to` is to be told in its place, in order; at most so many: what has waited since
    /// `before` or longer, what was refused for good or ran out of its time, and whatever tells more of an alert that
    /// `to` was told of. Behind `looked`, and with how far this looked, where it is everything. What was itself given over
    /// stays where it is: two receivers that stand in for each other would pass it on for ever. And what is older than
    /// something of its group that was given over is over already.
    pub async fn late_deliveries(
        &self,
        receiver: &str,
        before: Timestamp,
        now: Timestamp,
        to: &str,
        looked: Looked,
        most: u32,
    ) -> Result<(Vec<Late>, Option<Looked>), StoreError> {
        let failed = StoreError::sql("read what waits for too long");
        // One snapshot: what is looked at is what there was when it began.
        let mut connection = self.db().read().begin().await.map_err(&failed)?;
        let (last, given): (Option<i64>, Option<i64>) = sqlx::query_as(
            "SELECT (SELECT max(sequence) FROM deliveries), \
             (SELECT max(original) FROM stand_ins WHERE receiver = $1 AND instead_of = $2)",
        )
        .bind(to)
        .bind(receiver)
        .fetch_one(&mut *connection)
        .await
        .map_err(&failed)?;
        // Nothing was given over: there is nothing to follow.
        let follows = given.map_or(i64::MAX, |given| looked.follows.unwrap_or(given - BACK));
        let rows = sqlx::query(
            "SELECT sequence, id, group_key, status, state, payload, caused_at, \
               (SELECT json_group_array(alert) FROM delivery_alerts WHERE delivery = d.sequence) AS alerts \
             FROM deliveries AS d WHERE reason <> 'fallback' AND sequence IN ( \
               SELECT sequence FROM deliveries WHERE state = 'pending' AND receiver = $2 \
                 AND created_at > $3 AND created_at <= $4 \
               UNION SELECT sequence FROM deliveries WHERE state IN ('refused', 'expired') AND receiver = $2 \
                 AND finished_at > $5 \
               UNION SELECT e.sequence FROM deliveries AS e WHERE e.sequence > $6 AND e.receiver = $2 \
                 AND e.state <> 'superseded' AND EXISTS (SELECT 1 FROM delivery_alerts AS b \
                   CROSS JOIN delivery_alerts AS a ON a.alert = b.alert AND a.delivery < e.sequence \
                   CROSS JOIN stand_ins AS s ON s.original = a.delivery AND s.receiver = $1 \
                   WHERE b.delivery = e.sequence)) \
             AND NOT EXISTS (SELECT 1 FROM stand_ins AS s WHERE s.original = d.sequence AND s.receiver = $1) \
             AND NOT EXISTS (SELECT 1 FROM stand_ins AS s WHERE s.receiver = $1 AND s.instead_of = $2 \
               AND s.group_key = d.group_key AND s.original > d.sequence) \
             ORDER BY sequence LIMIT $7",
        )
        .bind(to)
        .bind(receiver)
        .bind(looked.waiting.0)
        .bind(before.0)
        .bind(looked.given_up.max(now - RECENT).0)
        .bind(follows)
        .bind(i64::from(most))
        .fetch_all(&mut *connection)
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
        let all: Vec<Late> = rows.iter().map(late).collect::<Result<_, sqlx::Error>>().map_err(&failed)?;
        let whole = all.len() < most as usize;
        // What ended while this looked is recorded with a time a little before now.
        let behind =
            Looked { waiting: before, given_up: now - Duration::from_secs(60), follows: given.and(last) };
        Ok((all, whole.then_some(behind)))
    }

    /// Alerts that stand and that a receiver was told of in the place of another, behind a fingerprint and in that order; at
    /// most so many.
    pub async fn told_instead(
        &self,
        receiver: &str,
        after: &str,
        most: u32,
    ) -> Result<Vec<AlertRow>, StoreError> {
        sqlx::query_as(
            "SELECT * FROM alerts WHERE state = 'active' AND fingerprint > $2 AND id IN ( \
               SELECT n.alert FROM stand_ins AS s CROSS JOIN delivery_alerts AS n ON n.delivery = s.original \
               WHERE s.receiver = $1) \
             ORDER BY fingerprint LIMIT $3",
        )
        .bind(receiver)
        .bind(after)
        .bind(i64::from(most))
        .fetch_all(self.db().read())
        .await
        .map_err(StoreError::sql("read what a receiver was told in the place of another"))
    }

    /// What was refused for good or ran out of its time since then, by receiver.
    pub async fn given_up_deliveries(&self, since: Timestamp) -> Result<Vec<GivenUp>, StoreError> {
        let failed = StoreError::sql("count what was given up");
        let rows = sqlx::query(
            // The first two of the index alone; what was said last is one row.
            "SELECT g.receiver, n, since, (SELECT last_error FROM deliveries WHERE \
               state IN ('refused', 'expired') AND receiver = g.receiver ORDER BY finished_at DESC LIMIT 1) AS error \
             FROM (SELECT receiver, count(*) AS n, min(finished_at) AS since FROM deliveries \
               WHERE state IN ('refused', 'expired') AND finished_at > $1 GROUP BY receiver) AS g",
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
