//! Tokens of the control API.

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use watchfire_model::Timestamp;

use crate::db::{parsed, time, time_opt};
use crate::error::StoreError;
use crate::secrets::{Secret, digest, id_of, random_hex, same};
use crate::uses::Kind;
use crate::{Revoked, Store};

const PREFIX: &str = "wf";

/// What a token may do; each may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Respond to alerts, replay dead letters, change devices.
    Operator,
    /// Deploy modules and rules.
    Author,
    /// Tokens, backup, settings.
    Admin,
}

impl Role {
    /// As written in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Author => "author",
            Self::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Viewer, Self::Operator, Self::Author, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no role: viewer, operator, author or admin"))
    }
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenRow {
    /// Its id: the part of the secret that may be seen.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// It does not work from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
    /// When it was taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

impl sqlx::FromRow<'_, SqliteRow> for TokenRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            role: parsed(row, "role")?,
            created_at: time(row, "created_at")?,
            created_by: row.try_get("created_by")?,
            expires_at: time_opt(row, "expires_at")?,
            last_used: time_opt(row, "last_used")?,
            revoked_at: time_opt(row, "revoked_at")?,
        })
    }
}

/// A token that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// By whom.
    pub by: String,
    /// It does not work from then on.
    pub expires_at: Option<Timestamp>,
}

impl Store {
    /// Makes a token; its secret, `wf_<id>_<random>`, is not kept and cannot be shown again.
    pub async fn create_token(&self, token: &NewToken) -> Result<(TokenRow, Secret), StoreError> {
        if token.name.is_empty() || token.name.len() > 128 {
            return Err(StoreError::Refused("the name of a token has 1 to 128 bytes".into()));
        }
        let id = random_hex::<6>();
        let secret = Secret::make(PREFIX, &id);
        let row = sqlx::query_as(
            "INSERT INTO tokens (id, name, role, hash, created_at, created_by, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *",
        )
        .bind(&id)
        .bind(&token.name)
        .bind(token.role.as_str())
        .bind(digest(secret.expose()))
        .bind(self.clock().wall().0)
        .bind(&token.by)
        .bind(token.expires_at.map(|time| time.0))
        .fetch_one(self.db().writer())
        .await
        .map_err(StoreError::sql("make a token"))?;
        Ok((row, secret))
    }

    /// The token that this secret belongs to, if it works now.
    pub async fn verify_token(&self, secret: &str) -> Result<Option<TokenRow>, StoreError> {
        let Some(id) = id_of(secret, PREFIX) else { return Ok(None) };
        let failed = StoreError::sql("check a token");
        let row = sqlx::query("SELECT * FROM tokens WHERE id = $1")
            .bind(id)
            .fetch_optional(self.db().read())
            .await
            .map_err(&failed)?;
        let Some(row) = row else { return Ok(None) };
        let hash: String = row.try_get("hash").map_err(&failed)?;
        let token = <TokenRow as sqlx::FromRow<'_, SqliteRow>>::from_row(&row).map_err(&failed)?;
        let expired = token.expires_at.is_some_and(|time| time <= self.clock().wall());
        if !same(&digest(secret), &hash) || expired || token.revoked_at.is_some() {
            return Ok(None);
        }
        self.used(Kind::Token, id);
        Ok(Some(token))
    }

    /// All tokens, the revoked ones included.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        let mut rows: Vec<TokenRow> = sqlx::query_as("SELECT * FROM tokens ORDER BY created_at, id")
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("list tokens"))?;
        for row in &mut rows {
            row.last_used = self.uses().last(Kind::Token, &row.id, row.last_used);
        }
        Ok(rows)
    }

    /// Whether no token was ever made: then the first one may be made without one.
    pub async fn no_tokens(&self) -> Result<bool, StoreError> {
        sqlx::query_scalar("SELECT NOT EXISTS (SELECT 1 FROM tokens)")
            .fetch_one(self.db().read())
            .await
            .map_err(StoreError::sql("list tokens"))
    }

    /// Takes a token away for good. Doing it again changes nothing.
    pub async fn revoke_token(&self, id: &str) -> Result<TokenRow, StoreError> {
        let row: TokenRow = sqlx::query_as(
            "UPDATE tokens SET revoked_at = coalesce(revoked_at, $1) WHERE id = $2 RETURNING *",
        )
        .bind(self.clock().wall().0)
        .bind(id)
        .fetch_optional(self.db().writer())
        .await
        .map_err(StoreError::sql("revoke a token"))?
        .ok_or_else(|| StoreError::NotFound { what: "token", id: id.into() })?;
        self.announce_revoked(Revoked::Token(row.name.clone()));
        Ok(row)
    }
}
