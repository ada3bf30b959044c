//! A webhook receiver that remembers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;

/// What came: the idempotency id and the body.
pub type Messages = Arc<Mutex<Vec<(String, Value)>>>;

/// The receiver.
#[derive(Clone, Default)]
pub struct Receiver {
    /// Everything that was taken.
    pub messages: Messages,
    /// It answers 503 while this is set.
    pub broken: Arc<AtomicBool>,
}

impl Receiver {
    /// Listens on a free port.
    pub async fn start() -> (Self, SocketAddr) {
        let receiver = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/hook", post(take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (receiver, address)
    }

    /// Status and device of each alert that was told, in order, a repeated message once.
    pub fn told(&self) -> Vec<(String, String)> {
        let mut ids = std::collections::HashSet::new();
        let messages = self.messages.lock().unwrap();
        let first = messages.iter().filter(|(id, _)| ids.insert(id.clone()));
        let alerts = first.flat_map(|(_, body)| body["alerts"].as_array().cloned().unwrap_or_default());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        alerts.map(|alert| (text(&alert["status"]), text(&alert["labels"]["device"]))).collect()
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: String) -> StatusCode {
    if receiver.broken.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    // Alertmanager gives none: each message of its is another one.
    let count = receiver.messages.lock().unwrap().len();
    let id = headers.get("idempotency-key").map_or(format!("{count}"), |id| id.to_str().unwrap().to_string());
    receiver.messages.lock().unwrap().push((id, serde_json::from_str(&body).unwrap()));
    StatusCode::OK
}
