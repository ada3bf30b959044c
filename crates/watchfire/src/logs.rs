//! `watchfire log ls|verify|dump`: looks into the log of an engine that does not run.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use watchfire_log::inspect::{Inspection, is_wanted, to_json};
use watchfire_model::PartitionId;

/// Commands about the log.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Lists the segments.
    Ls(Folder),
    /// Reads every byte and says whether it is what was written.
    Verify(Folder),
    /// Prints records, a JSON object a line.
    Dump {
        /// Which log.
        #[command(flatten)]
        folder: Folder,
        /// Of this partition only.
        #[arg(long)]
        partition: Option<u16>,
        /// From this offset on.
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
}

/// Which log.
#[derive(Debug, clap::Args)]
pub struct Folder {
    /// The data folder; what the configuration says where it is not given.
    #[arg(long)]
    data: Option<PathBuf>,
    /// The configuration that names it.
    #[arg(long, env = "WATCHFIRE_CONFIG")]
    config: Option<PathBuf>,
}

impl Folder {
    fn open(&self) -> Result<Inspection> {
        let data = match &self.data {
            Some(data) => data.clone(),
            None => crate::config::Config::load(self.config.as_deref())?.data,
        };
        open(&data)
    }
}

fn open(data: &Path) -> Result<Inspection> {
    let folder = data.join("log");
    anyhow::ensure!(folder.is_dir(), "there is no log in {}", data.display());
    Inspection::open(&folder).with_context(|| format!("the log in {}", data.display()))
}

/// Runs one. `json`: for programs; records are JSON in any case.
pub fn run(command: LogCommand, json: bool) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match command {
        LogCommand::Ls(folder) => {
            let log = folder.open()?;
            if json {
                let document = serde_json::json!({
                    "epoch": log.epoch(),
                    "partitions": log.partitions(),
                    "segments": log.segments(),
                });
                writeln!(out, "{document}")?;
                return Ok(out.flush()?);
            }
            writeln!(out, "epoch {}, {} partitions", log.epoch(), log.partitions())?;
            writeln!(out, "{:<28} {:>12} {:>14}  last appended at", "segment", "first group", "bytes")?;
            for segment in log.segments() {
                writeln!(
                    out,
                    "{:<28} {:>12} {:>14}  {}",
                    segment.file, segment.first_group, segment.bytes, segment.last_appended_at
                )?;
            }
        }
        LogCommand::Verify(folder) => {
            let found = folder.open()?.verify()?;
            if json {
                writeln!(out, "{}", serde_json::to_string(&found)?)?;
                return Ok(out.flush()?);
            }
            writeln!(
                out,
                "{} segments, {} groups, {} records, {} bytes: all as written",
                found.segments, found.groups, found.records, found.bytes
            )?;
            if let Some((file, at, bytes)) = found.torn {
                writeln!(
                    out,
                    "a torn write of {bytes} bytes at the end of {file}, byte {at}: nobody was told that it is durable"
                )?;
            }
        }
        LogCommand::Dump { folder, partition, from } => {
            let log = folder.open()?;
            for entry in log.entries() {
                let entry = entry?;
                if is_wanted(&entry, partition.map(PartitionId), from) {
                    match writeln!(out, "{}", to_json(&entry)) {
                        // The reader of a pipe has seen enough.
                        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                        written => written?,
                    }
                }
            }
        }
    }
    out.flush()?;
    Ok(())
}
