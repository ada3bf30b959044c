//! What lay there before the rule was deployed: a module whose one callback stores it.

use watchfire_model::call::{
    CallFailure, Callback, Context, Cost, Effects, FailureKind, Instance, Manifest, Module, Outcome, Setup,
    Subscription,
};
use watchfire_model::state::Blobs;
use watchfire_model::{Digest, Limits};

use crate::case::Kept;

/// The state that an earlier version left.
#[derive(Clone, Debug)]
pub(crate) struct Before {
    pub version: u32,
    pub blobs: Vec<Kept>,
}

/// The earlier version. The loop itself then migrates what it stored, as on a server.
pub(crate) struct BeforeModule {
    manifest: Manifest,
    blobs: Vec<Kept>,
}

impl BeforeModule {
    pub fn new(before: &Before) -> Self {
        let manifest = Manifest {
            name: "before".into(),
            version: "0.0.0".into(),
            description: String::new(),
            parameters: serde_json::Value::Null,
            state_version: before.version,
        };
        Self { manifest, blobs: before.blobs.clone() }
    }

    /// A device that it kept something of.
    pub fn first(&self) -> Option<&str> {
        self.blobs.first().map(|kept| kept.device.as_str())
    }
}

impl Module for BeforeModule {
    fn digest(&self) -> Digest {
        Digest::of(b"what lay there before the rule was deployed")
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn start(&self, _: &Setup) -> Result<(Box<dyn Instance>, Subscription), CallFailure> {
        Ok((Box::new(BeforeInstance(self.blobs.clone())), Subscription::default()))
    }

    fn migrate(&self, _: &Limits, _: u32, _: u32, _: Blobs) -> Result<Blobs, CallFailure> {
        Err(CallFailure::new(FailureKind::Refused, "nothing lies before what lay there before"))
    }
}

struct BeforeInstance(Vec<Kept>);

impl Instance for BeforeInstance {
    fn call(&mut self, _: Callback, context: Context) -> Outcome {
        let mut effects = Effects::default();
        for kept in &self.0 {
            // The case was checked: the device is registered.
            let Some(device) = context.devices.find(&kept.device) else { continue };
            let mut blobs = Blobs::default();
            blobs.push(&kept.bytes);
            effects.stores.push((kept.slot, vec![device], blobs));
        }
        Outcome { state: context.state, result: Ok(effects), messages: Vec::new(), cost: Cost::default() }
    }

    fn memory(&self) -> u64 {
        0
    }
}
