//! Python: componentize-py of PyPI, which brings its own CPython.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Language, sdk, tools};

pub fn build(folder: &Path) -> Result<Vec<u8>> {
    let tool = tools::python_package("componentize-py", "0.25.1")?;
    let scratch = tempfile::tempdir().context("a folder for the build")?;
    let sdk = sdk::of(folder, Language::Python, scratch.path())?;
    let out = scratch.path().join("rule.wasm");
    let mut build = Command::new(tool.join("venv/bin/componentize-py"));
    build.args(["-q", "-w", "full-rule", "-d"]).arg(sdk.join("wit")).args(["componentize", "--stub-wasi"]);
    // What comes first is found first: the project's own modules.
    build.arg("-p").arg(folder).arg("-p").arg(&sdk).arg("-o").arg(&out).arg("watchfire_rule.component");
    // It looks for packages where its environment points: nothing but the project and the SDK belongs into a rule.
    build.current_dir(scratch.path()).env("PATH", "/usr/bin:/bin").env("RUST_BACKTRACE", "0");
    build.env_remove("VIRTUAL_ENV").env_remove("PYTHONPATH");
    tools::run(&mut build, "componentize-py")?;
    std::fs::read(&out).context("componentize-py left no component")
}
