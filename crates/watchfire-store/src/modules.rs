//! Modules: what is known of each in a table, its bytes in a file of the folder `modules`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use watchfire_model::{Digest, Timestamp};

use crate::Store;
use crate::db::{json, parsed, time, to_json};
use crate::error::StoreError;

/// A module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModuleRow {
    /// What it is known by.
    pub digest: Digest,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it was written in.
    pub language: String,
    /// Bytes.
    pub size: u64,
    /// What else the check found: imports, exports, metrics, parameters.
    pub report: serde_json::Value,
    /// When it was uploaded.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
}

impl sqlx::FromRow<'_, SqliteRow> for ModuleRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            digest: parsed(row, "digest")?,
            name: row.try_get("name")?,
            version: row.try_get("version")?,
            language: row.try_get("language")?,
            size: row.try_get::<i64, _>("size")? as u64,
            report: json(row, "report")?,
            created_at: time(row, "created_at")?,
            created_by: row.try_get("created_by")?,
        })
    }
}

fn io(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> StoreError {
    move |source| StoreError::Io { action, path: path.to_owned(), source }
}

/// Bytes of a module that are written before they are synced: the log may be on the same disk, and a sync of it waits
/// for what the file system still has to write: of a component of many megabytes, as long as all of it takes.
const PIECE: usize = 1 << 20;

/// Writes a file so that it is there whole or not at all, whenever the power fails.
fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    use std::io::Write as _;
    std::fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
    let path = folder.join(name);
    let draft = folder.join(format!(".{name}.{}", crate::secrets::random_hex::<4>()));
    let written = || -> Result<(), StoreError> {
        let mut file = std::fs::File::create(&draft).map_err(io("create", &draft))?;
        for piece in bytes.chunks(PIECE) {
            file.write_all(piece).map_err(io("write", &draft))?;
            file.sync_data().map_err(io("sync", &draft))?;
        }
        file.sync_all().map_err(io("sync", &draft))?;
        std::fs::rename(&draft, &path).map_err(io("rename to", &path))?;
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("sync", folder))
    };
    written().inspect_err(|_| drop(std::fs::remove_file(&draft)))
}

impl Store {
    /// The folder that holds the bytes of modules.
    pub fn modules_folder(&self) -> PathBuf {
        self.folder().join("modules")
    }

    fn module_path(&self, digest: &Digest) -> PathBuf {
        self.modules_folder().join(format!("{}.wasm", digest.hex()))
    }

    /// Keeps a module; says whether it is new. The bytes are durable before the row is.
    pub async fn add_module(&self, row: &ModuleRow, bytes: Vec<u8>) -> Result<bool, StoreError> {
        let (folder, digest) = (self.modules_folder(), row.digest);
        tokio::task::spawn_blocking(move || {
            if Digest::of(&bytes) != digest {
                return Err(StoreError::Refused("the bytes of the module do not have its digest".into()));
            }
            write_whole(&folder, &format!("{}.wasm", digest.hex()), &bytes)
        })
        .await
        .map_err(|error| StoreError::Refused(error.to_string()))??;
        let done = sqlx::query(
            "INSERT INTO modules (digest, name, version, language, size, report, created_at, created_by) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (digest) DO NOTHING",
        )
        .bind(row.digest.to_string())
        .bind(&row.name)
        .bind(&row.version)
        .bind(&row.language)
        .bind(row.size as i64)
        .bind(to_json(&row.report))
        .bind(row.created_at.0)
        .bind(&row.created_by)
        .execute(self.db().writer())
        .await
        .map_err(StoreError::sql("keep a module"))?;
        Ok(done.rows_affected() > 0)
    }

    /// All modules, by name, the latest first.
    pub async fn modules(&self) -> Result<Vec<ModuleRow>, StoreError> {
        sqlx::query_as("SELECT * FROM modules ORDER BY name, created_at DESC, digest")
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("list modules"))
    }

    /// One module.
    pub async fn module(&self, digest: &Digest) -> Result<ModuleRow, StoreError> {
        sqlx::query_as("SELECT * FROM modules WHERE digest = $1")
            .bind(digest.to_string())
            .fetch_optional(self.db().read())
            .await
            .map_err(StoreError::sql("read a module"))?
            .ok_or_else(|| StoreError::NotFound { what: "module", id: digest.to_string() })
    }

    /// The bytes of a module, checked against its digest: a disk may lie. Blocks on the disk.
    pub fn module_bytes(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.module_path(digest);
        let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => StoreError::NotFound { what: "module", id: digest.to_string() },
            _ => io("read", &path)(source),
        })?;
        if Digest::of(&bytes) != *digest {
            return Err(StoreError::Refused(format!("{} is damaged: its digest differs", path.display())));
        }
        Ok(bytes)
    }

    /// Forgets a module but for its bytes; says whether it was there. [`Store::sweep_modules`] takes those.
    pub async fn delete_module_row(&self, digest: &Digest) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM modules WHERE digest = $1")
            .bind(digest.to_string())
            .execute(self.db().writer())
            .await
            .map_err(StoreError::sql("delete a module"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Deletes the bytes of modules that have no row and are not needed; gives how many. For a start: later it could
    /// take those of an upload that has no row yet.
    pub async fn sweep_modules(&self, needed: impl Fn(&Digest) -> bool) -> Result<usize, StoreError> {
        let known: HashSet<Digest> = self.modules().await?.into_iter().map(|row| row.digest).collect();
        let folder = self.modules_folder();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(io("list", &folder)(error)),
        };
        let mut swept = 0;
        for entry in entries {
            let path = entry.map_err(io("list", &folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let digest = name.strip_suffix(".wasm").and_then(|hex| format!("sha256:{hex}").parse().ok());
            if digest.is_some_and(|digest| !known.contains(&digest) && !needed(&digest)) {
                std::fs::remove_file(&path).map_err(io("delete", &path))?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Forgets a module; says whether it was there. Whether a rule uses it is for the caller to know.
    pub async fn delete_module(&self, digest: &Digest) -> Result<bool, StoreError> {
        let done = self.delete_module_row(digest).await?;
        let path = self.module_path(digest);
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("delete", &path)(error)),
            _ => Ok(done),
        }
    }
}
