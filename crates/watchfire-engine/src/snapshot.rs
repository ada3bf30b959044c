//! What is kept of a rule when a version of it is left, so that a rollback can bring it back.
//!
//! Kept at every swap, and not only where the state changes its layout: a version that computes nonsense spoils
//! state of the same layout as well. Where the state is large this costs a copy of it in memory, and in the next
//! checkpoint; how many there are, and how large they may be together, is bounded.

use watchfire_model::call::{DeviceSet, Subscription};
use watchfire_model::{DeviceHandle, KeyedState, Offset, RuleVersion, Timestamp};

use crate::rule::{Conditions, Timers};

/// Versions of a rule whose state is kept: a mistake is noticed a few versions later at most.
const VERSIONS: usize = 5;

/// What a condition and a timer count for beside state, in bytes.
const CONDITION: u64 = 512;
const TIMER: u64 = 32;

/// A rule as it was when a version of it was left.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// The version that was left.
    pub version: RuleVersion,
    /// The record of the swap, and its time.
    pub offset: Offset,
    pub at: Timestamp,
    pub state: KeyedState,
    pub state_version: u32,
    pub timers: Timers,
    /// Devices that were silent.
    pub silent: DeviceSet,
    pub conditions: Conditions,
    /// What it waited for: without it the version could come back only where its module can be started.
    pub subscription: Subscription,
    /// The record from which on it had missed everything by then; `None`: nothing.
    pub missed: Option<Offset>,
    /// Everything but the state, which says so itself, is not in a checkpoint yet.
    pub dirty: bool,
}

impl Snapshot {
    /// What it counts for against the limit. It depends on what is kept alone: the same in every replay.
    fn size(&self) -> u64 {
        let conditions: usize = self.conditions.values().map(Vec::len).sum();
        self.state.size() + conditions as u64 * CONDITION + self.timers.len() as u64 * TIMER
    }
}

/// The snapshots of one rule, in the order in which the versions were left.
#[derive(Clone, Default)]
pub(crate) struct Snapshots {
    kept: Vec<Snapshot>,
    /// Versions whose snapshots a checkpoint may still hold.
    gone: Vec<RuleVersion>,
}

impl Snapshots {
    /// Keeps one in place of that of the same version. The oldest go where they are too many, or where all but the
    /// newest are larger than `limit` together with it: the newest is kept in any case.
    pub fn keep(&mut self, mut snapshot: Snapshot, limit: u64) {
        self.remove(snapshot.version);
        snapshot.state.mark_all_dirty();
        snapshot.dirty = true;
        self.kept.push(snapshot);
        let mut size: u64 = self.kept.iter().map(Snapshot::size).sum();
        while self.kept.len() > VERSIONS || (self.kept.len() > 1 && size > limit) {
            let oldest = self.kept.remove(0);
            size -= oldest.size();
            self.gone.push(oldest.version);
        }
    }

    /// One that was read from a checkpoint.
    pub fn restore(&mut self, mut snapshot: Snapshot) {
        snapshot.dirty = false;
        let place = self.kept.partition_point(|other| other.offset < snapshot.offset);
        self.kept.insert(place, snapshot);
    }

    pub fn get(&self, version: RuleVersion) -> Option<&Snapshot> {
        self.kept.iter().find(|snapshot| snapshot.version == version)
    }

    pub fn get_mut(&mut self, version: RuleVersion) -> Option<&mut Snapshot> {
        self.kept.iter_mut().find(|snapshot| snapshot.version == version)
    }

    pub fn remove(&mut self, version: RuleVersion) {
        if let Some(place) = self.kept.iter().position(|snapshot| snapshot.version == version) {
            self.kept.remove(place);
            self.gone.push(version);
        }
    }

    /// A device is deleted: nothing of it comes back.
    pub fn forget(&mut self, device: DeviceHandle) {
        for snapshot in &mut self.kept {
            snapshot.state.remove_device(device);
            let timers = snapshot.timers.len();
            snapshot.timers.retain(|(other, _), _| *other != device);
            snapshot.dirty |= snapshot.conditions.remove(&device).is_some()
                | snapshot.silent.set(device, false)
                | (snapshot.timers.len() != timers);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Snapshot> {
        self.kept.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Snapshot> {
        self.kept.iter_mut()
    }

    /// Versions whose snapshots went since the last call, for a checkpoint to remove.
    pub fn take_gone(&mut self) -> Vec<RuleVersion> {
        std::mem::take(&mut self.gone)
    }

    /// The next checkpoint writes everything.
    pub fn mark_all_dirty(&mut self) {
        for snapshot in &mut self.kept {
            snapshot.state.mark_all_dirty();
            snapshot.dirty = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(snapshots: &mut Snapshots, version: RuleVersion, bytes: usize, limit: u64) {
        let mut state = KeyedState::new();
        state.set(0, DeviceHandle(1), &vec![1; bytes]);
        let snapshot = Snapshot {
            version,
            offset: version.into(),
            at: Timestamp(0),
            state,
            state_version: 1,
            timers: Timers::new(),
            silent: DeviceSet::default(),
            conditions: Conditions::new(),
            subscription: Subscription::default(),
            missed: None,
            dirty: false,
        };
        snapshots.keep(snapshot, limit);
    }

    fn versions(snapshots: &Snapshots) -> Vec<RuleVersion> {
        snapshots.iter().map(|snapshot| snapshot.version).collect()
    }

    #[test]
    fn a_few_are_kept_and_of_large_ones_fewer() {
        let mut snapshots = Snapshots::default();
        (1..=6).for_each(|version| keep(&mut snapshots, version, 1000, 1 << 20));
        assert_eq!(versions(&snapshots), [2, 3, 4, 5, 6]);
        assert_eq!(snapshots.take_gone(), [1]);
        // One that is kept anew is the newest.
        keep(&mut snapshots, 3, 1000, 1 << 20);
        assert_eq!(versions(&snapshots), [2, 4, 5, 6, 3]);
        keep(&mut snapshots, 7, 1000, 2200);
        assert_eq!(versions(&snapshots), [3, 7]);
        keep(&mut snapshots, 8, 5000, 2200);
        assert_eq!(versions(&snapshots), [8], "the newest is kept in any case");
    }

    #[test]
    fn nothing_of_a_deleted_device_is_kept() {
        let mut snapshots = Snapshots::default();
        keep(&mut snapshots, 1, 10, 1 << 20);
        for snapshot in snapshots.iter_mut() {
            snapshot.state.take_dirty();
        }
        snapshots.forget(DeviceHandle(1));
        let snapshot = snapshots.get_mut(1).unwrap();
        assert_eq!(snapshot.state.bytes(), 0);
        assert_eq!(snapshot.state.take_dirty().len(), 1, "the checkpoint hears of it");
    }
}
