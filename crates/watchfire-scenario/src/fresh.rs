//! A module as the partition loop finds it: as it is, or with a fresh instance for each callback.

use std::sync::Arc;

use watchfire_model::call::{
    CallFailure, Callback, Context, Cost, FailureKind, Instance, Manifest, Module, Modules, Outcome, Setup,
    Subscription,
};
use watchfire_model::state::Blobs;
use watchfire_model::{Digest, Limits};

/// The modules of a case: the rule, and what left the state that was there before it.
pub(crate) struct CaseModules(Vec<Arc<dyn Module>>);

impl CaseModules {
    pub fn new(module: &Arc<dyn Module>, fresh: bool, before: Option<Arc<dyn Module>>) -> Self {
        let rule = if fresh { Arc::new(Fresh(module.clone())) } else { module.clone() };
        Self(std::iter::once(rule).chain(before).collect())
    }
}

impl Modules for CaseModules {
    fn get(&self, digest: Digest) -> Result<Arc<dyn Module>, CallFailure> {
        let module = self.0.iter().find(|module| module.digest() == digest).cloned();
        module.ok_or_else(|| CallFailure::new(FailureKind::Load, format!("there is no module {digest}")))
    }
}

/// Calls each callback in an instance of its own. A checkpoint mark in the log would replace instances too,
/// but only between records, and one record can be several callbacks.
struct Fresh(Arc<dyn Module>);

impl Module for Fresh {
    fn digest(&self) -> Digest {
        self.0.digest()
    }

    fn manifest(&self) -> &Manifest {
        self.0.manifest()
    }

    fn start(&self, setup: &Setup) -> Result<(Box<dyn Instance>, Subscription), CallFailure> {
        let (first, subscription) = self.0.start(setup)?;
        let instance =
            FreshInstance { module: self.0.clone(), setup: setup.clone(), first: Some(first), memory: 0 };
        Ok((Box::new(instance), subscription))
    }

    fn migrate(&self, limits: &Limits, old: u32, slot: u32, states: Blobs) -> Result<Blobs, CallFailure> {
        self.0.migrate(limits, old, slot, states)
    }
}

struct FreshInstance {
    module: Arc<dyn Module>,
    setup: Setup,
    first: Option<Box<dyn Instance>>,
    memory: u64,
}

impl Instance for FreshInstance {
    fn call(&mut self, callback: Callback, context: Context) -> Outcome {
        let instance = match self.first.take() {
            Some(first) => Ok(first),
            None => self.module.start(&self.setup).map(|(instance, _)| instance),
        };
        match instance {
            Ok(mut instance) => {
                let outcome = instance.call(callback, context);
                self.memory = instance.memory();
                outcome
            }
            Err(failure) => Outcome {
                state: context.state,
                result: Err(failure),
                messages: Vec::new(),
                cost: Cost::default(),
            },
        }
    }

    fn memory(&self) -> u64 {
        self.memory
    }
}
