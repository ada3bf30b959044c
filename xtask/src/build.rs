//! Building components and binaries, and running what was built.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{Workspace, run};
use crate::{languages, setup};

/// Builds the binary and, with it, the shipped rules as components; gives the folder that they are in.
pub fn components(workspace: &Workspace) -> Result<PathBuf> {
    setup::prepare(workspace)?;
    binary(workspace)?;
    let folder = workspace.components();
    componentize(workspace, &workspace.root.join("rules"), &folder)?;
    let wind_farm = workspace.root.join("examples/wind-farm/rules");
    if wind_farm.is_dir() {
        componentize(workspace, &wind_farm, &folder.join("wind-farm"))?;
    }
    Ok(folder)
}

/// Builds the binary `watchfire` in the dev profile.
pub fn binary(workspace: &Workspace) -> Result<()> {
    run(workspace.cargo().args(["build", "--package", "watchfire"]).args(workspace.features()))
}

/// Compiles every rule of a workspace and makes a component of each, in `into`.
fn componentize(workspace: &Workspace, rules: &Path, into: &Path) -> Result<()> {
    let mut build = Command::new(workspace.binary("watchfire"));
    workspace.set_target(&mut build);
    run(build.args(["rule", "build"]).arg(rules).arg("--output").arg(into))
}

/// `cargo xtask demo`: all arguments go to `watchfire demo`.
pub fn demo(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let mut rules = components(workspace)?;
    if let Some(recording) = value_of(arguments, "--replay")
        && languages::are_named_beside(workspace, &workspace.root.join(recording))?
    {
        rules = with_languages(workspace, &rules)?;
    }
    let mut demo = Command::new(workspace.binary("watchfire"));
    demo.current_dir(&workspace.root).env_remove("RUST_BACKTRACE");
    run(demo.arg("demo").arg("--rules").arg(rules).args(arguments))
}

/// The value of an argument, written `--name value` or `--name=value`.
fn value_of<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let behind =
        arguments.iter().position(|argument| argument == name).and_then(|place| arguments.get(place + 1));
    let within = || arguments.iter().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='));
    behind.map(String::as_str).or_else(within)
}

/// A folder with the shipped rules of all languages; those in Rust are copied into a folder in it.
fn with_languages(workspace: &Workspace, rules: &Path) -> Result<PathBuf> {
    let folder = languages::build_shipped(workspace)?;
    let copies = folder.join("rust");
    std::fs::create_dir_all(&copies)?;
    for entry in std::fs::read_dir(rules)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            std::fs::copy(&path, copies.join(name))?;
        }
    }
    Ok(folder)
}

/// `cargo xtask example NAME`: an example that needs servers of others; the arguments behind the name go to it.
pub fn example(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    const KNOWN: &str = "timescale-and-kafka";
    let rest = match arguments.split_first() {
        Some((name, rest)) if name == KNOWN => rest,
        _ => bail!(
            "there is one: cargo xtask example {KNOWN}; recordings are played by cargo xtask demo --replay"
        ),
    };
    let rules = components(workspace)?;
    if let Some(why) = setup::services(workspace).first() {
        bail!("{why}");
    }
    let package = format!("watchfire-example-{KNOWN}");
    run(workspace.cargo().args(["build", "--package", &package]))?;
    let mut example = Command::new(workspace.binary(&package));
    example.current_dir(&workspace.root).env_remove("RUST_BACKTRACE");
    example.env("WATCHFIRE_SERVICES", workspace.services());
    run(example.arg("--binary").arg(workspace.binary("watchfire")).arg("--rules").arg(rules).args(rest))
}

/// `cargo xtask torture`: all arguments go to the torture program.
pub fn torture(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    if !workspace.root.join("tests/torture/Cargo.toml").is_file() {
        println!("torture: there is no tests/torture");
        return Ok(());
    }
    let rules = components(workspace)?;
    if arguments.iter().any(|argument| argument == "--sinks")
        && let Some(why) = setup::services(workspace).first()
    {
        bail!("{why}");
    }
    run(workspace.cargo().args(["build", "--package", "watchfire-torture"]))?;
    let mut torture = Command::new(workspace.binary("watchfire-torture"));
    torture.current_dir(&workspace.root).env_remove("RUST_BACKTRACE").env("WATCHFIRE_RULES", rules);
    torture.env("WATCHFIRE_SERVICES", workspace.services());
    run(torture.arg("--binary").arg(workspace.binary("watchfire")).args(arguments))
}

/// `cargo xtask bench`: optimised, so with a profile of its own.
pub fn bench(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    if !workspace.root.join("tests/bench/Cargo.toml").is_file() {
        bail!("there is no tests/bench");
    }
    let rules = components(workspace)?;
    run(workspace.cargo().args([
        "build",
        "--release",
        "--package",
        "watchfire",
        "--package",
        "watchfire-bench",
    ]))?;
    let release = workspace.target.join("release");
    let binary = release.join("watchfire");
    // All that are not options are benches; without one, all of them run.
    let named: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let guests =
        if named.is_empty() || named.iter().any(|name| ["guests", "deploying"].contains(&name.as_str())) {
            Some(languages::guests(workspace, &binary)?)
        } else {
            None
        };
    let mut bench = Command::new(release.join("watchfire-bench"));
    bench.current_dir(&workspace.root).env_remove("RUST_BACKTRACE").env("WATCHFIRE_RULES", rules);
    bench.env("WATCHFIRE_SERVICES", workspace.services());
    bench.envs(guests.map(|guests| ("WATCHFIRE_GUESTS", guests)));
    run(bench.arg("--binary").arg(binary).args(arguments))
}
