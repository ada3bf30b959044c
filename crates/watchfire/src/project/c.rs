//! C: the compiler of zig, from PyPI.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Language, component, sdk, tools};

pub fn build(folder: &Path) -> Result<Vec<u8>> {
    let tool = tools::python_package("ziglang", "0.17.1")?;
    let scratch = tempfile::tempdir().context("a folder for the build")?;
    let sdk = sdk::of(folder, Language::C, scratch.path())?;
    let core = scratch.path().join("core.wasm");
    let mut build = Command::new(tool.join("venv/bin/python"));
    build.args(["-m", "ziglang", "cc", "-target", "wasm32-wasi", "-mexec-model=reactor"]);
    // Without a stack size the least memory is 16 MiB; without fused operations every machine computes the same.
    build.args([
        "-Wl,-z,stack-size=262144",
        "-O3",
        "-ffp-contract=off",
        "-s",
        "-std=c11",
        "-Wall",
        "-Wextra",
    ]);
    build.arg("-I").arg(&sdk);
    let own = sources(folder)?;
    if own.is_empty() {
        bail!("{} has no file that ends in .c", folder.display());
    }
    build.args(own).args(sources(&sdk.join("src"))?).arg(sdk.join("bindings/full_rule.c"));
    build.arg("-o").arg(&core);
    let cache = tool.join("cache");
    build.env("ZIG_GLOBAL_CACHE_DIR", &cache).env("ZIG_LOCAL_CACHE_DIR", &cache);
    tools::run(&mut build, "zig cc")?;
    component::of(&core, &sdk.join("wit"), None)
}

fn sources(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut sources: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    sources.sort();
    Ok(sources)
}
