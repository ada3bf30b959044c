//! Devices: the registry, their credentials, their last values, and why nothing comes from one.

use std::collections::{BTreeMap, BinaryHeap};

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use watchfire_ingest::contract::matches_pattern;
use watchfire_model::{DeviceSpec, Duration, Timestamp, Value};
use watchfire_store::CredentialKind;

use super::AppState;
use super::extract::{Author, Json, JsonOrDefault, Path, Query, Raw, Viewer};
use super::page::{Listing, PageQuery};
use crate::control::check_device;
use crate::problem::Problem;

/// Values older than this are stale, where the question names no other span.
const TTL: Duration = Duration::from_secs(300);

/// Refused lines that an answer lists; more are counted.
const LISTED_FAULTS: usize = 1000;

/// Gateways that an answer names.
const LISTED_GATEWAYS: usize = 100;

/// A device.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeviceView {
    id: String,
    /// What kind of machine it is.
    #[serde(rename = "type")]
    kind: String,
    site: String,
    labels: BTreeMap<String, String>,
    /// How often it reports.
    #[schema(value_type = Option<String>)]
    interval: Option<Duration>,
    /// Other devices that it may speak for, as a gateway: ids, with `*` for any run of characters.
    speaks_for: Vec<String>,
    /// When something came from it last.
    #[schema(value_type = Option<String>)]
    last_seen: Option<Timestamp>,
}

/// What `PUT /devices/{id}` takes.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DeviceRequest {
    /// May be missing; must be the one of the address.
    id: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    site: String,
    labels: BTreeMap<String, String>,
    /// Seconds, or text with a unit: `"10s"`.
    #[schema(value_type = Option<String>)]
    interval: Option<Duration>,
    /// Other devices that it may speak for, as a gateway: 64 ids at most, with `*` for any run of characters.
    speaks_for: Vec<String>,
}

impl DeviceRequest {
    fn spec(self, id: String) -> DeviceSpec {
        let Self { id: _, kind, site, labels, interval, speaks_for } = self;
        DeviceSpec { id, kind, site, labels, interval, speaks_for }
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct DeviceFilter {
    /// Only of this type.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Only at this site.
    site: Option<String>,
    /// Only ids that contain this.
    q: Option<String>,
}

/// What came of a list of devices.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImportAnswer {
    created: usize,
    updated: usize,
    /// How many lines were refused.
    rejected: usize,
    /// The first thousand of them.
    errors: Vec<LineFault>,
}

/// A line that was refused.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LineFault {
    /// From 1.
    line: usize,
    reason: String,
}

/// The last values of a device.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StateView {
    device: String,
    #[schema(value_type = Option<String>)]
    last_seen: Option<Timestamp>,
    metrics: BTreeMap<String, MetricView>,
}

/// The last value of a metric.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MetricView {
    #[schema(value_type = Object)]
    value: Value,
    #[schema(value_type = String)]
    time: Timestamp,
    /// Older than the span that was asked for.
    stale: bool,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct StateQuery {
    /// Values older than this are stale: `90s`, `5m`; default 5 minutes.
    ttl: Option<String>,
}

/// What a device said at one time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReadingView {
    /// By its own clock.
    #[schema(value_type = String)]
    time: Timestamp,
    /// The metrics that it named then.
    #[schema(value_type = Object)]
    metrics: BTreeMap<String, Value>,
}

fn last_reading(heard: &crate::contract::DeviceState) -> ReadingView {
    let time = heard.last_event_time;
    let then = heard.values.iter().filter(|(_, (at, _))| *at == time);
    let metrics = then.map(|(metric, (_, value))| (metric.clone(), value.clone())).collect();
    ReadingView { time, metrics }
}

/// Everything that may explain why a device is or is not heard.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WhyView {
    device: String,
    /// Whether it is registered.
    registered: bool,
    /// When something came from it last.
    #[schema(value_type = Option<String>)]
    last_contact: Option<Timestamp>,
    /// Its latest reading.
    last_reading: Option<ReadingView>,
    /// The latest input that could not be used, and why.
    #[schema(value_type = Option<Object>)]
    last_reject: Option<serde_json::Value>,
    credentials: Vec<CredentialView>,
    /// When a client certificate that names it was last accepted, since the process began.
    #[schema(value_type = Option<String>)]
    certificate_last_used: Option<Timestamp>,
    /// Other devices that it may speak for.
    speaks_for: Vec<String>,
    /// The gateways that may speak for it; the first hundred.
    gateways: Vec<String>,
    /// The rules that select it.
    rules: Vec<String>,
    /// What all that comes to, in a sentence each.
    findings: Vec<String>,
}

/// A credential of a device; never its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CredentialView {
    id: String,
    /// `password` or `token`.
    kind: &'static str,
    #[schema(value_type = String)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>)]
    last_used: Option<Timestamp>,
}

/// What `POST /devices/{id}/credentials` takes.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CredentialRequest {
    /// A password that the device has already, instead of a token made here. It replaces the one before.
    password: Option<String>,
}

/// A new credential: the secret is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CredentialAnswer {
    id: String,
    kind: &'static str,
    /// The user name to connect with: the id of the device.
    user: String,
    /// The token; missing where the caller chose a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

fn view(spec: &DeviceSpec, heard: Option<&crate::contract::DeviceState>) -> DeviceView {
    DeviceView {
        id: spec.id.clone(),
        kind: spec.kind.clone(),
        site: spec.site.clone(),
        labels: spec.labels.clone(),
        interval: spec.interval,
        speaks_for: spec.speaks_for.clone(),
        last_seen: heard.map(|heard| heard.last_seen),
    }
}

/// The devices that may speak for another one, the first of them by id.
fn gateways(state: &AppState, id: &str) -> Vec<String> {
    let registries = state.control.registries();
    let mut found: Vec<String> = registries
        .0
        .iter()
        .flat_map(|registry| registry.devices())
        .filter(|device| !device.deleted && device.spec.id != id)
        .filter(|device| device.spec.speaks_for.iter().any(|pattern| matches_pattern(pattern, id)))
        .map(|device| device.spec.id.clone())
        .collect();
    found.sort_unstable();
    found.truncate(LISTED_GATEWAYS);
    found
}

/// What came of a device so far.
async fn heard(state: &AppState, id: &str) -> Result<Option<crate::contract::DeviceState>, Problem> {
    Ok(state.engine.device_states(vec![id.into()]).await?.pop().flatten())
}

fn find(state: &AppState, id: &str) -> Option<DeviceSpec> {
    let registries = state.control.registries();
    let (partition, handle) = registries.find(id)?;
    registries.0.get(usize::from(partition.0))?.get(handle).map(|device| device.spec.clone())
}

fn must_find(state: &AppState, id: &str) -> Result<DeviceSpec, Problem> {
    find(state, id).ok_or_else(|| Problem::not_found("device", id))
}

/// Devices, by id
#[utoipa::path(get, path = "/devices", tag = "devices", params(PageQuery, DeviceFilter),
    responses((status = 200, body = Listing<DeviceView>)))]
pub(crate) async fn list_devices(
    _: Viewer,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
    Query(filter): Query<DeviceFilter>,
) -> Result<axum::Json<Listing<DeviceView>>, Problem> {
    let limit = page.limit()? as usize;
    let registries = state.control.registries();
    let wanted = registries.0.iter().flat_map(|registry| registry.devices()).filter(|device| {
        let spec = &device.spec;
        !device.deleted
            && page.cursor.as_ref().is_none_or(|cursor| spec.id > *cursor)
            && filter.kind.as_ref().is_none_or(|kind| spec.kind == *kind)
            && filter.site.as_ref().is_none_or(|site| spec.site == *site)
            && filter.q.as_ref().is_none_or(|q| spec.id.contains(q.as_str()))
    });
    // The smallest ids of a large fleet, without sorting all of it.
    let mut first: BinaryHeap<&str> = BinaryHeap::with_capacity(limit + 2);
    for device in wanted {
        first.push(&device.spec.id);
        if first.len() > limit + 1 {
            first.pop();
        }
    }
    let ids = first.into_sorted_vec();
    let next = (ids.len() > limit).then(|| ids[limit - 1].to_string());
    let specs: Vec<DeviceSpec> = ids.iter().take(limit).filter_map(|id| find(&state, id)).collect();
    // All in one question: the loop answers between records.
    let heard = state.engine.device_states(specs.iter().map(|spec| spec.id.clone()).collect()).await?;
    let items = specs.iter().zip(&heard).map(|(spec, heard)| view(spec, heard.as_ref()));
    Ok(axum::Json(Listing { items: items.collect(), next }))
}

/// One device
#[utoipa::path(get, path = "/devices/{id}", tag = "devices", params(("id" = String, Path)),
    responses((status = 200, body = DeviceView), (status = 404)))]
pub(crate) async fn get_device(
    _: Viewer,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<axum::Json<DeviceView>, Problem> {
    let spec = must_find(&state, &id)?;
    Ok(axum::Json(view(&spec, heard(&state, &id).await?.as_ref())))
}

/// Registers a device, or changes what is known of it
#[utoipa::path(put, path = "/devices/{id}", tag = "devices", params(("id" = String, Path)),
    request_body = DeviceRequest,
    responses((status = 201, body = DeviceView), (status = 200, body = DeviceView), (status = 422)))]
pub(crate) async fn put_device(
    Author(caller): Author,
    State(state): State<AppState>,
    Path(id): Path<String>,
    Json(request): Json<DeviceRequest>,
) -> Result<(StatusCode, axum::Json<DeviceView>), Problem> {
    if request.id.as_ref().is_some_and(|other| *other != id) {
        return Err(Problem::refused("device", "the id in the body is not the one in the address")
            .with("pointer", "/id"));
    }
    let spec = request.spec(id.clone());
    let outcome = state.control.put_devices(vec![spec.clone()], caller.actor(None)).await;
    state.audit(&caller, "device.put", &id, outcome.as_ref().err().map(ToString::to_string)).await;
    let new = outcome?.first().copied().unwrap_or_default();
    // It is registered, whether or not the loop answers now.
    let heard = heard(&state, &id).await.unwrap_or_default();
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, axum::Json(view(&spec, heard.as_ref()))))
}

/// Deletes a device, with its state, timers, alerts and credentials
#[utoipa::path(delete, path = "/devices/{id}", tag = "devices", params(("id" = String, Path)),
    responses((status = 204), (status = 404)))]
pub(crate) async fn delete_device(
    Author(caller): Author,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let outcome = state.control.delete_device(&id, caller.actor(None)).await;
    state.audit(&caller, "device.delete", &id, outcome.as_ref().err().map(ToString::to_string)).await;
    outcome?;
    for credential in state.store.credentials(&id).await? {
        state.store.remove_credential(&id, &credential.id).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Registers many devices
///
/// One JSON document a line, as `PUT /devices/{id}` takes it, with `id`. Good lines count even where others
/// are refused.
#[utoipa::path(post, path = "/devices:import", tag = "devices",
    request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = 200, body = ImportAnswer), (status = 422, description = "every line was refused")))]
pub(crate) async fn import_devices(
    Author(caller): Author,
    State(state): State<AppState>,
    Raw(body): Raw,
) -> Result<(StatusCode, axum::Json<ImportAnswer>), Problem> {
    let (devices, faults) = parse_lines(&body);
    let rejected = faults.len();
    let new = state.control.put_devices(devices, caller.actor(None)).await;
    let subject = format!("{rejected} refused");
    state.audit(&caller, "device.import", &subject, new.as_ref().err().map(ToString::to_string)).await;
    let new = new?;
    let created = new.iter().filter(|new| **new).count();
    let answer = ImportAnswer {
        created,
        updated: new.len() - created,
        rejected,
        errors: faults.into_iter().take(LISTED_FAULTS).collect(),
    };
    let nothing = new.is_empty() && rejected > 0;
    Ok((if nothing { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK }, axum::Json(answer)))
}

fn parse_lines(body: &[u8]) -> (Vec<DeviceSpec>, Vec<LineFault>) {
    let (mut devices, mut faults) = (Vec::new(), Vec::new());
    for (i, line) in body.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let parsed = serde_json::from_slice::<DeviceRequest>(line).map_err(|error| error.to_string());
        let device = parsed.and_then(|request| {
            let id = request.id.clone().ok_or("has no id")?;
            let spec = request.spec(id);
            check_device(&spec).map(|()| spec)
        });
        match device {
            Ok(spec) => devices.push(spec),
            Err(reason) => faults.push(LineFault { line: i + 1, reason }),
        }
    }
    (devices, faults)
}

/// The last value of each metric of a device
#[utoipa::path(get, path = "/devices/{id}/state", tag = "devices", params(("id" = String, Path), StateQuery),
    responses((status = 200, body = StateView), (status = 404)))]
pub(crate) async fn device_state(
    _: Viewer,
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<StateQuery>,
) -> Result<axum::Json<StateView>, Problem> {
    must_find(&state, &id)?;
    let ttl = match query.ttl {
        None => TTL,
        Some(text) => text
            .parse::<Duration>()
            .map_err(|error| Problem::bad_request("query", error.to_string()).with("parameter", "ttl"))?,
    };
    // By the log's clock: in a replay of old data that one says what is old.
    let now = state.control.now();
    let device = heard(&state, &id).await?;
    let metrics = device.iter().flat_map(|device| &device.values).map(|(metric, (time, value))| {
        let stale = now.since(*time) > ttl;
        (metric.clone(), MetricView { value: value.clone(), time: *time, stale })
    });
    let metrics = metrics.collect();
    Ok(axum::Json(StateView { device: id, last_seen: device.map(|device| device.last_seen), metrics }))
}

/// Why a device is or is not heard
#[utoipa::path(get, path = "/devices/{id}/why", tag = "devices", params(("id" = String, Path)),
    responses((status = 200, body = WhyView)))]
pub(crate) async fn device_why(
    _: Viewer,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<axum::Json<WhyView>, Problem> {
    let spec = find(&state, &id);
    let heard = heard(&state, &id).await?;
    // Rows of it whose rule failed were used: they say something of the rule, not of the device.
    let filter = watchfire_store::DeadLetterFilter {
        kind: Some("decode".into()),
        device: Some(id.clone()),
        limit: 1,
        ..watchfire_store::DeadLetterFilter::default()
    };
    let reject = state.store.dead_letters(&filter).await?.items.into_iter().next();
    let credentials: Vec<CredentialView> =
        state.store.credentials(&id).await?.into_iter().map(credential_view).collect();
    let rules: Vec<String> = spec
        .iter()
        .flat_map(|spec| {
            state.control.with_rules(|rules| {
                let selects = rules.active().filter(|version| version.spec.select.matches(spec));
                selects.map(|version| version.spec.name.clone()).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut findings = Vec::new();
    if spec.is_none() {
        findings.push("it is not registered".to_string());
    }
    match &heard {
        None => findings.push("no reading of it was ever taken".into()),
        Some(heard) => {
            let silent = state.control.now().since(heard.last_seen);
            let expected = spec.as_ref().and_then(|spec| spec.interval);
            if expected.is_some_and(|interval| silent.0 > interval.0.saturating_mul(2)) {
                findings.push(format!("nothing came from it for {silent}, longer than twice its interval"));
            }
        }
    }
    if let Some(reject) = &reject
        && heard.as_ref().is_none_or(|heard| reject.at >= heard.last_seen)
    {
        findings.push(format!("the last that came from it was refused: {}", reject.reason));
    }
    if spec.is_some() && rules.is_empty() {
        findings.push("no rule selects it".into());
    }
    Ok(axum::Json(WhyView {
        certificate_last_used: state.store.certificate_last_used(&id),
        speaks_for: spec.as_ref().map(|spec| spec.speaks_for.clone()).unwrap_or_default(),
        gateways: gateways(&state, &id),
        device: id,
        registered: spec.is_some(),
        last_contact: heard.as_ref().map(|heard| heard.last_seen),
        last_reading: heard.as_ref().map(last_reading),
        last_reject: reject.and_then(|reject| serde_json::to_value(reject).ok()),
        credentials,
        rules,
        findings,
    }))
}

fn kind_name(kind: CredentialKind) -> &'static str {
    match kind {
        CredentialKind::Password => "password",
        CredentialKind::Token => "token",
    }
}

fn credential_view(row: watchfire_store::CredentialRow) -> CredentialView {
    CredentialView {
        id: row.id,
        kind: kind_name(row.kind),
        created_at: row.created_at,
        last_used: row.last_used,
    }
}

/// The credentials of a device, without their secrets
#[utoipa::path(get, path = "/devices/{id}/credentials", tag = "devices", params(("id" = String, Path)),
    responses((status = 200, body = Listing<CredentialView>), (status = 404)))]
pub(crate) async fn list_credentials(
    _: Viewer,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<axum::Json<Listing<CredentialView>>, Problem> {
    must_find(&state, &id)?;
    let rows = state.store.credentials(&id).await?;
    Ok(axum::Json(Listing { items: rows.into_iter().map(credential_view).collect(), next: None }))
}

/// Makes a credential for a device; the secret is shown this once
#[utoipa::path(post, path = "/devices/{id}/credentials", tag = "devices", params(("id" = String, Path)),
    request_body = CredentialRequest, responses((status = 201, body = CredentialAnswer), (status = 404)))]
pub(crate) async fn add_credential(
    Author(caller): Author,
    State(state): State<AppState>,
    Path(id): Path<String>,
    JsonOrDefault(request): JsonOrDefault<CredentialRequest>,
) -> Result<(StatusCode, axum::Json<CredentialAnswer>), Problem> {
    must_find(&state, &id)?;
    let (row, secret) = match request.password {
        Some(password) => match password.chars().count() {
            8..=256 => (state.store.set_device_password(&id, &password).await?, None),
            n => {
                return Err(Problem::refused(
                    "credential",
                    format!("a password has 8 to 256 characters, not {n}"),
                )
                .with("pointer", "/password"));
            }
        },
        None => {
            let (row, secret) = state.store.create_device_token(&id).await?;
            (row, Some(secret.expose().to_string()))
        }
    };
    state.audit(&caller, "device.credential.add", &id, None).await;
    let answer = CredentialAnswer { id: row.id, kind: kind_name(row.kind), user: id, secret };
    Ok((StatusCode::CREATED, axum::Json(answer)))
}

/// Takes a credential back
#[utoipa::path(delete, path = "/devices/{id}/credentials/{credential}", tag = "devices",
    params(("id" = String, Path), ("credential" = String, Path)), responses((status = 204), (status = 404)))]
pub(crate) async fn delete_credential(
    Author(caller): Author,
    State(state): State<AppState>,
    Path((id, credential)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    if !state.store.remove_credential(&id, &credential).await? {
        return Err(Problem::not_found("credential", &credential));
    }
    state.audit(&caller, "device.credential.remove", &id, None).await;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_lines_count_and_bad_ones_say_why() {
        let body = b"{\"id\":\"a\",\"type\":\"press\",\"interval\":\"10s\"}\n\n{\"id\":\"a/b\"}\nnot json\n{}\r\n{\"id\":\"b\",\"colour\":1}";
        let (devices, faults) = parse_lines(body);
        assert_eq!(devices.iter().map(|spec| spec.id.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert!(faults[3].reason.contains("colour"));
    }
}
