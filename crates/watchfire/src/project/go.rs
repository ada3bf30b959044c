//! Go: the standard toolchain. Its module needs WASI, for which the adapter of the SDK stands in.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{component, tools};

pub fn build(folder: &Path) -> Result<Vec<u8>> {
    let go = tools::program("go", "Go 1.25 or later")?;
    let scratch = tempfile::tempdir().context("a folder for the build")?;
    let core = scratch.path().join("core.wasm");
    // Nothing is downloaded: all modules are replaced by folders. What the user has set changes nothing.
    let plain = |command: &mut Command| {
        command.current_dir(folder);
        for (name, value) in [
            ("GOPROXY", "off"),
            ("GOTOOLCHAIN", "local"),
            ("GOWORK", "off"),
            ("GOENV", "off"),
            ("GOFLAGS", ""),
            ("CGO_ENABLED", "0"),
        ] {
            command.env(name, value);
        }
    };
    let mut list = Command::new(&go);
    plain(list.args(["list", "-m", "-f", "{{.Dir}}", "watchfire/rule"]));
    let listed = list.output().context("go cannot be run")?;
    anyhow::ensure!(
        listed.status.success(),
        "go does not find the SDK: {}",
        String::from_utf8_lossy(&listed.stderr).trim()
    );
    let sdk = String::from_utf8_lossy(&listed.stdout).trim().to_string();
    let mut build = Command::new(&go);
    plain(build.args(["build", "-trimpath", "-buildvcs=false", "-buildmode=c-shared"]));
    build.args(["-ldflags=-checklinkname=0 -s -w", "-o"]).arg(&core).arg(".");
    build.env("GOOS", "wasip1").env("GOARCH", "wasm");
    tools::run(&mut build, "go build")?;
    let sdk = Path::new(&sdk);
    component::of(&core, &sdk.join("wit"), Some(&sdk.join("adapter/stub.wat")))
}
