//! Errors as RFC 9457 problem documents, of the same form as those of the control API.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument as _;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: what the client or a proxy gave it, where that can stand in a header and a log line; a new
/// one otherwise.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let good = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    given.filter(good).map_or_else(|| format!("{:032x}", rand::random::<u128>()), Into::into)
}

/// Gives every request an id, which stands in its log lines and in the answer, and makes a document of every refusal,
/// also of those that no handler saw.
pub(super) async fn envelope(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let span = tracing::info_span!(
        "request",
        request = id,
        method = %request.method(),
        path = request.uri().path()
    );
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    let problem = response.extensions_mut().remove::<Problem>();
    let answered = response.extensions_mut().remove::<Answered>().is_some();
    if problem.is_some() || !answered && (status.is_client_error() || status.is_server_error()) {
        let problem = problem.unwrap_or_else(|| {
            Problem::new(status, "http", status.canonical_reason().unwrap_or("the request was refused"))
        });
        span.in_scope(|| tracing::debug!(status = status.as_u16(), code = problem.kind, "refused"));
        let mut rendered = problem.render(&id);
        // What was said beside the document, such as Allow.
        for (name, value) in response.headers() {
            if !matches!(*name, header::CONTENT_TYPE | header::CONTENT_LENGTH) {
                rendered.headers_mut().entry(name).or_insert(value.clone());
            }
        }
        response = rendered;
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Stands in responses that say item by item what became of an upload: one of which nothing was taken is no problem
/// document, though its status is 422.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered;

/// An error as its sender is told.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    /// The last part of its `type`: stable.
    pub(super) kind: &'static str,
    detail: String,
    retry_after: Option<Duration>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into(), retry_after: None }
    }

    /// When it is worth trying again.
    pub fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    fn render(&self, request: &str) -> Response {
        let document = serde_json::json!({
            "type": format!("urn:watchfire:problem:{}", self.kind),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "request": request,
        });
        let headers = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, headers, document.to_string()).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, after.as_secs().max(1).into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer, Basic realm=\"watchfire\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl IntoResponse for Problem {
    /// Leaves itself in the response: [`envelope`], which knows the request id, renders it.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
