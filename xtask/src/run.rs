//! Where things are, and how programs are run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The project's folder and its target folder.
pub struct Workspace {
    /// The folder of the root manifest.
    pub root: PathBuf,
    /// Where cargo builds: `CARGO_TARGET_DIR` or what the configuration says.
    pub target: PathBuf,
}

impl Workspace {
    /// The workspace that this program was built from.
    pub fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
        let metadata = output(cargo(root).args(["metadata", "--no-deps", "--format-version", "1"]))?;
        let metadata: serde_json::Value =
            serde_json::from_str(&metadata).context("cargo metadata gave no JSON")?;
        let target =
            metadata["target_directory"].as_str().context("cargo metadata names no target folder")?;
        Ok(Self { root: root.to_owned(), target: target.into() })
    }

    /// Cargo in the root workspace.
    pub fn cargo(&self) -> Command {
        self.cargo_in(&self.root)
    }

    /// Cargo in a workspace beside the root one. It has a target folder of its own, unless `CARGO_TARGET_DIR`
    /// names one for all.
    pub fn cargo_in(&self, folder: &Path) -> Command {
        let mut command = cargo(folder);
        self.set_target(&mut command);
        command
    }

    /// Hands `CARGO_TARGET_DIR` on as an absolute path: a relative one means another folder in each workspace.
    pub fn set_target(&self, command: &mut Command) {
        if std::env::var_os("CARGO_TARGET_DIR").is_some() {
            command.env("CARGO_TARGET_DIR", &self.target);
        }
    }

    /// What is compiled beyond the defaults: TLS to Kafka in continuous integration, where OpenSSL's headers are. All
    /// commands of a run take the same, or everything would be compiled twice.
    pub fn features(&self) -> &'static [&'static str] {
        if is_integration() && has_openssl() { &["--features", "watchfire/kafka-tls"] } else { &[] }
    }

    /// Room on the disk of the target folder, in GiB, where `df` tells it.
    pub fn room(&self) -> Option<u64> {
        let mut ask = Command::new("df");
        ask.args(["-P", "-k"])
            .arg(if self.target.exists() { &self.target } else { &self.root })
            .stderr(Stdio::null());
        let told = String::from_utf8(ask.output().ok()?.stdout).ok()?;
        // "Filesystem 1024-blocks Used Available Capacity Mounted on", and the same of the one that was asked for.
        let free: u64 = told.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
        Some(free >> 20)
    }

    /// The binary of the dev profile.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// Where the shipped rules are put as components.
    pub fn components(&self) -> PathBuf {
        self.target.join("components")
    }

    /// Where the shipped rules of other languages than Rust are put as components.
    pub fn components_of_languages(&self) -> PathBuf {
        self.target.join("components-of-languages")
    }

    /// Where the servers that tests talk to are downloaded to.
    pub fn services(&self) -> PathBuf {
        self.target.join("services")
    }

    /// Where the tools of languages are fetched to.
    pub fn languages(&self) -> PathBuf {
        self.target.join("languages")
    }

    /// The Rust workspaces beside the root one that there are.
    pub fn others(&self) -> Vec<PathBuf> {
        [
            "guest-sdk/rust",
            "guest-sdk/rust/samples/boiler-pressure",
            "guest-sdk/rust/samples/limits-by-column",
            "rules",
            "tests/bench/guests/rust",
            "tests/conformance/rust",
            "tests/guests",
            "examples/wind-farm/rules",
        ]
        .into_iter()
        .map(|folder| self.root.join(folder))
        .filter(|folder| folder.join("Cargo.toml").is_file())
        .collect()
    }
}

/// Whether this is continuous integration (`CI=true`): a clean clone, and a skipped test is a failure.
pub fn is_integration() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}

/// Whether the headers of OpenSSL are there.
pub fn has_openssl() -> bool {
    let mut ask = Command::new("pkg-config");
    ask.args(["--exists", "openssl"]).stdout(Stdio::null()).stderr(Stdio::null());
    ask.status().is_ok_and(|status| status.success())
}

fn cargo(folder: &Path) -> Command {
    // The cargo that runs us, so that one toolchain is used throughout.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(folder);
    // A backtrace doubles the cost of a guest call that fails, and fails no test earlier.
    command.env_remove("RUST_BACKTRACE");
    // What a clean clone compiles once is not compiled again in part: that would only take room, gigabytes of it.
    if is_integration() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    // Of the build of xtask itself: they would make cargo think that everything changed.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a program, its output going where ours goes.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    println!("+ {shown}");
    let status = command.status().with_context(|| format!("{shown} does not start"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}

/// Runs a program and gives what it prints.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("{shown} does not start"))?;
    if !output.status.success() {
        bail!("{shown} ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown} prints no UTF-8"))
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(OsStr::new("?"));
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}
