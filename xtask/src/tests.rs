//! All tests, and how many of them had to be skipped.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::run::{Workspace, is_integration, run as shell};
use crate::{build, languages, setup};

/// Skips that are allowed where CI=true, by the name that the test gives.
const ALLOWED_SKIPS: &[&str] = &[
    // A server with the extension compiled for this machine: no package has it (the packaged one is tested always).
    "native-timescaledb",
    // A dashboard that no registry has: what it asks for is asked by a test that needs no program.
    "karma",
];

/// Runs every test of every workspace.
pub fn run(workspace: &Workspace, filter: &[String]) -> Result<String> {
    let components = build::components(workspace)?;
    setup::services(workspace);
    let skips = workspace.target.join("xtask").join("skips");
    std::fs::create_dir_all(&skips)?;
    for entry in std::fs::read_dir(&skips)? {
        std::fs::remove_file(entry?.path())?;
    }
    // A test that lacks something adds a line to a file here, named for what is skipped, with what it lacks.
    let mut root = workspace.cargo();
    root.args(["test", "--workspace", "--no-fail-fast"])
        .args(workspace.features())
        .env("WATCHFIRE_SKIPS", &skips)
        .env("WATCHFIRE_SERVICES", workspace.services())
        .env("WATCHFIRE_CACHE", workspace.languages())
        .env("WATCHFIRE_RULES", &components);
    shell(root.args(filter))?;
    for folder in workspace.others() {
        if has_tests(&folder)? {
            let mut other = workspace.cargo_in(&folder);
            shell(other.arg("test").env("WATCHFIRE_SKIPS", &skips).args(filter))?;
        }
    }
    let cases = scenarios(workspace, &components)? + languages::run_all(workspace, &skips)?;
    let mut skipped = BTreeMap::new();
    for entry in std::fs::read_dir(&skips)? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        skipped.insert(name, std::fs::read_to_string(&path)?);
    }
    let mut count = 0;
    for (name, why) in &skipped {
        let tests = why.lines().count().max(1);
        let counted = if tests == 1 { String::new() } else { format!(" ({tests} tests)") };
        println!("SKIPPED {name}{counted}: {}", why.lines().next().unwrap_or_default());
        count += tests;
    }
    let unexpected: Vec<_> = skipped.keys().filter(|name| !ALLOWED_SKIPS.contains(&name.as_str())).collect();
    if is_integration() && !unexpected.is_empty() {
        bail!("with CI=true a skipped test is a failure: {unexpected:?}");
    }
    Ok(format!("every test passed, {cases} rules passed their scenarios, {count} tests skipped"))
}

/// Whether a workspace that is compiled for wasm has tests that run here.
fn has_tests(folder: &std::path::Path) -> Result<bool> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let hidden = path.file_name().is_some_and(|name| name == "target" || name == "cases");
            if path.is_dir() && !hidden {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)?;
                // Examples in the documentation are tests as well.
                if ["#[test]", "/// ```", "//! ```"].iter().any(|mark| text.contains(mark)) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// The scenarios of every rule in Rust that has some; gives how many rules that are. Those of other languages are tested
/// with their SDKs.
fn scenarios(workspace: &Workspace, components: &std::path::Path) -> Result<usize> {
    let mut tested = 0;
    for (rules, components) in [
        (workspace.root.join("rules"), components.to_owned()),
        (workspace.root.join("examples/wind-farm/rules"), components.join("wind-farm")),
    ] {
        let Ok(entries) = std::fs::read_dir(&rules) else { continue };
        let mut folders: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        folders.sort();
        let is_tested =
            |folder: &PathBuf| folder.join("Cargo.toml").is_file() && folder.join("cases").is_dir();
        for folder in folders.into_iter().filter(is_tested) {
            let name = folder.file_name().context("a folder has a name")?.to_string_lossy().into_owned();
            let mut test = std::process::Command::new(workspace.binary("watchfire"));
            test.args(["rule", "test"]).arg(&folder).arg("--module");
            shell(test.arg(components.join(format!("{name}.wasm"))))?;
            tested += 1;
        }
    }
    Ok(tested)
}
