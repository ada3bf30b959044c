//! What devices prove themselves with.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use serde::Serialize;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use watchfire_model::Timestamp;

use crate::Store;
use crate::db::{commit, time, time_opt};
use crate::error::StoreError;
use crate::secrets::{Secret, check_password, digest, hash_password, id_of, random_hex, same};
use crate::uses::Kind;

/// How many passwords are hashed at the same time: each takes 19 MiB and a core, so half of the cores go on.
///
/// What was verified is remembered in this process only ([`crate::secrets::Verified`]): kept on the disk, even under a
/// key, it would be a fast hash of every password for whoever reads the folder, as the key would lie there too. After
/// a restart a fleet with passwords is let in at some twenty devices a second and core, each of which is cached from
/// then on; devices with tokens, which are random and need no slow hash, at once.
static HASHING: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    Arc::new(Semaphore::new((cores / 2).max(2)))
});

/// The prefix of the tokens of devices.
const PREFIX: &str = "wfd";

/// Who lost a credential: what was let in with it has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// A device.
    Device(String),
    /// Whoever has the token of this name.
    Token(String),
}

/// Whether a secret is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It is.
    Right,
    /// It is not.
    Wrong,
    /// It was not looked at: too many wrong ones came before from there.
    Later,
}

/// Which kind of proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialKind {
    /// Chosen by people.
    Password,
    /// Made here.
    Token,
}

/// A credential, without what proves it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CredentialRow {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub device: String,
    /// Password or token.
    pub kind: CredentialKind,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last right, to the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

impl sqlx::FromRow<'_, SqliteRow> for CredentialRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let kind = match row.try_get::<&str, _>("kind")? {
            "password" => CredentialKind::Password,
            _ => CredentialKind::Token,
        };
        Ok(Self {
            id: row.try_get("id")?,
            device: row.try_get("device")?,
            kind,
            created_at: time(row, "created_at")?,
            last_used: time_opt(row, "last_used")?,
        })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    // The semaphore is never closed. The permit goes along: a caller that gives up does not stop the hash.
    let permit = HASHING.clone().acquire_owned().await;
    let work = move || {
        let done = work();
        drop(permit);
        done
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::Refused(error.to_string()))
}

impl Store {
    /// Gives a device a password; the one that it had does not work any more.
    pub async fn set_device_password(
        &self,
        device: &str,
        password: &str,
    ) -> Result<CredentialRow, StoreError> {
        if password.is_empty() || password.len() > 1024 {
            return Err(StoreError::Refused("a password has 1 to 1024 bytes".into()));
        }
        let given = password.to_string();
        let hash = blocking(move || hash_password(&given)).await??;
        let mut transaction = self.db().write().await?;
        let had = sqlx::query("DELETE FROM credentials WHERE device = $1 AND kind = 'password'")
            .bind(device)
            .execute(&mut *transaction)
            .await
            .map_err(StoreError::sql("set a password"))?
            .rows_affected()
            > 0;
        let row = sqlx::query_as(
            "INSERT INTO credentials (id, device, kind, hash, created_at) VALUES ($1, $2, 'password', $3, $4) \
             RETURNING *",
        )
        .bind(random_hex::<6>())
        .bind(device)
        .bind(hash)
        .bind(self.clock().wall().0)
        .fetch_one(&mut *transaction)
        .await
        .map_err(StoreError::sql("set a password"))?;
        commit(transaction, "set a password").await?;
        if had {
            self.announce_revoked(Revoked::Device(device.into()));
        }
        Ok(row)
    }

    /// Makes a token for a device: `wfd_<id>_<random>`. A device may have several.
    pub async fn create_device_token(&self, device: &str) -> Result<(CredentialRow, Secret), StoreError> {
        let id = random_hex::<6>();
        let secret = Secret::make(PREFIX, &id);
        let row = sqlx::query_as(
            "INSERT INTO credentials (id, device, kind, hash, created_at) VALUES ($1, $2, 'token', $3, $4) \
             RETURNING *",
        )
        .bind(&id)
        .bind(device)
        .bind(digest(secret.expose()))
        .bind(self.clock().wall().0)
        .fetch_one(self.db().writer())
        .await
        .map_err(StoreError::sql("make a token"))?;
        Ok((row, secret))
    }

    /// The credentials of a device.
    pub async fn credentials(&self, device: &str) -> Result<Vec<CredentialRow>, StoreError> {
        let mut rows: Vec<CredentialRow> =
            sqlx::query_as("SELECT * FROM credentials WHERE device = $1 ORDER BY created_at, id")
                .bind(device)
                .fetch_all(self.db().read())
                .await
                .map_err(StoreError::sql("list credentials"))?;
        for row in &mut rows {
            row.last_used = self.uses().last(Kind::Credential, &row.id, row.last_used);
        }
        Ok(rows)
    }

    /// Takes a credential away; says whether it was there.
    pub async fn remove_credential(&self, device: &str, id: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM credentials WHERE device = $1 AND id = $2")
            .bind(device)
            .bind(id)
            .execute(self.db().writer())
            .await
            .map_err(StoreError::sql("remove a credential"))?;
        let removed = done.rows_affected() > 0;
        if removed {
            self.announce_revoked(Revoked::Device(device.into()));
        }
        Ok(removed)
    }

    /// Whether this is the password, or a token, of the device.
    pub async fn verify_device(&self, device: &str, secret: &str) -> Result<bool, StoreError> {
        Ok(self.check_device(device, secret, None).await? == Checked::Right)
    }

    /// As [`Store::verify_device`], with bounds of what wrong passwords from one address cost.
    pub async fn check_device(
        &self,
        device: &str,
        secret: &str,
        from: Option<IpAddr>,
    ) -> Result<Checked, StoreError> {
        let checked = |right| if right { Checked::Right } else { Checked::Wrong };
        if let Some(owner) = self.verify_device_token(secret).await? {
            return Ok(checked(owner == device));
        }
        let found: Option<(String, String)> =
            sqlx::query_as("SELECT id, hash FROM credentials WHERE device = $1 AND kind = 'password'")
                .bind(device)
                .fetch_optional(self.db().read())
                .await
                .map_err(StoreError::sql("check a password"))?;
        let Some((id, hash)) = found else { return Ok(Checked::Wrong) };
        if secret.len() > 1024 {
            return Ok(Checked::Wrong);
        }
        if !self.verified().contains(secret, &hash) {
            if !self.guesses().may_try(from, device, Instant::now()) {
                return Ok(Checked::Later);
            }
            let place = self.guesses().place(from).await;
            // Others of this address may have been wrong, or this one right, while it waited.
            if !self.guesses().may_try(from, device, Instant::now()) {
                return Ok(Checked::Later);
            }
            if !self.verified().contains(secret, &hash)
                && !self.hash_and_note(device, secret, hash, from, place).await?
            {
                return Ok(Checked::Wrong);
            }
        }
        self.used(Kind::Credential, &id);
        Ok(Checked::Right)
    }

    /// Hashes a password and notes the outcome, also where the caller gave up meanwhile: a fleet whose patience is
    /// shorter than the queue gets through at its next tries.
    async fn hash_and_note(
        &self,
        device: &str,
        secret: &str,
        hash: String,
        from: Option<IpAddr>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<bool, StoreError> {
        let (store, device, given) = (self.clone(), device.to_string(), secret.to_string());
        blocking(move || {
            let right = check_password(&given, &hash);
            if right {
                store.verified().insert(&given, &hash);
            }
            store.guesses().tried(from, &device, right, Instant::now());
            drop(place);
            right
        })
        .await
    }

    /// The device that a token belongs to.
    pub async fn verify_device_token(&self, secret: &str) -> Result<Option<String>, StoreError> {
        let Some(id) = id_of(secret, PREFIX) else { return Ok(None) };
        let found: Option<(String, String)> =
            sqlx::query_as("SELECT device, hash FROM credentials WHERE id = $1 AND kind = 'token'")
                .bind(id)
                .fetch_optional(self.db().read())
                .await
                .map_err(StoreError::sql("check a token"))?;
        match found {
            Some((device, hash)) if same(&digest(secret), &hash) => {
                self.used(Kind::Credential, id);
                Ok(Some(device))
            }
            _ => Ok(None),
        }
    }

    /// Notes that a client certificate of a device was accepted, in this process only.
    pub fn note_certificate(&self, device: &str) {
        self.used(Kind::Certificate, device);
    }

    /// When a client certificate of a device was last accepted, to the minute, since the process began.
    pub fn certificate_last_used(&self, device: &str) -> Option<Timestamp> {
        self.uses().last(Kind::Certificate, device, None)
    }

    /// Notes that a secret was right, without waiting for anything.
    pub(crate) fn used(&self, kind: Kind, id: &str) {
        self.uses().note(kind, id, self.clock().wall());
    }
}
