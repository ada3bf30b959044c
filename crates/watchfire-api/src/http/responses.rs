//! What people do to alerts: acknowledge, confirm, shelve, assign, comment; to one, or to all that filters choose.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use watchfire_model::{Duration, Timestamp};
use watchfire_store::{Act, AlertRow, AlertState, ShelfRow, ShelveUntil};

use super::AppState;
use super::alerts::AlertQuery;
use super::extract::{Json, JsonOrDefault, Operator, Path, Query, Viewer};
use super::page::{Listing, PageQuery};
use crate::auth::Caller;
use crate::problem::Problem;

#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AcknowledgeRequest {
    /// It counts until then; neither this nor `for`: until the alert ends.
    #[schema(value_type = Option<String>)]
    until: Option<Timestamp>,
    /// It counts for so long: `"4h"`.
    #[serde(rename = "for")]
    #[schema(value_type = Option<String>)]
    span: Option<Duration>,
    /// Kept with the alert.
    comment: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RemarkRequest {
    /// Kept with the alert.
    comment: Option<String>,
}

/// One of `until`, `for` and `one_shot`.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ShelveRequest {
    /// Until then.
    #[schema(value_type = Option<String>)]
    until: Option<Timestamp>,
    /// For so long: `"2h"`.
    #[serde(rename = "for")]
    #[schema(value_type = Option<String>)]
    span: Option<Duration>,
    /// Until the alert ends.
    one_shot: bool,
    /// Why; must be there.
    reason: String,
}

#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AssignRequest {
    /// Whose it is; `null` or missing: nobody's.
    to: Option<String>,
    /// Kept with the alert.
    comment: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommentRequest {
    comment: String,
}

/// What came of a slice.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct BulkResponse {
    /// Alerts that were changed.
    changed: u64,
    /// Alerts that were so already, or ended meanwhile.
    unchanged: u64,
    /// Give it as `cursor` to go on with the following alerts; missing: these were the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Remarks of people are bounded: they go into notifications.
pub(super) fn check_text(pointer: &'static str, text: &str, most: usize) -> Result<(), Problem> {
    let (code, name) = (&pointer[1..], pointer[1..].replace('_', " "));
    match text.chars().count() {
        n if (1..=most).contains(&n) => Ok(()),
        n => Err(Problem::refused(code, format!("{name}: has 1 to {most} characters, not {n}"))
            .with("pointer", pointer)),
    }
}

/// The length of a remark at most.
pub(super) const REMARK: usize = 4096;

/// The length of the name of a person or a team at most.
const NAME: usize = 256;

impl RemarkRequest {
    /// The remark, checked.
    pub(super) fn comment(self) -> Result<Option<String>, Problem> {
        check_comment(self.comment.as_deref())?;
        Ok(self.comment)
    }
}

fn check_comment(comment: Option<&str>) -> Result<(), Problem> {
    comment.map_or(Ok(()), |comment| check_text("/comment", comment, REMARK))
}

/// A time that was said in one of two ways.
pub(super) fn end_of(
    until: Option<Timestamp>,
    span: Option<Duration>,
    now: Timestamp,
) -> Result<Option<Timestamp>, Problem> {
    match (until, span) {
        (Some(_), Some(_)) => {
            Err(Problem::refused("until", "until and for are the same, said in two ways: give one of them")
                .with("pointer", "/for"))
        }
        (until, span) => Ok(until.or(span.map(|span| now + span))),
    }
}

impl AcknowledgeRequest {
    fn act(self, now: Timestamp) -> Result<Act, Problem> {
        check_comment(self.comment.as_deref())?;
        let until = end_of(self.until, self.span, now)?;
        if until.is_some_and(|until| until <= now) {
            return Err(Problem::refused("until", "the acknowledgement would be over already")
                .with("pointer", "/until"));
        }
        Ok(Act::Acknowledge { until, comment: self.comment })
    }
}

impl ShelveRequest {
    fn act(self, state: &AppState, now: Timestamp) -> Result<Act, Problem> {
        check_text("/reason", self.reason.trim(), REMARK)?;
        let until = match (end_of(self.until, self.span, now)?, self.one_shot) {
            (Some(until), false) => ShelveUntil::Time(until),
            (None, true) => ShelveUntil::Resolved,
            _ => {
                let detail = "one of until, for and one_shot says when the alert is told again";
                return Err(Problem::refused("shelve", detail).with("pointer", "/until"));
            }
        };
        let policy = state.options.shelve;
        policy.shelve(until, &self.reason, now).map_err(|error| {
            Problem::refused("shelve", error.to_string())
                .with("pointer", "/until")
                .with("max", policy.max.to_string())
        })
    }
}

/// Does it to one alert, and writes down who did.
async fn respond(
    state: &AppState,
    caller: &Caller,
    id: &str,
    action: &str,
    act: &Act,
) -> Result<Response, Problem> {
    let done = state.store.respond(id, act, &caller.name, state.clock.wall()).await;
    let refused = done.as_ref().err().map(ToString::to_string);
    state.audit(caller, action, id, refused).await;
    Ok(axum::Json(done?).into_response())
}

/// Does it to a slice of those that are active and that the filters choose.
async fn respond_all(
    state: &AppState,
    caller: &Caller,
    (page, query): (PageQuery, AlertQuery),
    action: &str,
    act: Act,
) -> Result<axum::Json<BulkResponse>, Problem> {
    let mut filter = query.filter(page)?;
    if filter.state == Some(AlertState::Resolved) {
        let detail = "alerts that are resolved are not chosen: only those that are active";
        return Err(Problem::bad_request("query", detail).with("parameter", "state"));
    }
    filter.state = Some(AlertState::Active);
    let found = state.store.alerts(&filter).await?;
    let ids: Vec<String> = found.items.into_iter().map(|alert| alert.id).collect();
    let done = state.store.respond_all(&ids, &act, &caller.name, state.clock.wall()).await;
    let subject = format!("{} alerts", ids.len());
    state.audit(caller, action, &subject, done.as_ref().err().map(ToString::to_string)).await;
    let done = done?;
    Ok(axum::Json(BulkResponse {
        changed: done.changed.len() as u64,
        unchanged: done.unchanged,
        next: found.next,
    }))
}

/// Somebody knows of it
#[utoipa::path(post, path = "/alerts/{id}/acknowledge", tag = "alerts", params(("id" = String, Path)),
    request_body = AcknowledgeRequest,
    responses((status = 200, body = AlertRow), (status = 404), (status = 422)))]
pub(crate) async fn acknowledge_alert(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    JsonOrDefault(request): JsonOrDefault<AcknowledgeRequest>,
) -> Result<Response, Problem> {
    let act = request.act(state.clock.wall())?;
    respond(&state, &caller, &id, "alert.acknowledge", &act).await
}

/// Nobody looks after it any more
#[utoipa::path(post, path = "/alerts/{id}/unacknowledge", tag = "alerts", params(("id" = String, Path)),
    request_body = RemarkRequest, responses((status = 200, body = AlertRow), (status = 404)))]
pub(crate) async fn unacknowledge_alert(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    JsonOrDefault(request): JsonOrDefault<RemarkRequest>,
) -> Result<Response, Problem> {
    let act = Act::Unacknowledge { comment: request.comment()? };
    respond(&state, &caller, &id, "alert.unacknowledge", &act).await
}

/// Something was done about it
#[utoipa::path(post, path = "/alerts/{id}/confirm", tag = "alerts", params(("id" = String, Path)),
    request_body = RemarkRequest, responses((status = 200, body = AlertRow), (status = 404)))]
pub(crate) async fn confirm_alert(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    JsonOrDefault(request): JsonOrDefault<RemarkRequest>,
) -> Result<Response, Problem> {
    respond(&state, &caller, &id, "alert.confirm", &Act::Confirm { comment: request.comment()? }).await
}

/// Nobody is told of it for a while
#[utoipa::path(post, path = "/alerts/{id}/shelve", tag = "alerts", params(("id" = String, Path)),
    request_body = ShelveRequest,
    responses((status = 200, body = AlertRow), (status = 404), (status = 409, description = "it is resolved"),
        (status = 422, description = "no reason, or longer than may be")))]
pub(crate) async fn shelve_alert(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    JsonOrDefault(request): JsonOrDefault<ShelveRequest>,
) -> Result<Response, Problem> {
    let act = request.act(&state, state.clock.wall())?;
    respond(&state, &caller, &id, "alert.shelve", &act).await
}

/// People are told of it again
#[utoipa::path(post, path = "/alerts/{id}/unshelve", tag = "alerts", params(("id" = String, Path)),
    request_body = RemarkRequest,
    responses((status = 200, body = AlertRow), (status = 404),
        (status = 409, description = "it is resolved, and another one of its condition is shelved")))]
pub(crate) async fn unshelve_alert(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    JsonOrDefault(request): JsonOrDefault<RemarkRequest>,
) -> Result<Response, Problem> {
    respond(&state, &caller, &id, "alert.unshelve", &Act::Unshelve { comment: request.comment()? }).await
}

/// It is somebody's
#[utoipa::path(post, path = "/alerts/{id}/assign", tag = "alerts", params(("id" = String, Path)),
    request_body = AssignRequest, responses((status = 200, body = AlertRow), (status = 404), (status = 422)))]
pub(crate) async fn assign_alert(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    JsonOrDefault(request): JsonOrDefault<AssignRequest>,
) -> Result<Response, Problem> {
    check_comment(request.comment.as_deref())?;
    if let Some(to) = &request.to {
        check_text("/to", to, NAME)?;
    }
    let act = Act::Assign { to: request.to, comment: request.comment };
    respond(&state, &caller, &id, "alert.assign", &act).await
}

/// A remark in its history
#[utoipa::path(post, path = "/alerts/{id}/comment", tag = "alerts", params(("id" = String, Path)),
    request_body = CommentRequest,
    responses((status = 200, body = AlertRow), (status = 404)))]
pub(crate) async fn comment_alert(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    Json(request): Json<CommentRequest>,
) -> Result<Response, Problem> {
    check_comment(Some(&request.comment))?;
    respond(&state, &caller, &id, "alert.comment", &Act::Comment { comment: request.comment }).await
}

/// Somebody knows of all of these
///
/// Those that are active and that the filters choose; `limit` alerts with one call, and `next` goes on.
#[utoipa::path(post, path = "/alerts:acknowledge", tag = "alerts", params(PageQuery, AlertQuery),
    request_body = AcknowledgeRequest, responses((status = 200, body = BulkResponse), (status = 422)))]
pub(crate) async fn acknowledge_alerts(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
    Query(query): Query<AlertQuery>,
    JsonOrDefault(request): JsonOrDefault<AcknowledgeRequest>,
) -> Result<axum::Json<BulkResponse>, Problem> {
    let act = request.act(state.clock.wall())?;
    respond_all(&state, &caller, (page, query), "alert.acknowledge", act).await
}

/// Nobody is told of all of these for a while
///
/// Those that are active and that the filters choose; `limit` alerts with one call, and `next` goes on.
#[utoipa::path(post, path = "/alerts:shelve", tag = "alerts", params(PageQuery, AlertQuery),
    request_body = ShelveRequest, responses((status = 200, body = BulkResponse), (status = 422)))]
pub(crate) async fn shelve_alerts(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
    Query(query): Query<AlertQuery>,
    JsonOrDefault(request): JsonOrDefault<ShelveRequest>,
) -> Result<axum::Json<BulkResponse>, Problem> {
    let act = request.act(&state, state.clock.wall())?;
    respond_all(&state, &caller, (page, query), "alert.shelve", act).await
}

/// Conditions that are shelved for a time, whether an alert of theirs is active or not
#[utoipa::path(get, path = "/shelves", tag = "alerts", params(PageQuery),
    responses((status = 200, body = Listing<ShelfRow>)))]
pub(crate) async fn list_shelves(
    _: Viewer,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
) -> Result<Response, Problem> {
    let limit = page.limit()?;
    Ok(axum::Json(state.store.shelves(page.cursor.as_deref(), limit).await?).into_response())
}
