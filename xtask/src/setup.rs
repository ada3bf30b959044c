//! What a fresh machine lacks.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::{Workspace, has_openssl, is_integration, output, run};

/// The target that rules are compiled for.
pub const WASM: &str = "wasm32-unknown-unknown";

/// GiB that a first run of everything takes.
const ROOM: u64 = 10;

/// Checks what must be there, and adds what can be added.
pub fn prepare(workspace: &Workspace) -> Result<()> {
    check_rustc(workspace)?;
    if !has_wasm_target()? {
        add_wasm_target(workspace)?;
    }
    let linker = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let found = Command::new(&linker).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        bail!(
            "there is no C compiler ({linker}): SQLite is compiled from C. On Debian: apt-get install build-essential"
        );
    }
    let make = Command::new("make").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !make.is_ok_and(|status| status.success()) {
        bail!(
            "there is no make: the client of Kafka is compiled with it. On Debian: apt-get install build-essential"
        );
    }
    if is_integration()
        && !has_openssl()
        && let Err(why) =
            watchfire_services::provide::install(&["libssl-dev", "pkg-config"], "OpenSSL's headers")
    {
        println!("Kafka over TLS is left out: {why}");
    }
    if !workspace.binary("watchfire").is_file() {
        if let Some(free) = workspace.room().filter(|free| *free < ROOM) {
            bail!(
                "{} has {free} GiB free: what is compiled and fetched there needs {ROOM}",
                workspace.target.display()
            );
        }
        println!(
            "The first build compiles the engine, the WebAssembly compiler, SQLite and a client of Kafka: about 8 \
             minutes on 2 cores, 3 on 8. Later ones take seconds."
        );
    }
    Ok(())
}

/// Brings the servers that tests talk to. Gives what could not be had: tests that need it skip visibly.
pub fn services(workspace: &Workspace) -> Vec<String> {
    let missing = watchfire_services::provide::provide(&workspace.services());
    missing.iter().for_each(|why| println!("NOT THERE: {why}"));
    missing
}

fn check_rustc(workspace: &Workspace) -> Result<()> {
    let manifest = std::fs::read_to_string(workspace.root.join("Cargo.toml"))?;
    let wanted = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .context("the root manifest names no rust-version")?
        .trim_matches('"');
    let version = output(Command::new("rustc").arg("--version"))?;
    let found = version.split_whitespace().nth(1).context("rustc does not say its version")?;
    if numbers(found) < numbers(wanted) {
        bail!("rustc {found} is too old: {wanted} is needed. With rustup: rustup toolchain install {wanted}");
    }
    Ok(())
}

/// The first two numbers of a version.
fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn has_wasm_target() -> Result<bool> {
    let library = output(Command::new("rustc").args(["--print", "target-libdir", "--target", WASM]))?;
    // The folder may be there and empty: the core library in it counts.
    let entries = match std::fs::read_dir(library.trim()) {
        Ok(entries) => entries,
        Err(_) => return Ok(false),
    };
    Ok(entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore")))
}

fn add_wasm_target(workspace: &Workspace) -> Result<()> {
    println!("The target {WASM} is missing: rules are compiled for it. Adding it with rustup.");
    let mut rustup = Command::new("rustup");
    rustup.current_dir(&workspace.root).args(["target", "add", WASM]);
    run(&mut rustup).with_context(|| {
        format!(
            "{WASM} could not be added. With rustup and a network: `rustup target add {WASM}` in this folder. \
             Without rustup: install your distribution's package for it (Debian: libstd-rust-dev-wasm32; \
             Fedora: rust-std-static-{WASM}), or copy the folder lib/rustlib/{WASM} of the same version's \
             rust-std archive into `rustc --print sysroot`"
        )
    })
}
