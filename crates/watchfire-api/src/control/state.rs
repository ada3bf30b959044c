//! What becomes of what a rule keeps when it goes on with another version. Found out, and tried on copies, before
//! anything is logged: the answer goes into the record, so that every partition does the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;
use watchfire_model::{Digest, Limits, PartitionId, RollbackState, RuleVersion, Timestamp};

use super::{ControlError, ControlPlane, Rule, Version};
use crate::contract::{EngineView, KeptState, ModuleInfo, Trial, TrialFailure};

/// How long is waited for partitions that do not run the present version yet.
const LEVEL: Duration = Duration::from_secs(5);

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateFate {
    /// There is none before or behind.
    None,
    /// It stays as it is.
    Kept,
    /// The module migrates it to another layout.
    Migrated,
    /// It goes: the rule begins without. What there was is kept for a rollback.
    Dropped,
    /// That from when an earlier version was left comes back.
    Restored,
    /// Nothing: the version is refused for it.
    Refused,
}

/// What becomes of what a rule keeps.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct StatePlan {
    /// In a word.
    pub fate: StateFate,
    /// The same in words for people.
    pub text: String,
    /// The layout of the state (`state_version` of the module) before.
    pub from_layout: u32,
    /// The layout that the version reads.
    pub to_layout: u32,
    /// With `restored`: the version whose state it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_version: Option<RuleVersion>,
    /// With `restored`: when that version was left.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub as_of: Option<Timestamp>,
    /// Blobs that it is about, one for each slot and device; missing: nobody had to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blobs: Option<u64>,
    /// Their bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// `migrate` was tried on copies of all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialView>,
    /// With a rollback that restores: alerts that are raised by it, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raises: Option<u64>,
    /// ... and resolved, since they were, or were not, raised when the version was left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolves: Option<u64>,
}

/// What came of a trial of `migrate`.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TrialView {
    /// Devices with state.
    pub devices: u64,
    /// Blobs that were migrated, or tried to.
    pub blobs: u64,
    /// Their bytes before ...
    pub bytes: u64,
    /// ... and after.
    pub new_bytes: u64,
    /// Milliseconds in `migrate`, of the partition that takes longest: about as long it stands still at the swap.
    pub milliseconds: f64,
    /// What the module, or the host, said where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl From<&Trial> for TrialView {
    fn from(trial: &Trial) -> Self {
        Self {
            devices: trial.devices,
            blobs: trial.blobs,
            bytes: trial.bytes,
            new_bytes: trial.new_bytes,
            milliseconds: (trial.took.as_secs_f64() * 1e6).round() / 1e3,
            failure: trial.failure.as_ref().map(|failure| failure.reason.clone()),
        }
    }
}

/// What whoever goes back wants of the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateChoice {
    /// That from when the version was left, where it is kept, and the present one otherwise.
    #[default]
    Before,
    /// The present one.
    Present,
    /// None.
    Empty,
}

/// A plan, and what stands against it.
pub(super) type Planned = (StatePlan, Option<ControlError>);

/// How one layout of state becomes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// There is no state before.
    Nothing,
    /// It is the same.
    Same,
    /// By `migrate`.
    Migrate,
    /// The module keeps none.
    Drop,
    /// Not at all.
    None,
}

fn path(from: u32, to: &ModuleInfo) -> Path {
    match (from, to.state_version) {
        (0, _) => Path::Nothing,
        (_, 0) => Path::Drop,
        (from, to) if from == to => Path::Same,
        (from, version) if to.migrates && from < version => Path::Migrate,
        _ => Path::None,
    }
}

fn plan(fate: StateFate, from: u32, to: &ModuleInfo, text: impl Into<String>) -> StatePlan {
    StatePlan {
        fate,
        text: text.into(),
        from_layout: from,
        to_layout: to.state_version,
        of_version: None,
        as_of: None,
        blobs: None,
        bytes: None,
        trial: None,
        raises: None,
        resolves: None,
    }
}

fn counted(plan: StatePlan, kept: &[KeptState]) -> StatePlan {
    let (blobs, bytes) = (kept.iter().map(|kept| kept.blobs).sum(), kept.iter().map(|kept| kept.bytes).sum());
    StatePlan { blobs: Some(blobs), bytes: Some(bytes), ..plan }
}

impl ControlPlane {
    /// The layout of the state of a module, where it is still known.
    fn layout(&self, module: Digest) -> u32 {
        self.module(module).map_or(0, |info| info.state_version)
    }

    /// What becomes of the present state under a module. `discard`: it may go where there is no other way. `look`: how
    /// much there is is asked for also where nothing depends on it.
    pub(super) async fn plan_state(
        &self,
        engine: &Arc<dyn EngineView>,
        rule: Option<&Rule>,
        module: &ModuleInfo,
        limits: &Limits,
        discard: bool,
        look: bool,
    ) -> Planned {
        let active = rule.and_then(|rule| Some((&rule.name, rule.active()?)));
        let Some((name, active)) = active else {
            return (plan(StateFate::None, 0, module, "a new rule: it begins without state"), None);
        };
        let from = self.layout(active.spec.module);
        let to = module.state_version;
        let planned = match path(from, module) {
            Path::Nothing => (plan(StateFate::None, from, module, "there is no state so far"), None),
            Path::Same => {
                let text = format!("the state stays as it is (layout {to})");
                (plan(StateFate::Kept, from, module, text), None)
            }
            Path::Drop => {
                let text = "the module keeps none: the state goes, and is kept for a rollback";
                (plan(StateFate::Dropped, from, module, text), None)
            }
            Path::Migrate => self.try_migration(engine, name, from, module, limits, discard).await,
            Path::None if discard => (dropped(from, module), None),
            Path::None => {
                let detail = format!(
                    "the state has layout {from}, the module reads {to} and does not migrate it; \
                     set discard_state to begin without state"
                );
                let refusal = ControlError::Conflict { code: "state-version", detail: detail.clone() };
                (plan(StateFate::Refused, from, module, detail), Some(refusal))
            }
        };
        if !look || planned.0.trial.is_some() {
            return planned;
        }
        match engine.kept_state(name.clone(), None).await {
            Ok(kept) => (counted(planned.0, &kept), planned.1),
            // Nothing depends on it.
            Err(_) => planned,
        }
    }

    async fn try_migration(
        &self,
        engine: &Arc<dyn EngineView>,
        rule: &str,
        from: u32,
        module: &ModuleInfo,
        limits: &Limits,
        discard: bool,
    ) -> Planned {
        let trial = match engine.try_migration(rule.into(), module.digest, limits.clone()).await {
            Ok(trial) => trial,
            Err(busy) => {
                let text = format!("migrate could not be tried: {busy}");
                return (
                    plan(StateFate::Refused, from, module, text.clone()),
                    Some(ControlError::Busy(text)),
                );
            }
        };
        let to = module.state_version;
        let tried = |plan: StatePlan| StatePlan {
            blobs: Some(trial.blobs),
            bytes: Some(trial.bytes),
            trial: Some((&trial).into()),
            ..plan
        };
        let Some(failure) = &trial.failure else {
            if trial.blobs == 0 {
                return (tried(plan(StateFate::None, from, module, "there is no state so far")), None);
            }
            let text = format!("the module migrates the state from layout {from} to {to}");
            return (tried(plan(StateFate::Migrated, from, module, text)), None);
        };
        if discard {
            return (tried(dropped(from, module)), None);
        }
        let device = failure.device.and_then(|handle| {
            let registries = self.registries();
            let device = registries.0.get(usize::from(failure.partition))?.get(handle)?;
            Some(device.spec.id.clone())
        });
        let detail = format!(
            "migrate from layout {from} to {to} fails {}: {}; set discard_state to begin without state",
            place(failure, device.as_deref()),
            failure.reason
        );
        let refusal = ControlError::Migration {
            detail: detail.clone(),
            device,
            slot: failure.slot,
            partition: failure.partition,
        };
        (tried(plan(StateFate::Refused, from, module, detail)), Some(refusal))
    }

    /// What a rule goes on with after a rollback, and how the record says so.
    pub(super) async fn plan_rollback(
        &self,
        engine: &Arc<dyn EngineView>,
        rule: &Rule,
        target: &Version,
        module: &ModuleInfo,
        choice: StateChoice,
        look: bool,
    ) -> (Planned, RollbackState) {
        let (to, limits) = (target.version, &target.spec.limits);
        let from = rule.active().map_or(0, |active| self.layout(active.spec.module));
        match choice {
            StateChoice::Empty => return ((dropped(from, module), None), RollbackState::Empty),
            StateChoice::Present => {
                let planned = self.plan_state(engine, Some(rule), module, limits, false, look).await;
                return (planned, RollbackState::Present);
            }
            StateChoice::Before => {}
        }
        let kept = match self.level(engine, rule, to).await {
            Ok(kept) => kept,
            Err(busy) => {
                let text = format!(
                    "{busy}, so nobody knows whether the state of version {to} is kept everywhere; try again, or go \
                     on with the present one (keep_state)"
                );
                let planned = plan(StateFate::Refused, from, module, text.clone());
                return ((planned, Some(ControlError::Busy(text))), RollbackState::Kept);
            }
        };
        let left: Vec<_> =
            kept.iter().filter_map(|kept| kept.left.iter().find(|left| left.version == to)).collect();
        if left.len() == kept.len()
            && let Some(at) = left.iter().map(|left| left.at).min()
        {
            let text = format!("the state of version {to} as of {at} comes back");
            let plan = StatePlan {
                of_version: Some(to),
                as_of: Some(at),
                blobs: Some(left.iter().map(|left| left.blobs).sum()),
                bytes: Some(left.iter().map(|left| left.bytes).sum()),
                raises: Some(kept.iter().map(|kept| kept.raises).sum()),
                resolves: Some(kept.iter().map(|kept| kept.resolves).sum()),
                ..plan(StateFate::Restored, from, module, text)
            };
            return ((plan, None), RollbackState::Kept);
        }
        let (mut planned, refusal) = self.plan_state(engine, Some(rule), module, limits, false, look).await;
        planned.text = format!("the state of version {to} is not kept any more: {}", planned.text);
        let refusal = refusal.map(|refusal| match refusal {
            ControlError::Conflict { .. } => {
                ControlError::Conflict { code: "state-gone", detail: planned.text.clone() }
            }
            other => other,
        });
        ((planned, refusal), RollbackState::Present)
    }

    /// What every partition keeps, once all of them run the present version.
    async fn level(
        &self,
        engine: &Arc<dyn EngineView>,
        rule: &Rule,
        back_to: RuleVersion,
    ) -> Result<Vec<KeptState>, String> {
        let begun = Instant::now();
        loop {
            let kept = engine.kept_state(rule.name.clone(), Some(back_to)).await;
            let kept = kept.map_err(|busy| busy.to_string())?;
            let runs =
                |id| kept.iter().any(|kept| kept.partition == id && Some(kept.version) == rule.current);
            match (0..self.partitions()).map(PartitionId).find(|id| !runs(id.0)) {
                None => return Ok(kept),
                Some(id) if begun.elapsed() > LEVEL => {
                    let version = rule.current.unwrap_or_default();
                    return Err(format!("partition {id} does not run version {version} yet"));
                }
                Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

fn dropped(from: u32, module: &ModuleInfo) -> StatePlan {
    plan(StateFate::Dropped, from, module, "the state is dropped: the rule begins without")
}

/// Where a migration fails.
fn place(failure: &TrialFailure, device: Option<&str>) -> String {
    let partition = failure.partition;
    match (failure.slot, device) {
        (Some(slot), Some(device)) => format!("for device {device} in slot {slot}"),
        (Some(slot), None) => {
            format!("for {} devices together in slot {slot} of partition {partition}", failure.devices)
        }
        (None, _) => format!("for the state of partition {partition}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: u32, to: u32, migrates: bool, expected: Path) {
        let info = ModuleInfo { state_version: to, migrates, ..ModuleInfo::for_tests("m") };
        assert_eq!(path(from, &info), expected, "{from} to {to}, migrates: {migrates}");
    }

    #[test]
    fn state_needs_a_path_from_layout_to_layout() {
        check(0, 1, false, Path::Nothing);
        check(1, 1, false, Path::Same);
        check(1, 0, false, Path::Drop);
        check(1, 2, true, Path::Migrate);
        check(1, 2, false, Path::None);
        check(2, 1, true, Path::None);
    }
}
