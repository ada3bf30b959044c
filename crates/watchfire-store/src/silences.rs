//! Silences: what nobody is told of for a while, with Alertmanager's meaning.
//!
//! A change that would rewrite what was silenced in the past ends the old silence and begins another one, so that the
//! list stays a history. An ended silence is kept for a while and then removed. Whether a silence matches an alert is
//! the business of whoever decides about notices; here stands when one was last seen to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use tokio::sync::watch;
use utoipa::ToSchema;
use watchfire_model::{Duration, Timestamp};

use crate::Store;
use crate::db::{commit, json, time, time_opt, to_json};
use crate::error::StoreError;

/// Silences that are kept at most, the ended ones included: each alert is held against each of them.
pub const MOST_SILENCES: i64 = 10_000;

/// A condition of a silence on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SilenceMatcher {
    /// The label. One that an alert does not have counts as empty.
    pub name: String,
    /// What it is compared with.
    pub value: String,
    /// The value is a regular expression, anchored at both ends.
    pub is_regex: bool,
    /// The label must match; `false`: it must not.
    pub is_equal: bool,
}

/// A silence, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Silence {
    /// A UUID.
    pub id: String,
    /// All must hold.
    pub matchers: Vec<SilenceMatcher>,
    /// It holds from then on ...
    #[schema(value_type = String)]
    pub starts_at: Timestamp,
    /// ... and before then.
    #[schema(value_type = String)]
    pub ends_at: Timestamp,
    /// Who wanted it.
    pub created_by: String,
    /// Why.
    pub comment: String,
    /// What tools note with it.
    pub annotations: BTreeMap<String, String>,
    /// When it was last changed.
    #[schema(value_type = String)]
    pub updated_at: Timestamp,
    /// It also ends once the last alert that it matched has resolved.
    pub until_resolved: bool,
}

/// Where a silence is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SilenceState {
    /// It holds.
    Active,
    /// It will hold.
    Pending,
    /// It ended.
    Expired,
}

impl SilenceState {
    /// As Alertmanager writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pending => "pending",
            Self::Expired => "expired",
        }
    }
}

impl std::str::FromStr for SilenceState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Active, Self::Pending, Self::Expired]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no state of a silence: active, pending or expired"))
    }
}

impl Silence {
    /// Where it is in its life.
    pub fn state(&self, now: Timestamp) -> SilenceState {
        if now < self.starts_at {
            SilenceState::Pending
        } else if now < self.ends_at {
            SilenceState::Active
        } else {
            SilenceState::Expired
        }
    }
}

/// A silence that is to be made or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSilence {
    /// The one that is to be changed; `None`: another one is made.
    pub id: Option<String>,
    /// All must hold.
    pub matchers: Vec<SilenceMatcher>,
    /// It holds from then on; not before now where it is new.
    pub starts_at: Timestamp,
    /// ... and before then.
    pub ends_at: Timestamp,
    /// Who wants it.
    pub created_by: String,
    /// Why.
    pub comment: String,
    /// What tools note with it.
    pub annotations: BTreeMap<String, String>,
    /// It also ends once the last alert that it matched has resolved.
    pub until_resolved: bool,
    /// An active alert that it matches is there.
    pub matches: bool,
}

/// A silence and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SilenceUse {
    /// The silence.
    #[serde(flatten)]
    pub silence: Silence,
    /// When it was made.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
    /// When an active alert was last seen that it matches, to the minute; missing: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub matched_at: Option<Timestamp>,
}

/// From when on a silence that holds counts as forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForgottenAfter {
    /// It holds for longer than this.
    pub active: Duration,
    /// It has matched nothing for longer than this.
    pub idle: Duration,
}

impl Default for ForgottenAfter {
    /// A week of holding, a day of matching nothing.
    fn default() -> Self {
        Self { active: Duration::from_secs(7 * 86_400), idle: Duration::from_secs(86_400) }
    }
}

impl sqlx::FromRow<'_, SqliteRow> for Silence {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            matchers: json(row, "matchers")?,
            starts_at: time(row, "starts_at")?,
            ends_at: time(row, "ends_at")?,
            created_by: row.try_get("created_by")?,
            comment: row.try_get("comment")?,
            annotations: json(row, "annotations")?,
            updated_at: time(row, "updated_at")?,
            until_resolved: row.try_get::<i64, _>("until_resolved")? != 0,
        })
    }
}

impl sqlx::FromRow<'_, SqliteRow> for SilenceUse {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            silence: Silence::from_row(row)?,
            created_at: time(row, "created_at")?,
            matched_at: time_opt(row, "matched_at")?,
        })
    }
}

/// Whether the old one can be changed into the new one without rewriting what was silenced in the past
/// (Alertmanager, silence.go, `canUpdate`).
fn can_update(old: &Silence, new: &NewSilence, now: Timestamp) -> bool {
    let seconds = |time: Timestamp| time.0.div_euclid(1_000_000);
    old.matchers == new.matchers
        && match old.state(now) {
            SilenceState::Active => seconds(old.starts_at) == seconds(new.starts_at) && new.ends_at >= now,
            SilenceState::Pending => new.starts_at >= now,
            SilenceState::Expired => false,
        }
}

impl Store {
    /// Changes whenever silences do.
    pub fn subscribe_silences(&self) -> watch::Receiver<u64> {
        self.silence_changes().subscribe()
    }

    /// All silences that are kept, the ended ones included, in the order of their ids.
    pub async fn silences(&self) -> Result<Vec<Silence>, StoreError> {
        sqlx::query_as("SELECT * FROM silences ORDER BY id")
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("list silences"))
    }

    /// The silences that hold or will hold, with what came of them, in the order of their ids.
    pub async fn current_silences(&self, now: Timestamp) -> Result<Vec<SilenceUse>, StoreError> {
        sqlx::query_as("SELECT * FROM silences WHERE ends_at > $1 ORDER BY id")
            .bind(now.0)
            .fetch_all(self.db().read())
            .await
            .map_err(StoreError::sql("list silences"))
    }

    /// One silence.
    pub async fn silence(&self, id: &str) -> Result<SilenceUse, StoreError> {
        sqlx::query_as("SELECT * FROM silences WHERE id = $1")
            .bind(id)
            .fetch_optional(self.db().read())
            .await
            .map_err(StoreError::sql("read a silence"))?
            .ok_or_else(|| StoreError::NotFound { what: "silence", id: id.into() })
    }

    /// Makes a silence or changes one. Where that would rewrite the past (other matchers, another start of one that
    /// holds, anything of one that ended), the old one ends now and another one is made: the answer has its id.
    /// Matchers are taken as they are: whoever calls has checked them.
    pub async fn set_silence(&self, new: &NewSilence, now: Timestamp) -> Result<Silence, StoreError> {
        const ACTION: &str = "keep a silence";
        let failed = StoreError::sql(ACTION);
        let starts_at = new.starts_at.max(now);
        if new.ends_at <= new.starts_at || new.ends_at <= now {
            return Err(StoreError::Refused(
                "the end of a silence is after its start, and not in the past".into(),
            ));
        }
        let mut transaction = self.db().write().await?;
        let old: Option<Silence> = match &new.id {
            None => None,
            Some(id) => Some(
                sqlx::query_as("SELECT * FROM silences WHERE id = $1")
                    .bind(id)
                    .fetch_optional(&mut *transaction)
                    .await
                    .map_err(&failed)?
                    .ok_or_else(|| StoreError::NotFound { what: "silence", id: id.clone() })?,
            ),
        };
        let mut silence = Silence {
            id: uuid::Uuid::new_v4().to_string(),
            matchers: new.matchers.clone(),
            starts_at,
            ends_at: new.ends_at,
            created_by: new.created_by.clone(),
            comment: new.comment.clone(),
            annotations: new.annotations.clone(),
            updated_at: now,
            until_resolved: new.until_resolved,
        };
        match old {
            Some(old) if can_update(&old, new, now) => {
                silence.id = old.id;
                silence.starts_at = new.starts_at;
            }
            old => {
                if let Some(old) = old {
                    expire(&mut transaction, &old, now).await.map_err(&failed)?;
                }
                let count: i64 = sqlx::query_scalar("SELECT count(*) FROM silences")
                    .fetch_one(&mut *transaction)
                    .await
                    .map_err(&failed)?;
                if count >= MOST_SILENCES {
                    return Err(StoreError::Refused(format!(
                        "{MOST_SILENCES} silences are kept already, those that ended lately included"
                    )));
                }
            }
        }
        sqlx::query(
            "INSERT INTO silences (id, matchers, starts_at, ends_at, created_by, comment, annotations, \
             updated_at, until_resolved, created_at, matched_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $8, $10) \
             ON CONFLICT (id) DO UPDATE SET starts_at = excluded.starts_at, ends_at = excluded.ends_at, \
             created_by = excluded.created_by, comment = excluded.comment, annotations = excluded.annotations, \
             updated_at = excluded.updated_at, until_resolved = excluded.until_resolved, \
             matched_at = coalesce(excluded.matched_at, silences.matched_at)",
        )
        .bind(&silence.id)
        .bind(to_json(&silence.matchers))
        .bind(silence.starts_at.0)
        .bind(silence.ends_at.0)
        .bind(&silence.created_by)
        .bind(&silence.comment)
        .bind(to_json(&silence.annotations))
        .bind(silence.updated_at.0)
        .bind(i64::from(silence.until_resolved))
        .bind((new.matches && silence.starts_at <= now).then_some(now.0))
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        commit(transaction, ACTION).await?;
        self.announce_silences();
        Ok(silence)
    }

    /// Ends a silence now; of one that ended already nothing changes.
    pub async fn expire_silence(&self, id: &str, now: Timestamp) -> Result<Silence, StoreError> {
        const ACTION: &str = "end a silence";
        let failed = StoreError::sql(ACTION);
        let mut transaction = self.db().write().await?;
        let old: Silence = sqlx::query_as("SELECT * FROM silences WHERE id = $1")
            .bind(id)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(&failed)?
            .ok_or_else(|| StoreError::NotFound { what: "silence", id: id.into() })?;
        if old.state(now) == SilenceState::Expired {
            return Ok(old);
        }
        let silence = expire(&mut transaction, &old, now).await.map_err(&failed)?;
        commit(transaction, ACTION).await?;
        self.announce_silences();
        Ok(silence)
    }

    /// Active alerts are there that these silences match.
    pub async fn note_silence_matches(&self, ids: &[String], now: Timestamp) -> Result<(), StoreError> {
        const ACTION: &str = "note what silences match";
        if ids.is_empty() {
            return Ok(());
        }
        let mut transaction = self.db().write().await?;
        for id in ids {
            sqlx::query("UPDATE silences SET matched_at = max(coalesce(matched_at, $1), $1) WHERE id = $2")
                .bind(now.0)
                .bind(id)
                .execute(&mut *transaction)
                .await
                .map_err(StoreError::sql(ACTION))?;
        }
        // Nobody has to decide anew because of it: no change is announced.
        commit(transaction, ACTION).await
    }

    /// Silences that hold, and end by themselves within `ahead`, of those that hold for longer than `least`: who wants a
    /// few minutes of quiet knows when they are over.
    pub async fn ending_silences(
        &self,
        now: Timestamp,
        ahead: Duration,
        least: Duration,
    ) -> Result<Vec<Silence>, StoreError> {
        sqlx::query_as(
            "SELECT * FROM silences WHERE ends_at > $1 AND ends_at <= $2 AND starts_at <= $1 \
             AND ends_at - starts_at > $3 ORDER BY ends_at, id",
        )
        .bind(now.0)
        .bind((now + ahead).0)
        .bind(least.0 as i64)
        .fetch_all(self.db().read())
        .await
        .map_err(StoreError::sql("list silences that end soon"))
    }

    /// Silences that hold for too long, or have matched nothing for too long, the oldest first.
    pub async fn forgotten_silences(
        &self,
        now: Timestamp,
        after: ForgottenAfter,
    ) -> Result<Vec<SilenceUse>, StoreError> {
        sqlx::query_as(
            "SELECT * FROM silences WHERE starts_at <= $1 AND ends_at > $1 \
             AND (starts_at < $2 OR max(coalesce(matched_at, 0), starts_at) < $3) ORDER BY starts_at, id",
        )
        .bind(now.0)
        .bind((now - after.active).0)
        .bind((now - after.idle).0)
        .fetch_all(self.db().read())
        .await
        .map_err(StoreError::sql("list forgotten silences"))
    }

    /// Removes silences that ended before a time.
    pub async fn remove_silences(&self, before: Timestamp) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM silences WHERE ends_at < $1")
            .bind(before.0)
            .execute(self.db().writer())
            .await
            .map_err(StoreError::sql("remove old silences"))?;
        Ok(done.rows_affected())
    }
}

/// One that holds ends now; one that would have held never does.
async fn expire(
    connection: &mut SqliteConnection,
    old: &Silence,
    now: Timestamp,
) -> Result<Silence, sqlx::Error> {
    if old.state(now) == SilenceState::Expired {
        return Ok(old.clone());
    }
    let silence = Silence { starts_at: old.starts_at.min(now), ends_at: now, updated_at: now, ..old.clone() };
    sqlx::query("UPDATE silences SET starts_at = $1, ends_at = $2, updated_at = $2 WHERE id = $3")
        .bind(silence.starts_at.0)
        .bind(now.0)
        .bind(&old.id)
        .execute(connection)
        .await?;
    Ok(silence)
}
