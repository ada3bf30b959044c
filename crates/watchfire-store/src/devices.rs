//! The projection of the device registry: for lists and look-ups; what decides is the log.

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};
use watchfire_model::{DeviceHandle, DeviceSpec, PartitionId, Timestamp};

use crate::db::{Page, commit, json, limit, pieces, time, time_opt, to_json};
use crate::error::StoreError;
use crate::{Revoked, Store};

/// A device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceRow {
    /// What is known of it.
    #[serde(flatten)]
    pub spec: DeviceSpec,
    /// Its partition.
    pub partition: PartitionId,
    /// Its handle there.
    #[serde(skip)]
    pub handle: DeviceHandle,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// When it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
}

impl sqlx::FromRow<'_, SqliteRow> for DeviceRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            spec: json(row, "spec")?,
            partition: PartitionId(row.try_get::<i64, _>("partition")? as u16),
            handle: DeviceHandle(row.try_get::<i64, _>("handle")? as u32),
            created_at: time(row, "created_at")?,
            updated_at: time(row, "updated_at")?,
            deleted_at: time_opt(row, "deleted_at")?,
        })
    }
}

/// Which devices; what is not said selects all that are not deleted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceFilter {
    /// Of this type.
    pub kind: Option<String>,
    /// At this site.
    pub site: Option<String>,
    /// Whose id begins so.
    pub prefix: Option<String>,
    /// What the page before gave as `next`.
    pub cursor: Option<String>,
    /// How many; 0: 100; at most 1000.
    pub limit: u32,
}

impl Store {
    /// Writes devices as they were registered or changed at `at`, in one transaction.
    pub async fn put_devices(
        &self,
        devices: &[(DeviceSpec, PartitionId, DeviceHandle)],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        const ACTION: &str = "write devices";
        if devices.is_empty() {
            return Ok(());
        }
        let mut connection = self.db().write().await?;
        for part in pieces(devices) {
            let mut query = QueryBuilder::<Sqlite>::new(
                "INSERT INTO devices (id, type, site, spec, partition, handle, created_at, updated_at) ",
            );
            query.push_values(part, |mut tuple, (spec, partition, handle)| {
                tuple
                    .push_bind(spec.id.as_str())
                    .push_bind(spec.kind.as_str())
                    .push_bind(spec.site.as_str())
                    .push_bind(to_json(spec))
                    .push_bind(i64::from(partition.0))
                    .push_bind(i64::from(handle.0))
                    .push_bind(at.0)
                    .push_bind(at.0);
            });
            // A deleted device that is registered again begins anew.
            query.push(
                " ON CONFLICT (id) DO UPDATE SET type = excluded.type, site = excluded.site, \
                 spec = excluded.spec, partition = excluded.partition, handle = excluded.handle, \
                 created_at = CASE WHEN devices.deleted_at IS NULL THEN devices.created_at \
                 ELSE excluded.created_at END, updated_at = excluded.updated_at, deleted_at = NULL",
            );
            query.build().execute(&mut *connection).await.map_err(StoreError::sql(ACTION))?;
        }
        commit(connection, ACTION).await
    }

    /// Marks a device as deleted and takes its credentials away.
    pub async fn delete_device(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        const ACTION: &str = "delete a device";
        let mut connection = self.db().write().await?;
        sqlx::query("UPDATE devices SET deleted_at = $1 WHERE id = $2 AND deleted_at IS NULL")
            .bind(at.0)
            .bind(id)
            .execute(&mut *connection)
            .await
            .map_err(StoreError::sql(ACTION))?;
        sqlx::query("DELETE FROM credentials WHERE device = $1")
            .bind(id)
            .execute(&mut *connection)
            .await
            .map_err(StoreError::sql(ACTION))?;
        commit(connection, ACTION).await?;
        // Also where it had none left: they were taken away just before, and nothing says in which order this is heard.
        self.announce_revoked(Revoked::Device(id.into()));
        Ok(())
    }

    /// One device, deleted or not.
    pub async fn device(&self, id: &str) -> Result<DeviceRow, StoreError> {
        sqlx::query_as("SELECT * FROM devices WHERE id = $1")
            .bind(id)
            .fetch_optional(self.db().read())
            .await
            .map_err(StoreError::sql("read a device"))?
            .ok_or_else(|| StoreError::NotFound { what: "device", id: id.into() })
    }

    /// Devices by id.
    pub async fn devices(&self, filter: &DeviceFilter) -> Result<Page<DeviceRow>, StoreError> {
        let limit = limit(filter.limit);
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM devices WHERE deleted_at IS NULL");
        if let Some(cursor) = &filter.cursor {
            query.push(" AND id > ").push_bind(cursor.as_str());
        }
        if let Some(kind) = &filter.kind {
            query.push(" AND type = ").push_bind(kind.as_str());
        }
        if let Some(site) = &filter.site {
            query.push(" AND site = ").push_bind(site.as_str());
        }
        if let Some(prefix) = &filter.prefix {
            query.push(" AND substr(id, 1, ").push_bind(prefix.chars().count() as i64);
            query.push(") = ").push_bind(prefix.as_str());
        }
        query.push(" ORDER BY id LIMIT ").push_bind(i64::from(limit) + 1);
        let rows = query
            .build_query_as::<DeviceRow>()
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("list devices"))?;
        Ok(Page::of(rows, limit, |row| row.spec.id.clone()))
    }
}

impl Store {
    /// Calls `with` for each device that is registered.
    pub async fn each_device(&self, mut with: impl FnMut(&DeviceSpec)) -> Result<(), StoreError> {
        use futures::TryStreamExt as _;
        let failed = StoreError::sql("read devices");
        let mut rows =
            sqlx::query("SELECT spec FROM devices WHERE deleted_at IS NULL").fetch(self.db().read());
        while let Some(row) = rows.try_next().await.map_err(&failed)? {
            with(&json::<DeviceSpec>(&row, "spec").map_err(&failed)?);
        }
        Ok(())
    }
}
