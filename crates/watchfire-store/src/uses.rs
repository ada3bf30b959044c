//! When secrets were last right: noted in memory, written behind.
//!
//! Whoever logs in waits for nothing here. A fleet that reconnects would otherwise queue a commit for each device
//! before the alerts of that moment, and a full disk would lock out everybody who could make room.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{QueryBuilder, Sqlite};
use watchfire_model::Timestamp;

use crate::db::{Database, commit, pieces};
use crate::error::StoreError;

/// How often what was noted is written: the table shows the time to the minute.
const EVERY: Duration = Duration::from_secs(10);

/// Between two short transactions: alerts that wait for the one connection that writes come in between.
const PAUSE: Duration = Duration::from_millis(50);

/// A secret that was right less than this ago, in microseconds, is not noted again.
const MINUTE: i64 = 60_000_000;

/// Secrets that are remembered at most: more than a large fleet has. Past it a use is not noted.
const REMEMBERED: usize = 250_000;

/// Whose secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Of a user of the API.
    Token,
    /// Of a device.
    Credential,
    /// The client certificate of a device, by the id of that. No table knows it: it is only remembered.
    Certificate,
}

#[derive(Clone, Copy, Debug)]
struct Noted {
    at: Timestamp,
    written: bool,
}

/// What was noted.
#[derive(Debug, Default)]
pub(crate) struct Uses(Mutex<HashMap<(Kind, String), Noted>>);

impl Uses {
    fn lock(&self) -> MutexGuard<'_, HashMap<(Kind, String), Noted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A secret was right.
    pub(crate) fn note(&self, kind: Kind, id: &str, now: Timestamp) {
        let mut uses = self.lock();
        let key = (kind, id.to_string());
        if uses.get(&key).is_some_and(|noted| now.0 - noted.at.0 < MINUTE) {
            return;
        }
        if uses.len() >= REMEMBERED && !uses.contains_key(&key) {
            uses.retain(|_, noted| !noted.written);
            if uses.len() >= REMEMBERED {
                return;
            }
        }
        uses.insert(key, Noted { at: now, written: kind == Kind::Certificate });
    }

    /// When a secret was last right: what was noted here, or what the table has where nothing was.
    pub(crate) fn last(&self, kind: Kind, id: &str, stored: Option<Timestamp>) -> Option<Timestamp> {
        let noted = self.lock().get(&(kind, id.to_string())).map(|noted| noted.at);
        noted.max(stored)
    }

    fn take(&self, kind: Kind) -> Vec<(String, Timestamp)> {
        let mut uses = self.lock();
        let waiting = uses.iter_mut().filter(|((of, _), noted)| *of == kind && !noted.written);
        waiting
            .map(|((_, id), noted)| {
                noted.written = true;
                (id.clone(), noted.at)
            })
            .collect()
    }

    /// Writes what was noted since the last time, in short transactions. What cannot be written is only missing in
    /// the table: nothing depends on it.
    pub(crate) async fn write(&self, database: &Database, pause: Duration) {
        for kind in [Kind::Token, Kind::Credential] {
            for part in pieces(&self.take(kind)) {
                if let Err(error) = write(database, kind, part).await {
                    tracing::debug!(error = error.chain(), "the use of secrets could not be noted");
                }
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Writes now and then, for ever.
    pub(crate) async fn run(&self, database: &Database) {
        loop {
            tokio::time::sleep(EVERY).await;
            self.write(database, PAUSE).await;
        }
    }
}

async fn write(database: &Database, kind: Kind, part: &[(String, Timestamp)]) -> Result<(), StoreError> {
    const ACTION: &str = "note the use of secrets";
    let table = match kind {
        Kind::Token => "tokens",
        Kind::Credential => "credentials",
        Kind::Certificate => return Ok(()),
    };
    let mut query = QueryBuilder::<Sqlite>::new("UPDATE ");
    query.push(table).push(" SET last_used = u.column2 FROM (");
    query.push_values(part, |mut tuple, (id, at)| {
        tuple.push_bind(id.as_str()).push_bind(at.0);
    });
    query.push(") AS u WHERE ").push(table).push(".id = u.column1");
    let mut connection = database.write().await?;
    query.build().execute(&mut *connection).await.map_err(StoreError::sql(ACTION))?;
    commit(connection, ACTION).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{NewToken, Role, Store};

    #[tokio::test]
    async fn nobody_who_logs_in_waits_for_the_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("watchfire.db");
        let clock = Arc::new(watchfire_log::SystemClock);
        let store = Store::open(&path, clock.clone()).await.unwrap();
        let new = NewToken { name: "ci".into(), role: Role::Viewer, by: "test".into(), expires_at: None };
        let (token, secret) = store.create_token(&new).await.unwrap();
        let (credential, device_secret) = store.create_device_token("press-1").await.unwrap();
        store.set_device_password("press-2", "a password").await.unwrap();

        // Somebody writes for as long as this stands, as a storm of alerts would, or a disk that is full.
        let busy = store.db().write().await.unwrap();
        let all = async {
            assert!(store.verify_token(secret.expose()).await.unwrap().is_some());
            assert!(store.verify_device("press-1", device_secret.expose()).await.unwrap());
            assert!(store.verify_device("press-2", "a password").await.unwrap());
            store.tokens().await.unwrap()[0].last_used
        };
        let last = tokio::time::timeout(Duration::from_secs(20), all).await.expect("an answer at once");
        assert!(last.is_some(), "what is only noted is shown too");
        drop(busy);
        store.close().await;

        let store = Store::open(&path, clock).await.unwrap();
        let tokens = store.tokens().await.unwrap();
        assert_eq!((tokens[0].id.as_str(), tokens[0].last_used), (token.id.as_str(), last));
        let credentials = store.credentials("press-1").await.unwrap();
        assert!(credentials[0].id == credential.id && credentials[0].last_used.is_some());
        store.close().await;
    }

    #[test]
    fn a_use_is_noted_once_a_minute_and_written_once() {
        let uses = Uses::default();
        for (at, expected) in [(1, 1), (30_000_000, 1), (60_000_001, 60_000_001)] {
            uses.note(Kind::Token, "a", Timestamp(at));
            assert_eq!(uses.last(Kind::Token, "a", None), Some(Timestamp(expected)));
        }
        assert_eq!(uses.last(Kind::Credential, "a", Some(Timestamp(7))), Some(Timestamp(7)));
        assert_eq!((uses.take(Kind::Token).len(), uses.take(Kind::Token).len()), (1, 0));
    }
}
