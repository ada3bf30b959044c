//! What a version would change, as a dry run says it: everything that an operator wants to have seen before, and
//! nothing of it done.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use watchfire_model::call::{Silence, Subscription};
use watchfire_model::{RuleSpec, RuleVersion, Severity};

use super::AppState;
use crate::contract::ModuleInfo;
use crate::control::{Plan, StatePlan};
use crate::difference::differences;
use crate::problem::Problem;

/// Names that a list has at most; how many there are is said beside it.
const NAMES: usize = 20;

/// What a version would change. Nothing was changed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanView {
    /// `create`, `update`, `rollback` or `none`.
    change: &'static str,
    /// The version that runs.
    from_version: Option<RuleVersion>,
    /// With a rollback: the version that comes back.
    restores: Option<RuleVersion>,
    /// Members of the specification that differ, each `{path, from, to}`.
    #[schema(value_type = Vec<Object>)]
    differences: Vec<Value>,
    /// The whole specification that would run.
    #[schema(value_type = Object)]
    spec: Option<Value>,
    /// What stands against it: it would be refused.
    refusal: Option<Refusal>,
    /// The module, each `{digest, name, version}`.
    module: Change,
    /// What the module imports: its capabilities.
    imports: Names,
    /// Metrics that the rule is called for; none: all.
    metrics: Change,
    /// When a device counts as silent for it: `off`, `registry` or a span.
    silence: Change,
    /// When it is called whatever comes, each `{name, cron, zone}`.
    schedules: Change,
    /// Every parameter.
    parameters: Vec<Parameter>,
    /// What a call may cost.
    limits: Change,
    /// What lies between a trigger and an alert.
    condition: Change,
    streams: Streams,
    devices: Devices,
    /// Active alerts that would be resolved because their devices are not selected any more.
    resolved: Resolved,
    /// What becomes of what the rule keeps.
    state: StatePlan,
}

/// Why it would be refused.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Refusal {
    /// The code of the problem that a deployment would be answered with.
    code: &'static str,
    detail: String,
}

/// Something before and after; `null`: there was none, or it is not known.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Change {
    #[schema(value_type = Object)]
    from: Value,
    #[schema(value_type = Object)]
    to: Value,
}

/// Names before and after.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Names {
    from: Option<Vec<String>>,
    to: Vec<String>,
    added: Vec<String>,
    removed: Vec<String>,
}

/// A parameter, defaults filled in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Parameter {
    name: String,
    #[schema(value_type = Object)]
    from: Value,
    #[schema(value_type = Object)]
    to: Value,
}

/// What it reads and publishes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Streams {
    /// The stream that it reads.
    input: Change,
    /// The rules that publish that; none: it is what devices sent, or nobody publishes it.
    published_by: Vec<String>,
    /// The stream that it publishes.
    output: Change,
    /// The rules that read that.
    read_by: Vec<String>,
    /// The rules that read the stream that it publishes now, and would not any more.
    lost_by: Vec<String>,
    /// Columns that go along.
    pass: Change,
}

/// Devices that it selects.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Devices {
    before: usize,
    after: usize,
    gained: Listed,
    lost: Listed,
}

/// How many, and the first of them.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Listed {
    count: usize,
    /// The first 20 in the order of names.
    names: Vec<String>,
}

/// Alerts that would end.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Resolved {
    count: usize,
    /// The first 20 in the order of devices.
    first: Vec<ResolvedAlert>,
}

/// An alert that would end.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResolvedAlert {
    device: String,
    key: String,
    #[schema(value_type = String)]
    severity: Severity,
}

/// Puts everything together.
pub(crate) async fn view(state: &AppState, name: &str, plan: Plan) -> Result<PlanView, Problem> {
    let before = plan.from.as_ref().map(|from| &*from.spec);
    let to = &*plan.to;
    let (devices, lost) = devices(state, before, to);
    let active = if lost.is_empty() { Vec::new() } else { state.store.active_of(name).await? };
    let mut ending = active.into_iter().filter(|(device, ..)| lost.contains(device));
    let first: Vec<ResolvedAlert> = ending
        .by_ref()
        .take(NAMES)
        .map(|(device, key, severity)| ResolvedAlert { device, key, severity })
        .collect();
    let resolved = Resolved { count: first.len() + ending.count(), first };
    let (from, spec) = (before.map(|spec| json!(spec)), json!(to));
    let change = match (plan.restores, before) {
        _ if plan.is_nothing() => "none",
        (Some(_), _) => "rollback",
        (None, Some(_)) => "update",
        (None, None) => "create",
    };
    let of = |member: &str| Change {
        from: from.as_ref().map(|from| from[member].clone()).unwrap_or_default(),
        to: spec[member].clone(),
    };
    Ok(PlanView {
        change,
        from_version: plan.from.as_ref().map(|from| from.version),
        restores: plan.restores,
        differences: differences(from.as_ref().unwrap_or(&json!({})), &spec),
        refusal: plan.refusal.map(|refusal| {
            let problem = Problem::from(refusal);
            Refusal { code: problem.code, detail: problem.detail }
        }),
        module: Change {
            from: before.map(|spec| module(spec, plan.module_before.as_deref())).unwrap_or_default(),
            to: module(to, Some(&plan.module)),
        },
        imports: names(plan.module_before.map(|module| module.imports.clone()), plan.module.imports.clone()),
        metrics: called(&plan.called_before, &plan.called, |called| json!(called.metrics)),
        silence: called(&plan.called_before, &plan.called, |called| match called.silence {
            Silence::Off => json!("off"),
            Silence::Registry => json!("registry"),
            Silence::After(span) => json!(span),
        }),
        schedules: called(&plan.called_before, &plan.called, |called| {
            let all = called.schedules.iter();
            all.map(|one| json!({"name": one.name, "cron": one.cron, "zone": one.zone})).collect()
        }),
        parameters: parameters(before, to),
        limits: of("limits"),
        condition: of("condition"),
        streams: streams(state, before, to),
        devices,
        resolved,
        state: plan.state,
        spec: (change != "none").then_some(spec),
    })
}

/// A module as lists name it, as far as it is known.
pub(crate) fn module(spec: &RuleSpec, info: Option<&ModuleInfo>) -> Value {
    let (name, version) = info.map(|info| (&info.name, &info.version)).unzip();
    json!({"digest": spec.module, "name": name, "version": version})
}

fn called(before: &Option<Subscription>, to: &Subscription, of: impl Fn(&Subscription) -> Value) -> Change {
    Change { from: before.as_ref().map(&of).unwrap_or_default(), to: of(to) }
}

fn names(from: Option<Vec<String>>, to: Vec<String>) -> Names {
    let without = |all: &[String], others: &[String]| -> Vec<String> {
        all.iter().filter(|name| !others.contains(name)).cloned().collect()
    };
    let before = from.as_deref().unwrap_or_default();
    let (added, removed) = (without(&to, before), without(before, &to));
    Names { from, to, added, removed }
}

fn parameters(before: Option<&RuleSpec>, to: &RuleSpec) -> Vec<Parameter> {
    let members = |spec: &RuleSpec| spec.parameters.as_object().cloned().unwrap_or_default();
    let (from, to) = (before.map(members).unwrap_or_default(), members(to));
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let value = |of: &serde_json::Map<String, Value>, name: &str| of.get(name).cloned().unwrap_or_default();
    let one =
        |name: &String| Parameter { name: name.clone(), from: value(&from, name), to: value(&to, name) };
    names.into_iter().map(one).collect()
}

fn streams(state: &AppState, before: Option<&RuleSpec>, to: &RuleSpec) -> Streams {
    let rules = |of: &dyn Fn(&RuleSpec) -> bool| -> Vec<String> {
        state.control.with_rules(|rules| {
            let others = rules.active().filter(|version| version.spec.name != to.name);
            others.filter(|version| of(&version.spec)).map(|version| version.spec.name.clone()).collect()
        })
    };
    let readers = |output: Option<&String>| match output {
        Some(output) => rules(&|rule| rule.input == *output),
        None => Vec::new(),
    };
    let lost =
        before.and_then(|before| before.output.as_ref()).filter(|was| to.output.as_ref() != Some(*was));
    Streams {
        input: Change { from: json!(before.map(|before| &before.input)), to: json!(to.input) },
        published_by: rules(&|rule| rule.output.as_ref() == Some(&to.input)),
        output: Change { from: json!(before.map(|before| &before.output)), to: json!(to.output) },
        read_by: readers(to.output.as_ref()),
        lost_by: readers(lost),
        pass: Change { from: json!(before.map(|before| &before.pass)), to: json!(to.pass) },
    }
}

/// The devices of both selectors, and the names of all that are lost.
fn devices(state: &AppState, before: Option<&RuleSpec>, to: &RuleSpec) -> (Devices, BTreeSet<String>) {
    let registries = state.control.registries();
    let (mut was, mut will) = (0, 0);
    let (mut gained, mut lost) = (BTreeSet::new(), BTreeSet::new());
    let all = registries.0.iter().flat_map(|registry| registry.devices());
    for device in all.filter(|device| !device.deleted) {
        let selected = before.is_some_and(|before| before.select.matches(&device.spec));
        let selects = to.select.matches(&device.spec);
        was += usize::from(selected);
        will += usize::from(selects);
        if selects && !selected {
            gained.insert(device.spec.id.as_str());
        } else if selected && !selects {
            lost.insert(device.spec.id.clone());
        }
    }
    let first = |names: &mut dyn Iterator<Item = &str>| names.take(NAMES).map(String::from).collect();
    let devices = Devices {
        before: was,
        after: will,
        gained: Listed { count: gained.len(), names: first(&mut gained.iter().copied()) },
        lost: Listed { count: lost.len(), names: first(&mut lost.iter().map(String::as_str)) },
    };
    (devices, lost)
}
