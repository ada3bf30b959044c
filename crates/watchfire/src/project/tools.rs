//! What the tools of a language lack is fetched from its registry, pinned, into a cache of ours: nothing is installed for
//! anybody else.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The cache: `WATCHFIRE_CACHE`, or the user's.
fn cache() -> Result<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = of("WATCHFIRE_CACHE")
        .or_else(|| of("XDG_CACHE_HOME").map(|cache| cache.join("watchfire")))
        .or_else(|| of("HOME").map(|home| home.join(".cache/watchfire")));
    folder.context("there is no place for tools: set WATCHFIRE_CACHE to a folder")
}

/// A folder of the cache with a tool, made by `fetch` where it is not there. Its name says which version it is.
pub fn provide(name: &str, what: &str, fetch: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache()?;
    std::fs::create_dir_all(&cache).with_context(|| format!("{} cannot be made", cache.display()))?;
    let folder = cache.join(name);
    let done = folder.join(".complete");
    if done.is_file() {
        return Ok(folder);
    }
    // Two builds at a time fetch it once.
    let lock = cache.join(format!("{name}.lock"));
    let lock = File::create(&lock).with_context(|| format!("{} cannot be written", lock.display()))?;
    lock.lock().context("the cache of tools cannot be locked")?;
    if done.is_file() {
        return Ok(folder);
    }
    eprintln!("fetching {what}, once, into {}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("{} cannot be removed", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    fetch(&folder)?;
    std::fs::write(&done, "").with_context(|| format!("{} cannot be written", done.display()))?;
    Ok(folder)
}

/// A virtual environment of Python with one package.
pub fn python_package(package: &str, version: &str) -> Result<PathBuf> {
    let python = program("python3", "Python 3.10 or later, with venv")?;
    provide(&format!("{package}-{version}"), &format!("{package} {version} from PyPI"), |folder| {
        let environment = folder.join("venv");
        run(Command::new(&python).args(["-m", "venv"]).arg(&environment), "python3 -m venv")?;
        let package = format!("{package}=={version}");
        let mut pip = Command::new(environment.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]);
        run(pip.arg(package), "pip install")
    })
}

/// Packages of npm, with versions.
pub fn node_packages(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let npm = program("npm", "Node 20.19 or later, with npm")?;
    let what = format!("{} from npm", packages.join(" and "));
    provide(name, &what, |folder| {
        let mut install = Command::new(&npm);
        install.args(["install", "--no-fund", "--no-audit", "--ignore-scripts", "--save-exact", "--prefix"]);
        run(install.arg(folder).args(packages), "npm install")
    })
}

/// A program of the path; an error says what to install.
pub fn program(name: &str, what: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("there is no {name} on the path: install {what}"))
}

/// Runs a tool; what it says goes to standard error, so that our output stays ours.
pub fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("{what} cannot be run"))?;
    if !status.success() {
        bail!("{what} failed ({status}); what it said is above");
    }
    Ok(())
}
