//! JavaScript and TypeScript: rolldown bundles, componentize-qjs puts QuickJS around it; `build.mjs` of the SDK drives both.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Language, sdk, tools};

pub fn build(folder: &Path) -> Result<Vec<u8>> {
    let node = tools::program("node", "Node 20.19 or later")?;
    let tool = tools::node_packages("javascript-1", &["componentize-qjs@0.4.5", "rolldown@1.3.2"])?;
    let scratch = tempfile::tempdir().context("a folder for the build")?;
    let sdk = sdk::of(folder, Language::JavaScript, scratch.path())?;
    let out = scratch.path().join("rule.wasm");
    let mut build = Command::new(node);
    build.arg(sdk.join("build.mjs")).arg(folder).arg(&out).env("TOOLS", &tool).env_remove("NODE_OPTIONS");
    tools::run(&mut build, "node build.mjs")?;
    std::fs::read(&out).context("build.mjs left no component")
}
