//! What `watchfire rule test` runs: a rule, through the real host and the very partition loop that a server
//! runs, on a simulated clock. Hours pass in milliseconds, because time is an argument.
//!
//! A [`Case`] is a YAML file: devices, parameters, a time line of readings, and what must come of it. Its
//! shape is described with [`Case`]; `rules/README.md` has the short version. [`run`] plays each case in four
//! ways, since where a log is cut and when an instance is replaced is chance in production:
//!
//! - whole: all readings of one receive time in one record,
//! - row by row: each reading in a record of its own, at the same receive time,
//! - both of them again, with a fresh instance for each callback: what a rule keeps in memory alone is lost.
//!
//! All four must do the same, and it must be what the case expects. The [`Report`] says where they do not.

mod case;
mod compare;
mod file;
mod fresh;
mod play;
mod report;
mod spread;

use std::sync::Arc;

use watchfire_host::{Host, HostError, HostOptions, RefusalError};
use watchfire_model::call::{CallFailure, Module, Modules};

pub use case::Case;
pub use file::CaseError;
pub use report::{CaseReport, Difference, DifferenceKind, LogLine, Report};

/// Nothing was run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The host does not start.
    #[error("the rule host does not start")]
    Host(#[from] HostError),
    /// The component is not taken.
    #[error("the component is no rule")]
    Refused(#[from] RefusalError),
    /// It was taken, and then it was not found.
    #[error("the component cannot be loaded")]
    Load(#[from] CallFailure),
}

/// Runs cases against a component. Compiles it: seconds where it comes from an interpreted language.
pub fn run(component: &[u8], cases: &[Case]) -> Result<Report, RunError> {
    let host = Host::new(HostOptions::default())?;
    let digest = host.add(component)?.digest;
    Ok(run_module(&host.get(digest)?, cases))
}

/// As [`run`], for a module that is loaded already.
pub fn run_module(module: &Arc<dyn Module>, cases: &[Case]) -> Report {
    let manifest = module.manifest();
    Report {
        module: manifest.name.clone(),
        version: manifest.version.clone(),
        digest: module.digest(),
        cases: cases.iter().map(|case| compare::judge(module, case)).collect(),
    }
}
