//! Telemetry over HTTP: `POST /ingest/v1/telemetry` and `POST /ingest/v1/devices/{device}/telemetry`.
//!
//! The answer 200 follows the durable append. Good items of an upload are taken whatever the others hold; which were
//! not, and why, stands in the answer. Other addresses below `/ingest/v1/` are those of mappings: uploads of devices that
//! exist already and know no other form.

mod idempotency;
mod problem;
mod uploads;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use watchfire_decode::{Framing, Shape};
use watchfire_log::AppendError;
use watchfire_telemetry::metrics;
use xxhash_rust::xxh3::xxh3_128;

use self::idempotency::{Answers, Before};
pub use self::problem::Problem;
use self::uploads::{Upload, Uploads};
use crate::certificate::{self, ClientCertificate};
use crate::contract::{Authenticator, Credential, Denied, Principal};
use crate::intake::{Content, Intake, Payload, RejectedItem, Source, SubmitError};
use crate::local;
use crate::mapping::AddressMapping;

/// How long the check of a credential may take, as for MQTT.
const CHECK: Duration = Duration::from_secs(10);

/// Bounds of telemetry over HTTP.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpOptions {
    /// Bytes of the largest upload.
    pub body_bytes: usize,
    /// Seconds within which an upload must have come.
    pub body_seconds: u64,
    /// Bytes of all uploads that are being received or wait for the disk; one address may have half of them.
    pub bytes_in_flight: usize,
    /// Uploads whose `Idempotency-Key` is remembered.
    pub idempotency_keys: usize,
    /// Rejected items that an answer lists, 1000 at most; all are counted, and all are dead letters.
    pub rejected_listed: usize,
    /// Without a credential telemetry is taken from other machines too, and through proxies. It belongs to the
    /// listener and not to the bounds that people set: `allow_anonymous_remote`.
    #[serde(skip)]
    pub anonymous_remote: bool,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            body_seconds: 60,
            bytes_in_flight: 128 << 20,
            idempotency_keys: 10_000,
            rejected_listed: 1000,
            anonymous_remote: false,
        }
    }
}

struct Shared {
    options: HttpOptions,
    source: Source,
    mappings: Vec<AddressMapping>,
    intake: Arc<Intake>,
    authenticator: Arc<dyn Authenticator>,
    answers: Answers,
    uploads: Uploads,
}

/// The routes.
pub fn router(
    options: HttpOptions,
    source: Source,
    mappings: Vec<AddressMapping>,
    intake: Arc<Intake>,
    authenticator: Arc<dyn Authenticator>,
) -> Router {
    let answers = Answers::new(options.idempotency_keys);
    let uploads = Uploads::new(options.bytes_in_flight);
    let shared = Arc::new(Shared { options, source, mappings, intake, authenticator, answers, uploads });
    Router::new()
        .route("/ingest/v1/telemetry", post(events))
        .route("/ingest/v1/devices/{device}/telemetry", post(device))
        .route("/ingest/v1/{*rest}", post(mapped))
        .route("/ingest", any(nothing))
        .route("/ingest/{*rest}", any(nothing))
        .layer(axum::middleware::from_fn(problem::envelope))
        .with_state(shared)
}

/// What became of an upload.
#[derive(Clone, Debug, Serialize)]
struct Answer {
    accepted: u32,
    #[serde(skip_serializing_if = "is_zero")]
    quarantined: u32,
    rejected: Vec<RejectedItem>,
    /// More were rejected than are listed: how many in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected_in_all: Option<usize>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What an address says of the items of an upload.
enum Address {
    /// Each item names its device.
    Events,
    Device(String),
    /// One of the mappings may know it.
    Mapped(String),
}

async fn events(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response {
    answer(&shared, Address::Events, request).await
}

async fn device(
    State(shared): State<Arc<Shared>>,
    Path(device): Path<String>,
    request: Request<Body>,
) -> Response {
    answer(&shared, Address::Device(device), request).await
}

async fn mapped(
    State(shared): State<Arc<Shared>>,
    Path(rest): Path<String>,
    request: Request<Body>,
) -> Response {
    answer(&shared, Address::Mapped(rest), request).await
}

async fn nothing() -> Problem {
    no_such_address()
}

fn no_such_address() -> Problem {
    let detail = "telemetry is taken at /ingest/v1/telemetry and /ingest/v1/devices/{device}/telemetry";
    Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
}

async fn answer(shared: &Arc<Shared>, address: Address, request: Request<Body>) -> Response {
    match receive(shared, address, request).await {
        Ok((status, body)) => {
            let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
            response.extensions_mut().insert(problem::Answered);
            response
        }
        Err(problem) => {
            let labels = [("source", shared.source.name.clone()), ("reason", problem.kind.into())];
            metrics().intake.refused.get_or_create(&labels).inc();
            problem.into_response()
        }
    }
}

fn peer(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip())
}

async fn receive(
    shared: &Arc<Shared>,
    address: Address,
    request: Request<Body>,
) -> Result<(StatusCode, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let principal = authenticate(shared, &parts).await?;
    let shape = match &address {
        Address::Events => Shape::Event,
        Address::Device(device) => Shape::Device(device),
        Address::Mapped(rest) => {
            let found = shared.mappings.iter().find_map(|mapping| mapping.shape(rest));
            found.ok_or_else(no_such_address)?
        }
    };
    let device = match shape {
        Shape::Device(device) => Some(device),
        Shape::Mapped { device, .. } => device,
        Shape::Event => None,
    };
    if let Some(device) = device
        && !principal.may_send_for(device)
    {
        let detail = format!("{} may not send for device {device:?}", principal.name());
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
    }
    if device.is_none() && matches!(principal, Principal::User { .. }) && !principal.may_send_for_all() {
        let detail = format!("the role of {} does not allow to send telemetry", principal.name());
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
    }
    let framing = framing(&parts.headers)?;
    let key = idempotency_key(&parts.headers)?;
    // Given back once it is answered.
    let mut upload = shared.uploads.begin(peer(&parts));
    let bytes = collect(shared, &parts.headers, body, &mut upload).await?;
    metrics()
        .intake
        .bytes
        .get_or_create(&[("source", shared.source.name.clone())])
        .inc_by(bytes.len() as u64);
    let content = Content::Items(shape, framing);
    // As it was matched, so that a dead letter finds its mapping again.
    let decoded;
    let place = match &address {
        Address::Mapped(rest) => {
            decoded = format!("/ingest/v1/{rest}");
            &decoded
        }
        _ => parts.uri.path(),
    };
    let payload = Payload { address: place, bytes: &bytes, content };
    let Some(key) = key else { return submit(shared, &principal, payload).await };

    // The same key with another body is another upload by mistake: it must not be taken for done.
    let key = xxh3_128(format!("{}\n{}\n{key}", principal.name(), parts.uri.path()).as_bytes());
    match shared.answers.begin(key, xxh3_128(&bytes)) {
        Before::Answered(status, body) => Ok((status, body)),
        Before::Underway => Err(Problem::new(
            StatusCode::CONFLICT,
            "idempotency-key-in-use",
            "an upload with this Idempotency-Key is still being taken",
        )
        .retry_after(Duration::from_secs(1))),
        Before::Other => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "this Idempotency-Key was used with another body",
        )),
        Before::Nothing(begun) => {
            let outcome = submit(shared, &principal, payload).await?;
            begun.answered(outcome.0, outcome.1.clone());
            Ok(outcome)
        }
    }
}

async fn submit(
    shared: &Shared,
    principal: &Principal,
    payload: Payload<'_>,
) -> Result<(StatusCode, Bytes), Problem> {
    let mut submitted =
        shared.intake.submit(&shared.source, principal, &[payload]).await.map_err(|e| unavailable(&e))?;
    submitted.durable().await.map_err(|error| unavailable(&error.into()))?;
    let verdict = submitted.verdicts.pop().unwrap_or_default();
    let status = if verdict.accepted == 0 { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let (mut rejected, most) = (verdict.rejected, shared.options.rejected_listed);
    rejected.truncate(most);
    let rejected_in_all = (rejected.len() < verdict.rejected_in_all).then_some(verdict.rejected_in_all);
    let answer =
        Answer { accepted: verdict.accepted, quarantined: verdict.quarantined, rejected, rejected_in_all };
    // Numbers and texts: writing them to memory does not fail.
    Ok((status, serde_json::to_vec(&answer).unwrap_or_default().into()))
}

fn unavailable(error: &SubmitError) -> Problem {
    let (kind, detail, seconds) = match error {
        SubmitError::Append(AppendError::Full) => ("queue-full", "the append queue is full".to_string(), 1),
        SubmitError::Append(AppendError::DiskFull) => ("disk-full", "the disk is full".to_string(), 30),
        SubmitError::Append(AppendError::ClockStep(_)) => {
            ("clock-step", "nothing is taken until the clock is trusted again".to_string(), 60)
        }
        SubmitError::Append(AppendError::Closed) => ("stopping", "the engine is stopping".to_string(), 5),
        SubmitError::Append(AppendError::WriteFailed(reason)) => {
            tracing::warn!(reason, "an upload was not written");
            ("write-failed", "the upload could not be written; send it again".to_string(), 1)
        }
        SubmitError::Register(error) => ("register", error.to_string(), 5),
    };
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail).retry_after(Duration::from_secs(seconds))
}

async fn authenticate(shared: &Shared, parts: &Parts) -> Result<Principal, Problem> {
    let unauthorized = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
    let credential = match parts.headers.get(header::AUTHORIZATION) {
        None => Credential::None,
        Some(value) => {
            let text = value.to_str().map_err(|_| unauthorized("the Authorization header is no text"))?;
            let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                Credential::Token(rest.trim().into())
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic(rest.trim()).ok_or_else(|| unauthorized("the Basic credential cannot be read"))?
            } else {
                return Err(unauthorized("the Authorization header is neither Bearer nor Basic"));
            }
        }
    };
    let certificate = parts.extensions.get::<ClientCertificate>();
    let shown = credential != Credential::None || certificate.is_some();
    let checking = certificate::identify(&*shared.authenticator, credential, certificate, peer(parts));
    let checked = tokio::time::timeout(CHECK, checking).await;
    match checked.unwrap_or_else(|_| Err(Denied::Unavailable("it took too long".into()))) {
        Ok(Principal::Anonymous) => anonymous(shared, parts),
        Ok(principal) => Ok(principal),
        Err(Denied::NotAccepted) if shown => Err(unauthorized("the credential was not accepted")),
        Err(Denied::NotAccepted) => {
            Err(unauthorized("a token (Bearer) or device and password (Basic) is needed"))
        }
        Err(Denied::Unavailable(reason)) => {
            tracing::warn!(reason, "credentials cannot be checked");
            let detail = "credentials cannot be checked now";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "credential-check", detail)
                .retry_after(Duration::from_secs(5)))
        }
    }
}

/// A listener on loopback takes what comes without a credential from whoever uses this machine: not from a web page that
/// a browser here shows, and not from whom a proxy here lets through.
fn anonymous(shared: &Shared, parts: &Parts) -> Result<Principal, Problem> {
    let welcome = match shared.options.anonymous_remote {
        true => !local::is_cross_site(parts),
        false => local::is_local(parts) && !local::is_cross_site(parts),
    };
    if welcome {
        return Ok(Principal::Anonymous);
    }
    let detail = "without a credential, telemetry is taken from programs on this machine alone: not through a proxy, \
                  under another name, or from a web page of another origin";
    Err(Problem::new(StatusCode::FORBIDDEN, "not-local", detail))
}

fn basic(text: &str) -> Option<Credential> {
    let text = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Credential::Password { user: user.into(), password: password.into() })
}

/// NDJSON by its content type; JSON and what does not say what it is by its look.
fn framing(headers: &HeaderMap) -> Result<Framing, Problem> {
    let unsupported =
        |detail: String| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail);
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && encoding != "identity"
    {
        return Err(unsupported("compressed uploads are not taken".into()));
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Framing::Auto) };
    let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match kind.to_ascii_lowercase().as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Framing::Ndjson),
        // The last two are what curl says where nobody told it.
        ""
        | "application/json"
        | "text/plain"
        | "application/octet-stream"
        | "application/x-www-form-urlencoded" => Ok(Framing::Auto),
        _ => Err(unsupported(format!("{kind:?} is not taken: application/json or application/x-ndjson"))),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| (1..=256).contains(&key.len()));
    key.map(Some).ok_or_else(|| {
        let detail = "an Idempotency-Key has 1 to 256 printable characters";
        Problem::new(StatusCode::BAD_REQUEST, "idempotency-key", detail)
    })
}

/// Reads the body; a larger one is refused as soon as that is known.
async fn collect(
    shared: &Shared,
    headers: &HeaderMap,
    mut body: Body,
    upload: &mut Upload<'_>,
) -> Result<Bytes, Problem> {
    let most = shared.options.body_bytes;
    let too_large = || {
        let detail = format!("an upload may have {most} bytes; send it in parts");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    };
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let reading = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let broken = |_| Problem::new(StatusCode::BAD_REQUEST, "body", "the upload broke off");
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                if bytes.len() + data.len() > most {
                    return Err(too_large());
                }
                if !upload.grow(data.len()) {
                    let detail = "too many uploads are on their way; send this one again";
                    return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "uploads", detail)
                        .retry_after(Duration::from_secs(1)));
                }
                bytes.extend_from_slice(&data);
            }
        }
        Ok(bytes.freeze())
    };
    tokio::time::timeout(Duration::from_secs(shared.options.body_seconds), reading).await.unwrap_or_else(
        |_| Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", "the upload did not come in time")),
    )
}
