//! What can go wrong in the store.

use std::path::PathBuf;

/// The store could not do what was asked. Nothing of it was done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused.
    #[error("the store could not {action}")]
    Sql {
        /// What was tried.
        action: &'static str,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The disk is full.
    #[error("the store could not {action}: the disk is full")]
    DiskFull {
        /// What was tried.
        action: &'static str,
    },
    /// A later release wrote this database.
    #[error(
        "{path} has format {found}, written by a later release; this release knows formats up to {known}. \
         Start that release, or restore a backup taken with this one"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// A file beside the database could not be read or written.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// What was asked for is not there.
    #[error("there is no {what} {id:?}")]
    NotFound {
        /// Which kind of thing.
        what: &'static str,
        /// Its name.
        id: String,
    },
    /// A cursor that no list gave.
    #[error("{0:?} is no cursor of this list")]
    Cursor(String),
    /// The request cannot be carried out on what is there.
    #[error("{0}")]
    Refused(String),
}

impl StoreError {
    /// Names what was tried; a full disk is told apart.
    pub(crate) fn sql(action: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| match &source {
            // SQLITE_FULL is 13; extended codes keep it in the low byte.
            sqlx::Error::Database(error)
                if error
                    .code()
                    .and_then(|code| code.parse::<i32>().ok())
                    .is_some_and(|code| code & 0xff == 13) =>
            {
                Self::DiskFull { action }
            }
            _ => Self::Sql { action, source },
        }
    }

    /// The chain of causes in one line, for the log.
    pub fn chain(&self) -> String {
        watchfire_model::chain(self)
    }
}
