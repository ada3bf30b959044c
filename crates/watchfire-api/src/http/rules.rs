//! Rules: deploy, look, go back, pause, remove, and watch at work.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use utoipa::{IntoParams, ToSchema};
use watchfire_model::{Position, RuleSpec, RuleVersion, Timestamp};

use super::extract::{Author, Json, JsonOrDefault, Operator, Path, Query, Viewer};
use super::page::{Listing, PageQuery};
use super::plan::{self, PlanView};
use super::{AppState, Reason};
use crate::contract::{KeptState, RuleHealth};
use crate::control::{Activation, Outcome, Progress, Rule, RuleRequest, StateChoice, StatePlan, Version};
use crate::difference::differences;
use crate::problem::Problem;

/// A wait for the swap ends after this long; the answer then says that it is pending.
const PATIENCE: Duration = Duration::from_secs(60);

/// A rule.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RuleView {
    name: String,
    /// The version that runs or is about to.
    version: Option<RuleVersion>,
    /// `active`, `pending` (not every partition swapped yet), `refused`, `paused` or `removed`.
    state: &'static str,
    /// The module, by name and version.
    module: Option<String>,
    /// What was deployed.
    #[schema(value_type = Object)]
    spec: Option<serde_json::Value>,
    #[schema(value_type = String)]
    updated_at: Option<Timestamp>,
    updated_by: Option<String>,
    /// How many devices it is for.
    devices: usize,
    health: Option<RuleHealth>,
}

/// A version of a rule.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VersionView {
    version: RuleVersion,
    /// `active`, `pending`, `refused`, `replaced` or `removed`.
    state: &'static str,
    /// The earlier version that came back with it.
    restores: Option<RuleVersion>,
    /// Who.
    by: String,
    /// Why.
    reason: Option<String>,
    #[schema(value_type = String)]
    at: Timestamp,
    /// The record in each partition.
    #[schema(value_type = Vec<String>)]
    activated_at: Vec<Position>,
    /// Why a partition refused it.
    refusal: Option<String>,
    /// The module, by name and version; missing: it was deleted since.
    module: Option<String>,
    /// The digest of the module.
    digest: String,
    /// When it was left, where every partition still keeps its state from then: a rollback brings that back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    state_kept_as_of: Option<Timestamp>,
    #[schema(value_type = Object)]
    spec: serde_json::Value,
}

/// What came of a deployment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeployAnswer {
    version: RuleVersion,
    /// The record in each partition: from there on the version counts.
    #[schema(value_type = Vec<String>)]
    activated_at: Vec<Position>,
    /// `pending`, `active`, or `unchanged` where it is what ran before.
    state: &'static str,
    /// What becomes of what the rule keeps; missing where nothing changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    goes_on_with: Option<StatePlan>,
}

/// What came of a deployment or a rollback, or would.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum VersionAnswer {
    /// It was done.
    Done(Box<DeployAnswer>),
    /// It was only asked for (`dry_run`).
    Plan(Box<PlanView>),
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct DeployQuery {
    /// Only say what would change.
    dry_run: bool,
    /// Answer once every partition swapped, not as soon as it is durable.
    wait: bool,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RollbackRequest {
    /// The version to go back to; without it, the one before the present.
    to: Option<RuleVersion>,
    /// Go on with the state as it is now, and not with that from when the version was left.
    keep_state: bool,
    /// Begin without state.
    discard_state: bool,
    /// Why.
    reason: Option<String>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct DifferenceQuery {
    /// A version; without it the one before `to`.
    from: Option<RuleVersion>,
    /// A version; without it the one that runs.
    to: Option<RuleVersion>,
}

/// What differs between two versions of a rule.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VersionDifference {
    from: VersionView,
    to: VersionView,
    /// Members of the specification that differ, each `{path, from, to}`.
    #[schema(value_type = Vec<Object>)]
    differences: Vec<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct RuleFilter {
    /// Also rules that were removed.
    removed: bool,
}

fn spec_json(spec: &RuleSpec) -> serde_json::Value {
    serde_json::to_value(spec).unwrap_or_default()
}

fn module_name(state: &AppState, spec: &RuleSpec) -> Option<String> {
    state.control.module(spec.module).map(|info| format!("{}@{}", info.name, info.version))
}

fn rule_state(rule: &Rule, partitions: u16) -> &'static str {
    match rule.active() {
        None => "removed",
        Some(_) if rule.paused => "paused",
        Some(version) => match version.progress(partitions) {
            Progress::Pending => "pending",
            Progress::Activated => "active",
            Progress::Refused(..) => "refused",
        },
    }
}

/// `health`: of all rules, where the loop answered.
pub(super) fn rule_view(state: &AppState, rule: &Rule, health: &BTreeMap<String, RuleHealth>) -> RuleView {
    let active = rule.active();
    let health = active.and_then(|_| health.get(&rule.name));
    let latest = active.or_else(|| rule.versions.values().next_back());
    let count = |version: &Version| {
        let registries = state.control.registries();
        let devices = registries.0.iter().flat_map(|registry| registry.devices());
        devices.filter(|device| !device.deleted && version.spec.select.matches(&device.spec)).count()
    };
    RuleView {
        name: rule.name.clone(),
        version: rule.current,
        state: rule_state(rule, state.control.partitions()),
        module: latest.and_then(|version| module_name(state, &version.spec)),
        spec: active.map(|version| spec_json(&version.spec)),
        updated_at: latest.map(|version| version.at),
        updated_by: latest.map(|version| version.by.name.clone()),
        // The loop knows; going through all devices for each rule is for when it does not answer.
        devices: match (active, health) {
            (Some(_), Some(health)) => health.devices as usize,
            (active, _) => active.map_or(0, count),
        },
        health: health.cloned(),
    }
}

/// `kept`: what the loop keeps of the rule, where it answered.
fn version_view(state: &AppState, rule: &Rule, version: &Version, kept: &[KeptState]) -> VersionView {
    let progress = version.progress(state.control.partitions());
    VersionView {
        version: version.version,
        state: match (&progress, rule.current) {
            (Progress::Refused(..), _) => "refused",
            (_, Some(current)) if current != version.version => "replaced",
            (_, None) => "removed",
            (Progress::Pending, _) => "pending",
            (Progress::Activated, _) => "active",
        },
        restores: version.restores,
        by: version.by.name.clone(),
        reason: version.by.reason.clone(),
        at: version.at,
        activated_at: version.activated_at.values().copied().collect(),
        refusal: match progress {
            Progress::Refused(partition, reason) => Some(format!("partition {partition}: {reason}")),
            _ => None,
        },
        module: module_name(state, &version.spec),
        digest: version.spec.module.to_string(),
        state_kept_as_of: kept_as_of(version.version, kept, state.control.partitions()),
        spec: spec_json(&version.spec),
    }
}

fn kept_as_of(version: RuleVersion, kept: &[KeptState], partitions: u16) -> Option<Timestamp> {
    let left = kept.iter().filter_map(|kept| kept.left.iter().find(|left| left.version == version));
    let at: Vec<Timestamp> = left.map(|left| left.at).collect();
    at.iter().min().copied().filter(|_| at.len() == usize::from(partitions))
}

/// What the loop keeps of a rule, for people to see: nothing where it does not answer.
async fn kept(state: &AppState, rule: &Rule) -> Vec<KeptState> {
    match rule.current {
        Some(_) => state.engine.kept_state(rule.name.clone(), None).await.unwrap_or_default(),
        None => Vec::new(),
    }
}

pub(super) fn find(state: &AppState, name: &str) -> Result<Rule, Problem> {
    state.control.rule(name).ok_or_else(|| Problem::not_found("rule", name))
}

/// All rules
#[utoipa::path(get, path = "/rules", tag = "rules", params(PageQuery, RuleFilter),
    responses((status = 200, body = Listing<RuleView>)))]
pub(crate) async fn list_rules(
    _: Viewer,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
    Query(filter): Query<RuleFilter>,
) -> Result<axum::Json<Listing<RuleView>>, Problem> {
    let rules: Vec<Rule> = state.control.with_rules(|rules| {
        rules.iter().filter(|rule| filter.removed || rule.current.is_some()).cloned().collect()
    });
    let listing = page.cut(rules, |rule| &rule.name)?;
    let health = state.engine.rules().await;
    Ok(axum::Json(listing.map(|rule| rule_view(&state, &rule, &health))))
}

/// One rule
#[utoipa::path(get, path = "/rules/{name}", tag = "rules", params(("name" = String, Path)),
    responses((status = 200, body = RuleView), (status = 404)))]
pub(crate) async fn get_rule(
    _: Viewer,
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<axum::Json<RuleView>, Problem> {
    let rule = find(&state, &name)?;
    Ok(axum::Json(rule_view(&state, &rule, &state.engine.rules().await)))
}

/// Every version of a rule, with who, when and why
#[utoipa::path(get, path = "/rules/{name}/versions", tag = "rules", params(("name" = String, Path), PageQuery),
    responses((status = 200, body = Listing<VersionView>), (status = 404)))]
pub(crate) async fn list_rule_versions(
    _: Viewer,
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(page): Query<PageQuery>,
) -> Result<axum::Json<Listing<VersionView>>, Problem> {
    let rule = find(&state, &name)?;
    // The newest first: the key counts down.
    let mut versions: Vec<(String, Version)> = rule
        .versions
        .values()
        .rev()
        .map(|version| (format!("{:010}", RuleVersion::MAX - version.version), version.clone()))
        .collect();
    versions.sort_by(|a, b| a.0.cmp(&b.0));
    let listing = page.cut(versions, |(key, _)| key)?;
    let kept = kept(&state, &rule).await;
    Ok(axum::Json(listing.map(|(_, version)| version_view(&state, &rule, &version, &kept))))
}

/// What differs between two versions of a rule
#[utoipa::path(get, path = "/rules/{name}/difference", tag = "rules",
    params(("name" = String, Path), DifferenceQuery),
    responses((status = 200, body = VersionDifference), (status = 404)))]
pub(crate) async fn rule_difference(
    _: Viewer,
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(query): Query<DifferenceQuery>,
) -> Result<axum::Json<VersionDifference>, Problem> {
    let rule = find(&state, &name)?;
    let last = rule.current.or_else(|| rule.versions.keys().next_back().copied());
    let to = query.to.or(last).unwrap_or_default();
    let before = rule.versions.range(..to).next_back().map(|(&number, _)| number);
    let version = |number: RuleVersion| {
        let version = rule.versions.get(&number);
        version.ok_or_else(|| Problem::not_found("version", &format!("{number} of rule {name}")))
    };
    let (from, to) = (version(query.from.or(before).unwrap_or_default())?, version(to)?);
    let differences = differences(&spec_json(&from.spec), &spec_json(&to.spec));
    let kept = kept(&state, &rule).await;
    let view = |version| version_view(&state, &rule, version, &kept);
    Ok(axum::Json(VersionDifference { from: view(from), to: view(to), differences }))
}

/// Deploys a rule, or a further version of it
///
/// State that the module has to migrate is tried on copies before; a failure refuses the version (409) and the one that
/// runs goes on. With `dry_run` the answer is what would change (200), whatever stands against it.
#[utoipa::path(put, path = "/rules/{name}", tag = "rules", params(("name" = String, Path), DeployQuery),
    request_body = RuleRequest,
    responses((status = 201, body = VersionAnswer), (status = 200, body = VersionAnswer),
        (status = 404), (status = 409), (status = 422), (status = 503)))]
pub(crate) async fn put_rule(
    Author(caller): Author,
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(query): Query<DeployQuery>,
    Json(request): Json<RuleRequest>,
) -> Result<(StatusCode, axum::Json<VersionAnswer>), Problem> {
    if query.dry_run {
        let plan = state.control.plan(&name, request, state.engine.clone()).await?;
        let plan = plan::view(&state, &name, plan).await?;
        return Ok((StatusCode::OK, axum::Json(VersionAnswer::Plan(Box::new(plan)))));
    }
    let actor = caller.actor(request.reason.clone());
    let outcome = state.control.deploy(&name, request, state.engine.clone(), actor).await;
    state.audit(&caller, "rule.deploy", &name, outcome.as_ref().err().map(ToString::to_string)).await;
    match outcome? {
        Outcome::Deployed(activation) => {
            let status = if activation.created { StatusCode::CREATED } else { StatusCode::OK };
            let answer = activation_answer(&state, &name, *activation, query.wait).await?;
            Ok((status, axum::Json(VersionAnswer::Done(Box::new(answer)))))
        }
        Outcome::Unchanged { version, activated_at } => {
            let answer = DeployAnswer { version, activated_at, state: "unchanged", goes_on_with: None };
            Ok((StatusCode::OK, axum::Json(VersionAnswer::Done(Box::new(answer)))))
        }
    }
}

async fn activation_answer(
    state: &AppState,
    name: &str,
    activation: Activation,
    wait: bool,
) -> Result<DeployAnswer, Problem> {
    let Activation { version, activated_at, state: plan, .. } = activation;
    let goes_on_with = Some(plan);
    let progress = match wait {
        true => state.control.wait_swapped(name, version, PATIENCE).await,
        false => Progress::Pending,
    };
    match progress {
        Progress::Refused(partition, reason) => Err(Problem::refused(
            "refused",
            format!("partition {partition} refused version {version}, which is taken back: {reason}"),
        )
        .with("rule", name)
        .with("version", version)
        .with("partition", partition)),
        Progress::Pending => Ok(DeployAnswer { version, activated_at, state: "pending", goes_on_with }),
        Progress::Activated => Ok(DeployAnswer { version, activated_at, state: "active", goes_on_with }),
    }
}

/// Goes back to an earlier version, and to the state from when that was left
#[utoipa::path(post, path = "/rules/{name}/rollback", tag = "rules",
    params(("name" = String, Path), DeployQuery), request_body = RollbackRequest,
    responses((status = 200, body = VersionAnswer), (status = 404), (status = 409), (status = 503)))]
pub(crate) async fn roll_back_rule(
    Author(caller): Author,
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(query): Query<DeployQuery>,
    JsonOrDefault(request): JsonOrDefault<RollbackRequest>,
) -> Result<axum::Json<VersionAnswer>, Problem> {
    let choice = match (request.keep_state, request.discard_state) {
        (false, false) => StateChoice::Before,
        (true, false) => StateChoice::Present,
        (false, true) => StateChoice::Empty,
        (true, true) => {
            let detail = "state is kept or discarded: keep_state and discard_state exclude each other";
            return Err(Problem::bad_request("json", detail).with("pointer", "/discard_state"));
        }
    };
    if query.dry_run {
        let plan = state.control.plan_roll_back(&name, request.to, choice, state.engine.clone()).await?;
        let plan = plan::view(&state, &name, plan).await?;
        return Ok(axum::Json(VersionAnswer::Plan(Box::new(plan))));
    }
    let (actor, engine) = (caller.actor(request.reason), state.engine.clone());
    let outcome = state.control.roll_back(&name, request.to, choice, engine, actor).await;
    state.audit(&caller, "rule.rollback", &name, outcome.as_ref().err().map(ToString::to_string)).await;
    let answer = activation_answer(&state, &name, outcome?, query.wait).await?;
    Ok(axum::Json(VersionAnswer::Done(Box::new(answer))))
}

/// Stops calling a rule
#[utoipa::path(post, path = "/rules/{name}/pause", tag = "rules", params(("name" = String, Path)),
    request_body = Reason, responses((status = 200, body = RuleView), (status = 404)))]
pub(crate) async fn pause_rule(
    caller: Operator,
    state: State<AppState>,
    path: Path<String>,
    reason: JsonOrDefault<Reason>,
) -> Result<axum::Json<RuleView>, Problem> {
    set_paused(caller, state, path, reason, true).await
}

/// Calls a paused rule again
#[utoipa::path(post, path = "/rules/{name}/resume", tag = "rules", params(("name" = String, Path)),
    request_body = Reason, responses((status = 200, body = RuleView), (status = 404)))]
pub(crate) async fn resume_rule(
    caller: Operator,
    state: State<AppState>,
    path: Path<String>,
    reason: JsonOrDefault<Reason>,
) -> Result<axum::Json<RuleView>, Problem> {
    set_paused(caller, state, path, reason, false).await
}

async fn set_paused(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
    JsonOrDefault(Reason { reason }): JsonOrDefault<Reason>,
    paused: bool,
) -> Result<axum::Json<RuleView>, Problem> {
    let outcome = state.control.set_paused(&name, paused, caller.actor(reason)).await;
    let action = if paused { "rule.pause" } else { "rule.resume" };
    state.audit(&caller, action, &name, outcome.as_ref().err().map(ToString::to_string)).await;
    outcome?;
    let rule = find(&state, &name)?;
    Ok(axum::Json(rule_view(&state, &rule, &state.engine.rules().await)))
}

/// Removes a rule: its alerts are resolved, its state is dropped
#[utoipa::path(delete, path = "/rules/{name}", tag = "rules", params(("name" = String, Path)),
    responses((status = 204), (status = 404)))]
pub(crate) async fn delete_rule(
    Author(caller): Author,
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let outcome = state.control.remove_rule(&name, caller.actor(None)).await;
    state.audit(&caller, "rule.remove", &name, outcome.as_ref().err().map(ToString::to_string)).await;
    outcome?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a rule does, as it happens: log lines, triggers, clears, failures
///
/// Server-sent events from now on. A reader that is too slow gets an event `missed` with how many it lost.
#[utoipa::path(get, path = "/rules/{name}/tail", tag = "rules", params(("name" = String, Path)),
    responses((status = 200, content_type = "text/event-stream"), (status = 404)))]
pub(crate) async fn tail_rule(
    _: Viewer,
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    find(&state, &name)?;
    let permit = super::streams::permit(&state)?;
    let events = state.engine.rule_events();
    let stop = state.stop.clone();
    let stream = futures::stream::unfold((events, name, permit), |(mut events, name, permit)| async move {
        loop {
            let event = match events.recv().await {
                Ok(event) if event.rule == name => {
                    Event::default().event(event.event).data(event.data.to_string())
                }
                Ok(_) => continue,
                Err(RecvError::Lagged(missed)) => {
                    Event::default().event("missed").data(json!({"events": missed}).to_string())
                }
                Err(RecvError::Closed) => return None,
            };
            return Some((Ok::<_, std::convert::Infallible>(event), (events, name, permit)));
        }
    });
    let stream = stream.take_until(stop.cancelled_owned());
    Ok(Sse::new(stream).keep_alive(super::streams::keep_alive()).into_response())
}
