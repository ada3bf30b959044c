//! The connections, the format of the database, and small helpers that every repository uses.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Connection as _, Row as _, Sqlite, SqliteConnection, Transaction};
use watchfire_model::Timestamp;

use crate::error::StoreError;

/// Each release appends here; what is in the list never changes.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_base.sql"),
    include_str!("../migrations/0002_dead_letter_sender.sql"),
    include_str!("../migrations/0003_delivery_cause.sql"),
    include_str!("../migrations/0004_dead_letter_rows.sql"),
    include_str!("../migrations/0005_dead_letter_state.sql"),
    include_str!("../migrations/0006_rule_outages.sql"),
    include_str!("../migrations/0007_alert_response.sql"),
    include_str!("../migrations/0008_silences.sql"),
    include_str!("../migrations/0009_routing.sql"),
    include_str!("../migrations/0010_external_alerts.sql"),
    include_str!("../migrations/0011_stand_ins.sql"),
    include_str!("../migrations/0012_delivery_threads.sql"),
];

/// The format that this release writes.
pub(crate) const FORMAT: i64 = MIGRATIONS.len() as i64;

/// One connection that writes, some that read.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// Holds one connection, so that it is also the queue of writers.
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Database {
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .statement_cache_capacity(256)
            // Rows that are read at once: each time that so many were taken, two threads wake each other.
            .row_buffer_size(1000)
            // 32 MiB of pages; the negative sign is SQLite's way of saying KiB.
            .pragma("cache_size", "-32768")
            .pragma("temp_store", "memory")
            // Fold the write-ahead log into the database every 32 MiB instead of every 4: each time costs
            // syncs of both files, and a storm writes 4 MiB within a tenth of a second.
            .pragma("wal_autocheckpoint", "8192");
        let mut first =
            SqliteConnection::connect_with(&options).await.map_err(StoreError::sql("open the database"))?;
        migrate(&mut first, path).await?;
        first.close().await.map_err(StoreError::sql("open the database"))?;
        let pool = |size| {
            SqlitePoolOptions::new()
                .max_connections(size)
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
                .acquire_timeout(Duration::from_secs(60))
        };
        let writer = pool(1)
            .min_connections(1)
            .connect_with(options.clone())
            .await
            .map_err(StoreError::sql("open the database"))?;
        // There are four, and the system has in memory what they read.
        let readers = pool(4)
            .connect_with(options.read_only(true).create_if_missing(false).pragma("cache_size", "-8192"))
            .await
            .map_err(StoreError::sql("open the database"))?;
        Ok(Self { writer, readers })
    }

    /// Begins a transaction on the one connection that writes. IMMEDIATE: the lock is taken now, not at
    /// the first write, where waiting for it could fail.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(StoreError::sql("begin a transaction"))
    }

    /// Where to read.
    pub(crate) fn read(&self) -> &SqlitePool {
        &self.readers
    }

    /// The writing connection, outside of a transaction.
    pub(crate) fn writer(&self) -> &SqlitePool {
        &self.writer
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

pub(crate) async fn commit(
    transaction: Transaction<'static, Sqlite>,
    action: &'static str,
) -> Result<(), StoreError> {
    transaction.commit().await.map_err(StoreError::sql(action))
}

async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let failed = StoreError::sql("bring the database to the format of this release");
    sqlx::query("CREATE TABLE IF NOT EXISTS format (version BIGINT NOT NULL)")
        .execute(&mut *connection)
        .await
        .map_err(&failed)?;
    let found: i64 = sqlx::query("SELECT coalesce(max(version), 0) FROM format")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(&failed)?;
    if found > FORMAT {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: FORMAT });
    }
    for (i, sql) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        sqlx::raw_sql(*sql).execute(&mut *transaction).await.map_err(&failed)?;
        sqlx::query("INSERT INTO format (version) VALUES ($1)")
            .bind(i as i64 + 1)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
    }
    Ok(())
}

fn decode_error(column: &str, error: impl std::fmt::Display) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {column}: {error}").into())
}

/// A column that holds a time.
pub(crate) fn time(row: &SqliteRow, column: &str) -> Result<Timestamp, sqlx::Error> {
    row.try_get(column).map(Timestamp)
}

/// A column that may hold a time.
pub(crate) fn time_opt(row: &SqliteRow, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp))
}

/// A column that holds JSON.
pub(crate) fn json<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(row.try_get::<&str, _>(column)?).map_err(|error| decode_error(column, error))
}

/// A column that holds the text form of something.
pub(crate) fn parsed<T: FromStr<Err: std::fmt::Display>>(
    row: &SqliteRow,
    column: &str,
) -> Result<T, sqlx::Error> {
    row.try_get::<&str, _>(column)?.parse().map_err(|error| decode_error(column, error))
}

/// A column that may hold the text form of something.
pub(crate) fn parsed_opt<T: FromStr<Err: std::fmt::Display>>(
    row: &SqliteRow,
    column: &str,
) -> Result<Option<T>, sqlx::Error> {
    row.try_get::<Option<&str>, _>(column)?
        .map(|text| text.parse().map_err(|error| decode_error(column, error)))
        .transpose()
}

/// JSON of a value of ours: maps with text keys, which always have a JSON form.
pub(crate) fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".into())
}

/// How many rows a statement takes at most: past some hundred a longer one is no faster, and with 127 columns for each
/// SQLite's bound of 32 766 parameters is kept.
pub(crate) const PIECE: usize = 256;

/// Rows in pieces of as many as a power of two has, the longest first: so there are few statements that differ, and each
/// is prepared once and kept.
pub(crate) fn pieces<T>(rows: &[T]) -> impl Iterator<Item = &[T]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let length = 1 << rest.len().min(PIECE).checked_ilog2()?;
        let (piece, behind) = rest.split_at(length);
        rest = behind;
        Some(piece)
    })
}

/// How many rows a page has at most.
pub const PAGE: u32 = 1000;

/// The part of a list that was asked for, and where the next part begins.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Give this as `cursor` to get the following rows; `None`: there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Rows of which one more than `limit` was asked for, to know whether there are more.
    pub(crate) fn of(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = if more { items.last().map(cursor) } else { None };
        Self { items, next }
    }
}

/// Bounds what a caller asked for; 0 means the default of 100.
pub(crate) fn limit(asked: u32) -> u32 {
    if asked == 0 { 100 } else { asked.min(PAGE) }
}

/// A cursor that is the sequence of the last row seen.
pub(crate) fn sequence_cursor(cursor: Option<&str>) -> Result<i64, StoreError> {
    cursor.map_or(Ok(i64::MAX), |text| text.parse().map_err(|_| StoreError::Cursor(text.into())))
}
