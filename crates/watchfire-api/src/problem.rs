//! What went wrong, in outside words: RFC 9457 problem documents. The inside words (the source chain of an
//! error) go to the log, joined to the document by the request id.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};

/// The media type of a problem document.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A refusal or failure, as the caller is told. Its `type` is `urn:watchfire:problem:` and the code, which
/// programs may match on and which never changes; the other words are for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// The stable code.
    pub code: &'static str,
    /// What went wrong this time.
    pub detail: String,
    /// What locates the fault: the rule, the field, the limit.
    pub fields: Map<String, Value>,
}

impl Problem {
    /// A problem with this status and code.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), fields: Map::new() }
    }

    /// The request itself is not understood: 400.
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// There is no such thing: 404. `kind` is the noun, in the code too.
    pub fn not_found(kind: &'static str, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", format!("there is no {kind} {name:?}"))
            .with("kind", kind)
            .with("name", name)
    }

    /// It contradicts the present state: 409.
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// It is understood, and refused for what it says: 422.
    pub fn refused(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// Not now, but later: 503.
    pub fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// Something of ours failed: 500. The words of the error stay inside, in the log.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = watchfire_model::chain(error), "a request failed inside");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the request failed inside; the log says why under this request id",
        )
    }

    /// Adds a field that locates the fault.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_string(), value.into());
        self
    }

    /// The document. Fields never replace the five members of the standard.
    pub fn document(&self, request: Option<&str>) -> Value {
        let mut document = self.fields.clone();
        document.insert("type".into(), json!(format!("urn:watchfire:problem:{}", self.code)));
        document.insert("title".into(), json!(self.status.canonical_reason().unwrap_or("Error")));
        document.insert("status".into(), json!(self.status.as_u16()));
        document.insert("detail".into(), json!(self.detail));
        if let Some(request) = request {
            document.insert("request".into(), json!(request));
        }
        Value::Object(document)
    }

    /// The response, with the request id in it.
    pub fn render(&self, request: Option<&str>) -> Response<Body> {
        let mut response = Response::new(Body::from(self.document(request).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"watchfire\""));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl IntoResponse for Problem {
    /// Leaves the problem in the response's extensions too: the outermost layer, which knows the request id,
    /// renders it once more with that.
    fn into_response(self) -> Response<Body> {
        let mut response = self.render(None);
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_the_standard_members_and_the_fields() {
        let document = Problem::not_found("rule", "hot").with("status", "forged").document(Some("r-1"));
        assert_eq!(document["type"], "urn:watchfire:problem:not-found");
        assert_eq!(document["title"], "Not Found");
        assert_eq!(document["status"], 404);
        assert_eq!(document["detail"], "there is no rule \"hot\"");
        assert_eq!((&document["kind"], &document["request"]), (&json!("rule"), &json!("r-1")));
    }

    #[test]
    fn inside_words_stay_inside() {
        let error = std::io::Error::other("password=hunter2");
        assert!(!Problem::internal(&error).document(None).to_string().contains("hunter2"));
    }
}
