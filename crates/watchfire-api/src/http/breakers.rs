//! Rules that are out because they kept failing: when they were, and what becomes of what they missed.

use axum::extract::State;
use watchfire_model::OnRecovery;
use watchfire_store::outages::OutageRow;

use super::extract::{JsonOrDefault, Operator, Path, Viewer};
use super::page::Listing;
use super::rules::{RuleView, find, rule_view};
use super::{AppState, Reason};
use crate::problem::Problem;

/// How many of them are told.
const LATEST: u32 = 100;

/// When a rule was out because it kept failing, the latest first
///
/// A line for each time and partition; the latest hundred. How it stands now is in the health of the rule.
#[utoipa::path(get, path = "/rules/{name}/outages", tag = "rules", params(("name" = String, Path)),
    responses((status = 200, body = Listing<OutageRow>), (status = 404)))]
pub(crate) async fn list_outages(
    _: Viewer,
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<axum::Json<Listing<OutageRow>>, Problem> {
    find(&state, &name)?;
    Ok(axum::Json(Listing { items: state.store.outages(&name, LATEST).await?, next: None }))
}

/// Has a rule evaluate what it missed while it was out, and tries it again with the next rows
///
/// That is done once it passes, whatever its deployment says of it; each row once, in order, before new ones.
#[utoipa::path(post, path = "/rules/{name}/catch-up", tag = "rules", params(("name" = String, Path)),
    request_body = Reason,
    responses((status = 200, body = RuleView), (status = 404), (status = 409, description = "it is not out")))]
pub(crate) async fn catch_up_rule(
    caller: Operator,
    state: State<AppState>,
    path: Path<String>,
    reason: JsonOrDefault<Reason>,
) -> Result<axum::Json<RuleView>, Problem> {
    choose(caller, state, path, reason, OnRecovery::CatchUp).await
}

/// Passes over what a rule missed while it was out, up to here
///
/// One that catches up goes on with new rows at once. One that is still out stays so.
#[utoipa::path(post, path = "/rules/{name}/skip-missed", tag = "rules", params(("name" = String, Path)),
    request_body = Reason,
    responses((status = 200, body = RuleView), (status = 404), (status = 409, description = "it is not out")))]
pub(crate) async fn skip_missed_of_rule(
    caller: Operator,
    state: State<AppState>,
    path: Path<String>,
    reason: JsonOrDefault<Reason>,
) -> Result<axum::Json<RuleView>, Problem> {
    choose(caller, state, path, reason, OnRecovery::Skip).await
}

async fn choose(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
    JsonOrDefault(Reason { reason }): JsonOrDefault<Reason>,
    choice: OnRecovery,
) -> Result<axum::Json<RuleView>, Problem> {
    let rule = find(&state, &name)?;
    // The loop knows whether it is out. Where it does not answer, the record does no harm.
    let health = state.engine.rules().await;
    if rule.current.is_some() && health.get(&name).is_some_and(|health| health.outages.is_empty()) {
        let detail = format!("rule {name:?} is not out of any partition and has missed nothing");
        return Err(Problem::conflict("not-out", detail));
    }
    let outcome = state.control.choose_missed(&name, choice, caller.actor(reason)).await;
    let action = match choice {
        OnRecovery::CatchUp => "rule.catch-up",
        OnRecovery::Skip => "rule.skip-missed",
    };
    state.audit(&caller, action, &name, outcome.as_ref().err().map(ToString::to_string)).await;
    outcome?;
    let rule = find(&state, &name)?;
    Ok(axum::Json(rule_view(&state, &rule, &state.engine.rules().await)))
}
