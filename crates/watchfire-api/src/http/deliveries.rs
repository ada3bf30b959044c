//! The ledger of notifications.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use watchfire_notify::channel::payload::ACKNOWLEDGE_URL;
use watchfire_store::{DeliveryDetail, DeliveryFilter, DeliveryRow, DeliveryState};

use super::AppState;
use super::extract::{Path, Query, Viewer};
use super::page::{Listing, PageQuery};
use crate::problem::Problem;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct DeliveryQuery {
    /// The id of an alert.
    alert: Option<String>,
    receiver: Option<String>,
    /// `pending`, `delivered`, `superseded`, `expired` or `refused`.
    state: Option<String>,
}

/// Deliveries, the latest first
#[utoipa::path(get, path = "/deliveries", tag = "deliveries", params(PageQuery, DeliveryQuery),
    responses((status = 200, body = Listing<DeliveryRow>)))]
pub(crate) async fn list_deliveries(
    _: Viewer,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
    Query(query): Query<DeliveryQuery>,
) -> Result<Response, Problem> {
    let wanted = query.state.as_deref().filter(|text| !text.is_empty()).map(str::parse::<DeliveryState>);
    let filter = DeliveryFilter {
        alert: query.alert,
        receiver: query.receiver,
        state: wanted
            .transpose()
            .map_err(|error| Problem::bad_request("query", error.to_string()).with("parameter", "state"))?,
        limit: page.limit()?,
        cursor: page.cursor,
    };
    Ok(axum::Json(state.store.deliveries(&filter).await?).into_response())
}

/// One delivery with its message and every attempt
#[utoipa::path(get, path = "/deliveries/{id}", tag = "deliveries", params(("id" = String, Path)),
    responses((status = 200, body = DeliveryDetail), (status = 404)))]
pub(crate) async fn get_delivery(
    _: Viewer,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let mut detail = state.store.delivery(&id).await?;
    hide_links(&mut detail.payload);
    Ok(axum::Json(detail).into_response())
}

/// A link acts for whoever has it: who may look at messages may not therefore acknowledge what they tell of.
fn hide_links(payload: &mut serde_json::Value) {
    let hide = |annotations: Option<&mut serde_json::Value>| {
        if let Some(link) = annotations.and_then(|all| all.get_mut(ACKNOWLEDGE_URL)) {
            *link = "hidden".into();
        }
    };
    hide(payload.get_mut("commonAnnotations"));
    for alert in payload.get_mut("alerts").and_then(serde_json::Value::as_array_mut).into_iter().flatten() {
        hide(alert.get_mut("annotations"));
    }
}
