//! Alerts and their groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use regex::Regex;
use serde::Serialize;
use watchfire_model::{Duration, Timestamp};
use watchfire_notify::matcher::Matcher;
use watchfire_notify::stages::plan::Settings;
use watchfire_notify::stages::route::Target;
use watchfire_notify::stages::storm::Standing;
use watchfire_store::LabelSet;

use super::active::{ActiveAlert, Alerts};
use super::parameters::Parameters;
use super::silenced::Kept;
use super::{Asked, Failure, answer, time};
use crate::http::AppState;
use crate::http::extract::Viewer;

/// What an answer says of one alert.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GettableAlert<'a> {
    annotations: &'a BTreeMap<String, String>,
    ends_at: String,
    fingerprint: &'a str,
    receivers: Vec<Reference<'a>>,
    starts_at: String,
    status: Status<'a>,
    updated_at: String,
    /// Nothing is no address: the schema wants one.
    #[serde(rename = "generatorURL", skip_serializing_if = "str::is_empty")]
    generator_url: &'a str,
    labels: &'a LabelSet,
}

#[derive(Serialize)]
struct Reference<'a> {
    name: &'a str,
}

/// Whether people are told, and what keeps them from being.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    state: &'static str,
    silenced_by: Vec<String>,
    inhibited_by: Vec<String>,
    muted_by: Vec<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AlertGroup<'a> {
    labels: &'a LabelSet,
    route_labels: LabelSet,
    receiver: Reference<'a>,
    alerts: Vec<GettableAlert<'a>>,
}

/// What keeps people from being told, as far as it is known at this moment.
struct Known<'a> {
    now: Timestamp,
    resolve_timeout: Duration,
    silences: &'a Kept,
    alerts: &'a Alerts,
    settings: Arc<Settings>,
    storms: Arc<Standing>,
}

impl<'a> Known<'a> {
    /// The silences that match the alert, by id, and what people did that holds it as a silence does.
    fn silenced_by(&self, alert: &ActiveAlert) -> Vec<String> {
        let mut all = self.silences.index.holding(&alert.labels, self.now);
        all.extend(alert.held.iter().cloned());
        all
    }

    /// The fingerprints of what inhibits the alert: others that say more, and the storm that it is part of.
    fn inhibited_by(&self, alert: &ActiveAlert) -> Vec<String> {
        let mut all = self.alerts.inhibited_by(alert);
        all.extend(self.storms.held_by(&alert.labels).map(String::from));
        all
    }

    /// The time intervals that mute a group.
    fn muted_by(&self, target: &'a Target) -> Vec<&'a str> {
        target.times.muting(&self.settings.intervals, self.now)
    }

    fn status(&self, alert: &ActiveAlert) -> Status<'a> {
        let (silenced_by, inhibited_by) = (self.silenced_by(alert), self.inhibited_by(alert));
        let free = silenced_by.is_empty() && inhibited_by.is_empty();
        let state = if free { "active" } else { "suppressed" };
        Status { state, silenced_by, inhibited_by, muted_by: Vec::new() }
    }
}

/// Which alerts are asked for.
struct Wanted {
    matchers: Vec<Matcher>,
    receiver: Option<Regex>,
    receivers: bool,
    active: bool,
    silenced: bool,
    inhibited: bool,
}

impl Wanted {
    fn of(asked: &Parameters) -> Result<Self, Failure> {
        Ok(Self {
            matchers: asked.matchers("filter")?,
            receiver: asked.receiver()?,
            receivers: asked.receivers_match()?,
            active: asked.flag("active")?,
            silenced: asked.flag("silenced")?,
            inhibited: asked.flag("inhibited")?,
        })
    }

    fn goes_to(&self, receiver: &str) -> bool {
        self.receivers && self.receiver.as_ref().is_none_or(|regex| regex.is_match(receiver))
    }

    fn status(&self, status: &Status<'_>) -> bool {
        (self.active || status.state != "active")
            && (self.silenced || status.silenced_by.is_empty())
            && (self.inhibited || status.inhibited_by.is_empty())
    }
}

/// An alert that goes on has no end that is known before; Alertmanager's always have one, which the sender moves on. So
/// it is told as one that was said just now, without an end.
fn gettable<'a>(alert: &'a ActiveAlert, status: Status<'a>, known: &Known<'_>) -> GettableAlert<'a> {
    let (now, goes_on) = (known.now, known.resolve_timeout);
    GettableAlert {
        annotations: &alert.annotations,
        ends_at: time(now + goes_on),
        fingerprint: &alert.fingerprint,
        receivers: alert.targets.iter().map(|target| Reference { name: &target.receiver }).collect(),
        starts_at: time(alert.starts_at),
        status,
        updated_at: time(alert.updated_at),
        generator_url: &alert.url,
        labels: &alert.labels,
    }
}

/// The alerts, and the silences as they are.
async fn present(state: &AppState) -> Result<(Arc<Alerts>, Arc<Kept>), Failure> {
    let alerts = state.active.current(&state.receivers.settings()).await?;
    Ok((alerts, state.silences.all().await?))
}

fn known<'a>(state: &AppState, alerts: &'a Alerts, silences: &'a Kept) -> Known<'a> {
    let now = state.clock.wall();
    Known {
        now,
        resolve_timeout: state.options.resolve_timeout,
        silences,
        alerts,
        settings: state.receivers.settings(),
        storms: state.receivers.storms(),
    }
}

pub(super) async fn list(
    _: Viewer,
    State(state): State<AppState>,
    Asked(asked): Asked,
) -> Result<Response, Failure> {
    let wanted = Wanted::of(&asked)?;
    // Every alert has been through routing once it is here; the flag is read so that a wrong one is told.
    asked.flag("unprocessed")?;
    let (alerts, silences) = present(&state).await?;
    let known = known(&state, &alerts, &silences);
    let any_receiver = wanted.receiver.is_none() && wanted.receivers;
    let mut all = Vec::new();
    for alert in alerts.matching(&wanted.matchers) {
        if !any_receiver && !alert.targets.iter().any(|target| wanted.goes_to(&target.receiver)) {
            continue;
        }
        let status = known.status(alert);
        if wanted.status(&status) {
            all.push(gettable(alert, status, &known));
        }
    }
    answer(&all)
}

pub(super) async fn groups(
    _: Viewer,
    State(state): State<AppState>,
    Asked(asked): Asked,
) -> Result<Response, Failure> {
    let (wanted, muted) = (Wanted::of(&asked)?, asked.flag("muted")?);
    let (alerts, silences) = present(&state).await?;
    let known = known(&state, &alerts, &silences);
    // In the order of their labels, then of their receivers, as Alertmanager lists them.
    let mut groups: BTreeMap<(&LabelSet, &str, &str), AlertGroup<'_>> = BTreeMap::new();
    for alert in alerts.matching(&wanted.matchers) {
        for target in alert.targets.iter().filter(|target| wanted.goes_to(&target.receiver)) {
            let mut status = known.status(alert);
            let muted_by = known.muted_by(target);
            if !wanted.status(&status) || (!muted && !muted_by.is_empty()) {
                continue;
            }
            if !muted_by.is_empty() {
                status.state = "suppressed";
            }
            status.muted_by = muted_by;
            let key = (&target.group_labels, target.receiver.as_str(), target.group_key.as_str());
            let group = groups.entry(key).or_insert_with(|| AlertGroup {
                labels: &target.group_labels,
                // Our routes have no labels of their own.
                route_labels: LabelSet::new(),
                receiver: Reference { name: &target.receiver },
                alerts: Vec::new(),
            });
            group.alerts.push(gettable(alert, status, &known));
        }
    }
    answer(&groups.into_values().collect::<Vec<_>>())
}

/// How many alerts are active, and how many of them are suppressed.
pub(super) async fn counts(state: &AppState) -> Result<(usize, usize), Failure> {
    let (alerts, silences) = present(state).await?;
    let known = known(state, &alerts, &silences);
    let suppressed = alerts.values().filter(|alert| known.status(alert).state != "active").count();
    Ok((alerts.count() - suppressed, suppressed))
}
