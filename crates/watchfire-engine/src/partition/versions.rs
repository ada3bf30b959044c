//! What becomes of what a rule keeps when it goes on with another version: carried over, migrated, dropped, or
//! brought back from when a version was left.

use std::collections::BTreeSet;
use std::sync::Arc;

use watchfire_model::call::{CallFailure, DeviceSet, FailureKind, Module};
use watchfire_model::state::{Blobs, Piece};
use watchfire_model::{DeviceHandle, KeyedState, Limits, RollbackState, RuleSpec, RuleVersion, Timestamp};

use super::breaker::Left;
use super::call::load_failure;
use super::{Here, Output, Partition};
use crate::rule::{Conditions, Rule, RuleId, Timers};
use crate::snapshot::Snapshot;
use crate::status::{KeptState, LeftState};

/// What one call of `migrate` gets at most, states and bytes: some thousand, so that a call stays within its time, and
/// little enough for the memory of any guest.
const MIGRATED_AT_ONCE: (usize, usize) = (4096, 4 << 20);

/// What a version begins with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin {
    /// What is there.
    Present,
    /// What was kept when this version was left.
    Kept(RuleVersion),
    /// Nothing.
    Empty,
}

/// A way back.
#[derive(Clone, Copy)]
pub(super) struct Back<'a> {
    pub name: &'a str,
    pub from: RuleVersion,
    pub to: RuleVersion,
    /// 0: `from` was refused by a partition, and goes as if it had never been.
    pub version: RuleVersion,
    pub state: RollbackState,
}

/// What comes back beside the state.
pub(super) struct Restored {
    timers: Timers,
    silent: DeviceSet,
    conditions: Conditions,
}

/// Some of what a rule keeps, copied between two records.
pub(crate) struct Pieces {
    /// The version that keeps it, and of what layout it is.
    pub version: RuleVersion,
    pub state_version: u32,
    /// All that it keeps, as it counts against the limits: bytes and slots.
    pub kept: (u64, usize),
    /// Each as large as a call of `migrate` takes. None: that was all.
    pub pieces: Vec<Piece>,
}

impl Partition {
    /// The state that a version begins with; `None`: what is there, as it is.
    pub(super) fn carry(
        &self,
        module: &dyn Module,
        spec: &RuleSpec,
        rule: &Rule,
        begin: Begin,
    ) -> Result<Option<KeyedState>, CallFailure> {
        let to = module.manifest().state_version;
        let (state, from) = match begin {
            Begin::Empty => return Ok(Some(KeyedState::new())),
            Begin::Present => (&rule.state, rule.state_version),
            Begin::Kept(version) => match rule.snapshots.get(version) {
                Some(snapshot) => (&snapshot.state, snapshot.state_version),
                None => {
                    let message = format!("the state of version {version} is not kept any more");
                    return Err(CallFailure::new(FailureKind::Refused, message));
                }
            },
        };
        if from == to || state.bytes() == 0 {
            return Ok(matches!(begin, Begin::Kept(_)).then(|| state.clone()));
        }
        // A module without state has no use for any; what there was is kept for a rollback.
        if to == 0 {
            return Ok(Some(KeyedState::new()));
        }
        self.migrate(module, &spec.limits, state, from, to).map(Some)
    }

    fn migrate(
        &self,
        module: &dyn Module,
        limits: &Limits,
        old: &KeyedState,
        from: u32,
        to: u32,
    ) -> Result<KeyedState, CallFailure> {
        if to < from {
            let message = format!("state of version {from} cannot go back to version {to}");
            return Err(CallFailure::new(FailureKind::Refused, message));
        }
        let before = (old.size(), old.slots().count());
        let (mut new, mut after) = (KeyedState::new(), None);
        while let Some(Piece { slot, devices, blobs }) =
            old.piece_after(after, MIGRATED_AT_ONCE.0, MIGRATED_AT_ONCE.1)
        {
            after = devices.last().map(|device| (slot, *device));
            let migrated = migrate_piece(module, limits, from, slot, blobs).map_err(|failure| {
                let name = |device: Option<&DeviceHandle>| {
                    let device = device.and_then(|device| self.registry.get(*device));
                    device.map(|device| device.spec.id.clone()).unwrap_or_default()
                };
                let whose = match &devices[..] {
                    [one] => format!("device {}", name(Some(one))),
                    many => {
                        format!("{} devices from {} to {}", many.len(), name(many.first()), name(many.last()))
                    }
                };
                CallFailure::new(failure.kind, format!("migrate, slot {slot}, {whose}: {}", failure.message))
            })?;
            new.set_many(slot, &devices, &migrated);
            let kept = limits.check_state(before, (new.size(), new.slots().count()));
            kept.map_err(|what| CallFailure::new(FailureKind::Output, format!("migrate: {what}")))?;
        }
        Ok(new)
    }

    /// Keeps a rule as it is, where it runs, before another version takes its place.
    pub(super) fn leave_version(&mut self, here: Here, next: &RuleSpec) {
        let Some(&id) = self.rule_ids.get(next.name.as_str()) else { return };
        let limit = next.limits.state;
        self.with_rule(id, |_, rule| {
            let snapshot = Snapshot {
                version: rule.version,
                offset: here.position.offset,
                at: here.time,
                state: rule.state.clone(),
                state_version: rule.state_version,
                timers: rule.timers.clone(),
                silent: rule.silent.clone(),
                conditions: rule.conditions.clone(),
                subscription: rule.subscription.clone(),
                missed: rule.outage.as_ref().and_then(|outage| outage.missed.from),
                dirty: true,
            };
            rule.snapshots.keep(snapshot, limit);
        });
    }

    pub(super) fn roll_back(
        &mut self,
        here: Here,
        back: Back<'_>,
        spec: Option<&RuleSpec>,
        out: &mut Vec<Output>,
    ) {
        let Back { name, from, to, version, state } = back;
        let withdrawn = version == 0;
        let id = self.rule_ids.get(name).copied();
        let rule = id.and_then(|id| self.rules[id.0 as usize].as_ref());
        // Refused here: this partition never left what it goes back to.
        if withdrawn && rule.map(|rule| rule.version) != Some(from) {
            return;
        }
        let Some(spec) = spec else { return self.remove_rule(here, name, out) };
        if withdrawn && let Some(id) = id {
            return self.take_back(here, id, from, to, spec, out);
        }
        let (Some(id), Some(rule)) = (id, rule) else {
            return self.deploy(here, spec, version, false, out);
        };
        let is_kept = rule.snapshots.get(to).is_some();
        let begin = match state {
            RollbackState::KeptOrPresent if is_kept => Begin::Kept(to),
            RollbackState::KeptOrPresent | RollbackState::Present => Begin::Present,
            RollbackState::Kept => Begin::Kept(to),
            RollbackState::Empty => Begin::Empty,
        };
        let recorded = self.known.activation(here.position.offset, name, version);
        let result = match &recorded {
            Some(Err(reason)) => Err(load_failure(reason.clone())),
            _ => self.prepare(here, spec, begin),
        };
        let prepared = match result {
            Ok(prepared) => prepared,
            Err(failure) => return self.refuse(here, name, version, failure, recorded, out),
        };
        // Taken out first: what is kept of the version that is left now may push it out.
        let restored = self.with_rule(id, |_, rule| match begin {
            Begin::Kept(version) => rule.snapshots.get(version).map(|snapshot| Restored {
                timers: snapshot.timers.clone(),
                silent: snapshot.silent.clone(),
                conditions: snapshot.conditions.clone(),
            }),
            _ => None,
        });
        let spec = Arc::new(spec.clone());
        self.leave_version(here, &spec);
        self.activate(here, spec, version, prepared, restored.flatten(), recorded.is_none(), out);
    }

    /// A version that another partition refused goes as if it had never been: what it left goes on where it was left,
    /// and catches up with what came since. It must not fail, or partitions would go on with different versions: nothing
    /// is started here, but by the first call.
    fn take_back(
        &mut self,
        here: Here,
        id: RuleId,
        from: RuleVersion,
        to: RuleVersion,
        spec: &RuleSpec,
        out: &mut Vec<Output>,
    ) {
        let left = self.with_rule(id, |_, rule| {
            let left = rule.snapshots.get(to).cloned();
            rule.snapshots.remove(to);
            left
        });
        // The newest is kept in any case: without it the version was never left here.
        let Some(left) = left.flatten() else { return };
        let place = Left { offset: left.offset, missed: left.missed };
        let prepared = Self::prepare_again(&left);
        let Snapshot { timers, silent, conditions, .. } = left;
        let restored = Restored { timers, silent, conditions };
        self.activate(here, Arc::new(spec.clone()), to, prepared, Some(restored), false, out);
        self.with_rule(id, |partition, rule| partition.fall_behind(here, rule, place, from));
    }

    /// Timers, silence and conditions as they were, as far as their devices are selected by the version that comes back.
    pub(super) fn restore(&mut self, here: Here, rule: &mut Rule, restored: Restored, out: &mut Vec<Output>) {
        let (stream, group) = (rule.stream, rule.group);
        rule.timers = restored.timers;
        rule.timers.retain(|(device, _), _| self.streams[stream].selections.contains(group, *device));
        for timer in rule.timers.values_mut() {
            timer.due = timer.due.max(Timestamp(here.time.0.saturating_add(1)));
        }
        // A device that was silent and still is was told to the version that comes back; one that was heard since, or
        // fell silent since, is told to it anew.
        rule.silent = DeviceSet::default();
        for device in restored.silent.iter_from(0) {
            if self.silence_of(rule, device).is_some_and(|due| due <= here.time) {
                rule.silent.set(device, true);
            }
        }
        self.reconcile(here, rule, restored.conditions, out);
    }

    /// What a rule keeps, and what was kept when versions of it were left; `back_to`: what going back there would do to
    /// its alerts is counted. `None`: there is no such rule.
    pub(crate) fn kept_state(&self, rule: &str, back_to: Option<RuleVersion>) -> Option<KeptState> {
        let rule = self.rules[self.rule_ids.get(rule)?.0 as usize].as_ref()?;
        let left = |snapshot: &Snapshot| LeftState {
            version: snapshot.version,
            at: snapshot.at,
            state_version: snapshot.state_version,
            blobs: blobs(&snapshot.state),
            bytes: snapshot.state.bytes(),
        };
        let raised = |conditions: &Conditions| -> BTreeSet<(DeviceHandle, Box<str>)> {
            let all = conditions.iter().flat_map(|(device, keys)| keys.iter().map(move |key| (device, key)));
            let raised = all.filter(|(_, (_, condition))| condition.is_raised());
            raised.map(|(device, (key, _))| (*device, key.clone())).collect()
        };
        let (mut raises, mut resolves) = (0, 0);
        if let Some(snapshot) = back_to.and_then(|version| rule.snapshots.get(version)) {
            let (then, now) = (raised(&snapshot.conditions), raised(&rule.conditions));
            raises = then.difference(&now).count() as u64;
            resolves = now.difference(&then).count() as u64;
        }
        Some(KeptState {
            partition: self.setup.id,
            version: rule.version,
            state_version: rule.state_version,
            blobs: blobs(&rule.state),
            bytes: rule.state.bytes(),
            left: rule.snapshots.iter().map(left).collect(),
            raises,
            resolves,
        })
    }

    /// The next pieces of what a rule keeps, some `bytes` of them. `None`: there is no such rule.
    pub(crate) fn pieces(
        &self,
        rule: &str,
        after: Option<(u32, DeviceHandle)>,
        bytes: usize,
    ) -> Option<Pieces> {
        let rule = self.rules[self.rule_ids.get(rule)?.0 as usize].as_ref()?;
        let (mut pieces, mut after, mut size) = (Vec::new(), after, 0);
        while size < bytes
            && let Some(piece) = rule.state.piece_after(after, MIGRATED_AT_ONCE.0, MIGRATED_AT_ONCE.1)
        {
            after = piece.devices.last().map(|device| (piece.slot, *device));
            size += piece.blobs.data.len() + piece.devices.len() * 8;
            pieces.push(piece);
        }
        Some(Pieces {
            version: rule.version,
            state_version: rule.state_version,
            kept: (rule.state.size(), rule.state.slots().count()),
            pieces,
        })
    }
}

fn blobs(state: &KeyedState) -> u64 {
    state.slots().map(|slot| state.used(slot) as u64).sum()
}

/// Migrates some blobs of one slot, and checks what comes of them.
pub(crate) fn migrate_piece(
    module: &dyn Module,
    limits: &Limits,
    from: u32,
    slot: u32,
    blobs: Blobs,
) -> Result<Blobs, CallFailure> {
    let count = blobs.lengths.len();
    let migrated = module.migrate(limits, from, slot, blobs)?;
    if migrated.lengths.len() != count || !migrated.is_consistent() {
        let message = format!("it gave {} states for {count}", migrated.lengths.len());
        return Err(CallFailure::new(FailureKind::Trapped, message));
    }
    Ok(migrated)
}
