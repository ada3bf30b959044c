//! Building rules written in Rust: for `watchfire rule build`, for xtask and for tests. Needs cargo and the
//! target `wasm32-unknown-unknown`; nothing else is installed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::component::{ComponentError, Core, from_core};

/// What rules in Rust are compiled for: a bare machine, so that nothing of WASI is imported.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// A rule could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A program could not be run.
    #[error("{program} cannot be run")]
    Program {
        /// Which one.
        program: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Cargo said no; what it said is above, on standard error.
    #[error("cargo failed in {}", .0.display())]
    Cargo(PathBuf),
    /// What cargo says about a folder could not be read.
    #[error("cargo does not say what is in {}: {reason}", .folder.display())]
    Metadata {
        /// Which one.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{} cannot be read or written", .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The module did not become a component.
    #[error("{} does not become a component", .path.display())]
    Component {
        /// The module.
        path: PathBuf,
        /// Why.
        #[source]
        source: ComponentError,
    },
}

/// Builds the rules in a folder (a package, or a workspace of them) and gives the component of each, by the
/// name of its package. Honours `CARGO_TARGET_DIR`. Cargo's own output goes to standard error.
pub fn build_rust_rules(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, BuildError> {
    let (packages, target) = metadata(folder)?;
    run(cargo().args(["build", "--release", "--quiet", "--target", TARGET]).current_dir(folder), folder)?;
    let mut built = Vec::new();
    for package in packages {
        let path = target.join(TARGET).join("release").join(format!("{}.wasm", package.replace('-', "_")));
        let core = fs::read(&path).map_err(|source| BuildError::File { path: path.clone(), source })?;
        let component = from_core(&Core { module: &core, ..Core::default() })
            .map_err(|source| BuildError::Component { path, source })?;
        built.push((package, component));
    }
    Ok(built)
}

/// The component of a shipped rule (a folder of `rules/`), for tests and for xtask: built when its source
/// is newer, at most once a process, also where many tests ask at once.
pub fn shipped(name: &str) -> Result<PathBuf, BuildError> {
    component_of(&repository().join("rules"), name)
}

/// The component of a package of a workspace of rules in this repository, as [`shipped`].
pub fn component_of(workspace: &Path, package: &str) -> Result<PathBuf, BuildError> {
    static BUILT: Mutex<Option<HashMap<PathBuf, PathBuf>>> = Mutex::new(None);
    // The lock is held while cargo runs: the others need what it makes.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let built = built.get_or_insert_default();
    let folder = match built.get(workspace) {
        Some(folder) => folder.clone(),
        None => {
            let folder = build_into_target(workspace)?;
            built.insert(workspace.into(), folder.clone());
            folder
        }
    };
    Ok(folder.join(format!("{package}.wasm")))
}

/// Builds the rules of a workspace and writes their components beside cargo's output; gives the folder.
fn build_into_target(workspace: &Path) -> Result<PathBuf, BuildError> {
    let (_, target) = metadata(workspace)?;
    let file = |path: &Path| {
        let path = path.to_path_buf();
        move |source| BuildError::File { path, source }
    };
    let name = workspace.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = target.join("components").join(name);
    fs::create_dir_all(&folder).map_err(file(&folder))?;
    // Cargo locks its own folder; this one keeps two test processes from writing the same component.
    let path = folder.join(".lock");
    let lock = File::create(&path).map_err(file(&path))?;
    lock.lock().map_err(file(&path))?;
    for (package, component) in build_rust_rules(workspace)? {
        let path = folder.join(format!("{package}.wasm"));
        // A component that did not change keeps its file: others may be reading it.
        if fs::read(&path).is_ok_and(|old| old == component) {
            continue;
        }
        let temporary = folder.join(format!("{package}.wasm.new"));
        fs::write(&temporary, component).map_err(file(&temporary))?;
        fs::rename(&temporary, &path).map_err(file(&path))?;
    }
    Ok(folder)
}

/// The root of the repository that this crate was built from.
fn repository() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.ancestors().nth(2).unwrap_or(crate_folder).to_path_buf()
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What the caller is built with is not meant for another target.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WORKSPACE_WRAPPER"] {
        command.env_remove(name);
    }
    command
}

fn run(command: &mut Command, folder: &Path) -> Result<(), BuildError> {
    let status = command
        .stdin(std::process::Stdio::null())
        .status()
        .map_err(|source| BuildError::Program { program: "cargo", source })?;
    if status.success() { Ok(()) } else { Err(BuildError::Cargo(folder.into())) }
}

/// The packages of a folder that make a core module, and where cargo puts it.
fn metadata(folder: &Path) -> Result<(Vec<String>, PathBuf), BuildError> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(folder)
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|source| BuildError::Program { program: "cargo", source })?;
    if !output.status.success() {
        return Err(BuildError::Cargo(folder.into()));
    }
    let bad = |reason: &str| BuildError::Metadata { folder: folder.into(), reason: reason.into() };
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| bad(&error.to_string()))?;
    let target = metadata["target_directory"].as_str().ok_or_else(|| bad("no target folder"))?;
    let mut packages = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let is_cdylib = |target: &serde_json::Value| {
            target["crate_types"].as_array().is_some_and(|types| types.iter().any(|kind| kind == "cdylib"))
        };
        if package["targets"].as_array().is_some_and(|targets| targets.iter().any(is_cdylib)) {
            packages.push(package["name"].as_str().ok_or_else(|| bad("a package without name"))?.to_string());
        }
    }
    Ok((packages, target.into()))
}
