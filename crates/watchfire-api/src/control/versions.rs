//! Versions of rules: what one would change, deploying it, and going back.

use std::sync::Arc;

use watchfire_model::call::Subscription;
use watchfire_model::{Actor, Control, Limits, Position, RuleSpec, RuleVersion};

use super::state::{StateChoice, StateFate, StatePlan};
use super::{ControlError, ControlPlane, Rule, RuleRequest, Version};
use crate::contract::{EngineView, ModuleInfo};

/// How often a deployment is tried again, where another one came between its trial and its record.
const TRIES: usize = 3;

/// A version that was logged.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// Its number.
    pub version: RuleVersion,
    /// The rule did not run before.
    pub created: bool,
    /// The record, in each partition: from there on the version counts.
    pub activated_at: Vec<Position>,
    /// What becomes of the state.
    pub state: StatePlan,
}

/// What came of a deployment.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was logged.
    Deployed(Box<Activation>),
    /// It is what runs already: nothing was logged.
    Unchanged {
        /// The version that runs.
        version: RuleVersion,
        /// Its record, in each partition.
        activated_at: Vec<Position>,
    },
}

/// What a version would change.
#[derive(Debug)]
pub struct Plan {
    /// The version that runs.
    pub from: Option<Version>,
    /// The specification that would run.
    pub to: Arc<RuleSpec>,
    /// With a rollback: the version that comes back.
    pub restores: Option<RuleVersion>,
    /// The module that runs, where it is still known.
    pub module_before: Option<Arc<ModuleInfo>>,
    /// The module that would run.
    pub module: Arc<ModuleInfo>,
    /// What the version that runs is called for, where that can be found out.
    pub called_before: Option<Subscription>,
    /// What the version would be called for.
    pub called: Subscription,
    /// What becomes of the state.
    pub state: StatePlan,
    /// What stands against it.
    pub refusal: Option<ControlError>,
}

impl Plan {
    /// It is what runs already.
    pub fn is_nothing(&self) -> bool {
        self.restores.is_none() && self.from.as_ref().is_some_and(|from| from.spec == self.to)
    }
}

impl ControlPlane {
    /// Says what a deployment would change; changes nothing. The module may be a candidate.
    pub async fn plan(
        self: &Arc<Self>,
        name: &str,
        request: RuleRequest,
        engine: Arc<dyn EngineView>,
    ) -> Result<Plan, ControlError> {
        let discard = request.discard_state;
        let (spec, module) = self.resolve(name, request, true)?;
        self.check_cycle(&spec)?;
        let limits = self.trial_limits(&spec, &module);
        let called = self.try_start(&RuleSpec { limits: limits.clone(), ..spec.clone() }).await?;
        let rule = self.rule(name);
        let (state, refusal) = self.plan_state(&engine, rule.as_ref(), &module, &limits, discard, true).await;
        let from = rule.as_ref().and_then(Rule::active).cloned();
        let (module_before, called_before) = self.runs(from.as_ref()).await;
        let to = Arc::new(spec);
        Ok(Plan { from, to, restores: None, module_before, module, called_before, called, state, refusal })
    }

    /// Says what going back would change; changes nothing.
    pub async fn plan_roll_back(
        self: &Arc<Self>,
        name: &str,
        to: Option<RuleVersion>,
        choice: StateChoice,
        engine: Arc<dyn EngineView>,
    ) -> Result<Plan, ControlError> {
        let rule = self.running(name)?;
        let (target, module) = self.way_back(&rule, to)?;
        let spec = target.spec.clone();
        let called = self.try_start(&spec).await?;
        let ((state, refusal), _) = self.plan_rollback(&engine, &rule, &target, &module, choice, true).await;
        let from = rule.active().cloned();
        let (module_before, called_before) = self.runs(from.as_ref()).await;
        let restores = Some(target.version);
        Ok(Plan { from, to: spec, restores, module_before, module, called_before, called, state, refusal })
    }

    /// What runs: its module, and what it is called for.
    async fn runs(&self, from: Option<&Version>) -> (Option<Arc<ModuleInfo>>, Option<Subscription>) {
        let Some(from) = from else { return (None, None) };
        // It runs; where it could not be started now, that is no reason not to say the rest.
        (self.module(from.spec.module), self.try_start(&from.spec).await.ok())
    }

    /// The limits that a module is tried within: a candidate is compiled once, and not for counting fuel.
    fn trial_limits(&self, spec: &RuleSpec, module: &ModuleInfo) -> Limits {
        let fuel = spec.limits.fuel.filter(|_| self.module(module.digest).is_some());
        Limits { fuel, ..spec.limits.clone() }
    }

    /// Deploys a rule. State that the module has to migrate is tried before: a failure refuses the version, and the
    /// one that runs goes on.
    pub async fn deploy(
        self: &Arc<Self>,
        name: &str,
        request: RuleRequest,
        engine: Arc<dyn EngineView>,
        by: Actor,
    ) -> Result<Outcome, ControlError> {
        let discard = request.discard_state;
        let (spec, module) = self.resolve(name, request, false)?;
        self.try_start(&spec).await?;
        for _ in 0..TRIES {
            let rule = self.rule(name);
            let basis = rule.as_ref().and_then(|rule| rule.current);
            let is_new = rule.as_ref().and_then(Rule::active).is_none_or(|active| *active.spec != spec);
            if is_new {
                self.check_cycle(&spec)?;
            }
            // Not under the lock: a large state takes its time, and everybody else would wait.
            let (state, refusal) =
                self.plan_state(&engine, rule.as_ref(), &module, &spec.limits, discard, false).await;
            if let Some(refusal) = refusal.filter(|_| is_new) {
                return Err(refusal);
            }
            let (name, spec, by) = (name.to_string(), spec.clone(), by.clone());
            let done = self.uninterrupted(move |this| this.log_version(name, basis, spec, state, by)).await?;
            if let Some(outcome) = done {
                return Ok(outcome);
            }
        }
        Err(changed_meanwhile(name))
    }

    /// Logs a version, where `basis` still is the one that runs.
    async fn log_version(
        self: Arc<Self>,
        name: String,
        basis: Option<RuleVersion>,
        spec: RuleSpec,
        state: StatePlan,
        by: Actor,
    ) -> Result<Option<Outcome>, ControlError> {
        let _order = self.order.lock().await;
        let rule = self.rule(&name);
        // It may have been deleted while it was tried.
        if self.module(spec.module).is_none() {
            return Err(ControlError::not_found("module", &spec.module.to_string()));
        }
        if rule.as_ref().and_then(|rule| rule.current) != basis {
            return Ok(None);
        }
        let active = rule.as_ref().and_then(Rule::active);
        if let Some(active) = active.filter(|active| *active.spec == spec) {
            return Ok(Some(Outcome::Unchanged {
                version: active.version,
                activated_at: active.activated_at.values().copied().collect(),
            }));
        }
        self.check_cycle(&spec)?;
        let version = rule.as_ref().map_or(1, Rule::next_version);
        let created = active.is_none();
        let discard_state = state.fate == StateFate::Dropped;
        let control = Control::RuleDeployed { spec: Box::new(spec), version, discard_state, by };
        let activated_at = self.commit(control).await?.to_vec();
        Ok(Some(Outcome::Deployed(Box::new(Activation { version, created, activated_at, state }))))
    }

    /// Brings an earlier version back as a new one; without a target, the one before the current.
    pub async fn roll_back(
        self: &Arc<Self>,
        name: &str,
        to: Option<RuleVersion>,
        choice: StateChoice,
        engine: Arc<dyn EngineView>,
        by: Actor,
    ) -> Result<Activation, ControlError> {
        for _ in 0..TRIES {
            let rule = self.running(name)?;
            let (target, module) = self.way_back(&rule, to)?;
            let ((plan, refusal), state) =
                self.plan_rollback(&engine, &rule, &target, &module, choice, false).await;
            if let Some(refusal) = refusal {
                return Err(refusal);
            }
            let (to, spec, by) = (target.version, Box::new((*target.spec).clone()), by.clone());
            let done = self.uninterrupted(move |this| async move {
                let _order = this.order.lock().await;
                let present = this.running(&rule.name)?;
                if present.current != rule.current {
                    return Ok(None);
                }
                // The module, or another rule, may have changed while the state was asked for.
                this.way_back(&present, Some(to))?;
                let (from, version) = (present.current.unwrap_or_default(), present.next_version());
                let name = rule.name;
                let control =
                    Control::RuleRolledBack { name, from, to, version, spec: Some(spec), state, by };
                let activated_at = this.commit(control).await?.to_vec();
                Ok(Some(Activation { version, created: false, activated_at, state: plan }))
            });
            if let Some(activation) = done.await? {
                return Ok(activation);
            }
        }
        Err(changed_meanwhile(name))
    }

    /// The version that a rollback goes to, and its module.
    fn way_back(
        &self,
        rule: &Rule,
        to: Option<RuleVersion>,
    ) -> Result<(Version, Arc<ModuleInfo>), ControlError> {
        let (name, from) = (&rule.name, rule.current.unwrap_or_default());
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
        let module = self.module(target.spec.module);
        let module =
            module.ok_or_else(|| ControlError::not_found("module", &target.spec.module.to_string()))?;
        self.check_cycle(&target.spec)?;
        Ok((target.clone(), module))
    }
}

fn changed_meanwhile(name: &str) -> ControlError {
    ControlError::Conflict {
        code: "changed-meanwhile",
        detail: format!("rule {name:?} was changed by others while this was looked at: try again"),
    }
}
