//! Where results flow to, and the past that is kept there.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use watchfire_model::{Duration, Timestamp};

use super::AppState;
use super::extract::{Path, Query, Viewer};
use super::page::Listing;
use crate::contract::{History, HistoryFailure, HistoryQuery, SinkInfo};
use crate::problem::Problem;

/// The configured sinks, and how each does
#[utoipa::path(get, path = "/sinks", tag = "sinks", responses((status = 200, body = Listing<SinkInfo>)))]
pub(crate) async fn list_sinks(_: Viewer, State(state): State<AppState>) -> axum::Json<Listing<SinkInfo>> {
    axum::Json(Listing { items: state.sinks.list(), next: None })
}

/// Which part of the past.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryParameters {
    /// The metric.
    metric: String,
    /// From then on.
    from: String,
    /// Before then; missing: now.
    to: Option<String>,
    /// The span that a point stands for, such as `1m` or `1h`; missing: each value is a point.
    #[param(value_type = Option<String>)]
    step: Option<Duration>,
    /// The stream; missing: `readings`.
    stream: Option<String>,
}

/// The past of a metric of a device, made coarse by the server that keeps it
#[utoipa::path(get, path = "/devices/{id}/history", tag = "sinks",
    params(("id" = String, Path), HistoryParameters),
    responses((status = 200, body = History), (status = 404, description = "no sink keeps history"),
        (status = 422), (status = 503)))]
pub(crate) async fn device_history(
    _: Viewer,
    State(state): State<AppState>,
    Path(device): Path<String>,
    Query(asked): Query<HistoryParameters>,
) -> Result<axum::Json<History>, Problem> {
    let to = asked.to.map(|to| time("to", &to)).transpose()?;
    let query = HistoryQuery {
        device,
        metric: asked.metric,
        stream: asked.stream.unwrap_or_else(|| watchfire_model::READINGS.into()),
        from: time("from", &asked.from)?,
        to: to.unwrap_or_else(|| state.clock.wall()),
        step: asked.step.unwrap_or(Duration::ZERO),
    };
    state.sinks.history(query).await.map(axum::Json).map_err(|failure| match failure {
        HistoryFailure::Nowhere => {
            Problem::new(axum::http::StatusCode::NOT_FOUND, "no-history", failure.to_string())
        }
        HistoryFailure::Refused(detail) => Problem::refused("history", detail),
        HistoryFailure::Unavailable(detail) => Problem::unavailable("history", detail),
    })
}

/// A time of a query: RFC 3339, or milliseconds since the epoch.
pub(super) fn time(parameter: &'static str, text: &str) -> Result<Timestamp, Problem> {
    let milliseconds = text.parse().ok().and_then(Timestamp::from_millis);
    milliseconds
        .map_or_else(|| text.parse::<Timestamp>(), Ok)
        .map_err(|error| Problem::bad_request("query", error.to_string()).with("parameter", parameter))
}
