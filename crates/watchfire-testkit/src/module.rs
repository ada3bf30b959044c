//! Rules in native Rust.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use watchfire_model::call::{
    CallFailure, Callback, Context, Cost, Effects, FailureKind, Instance, Manifest, Message, Module, Modules,
    Outcome, Setup, Subscription,
};
use watchfire_model::rule::Limits;
use watchfire_model::state::Blobs;
use watchfire_model::{Digest, KeyedState};

/// What a callback of a native rule sees: what it is called for, the context, and the log.
pub struct Guest<'a> {
    /// What it is called for.
    pub callback: &'a Callback,
    /// Time, devices, state.
    pub context: &'a Context,
    /// The parameters of the rule.
    pub parameters: &'a serde_json::Value,
    /// Log messages so far.
    pub messages: &'a mut Vec<Message>,
}

impl Guest<'_> {
    /// The state of the rule before the callback.
    pub fn state(&self) -> &KeyedState {
        &self.context.state
    }
}

type Result<T> = std::result::Result<T, CallFailure>;
type Call = dyn FnMut(&mut Guest<'_>) -> Result<Effects> + Send;
type Make = dyn Fn(&serde_json::Value) -> Result<Box<Call>> + Send + Sync;
type Subscribe = dyn Fn(&serde_json::Value) -> Result<Subscription> + Send + Sync;
type Migrate = dyn Fn(u32, u32, Blobs) -> Result<Blobs> + Send + Sync;

/// A module whose callbacks are closures. Each instance gets a closure of its own from `make`, so that
/// what it captures is the memory of that instance.
pub struct NativeModule {
    digest: Digest,
    manifest: Manifest,
    subscribe: Box<Subscribe>,
    make: Arc<Make>,
    migrate: Option<Box<Migrate>>,
}

impl NativeModule {
    /// A module without memory of its own: one closure, called for everything.
    pub fn new(
        name: &str,
        subscription: Subscription,
        call: impl Fn(&mut Guest<'_>) -> Result<Effects> + Send + Sync + Clone + 'static,
    ) -> Self {
        Self::with_instances(
            name,
            move |_| Ok(subscription.clone()),
            move |_| {
                let call = call.clone();
                Ok(Box::new(move |guest: &mut Guest<'_>| call(guest)))
            },
        )
    }

    /// A module that says from its parameters what it wants to be called for, and makes a closure for each
    /// instance.
    pub fn with_instances(
        name: &str,
        subscribe: impl Fn(&serde_json::Value) -> Result<Subscription> + Send + Sync + 'static,
        make: impl Fn(&serde_json::Value) -> Result<Box<Call>> + Send + Sync + 'static,
    ) -> Self {
        let manifest = Manifest {
            name: name.into(),
            version: "1.0.0".into(),
            description: String::new(),
            parameters: serde_json::Value::Null,
            state_version: 0,
        };
        Self {
            digest: Digest::of(name.as_bytes()),
            manifest,
            subscribe: Box::new(subscribe),
            make: Arc::new(make),
            migrate: None,
        }
    }

    /// Keeps state of this version.
    pub fn state_version(mut self, version: u32) -> Self {
        self.manifest.state_version = version;
        self
    }

    /// Takes parameters of this JSON Schema.
    pub fn with_schema(mut self, schema: serde_json::Value) -> Self {
        self.manifest.parameters = schema;
        self
    }

    /// Migrates state by this: (old version, slot, blobs).
    pub fn migrating(
        mut self,
        migrate: impl Fn(u32, u32, Blobs) -> Result<Blobs> + Send + Sync + 'static,
    ) -> Self {
        self.migrate = Some(Box::new(migrate));
        self
    }
}

impl Module for NativeModule {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn start(&self, setup: &Setup) -> Result<(Box<dyn Instance>, Subscription)> {
        let subscription = (self.subscribe)(&setup.parameters)?;
        let call = (self.make)(&setup.parameters)?;
        Ok((
            Box::new(NativeInstance { call, parameters: setup.parameters.clone(), dead: false }),
            subscription,
        ))
    }

    fn migrate(&self, _limits: &Limits, old_version: u32, slot: u32, states: Blobs) -> Result<Blobs> {
        match &self.migrate {
            Some(migrate) => migrate(old_version, slot, states),
            None => Err(CallFailure::new(FailureKind::Refused, "the module does not migrate state")),
        }
    }
}

struct NativeInstance {
    call: Box<Call>,
    parameters: Arc<serde_json::Value>,
    dead: bool,
}

impl Instance for NativeInstance {
    fn call(&mut self, callback: Callback, context: Context) -> Outcome {
        let mut messages = Vec::new();
        let result = if self.dead {
            Err(CallFailure::new(FailureKind::Trapped, "cannot enter component instance"))
        } else {
            let parameters = &self.parameters;
            let mut guest =
                Guest { callback: &callback, context: &context, parameters, messages: &mut messages };
            (self.call)(&mut guest)
        };
        self.dead |= matches!(&result, Err(failure) if failure.kind != FailureKind::Refused);
        Outcome { state: context.state, result, messages, cost: Cost::default() }
    }

    fn memory(&self) -> u64 {
        0
    }
}

/// Native modules by digest.
#[derive(Default)]
pub struct NativeModules(Mutex<HashMap<Digest, Arc<dyn Module>>>);

impl NativeModules {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a module; gives what it is known by.
    pub fn add(&self, module: NativeModule) -> Digest {
        let digest = module.digest;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, Arc::new(module));
        digest
    }

    /// A module is gone.
    pub fn remove(&self, digest: Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
    }
}

impl Modules for NativeModules {
    fn get(&self, digest: Digest) -> Result<Arc<dyn Module>> {
        let modules = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let module = modules.get(&digest).cloned();
        module.ok_or_else(|| CallFailure::new(FailureKind::Load, format!("there is no module {digest}")))
    }
}
