//! `watchfire rule test`: the cases of a rule project, run by [`watchfire_scenario`]; or what a device really said.

mod junit;
mod recorded;
mod watch;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use watchfire_scenario::{Case, CaseError, CaseReport, Report, Rule};

use crate::commands::{ClientError, GlobalOptions, pair};
use crate::project;

/// Which rule, and what it is given.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The project
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// The component; built from the project where it is not given
    #[arg(long)]
    module: Option<PathBuf>,
    /// Write the results as JUnit XML, too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Run again when a source or a case changes, until Ctrl-C
    #[arg(long, conflicts_with = "from_log")]
    watch: bool,
    /// In place of cases: what a device said, out of the log of the server. RANGE is a span until now (`6h`) or
    /// `FROM..TO`, times of when it was received; may be repeated for several devices
    #[arg(long, value_name = "DEVICE,RANGE", conflicts_with = "junit")]
    from_log: Vec<String>,
    /// With --from-log: parameters, selector, condition, limits and pass of this rule on the server
    #[arg(long, value_name = "RULE", requires = "from_log")]
    like: Option<String>,
    /// With --from-log: a parameter; `a.b=1` sets a member of a member
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair, requires = "from_log")]
    set: Vec<(String, String)>,
    /// With --from-log: write the readings and what the rule said as a case, with its readings beside it
    #[arg(long, value_name = "FILE", requires = "from_log")]
    save: Option<PathBuf>,
}

/// Runs every case of `cases/`; an error where one fails or there is none.
pub async fn run(options: Options, global: &GlobalOptions) -> Result<()> {
    let json = global.json;
    if !options.from_log.is_empty() {
        return recorded::run(options, global).await;
    }
    if options.watch {
        return watch::run(options, json).await;
    }
    tokio::task::spawn_blocking(move || once(&options, json)).await.context("the run ended early")?
}

fn component(options: &Options) -> Result<Vec<u8>> {
    match &options.module {
        Some(file) => std::fs::read(file).with_context(|| format!("{} cannot be read", file.display())),
        None => project::component(&options.folder),
    }
}

/// Builds and runs once, and says what came of it.
fn once(options: &Options, json: bool) -> Result<()> {
    let component = component(options)?;
    let (cases, unreadable) = cases(&options.folder.join("cases"))?;
    let mut report = Rule::load(&component)?.run(&cases);
    report.cases.extend(unreadable.iter().map(CaseReport::unreadable));
    report.cases.sort_by(|one, other| one.file.cmp(&other.file));
    if let Some(file) = &options.junit {
        std::fs::write(file, junit::document(&report, &project_name(options, &report)))
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    if !report.passed() {
        bail!("{} of {} cases failed", report.failed(), report.cases.len());
    }
    Ok(())
}

/// The cases of a folder, and the files that are none: the mistake in one does not keep the others from being run.
fn cases(folder: &Path) -> Result<(Vec<Case>, Vec<CaseError>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .with_context(|| format!("{} cannot be read", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml" || kind == "yml"))
        .collect();
    files.sort();
    if files.is_empty() {
        bail!("{} has no cases (*.yaml)", folder.display());
    }
    let (mut cases, mut unreadable) = (Vec::new(), Vec::new());
    for file in &files {
        match Case::read(file) {
            Ok(case) => cases.push(case),
            Err(error) => unreadable.push(error),
        }
    }
    Ok((cases, unreadable))
}

/// What a project is called: as its folder is; of one that has no name, as its module is.
fn project_name(options: &Options, report: &Report) -> String {
    let folder = options.folder.canonicalize().ok();
    let name = folder.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| report.module.clone())
}

fn usage(what: String) -> anyhow::Error {
    ClientError::Usage(what).into()
}
