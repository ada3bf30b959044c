//! Dead letters: look, replay, delete.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use watchfire_model::{Position, Timestamp};
use watchfire_store::{DeadLetterFilter, DeadLetterRow};

use super::AppState;
use super::extract::{Operator, Path, Query, Viewer};
use super::page::PageQuery;
use crate::contract::{RawInput, ResubmitError};
use crate::problem::Problem;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct DeadLetterQuery {
    source: Option<String>,
    device: Option<String>,
    code: Option<String>,
    rule: Option<String>,
    /// Only those that were replayed, or only the others.
    replayed: Option<bool>,
    /// Received at this time or later: RFC 3339.
    since: Option<String>,
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
    /// With `redo`: the record in each partition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    positions: Vec<Position>,
}

/// The letter with its payload: as text where it is text, as base64 otherwise.
fn view(row: &DeadLetterRow) -> Value {
    let mut view = json!(row);
    let whole = row.payload.len() as u64 >= row.size;
    let payload = match std::str::from_utf8(&row.payload) {
        Ok(text) => ("payload", json!(text)),
        // The cut of a list may go through a character.
        Err(error) if !whole && error.error_len().is_none() => {
            ("payload", json!(String::from_utf8_lossy(&row.payload[..error.valid_up_to()])))
        }
        Err(_) => ("payload_base64", json!(STANDARD.encode(&row.payload))),
    };
    view[payload.0] = payload.1;
    if !whole {
        view["payload_cut"] = json!(true);
    }
    view
}

/// Dead letters, the latest first; of each payload the beginning
#[utoipa::path(get, path = "/dead-letters", tag = "dead letters", params(PageQuery, DeadLetterQuery),
    responses((status = 200, body = serde_json::Value,
        description = "`{items, next}`; each item has id, at, kind (`decode` or `rule`), source, address, device, code, reason, payload or payload_base64")))]
pub(crate) async fn list_dead_letters(
    _: Viewer,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
    Query(query): Query<DeadLetterQuery>,
) -> Result<Response, Problem> {
    let since = query.since.as_deref().map(str::parse::<Timestamp>).transpose();
    let filter = DeadLetterFilter {
        source: query.source,
        device: query.device,
        code: query.code,
        rule: query.rule,
        replayed: query.replayed,
        since: since
            .map_err(|error| Problem::bad_request("query", error.to_string()).with("parameter", "since"))?,
        limit: page.limit()?,
        cursor: page.cursor,
    };
    let found = state.store.dead_letters(&filter).await?;
    let items: Vec<Value> = found.items.iter().map(view).collect();
    let listing = super::page::Listing { items, next: found.next };
    Ok(axum::Json(listing).into_response())
}

/// One dead letter, whole
///
/// Its id is a position and an index, with slashes: write them as `%2F`, or as `-`.
#[utoipa::path(get, path = "/dead-letters/{id}", tag = "dead letters", params(("id" = String, Path)),
    responses((status = 200, body = serde_json::Value), (status = 404)))]
pub(crate) async fn get_dead_letter(
    _: Viewer,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    Ok(axum::Json(view(&state.store.dead_letter(&written(&id)).await?)))
}

/// Ids may be written with `-` for `/`: proxies like to unpack `%2F`.
fn written(id: &str) -> String {
    id.replace('-', "/")
}

/// Uses a dead letter once more
///
/// What could not be decoded goes through intake as new input. Rows whose rule failed are evaluated again, by
/// that rule alone; all rows of the same record go together.
#[utoipa::path(post, path = "/dead-letters/{id}/replay", tag = "dead letters", params(("id" = String, Path)),
    responses((status = 200, body = ReplayAnswer), (status = 404), (status = 409),
        (status = 422, description = "it is refused again, and says why")))]
pub(crate) async fn replay_dead_letter(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<axum::Json<ReplayAnswer>, Problem> {
    let letter = state.store.dead_letter(&written(&id)).await?;
    let id = letter.id.clone();
    if letter.replayed_at.is_some() {
        return Err(Problem::conflict("replayed", "this dead letter was replayed already"));
    }
    let outcome = replay(&state, &caller, letter).await;
    state.audit(&caller, "dead-letter.replay", &id, outcome.as_ref().err().map(|p| p.detail.clone())).await;
    let answer = outcome?;
    state.store.mark_replayed(&id, &caller.name, state.clock.wall()).await?;
    Ok(axum::Json(answer))
}

async fn replay(
    state: &AppState,
    caller: &crate::auth::Caller,
    letter: DeadLetterRow,
) -> Result<ReplayAnswer, Problem> {
    if let Some(rule) = letter.rule {
        let position: Position = letter.position.parse().map_err(|error| Problem::internal(&error))?;
        if position.epoch != state.log.epoch() {
            return Err(Problem::conflict("not-kept", "the record is of an earlier life of the log"));
        }
        let range = (position.offset, position.offset);
        let positions = state.control.redo(rule, position.partition, range, caller.actor(None)).await?;
        return Ok(ReplayAnswer { id: letter.id, outcome: "redo", accepted: None, positions });
    }
    let input = RawInput {
        source: letter.source,
        address: letter.address,
        device: letter.device,
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
