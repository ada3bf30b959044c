//! The audit trail.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use watchfire_store::{AuditFilter, AuditRow};

use super::AppState;
use super::extract::{Admin, Query};
use super::page::{Listing, PageQuery, time};
use crate::problem::Problem;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct AuditQuery {
    actor: Option<String>,
    /// An action, such as `rule.deploy`, or the first part of some: `rule`.
    action: Option<String>,
    subject: Option<String>,
    /// At this time or later: RFC 3339, or milliseconds since the epoch.
    since: Option<String>,
}

/// Who did what, the latest first
#[utoipa::path(get, path = "/audit", tag = "audit", params(PageQuery, AuditQuery),
    responses((status = 200, body = Listing<AuditRow>)))]
pub(crate) async fn list_audit(
    _: Admin,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
    Query(query): Query<AuditQuery>,
) -> Result<Response, Problem> {
    let filter = AuditFilter {
        actor: query.actor,
        action: query.action,
        subject: query.subject,
        since: time("since", query.since.as_deref())?,
        limit: page.limit()?,
        cursor: page.cursor,
    };
    Ok(axum::Json(state.store.audit(&filter).await?).into_response())
}
