//! Dead letters: look, replay, delete.

use std::sync::{Arc, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use watchfire_log::Redo;
use watchfire_model::{BatchBuilder, Position};
use watchfire_store::{DeadLetterFilter, DeadLetterRow};

use super::AppState;
use super::extract::{Operator, Path, Query, Viewer};
use super::page::{Listing, PageQuery, time};
use crate::contract::{BreakerState, RawInput, ResubmitError};
use crate::problem::Problem;
use crate::readings::add_readings;

/// How long a replay waits for the tables after a start.
const LEVEL: std::time::Duration = std::time::Duration::from_secs(10);

/// The code of what its sender was not allowed to say.
const NOT_AUTHORISED: &str = "not-authorised";

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct DeadLetterQuery {
    /// `decode` or `rule`.
    kind: Option<String>,
    source: Option<String>,
    device: Option<String>,
    code: Option<String>,
    rule: Option<String>,
    /// Only those that were replayed, or only the others.
    replayed: Option<bool>,
    /// Received at this time or later: RFC 3339, or milliseconds since the epoch.
    since: Option<String>,
}

impl DeadLetterQuery {
    pub(super) fn filter(self, page: PageQuery) -> Result<DeadLetterFilter, Problem> {
        Ok(DeadLetterFilter {
            kind: self.kind,
            source: self.source,
            device: self.device,
            code: self.code,
            rule: self.rule,
            replayed: self.replayed,
            since: time("since", self.since.as_deref())?,
            limit: page.limit()?,
            cursor: page.cursor,
        })
    }
}

/// What came of a replay.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReplayAnswer {
    id: String,
    /// `submitted` as new input, or `redo` for one rule.
    outcome: &'static str,
    /// With `submitted`: readings that were accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<u64>,
    /// With `redo`: the record by which the rule gets the rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    positions: Vec<Position>,
}

/// A dead letter with its payload: as text where it is text, as base64 otherwise.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetterView {
    #[serde(flatten)]
    letter: DeadLetterRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    /// Only the beginning of the payload is here: a list cuts it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    payload_cut: bool,
}

fn view(mut letter: DeadLetterRow) -> DeadLetterView {
    let bytes = std::mem::take(&mut letter.payload);
    let whole = bytes.len() as u64 >= letter.size;
    let (text, base64) = match std::str::from_utf8(&bytes) {
        Ok(text) => (Some(text.to_string()), None),
        // The cut of a list may go through a character.
        Err(error) if !whole && error.error_len().is_none() => {
            (Some(String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned()), None)
        }
        Err(_) => (None, Some(STANDARD.encode(&bytes))),
    };
    DeadLetterView { letter, payload: text, payload_base64: base64, payload_cut: !whole }
}

/// Dead letters, the latest first; of each payload the beginning
#[utoipa::path(get, path = "/dead-letters", tag = "dead letters", params(PageQuery, DeadLetterQuery),
    responses((status = 200, body = Listing<DeadLetterView>)))]
pub(crate) async fn list_dead_letters(
    _: Viewer,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
    Query(query): Query<DeadLetterQuery>,
) -> Result<axum::Json<Listing<DeadLetterView>>, Problem> {
    let found = state.store.dead_letters(&query.filter(page)?).await?;
    Ok(axum::Json(Listing { items: found.items.into_iter().map(view).collect(), next: found.next }))
}

/// One dead letter, whole
///
/// Its id is a position and an index, with slashes: write them as `%2F`, or as `-`.
#[utoipa::path(get, path = "/dead-letters/{id}", tag = "dead letters", params(("id" = String, Path)),
    responses((status = 200, body = DeadLetterView), (status = 404)))]
pub(crate) async fn get_dead_letter(
    _: Viewer,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<axum::Json<DeadLetterView>, Problem> {
    Ok(axum::Json(view(state.store.dead_letter(&written(&id)).await?)))
}

/// Ids may be written with `-` for `/`: proxies like to unpack `%2F`.
fn written(id: &str) -> String {
    id.replace('-', "/")
}

/// Uses a dead letter once more
///
/// What could not be decoded goes through intake as new input, as whoever sent it: all of it or nothing. Rows whose
/// rule failed are evaluated again, by that rule alone, for as long as there is the letter; all rows of the same
/// record go together, and so do their letters. What fails again is a new letter. A letter that is refused again stays
/// as it is.
#[utoipa::path(post, path = "/dead-letters/{id}/replay", tag = "dead letters", params(("id" = String, Path)),
    responses((status = 200, body = ReplayAnswer), (status = 404),
        (status = 409, description = "it was replayed already, or is being replayed; or its rule is paused, reads \
            another stream by now, or selects none of the devices any more"),
        (status = 422, description = "it is refused again, or no replay can help; says why")))]
pub(crate) async fn replay_dead_letter(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<axum::Json<ReplayAnswer>, Problem> {
    // A task of its own: a caller that goes away between the append and the mark would leave a letter that was
    // used and does not say so.
    let replayed = tokio::spawn(async move { claim_and_replay(&state, &caller, &written(&id)).await });
    match replayed.await {
        Ok(answer) => answer.map(axum::Json),
        Err(error) => Err(Problem::internal(&error)),
    }
}

/// What is being replayed: taken before anything is read, so that two callers never use a letter twice. It is
/// not kept in the store. After a crash the log says which letters of rules were used, and the projector marks them; an
/// input is there again, and a reading of it that was appended is known as a repeat.
struct Claim<'a> {
    state: &'a super::State,
    key: String,
}

impl<'a> Claim<'a> {
    fn take(state: &'a super::State, key: String) -> Result<Self, Problem> {
        let mut replaying = state.replaying.lock().unwrap_or_else(PoisonError::into_inner);
        match replaying.insert(key.clone()) {
            true => Ok(Self { state, key }),
            false => Err(Problem::conflict("replaying", "this dead letter is being replayed at this moment")),
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.state.replaying.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

pub(super) async fn claim_and_replay(
    state: &AppState,
    caller: &crate::auth::Caller,
    id: &str,
) -> Result<ReplayAnswer, Problem> {
    let letter = state.store.dead_letter(id).await?;
    // Letters of one record and rule are one thing: they are replayed together.
    let record = letter.rule.clone().map(|rule| (rule, letter.position.clone()));
    let _claim = Claim::take(
        state,
        match &record {
            Some((rule, position)) => format!("{position} {rule}"),
            None => letter.id.clone(),
        },
    )?;
    if let Some((_, position)) = &record {
        level_with_start(state, position).await?;
    }
    // Whoever had the claim before may just have used it.
    let letter = state.store.dead_letter(id).await?;
    if letter.replayed_at.is_some() {
        return Err(Problem::conflict("replayed", "this dead letter was replayed already"));
    }
    if let Some((rule, _)) = &record
        && state.engine.rules().await.get(rule).is_some_and(|health| health.breaker == BreakerState::Open)
    {
        let detail = format!("rule {rule:?} is out because it kept failing: repair it first");
        return Err(Problem::conflict("breaker-open", detail));
    }
    let outcome = match &record {
        Some((rule, position)) => redo(state, caller, &letter, rule, position).await,
        None => resubmit(state, letter).await.map(|answer| (answer, String::new())),
    };
    state.audit(caller, "dead-letter.replay", id, outcome.as_ref().err().map(|p| p.detail.clone())).await;
    let (answer, upto) = outcome?;
    let now = state.clock.wall();
    match record {
        Some((rule, position)) => {
            state.store.mark_record_replayed(&rule, &position, &upto, &caller.name, now).await?;
        }
        None => {
            state.store.mark_replayed(id, &caller.name, now).await?;
        }
    }
    Ok(answer)
}

/// Waits until the tables have what the log held at the start of the process.
async fn level_with_start(state: &AppState, position: &str) -> Result<(), Problem> {
    let failed: Position = position.parse().map_err(|error| Problem::internal(&error))?;
    let Some(last) = state.ended.get(usize::from(failed.partition.0)).and_then(|end| end.checked_sub(1))
    else {
        return Ok(());
    };
    let mut projection = state.projection.clone();
    let reached = projection.reached(Position { offset: last, ..failed });
    tokio::time::timeout(LEVEL, reached).await.map_err(|_| {
        let detail =
            "after the start it is not known yet which dead letters were used: try again in a moment";
        Problem::unavailable("starting", detail)
    })
}

/// Has a rule evaluate the rows once more that it failed on at a record. Gives the last letter that had any: what
/// the projector adds behind it is not used yet.
async fn redo(
    state: &AppState,
    caller: &crate::auth::Caller,
    letter: &DeadLetterRow,
    rule: &str,
    position: &str,
) -> Result<(ReplayAnswer, String), Problem> {
    if letter.rows == 0 {
        let what = letter.callback.as_deref().unwrap_or("callback");
        return Err(Problem::refused(
            "not-replayable",
            format!(
                "the call that failed was for {what}, which counts as done: there are no rows to evaluate again"
            ),
        ));
    }
    let failed: Position = position.parse().map_err(|error| Problem::internal(&error))?;
    let registries = state.control.registries();
    let registry = registries.0.get(usize::from(failed.partition.0));
    let mut batch = BatchBuilder::new();
    let (mut last, mut behind) = (None, 0);
    while let Some(kept) = state.store.kept_rows(rule, position, behind).await? {
        if let Some(registry) = registry {
            add_readings(&mut batch, &kept.payload, &kept.handles, registry)
                .map_err(|error| Problem::internal(&error))?;
        }
        (last, behind) = (Some((kept.source, kept.id)), kept.sequence);
    }
    let Some((stream, upto)) = last else {
        return Err(Problem::conflict(
            "not-kept",
            "the record with the rows was gone before its failure was noted: there is nothing to evaluate again",
        ));
    };
    let (rule, stream, by) = (rule.to_string(), stream.into(), caller.actor(None));
    let batch = Arc::new(batch.finish());
    let redo = Redo { rule, stream, failed, missed: None, upto: Some(upto.clone()), by, batch };
    let positions = state.control.redo(redo).await?;
    Ok((ReplayAnswer { id: letter.id.clone(), outcome: "redo", accepted: None, positions }, upto))
}

/// Gives an input back to intake.
async fn resubmit(state: &AppState, letter: DeadLetterRow) -> Result<ReplayAnswer, Problem> {
    // What a device was not allowed to say does not become true because somebody else may say it.
    if letter.code == NOT_AUTHORISED {
        return Err(Problem::refused(
            "not-replayable",
            "whoever sent it was not allowed to: no replay makes it a reading of that device",
        ));
    }
    let input = RawInput {
        source: letter.source,
        address: letter.address,
        device: letter.device,
        sender: letter.sender,
        payload: letter.payload,
    };
    match state.intake.resubmit(input).await {
        Ok(accepted) => Ok(ReplayAnswer {
            id: letter.id,
            outcome: "submitted",
            accepted: Some(accepted),
            positions: Vec::new(),
        }),
        Err(ResubmitError::Rejected { code, reason }) => {
            Err(Problem::refused("rejected-again", reason).with("reason", code))
        }
        Err(ResubmitError::Unavailable(detail)) => Err(Problem::unavailable("intake", detail)),
    }
}

/// Deletes a dead letter
#[utoipa::path(delete, path = "/dead-letters/{id}", tag = "dead letters", params(("id" = String, Path)),
    responses((status = 204), (status = 404)))]
pub(crate) async fn delete_dead_letter(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = written(&id);
    if !state.store.delete_dead_letter(&id).await? {
        return Err(Problem::not_found("dead letter", &id));
    }
    state.audit(&caller, "dead-letter.delete", &id, None).await;
    Ok(StatusCode::NO_CONTENT)
}
