//! A copy of the database while it is in use.

use std::path::Path;

use crate::Store;
use crate::error::StoreError;

impl Store {
    /// Writes a consistent copy to a file that must not exist yet, while the store is in use: SQLite's
    /// `VACUUM INTO` reads one snapshot, so writers go on. The copy is synced before this returns. Modules
    /// lie in files of their own, which never change: copy their folder afterwards.
    pub async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { action, path, source }
        };
        if tokio::fs::try_exists(to).await.unwrap_or(true) {
            return Err(StoreError::Refused(format!("{} exists already", to.display())));
        }
        let Some(text) = to.to_str() else {
            return Err(StoreError::Refused(format!("{} is not UTF-8", to.display())));
        };
        let copied = sqlx::query("VACUUM INTO $1")
            .bind(text)
            .execute(self.db().read())
            .await
            .map_err(StoreError::sql("copy the database"));
        if let Err(error) = copied {
            // Half a copy must not be taken for a whole one.
            let _ = tokio::fs::remove_file(to).await;
            return Err(error);
        }
        let file = tokio::fs::File::open(to).await.map_err(io("open the copy", to))?;
        file.sync_all().await.map_err(io("sync the copy", to))?;
        if let Some(parent) = to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let folder = tokio::fs::File::open(parent).await.map_err(io("open", parent))?;
            folder.sync_all().await.map_err(io("sync", parent))?;
        }
        Ok(())
    }

    /// Bounds the file as a full disk would (SQLite's `max_page_count`); `None` takes the bound away.
    #[doc(hidden)]
    pub async fn limit_pages_for_tests(&self, pages: Option<u32>) {
        // SQLite takes no parameter here, and never less than the file has already.
        let sql = format!("PRAGMA max_page_count = {}", pages.unwrap_or(u32::MAX - 1));
        let _ = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(self.db().writer()).await;
    }
}
