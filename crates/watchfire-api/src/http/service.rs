//! What is out of service, or suppressed by design: devices, rules, and rules on devices.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use watchfire_model::{Duration, Timestamp};
use watchfire_store::{ServiceRow, SuppressedAs};

use super::AppState;
use super::extract::{JsonOrDefault, Operator, Query, Viewer};
use super::page::{Listing, PageQuery};
use super::responses::{REMARK, RemarkRequest, check_text, end_of};
use crate::problem::Problem;

/// Rounds over alerts that are active which a call waits for, some hundred alerts each; the rest follows within seconds.
const ROUNDS: usize = 20;

/// What it is about: a device, a rule, or a rule on a device.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct ServiceQuery {
    device: Option<String>,
    rule: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServiceRequest {
    /// Why; must be there.
    reason: String,
    /// Suppressed by design, and not out of service.
    by_design: bool,
    /// It ends by itself then; neither this nor `for`: it does not.
    #[schema(value_type = Option<String>)]
    until: Option<Timestamp>,
    /// It ends by itself after so long: `"2d"`.
    #[serde(rename = "for")]
    #[schema(value_type = Option<String>)]
    span: Option<Duration>,
}

impl ServiceQuery {
    fn names(self) -> Result<(Option<String>, Option<String>), Problem> {
        let given = |name: Option<String>| name.filter(|name| !name.is_empty());
        match (given(self.device), given(self.rule)) {
            (None, None) => {
                Err(Problem::bad_request("query", "device, rule or both say what is out of service")
                    .with("parameter", "device"))
            }
            names => Ok(names),
        }
    }
}

fn subject(device: Option<&str>, rule: Option<&str>) -> String {
    let named = |kind, name: Option<&str>| name.map(|name| format!("{kind} {name}"));
    [named("device", device), named("rule", rule)].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// As far as it is done quickly: what is left is done by the sweep.
async fn settle(state: &AppState) -> Result<(), Problem> {
    for _ in 0..ROUNDS {
        if !state.store.settle_service(state.clock.wall()).await?.1 {
            break;
        }
    }
    Ok(())
}

/// What is out of service, or suppressed by design
#[utoipa::path(get, path = "/out-of-service", tag = "alerts", params(PageQuery, ServiceQuery),
    responses((status = 200, body = Listing<ServiceRow>)))]
pub(crate) async fn list_out_of_service(
    _: Viewer,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
    Query(query): Query<ServiceQuery>,
) -> Result<Response, Problem> {
    let limit = page.limit()?;
    let (device, rule) = (query.device.as_deref(), query.rule.as_deref());
    Ok(axum::Json(state.store.out_of_service(device, rule, page.cursor.as_deref(), limit).await?)
        .into_response())
}

/// Takes a device, a rule, or a rule on a device out of service
///
/// Its alerts are evaluated and recorded as ever; nobody is told of them. Said again, it counts as it was said last.
#[utoipa::path(put, path = "/out-of-service", tag = "alerts", params(ServiceQuery), request_body = ServiceRequest,
    responses((status = 200, body = ServiceRow), (status = 400), (status = 422)))]
pub(crate) async fn put_out_of_service(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Query(query): Query<ServiceQuery>,
    JsonOrDefault(request): JsonOrDefault<ServiceRequest>,
) -> Result<Response, Problem> {
    let (device, rule) = query.names()?;
    let now = state.clock.wall();
    let reason = request.reason.trim().to_string();
    check_text("/reason", &reason, REMARK)?;
    let until = end_of(request.until, request.span, now)?;
    if until.is_some_and(|until| until <= now) {
        let detail = "the time is over already: nothing would be out of service";
        return Err(Problem::refused("until", detail).with("pointer", "/until"));
    }
    let kind = if request.by_design { SuppressedAs::ByDesign } else { SuppressedAs::OutOfService };
    let row =
        ServiceRow { device, rule, kind, reason, created_by: caller.name.clone(), created_at: now, until };
    state.store.take_out_of_service(&row).await?;
    let subject = subject(row.device.as_deref(), row.rule.as_deref());
    state.audit(&caller, "service.out", &subject, None).await;
    settle(&state).await?;
    Ok(axum::Json(row).into_response())
}

/// Brings it back into service
#[utoipa::path(delete, path = "/out-of-service", tag = "alerts", params(ServiceQuery), request_body = RemarkRequest,
    responses((status = 204), (status = 400), (status = 404)))]
pub(crate) async fn delete_out_of_service(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Query(query): Query<ServiceQuery>,
    JsonOrDefault(request): JsonOrDefault<RemarkRequest>,
) -> Result<StatusCode, Problem> {
    let (device, rule) = query.names()?;
    let (device, rule) = (device.as_deref(), rule.as_deref());
    let comment = request.comment()?;
    let subject = subject(device, rule);
    if !state.store.bring_into_service(device, rule, &caller.name, comment.as_deref()).await? {
        return Err(Problem::not_found("entry of what is out of service", &subject));
    }
    state.audit(&caller, "service.in", &subject, None).await;
    settle(&state).await?;
    Ok(StatusCode::NO_CONTENT)
}
