//! `watchfire restore FILE`: a data folder of what `watchfire backup` wrote.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::config::Config;

/// What is restored, and where.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What `watchfire backup` wrote
    file: PathBuf,
    /// The data folder; what the configuration says where it is not given. It must not exist, or be empty
    #[arg(long)]
    data: Option<PathBuf>,
    /// The configuration that names it
    #[arg(long, env = "WATCHFIRE_CONFIG")]
    config: Option<PathBuf>,
}

/// The file that tells the next start that the folder was restored.
pub const MARK: &str = "restored";

/// Unpacks it. `json`: for programs.
pub fn run(options: Options, json: bool) -> Result<()> {
    let data = match options.data {
        Some(data) => data,
        None => Config::load(options.config.as_deref())?.data,
    };
    if std::fs::read_dir(&data).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty: a restore replaces nothing", data.display());
    }
    let file =
        File::open(&options.file).with_context(|| format!("{} cannot be read", options.file.display()))?;
    // Beside its place first: half a restore must not look like a data folder.
    let mut partial = data.clone().into_os_string();
    partial.push(".restoring");
    let partial = PathBuf::from(partial);
    if partial.exists() {
        std::fs::remove_dir_all(&partial)?;
    }
    let files = watchfire_api::backup::unpack(&mut BufReader::new(file), &partial)
        .with_context(|| format!("{} is no backup", options.file.display()))?;
    if !partial.join("log").is_dir() || !partial.join("watchfire.db").is_file() {
        bail!("{} is no backup: it has no log or no store", options.file.display());
    }
    std::fs::write(partial.join(MARK), "a new epoch begins at the next start\n")?;
    if data.is_dir() {
        std::fs::remove_dir(&data)?;
    }
    std::fs::rename(&partial, &data)?;
    if json {
        println!("{}", serde_json::json!({"files": files, "data": data}));
        return Ok(());
    }
    println!("{} files restored to {}; the next start begins a new epoch", files, data.display());
    Ok(())
}
