//! `cargo xtask fuzz TARGET`: a target of `fuzz/` under cargo-fuzz. It needs a nightly toolchain, so it is no part of
//! `test` or `ci`: the seeded mutation tests ask the same there.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::{Workspace, run as shell};

/// Runs one target for so many seconds (60 where none are said); without a target, names them.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<String> {
    let folder = workspace.root.join("fuzz");
    let targets = targets(&std::fs::read_to_string(folder.join("Cargo.toml"))?);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (target, seconds) = match arguments[..] {
        [] => return Ok(format!("the targets are {}", targets.join(", "))),
        [target] => (target, 60),
        [target, "--seconds", seconds] => (target, seconds.parse().context("--seconds takes a number")?),
        _ => bail!("takes a target and --seconds S"),
    };
    if !targets.iter().any(|known| known == target) {
        bail!("there is no target {target:?}: there are {}", targets.join(", "));
    }
    needs("cargo-fuzz", &["cargo-fuzz", "--version"], "cargo install cargo-fuzz --locked")?;
    let nightly = ["rustup", "run", "nightly", "rustc", "--version"];
    needs("a nightly toolchain", &nightly, "rustup toolchain install nightly --profile minimal")?;
    let (corpus, seeds) = (folder.join("corpus").join(target), folder.join("seeds").join(target));
    std::fs::create_dir_all(&corpus)?;
    // Through rustup: the cargo that runs us is of the toolchain that the project is built with. No sanitizer: it is
    // safe Rust that is tested, and runs twice as often without.
    let mut fuzz = Command::new("rustup");
    fuzz.current_dir(&workspace.root).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    fuzz.args(["run", "nightly", "cargo", "fuzz", "run", "--sanitizer", "none", target]);
    fuzz.args(std::iter::once(&corpus).chain(seeds.is_dir().then_some(&seeds)));
    let total = format!("-max_total_time={}", seconds);
    shell(fuzz.args(["--", total.as_str(), "-timeout=10", "-max_len=2048", "-print_final_stats=1"]))?;
    Ok(format!("{target} held for {seconds} s"))
}

/// Nothing is installed unasked.
fn needs(what: &str, command: &[&str], install: &str) -> Result<()> {
    let found =
        Command::new(command[0]).args(&command[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        bail!("this needs {what}, which is not installed: {install}");
    }
    Ok(())
}

/// The names of the binaries of a manifest.
fn targets(manifest: &str) -> Vec<String> {
    let behind = manifest.split("[[bin]]").skip(1);
    let names = behind.filter_map(|text| text.split("name = \"").nth(1)?.split('"').next());
    names.map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_binaries() {
        let manifest =
            "[package]\nname = \"x\"\n[[bin]]\nname = \"json\"\npath = \"a\"\n[[bin]]\nname = \"mqtt\"\n";
        assert_eq!(targets(manifest), ["json", "mqtt"]);
    }
}
