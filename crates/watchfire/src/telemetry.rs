//! What the engine says of itself: structured log lines, their level changeable while running.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};
use watchfire_api::contract::LogLevel;

use crate::config::{Format, TelemetryConfig};

/// Log lines that are never wanted: rumqttd's spans would halve the speed of its router.
const ALWAYS: &str = "rumqttd=warn";

struct Level {
    handle: reload::Handle<EnvFilter, Registry>,
    text: Mutex<String>,
}

static LEVEL: OnceLock<Arc<Level>> = OnceLock::new();

/// Begins to log to standard error. Only the first call of a process does anything.
pub fn init(config: &TelemetryConfig) {
    let filter = filter(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let begun = match config.format {
        Format::Text => {
            // Colours are for terminals: in a file or a journal they are noise.
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(fmt::layer().with_ansi(colours).with_writer(std::io::stderr)).try_init()
        }
        Format::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
        }
    };
    if begun.is_ok() {
        let _ = LEVEL.set(Arc::new(Level { handle, text: Mutex::new(config.level.clone()) }));
    }
}

/// Whether a text is a filter.
pub fn check(level: &str) -> Result<(), String> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    let text = if level.is_empty() { ALWAYS.to_string() } else { format!("{ALWAYS},{level}") };
    EnvFilter::builder().parse(text).map_err(|error| error.to_string())
}

/// The level of the process, for the API.
pub fn level() -> Arc<dyn LogLevel> {
    match LEVEL.get() {
        Some(level) => level.clone(),
        None => Arc::new(Fixed),
    }
}

impl LogLevel for Level {
    fn get(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, level: &str) -> Result<(), String> {
        self.handle.reload(filter(level)?).map_err(|error| error.to_string())?;
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = level.into();
        tracing::info!(level, "the level of the log changed");
        Ok(())
    }
}

/// Where somebody else holds the subscriber of the process, as tests may.
struct Fixed;

impl LogLevel for Fixed {
    fn get(&self) -> String {
        "off".into()
    }

    fn set(&self, _: &str) -> Result<(), String> {
        Err("this process logs through a subscriber that is not Watchfire's".into())
    }
}
