//! Who is notified.

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;

use super::AppState;
use super::extract::{Operator, Path, Viewer};
use super::page::Listing;
use crate::contract::ReceiverInfo;
use crate::problem::Problem;

/// The configured receivers
#[utoipa::path(get, path = "/receivers", tag = "receivers",
    responses((status = 200, body = Listing<ReceiverInfo>)))]
pub(crate) async fn list_receivers(
    _: Viewer,
    State(state): State<AppState>,
) -> axum::Json<Listing<ReceiverInfo>> {
    axum::Json(Listing { items: state.receivers.list(), next: None })
}

/// Sends a test message to a receiver
#[utoipa::path(post, path = "/receivers/{name}/test", tag = "receivers", params(("name" = String, Path)),
    responses((status = 200, body = serde_json::Value), (status = 404),
        (status = 502, description = "what the receiver answered")))]
pub(crate) async fn test_receiver(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<axum::Json<serde_json::Value>, Problem> {
    if !state.receivers.list().iter().any(|receiver| receiver.name == name) {
        return Err(Problem::not_found("receiver", &name));
    }
    let outcome = state.receivers.test(&name).await;
    state.audit(&caller, "receiver.test", &name, outcome.as_ref().err().cloned()).await;
    match outcome {
        Ok(answer) => Ok(axum::Json(json!({"receiver": name, "answer": answer}))),
        Err(answer) => Err(Problem::new(StatusCode::BAD_GATEWAY, "receiver", answer).with("receiver", name)),
    }
}
