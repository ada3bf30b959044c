//! Status and receivers.

use axum::extract::State;
use axum::response::Response;
use serde_json::json;

use super::{API_LEVEL, Asked, Failure, answer, time};
use crate::http::AppState;
use crate::http::extract::Viewer;
use crate::problem::Problem;

pub(super) async fn status(_: Viewer, State(state): State<AppState>) -> Result<Response, Failure> {
    answer(&json!({
        // One process alone, which is what Alertmanager calls a cluster that is disabled.
        "cluster": { "status": "disabled", "peers": [] },
        "versionInfo": {
            "version": API_LEVEL,
            "revision": concat!("watchfire ", env!("CARGO_PKG_VERSION")),
            "branch": "watchfire",
            "buildUser": "",
            "buildDate": "",
            "goVersion": "",
        },
        "config": { "original": watchfire_notify::export::alertmanager(&state.receivers.config()) },
        "uptime": time(state.started),
    }))
}

pub(super) async fn receivers(
    _: Viewer,
    State(state): State<AppState>,
    Asked(asked): Asked,
) -> Result<Response, Failure> {
    let shown = asked.receivers_match()?;
    let config = state.receivers.config();
    let all = config.receivers.iter().filter(|_| shown);
    let all: Vec<_> = all.map(|receiver| json!({ "name": receiver.name, "labels": {} })).collect();
    answer(&all)
}

/// Alertmanager's word for it is OK.
pub(super) async fn ready(state: State<AppState>) -> Result<&'static str, Problem> {
    crate::http::health::ready(state).await.map(|_| "OK")
}
