//! Errors as RFC 9457 problem documents.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: what the client or a proxy gave it, or a new one.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| (1..=128).contains(&id.len()))
        .map_or_else(|| format!("{:032x}", rand::random::<u128>()), Into::into)
}

/// An error as its sender is told.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    /// The last part of its `type`: stable.
    pub(super) kind: &'static str,
    detail: String,
    request: String,
    retry_after: Option<Duration>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into(), request: String::new(), retry_after: None }
    }

    /// When it is worth trying again.
    pub fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    /// The request that it is about.
    pub fn with_request(self, request: String) -> Self {
        Self { request, ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = serde_json::json!({
            "type": format!("urn:watchfire:problem:{}", self.kind),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.kind,
            "request_id": self.request,
        });
        let headers =
            [(header::CONTENT_TYPE, "application/problem+json".to_string()), (REQUEST_ID, self.request)];
        let mut response = (self.status, headers, document.to_string()).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, after.as_secs().max(1).into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = axum::http::HeaderValue::from_static("Bearer, Basic realm=\"watchfire\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
