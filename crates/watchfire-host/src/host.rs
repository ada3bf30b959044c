//! The host: takes modules, keeps them compiled, and gives them to the partition loop.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use watchfire_model::call::{CallFailure, FailureKind, Manifest, Module, Modules, Setup};
use watchfire_model::{Digest, Limits};

use crate::cache::Cache;
use crate::check::{Inspection, RefusalError, inspect};
use crate::compile::{Compiled, Compiler, Pending};
use crate::engine::{Engines, Mode, Ticker};
use crate::module::LoadedModule;

/// The host could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The settings do not fit this machine.
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
    /// The folder of compiled code.
    #[error("the folder {} for compiled rules cannot be used", .folder.display())]
    Cache {
        /// Which one.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A thread.
    #[error("a thread of the rule host does not start")]
    Thread(#[source] std::io::Error),
}

/// Where the bytes of a module are found again, after a restart or when it is compiled for fuel too.
pub trait ModuleBytes: Send + Sync {
    /// The bytes; `None`: there is no such module. The error is a text for the operator.
    fn bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, String>;
}

/// What a host is made with.
#[derive(Clone)]
pub struct HostOptions {
    /// Where compiled code is kept, private to this user; `None`: nowhere.
    pub cache_folder: Option<PathBuf>,
    /// Where the bytes of modules are; `None`: the host keeps those that were added, in memory.
    pub bytes: Option<Arc<dyn ModuleBytes>>,
    /// Modules compiled at the same time. Default 1: a deploy may wait for some seconds, a partition should not.
    pub compile_threads: usize,
    /// The program that compiles them in a process of its own, see [`crate::this_program`]; `None`: a thread of low
    /// priority does, which on a busy machine delays everything else.
    pub compiler: Option<PathBuf>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { cache_folder: None, bytes: None, compile_threads: 1, compiler: None }
    }
}

/// What is known of a module once it was added: what `POST /modules` answers.
#[derive(Clone, Debug, Serialize)]
pub struct ModuleReport {
    /// What it is known by.
    pub digest: Digest,
    /// Its name, by its author.
    pub name: String,
    /// Its version, by its author.
    pub version: String,
    /// Languages it was written in; empty: it does not say.
    pub language: String,
    /// Bytes.
    pub size: u64,
    /// Functions of the contract that it imports: its capabilities.
    pub imports: Vec<String>,
    /// Interfaces of the contract that it exports.
    pub exports: Vec<String>,
    /// Metrics that it subscribes to with its default parameters; empty: all, or it depends.
    pub metrics: Vec<String>,
    /// JSON Schema of its parameters; `null`: takes none.
    pub parameters: serde_json::Value,
    /// All that it says of itself.
    pub manifest: Manifest,
}

/// Takes modules, compiles them, and makes instances. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    compiler: Compiler,
    bytes: Option<Arc<dyn ModuleBytes>>,
    /// Where there is no [`ModuleBytes`].
    kept: Mutex<HashMap<Digest, Arc<[u8]>>>,
    loaded: Mutex<HashMap<Digest, Arc<LoadedModule>>>,
    /// Shared with modules and instances: calls are stopped as long as there is one that could run.
    pub(crate) ticker: Arc<Ticker>,
}

impl Host {
    /// A host without modules.
    pub fn new(options: HostOptions) -> Result<Self, HostError> {
        let engines = Engines::new().map_err(|error| HostError::Engine(format!("{error:#}")))?;
        let cache = options
            .cache_folder
            .map(|folder| Cache::open(&folder).map_err(|source| HostError::Cache { folder, source }))
            .transpose()?;
        let ticker = Ticker::start(engines.clone()).map_err(HostError::Thread)?;
        let compiler = Compiler::start(engines, cache, options.compiler, options.compile_threads)
            .map_err(HostError::Thread)?;
        let inner = Inner {
            compiler,
            bytes: options.bytes,
            kept: Mutex::default(),
            loaded: Mutex::default(),
            ticker: Arc::new(ticker),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes a module: inspects it, compiles it in the background, asks it what it is. Blocks until that is
    /// done, seconds for a module of an interpreted language: not for an async thread.
    pub fn add(&self, bytes: &[u8]) -> Result<ModuleReport, RefusalError> {
        let inspection = inspect(bytes)?;
        let digest = Digest::of(bytes);
        let shared: Arc<[u8]> = bytes.into();
        if self.inner.bytes.is_none() {
            lock(&self.inner.kept).insert(digest, shared.clone());
        }
        let compiled = self.inner.compiler.request(digest, Mode::Plain, || Ok(shared))?.get();
        let module = compiled.and_then(|compiled| self.inner.load(digest, compiled));
        match module {
            Ok(module) => Ok(report(&module, inspection, bytes.len())),
            Err(error) => {
                lock(&self.inner.kept).remove(&digest);
                Err(error)
            }
        }
    }

    /// As [`Host::add`], for a module that may not be kept: the caller removes what it does not want.
    pub fn check(&self, bytes: &[u8]) -> Result<ModuleReport, RefusalError> {
        self.add(bytes)
    }

    /// Begins to compile a module and answers at once; refuses what [`inspect`] refuses.
    pub fn compile(&self, bytes: Arc<[u8]>) -> Result<Pending, RefusalError> {
        inspect(&bytes)?;
        let digest = Digest::of(&bytes);
        if self.inner.bytes.is_none() {
            lock(&self.inner.kept).insert(digest, bytes.clone());
        }
        self.inner.compiler.request(digest, Mode::Plain, || Ok(bytes))
    }

    /// Makes sure that a rule of this module can be started within these limits without waiting: compiles
    /// it, and where fuel is counted, compiles it for that. Blocks. To be called before the record that
    /// activates the rule is appended.
    pub fn prepare(&self, digest: Digest, limits: &Limits) -> Result<(), RefusalError> {
        self.inner.module(digest)?;
        if limits.fuel.is_some() {
            self.inner.compiled(digest, Mode::Fuel)?;
        }
        Ok(())
    }

    /// Checks parameters by starting an instance that is thrown away: what `start` objects to is the answer.
    pub fn try_start(&self, digest: Digest, setup: &Setup) -> Result<(), CallFailure> {
        self.get(digest)?.start(setup).map(drop)
    }

    /// Forgets a module that no rule uses any more, and its compiled code.
    pub fn remove(&self, digest: Digest) {
        lock(&self.inner.loaded).remove(&digest);
        lock(&self.inner.kept).remove(&digest);
        self.inner.compiler.remove(digest);
    }
}

impl Modules for Host {
    fn get(&self, digest: Digest) -> Result<Arc<dyn Module>, CallFailure> {
        match self.inner.module(digest) {
            Ok(module) => Ok(module),
            Err(error) => Err(CallFailure::new(FailureKind::Load, format!("module {digest}: {error}"))),
        }
    }
}

impl Inner {
    /// The module, from memory, from the cache, or compiled anew.
    fn module(self: &Arc<Self>, digest: Digest) -> Result<Arc<LoadedModule>, RefusalError> {
        if let Some(module) = lock(&self.loaded).get(&digest) {
            return Ok(module.clone());
        }
        let compiled = self.compiled(digest, Mode::Plain)?;
        self.load(digest, compiled)
    }

    /// The code of the module; blocks while it is being compiled.
    pub(crate) fn compiled(&self, digest: Digest, mode: Mode) -> Result<Arc<Compiled>, RefusalError> {
        self.compiler.request(digest, mode, || self.read(digest))?.get()
    }

    fn read(&self, digest: Digest) -> Result<Arc<[u8]>, RefusalError> {
        let bytes: Arc<[u8]> = match &self.bytes {
            Some(source) => source
                .bytes(digest)
                .map_err(RefusalError::Unreadable)?
                .ok_or(RefusalError::Unknown(digest))?
                .into(),
            None => lock(&self.kept).get(&digest).cloned().ok_or(RefusalError::Unknown(digest))?,
        };
        if Digest::of(&bytes) != digest {
            return Err(RefusalError::Unreadable(format!("its bytes are not those of {digest}")));
        }
        inspect(&bytes)?;
        Ok(bytes)
    }

    fn load(
        self: &Arc<Self>,
        digest: Digest,
        compiled: Arc<Compiled>,
    ) -> Result<Arc<LoadedModule>, RefusalError> {
        let module = Arc::new(LoadedModule::describe(Arc::downgrade(self), digest, compiled)?);
        Ok(lock(&self.loaded).entry(digest).or_insert(module).clone())
    }
}

fn report(module: &LoadedModule, inspection: Inspection, size: usize) -> ModuleReport {
    let manifest = module.manifest();
    ModuleReport {
        digest: module.digest(),
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        language: inspection.language,
        size: size as u64,
        imports: inspection.imports,
        exports: inspection.exports,
        metrics: default_metrics(module).unwrap_or_default(),
        parameters: manifest.parameters.clone(),
        manifest: manifest.clone(),
    }
}

/// What the module subscribes to when no parameter is given, where it starts like that.
fn default_metrics(module: &LoadedModule) -> Option<Vec<String>> {
    let parameters = crate::parameters::validate(module.manifest(), &serde_json::Value::Null).ok()?;
    let setup = Setup {
        rule: module.manifest().name.clone(),
        parameters: Arc::new(parameters),
        limits: Limits::default(),
        replay: false,
    };
    Some(module.start(&setup).ok()?.1.metrics)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
