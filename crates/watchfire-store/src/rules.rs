//! The projection of rules and their versions: for lists and history; what decides is the log.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use watchfire_model::{Actor, PartitionId, Position, RuleSpec, RuleVersion, Timestamp};

use crate::Store;
use crate::db::{commit, json, parsed, time, to_json};
use crate::error::StoreError;

/// How a rule, or a version of one, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleState {
    /// It runs, or will once every partition swapped.
    Deployed,
    /// It gets no callback until it is resumed.
    Paused,
    /// It ended.
    Removed,
    /// A later version took its place.
    Replaced,
    /// It was left for an earlier one.
    RolledBack,
    /// A partition could not start it.
    Refused,
}

impl RuleState {
    const ALL: [Self; 6] =
        [Self::Deployed, Self::Paused, Self::Removed, Self::Replaced, Self::RolledBack, Self::Refused];

    /// As written in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployed => "deployed",
            Self::Paused => "paused",
            Self::Removed => "removed",
            Self::Replaced => "replaced",
            Self::RolledBack => "rolled_back",
            Self::Refused => "refused",
        }
    }
}

impl std::str::FromStr for RuleState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no state of a rule"))
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleRow {
    /// Its name.
    pub name: String,
    /// The version that counts.
    pub version: RuleVersion,
    /// How it stands.
    pub state: RuleState,
    /// The digest of its module.
    pub module: String,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl sqlx::FromRow<'_, SqliteRow> for RuleRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            name: row.try_get("name")?,
            version: row.try_get::<i64, _>("version")? as u32,
            state: parsed(row, "state")?,
            module: row.try_get("module")?,
            updated_at: time(row, "updated_at")?,
        })
    }
}

/// A version of a rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleVersionRow {
    /// The rule.
    pub name: String,
    /// From 1.
    pub version: RuleVersion,
    /// What was deployed.
    pub spec: RuleSpec,
    /// How it stands.
    pub state: RuleState,
    /// Who deployed it, why, in which request.
    pub by: Actor,
    /// When.
    pub created_at: Timestamp,
    /// It is a rollback: the version whose specification came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back_to: Option<RuleVersion>,
    /// Why a partition could not start it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Where each partition swapped to it.
    pub positions: BTreeMap<u16, Position>,
}

impl sqlx::FromRow<'_, SqliteRow> for RuleVersionRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            name: row.try_get("name")?,
            version: row.try_get::<i64, _>("version")? as u32,
            spec: json(row, "spec")?,
            state: parsed(row, "state")?,
            by: Actor {
                name: row.try_get("actor")?,
                reason: row.try_get("reason")?,
                request: row.try_get("request")?,
            },
            created_at: time(row, "created_at")?,
            rolled_back_to: row.try_get::<Option<i64>, _>("rolled_back_to")?.map(|version| version as u32),
            refusal: row.try_get("refusal")?,
            positions: json(row, "positions")?,
        })
    }
}

impl Store {
    /// A version was deployed, or came by a rollback. The rule counts it from now on, and the version before
    /// it is `replaced`, or `rolled_back` where this one is a rollback. Writing it again changes nothing.
    pub async fn put_rule_version(&self, row: &RuleVersionRow) -> Result<(), StoreError> {
        const ACTION: &str = "write a version of a rule";
        let failed = StoreError::sql(ACTION);
        let mut connection = self.db().write().await?;
        let done = sqlx::query(
            "INSERT INTO rule_versions (name, version, spec, state, actor, reason, request, created_at, \
             rolled_back_to, refusal, positions) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
             ON CONFLICT (name, version) DO NOTHING",
        )
        .bind(&row.name)
        .bind(i64::from(row.version))
        .bind(to_json(&row.spec))
        .bind(row.state.as_str())
        .bind(&row.by.name)
        .bind(row.by.reason.as_deref())
        .bind(row.by.request.as_deref())
        .bind(row.created_at.0)
        .bind(row.rolled_back_to.map(i64::from))
        .bind(row.refusal.as_deref())
        .bind(to_json(&row.positions))
        .execute(&mut *connection)
        .await
        .map_err(&failed)?;
        if done.rows_affected() == 0 {
            return Ok(());
        }
        let left = if row.rolled_back_to.is_some() { RuleState::RolledBack } else { RuleState::Replaced };
        sqlx::query(
            "UPDATE rule_versions SET state = $1 WHERE name = $2 AND version < $3 \
             AND state IN ('deployed', 'paused')",
        )
        .bind(left.as_str())
        .bind(&row.name)
        .bind(i64::from(row.version))
        .execute(&mut *connection)
        .await
        .map_err(&failed)?;
        sqlx::query(
            "INSERT INTO rules (name, version, state, module, updated_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (name) DO UPDATE SET version = excluded.version, state = excluded.state, \
             module = excluded.module, updated_at = excluded.updated_at WHERE rules.version <= excluded.version",
        )
        .bind(&row.name)
        .bind(i64::from(row.version))
        .bind(row.state.as_str())
        .bind(row.spec.module.to_string())
        .bind(row.created_at.0)
        .execute(&mut *connection)
        .await
        .map_err(&failed)?;
        commit(connection, ACTION).await
    }

    /// The rule, and the version of it that counts, stand otherwise: paused, resumed (`Deployed`), removed,
    /// refused.
    pub async fn set_rule_state(
        &self,
        name: &str,
        version: Option<RuleVersion>,
        state: RuleState,
        refusal: Option<&str>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        const ACTION: &str = "write the state of a rule";
        let failed = StoreError::sql(ACTION);
        let mut connection = self.db().write().await?;
        let current: Option<i64> = sqlx::query_scalar("SELECT version FROM rules WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut *connection)
            .await
            .map_err(&failed)?;
        let Some(current) = current else {
            return Err(StoreError::NotFound { what: "rule", id: name.into() });
        };
        let version = version.map_or(current, i64::from);
        sqlx::query(
            "UPDATE rule_versions SET state = $1, refusal = coalesce($2, refusal) \
             WHERE name = $3 AND version = $4",
        )
        .bind(state.as_str())
        .bind(refusal)
        .bind(name)
        .bind(version)
        .execute(&mut *connection)
        .await
        .map_err(&failed)?;
        if version == current {
            sqlx::query("UPDATE rules SET state = $1, updated_at = $2 WHERE name = $3")
                .bind(state.as_str())
                .bind(at.0)
                .bind(name)
                .execute(&mut *connection)
                .await
                .map_err(&failed)?;
        }
        commit(connection, ACTION).await
    }

    /// A partition swapped to this version at this position.
    pub async fn record_activation(
        &self,
        name: &str,
        version: RuleVersion,
        position: Position,
    ) -> Result<(), StoreError> {
        const ACTION: &str = "write an activation";
        let failed = StoreError::sql(ACTION);
        let mut connection = self.db().write().await?;
        let row = sqlx::query("SELECT positions FROM rule_versions WHERE name = $1 AND version = $2")
            .bind(name)
            .bind(i64::from(version))
            .fetch_optional(&mut *connection)
            .await
            .map_err(&failed)?;
        let Some(row) = row else {
            return Err(StoreError::NotFound { what: "version of a rule", id: format!("{name}/{version}") });
        };
        let mut positions: BTreeMap<u16, Position> = json(&row, "positions").map_err(&failed)?;
        let PartitionId(partition) = position.partition;
        if positions.insert(partition, position) == Some(position) {
            return Ok(());
        }
        sqlx::query("UPDATE rule_versions SET positions = $1 WHERE name = $2 AND version = $3")
            .bind(to_json(&positions))
            .bind(name)
            .bind(i64::from(version))
            .execute(&mut *connection)
            .await
            .map_err(&failed)?;
        commit(connection, ACTION).await
    }

    /// All rules by name, the removed ones included.
    pub async fn rules(&self) -> Result<Vec<RuleRow>, StoreError> {
        sqlx::query_as("SELECT * FROM rules ORDER BY name")
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("list rules"))
    }

    /// One rule.
    pub async fn rule(&self, name: &str) -> Result<RuleRow, StoreError> {
        sqlx::query_as("SELECT * FROM rules WHERE name = $1")
            .bind(name)
            .fetch_optional(self.db().read())
            .await
            .map_err(StoreError::sql("read a rule"))?
            .ok_or_else(|| StoreError::NotFound { what: "rule", id: name.into() })
    }

    /// The versions of a rule, the latest first.
    pub async fn rule_versions(&self, name: &str) -> Result<Vec<RuleVersionRow>, StoreError> {
        sqlx::query_as("SELECT * FROM rule_versions WHERE name = $1 ORDER BY version DESC")
            .bind(name)
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("list the versions of a rule"))
    }
}
