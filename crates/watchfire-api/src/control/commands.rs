//! Commands about rules and conditions.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use watchfire_log::{Append, Record, Redo};
use watchfire_model::call::{Setup, Subscription};
use watchfire_model::{
    Actor, BreakerOptions, Control, DeviceHandle, Digest, Limits, OnRecovery, Position, RollbackState,
    RuleSpec, Selector,
};

use super::{ControlError, ControlPlane, Rule};
use crate::contract::{ModuleInfo, ModuleWorks};

/// What `PUT /rules/{name}` takes.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleRequest {
    /// A digest, the name of a module (its newest upload), or `name@version`.
    pub module: String,
    /// The stream that it reads; `readings` where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The stream that it publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Columns of the input that the output stream carries on; a trailing `*` matches any suffix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass: Vec<String>,
    /// The devices that it is for: `{"type":"press","site":["lyon","oslo"],"labels":{"line":"3"},"devices":["a"]}`.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub select: Selector,
    /// Checked against the schema of the module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub parameters: Option<serde_json::Value>,
    /// `{on_delay,minimum_repeat,repeat_within,off_delay,latched,chatter,realarm}`, and the same under `keys` for single
    /// keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub condition: Option<serde_json::Value>,
    /// What a call may cost.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub limits: Limits,
    /// When it is taken out because it keeps failing: `{enabled,failures,time,calls,span,wait,longest_wait,on_recovery}`.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub breaker: BreakerOptions,
    /// State of an older layout that the module cannot migrate is dropped instead of standing against it.
    #[serde(default)]
    pub discard_state: bool,
    /// Why; kept with the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl ControlPlane {
    /// Takes every current version back that a partition refused: told by the projector.
    pub(crate) async fn withdraw_refused(self: &Arc<Self>) -> Result<(), ControlError> {
        self.uninterrupted(|this| async move {
            let _order = this.order.lock().await;
            for (name, from, reason) in this.with_rules(super::Rules::refused) {
                let Some(rule) = this.rule(&name) else { continue };
                // What ran before the refused one: nothing, where the rule is new or had been removed.
                let replaces = rule.versions.get(&from).and_then(|version| version.replaces);
                let previous = replaces.and_then(|number| rule.versions.get(&number));
                tracing::warn!(rule = name, version = from, reason, "a rule version is taken back");
                let control = Control::RuleRolledBack {
                    name,
                    from,
                    to: previous.map_or(0, |version| version.version),
                    version: 0,
                    spec: previous.map(|version| Box::new((*version.spec).clone())),
                    state: RollbackState::KeptOrPresent,
                    by: Actor { name: "engine".into(), reason: Some(reason), request: None },
                };
                this.commit(control).await?;
            }
            Ok(())
        })
        .await
    }

    /// A rule gets no more callbacks, or gets them again. Returns whether that changed anything.
    pub async fn set_paused(
        self: &Arc<Self>,
        name: &str,
        paused: bool,
        by: Actor,
    ) -> Result<bool, ControlError> {
        let name = name.to_string();
        self.uninterrupted(move |this| async move {
            let _order = this.order.lock().await;
            if this.running(&name)?.paused == paused {
                return Ok(false);
            }
            this.commit(match paused {
                true => Control::RulePaused { name, by },
                false => Control::RuleResumed { name, by },
            })
            .await?;
            Ok(true)
        })
        .await
    }

    /// What a rule missed because it was out is to be evaluated once it passes again, or not any more.
    pub async fn choose_missed(
        self: &Arc<Self>,
        name: &str,
        choice: OnRecovery,
        by: Actor,
    ) -> Result<(), ControlError> {
        let name = name.to_string();
        self.uninterrupted(move |this| async move {
            let _order = this.order.lock().await;
            this.running(&name)?;
            this.commit(match choice {
                OnRecovery::CatchUp => Control::RuleCatchUp { name, by },
                OnRecovery::Skip => Control::RuleMissedSkipped { name, by },
            })
            .await?;
            Ok(())
        })
        .await
    }

    /// Ends a rule.
    pub async fn remove_rule(self: &Arc<Self>, name: &str, by: Actor) -> Result<(), ControlError> {
        let name = name.to_string();
        self.uninterrupted(move |this| async move {
            let _order = this.order.lock().await;
            this.running(&name)?;
            this.commit(Control::RuleRemoved { name, by }).await?;
            Ok(())
        })
        .await
    }

    /// Resets a latched alert, or clears one by force.
    pub async fn clear_condition(
        self: &Arc<Self>,
        rule: String,
        device: String,
        key: String,
        force: bool,
        by: Actor,
    ) -> Result<Vec<Position>, ControlError> {
        self.uninterrupted(move |this| async move {
            let _order = this.order.lock().await;
            let control = Control::ConditionCleared { rule, device, key, force, by };
            Ok(this.commit(control).await?.to_vec())
        })
        .await
    }

    /// Has a rule evaluate rows once more that it failed on. The record stands in their partition alone: no other
    /// has to do with them.
    pub async fn redo(self: &Arc<Self>, redo: Redo) -> Result<Vec<Position>, ControlError> {
        self.uninterrupted(move |this| async move {
            // The head is that of the place in the log where the record will stand.
            let _order = this.order.lock().await;
            this.check_redo(&redo)?;
            let records = vec![(redo.failed.partition, Record::Redo(Box::new(redo)))];
            let positions = this.log.append(Append::Records(records))?.durable().await?;
            watchfire_telemetry::metrics().api.commands.inc();
            Ok(positions.to_vec())
        })
        .await
    }

    /// Refuses a redo that would do nothing: its letter would count as replayed.
    fn check_redo(&self, redo: &Redo) -> Result<(), ControlError> {
        let rule = self.running(&redo.rule)?;
        let conflict = |code, detail| Err(ControlError::Conflict { code, detail });
        if rule.paused {
            let detail = format!("rule {:?} is paused: it evaluates nothing until it is resumed", rule.name);
            return conflict("paused", detail);
        }
        let version = rule.current.and_then(|current| rule.versions.get(&current));
        let Some(spec) = version.map(|version| &version.spec) else {
            return Err(ControlError::not_found("rule", &redo.rule));
        };
        if *spec.input != *redo.stream {
            let (rule, now, then) = (&rule.name, &spec.input, &redo.stream);
            let detail =
                format!("rule {rule:?} reads the stream {now:?} by now, and the rows are of {then:?}");
            return conflict("other-stream", detail);
        }
        let registries = self.registries();
        let registry = registries.0.get(usize::from(redo.failed.partition.0));
        let selected = |device: &DeviceHandle| {
            let device = registry.and_then(|registry| registry.get(*device));
            device.is_some_and(|device| !device.deleted && spec.select.matches(&device.spec))
        };
        if !redo.batch.devices.iter().any(selected) {
            let detail = format!(
                "the devices that the rows are of were deleted since, or are not selected by rule {:?} any more",
                rule.name
            );
            return conflict("no-device", detail);
        }
        Ok(())
    }

    pub(super) fn running(&self, name: &str) -> Result<Rule, ControlError> {
        self.rule(name)
            .filter(|rule| rule.current.is_some())
            .ok_or_else(|| ControlError::not_found("rule", name))
    }

    /// What a request comes to. `plan`: it may name a candidate too.
    pub(super) fn resolve(
        &self,
        name: &str,
        request: RuleRequest,
        plan: bool,
    ) -> Result<(RuleSpec, Arc<ModuleInfo>), ControlError> {
        RuleSpec::check_name(name).map_err(|fault| ControlError::invalid("rule-name", "/name", fault))?;
        let module = self.find_module(&request.module);
        let candidate = || plan.then(|| self.candidate(request.module.parse().ok()?)).flatten();
        let module =
            module.or_else(candidate).ok_or_else(|| ControlError::not_found("module", &request.module))?;
        Ok((draft(name, request, &module, &*self.works)?, module))
    }

    /// A module by digest, by name (the newest upload), or by `name@version`.
    pub fn find_module(&self, reference: &str) -> Option<Arc<ModuleInfo>> {
        if let Ok(digest) = reference.parse::<Digest>() {
            return self.module(digest);
        }
        let (name, version) = match reference.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (reference, None),
        };
        let named = |info: &Arc<ModuleInfo>| {
            info.name == name && version.is_none_or(|version| info.version == version)
        };
        self.modules().into_iter().filter(named).max_by_key(|info| info.uploaded_at)
    }

    /// Starts the rule once, outside of any partition: what a module has against its parameters is said to
    /// whoever deploys it, not first to the log. Gives what it wants to be called for.
    pub(super) async fn try_start(&self, spec: &RuleSpec) -> Result<Subscription, ControlError> {
        let modules = self.modules.clone();
        let setup = Setup {
            rule: spec.name.clone(),
            parameters: Arc::new(spec.parameters.clone()),
            limits: spec.limits.clone(),
            replay: false,
        };
        let digest = spec.module;
        // Instantiating takes a thread for microseconds to milliseconds; compiling may take seconds.
        let started = tokio::task::spawn_blocking(move || {
            modules.get(digest).and_then(|module| module.start(&setup).map(|(_, subscription)| subscription))
        });
        match started.await {
            Ok(Ok(subscription)) => Ok(subscription),
            Ok(Err(failure)) => Err(ControlError::invalid(
                "start",
                "/parameters",
                format!("the module refuses to start: {}", failure.message),
            )),
            Err(_) => Err(watchfire_log::AppendError::Closed.into()),
        }
    }

    pub(super) fn check_cycle(&self, spec: &RuleSpec) -> Result<(), ControlError> {
        let cycle = self.with_rules(|rules| {
            let others = rules.active().map(|version| &*version.spec).filter(|other| other.name != spec.name);
            super::rules::stream_cycle(others.chain([spec]))
        });
        match cycle {
            Some(streams) => Err(ControlError::invalid(
                "stream-cycle",
                "/output",
                format!("the streams would form a cycle: {}", streams.join(" -> ")),
            )),
            None => Ok(()),
        }
    }
}

/// What a request comes to with this module: names resolved, defaults filled in, everything checked that can be
/// without starting it.
fn draft(
    name: &str,
    request: RuleRequest,
    module: &ModuleInfo,
    works: &dyn ModuleWorks,
) -> Result<RuleSpec, ControlError> {
    RuleSpec::check_name(name).map_err(|fault| ControlError::invalid("rule-name", "/name", fault))?;
    let input = request.input.unwrap_or_else(|| watchfire_model::READINGS.into());
    for (pointer, stream) in [("/input", Some(&input)), ("/output", request.output.as_ref())] {
        if let Some(stream) = stream {
            RuleSpec::check_name(stream)
                .map_err(|fault| ControlError::invalid("stream-name", pointer, fault))?;
        }
    }
    if request.output.as_deref() == Some(watchfire_model::READINGS) {
        let detail = "the stream \"readings\" is what devices sent: a rule publishes another one";
        return Err(ControlError::invalid("stream-name", "/output", detail));
    }
    let parameters = request.parameters.unwrap_or_else(|| serde_json::json!({}));
    let parameters =
        works.validate_parameters(&module.manifest(), &parameters).map_err(ControlError::Parameters)?;
    let condition = super::parameters::condition(request.condition)?;
    super::parameters::check_limits(&request.limits)?;
    super::parameters::check_breaker(&request.breaker)?;
    Ok(RuleSpec {
        name: name.to_string(),
        module: module.digest,
        input,
        output: request.output,
        pass: request.pass,
        select: request.select,
        parameters,
        condition,
        limits: request.limits,
        breaker: request.breaker,
    })
}
