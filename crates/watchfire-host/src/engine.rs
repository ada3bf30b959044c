//! The wasmtime engines, and the thread that makes calls that overrun stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wasmtime::{Config, Engine};

/// Time between two epochs. A call is stopped at most this much after its limit; a shorter tick would wake
/// the processor more often for a bound that nobody needs finer.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Stack of a guest. Twice what the largest of our guests (Python) needs, and a quarter of the two MiB that
/// a thread has by default: host functions below it run on the same stack.
pub(crate) const WASM_STACK: usize = 512 << 10;

/// How code is compiled: fuel has to be counted by the code itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// Stopped by time alone.
    Plain,
    /// Counts its instructions too: 15 to 40 % slower.
    Fuel,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Fuel => "fuel",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Plain, Self::Fuel].into_iter().find(|mode| mode.name() == name)
    }
}

/// One engine for each mode. The one that counts fuel is made when the first rule asks for it.
#[derive(Clone)]
pub(crate) struct Engines {
    plain: Engine,
    fuel: Arc<OnceLock<Engine>>,
}

impl Engines {
    pub(crate) fn new() -> wasmtime::Result<Self> {
        Ok(Self { plain: Engine::new(&config(Mode::Plain))?, fuel: Arc::default() })
    }

    pub(crate) fn get(&self, mode: Mode) -> wasmtime::Result<&Engine> {
        match mode {
            Mode::Plain => Ok(&self.plain),
            Mode::Fuel => {
                if self.fuel.get().is_none() {
                    let engine = Engine::new(&config(Mode::Fuel))?;
                    // Another thread may have been quicker: its engine counts, ours is dropped unused.
                    let _ = self.fuel.set(engine);
                }
                self.fuel.get().ok_or_else(|| wasmtime::Error::msg("no engine"))
            }
        }
    }

    fn tick(&self) {
        self.plain.increment_epoch();
        if let Some(engine) = self.fuel.get() {
            engine.increment_epoch();
        }
    }
}

pub(crate) fn config(mode: Mode) -> Config {
    let mut config = Config::new();
    // Guests are plain functions. With the support for concurrency a call costs four times as much.
    config.concurrency_support(false);
    // A verdict is the same on every machine.
    config.cranelift_nan_canonicalization(true);
    config.relaxed_simd_deterministic(true);
    config.epoch_interruption(true);
    config.consume_fuel(mode == Mode::Fuel);
    config.max_wasm_stack(WASM_STACK);
    // An interpreter's initialised memory is mapped, not copied: 0.6 in place of 6.7 ms for Python.
    config.memory_init_cow(true);
    // Code is compiled by one thread that is paused or of low priority, not by a pool over all cores.
    config.parallel_compilation(false);
    config
}

/// The thread that counts epochs; ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Ticker {
    pub(crate) fn start(engines: Engines) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("rule-epochs".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                engines.tick();
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
