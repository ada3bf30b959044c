//! Who is notified.

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;

use super::AppState;
use super::extract::{Operator, Path, Viewer};
use super::page::Listing;
use crate::contract::{ReceiverInfo, TestAnswer};
use crate::problem::Problem;

/// The configured receivers, and how each does
#[utoipa::path(get, path = "/receivers", tag = "receivers",
    responses((status = 200, body = Listing<ReceiverInfo>)))]
pub(crate) async fn list_receivers(
    _: Viewer,
    State(state): State<AppState>,
) -> Result<axum::Json<Listing<ReceiverInfo>>, Problem> {
    let mut items = state.receivers.list();
    let waiting = state.store.waiting_deliveries().await?;
    for waits in waiting {
        if let Some(item) = items.iter_mut().find(|item| item.name == waits.receiver) {
            (item.waiting, item.oldest) = (waits.pending, Some(waits.oldest));
        }
    }
    Ok(axum::Json(Listing { items, next: None }))
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
    let refused = outcome.as_ref().err().map(|answer| answer.said.clone());
    state.audit(&caller, "receiver.test", &name, refused).await;
    match outcome {
        Ok(TestAnswer { said, answer }) => {
            Ok(axum::Json(json!({"receiver": name, "answer": said, "body": answer})))
        }
        Err(TestAnswer { said, answer }) => {
            let problem = Problem::new(StatusCode::BAD_GATEWAY, "receiver", said).with("receiver", name);
            Err(match answer {
                Some(answer) => problem.with("body", answer),
                None => problem,
            })
        }
    }
}
