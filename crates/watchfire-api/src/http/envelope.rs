//! What every request goes through: it gets an id, a caller and a time limit, and what goes wrong comes out
//! as a problem document with that id.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument as _;

use super::AppState;
use crate::alertmanager::basic_password;
use crate::auth::{Anonymous, Caller, Denied, Role, bearer};
use crate::problem::Problem;
use watchfire_ingest::local::is_local;

/// The header that carries the id of a request, both ways.
const REQUEST_ID: &str = "x-request-id";

/// From the first byte of the body asked for to the first byte of the answer. Above the longest wait that a
/// call offers; event streams have answered by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// With a response: it goes out as the handler made it, for those who speak another API.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AsItIs;

pub(super) async fn envelope(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let (mut parts, body) = request.into_parts();
    let path = super::links::shown(parts.uri.path());
    let span = tracing::info_span!("request", request = id, method = %parts.method, path);
    let response = async {
        match authenticate(&state, &parts, &id).await {
            Ok(caller) => {
                parts.extensions.insert(caller);
                let answer = next.run(Request::from_parts(parts, body));
                tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| {
                    let detail = "the answer took too long; what was begun may still be done";
                    Problem::new(StatusCode::GATEWAY_TIMEOUT, "time-out", detail).into_response()
                })
            }
            Err(problem) => problem.into_response(),
        }
    }
    .instrument(span.clone())
    .await;
    let mut response = with_problem(response, &id);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    // Answers are about this moment and this caller: nothing between may keep them.
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let status = response.status();
    watchfire_telemetry::metrics().api.count(status.as_u16());
    span.in_scope(|| tracing::debug!(status = status.as_u16(), "answered"));
    response
}

/// Problems get the id; refusals that came without a document of ours (a body too large, a method that is
/// not there) become one.
fn with_problem(mut response: Response, id: &str) -> Response {
    let status = response.status();
    let whole = response.extensions().get::<AsItIs>().is_some();
    if whole || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let problem = response
        .extensions_mut()
        .remove::<Problem>()
        .unwrap_or_else(|| Problem::new(status, "http", status.canonical_reason().unwrap_or("refused")));
    let mut rendered = problem.render(Some(id));
    // What the handler said beside the document, such as Allow.
    for (name, value) in response.headers() {
        if !matches!(*name, header::CONTENT_TYPE | header::CONTENT_LENGTH) {
            rendered.headers_mut().entry(name).or_insert(value.clone());
        }
    }
    rendered
}

/// The id that the caller gave, where it can stand in a header and a log line; a new one otherwise.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let good = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    given.filter(good).map_or_else(|| uuid::Uuid::now_v7().simple().to_string(), String::from)
}

async fn authenticate(
    state: &AppState,
    parts: &axum::http::request::Parts,
    request: &str,
) -> Result<Caller, Problem> {
    let nobody = |denied| Caller {
        name: "anonymous".into(),
        role: None,
        denied: Some(denied),
        request: request.to_string(),
    };
    let password = || basic_password(parts.uri.path(), &parts.headers);
    if let Some(secret) = bearer(&parts.headers).map(String::from).or_else(password) {
        return Ok(match state.store.verify_token(&secret).await? {
            Some(token) => Caller {
                name: token.name,
                role: Some(token.role),
                denied: None,
                request: request.to_string(),
            },
            None => nobody(Denied::Invalid),
        });
    }
    let welcome = is_local(parts)
        && match state.options.anonymous {
            Anonymous::Never => false,
            Anonymous::Loopback => true,
            Anonymous::Bootstrap => state.store.no_tokens().await?,
        };
    Ok(match welcome {
        true => Caller { role: Some(Role::Admin), denied: None, ..nobody(Denied::Missing) },
        false => nobody(Denied::Missing),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_ids_are_taken_over() {
        let of = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
            request_id(&headers)
        };
        assert_eq!(of("abc-1.2_3"), "abc-1.2_3");
        for bad in ["", "a b", "é", &"x".repeat(65)] {
            assert_ne!(of(bad), bad);
        }
    }
}
