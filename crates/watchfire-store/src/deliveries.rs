//! The ledger of deliveries: who is told, what came of each attempt, and what is still to be done.

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection};
use utoipa::ToSchema;
use watchfire_model::{Duration, Timestamp};

use crate::Store;
use crate::db::{Page, commit, json, limit, parsed, pieces, sequence_cursor, time, time_opt};
use crate::error::StoreError;

/// How far a delivery got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// It is tried, now or at its next time.
    Pending,
    /// The receiver took it.
    Delivered,
    /// A newer notice of the same group says everything that it would have said.
    Superseded,
    /// Its time ran out before the receiver took it.
    Expired,
    /// The receiver will not take it, however often it is tried.
    Refused,
}

impl DeliveryState {
    /// As written in documents and queries.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Superseded => "superseded",
            Self::Expired => "expired",
            Self::Refused => "refused",
        }
    }
}

impl std::str::FromStr for DeliveryState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Pending, Self::Delivered, Self::Superseded, Self::Expired, Self::Refused]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| {
                format!(
                    "{text:?} is no state of a delivery: pending, delivered, superseded, expired or refused"
                )
            })
    }
}

/// A delivery as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DeliveryRow {
    /// The order in which deliveries were made.
    pub sequence: i64,
    /// What the receiver gets as idempotency key, the same on every attempt.
    pub id: String,
    /// Who is told.
    pub receiver: String,
    /// The group that it belongs to; deliveries of one receiver and group go out in order.
    pub group_key: String,
    /// `firing` or `resolved`.
    pub status: String,
    /// Why it was made.
    pub reason: String,
    /// How far it got.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: u32,
    /// Not before then, while it is pending.
    #[schema(value_type = String)]
    pub next_try: Timestamp,
    /// What the last attempt that failed said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The HTTP status of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_status: Option<u16>,
    /// When it was made.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
    /// When it came to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub finished_at: Option<Timestamp>,
}

impl sqlx::FromRow<'_, SqliteRow> for DeliveryRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            sequence: row.try_get("sequence")?,
            id: row.try_get("id")?,
            receiver: row.try_get("receiver")?,
            group_key: row.try_get("group_key")?,
            status: row.try_get("status")?,
            reason: row.try_get("reason")?,
            state: parsed(row, "state")?,
            attempts: row.try_get::<i64, _>("attempts")? as u32,
            next_try: time(row, "next_try")?,
            last_error: row.try_get("last_error")?,
            last_status: row.try_get::<Option<i64>, _>("last_status")?.map(|status| status as u16),
            created_at: time(row, "created_at")?,
            finished_at: time_opt(row, "finished_at")?,
        })
    }
}

/// One attempt to deliver.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct AttemptRow {
    /// From 1.
    pub attempt: u32,
    /// When it ended.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// `delivered`, `later` or `never`.
    pub outcome: String,
    /// The HTTP status, where there was an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took.
    #[schema(value_type = String)]
    pub took: Duration,
}

/// A delivery with what was sent and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DeliveryDetail {
    /// As it stands.
    #[serde(flatten)]
    pub delivery: DeliveryRow,
    /// What the receiver gets.
    #[schema(value_type = Object)]
    pub payload: serde_json::Value,
    /// The latest hundred.
    pub tries: Vec<AttemptRow>,
}

/// Which deliveries; what is not said selects all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeliveryFilter {
    /// That told of this alert.
    pub alert: Option<String>,
    /// To this receiver.
    pub receiver: Option<String>,
    /// In this state.
    pub state: Option<DeliveryState>,
    /// What the page before gave as `next`.
    pub cursor: Option<String>,
    /// How many; 0: 100; at most 1000.
    pub limit: u32,
}

/// A delivery that is to be tried now.
#[derive(Clone, Debug, PartialEq)]
pub struct DueDelivery {
    /// The ledger row.
    pub sequence: i64,
    /// The idempotency key.
    pub id: String,
    /// The group.
    pub group_key: String,
    /// What to send.
    pub payload: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the log received the first that it tells of.
    pub caused_at: Option<Timestamp>,
    /// What the channel kept of the group.
    pub thread: Option<String>,
    /// More may wait for it: of its group, or a digest or what that tells of.
    pub followed: bool,
}

/// What a channel keeps of a group from a message on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thread {
    /// This.
    Keep(String),
    /// Nothing any more.
    End,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempted {
    /// The ledger row.
    pub sequence: i64,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// When it ended.
    pub at: Timestamp,
    /// The state from now on.
    pub state: DeliveryState,
    /// The next attempt, while it is pending.
    pub next_try: Timestamp,
    /// The HTTP status.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
    /// How long it took.
    pub took: Duration,
    /// What the channel keeps of the group from now on; `None`: as before.
    pub thread: Option<Thread>,
}

/// What waits for a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The receiver.
    pub receiver: String,
    /// How many deliveries.
    pub pending: u64,
    /// When the oldest was made.
    pub oldest: Timestamp,
}

/// The group of digests: one receiver gets all of them in one order.
pub const DIGEST: &str = "{}:{digest}";

const COLUMNS: &str = "sequence, id, receiver, group_key, status, reason, state, attempts, next_try, \
                       last_error, last_status, created_at, finished_at";

impl Store {
    /// Deliveries, the latest first.
    pub async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Page<DeliveryRow>, StoreError> {
        let limit = limit(filter.limit);
        let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
        query.push(COLUMNS).push(" FROM deliveries WHERE sequence < ");
        query.push_bind(sequence_cursor(filter.cursor.as_deref())?);
        if let Some(alert) = &filter.alert {
            query.push(" AND sequence IN (SELECT delivery FROM delivery_alerts WHERE alert = ");
            query.push_bind(alert.as_str()).push(")");
        }
        if let Some(receiver) = &filter.receiver {
            query.push(" AND receiver = ").push_bind(receiver.as_str());
        }
        if let Some(state) = filter.state {
            query.push(" AND state = ").push_bind(state.as_str());
        }
        query.push(" ORDER BY sequence DESC LIMIT ").push_bind(i64::from(limit) + 1);
        let rows = query
            .build_query_as::<DeliveryRow>()
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("list deliveries"))?;
        Ok(Page::of(rows, limit, |row| row.sequence.to_string()))
    }

    /// One delivery with its payload and its attempts.
    pub async fn delivery(&self, id: &str) -> Result<DeliveryDetail, StoreError> {
        let failed = StoreError::sql("read a delivery");
        let row = sqlx::query("SELECT * FROM deliveries WHERE id = $1")
            .bind(id)
            .fetch_optional(self.db().read())
            .await
            .map_err(&failed)?
            .ok_or_else(|| StoreError::NotFound { what: "delivery", id: id.into() })?;
        let delivery = <DeliveryRow as sqlx::FromRow<'_, SqliteRow>>::from_row(&row).map_err(&failed)?;
        let payload = json(&row, "payload").map_err(&failed)?;
        let rows = sqlx::query(
            "SELECT * FROM delivery_attempts WHERE delivery = $1 ORDER BY attempt DESC LIMIT 100",
        )
        .bind(delivery.sequence)
        .fetch_all(self.db().read())
        .await
        .map_err(&failed)?;
        let mut tries = rows
            .iter()
            .map(|row| {
                Ok(AttemptRow {
                    attempt: row.try_get::<i64, _>("attempt")? as u32,
                    at: time(row, "at")?,
                    outcome: row.try_get("outcome")?,
                    status: row.try_get::<Option<i64>, _>("status")?.map(|status| status as u16),
                    error: row.try_get("error")?,
                    took: Duration(row.try_get::<i64, _>("took_us")? as u64),
                })
            })
            .collect::<Result<Vec<_>, sqlx::Error>>()
            .map_err(&failed)?;
        tries.reverse();
        Ok(DeliveryDetail { delivery, payload, tries })
    }

    /// What is to be tried now for a receiver: of each group the first that is pending, if its time has come. A digest tells
    /// of other groups, so it waits for what was made before it of its alerts, and what was made after it of them waits for
    /// it: else an end could come before the digest that says that it fires.
    pub async fn due_deliveries(
        &self,
        receiver: &str,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<DueDelivery>, StoreError> {
        let failed = StoreError::sql("read due deliveries");
        // The plus keeps the planner to the order of sequences: in a storm nearly everything is due, and
        // the first few are wanted, not all of them sorted.
        let rows = sqlx::query(
            "SELECT sequence, id, group_key, payload, attempts, created_at, caused_at, \
             (SELECT kept FROM delivery_threads AS t WHERE t.receiver = d.receiver \
             AND t.group_key = d.group_key) AS thread, EXISTS (SELECT 1 FROM deliveries AS n \
             WHERE n.state = 'pending' AND n.receiver = d.receiver AND n.group_key = d.group_key \
             AND n.sequence > d.sequence) OR EXISTS (SELECT 1 FROM deliveries WHERE state = 'pending' \
             AND receiver = $1 AND group_key = $4) AS followed FROM deliveries AS d \
             WHERE state = 'pending' AND receiver = $1 AND +next_try <= $2 AND NOT EXISTS ( \
               SELECT 1 FROM deliveries AS e WHERE e.state = 'pending' AND e.receiver = d.receiver \
               AND e.group_key = d.group_key AND e.sequence < d.sequence) \
             AND (NOT EXISTS (SELECT 1 FROM deliveries WHERE state = 'pending' AND receiver = $1 \
                 AND group_key = $4) \
               OR NOT EXISTS (SELECT 1 FROM delivery_alerts AS b \
                 CROSS JOIN delivery_alerts AS a ON a.alert = b.alert AND a.delivery < d.sequence \
                 CROSS JOIN deliveries AS e ON e.sequence = a.delivery AND e.state = 'pending' \
                 AND e.receiver = d.receiver AND $4 IN (d.group_key, e.group_key) \
                 WHERE b.delivery = d.sequence)) \
             ORDER BY sequence LIMIT $3",
        )
        .bind(receiver)
        .bind(now.0)
        .bind(i64::from(limit))
        .bind(DIGEST)
        .fetch_all(self.db().read())
        .await
        .map_err(&failed)?;
        rows.iter()
            .map(|row| {
                Ok(DueDelivery {
                    sequence: row.try_get("sequence")?,
                    id: row.try_get("id")?,
                    group_key: row.try_get("group_key")?,
                    payload: row.try_get("payload")?,
                    attempts: row.try_get::<i64, _>("attempts")? as u32,
                    created_at: time(row, "created_at")?,
                    caused_at: time_opt(row, "caused_at")?,
                    thread: row.try_get("thread")?,
                    followed: row.try_get("followed")?,
                })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(&failed)
    }

    /// When the next attempt for a receiver is due: of the heads of its groups, the earliest after `now`.
    pub async fn next_delivery(
        &self,
        receiver: &str,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        sqlx::query_scalar::<_, Option<i64>>(
            "SELECT min(next_try) FROM deliveries WHERE state = 'pending' AND receiver = $1 AND next_try > $2",
        )
        .bind(receiver)
        .bind(now.0)
        .fetch_one(self.db().read())
        .await
        .map(|time| time.map(Timestamp))
        .map_err(StoreError::sql("read due deliveries"))
    }

    /// What is to be tried for a receiver later than this is tried then.
    pub async fn bring_deliveries_nearer(&self, receiver: &str, latest: Timestamp) -> Result<(), StoreError> {
        const ACTION: &str = "bring deliveries nearer";
        if self.next_delivery(receiver, latest).await?.is_none() {
            return Ok(());
        }
        let mut connection = self.db().write().await?;
        sqlx::query(
            "UPDATE deliveries SET next_try = $1 WHERE state = 'pending' AND receiver = $2 AND next_try > $1",
        )
        .bind(latest.0)
        .bind(receiver)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::sql(ACTION))?;
        commit(connection, ACTION).await?;
        self.announce_deliveries();
        Ok(())
    }

    /// Records attempts, many in one transaction.
    pub async fn record_attempts(&self, attempts: &[Attempted]) -> Result<(), StoreError> {
        const ACTION: &str = "record attempts to deliver";
        if attempts.is_empty() {
            return Ok(());
        }
        let mut connection = self.db().write().await?;
        for part in pieces(attempts) {
            write_attempts(&mut connection, part).await.map_err(StoreError::sql(ACTION))?;
        }
        for done in attempts {
            write_thread(&mut connection, done).await.map_err(StoreError::sql(ACTION))?;
        }
        commit(connection, ACTION).await
    }

    /// Gives up the deliveries of a receiver that were made before `before`; says how many.
    pub async fn expire_deliveries(
        &self,
        receiver: &str,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        const ACTION: &str = "expire deliveries";
        let waits: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM deliveries WHERE state = 'pending' AND receiver = $1 AND \
             created_at < $2)",
        )
        .bind(receiver)
        .bind(before.0)
        .fetch_one(self.db().read())
        .await
        .map_err(StoreError::sql(ACTION))?;
        if !waits {
            return Ok(0);
        }
        let mut connection = self.db().write().await?;
        let done = sqlx::query(
            "UPDATE deliveries SET state = 'expired', finished_at = $1 \
             WHERE state = 'pending' AND receiver = $2 AND created_at < $3",
        )
        .bind(now.0)
        .bind(receiver)
        .bind(before.0)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::sql(ACTION))?;
        commit(connection, ACTION).await?;
        Ok(done.rows_affected())
    }

    /// What waits, by receiver; receivers that are not configured any more included.
    pub async fn waiting_deliveries(&self) -> Result<Vec<Waiting>, StoreError> {
        let failed = StoreError::sql("count deliveries");
        let rows = sqlx::query(
            "SELECT receiver, count(*) AS n, min(created_at) AS oldest FROM deliveries \
             WHERE state = 'pending' GROUP BY receiver",
        )
        .fetch_all(self.db().read())
        .await
        .map_err(&failed)?;
        rows.iter()
            .map(|row| {
                Ok(Waiting {
                    receiver: row.try_get("receiver")?,
                    pending: row.try_get::<i64, _>("n")? as u64,
                    oldest: time(row, "oldest")?,
                })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(&failed)
    }
}

async fn write_attempts(
    connection: &mut SqliteConnection,
    attempts: &[Attempted],
) -> Result<(), sqlx::Error> {
    // What was superseded or expired while it was under way stays so, unless the receiver took it: then it was told,
    // whatever was decided meanwhile.
    let mut query = QueryBuilder::<Sqlite>::new(
        "UPDATE deliveries SET state = u.column2, attempts = u.column3, next_try = u.column4, \
         last_status = u.column5, last_error = u.column6, finished_at = u.column7 FROM (",
    );
    query.push_values(attempts, |mut tuple, done| {
        let finished = (done.state != DeliveryState::Pending).then_some(done.at.0);
        tuple
            .push_bind(done.sequence)
            .push_bind(done.state.as_str())
            .push_bind(i64::from(done.attempt))
            .push_bind(done.next_try.0)
            .push_bind(done.status.map(i64::from))
            .push_bind(done.error.as_deref())
            .push_bind(finished);
    });
    query.push(
        ") AS u WHERE deliveries.sequence = u.column1 AND (deliveries.state = 'pending' \
         OR (u.column2 = 'delivered' AND deliveries.state IN ('superseded', 'expired')))",
    );
    query.build().execute(&mut *connection).await?;
    let mut query = QueryBuilder::<Sqlite>::new(
        "INSERT INTO delivery_attempts (delivery, attempt, at, outcome, status, error, took_us) ",
    );
    query.push_values(attempts, |mut tuple, done| {
        let outcome = match done.state {
            DeliveryState::Delivered => "delivered",
            DeliveryState::Refused => "never",
            _ => "later",
        };
        tuple
            .push_bind(done.sequence)
            .push_bind(i64::from(done.attempt))
            .push_bind(done.at.0)
            .push_bind(outcome)
            .push_bind(done.status.map(i64::from))
            .push_bind(done.error.as_deref())
            .push_bind(done.took.0 as i64);
    });
    query.push(" ON CONFLICT (delivery, attempt) DO NOTHING");
    query.build().execute(&mut *connection).await.map(drop)
}

async fn write_thread(connection: &mut SqliteConnection, done: &Attempted) -> Result<(), sqlx::Error> {
    let of = match &done.thread {
        None => return Ok(()),
        Some(Thread::Keep(kept)) => sqlx::query(
            "INSERT INTO delivery_threads (receiver, group_key, kept, at) \
             SELECT receiver, group_key, $2, $3 FROM deliveries WHERE sequence = $1 \
             ON CONFLICT (receiver, group_key) DO UPDATE SET kept = excluded.kept, at = excluded.at",
        )
        .bind(done.sequence)
        .bind(kept.as_str())
        .bind(done.at.0),
        Some(Thread::End) => sqlx::query(
            "DELETE FROM delivery_threads WHERE (receiver, group_key) IN \
             (SELECT receiver, group_key FROM deliveries WHERE sequence = $1)",
        )
        .bind(done.sequence),
    };
    of.execute(connection).await.map(drop)
}
