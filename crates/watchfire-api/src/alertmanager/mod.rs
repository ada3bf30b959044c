//! The API of Alertmanager, version 2, under `/alertmanager`: amtool, karma, Grafana and whatever else speaks it finds
//! here what it expects. The shapes are those of api/v2/openapi.yaml of Alertmanager 0.34; lists are never null.
//!
//! Errors have Alertmanager's shape and not ours: a JSON string. Reading needs the role viewer, silences and alerts
//! the role operator; the token comes as `Authorization: Bearer`, or as the password of basic authentication, since
//! those are what such programs can send.

pub mod active;
mod alerts;
mod index;
mod metrics;
pub(crate) mod parameters;
pub(crate) mod post;
pub mod silenced;
mod silences;
mod status;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use serde::Serialize;
use watchfire_model::Timestamp;
use watchfire_store::StoreError;

pub use active::{ActiveAlert, ActiveAlerts};
pub use silenced::follow_silences;

use crate::http::AppState;
use crate::http::envelope::AsItIs;

/// Where it is found.
pub(crate) const BASE: &str = "/alertmanager";

/// The release of Alertmanager whose API this is.
pub(crate) const API_LEVEL: &str = "0.34.0";

/// Everything below [`BASE`].
pub(crate) fn router() -> Router<AppState> {
    Router::new()
        .route("/api/v2/status", get(status::status))
        .route("/api/v2/receivers", get(status::receivers))
        .route("/api/v2/alerts", get(alerts::list).post(post::post).layer(DefaultBodyLimit::max(post::BODY)))
        .route("/api/v2/alerts/groups", get(alerts::groups))
        .route("/api/v2/silences", get(silences::list).post(silences::post))
        .route("/api/v2/silence/{id}", get(silences::get).delete(silences::delete))
        .route("/api/v1/{*rest}", any(gone))
        .route("/metrics", get(metrics::metrics))
        .route("/-/healthy", get(async || "OK"))
        .route("/-/ready", get(status::ready))
        .route("/-/reload", post(reload))
}

/// Any page may ask, as Alertmanager lets it. That gives nothing away: browsers send no token by themselves, and whoever
/// comes without one from another origin is nobody.
pub(crate) async fn cross_origin(request: Request, next: Next) -> Response {
    if below(request.uri().path()).is_none() {
        return next.run(request).await;
    }
    let origin = request.headers().contains_key(header::ORIGIN);
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match preflight {
        true => StatusCode::NO_CONTENT.into_response(),
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    if preflight {
        let methods = HeaderValue::from_static("GET, HEAD, POST, DELETE");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let names = HeaderValue::from_static("Accept, Authorization, Content-Type, X-Requested-With");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    response
}

/// Version 1 of the API ended with Alertmanager 0.27.
async fn gone() -> Response {
    let document = serde_json::json!({
        "status": "deprecated",
        "error": "version 1 of the Alertmanager API was removed with Alertmanager 0.27: use version 2",
    });
    as_it_is(StatusCode::GONE, document.to_string())
}

/// What is in force is the operator's business: nobody changes it over the network.
async fn reload() -> Response {
    let mut response =
        Response::new(Body::from("reloading over HTTP is not offered: send the process SIGHUP\n"));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response.extensions_mut().insert(AsItIs);
    response
}

/// A failure in Alertmanager's shape: a JSON string.
pub(super) struct Failure {
    status: StatusCode,
    body: String,
}

impl Failure {
    fn new(status: StatusCode, text: &str) -> Self {
        Self { status, body: serde_json::json!(text).to_string() }
    }

    /// The request says something wrong.
    pub(super) fn bad(text: impl AsRef<str>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text.as_ref())
    }

    /// A body that cannot be read: what is missing the library of Alertmanager tells from what is wrong.
    pub(super) fn body(what: &str, error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let status = match text.starts_with("missing field") {
            true => StatusCode::UNPROCESSABLE_ENTITY,
            false => StatusCode::BAD_REQUEST,
        };
        Self::shape(status, format!("parsing {what} body failed, because {text}"))
    }

    /// The request does not have the shape that the published schema wants: as the library of Alertmanager says it.
    pub(super) fn shape(status: StatusCode, text: impl Into<String>) -> Self {
        let document = serde_json::json!({ "code": status.as_u16(), "message": text.into() });
        Self { status, body: document.to_string() }
    }

    /// Not now, but later.
    pub(super) fn unavailable(text: impl AsRef<str>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text.as_ref())
    }

    /// There is nothing of that name.
    pub(super) fn nothing() -> Self {
        Self { status: StatusCode::NOT_FOUND, body: String::new() }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::bad(text)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { what, .. } => {
                Self::new(StatusCode::NOT_FOUND, &format!("{what} not found"))
            }
            StoreError::Refused(detail) => Self::bad(detail),
            StoreError::DiskFull { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, "the disk is full"),
            error => {
                tracing::error!(error = error.chain(), "a request failed inside");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed inside; the log says why")
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        as_it_is(self.status, self.body)
    }
}

fn as_it_is(status: StatusCode, body: String) -> Response {
    let mut response = json_response(body);
    *response.status_mut() = status;
    response.extensions_mut().insert(AsItIs);
    response
}

fn json_response(body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer.
pub(super) fn answer(value: &impl Serialize) -> Result<Response, Failure> {
    match serde_json::to_vec(value) {
        Ok(bytes) => Ok(json_response(bytes)),
        Err(error) => {
            tracing::error!(%error, "an answer has no JSON form");
            Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written"))
        }
    }
}

/// A time as Alertmanager writes it, to the millisecond.
pub(super) fn time(time: Timestamp) -> String {
    format!("{:.3}", time.to_jiff())
}

/// What of an address comes behind [`BASE`].
fn below(path: &str) -> Option<&str> {
    path.strip_prefix(BASE).filter(|rest| rest.starts_with('/'))
}

/// The token that came as the password of basic authentication, where the address is one of these.
pub(crate) fn basic_password(path: &str, headers: &HeaderMap) -> Option<String> {
    use base64::Engine as _;
    below(path)?;
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.split_once(':').map(|(_, password)| password.to_string())
}

/// The query of an address.
pub(super) struct Asked(pub(super) parameters::Parameters);

impl axum::extract::FromRequestParts<AppState> for Asked {
    type Rejection = Failure;
    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &AppState,
    ) -> Result<Self, Failure> {
        match axum::extract::Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(pairs)) => Ok(Self(parameters::Parameters(pairs))),
            Err(rejection) => Err(Failure::bad(rejection.body_text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_may_come_as_a_password_here_and_nowhere_else() {
        let mut headers = HeaderMap::new();
        // any:wf_1_2
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic YW55OndmXzFfMg=="));
        assert_eq!(basic_password("/alertmanager/api/v2/status", &headers).as_deref(), Some("wf_1_2"));
        assert_eq!(basic_password("/api/v1/status", &headers), None);
        assert_eq!(basic_password("/alertmanagers/x", &headers), None);
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic !"));
        assert_eq!(basic_password("/alertmanager/api/v2/status", &headers), None);
    }

    #[test]
    fn times_have_milliseconds() {
        assert_eq!(time(Timestamp(1_767_225_600_123_456)), "2026-01-01T00:00:00.123Z");
    }
}
