//! Why an alert is, and why somebody was told of it or was not: what is kept of it, from the rows to the last attempt.

use std::collections::BTreeSet;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use watchfire_model::Digest;
use watchfire_notify::stages::notice::standing;
use watchfire_notify::stages::plan::Settings;
use watchfire_store::routing::DecisionRow;
use watchfire_store::{
    AlertRow, AlertState, AttemptRow, DeliveryFilter, DeliveryRow, DeliveryState, EventRow, StoreError,
};

use super::AppState;
use super::extract::{Path, Query, Viewer};
use crate::problem::Problem;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct WhyQuery {
    /// Only what concerns this receiver.
    receiver: Option<String>,
}

/// An alert and everything that is known of why it is and who was told.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Why {
    /// As it stands.
    alert: AlertRow,
    /// The module that raised it.
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<WhyModule>,
    /// What the verdict rests on: rows, state before, parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    evidence: Option<serde_json::Value>,
    /// Why there is no evidence, where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_evidence: Option<&'static str>,
    /// Each step of the condition, and what people did, in order.
    steps: Vec<EventRow>,
    /// Where the present configuration leads it.
    routes: Vec<WhyRoute>,
    /// What routing decided, in order.
    decisions: Vec<DecisionRow>,
    /// The messages made for it, newest first; the latest hundred.
    deliveries: Vec<WhyDelivery>,
    /// For each receiver whether it was told, and why or why not.
    receivers: Vec<WhyReceiver>,
}

/// A module by its digest.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WhyModule {
    digest: String,
    /// Missing: the module was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

/// A place of the tree of routes where the alert ends up.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WhyRoute {
    receiver: String,
    /// The path of matchers, and the labels of the group.
    group_key: String,
}

/// A message without what it says.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WhyDelivery {
    #[serde(flatten)]
    delivery: DeliveryRow,
    /// The latest hundred.
    tries: Vec<AttemptRow>,
}

/// Whether somebody was told.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WhyReceiver {
    receiver: String,
    told: Outcome,
    /// For people.
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// The receiver took a message.
    Told,
    /// A message is made and not taken yet.
    Waiting,
    /// Within a digest; whether that was taken stands with its delivery.
    Digest,
    /// No message, or none that was taken.
    NotTold,
}

/// Why an alert is, and why somebody was told of it or was not
#[utoipa::path(get, path = "/alerts/{id}/why", tag = "alerts", params(("id" = String, Path), WhyQuery),
    responses((status = 200, body = Why),
        (status = 404, description = "no such alert, or nothing is known of the receiver")))]
pub(crate) async fn alert_why(
    _: Viewer,
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<WhyQuery>,
) -> Result<axum::Json<Why>, Problem> {
    let only = query.receiver.filter(|name| !name.is_empty());
    let concerns = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let detail = state.store.alert(&id).await?;
    let mut decisions = state.store.decisions(&id).await?;
    // Those of no receiver concern all.
    decisions.retain(|decision| decision.receiver.is_empty() || concerns(&decision.receiver));
    let filter =
        DeliveryFilter { alert: Some(id.clone()), receiver: only.clone(), ..DeliveryFilter::default() };
    let mut deliveries = Vec::new();
    for row in state.store.deliveries(&filter).await?.items {
        let found = state.store.delivery(&row.id).await?;
        deliveries.push(WhyDelivery { delivery: found.delivery, tries: found.tries });
    }
    let settings = state.receivers.settings();
    let routes = routes(&settings, &detail.alert);
    let names: BTreeSet<&str> = settings
        .receivers
        .keys()
        .map(String::as_str)
        .chain(decisions.iter().map(|decision| decision.receiver.as_str()))
        .chain(deliveries.iter().map(|delivery| delivery.delivery.receiver.as_str()))
        .filter(|name| !name.is_empty() && concerns(name))
        .collect();
    if let Some(only) = &only
        && names.is_empty()
    {
        return Err(Problem::not_found("receiver", only));
    }
    let receivers = names
        .into_iter()
        .map(|name| explain(name, &detail.alert, &routes, &decisions, &deliveries))
        .collect();
    let no_evidence = detail.evidence.is_none().then_some(match detail.alert.module {
        Some(_) => "it is not kept any more: resolved alerts keep theirs while store.evidence allows",
        None => "no rule of ours raised the alert",
    });
    Ok(axum::Json(Why {
        module: module(&state, &detail.alert).await?,
        evidence: detail.evidence,
        no_evidence,
        steps: detail.history,
        routes: routes.into_iter().filter(|route| concerns(&route.receiver)).collect(),
        decisions,
        deliveries,
        receivers,
        alert: detail.alert,
    }))
}

async fn module(state: &AppState, alert: &AlertRow) -> Result<Option<WhyModule>, Problem> {
    let Some(digest) = alert.module.clone() else { return Ok(None) };
    let known = match digest.parse::<Digest>() {
        Ok(parsed) => match state.store.module(&parsed).await {
            Ok(row) => Some(row),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        },
        Err(_) => None,
    };
    let (name, version) = known.map(|row| (row.name, row.version)).unzip();
    Ok(Some(WhyModule { digest, name, version }))
}

fn routes(settings: &Settings, alert: &AlertRow) -> Vec<WhyRoute> {
    let labels = standing(alert, settings.public_url.as_deref()).labels;
    let targets = settings.router.route(&labels).into_iter();
    targets.map(|target| WhyRoute { receiver: target.receiver, group_key: target.group_key }).collect()
}

/// The nearest reason: a message that was taken, one that waits, one that was given up, what held it back, and last
/// that no route leads there.
fn explain(
    receiver: &str,
    alert: &AlertRow,
    routes: &[WhyRoute],
    decisions: &[DecisionRow],
    deliveries: &[WhyDelivery],
) -> WhyReceiver {
    let answer = |told, reason| WhyReceiver { receiver: receiver.into(), told, reason };
    let mine = || deliveries.iter().map(|all| &all.delivery).filter(|row| row.receiver == receiver);
    // The oldest: when people first heard of it.
    if let Some(row) = mine().rfind(|row| row.state == DeliveryState::Delivered) {
        let at = row.finished_at.unwrap_or(row.created_at);
        return answer(Outcome::Told, format!("told at {at}: {}", row.reason));
    }
    if let Some(row) = mine().find(|row| row.state == DeliveryState::Pending) {
        let error = row.last_error.as_ref().map(|error| format!(", the last said: {error}"));
        let tries = format!("{} attempts{}", row.attempts, error.unwrap_or_default());
        return answer(Outcome::Waiting, format!("a message waits since {}: {tries}", row.created_at));
    }
    let decision = decisions.iter().rev().find(|decision| decision.receiver == receiver);
    if let Some(row) = mine().next() {
        let error = row.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let text = format!("the message of {} is {}{error}", row.created_at, row.state.as_str());
        return answer(Outcome::NotTold, text);
    }
    if let Some(decision) = decision {
        let DecisionRow { at, stage, outcome, detail, .. } = decision;
        let told = if outcome == "digest" { Outcome::Digest } else { Outcome::NotTold };
        return answer(told, format!("{outcome} at {at} by {stage}: {detail}"));
    }
    let common = decisions.iter().rev().find(|decision| decision.receiver.is_empty());
    let leads = routes.iter().find(|route| route.receiver == receiver);
    answer(
        Outcome::NotTold,
        match (leads, common) {
            (None, _) => "no route of the configuration in force leads the alert to it".into(),
            (Some(_), Some(DecisionRow { at, stage, outcome, detail, .. })) => {
                format!("{outcome} at {at} by {stage}: {detail}")
            }
            (Some(route), None) if alert.state == AlertState::Active => format!(
                "a route leads the alert to it, and no message is made yet: it waits with its group {}",
                route.group_key
            ),
            (Some(_), None) => "a route leads the alert to it now, and no message of it is known: the \
                                configuration was another one, or the message is not kept any more"
                .into(),
        },
    )
}
