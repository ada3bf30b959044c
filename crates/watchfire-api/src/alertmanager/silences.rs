//! Silences, in Alertmanager's words.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use watchfire_model::Timestamp;
use watchfire_store::{NewSilence, Silence, SilenceMatcher, SilenceState};

use super::{Asked, Failure, answer, time};
use crate::http::AppState;
use crate::http::extract::{Operator, Raw, Viewer};
use watchfire_notify::stages::silence::conditions as read_conditions;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MatcherView {
    name: String,
    value: String,
    is_regex: bool,
    /// Missing: it must match.
    #[serde(default = "yes")]
    is_equal: bool,
}

fn yes() -> bool {
    true
}

/// What `POST` takes. Unknown members are left alone, as Alertmanager does.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostableSilence {
    #[serde(default)]
    id: String,
    matchers: Vec<MatcherView>,
    starts_at: Timestamp,
    ends_at: Timestamp,
    created_by: String,
    comment: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GettableSilence<'a> {
    id: &'a str,
    status: StateView,
    updated_at: String,
    comment: &'a str,
    created_by: &'a str,
    ends_at: String,
    matchers: Vec<MatcherView>,
    starts_at: String,
    annotations: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct StateView {
    state: &'static str,
}

fn view(silence: &Silence, now: Timestamp) -> GettableSilence<'_> {
    let matchers = silence.matchers.iter().map(|matcher| MatcherView {
        name: matcher.name.clone(),
        value: matcher.value.clone(),
        is_regex: matcher.is_regex,
        is_equal: matcher.is_equal,
    });
    GettableSilence {
        id: &silence.id,
        status: StateView { state: silence.state(now).as_str() },
        updated_at: time(silence.updated_at),
        comment: &silence.comment,
        created_by: &silence.created_by,
        ends_at: time(silence.ends_at),
        matchers: matchers.collect(),
        starts_at: time(silence.starts_at),
        annotations: &silence.annotations,
    }
}

/// The path names a silence by its UUID; anything else Alertmanager refuses before it looks.
fn uuid(id: &str) -> Result<String, Failure> {
    uuid::Uuid::parse_str(id).map(|id| id.to_string()).map_err(|_| {
        let text = format!("silenceID in path must be of type uuid: {id:?}");
        Failure::shape(StatusCode::UNPROCESSABLE_ENTITY, text)
    })
}

pub(super) async fn list(
    _: Viewer,
    State(state): State<AppState>,
    Asked(asked): Asked,
) -> Result<Response, Failure> {
    let filter = asked.silence_matchers("filter")?;
    let shown = |silence: SilenceState| asked.flag(silence.as_str());
    let states = [shown(SilenceState::Active)?, shown(SilenceState::Pending)?, shown(SilenceState::Expired)?];
    let now = state.clock.wall();
    let kept = state.silences.all().await?;
    let mut all: Vec<&Silence> = kept
        .all
        .iter()
        .filter(|silence| states[silence.state(now) as usize])
        .filter(|silence| filter.iter().all(|matcher| silence.matchers.contains(matcher)))
        .collect();
    // What ends next, then what begins next, then what ended last.
    all.sort_by_key(|silence| {
        let state = silence.state(now);
        let time = match state {
            SilenceState::Active => silence.ends_at.0,
            SilenceState::Pending => silence.starts_at.0,
            SilenceState::Expired => -silence.ends_at.0,
        };
        (state, time, silence.id.clone())
    });
    answer(&all.into_iter().map(|silence| view(silence, now)).collect::<Vec<_>>())
}

pub(super) async fn get(
    _: Viewer,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let id = uuid(&id)?;
    match state.store.silence(&id).await {
        Ok(found) => answer(&view(&found.silence, state.clock.wall())),
        Err(watchfire_store::StoreError::NotFound { .. }) => Err(Failure::nothing()),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn post(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Raw(body): Raw,
) -> Result<Response, Failure> {
    let asked: PostableSilence =
        serde_json::from_slice(&body).map_err(|error| Failure::body("silence", &error))?;
    if asked.matchers.is_empty() {
        let text = "silence.matchers in body should have at least 1 items";
        return Err(Failure::shape(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    let now = state.clock.wall();
    if asked.starts_at >= asked.ends_at {
        return Err(Failure::bad("Failed to create silence: start time must be before end time"));
    }
    if asked.ends_at < now {
        return Err(Failure::bad("Failed to create silence: end time can't be in the past"));
    }
    let matchers: Vec<SilenceMatcher> = asked
        .matchers
        .into_iter()
        .map(|MatcherView { name, value, is_regex, is_equal }| SilenceMatcher {
            name,
            value,
            is_regex,
            is_equal,
        })
        .collect();
    let conditions =
        read_conditions(&matchers).map_err(|fault| Failure::bad(format!("invalid silence: {fault}")))?;
    let alerts = state.active.current(&state.receivers.settings()).await?;
    // A silence of ours that ends with its last alert stays one when it is changed from here.
    let until_resolved = match asked.id.as_str() {
        "" => false,
        id => match state.store.silence(id).await {
            Ok(known) => known.silence.until_resolved,
            Err(error) => return Err(error.into()),
        },
    };
    let new = NewSilence {
        id: Some(asked.id).filter(|id| !id.is_empty()),
        matchers,
        starts_at: asked.starts_at,
        ends_at: asked.ends_at,
        created_by: if asked.created_by.is_empty() { caller.name.clone() } else { asked.created_by },
        comment: asked.comment,
        annotations: asked.annotations.unwrap_or_default(),
        until_resolved,
        matches: alerts.values().any(|alert| conditions.matches(&alert.labels)),
    };
    let silence = state.store.set_silence(&new, now).await?;
    state.audit(&caller, "silence.set", &silence.id, None).await;
    answer(&json!({ "silenceID": silence.id }))
}

pub(super) async fn delete(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let id = uuid(&id)?;
    match state.store.expire_silence(&id, state.clock.wall()).await {
        Ok(_) => {
            state.audit(&caller, "silence.expire", &id, None).await;
            Ok(StatusCode::OK.into_response())
        }
        Err(watchfire_store::StoreError::NotFound { .. }) => Err(Failure::nothing()),
        Err(error) => Err(error.into()),
    }
}
