//! A webhook receiver that refuses, hangs and dies, and remembers what it answered with 200.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

/// What arrived, whatever was answered.
#[derive(Default)]
pub struct Received {
    /// Arrivals in order: delivery id, and whether it was answered with 200.
    pub arrivals: Vec<(String, bool)>,
    /// The body that came with each delivery id.
    pub bodies: HashMap<String, Value>,
    /// What is wrong with what arrived.
    pub faults: Vec<String>,
    faulty: bool,
    random: Option<StdRng>,
}

/// A receiver that listens.
#[derive(Clone)]
pub struct Receiver {
    received: Arc<Mutex<Received>>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Receiver {
    /// Listens on a free port, and misbehaves until [`Receiver::heal`].
    pub async fn start(seed: u64) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let received = Arc::new(Mutex::new(Received {
            faulty: true,
            random: Some(StdRng::seed_from_u64(seed)),
            ..Received::default()
        }));
        let receiver = Self { received: received.clone(), address: listener.local_addr()? };
        let app = Router::new().route("/hook", post(hook)).with_state(received);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(receiver)
    }

    /// From now on every delivery is accepted.
    pub fn heal(&self) {
        self.with(|received| received.faulty = false);
    }

    /// Looks at what arrived.
    pub fn with<T>(&self, look: impl FnOnce(&mut Received) -> T) -> T {
        look(&mut self.received.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn hook(State(received): State<Arc<Mutex<Received>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let id = headers.get("idempotency-key").and_then(|id| id.to_str().ok()).unwrap_or_default().to_string();
    let (answer, hang) = {
        let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
        let fate = if received.faulty {
            received.random.as_mut().map_or(0, |random| random.random_range(0..10_u32))
        } else {
            0
        };
        let answer = match fate {
            0..=5 => StatusCode::OK,
            6 => StatusCode::INTERNAL_SERVER_ERROR,
            7 => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        if id.is_empty() {
            received.faults.push("a delivery without an id".into());
        }
        match serde_json::from_slice::<Value>(&body) {
            Err(error) => received.faults.push(format!("delivery {id} is not JSON: {error}")),
            Ok(body) => {
                if received.bodies.get(&id).is_some_and(|before| before["alerts"] != body["alerts"]) {
                    received.faults.push(format!("delivery {id} came again with other alerts"));
                }
                received.bodies.insert(id.clone(), body);
            }
        }
        received.arrivals.push((id, answer == StatusCode::OK));
        (answer, fate == 9)
    };
    if hang {
        // Longer than any sender waits in a test: the answer comes to nobody.
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    answer
}
