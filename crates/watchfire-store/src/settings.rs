//! Small things: how far readers of the log got, and settings by name.

use sqlx::Row as _;
use watchfire_model::{Offset, PartitionId};

use crate::Store;
use crate::error::StoreError;

impl Store {
    /// Where a reader goes on, by partition.
    pub async fn cursors(&self, reader: &str) -> Result<Vec<(PartitionId, Offset)>, StoreError> {
        let failed = StoreError::sql("read a cursor");
        let rows = sqlx::query("SELECT partition, next FROM cursors WHERE reader = $1 ORDER BY partition")
            .bind(reader)
            .fetch_all(self.db().read())
            .await
            .map_err(&failed)?;
        rows.iter()
            .map(|row| {
                Ok((
                    PartitionId(row.try_get::<i64, _>("partition")? as u16),
                    row.try_get::<i64, _>("next")? as u64,
                ))
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(&failed)
    }

    /// Notes where a reader goes on.
    pub async fn set_cursor(
        &self,
        reader: &str,
        partition: PartitionId,
        next: Offset,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO cursors (reader, partition, next) VALUES ($1, $2, $3) \
             ON CONFLICT (reader, partition) DO UPDATE SET next = excluded.next",
        )
        .bind(reader)
        .bind(i64::from(partition.0))
        .bind(next as i64)
        .execute(self.db().writer())
        .await
        .map(drop)
        .map_err(StoreError::sql("write a cursor"))
    }

    /// A setting.
    pub async fn setting(&self, key: &str) -> Result<Option<String>, StoreError> {
        sqlx::query_scalar("SELECT value FROM settings WHERE key = $1")
            .bind(key)
            .fetch_optional(self.db().read())
            .await
            .map_err(StoreError::sql("read a setting"))
    }

    /// Changes a setting; `None` removes it.
    pub async fn set_setting(&self, key: &str, value: Option<&str>) -> Result<(), StoreError> {
        let query = match value {
            Some(value) => sqlx::query(
                "INSERT INTO settings (key, value) VALUES ($1, $2) \
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            )
            .bind(key)
            .bind(value),
            None => sqlx::query("DELETE FROM settings WHERE key = $1").bind(key),
        };
        query.execute(self.db().writer()).await.map(drop).map_err(StoreError::sql("write a setting"))
    }
}
