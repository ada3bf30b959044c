//! Modules that were uploaded only to be looked at: a dry run can name them, and nothing else. They are in memory
//! alone, and only for a while.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use watchfire_model::Digest;

use super::ControlPlane;
use crate::contract::ModuleInfo;

/// How long one is held: a dry run follows its upload at once.
const HELD: Duration = Duration::from_secs(600);

/// How many are held: each is compiled code in memory, of the largest runtimes some ten megabytes. A folder of rules
/// that is applied has a few new ones at most.
const MOST: usize = 8;

/// The modules that are held, the oldest first.
pub(super) type Candidates = Vec<(Arc<ModuleInfo>, Instant)>;

impl ControlPlane {
    /// Holds a module for dry runs. What is too old, or one too many, is forgotten by the host as well.
    pub fn add_candidate(&self, info: ModuleInfo) {
        let mut held = self.candidates.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = info.digest;
        held.retain(|(other, _)| other.digest != digest);
        held.push((Arc::new(info), Instant::now()));
        let over = held.len().saturating_sub(MOST);
        let old = held.iter().filter(|(_, since)| since.elapsed() > HELD).count();
        let gone: Vec<_> = held.drain(..over.max(old)).collect();
        drop(held);
        for (info, _) in gone {
            // One that was uploaded for good meanwhile is not there any more.
            if self.module(info.digest).is_none() {
                self.works.remove(info.digest);
            }
        }
    }

    /// A module that is held for dry runs.
    pub(super) fn candidate(&self, digest: Digest) -> Option<Arc<ModuleInfo>> {
        let held = self.candidates.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is too old goes with the next one that comes; until then it only takes room.
        let held = held.iter().find(|(info, since)| info.digest == digest && since.elapsed() <= HELD);
        held.map(|(info, _)| info.clone())
    }

    /// A module is stored: it is no candidate any more, and the host keeps it.
    pub(super) fn stored(&self, digest: Digest) {
        let mut held = self.candidates.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(info, _)| info.digest != digest);
    }
}
