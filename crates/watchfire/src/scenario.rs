//! `watchfire rule test`: the cases of a rule project, run by [`watchfire_scenario`].

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use watchfire_scenario::{Case, run as run_cases};

use crate::project;

/// Which rule.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The project
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// The component; built from the project where it is not given
    #[arg(long)]
    module: Option<PathBuf>,
}

/// Runs every case of `cases/`; an error where one fails or there is none. `json`: for programs.
pub fn run(options: Options, json: bool) -> Result<()> {
    let component = match &options.module {
        Some(file) => std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?,
        None => project::component(&options.folder)?,
    };
    let folder = options.folder.join("cases");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .with_context(|| format!("{} cannot be read", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml" || kind == "yml"))
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in &files {
        // Written down before the runner can express it.
        if file.to_string_lossy().contains(".pending.") {
            eprintln!("{} is passed over: it is pending", file.display());
            continue;
        }
        let text =
            std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        cases.push(Case::from_yaml(&text, &file.display().to_string())?);
    }
    if cases.is_empty() {
        bail!("{} has no cases (*.yaml)", folder.display());
    }
    let report = run_cases(&component, &cases)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    if !report.passed() {
        bail!("{} of {} cases failed", report.failed(), cases.len());
    }
    Ok(())
}
