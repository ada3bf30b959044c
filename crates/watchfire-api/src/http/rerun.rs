//! The verdict behind an alert, made once more from its evidence.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use watchfire_model::alert::{Evidence, Verdict};
use watchfire_model::{Duration, Limits};

use super::AppState;
use super::extract::{Operator, Path};
use crate::contract::Again;
use crate::problem::Problem;

/// What came of making the verdict once more.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RerunAnswer {
    outcome: RerunOutcome,
    /// For people.
    reason: String,
    /// What the rule said then.
    #[schema(value_type = Object)]
    verdict: Verdict,
    /// What it says now; missing: nothing of this condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    again: Option<Verdict>,
    /// What the verdict may rest on and the alert does not keep.
    missing: Vec<String>,
    /// The module that was called.
    module: String,
    /// Time in the callback.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    took: Option<Duration>,
}

/// Whether the verdict stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RerunOutcome {
    /// The same came of it, byte for byte.
    Confirmed,
    /// Something else did, and the evidence is not whole.
    Incomplete,
    /// Something else did from the same evidence: the rule looked at other devices, or is not deterministic.
    Different,
    /// The call failed.
    Failed,
}

/// Makes the verdict behind an alert once more, from its evidence alone
#[utoipa::path(post, path = "/alerts/{id}/rerun", tag = "alerts", params(("id" = String, Path)),
    responses((status = 200, body = RerunAnswer), (status = 404, description = "no such alert"),
        (status = 409, description = "it has no evidence, or none that says what the rule said")))]
pub(crate) async fn rerun_alert(
    _: Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<axum::Json<RerunAnswer>, Problem> {
    let detail = state.store.alert(&id).await?;
    let alert = detail.alert;
    if alert.module.is_none() {
        return Err(Problem::conflict("no-evidence", "no rule of ours raised the alert"));
    }
    let Some(evidence) = detail.evidence else {
        let text =
            "the evidence is not kept any more: resolved alerts keep theirs while store.evidence allows";
        return Err(Problem::conflict("no-evidence", text));
    };
    let evidence: Evidence = serde_json::from_value(evidence)
        .map_err(|error| Problem::conflict("no-evidence", format!("it cannot be read: {error}")))?;
    let (Some(verdict), Some(_)) = (evidence.verdict.clone(), &evidence.device) else {
        let text = "the evidence is of a release that kept less of what the rule saw and said";
        return Err(Problem::conflict("no-evidence", text));
    };
    let versions = state.store.rule_versions(&alert.rule).await?;
    let limits = versions.into_iter().find(|row| row.version == alert.rule_version);
    let limits = limits.map_or_else(Limits::default, |row| row.spec.limits);
    let (missing, module) = (missing(&evidence), evidence.module.to_string());
    let again = Again { rule: alert.rule.clone(), limits, key: alert.key.clone(), evidence };
    let made = match state.engine.rerun(again).await? {
        Ok(made) => made,
        Err(failure) => {
            let (outcome, reason) = (RerunOutcome::Failed, failure.message);
            let answer = RerunAnswer { outcome, reason, verdict, again: None, missing, module, took: None };
            return Ok(axum::Json(answer));
        }
    };
    let (outcome, reason) = match &made.verdict {
        Some(again) if same(again, &verdict) => {
            (RerunOutcome::Confirmed, "the same came of the call that the alert rests on".to_string())
        }
        other => {
            let what = if other.is_some() { "the rule says something else" } else { "the rule says nothing" };
            match &missing[..] {
                [] => (
                    RerunOutcome::Different,
                    format!("{what} of the same evidence: it may have looked at other devices"),
                ),
                missing => (RerunOutcome::Incomplete, format!("{what}, without {}", missing.join(", "))),
            }
        }
    };
    let took = Some(Duration::from(made.took));
    Ok(axum::Json(RerunAnswer { outcome, reason, verdict, again: made.verdict, missing, module, took }))
}

/// As they are written: what is told apart by no byte is the same.
fn same(one: &Verdict, other: &Verdict) -> bool {
    let bytes = |verdict| serde_json::to_vec(verdict).ok();
    bytes(one) == bytes(other)
}

/// What a verdict may rest on beside the evidence.
fn missing(evidence: &Evidence) -> Vec<String> {
    let mut missing = Vec::new();
    if evidence.rows_left_out > 0 {
        missing.push(format!("{} other rows of the record", evidence.rows_left_out));
    }
    if !evidence.state_left_out.is_empty() {
        let slots: Vec<String> = evidence.state_left_out.iter().map(u32::to_string).collect();
        missing.push(format!("the state of the slots {}", slots.join(", ")));
    }
    if evidence.callback.starts_with("schedule ") {
        missing.push("the other devices that a schedule goes through".into());
    }
    missing
}
