//! A module as the partition loop finds it: as it is, or with a fresh instance for each callback.

use std::sync::Arc;

use watchfire_model::call::{
    CallFailure, Callback, Context, Cost, FailureKind, Instance, Manifest, Module, Modules, Outcome, Setup,
    Subscription,
};
use watchfire_model::state::Blobs;
use watchfire_model::{Digest, Limits};

/// The one module that there is.
pub(crate) struct OneModule(pub Arc<dyn Module>);

impl OneModule {
    pub fn new(module: &Arc<dyn Module>, fresh: bool) -> Self {
        Self(if fresh { Arc::new(Fresh(module.clone())) } else { module.clone() })
    }
}

impl Modules for OneModule {
    fn get(&self, digest: Digest) -> Result<Arc<dyn Module>, CallFailure> {
        if digest == self.0.digest() {
            return Ok(self.0.clone());
        }
        Err(CallFailure::new(FailureKind::Load, format!("there is no module {digest}")))
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
