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

mod before;
mod blob;
mod case;
mod compare;
mod file;
mod fresh;
mod measure;
mod play;
mod recording;
mod report;
mod series;
mod spread;
mod timeline;
mod told;
mod words;

use std::sync::Arc;

use watchfire_host::{Host, HostError, HostOptions, ModuleReport, RefusalError};
use watchfire_model::call::{CallFailure, Module, Modules};

pub use case::Case;
pub use file::CaseError;
pub use measure::Cost;
pub use recording::{Recorded, Recording, RecordingError};
pub use report::{CaseReport, Difference, DifferenceKind, LogLine, Report};
pub use told::{Deployed, Told, ToldChange};

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

/// A component that is loaded.
pub struct Rule {
    /// What is known of it.
    pub report: ModuleReport,
    module: Arc<dyn Module>,
    // Code that counts fuel is compiled when it is asked for.
    _host: Host,
}

impl Rule {
    /// Loads a component. Compiles it: seconds where it comes from an interpreted language.
    pub fn load(component: &[u8]) -> Result<Self, RunError> {
        let host = Host::new(HostOptions::default())?;
        let report = host.add(component)?;
        let module = host.get(report.digest)?;
        Ok(Self { report, module, _host: host })
    }

    /// Runs cases.
    pub fn run(&self, cases: &[Case]) -> Report {
        run_module(&self.module, cases)
    }

    /// Plays a case that expects nothing, and tells what the rule says.
    pub fn tell(&self, case: &Case) -> Told {
        told::tell(&self.module, case)
    }

    /// Measures what a call costs with these parameters; takes seconds. An error is what the rule, or the schema of its
    /// parameters, objects to.
    pub fn measure(&self, parameters: &serde_json::Value) -> Result<Cost, String> {
        let parameters = play::validated(&*self.module, parameters)?;
        measure::measure(&*self.module, parameters).map_err(|failure| failure.message)
    }
}

/// Runs cases against a component. Compiles it: seconds where it comes from an interpreted language.
pub fn run(component: &[u8], cases: &[Case]) -> Result<Report, RunError> {
    Ok(Rule::load(component)?.run(cases))
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
