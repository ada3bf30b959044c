//! The audit trail.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use watchfire_model::Timestamp;
use watchfire_store::AuditFilter;

use super::AppState;
use super::extract::{Admin, Query};
use super::page::PageQuery;
use crate::problem::Problem;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct AuditQuery {
    actor: Option<String>,
    /// An action, such as `rule.deploy`, or the first part of some: `rule`.
    action: Option<String>,
    subject: Option<String>,
    /// At this time or later: RFC 3339.
    since: Option<String>,
}

/// Who did what, the latest first
#[utoipa::path(get, path = "/audit", tag = "audit", params(PageQuery, AuditQuery),
    responses((status = 200, body = serde_json::Value,
        description = "`{items, next}`; each item has at, actor, action, subject, request, outcome, detail")))]
pub(crate) async fn list_audit(
    _: Admin,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
    Query(query): Query<AuditQuery>,
) -> Result<Response, Problem> {
    let since = query.since.as_deref().map(str::parse::<Timestamp>).transpose();
    let filter = AuditFilter {
        actor: query.actor,
        action: query.action,
        subject: query.subject,
        since: since
            .map_err(|error| Problem::bad_request("query", error.to_string()).with("parameter", "since"))?,
        limit: page.limit()?,
        cursor: page.cursor,
    };
    Ok(axum::Json(state.store.audit(&filter).await?).into_response())
}
