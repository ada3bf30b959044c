//! Silences: what nobody is told of for a while.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use watchfire_model::{Duration, Timestamp};
use watchfire_store::{ForgottenAfter, NewSilence, Silence, SilenceMatcher, SilenceState, SilenceUse};

use super::AppState;
use super::extract::{Json, Operator, Path, Query, Viewer};
use super::page::{Listing, PageQuery};
use crate::alertmanager::parameters::silence_matcher;
use crate::problem::Problem;
use watchfire_notify::matcher::Matchers;
use watchfire_notify::stages::silence::conditions as read_conditions;

/// How long a silence without an end of its own holds at most.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// A silence, as it is told.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SilenceView {
    #[serde(flatten)]
    silence: Silence,
    /// `active`, `pending` or `expired`.
    state: SilenceState,
    /// Active alerts that it matches.
    alerts: u64,
}

/// A matcher: a text such as `site=~"oslo|lyon"`, or its parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum MatcherRequest {
    /// `name="value"`, `!=`, `=~` or `!~`.
    Text(String),
    /// The parts of it.
    Parts(SilenceMatcher),
}

/// What `POST /silences` takes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SilenceRequest {
    /// The silence that is to be changed.
    #[serde(default)]
    id: Option<String>,
    /// All must hold.
    matchers: Vec<MatcherRequest>,
    /// It holds from then on; now where it is not said.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    starts_at: Option<Timestamp>,
    /// ... and before then.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    ends_at: Option<Timestamp>,
    /// Or for so long: `2h`.
    #[serde(default, rename = "for")]
    #[schema(value_type = Option<String>)]
    span: Option<Duration>,
    /// It also ends once the last alert that it matched has resolved.
    #[serde(default)]
    until_resolved: bool,
    /// Why.
    comment: String,
    /// What tools note with it.
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct SilenceQuery {
    /// `active`, `pending` or `expired`; missing: all but the expired.
    state: Option<String>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct ForgottenQuery {
    /// Holds for longer than this: `7d`.
    active: Option<String>,
    /// Has matched nothing for longer than this: `1d`.
    idle: Option<String>,
}

fn span(name: &'static str, text: Option<&str>) -> Result<Option<Duration>, Problem> {
    text.filter(|text| !text.is_empty())
        .map(|text| {
            text.parse::<Duration>()
                .map_err(|error| Problem::bad_request("query", error.to_string()).with("parameter", name))
        })
        .transpose()
}

async fn view(state: &AppState, all: Vec<Silence>) -> Result<Vec<SilenceView>, Problem> {
    let now = state.clock.wall();
    let alerts = state.active.current(&state.receivers.settings()).await?;
    let counted = |silence: Silence| {
        let conditions = read_conditions(&silence.matchers).ok();
        let matches = |conditions: &Matchers| {
            alerts.values().filter(|alert| conditions.matches(&alert.labels)).count() as u64
        };
        let state = silence.state(now);
        // One that ended holds nothing back any more: it is not asked.
        let conditions = conditions.filter(|_| state != SilenceState::Expired);
        SilenceView { state, alerts: conditions.as_ref().map_or(0, matches), silence }
    };
    Ok(all.into_iter().map(counted).collect())
}

/// Silences that hold or will hold
#[utoipa::path(get, path = "/silences", tag = "silences", params(PageQuery, SilenceQuery),
    responses((status = 200, body = Listing<SilenceView>)))]
pub(crate) async fn list_silences(
    _: Viewer,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
    Query(query): Query<SilenceQuery>,
) -> Result<Response, Problem> {
    let wanted = match query.state.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(
            text.parse::<SilenceState>()
                .map_err(|fault| Problem::bad_request("query", fault).with("parameter", "state"))?,
        ),
    };
    let now = state.clock.wall();
    let shown = |silence: &Silence| match wanted {
        Some(wanted) => silence.state(now) == wanted,
        None => silence.state(now) != SilenceState::Expired,
    };
    let all: Vec<Silence> = state.store.silences().await?.into_iter().filter(shown).collect();
    let Listing { items, next } = page.cut(all, |silence| &silence.id)?;
    Ok(axum::Json(Listing { items: view(&state, items).await?, next }).into_response())
}

/// Silences that hold for long, or match nothing
///
/// Those that hold for longer than `active`, or have matched nothing for longer than `idle`: somebody may have
/// forgotten them.
#[utoipa::path(get, path = "/silences:forgotten", tag = "silences", params(ForgottenQuery),
    responses((status = 200, body = Listing<SilenceUse>)))]
pub(crate) async fn forgotten_silences(
    _: Viewer,
    State(state): State<AppState>,
    Query(query): Query<ForgottenQuery>,
) -> Result<Response, Problem> {
    let default = ForgottenAfter::default();
    let after = ForgottenAfter {
        active: span("active", query.active.as_deref())?.unwrap_or(default.active),
        idle: span("idle", query.idle.as_deref())?.unwrap_or(default.idle),
    };
    let items = state.store.forgotten_silences(state.clock.wall(), after).await?;
    Ok(axum::Json(Listing { items, next: None }).into_response())
}

/// One silence
#[utoipa::path(get, path = "/silences/{id}", tag = "silences", params(("id" = String, Path)),
    responses((status = 200, body = SilenceView), (status = 404)))]
pub(crate) async fn get_silence(
    _: Viewer,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let found = state.store.silence(&id).await?.silence;
    Ok(axum::Json(view(&state, vec![found]).await?.pop()).into_response())
}

/// Makes a silence, or changes one
///
/// A change that would rewrite the past (other matchers, another start of one that holds, anything of one that ended)
/// ends the silence and makes another one, whose id is in the answer.
#[utoipa::path(post, path = "/silences", tag = "silences", request_body = SilenceRequest,
    responses((status = 200, body = SilenceView), (status = 404), (status = 422)))]
pub(crate) async fn set_silence(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Json(request): Json<SilenceRequest>,
) -> Result<Response, Problem> {
    if !(1..=4096).contains(&request.comment.chars().count()) {
        let detail = "the comment says why, in 1 to 4096 characters";
        return Err(Problem::refused("comment", detail).with("pointer", "/comment"));
    }
    let mut matchers = Vec::with_capacity(request.matchers.len());
    for (i, matcher) in request.matchers.into_iter().enumerate() {
        matchers.push(match matcher {
            MatcherRequest::Parts(matcher) => matcher,
            MatcherRequest::Text(text) => silence_matcher(&text).map_err(|fault| {
                Problem::refused("matcher", fault).with("pointer", format!("/matchers/{i}"))
            })?,
        });
    }
    let conditions = read_conditions(&matchers)
        .map_err(|fault| Problem::refused("matcher", fault).with("pointer", "/matchers"))?;
    let now = state.clock.wall();
    let known = match &request.id {
        Some(id) => Some(state.store.silence(id).await?.silence),
        None => None,
    };
    let starts_at = request.starts_at.or(known.as_ref().map(|known| known.starts_at)).unwrap_or(now);
    let ends_at = match (request.ends_at, request.span) {
        (Some(_), Some(_)) => {
            let detail = "either ends_at or for says when it ends, not both";
            return Err(Problem::refused("span", detail).with("pointer", "/for"));
        }
        (Some(ends_at), None) => ends_at,
        (None, Some(span)) => starts_at.max(now) + span,
        (None, None) if request.until_resolved => starts_at.max(now) + LONGEST,
        (None, None) => {
            let detail = "say when it ends: ends_at, for, or until_resolved";
            return Err(Problem::refused("span", detail).with("pointer", "/ends_at"));
        }
    };
    if ends_at <= starts_at || ends_at <= now {
        let detail = "the end of a silence is after its start, and not in the past";
        return Err(Problem::refused("span", detail).with("pointer", "/ends_at"));
    }
    let alerts = state.active.current(&state.receivers.settings()).await?;
    let new = NewSilence {
        id: request.id,
        matchers,
        starts_at,
        ends_at,
        created_by: caller.name.clone(),
        comment: request.comment,
        annotations: request.annotations,
        until_resolved: request.until_resolved,
        matches: alerts.values().any(|alert| conditions.matches(&alert.labels)),
    };
    let silence = state.store.set_silence(&new, now).await?;
    state.audit(&caller, "silence.set", &silence.id, None).await;
    Ok(axum::Json(view(&state, vec![silence]).await?.pop()).into_response())
}

/// Ends a silence now
#[utoipa::path(delete, path = "/silences/{id}", tag = "silences", params(("id" = String, Path)),
    responses((status = 204), (status = 404)))]
pub(crate) async fn expire_silence(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    state.store.expire_silence(&id, state.clock.wall()).await?;
    state.audit(&caller, "silence.expire", &id, None).await;
    Ok(StatusCode::NO_CONTENT)
}
