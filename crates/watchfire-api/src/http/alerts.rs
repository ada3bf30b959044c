//! Alerts: look, reset, follow. What else people do to them: `responses.rs`.

use std::convert::Infallible;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use watchfire_model::Severity;
use watchfire_store::{AlertDetail, AlertFilter, AlertRow, AlertState};

use super::AppState;
use super::extract::{JsonOrDefault, Operator, Path, Query, Viewer};
use super::page::{Listing, PageQuery};
use crate::problem::Problem;

/// Events that are read from the store at once.
const EVENTS: u32 = 256;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct AlertQuery {
    /// `active` or `resolved`.
    state: Option<String>,
    /// One or more, with commas: `critical,major`.
    severity: Option<String>,
    rule: Option<String>,
    device: Option<String>,
    /// Raised at this time or later: RFC 3339, or milliseconds since the epoch.
    since: Option<String>,
    /// `true` or `false`.
    acknowledged: Option<String>,
    /// `true` or `false`.
    shelved: Option<String>,
    /// `true` or `false`: by design, or because something is out of service.
    suppressed: Option<String>,
    /// Assigned to this person.
    assigned_to: Option<String>,
}

impl AlertQuery {
    /// What the store looks for.
    pub(crate) fn filter(self, page: PageQuery) -> Result<AlertFilter, Problem> {
        let severity =
            self.severity.as_deref().unwrap_or_default().split(',').filter(|text| !text.is_empty());
        Ok(AlertFilter {
            state: parameter::<AlertState>("state", self.state.as_deref())?,
            severity: severity
                .map(|text| parameter::<Severity>("severity", Some(text)))
                .filter_map(Result::transpose)
                .collect::<Result<_, _>>()?,
            since: super::page::time("since", self.since.as_deref())?,
            acknowledged: parameter("acknowledged", self.acknowledged.as_deref())?,
            shelved: parameter("shelved", self.shelved.as_deref())?,
            suppressed: parameter("suppressed", self.suppressed.as_deref())?,
            rule: self.rule,
            device: self.device,
            assigned_to: self.assigned_to,
            limit: page.limit()?,
            cursor: page.cursor,
        })
    }
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ResetRequest {
    /// Also where the condition still stands: it may trigger again at once.
    force: bool,
    /// Why.
    reason: Option<String>,
}

/// A part of the query, as what it stands for. Empty is as if it were missing.
pub(super) fn parameter<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &'static str,
    text: Option<&str>,
) -> Result<Option<T>, Problem> {
    text.filter(|text| !text.is_empty())
        .map(|text| {
            text.parse::<T>()
                .map_err(|error| Problem::bad_request("query", error.to_string()).with("parameter", name))
        })
        .transpose()
}

/// Alerts, the latest first
#[utoipa::path(get, path = "/alerts", tag = "alerts", params(PageQuery, AlertQuery),
    responses((status = 200, body = Listing<AlertRow>)))]
pub(crate) async fn list_alerts(
    _: Viewer,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
    Query(query): Query<AlertQuery>,
) -> Result<Response, Problem> {
    let filter = query.filter(page)?;
    Ok(axum::Json(state.store.alerts(&filter).await?).into_response())
}

/// One alert with its history, its evidence and who was told
#[utoipa::path(get, path = "/alerts/{id}", tag = "alerts", params(("id" = String, Path)),
    responses((status = 200, body = AlertDetail), (status = 404)))]
pub(crate) async fn get_alert(
    _: Viewer,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    Ok(axum::Json(state.store.alert(&id).await?).into_response())
}

/// Resets a latched alert, or ends one by force
///
/// The change is a record of the log; the alert is resolved once its partition gets there.
#[utoipa::path(post, path = "/alerts/{id}/reset", tag = "alerts", params(("id" = String, Path)),
    request_body = ResetRequest, responses((status = 202), (status = 404),
        (status = 409, description = "it is resolved, or still stands and force is not set")))]
pub(crate) async fn reset_alert(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    JsonOrDefault(request): JsonOrDefault<ResetRequest>,
) -> Result<StatusCode, Problem> {
    let alert = state.store.alert(&id).await?.alert;
    if alert.state == AlertState::Resolved {
        return Err(Problem::conflict("resolved", "the alert is resolved already"));
    }
    if alert.cleared_at.is_none() && !request.force {
        return Err(Problem::conflict(
            "still-active",
            "the condition still stands; set force to end the alert all the same",
        ));
    }
    let actor = caller.actor(request.reason);
    let outcome =
        state.control.clear_condition(alert.rule, alert.device, alert.key, request.force, actor).await;
    state.audit(&caller, "alert.reset", &id, outcome.as_ref().err().map(ToString::to_string)).await;
    outcome?;
    Ok(StatusCode::ACCEPTED)
}

/// What happens to alerts, in commit order
///
/// Server-sent events; the id of each is its sequence. With `Last-Event-ID` it goes on behind that one,
/// without it with what comes next. `Last-Event-ID: 0` begins with the first there is.
#[utoipa::path(get, path = "/alerts/events", tag = "alerts",
    responses((status = 200, content_type = "text/event-stream")))]
pub(crate) async fn alert_events(
    _: Viewer,
    State(state): State<AppState>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let permit = super::streams::permit(&state)?;
    let mut changes = state.store.subscribe();
    let last = match headers.get("last-event-id") {
        Some(id) => id.to_str().ok().and_then(|id| id.trim().parse::<i64>().ok()).ok_or_else(|| {
            Problem::bad_request("last-event-id", "the id of an alert event is its sequence number")
        })?,
        None => *changes.borrow_and_update(),
    };
    let (sender, receiver) = tokio::sync::mpsc::channel::<Event>(64);
    tokio::spawn(async move {
        let (_permit, mut last) = (permit, last);
        loop {
            // Seen before reading: what is committed while we read wakes us at once.
            changes.mark_unchanged();
            let events = match state.store.events_after(last, EVENTS).await {
                Ok(events) => events,
                Err(error) => {
                    tracing::warn!(error = error.chain(), "a stream of alert events broke off");
                    return;
                }
            };
            let full = events.len() == EVENTS as usize;
            for row in events {
                last = row.sequence;
                let data = serde_json::to_string(&row).unwrap_or_default();
                let event = Event::default().id(last.to_string()).event(row.kind).data(data);
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            if !full {
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                    () = state.stop.cancelled() => return,
                }
            }
        }
    });
    let events = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|event| (Ok::<_, Infallible>(event), receiver))
    });
    Ok(Sse::new(events).keep_alive(super::streams::keep_alive()).into_response())
}
