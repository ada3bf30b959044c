//! Health, metrics, status, the level of the log, and the document of the API itself.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use watchfire_model::{PartitionId, Timestamp};

use super::AppState;
use super::extract::{Admin, Json, Viewer};
use crate::contract::{Outage, PartitionStatus, SourceInfo};
use crate::problem::Problem;

/// How the engine does.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatusView {
    version: &'static str,
    /// Which life of the log this is.
    epoch: u32,
    /// The time of the log.
    #[schema(value_type = String)]
    log_time: Timestamp,
    ready: bool,
    partitions: Vec<PartitionStatus>,
    /// The sources that connect to services by themselves.
    sources: Vec<SourceInfo>,
    /// Records that the store's tables lack.
    projector_lag: u64,
    devices: usize,
    rules: usize,
    /// Rules that are out of a partition because they kept failing, or catch up, by name.
    rules_out: std::collections::BTreeMap<String, Vec<Outage>>,
    modules: usize,
    /// Active alerts by severity.
    alerts: std::collections::BTreeMap<String, u64>,
    /// Dead letters that are kept, and how many their bounds made us drop.
    #[schema(value_type = Object)]
    dead_letters: serde_json::Value,
}

/// The level of the log.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogLevelView {
    /// Such as `info,watchfire_engine=debug`.
    filter: String,
}

fn ready_now(state: &AppState, partitions: &[PartitionStatus]) -> Result<(), String> {
    if partitions.len() < usize::from(state.log.partitions()) {
        return Err("the engine is starting".into());
    }
    for partition in partitions {
        if let Some(fault) = &partition.fault {
            return Err(format!("partition {} stands still: {fault}", partition.partition));
        }
    }
    match partitions.iter().find(|partition| lag(partition) > state.options.ready_lag) {
        Some(partition) => {
            Err(format!("partition {} is {} records behind", partition.partition, lag(partition)))
        }
        None => Ok(()),
    }
}

fn lag(partition: &PartitionStatus) -> u64 {
    partition.end.saturating_sub(partition.offset)
}

/// Whether the process answers
#[utoipa::path(get, path = "/-/healthy", tag = "health", responses((status = 200, body = String)))]
pub(crate) async fn healthy() -> &'static str {
    "healthy\n"
}

/// Whether the engine has caught up with its log
#[utoipa::path(get, path = "/-/ready", tag = "health",
    responses((status = 200, body = String), (status = 503)))]
pub(crate) async fn ready(State(state): State<AppState>) -> Result<&'static str, Problem> {
    ready_now(&state, &state.engine.partitions().await)
        .map(|()| "ready\n")
        .map_err(|detail| Problem::unavailable("not-ready", detail))
}

/// Metrics, in the Prometheus text format
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, content_type = "text/plain")))]
pub(crate) async fn metrics(_: Viewer) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], watchfire_telemetry::render()).into_response()
}

/// How the engine does
#[utoipa::path(get, path = "/status", tag = "health", responses((status = 200, body = StatusView)))]
pub(crate) async fn status(
    _: Viewer,
    State(state): State<AppState>,
) -> Result<axum::Json<StatusView>, Problem> {
    let partitions = state.engine.partitions().await;
    let registries = state.control.registries();
    let devices = registries.0.iter().flat_map(|registry| registry.devices());
    let behind = (0..state.log.partitions()).map(|partition| {
        state.log.range(PartitionId(partition)).1.saturating_sub(state.projection.next(partition))
    });
    let alerts = state.store.active_counts().await?;
    Ok(axum::Json(StatusView {
        version: env!("CARGO_PKG_VERSION"),
        epoch: state.log.epoch().0,
        log_time: state.log.now(),
        ready: ready_now(&state, &partitions).is_ok(),
        partitions,
        sources: (state.sources)(),
        projector_lag: behind.sum(),
        devices: devices.filter(|device| !device.deleted).count(),
        rules: state.control.with_rules(|rules| rules.active().count()),
        rules_out: {
            let out = state.engine.rules().await.into_iter().map(|(name, health)| (name, health.outages));
            out.filter(|(_, outages)| !outages.is_empty()).collect()
        },
        modules: state.control.modules().len(),
        alerts: alerts.into_iter().map(|(severity, n)| (severity.as_str().to_string(), n)).collect(),
        dead_letters: serde_json::json!(state.store.dead_letter_totals().await?),
    }))
}

/// The level of the process's log
#[utoipa::path(get, path = "/log-level", tag = "health", responses((status = 200, body = LogLevelView)))]
pub(crate) async fn get_log_level(_: Admin, State(state): State<AppState>) -> axum::Json<LogLevelView> {
    axum::Json(LogLevelView { filter: state.log_level.get() })
}

/// Changes the level of the process's log until it ends
#[utoipa::path(put, path = "/log-level", tag = "health", request_body = LogLevelView,
    responses((status = 200, body = LogLevelView), (status = 422)))]
pub(crate) async fn put_log_level(
    Admin(caller): Admin,
    State(state): State<AppState>,
    Json(request): Json<LogLevelView>,
) -> Result<axum::Json<LogLevelView>, Problem> {
    let outcome = state.log_level.set(&request.filter);
    state.audit(&caller, "log-level", &request.filter, outcome.as_ref().err().cloned()).await;
    outcome.map_err(|detail| Problem::refused("log-level", detail).with("pointer", "/filter"))?;
    Ok(axum::Json(LogLevelView { filter: state.log_level.get() }))
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "health", responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn openapi_json(State(state): State<AppState>) -> Response {
    match state.openapi.get().map(utoipa::openapi::OpenApi::to_json) {
        Some(Ok(text)) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
