//! The wiring, as its users meet it: the server in process, and the real binary, started, ended and killed.
//! One binary, so that the components of the shipped rules are built once.

// Helpers of tests fail as tests do; clippy knows only the functions marked as tests.
#![allow(clippy::unwrap_used)]

mod alertmanager;
mod alerts;
mod backup;
mod binary;
mod breaker;
mod certificates;
mod command_line;
mod commands;
mod dashboards;
mod gateways;
mod heartbeat;
#[cfg(feature = "kafka")]
mod kafka;
mod letters;
mod mqtt;
mod operations;
mod readme;
mod receiver;
mod recorded;
mod reload;
mod rule_test;
mod server;
mod sinks;
mod survives;
mod versions;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a condition may take to come true on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds; panics with `what` where it does not in time.
async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The folder with the components of the shipped rules.
fn rules() -> PathBuf {
    let component = watchfire_host::build::shipped("threshold").expect("the shipped rules can be built");
    component.parent().expect("a file lies in a folder").to_path_buf()
}

/// A threshold rule on `temperature`.
fn hot() -> serde_json::Value {
    serde_json::json!({
        "module": "threshold",
        "parameters": { "metric": "temperature", "high": 80, "deadband": 5, "severity": "critical" },
    })
}

/// Calls the API; panics where it refuses.
async fn call(
    http: std::net::SocketAddr,
    method: &str,
    path: &str,
    body: Option<serde_json::Value>,
) -> serde_json::Value {
    // The only error is that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::new();
    let mut request = client.request(method.parse().unwrap(), format!("http://{http}/api/v1{path}"));
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert!(status.is_success(), "{method} {path}: {status}: {text}");
    serde_json::from_str(&text).unwrap_or_default()
}
