//! Checkpoints on disk: one redb file for each partition. Cursor and changes are one transaction, so a file
//! is always of one place in the log.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use watchfire_model::PartitionId;

use crate::error::EngineError;
use crate::partition::{Capture, Image, Partition, PartitionSetup};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("partition");

/// The checkpoint of one partition.
pub struct Checkpoint {
    /// `None`: it could not be opened again after an error.
    database: Option<Database>,
    path: PathBuf,
}

impl Checkpoint {
    /// Opens the file of a partition, made if there is none.
    pub fn open(folder: &Path, partition: PartitionId) -> Result<Self, EngineError> {
        let path = folder.join(format!("partition-{partition}.redb"));
        let error = |what: String| EngineError::Checkpoint { path: path.display().to_string(), what };
        std::fs::create_dir_all(folder).map_err(|e| error(e.to_string()))?;
        let mut checkpoint = Self { database: None, path };
        checkpoint.reopen()?;
        Ok(checkpoint)
    }

    /// Opens the file again: after an error of its disk a database takes nothing more.
    pub fn reopen(&mut self) -> Result<(), EngineError> {
        // Closed first: it is locked.
        self.database = None;
        // Checkpoints are written in order of key and read once: a small cache does.
        let database = Database::builder().set_cache_size(16 << 20).create(&self.path);
        self.database = Some(database.map_err(|e| self.error(e))?);
        Ok(())
    }

    fn database(&self) -> Result<&Database, EngineError> {
        self.database.as_ref().ok_or_else(|| self.error("it could not be opened again"))
    }

    fn error(&self, what: impl ToString) -> EngineError {
        EngineError::Checkpoint { path: self.path.display().to_string(), what: what.to_string() }
    }

    /// The partition as of the last checkpoint; a new one, where there is none.
    pub fn load(&self, setup: &PartitionSetup) -> Result<Partition, EngineError> {
        let read = self.database()?.begin_read().map_err(|e| self.error(e))?;
        let table = match read.open_table(TABLE) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Partition::new(setup.clone())),
            Err(error) => return Err(self.error(error)),
        };
        let mut image = Image::new(setup.clone());
        for pair in table.iter().map_err(|e| self.error(e))? {
            let (key, value) = pair.map_err(|e| self.error(e))?;
            if image.add(key.value(), value.value()).is_none() {
                return Err(self.error(format!("the value of key {:02x?} cannot be read", key.value())));
            }
        }
        image.finish().ok_or_else(|| self.error("it is not whole"))
    }

    /// Writes what has changed, durably.
    pub fn write(&self, capture: &Capture) -> Result<(), EngineError> {
        let write = self.database()?.begin_write().map_err(|e| self.error(e))?;
        {
            let mut table = write.open_table(TABLE).map_err(|e| self.error(e))?;
            for prefix in &capture.removed {
                if prefix.is_empty() {
                    table.retain(|_, _| false).map_err(|e| self.error(e))?;
                    continue;
                }
                let mut end = prefix.clone();
                // A prefix ends in the number of a rule, which never is the last one there can be.
                if let Some(last) = end.iter().rposition(|byte| *byte < u8::MAX) {
                    end[last] += 1;
                    end.truncate(last + 1);
                }
                let range = prefix.as_slice()..end.as_slice();
                table.retain_in(range, |_, _| false).map_err(|e| self.error(e))?;
            }
            for (key, value) in &capture.changed {
                if value.is_empty() {
                    table.remove(key.as_slice()).map_err(|e| self.error(e))?;
                } else {
                    table.insert(key.as_slice(), value.as_slice()).map_err(|e| self.error(e))?;
                }
            }
        }
        write.commit().map_err(|e| self.error(e))
    }
}
