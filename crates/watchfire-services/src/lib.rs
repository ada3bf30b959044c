//! Real servers for tests, each in a folder of its own on free ports of the loopback address.
//!
//! ```no_run
//! # use watchfire_services::{Postgres, or_skip};
//! let Some(mut postgres) = or_skip("sink-writes-rows", Postgres::start()) else { return };
//! // ... use postgres.url() ...
//! postgres.kill();              // as kill -9, or a power cut
//! postgres.restart().unwrap();  // same port, same data
//! ```
//!
//! A server stops when its value is dropped. One that takes long to start (Kafka: 4 to 8 s) is shared by the tests of a
//! binary; statics are never dropped, but every server also ends, and its folder goes, when the process that started
//! it ends, however that happens:
//!
//! ```no_run
//! # use std::sync::OnceLock;
//! # use watchfire_services::{Failure, Kafka, or_skip};
//! fn kafka(test: &str) -> Option<&'static Kafka> {
//!     static SHARED: OnceLock<Result<Kafka, Failure>> = OnceLock::new();
//!     or_skip(test, SHARED.get_or_init(Kafka::start).as_ref().map_err(Clone::clone))
//! }
//! ```
//!
//! Tests that share one use topics or databases with names of their own. Tests that kill start one for themselves.
//!
//! The servers come from packages: [`provide`] says which, and `cargo xtask test` brings them. What a machine cannot have
//! is [`Failure::Missing`], by which tests skip visibly.

mod alertmanager;
mod kafka;
mod karma;
mod mosquitto;
mod postgres;
mod process;
mod prometheus;
pub mod provide;
mod timescale;
pub mod wire;

use std::io::Write as _;
use std::path::{Path, PathBuf};

pub use alertmanager::{Alertmanager, alertmanager_schema, amtool};
pub use kafka::{Kafka, Secured};
pub use karma::Karma;
pub use mosquitto::Mosquitto;
pub use postgres::Postgres;
pub use prometheus::Prometheus;
pub use timescale::Timescale;

/// A server could not be started.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Failure {
    /// This machine does not have it. A test skips.
    #[error("{0}")]
    Missing(String),
    /// It is there and does not run. A test fails.
    #[error("{0}")]
    Broken(String),
}

impl Failure {
    pub(crate) fn broken(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Broken(format!("{what}: {error}"))
    }
}

/// Says visibly that a test is skipped, and why. `cargo xtask test` counts it; where CI=true it makes the run fail.
///
/// Tests that lack the same may share a name: each adds a line to the file of that name.
pub fn skip(name: &str, why: &str) {
    println!("SKIPPED {name}: {why}");
    if let Some(folder) = std::env::var_os("WATCHFIRE_SKIPS") {
        let file = std::fs::File::options().create(true).append(true).open(Path::new(&folder).join(name));
        // In one piece: other tests append meanwhile.
        let _ = file.and_then(|mut file| file.write_all(format!("{}\n", why.replace('\n', " ")).as_bytes()));
    }
}

/// What was started; `None`, and a visible skip of this test, where the machine does not have it.
///
/// # Panics
/// Where it is there and does not run: that is no reason to skip.
pub fn or_skip<T>(test: &str, started: Result<T, Failure>) -> Option<T> {
    match started {
        Ok(started) => Some(started),
        Err(Failure::Missing(why)) => {
            skip(test, &why);
            None
        }
        Err(Failure::Broken(why)) => panic!("{why}"),
    }
}

/// Where downloads lie: `WATCHFIRE_SERVICES`, as `cargo xtask` sets it, or else beside what cargo builds.
pub fn cache() -> PathBuf {
    if let Some(folder) = std::env::var_os("WATCHFIRE_SERVICES") {
        return folder.into();
    }
    // A test lies in target/PROFILE/deps.
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().nth(3).unwrap_or(Path::new("target")).join("services")
}
