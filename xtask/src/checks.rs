//! What can drift: formatting, warnings, copies of the contract, lists, paths of machines.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{Workspace, output, run};
use crate::setup::WASM;
use crate::{bindings, licences};

/// Formats every workspace, or checks that it is.
pub fn format(workspace: &Workspace, check: bool) -> Result<()> {
    let root = workspace.root.clone();
    let folders = [root.clone(), root.join("fuzz")].into_iter().chain(workspace.others());
    for folder in folders {
        let mut fmt = workspace.cargo_in(&folder);
        fmt.args(["fmt", "--all"]);
        // The style is the root's, also where a folder lies outside of its workspace.
        fmt.args(check.then_some("--check"))
            .arg("--")
            .arg("--config-path")
            .arg(workspace.root.join("rustfmt.toml"));
        run(&mut fmt)?;
    }
    Ok(())
}

/// Clippy in every workspace, warnings denied. Rules are compiled already.
pub fn lint(workspace: &Workspace) -> Result<()> {
    let mut clippy = workspace.cargo();
    clippy.args(["clippy", "--workspace", "--all-targets"]).args(workspace.features());
    run(clippy.args(["--", "-D", "warnings"]))?;
    for folder in workspace.others() {
        let mut clippy = workspace.cargo_in(&folder);
        run(clippy.args(["clippy", "--target", WASM, "--release", "--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// Copies `wit/` to where SDKs carry it, or checks that the copies are the same; and that bindings are not older.
pub fn wit_sync(workspace: &Workspace, check: bool) -> Result<String> {
    let source = workspace.root.join("wit");
    let mut copied = 0;
    for language in ["rust", "python", "javascript", "go", "c"] {
        let copy = format!("guest-sdk/{language}/wit");
        let copy = workspace.root.join(copy);
        if !copy.parent().is_some_and(Path::is_dir) {
            continue;
        }
        let names = |folder: &Path| -> Result<BTreeSet<_>> {
            Ok(std::fs::read_dir(folder)
                .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect())
                .unwrap_or_default())
        };
        for name in names(&source)?.union(&names(&copy)?) {
            let (from, to) = (source.join(name), copy.join(name));
            if std::fs::read(&from).ok() == std::fs::read(&to).ok() {
                continue;
            }
            if check {
                bail!("{} differs from {}: `cargo xtask wit-sync` copies it", to.display(), from.display());
            }
            std::fs::create_dir_all(&copy)?;
            if from.is_file() {
                std::fs::copy(&from, &to)?;
            } else {
                std::fs::remove_file(&to)?;
            }
            copied += 1;
        }
    }
    bindings::check(workspace)?;
    Ok(format!("the contract is the same everywhere ({copied} files copied)"))
}

/// Licences of everything that is compiled, the list of crates, and paths of machines.
pub fn dependencies(workspace: &Workspace) -> Result<String> {
    let mut checked = licences::check(workspace, &workspace.root)?;
    for folder in workspace.others() {
        checked += licences::check(workspace, &folder)?;
    }
    crates_are_listed(workspace)?;
    no_machine_paths(workspace)?;
    Ok(format!("{checked} packages have a licence of the list; the crates are those of ARCHITECTURE.md"))
}

/// The table of crates in ARCHITECTURE.md against the folders under `crates/`.
fn crates_are_listed(workspace: &Workspace) -> Result<()> {
    let mut folders = BTreeSet::new();
    for entry in std::fs::read_dir(workspace.root.join("crates"))? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").is_file() {
            folders.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    let text = std::fs::read_to_string(workspace.root.join("ARCHITECTURE.md"))?;
    let listed = listed_crates(&text);
    if folders != listed {
        let missing: Vec<_> = folders.difference(&listed).collect();
        let gone: Vec<_> = listed.difference(&folders).collect();
        bail!(
            "the table of crates in ARCHITECTURE.md lacks {missing:?} and names {gone:?}, which are not there"
        );
    }
    Ok(())
}

/// The second cells of table rows of the form ``| step | `crate` | what it does |``.
fn listed_crates(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").nth(1)?.strip_prefix('`')?.strip_suffix('`'))
        .filter(|name| name.starts_with("watchfire"))
        .map(str::to_string)
        .collect()
}

/// No tracked file names a folder of the machine that it was written on.
fn no_machine_paths(workspace: &Workspace) -> Result<()> {
    let mut git = Command::new("git");
    git.current_dir(&workspace.root);
    let tracked = output(git.args(["ls-files"])).context("the tracked files are asked of git")?;
    // Put together here, so that this file does not name them.
    let marks = [["/ho", "me/"], ["/Us", "ers/"], ["/wo", "rk/"], ["/ro", "ot/"]].map(|parts| parts.concat());
    for name in tracked.lines() {
        let Ok(text) = std::fs::read_to_string(workspace.root.join(name)) else { continue };
        let found =
            text.lines().enumerate().find(|(_, line)| marks.iter().any(|mark| names_path(line, mark)));
        if let Some((number, line)) = found {
            bail!("{name}:{}: names a folder of one machine: {}", number + 1, line.trim());
        }
    }
    Ok(())
}

/// Whether a line has an absolute path that begins like this: not as the middle of another one.
fn names_path(line: &str, mark: &str) -> bool {
    line.match_indices(mark).any(|(at, _)| {
        line[..at]
            .chars()
            .next_back()
            .is_none_or(|c| !(c.is_alphanumeric() || matches!(c, '.' | '/' | '}' | '_' | '-')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_the_second_cells() {
        let text = "| step | crate | what |\n|---|---|---|\n| a | `watchfire-model` | x |\n| `watchfire` | y | z |\n";
        assert_eq!(listed_crates(text), BTreeSet::from(["watchfire-model".to_string()]));
    }

    #[test]
    fn only_absolute_paths_count() {
        let mark = ["/ho", "me/"].concat();
        assert!(names_path(&format!("see {mark}me/x"), &mark));
        assert!(!names_path(&format!("https://example.org{mark}x"), &mark));
        assert!(!names_path("a line", &mark));
    }
}
