//! Commands about rules and conditions.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use watchfire_log::{Append, Record, Redo};
use watchfire_model::call::Setup;
use watchfire_model::{
    Actor, BreakerOptions, Control, DeviceHandle, Digest, Limits, OnRecovery, Position, RuleSpec,
    RuleVersion, Selector,
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
    /// `{on_delay,off_delay,latched,chatter,realarm}`, and the same under `keys` for single keys.
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

/// A version that was logged.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// Its number.
    pub version: RuleVersion,
    /// The rule did not run before.
    pub created: bool,
    /// The record, in each partition: from there on the version counts.
    pub activated_at: Vec<Position>,
}

/// What came, or would come, of a deployment.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was logged.
    Deployed(Activation),
    /// It is what runs already: nothing was logged.
    Unchanged {
        /// The version that runs.
        version: RuleVersion,
        /// Its record, in each partition.
        activated_at: Vec<Position>,
    },
    /// Only asked: this would be deployed.
    WouldDeploy {
        /// The specification that runs.
        from: Option<Arc<RuleSpec>>,
        /// The one that would.
        to: Box<RuleSpec>,
    },
}

impl ControlPlane {
    /// Deploys a rule, or only says what would change.
    pub async fn deploy(
        self: &Arc<Self>,
        name: &str,
        request: RuleRequest,
        dry_run: bool,
        by: Actor,
    ) -> Result<Outcome, ControlError> {
        let name = name.to_string();
        let discard_state = request.discard_state;
        let (spec, module) = self.resolve(&name, request)?;
        self.try_start(&spec).await?;
        self.uninterrupted(move |this| async move {
            let _order = this.order.lock().await;
            let rule = this.rule(&name);
            // It may have been deleted while it was tried.
            if this.module(spec.module).is_none() {
                return Err(ControlError::not_found("module", &spec.module.to_string()));
            }
            let active = rule.as_ref().and_then(Rule::active);
            if let Some(active) = active.filter(|active| *active.spec == spec) {
                return Ok(Outcome::Unchanged {
                    version: active.version,
                    activated_at: active.activated_at.values().copied().collect(),
                });
            }
            this.check_cycle(&spec)?;
            if let (Some(active), false) = (active, discard_state) {
                check_state_path(this.module(active.spec.module).as_deref(), &module)?;
            }
            if dry_run {
                let from = active.map(|active| active.spec.clone());
                return Ok(Outcome::WouldDeploy { from, to: Box::new(spec) });
            }
            let version = rule.as_ref().map_or(1, Rule::next_version);
            let created = active.is_none();
            let control = Control::RuleDeployed { spec: Box::new(spec), version, discard_state, by };
            let activated_at = this.commit(control).await?.to_vec();
            Ok(Outcome::Deployed(Activation { version, created, activated_at }))
        })
        .await
    }

    /// Brings an earlier version back as a new one; without a target, the one before the current.
    pub async fn roll_back(
        self: &Arc<Self>,
        name: &str,
        to: Option<RuleVersion>,
        by: Actor,
    ) -> Result<Activation, ControlError> {
        let name = name.to_string();
        self.uninterrupted(move |this| async move {
            let _order = this.order.lock().await;
            let rule = this.running(&name)?;
            let from = rule.current.unwrap_or_default();
            let to = match to {
                Some(to) => to,
                None => rule.previous().ok_or_else(|| ControlError::Conflict {
                    code: "no-earlier-version",
                    detail: format!("rule {name:?} has no version before {from}"),
                })?,
            };
            let target = rule.versions.get(&to).ok_or_else(|| {
                ControlError::invalid("no-such-version", "/to", format!("rule {name:?} has no version {to}"))
            })?;
            if to == from {
                return Err(ControlError::Conflict {
                    code: "already-current",
                    detail: format!("version {to} of rule {name:?} is the one that runs"),
                });
            }
            if this.module(target.spec.module).is_none() {
                return Err(ControlError::not_found("module", &target.spec.module.to_string()));
            }
            this.check_cycle(&target.spec)?;
            let (version, spec) = (rule.next_version(), Box::new((*target.spec).clone()));
            let control = Control::RuleRolledBack { name, from, to, version, spec: Some(spec), by };
            let activated_at = this.commit(control).await?.to_vec();
            Ok(Activation { version, created: false, activated_at })
        })
        .await
    }

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

    fn running(&self, name: &str) -> Result<Rule, ControlError> {
        self.rule(name)
            .filter(|rule| rule.current.is_some())
            .ok_or_else(|| ControlError::not_found("rule", name))
    }

    fn resolve(&self, name: &str, request: RuleRequest) -> Result<(RuleSpec, Arc<ModuleInfo>), ControlError> {
        RuleSpec::check_name(name).map_err(|fault| ControlError::invalid("rule-name", "/name", fault))?;
        let module = self
            .find_module(&request.module)
            .ok_or_else(|| ControlError::not_found("module", &request.module))?;
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
    /// whoever deploys it, not first to the log.
    async fn try_start(&self, spec: &RuleSpec) -> Result<(), ControlError> {
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
            modules.get(digest).and_then(|module| module.start(&setup).map(drop))
        });
        match started.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(ControlError::invalid(
                "start",
                "/parameters",
                format!("the module refuses to start: {}", failure.message),
            )),
            Err(_) => Err(watchfire_log::AppendError::Closed.into()),
        }
    }

    fn check_cycle(&self, spec: &RuleSpec) -> Result<(), ControlError> {
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
pub fn draft(
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

/// Refuses a module that can neither read the state of the present one nor migrate it.
fn check_state_path(old: Option<&ModuleInfo>, new: &ModuleInfo) -> Result<(), ControlError> {
    // A rule without state before it, or none behind it, has no path to take.
    let old = old.map_or(0, |info| info.state_version);
    if old == 0 || new.state_version == 0 || old == new.state_version {
        return Ok(());
    }
    if new.migrates && old < new.state_version {
        return Ok(());
    }
    Err(ControlError::Conflict {
        code: "state-version",
        detail: format!(
            "the state has layout {old}, the module reads {} and does not migrate it; \
             set discard_state to begin without state",
            new.state_version
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: u32, new: u32, migrates: bool, expected: bool) {
        let info = |state_version| ModuleInfo { state_version, migrates, ..ModuleInfo::for_tests("m") };
        assert_eq!(
            check_state_path(Some(&info(old)), &info(new)).is_ok(),
            expected,
            "{old} to {new}, migrates: {migrates}"
        );
    }

    #[test]
    fn state_needs_a_path_from_layout_to_layout() {
        check(0, 1, false, true);
        check(1, 1, false, true);
        check(1, 0, false, true);
        check(1, 2, true, true);
        check(1, 2, false, false);
        check(2, 1, true, false);
        assert!(check_state_path(None, &ModuleInfo::for_tests("m")).is_ok());
    }
}
