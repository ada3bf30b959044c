//! What a rule may keep over calls, as far as the host does not see it: timers and conditions. A call that would
//! leave more behind fails like any other, so that a rule with ever new keys cannot fill memory and checkpoints.

use std::collections::{BTreeMap, BTreeSet};

use watchfire_model::DeviceHandle;
use watchfire_model::call::{AlertEffect, Effects, Timer, TimerEffect};

use super::Partition;
use crate::rule::Rule;

impl Partition {
    /// Refuses effects that would leave more behind than the rule may keep.
    pub(super) fn check_kept(&self, rule: &Rule, effects: &Effects) -> Result<(), String> {
        let limits = &rule.spec.limits;
        if !effects.timers.is_empty() {
            let mut changed: BTreeMap<(DeviceHandle, u32), bool> = BTreeMap::new();
            for effect in &effects.timers {
                let (TimerEffect::Set(Timer { device, tag, .. })
                | TimerEffect::Cancel(Timer { device, tag, .. })) = effect;
                if !self.deleted.contains(*device) {
                    changed.insert((*device, *tag), matches!(effect, TimerEffect::Set(_)));
                }
            }
            let before = rule.timers.len();
            let set = |(key, set): &(&(DeviceHandle, u32), &bool)| **set && !rule.timers.contains_key(*key);
            let gone = |(key, set): &(&(DeviceHandle, u32), &bool)| !**set && rule.timers.contains_key(*key);
            let after = before + changed.iter().filter(set).count() - changed.iter().filter(gone).count();
            limits.check_timers(before, after)?;
        }
        let mut new: BTreeMap<DeviceHandle, BTreeSet<&str>> = BTreeMap::new();
        for effect in &effects.alerts {
            if let AlertEffect::Trigger { device, key, .. } = effect
                && !self.deleted.contains(*device)
                && !rule.has_condition(*device, key)
            {
                new.entry(*device).or_default().insert(key);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        for (device, keys) in &new {
            let before = rule.conditions.get(device).map_or(0, Vec::len);
            let name = self.registry.get(*device).map_or("", |device| device.spec.id.as_str());
            limits.check_keys(name, before, before + keys.len())?;
        }
        let before: usize = rule.conditions.values().map(Vec::len).sum();
        let more: usize = new.values().map(BTreeSet::len).sum();
        limits.check_conditions(before, before + more)
    }
}
