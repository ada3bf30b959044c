//! The SDKs of all languages: their own tests, their samples, and the conformance suite; and the shipped rules that are
//! written in other languages than Rust.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::run::{Workspace, run};

/// A language: the folder of its SDK, the file that a project has, what must be on the path, and how the SDK's own tests
/// are run there. Those of Rust are among the other workspaces.
struct Language {
    name: &'static str,
    file: &'static str,
    needs: &'static str,
    tests: &'static [&'static str],
}

const LANGUAGES: &[Language] = &[
    Language { name: "rust", file: "Cargo.toml", needs: "cargo", tests: &[] },
    Language {
        name: "python",
        file: "rule.py",
        needs: "python3",
        tests: &["python3", "-m", "unittest", "-q"],
    },
    Language {
        name: "javascript",
        file: "package.json",
        needs: "node",
        tests: &["node", "--test", "--test-reporter=dot"],
    },
    Language { name: "go", file: "go.mod", needs: "go", tests: &["go", "test", "./..."] },
    Language { name: "c", file: "rule.c", needs: "python3", tests: &["make", "-s", "-C", "tests"] },
];

impl Language {
    /// Whether its tool is on this machine.
    fn is_there(&self) -> bool {
        let mut tool = Command::new(self.needs);
        // `go` has no --version, and starts all the same.
        tool.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    }

    /// The shipped rules that are written in it: their folders. Those in Rust are a workspace.
    fn shipped(&self, workspace: &Workspace) -> Result<Vec<PathBuf>> {
        if self.name == "rust" {
            return Ok(Vec::new());
        }
        let rules = std::fs::read_dir(workspace.root.join("rules")).context("the shipped rules")?;
        let mut folders: Vec<_> = rules
            .flatten()
            .map(|entry| entry.path())
            .filter(|folder| folder.join(self.file).is_file())
            .collect();
        folders.sort();
        Ok(folders)
    }
}

/// Whether rules that are deployed with a recording have a module of another language than Rust.
pub fn are_named_beside(workspace: &Workspace, recording: &Path) -> Result<bool> {
    let deployed = recording.parent().unwrap_or(Path::new("")).join("deploy");
    let files: Vec<_> =
        std::fs::read_dir(&deployed).map(|entries| entries.flatten().collect()).unwrap_or_default();
    let texts: Vec<String> =
        files.into_iter().filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect();
    for language in LANGUAGES {
        for rule in language.shipped(workspace)? {
            let module = format!("module = \"{}\"", name_of(&rule)?);
            if texts.iter().any(|text| text.lines().any(|line| line.trim() == module)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Builds the shipped rules that are written in other languages than Rust, into a folder of their own: an engine compiles all
/// that it finds at its first start, and one in Python takes as long as all in Rust together. What cannot be built on this
/// machine is left out.
pub fn build_shipped(workspace: &Workspace) -> Result<PathBuf> {
    for language in LANGUAGES {
        for rule in language.shipped(workspace)? {
            let component = component_of(workspace, &rule)?;
            if is_fresh(workspace, language, &rule, &component)? {
                continue;
            }
            if language.is_there() {
                build_rule(workspace, language, &rule)?;
                continue;
            }
            println!("rule {} is left out: there is no {}", name_of(&rule)?, language.needs);
            // What was built of an older version would be another rule.
            let _ = std::fs::remove_file(component);
        }
    }
    Ok(workspace.components_of_languages())
}

/// Builds a shipped rule where that has to be; gives its component.
fn build_rule(workspace: &Workspace, language: &Language, rule: &Path) -> Result<PathBuf> {
    let component = component_of(workspace, rule)?;
    if !is_fresh(workspace, language, rule, &component)? {
        let mut build = command(workspace);
        build.args(["rule", "build"]).arg(rule).arg("--output").arg(workspace.components_of_languages());
        run(&mut build)?;
    }
    Ok(component)
}

fn component_of(workspace: &Workspace, rule: &Path) -> Result<PathBuf> {
    Ok(workspace.components_of_languages().join(name_of(rule)? + ".wasm"))
}

/// Whether a component is newer than all that it is made of. It is then left as it is: two builds of Python differ, and what
/// differs is compiled again.
fn is_fresh(workspace: &Workspace, language: &Language, rule: &Path, component: &Path) -> Result<bool> {
    let sdk = workspace.root.join("guest-sdk").join(language.name);
    let changed = newest(rule)?.max(newest(&sdk)?);
    Ok(std::fs::metadata(component).and_then(|built| built.modified()).is_ok_and(|built| built > changed))
}

/// When something in a folder changed last.
fn newest(folder: &Path) -> Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))? {
        let entry = entry?;
        let about = entry.metadata()?;
        let changed = if about.is_dir() { self::newest(&entry.path())? } else { about.modified()? };
        newest = newest.max(changed);
    }
    Ok(newest)
}

fn name_of(project: &Path) -> Result<String> {
    Ok(project.file_name().context("a project has a name")?.to_string_lossy().into_owned())
}

/// Builds the guests of the bench, a component for each language; gives the folder that they are in. A language whose tools
/// are not there is left out, and said so. `binary` builds them.
pub fn guests(workspace: &Workspace, binary: &Path) -> Result<PathBuf> {
    let folder = workspace.languages().join("guests");
    for language in LANGUAGES {
        if !language.is_there() {
            println!("NOT THERE: {}: the guests in {} are left out", language.needs, language.name);
            // One of an earlier run is not what is to be measured.
            let _ = std::fs::remove_file(folder.join(format!("{}.wasm", language.name)));
            continue;
        }
        let project = workspace.root.join("tests/bench/guests").join(language.name);
        let mut build = command_of(workspace, binary);
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
            let why = format!(
                "there is no {}: the SDK of {} and the rules in it are not tested\n",
                language.needs, language.name
            );
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
                _ => name_of(&project)?,
            };
            test_rule(workspace, &cases, &output.join(format!("{name}.wasm")))?;
            passed += 1;
        }
        for rule in language.shipped(workspace)? {
            let component = build_rule(workspace, language, &rule)?;
            test_rule(workspace, &rule, &component)?;
            passed += 1;
        }
    }
    Ok(passed)
}

fn test_rule(workspace: &Workspace, cases: &Path, component: &Path) -> Result<()> {
    let mut test = command(workspace);
    run(test.args(["rule", "test"]).arg(cases).arg("--module").arg(component))
}

/// The binary of the dev profile.
fn command(workspace: &Workspace) -> Command {
    command_of(workspace, &workspace.binary("watchfire"))
}

/// A binary, with what it fetches in the target folder, where the SDK in Rust is compiled once for all.
fn command_of(workspace: &Workspace, binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.env("WATCHFIRE_CACHE", workspace.languages());
    command.env("CARGO_TARGET_DIR", workspace.languages().join("target"));
    command
}
