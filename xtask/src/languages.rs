//! The SDKs of all languages: their own tests, their samples, and the conformance suite.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::run::{Workspace, run};

/// A language: the folder of its SDK, what must be on the path, and how the SDK's own tests are run there. Those of Rust
/// are among the other workspaces.
struct Language {
    name: &'static str,
    needs: &'static str,
    tests: &'static [&'static str],
}

const LANGUAGES: &[Language] = &[
    Language { name: "rust", needs: "cargo", tests: &[] },
    Language { name: "python", needs: "python3", tests: &["python3", "-m", "unittest", "-q"] },
    Language { name: "javascript", needs: "node", tests: &["node", "--test", "--test-reporter=dot"] },
    Language { name: "go", needs: "go", tests: &["go", "test", "./..."] },
    Language { name: "c", needs: "python3", tests: &["make", "-s", "-C", "tests"] },
];

impl Language {
    /// Whether its tools are on the path.
    fn is_there(&self) -> bool {
        let mut tool = Command::new(self.needs);
        tool.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    }
}

/// Builds the guests of the bench, a component for each language; gives the folder that they are in. A language whose tools
/// are not there is left out, and said so.
pub fn guests(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.languages().join("guests");
    for language in LANGUAGES {
        if !language.is_there() {
            println!("NOT THERE: {}: the guests in {} are left out", language.needs, language.name);
            // One of an earlier run is not what is to be measured.
            let _ = std::fs::remove_file(folder.join(format!("{}.wasm", language.name)));
            continue;
        }
        let project = workspace.root.join("tests/bench/guests").join(language.name);
        let mut build = command(workspace);
        run(build.args(["rule", "build"]).arg(project).arg("--output").arg(&folder))?;
    }
    Ok(folder)
}

/// Tests all of them. A language whose tools are not there is skipped, and `skips` gets a file that says so. Gives how many
/// components passed their cases.
pub fn run_all(workspace: &Workspace, skips: &Path) -> Result<usize> {
    let mut passed = 0;
    for language in LANGUAGES {
        let sdk = workspace.root.join("guest-sdk").join(language.name);
        if !sdk.is_dir() {
            continue;
        }
        if !language.is_there() {
            let why = format!("there is no {}: the SDK of {} is not tested\n", language.needs, language.name);
            std::fs::write(skips.join(format!("language-{}", language.name)), why)?;
            continue;
        }
        if let Some((program, arguments)) = language.tests.split_first() {
            run(Command::new(program).args(arguments).current_dir(&sdk).env("PYTHONDONTWRITEBYTECODE", "1"))?;
        }
        let mut samples: Vec<_> = std::fs::read_dir(sdk.join("samples"))
            .with_context(|| format!("the samples of {}", language.name))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        samples.sort();
        let suite = workspace.root.join("tests/conformance");
        let conformance = (suite.join(language.name), suite);
        let projects = samples.into_iter().map(|sample| (sample.clone(), sample)).chain([conformance]);
        for (project, cases) in projects {
            let output = workspace.languages().join("built").join(language.name);
            let mut build = command(workspace);
            run(build.args(["rule", "build"]).arg(&project).arg("--output").arg(&output))?;
            let name = match language.name {
                // The name of its package; of the others that of the folder.
                "rust" if project != cases => "conformance".into(),
                _ => project.file_name().context("a project has a name")?.to_string_lossy().into_owned(),
            };
            let mut test = command(workspace);
            test.args(["rule", "test"]).arg(&cases).arg("--module").arg(output.join(format!("{name}.wasm")));
            run(&mut test)?;
            passed += 1;
        }
    }
    Ok(passed)
}

/// The binary, with what it fetches in the target folder, where the SDK in Rust is compiled once for all.
fn command(workspace: &Workspace) -> Command {
    let mut command = Command::new(workspace.binary("watchfire"));
    command.env("WATCHFIRE_CACHE", workspace.languages());
    command.env("CARGO_TARGET_DIR", workspace.languages().join("target"));
    command
}
