//! A keeper of alerts that remembers what it was told.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use watchfire_model::alert::{AlertChanges, AlertId, AlertKeeper, AlertUpdate};
use watchfire_model::{Transition, TransitionKind};

/// Keeps transitions in memory, each id once, as the store does. Panics where two alerts of one identity
/// would be active at once, or one ends that did not begin: no sequence of events may bring that about.
#[derive(Default)]
pub struct RecordingKeeper {
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Default)]
struct State {
    submitted: u64,
    committed: u64,
    held: bool,
    transitions: Vec<Transition>,
    by_id: BTreeMap<String, usize>,
    repeats: u64,
    active: BTreeMap<(String, String, String), AlertId>,
    updates: BTreeMap<AlertId, AlertUpdate>,
}

impl RecordingKeeper {
    /// A keeper with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All transitions, in order of arrival.
    pub fn transitions(&self) -> Vec<Transition> {
        self.lock().transitions.clone()
    }

    /// How often a transition arrived whose id was there already.
    pub fn repeats(&self) -> u64 {
        self.lock().repeats
    }

    /// The latest update of each alert.
    pub fn updates(&self) -> BTreeMap<AlertId, AlertUpdate> {
        self.lock().updates.clone()
    }

    /// From now on nothing counts as committed, until [`RecordingKeeper::release`].
    pub fn hold(&self) {
        self.lock().held = true;
    }

    /// Everything submitted is committed, and what comes from now on at once.
    pub fn release(&self) {
        let mut state = self.lock();
        state.held = false;
        state.committed = state.submitted;
        self.grown.notify_all();
    }
}

impl AlertKeeper for RecordingKeeper {
    fn submit(&self, changes: AlertChanges) -> u64 {
        let mut guard = self.lock();
        let state = &mut *guard;
        for transition in changes.transitions {
            if let Some(&known) = state.by_id.get(&transition.id) {
                assert_eq!(state.transitions[known], transition, "one id, two transitions");
                state.repeats += 1;
                continue;
            }
            let identity = (transition.rule.clone(), transition.device.id.clone(), transition.key.clone());
            match &transition.kind {
                TransitionKind::Raised => {
                    let before = state.active.insert(identity, transition.alert.clone());
                    assert_eq!(before, None, "raised twice: {transition:?}");
                }
                TransitionKind::Resolved { .. } => {
                    let before = state.active.remove(&identity);
                    assert_eq!(before.as_ref(), Some(&transition.alert), "not raised: {transition:?}");
                }
                _ => assert_eq!(state.active.get(&identity), Some(&transition.alert), "{transition:?}"),
            }
            state.by_id.insert(transition.id.clone(), state.transitions.len());
            state.transitions.push(transition);
        }
        for update in changes.updates {
            state.updates.insert(update.alert.clone(), update);
        }
        if let Some(recovered) = changes.recovered {
            let mine = |alert: &&AlertId| {
                let raise = state.transitions.iter().find(|transition| transition.alert == **alert);
                raise.is_some_and(|raise| raise.position.partition == recovered.partition)
            };
            let mut kept: Vec<_> = state.active.values().filter(mine).cloned().collect();
            let mut machine: Vec<_> = recovered.active.into_iter().map(|told| told.alert).collect();
            kept.sort();
            machine.sort();
            assert_eq!(machine, kept, "what the loop holds as raised, and what was told");
        }
        state.submitted += 1;
        if !state.held {
            state.committed = state.submitted;
        }
        self.grown.notify_all();
        state.submitted
    }

    fn committed(&self) -> u64 {
        self.lock().committed
    }

    fn wait_committed(&self, number: u64, timeout: Duration) -> u64 {
        let (state, _) = self
            .grown
            .wait_timeout_while(self.lock(), timeout, |state| state.committed < number)
            .unwrap_or_else(PoisonError::into_inner);
        state.committed
    }
}
