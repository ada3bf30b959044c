//! Compiling in the background: a few at a time, each module once however many ask.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use wasmtime::component::{Component, InstancePre, Linker};
use watchfire_model::Digest;
use watchfire_telemetry::metrics;

use crate::apart::{self, ApartError};
use crate::bindings::{handler, schedule_handler, silence_handler, state_migration, timer_handler};
use crate::cache::Cache;
use crate::check::RefusalError;
use crate::data::Data;
use crate::engine::{Engines, Mode};

/// Modules that may wait for a compiler. A fleet has some dozens of modules; beyond that somebody uploads in
/// a loop and is told to wait.
const QUEUE: usize = 256;

/// A module ready to be instantiated, with the places of its exports looked up.
pub(crate) struct Compiled {
    pub(crate) pre: InstancePre<Data>,
    pub(crate) handler: handler::GuestIndices,
    pub(crate) timers: Option<timer_handler::GuestIndices>,
    pub(crate) silence: Option<silence_handler::GuestIndices>,
    pub(crate) schedules: Option<schedule_handler::GuestIndices>,
    pub(crate) migration: Option<state_migration::GuestIndices>,
}

impl Compiled {
    fn link(component: &Component) -> Result<Self, String> {
        let text = |error: wasmtime::Error| format!("{error:#}");
        let mut linker = Linker::new(component.engine());
        crate::imports::link(&mut linker).map_err(text)?;
        let pre = linker.instantiate_pre(component).map_err(text)?;
        Ok(Self {
            handler: handler::GuestIndices::new(&pre).map_err(text)?,
            timers: timer_handler::GuestIndices::new(&pre).ok(),
            silence: silence_handler::GuestIndices::new(&pre).ok(),
            schedules: schedule_handler::GuestIndices::new(&pre).ok(),
            migration: state_migration::GuestIndices::new(&pre).ok(),
            pre,
        })
    }
}

/// A module that is being compiled, or was.
#[derive(Clone)]
pub struct Pending {
    slot: Arc<Slot>,
}

impl Pending {
    /// Whether [`Pending::wait`] would answer at once.
    pub fn is_done(&self) -> bool {
        lock(&self.slot.result).is_some()
    }

    /// Blocks until the module is compiled.
    pub fn wait(&self) -> Result<(), RefusalError> {
        self.get().map(drop)
    }

    pub(crate) fn get(&self) -> Result<Arc<Compiled>, RefusalError> {
        let mut result = lock(&self.slot.result);
        loop {
            match &*result {
                Some(Ok(compiled)) => return Ok(compiled.clone()),
                Some(Err(Failure::Compile(text))) => return Err(RefusalError::Compile(text.clone())),
                Some(Err(Failure::Busy)) => return Err(RefusalError::Busy(QUEUE)),
                None => result = self.slot.done.wait(result).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

#[derive(Default)]
struct Slot {
    result: Mutex<Option<Result<Arc<Compiled>, Failure>>>,
    done: Condvar,
}

#[derive(Clone)]
enum Failure {
    Compile(String),
    Busy,
}

impl Slot {
    fn finish(&self, result: Result<Arc<Compiled>, Failure>) {
        *lock(&self.result) = Some(result);
        self.done.notify_all();
    }
}

struct Job {
    digest: Digest,
    mode: Mode,
    bytes: Arc<[u8]>,
    slot: Arc<Slot>,
}

/// Everything that was compiled or is being compiled.
pub(crate) struct Compiler {
    shared: Arc<Shared>,
    jobs: SyncSender<Job>,
}

struct Shared {
    engines: Engines,
    cache: Option<Cache>,
    /// Compiles in a process of its own; without it, that is done on the thread itself.
    program: Option<PathBuf>,
    slots: Mutex<HashMap<(Digest, Mode), Arc<Slot>>>,
}

impl Compiler {
    pub(crate) fn start(
        engines: Engines,
        cache: Option<Cache>,
        program: Option<PathBuf>,
        threads: usize,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(QUEUE);
        let shared = Arc::new(Shared { engines, cache, program, slots: Mutex::default() });
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads.max(1) {
            let (shared, queue) = (shared.clone(), queue.clone());
            std::thread::Builder::new()
                .name("rule-compiler".into())
                .stack_size(apart::STACK)
                .spawn(move || work(&shared, &queue))?;
        }
        Ok(Self { shared, jobs })
    }

    /// The compiled module: in memory, from the cache, or asked of the compiler threads. `bytes` is called
    /// only where it has to be compiled.
    pub(crate) fn request(
        &self,
        digest: Digest,
        mode: Mode,
        bytes: impl FnOnce() -> Result<Arc<[u8]>, RefusalError>,
    ) -> Result<Pending, RefusalError> {
        let key = (digest, mode);
        let slot = {
            let mut slots = lock(&self.shared.slots);
            if let Some(slot) = slots.get(&key) {
                return Ok(Pending { slot: slot.clone() });
            }
            let slot = Arc::new(Slot::default());
            slots.insert(key, slot.clone());
            slot
        };
        // From here on others wait for this slot: it must be finished on every path.
        if let Some(compiled) = self.shared.cached(digest, mode) {
            slot.finish(Ok(Arc::new(compiled)));
            return Ok(Pending { slot });
        }
        let bytes = match bytes() {
            Ok(bytes) => bytes,
            Err(error) => {
                self.shared.fail(key, &slot, Failure::Compile(error.to_string()));
                return Err(error);
            }
        };
        let job = Job { digest, mode, bytes, slot: slot.clone() };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.jobs.try_send(job) {
            self.shared.fail(key, &slot, Failure::Busy);
            return Err(RefusalError::Busy(QUEUE));
        }
        Ok(Pending { slot })
    }

    /// Forgets a module.
    pub(crate) fn remove(&self, digest: Digest) {
        lock(&self.shared.slots).retain(|(other, _), _| *other != digest);
        if let Some(cache) = &self.shared.cache {
            cache.remove(digest);
        }
    }
}

impl Shared {
    fn cached(&self, digest: Digest, mode: Mode) -> Option<Compiled> {
        let engine = self.engines.get(mode).ok()?;
        let component = self.cache.as_ref()?.load(engine, mode, digest)?;
        let compiled = Compiled::link(&component).ok()?;
        metrics().rules.module_cache_hits.inc();
        Some(compiled)
    }

    /// A failure is told to those who wait and then forgotten: the next one who asks tries again.
    fn fail(&self, key: (Digest, Mode), slot: &Slot, failure: Failure) {
        lock(&self.slots).remove(&key);
        slot.finish(Err(failure));
    }

    fn compile(&self, job: &Job) -> Result<Compiled, String> {
        let begun = Instant::now();
        let text = |error: wasmtime::Error| format!("{error:#}");
        let engine = self.engines.get(job.mode).map_err(text)?;
        let apart = self.program.as_deref().map(|program| apart::compile(program, job.mode, &job.bytes));
        let apart = match apart {
            Some(Ok(code)) => Some(code),
            Some(Err(ApartError::Refused(text))) => return Err(text),
            Some(Err(ApartError::NotRun(error))) => {
                tracing::warn!(module = %job.digest, %error, "compiling here: no process for it can be started");
                None
            }
            None => None,
        };
        let is_apart = apart.is_some();
        let code = match apart {
            Some(code) => code,
            None => {
                crate::thread::lower_priority();
                engine.precompile_component(&job.bytes).map_err(text)?
            }
        };
        // SAFETY: it comes from the compiler, here or in a process of this program that is ours.
        #[allow(unsafe_code)]
        let component = unsafe { crate::cache::component(engine, &code) }?;
        let compiled = Compiled::link(&component)?;
        if let Some(cache) = &self.cache {
            cache.store(engine, job.mode, job.digest, &code);
        }
        let seconds = begun.elapsed().as_secs_f64();
        metrics().rules.modules_compiled.inc();
        metrics().rules.module_compile_seconds.inc_by(seconds);
        tracing::info!(module = %job.digest, mode = job.mode.name(), seconds, apart = is_apart, "compiled");
        Ok(compiled)
    }
}

fn work(shared: &Shared, queue: &Mutex<Receiver<Job>>) {
    loop {
        // Ends when the host is dropped: it holds the only sender.
        let Ok(job) = lock(queue).recv() else { return };
        // The bytes come from outside. A bug of the compiler that they meet costs this module, nothing else.
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| shared.compile(&job)))
            .unwrap_or_else(|_| Err(apart::FAILED.into()));
        match result {
            Ok(compiled) => job.slot.finish(Ok(Arc::new(compiled))),
            Err(text) => shared.fail((job.digest, job.mode), &job.slot, Failure::Compile(text)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
