//! Runs again when something changes: looks at the times of files, which works on every file system and in containers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::{Options, once};

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(300);

/// How long nothing may change before a run: an editor writes several times, a checkout many files.
const QUIET: Duration = Duration::from_millis(200);

/// Files of a project that are looked at: more of them are no project of a rule.
const MOST: usize = 20_000;

/// What builds write into a project, and nobody by hand.
const MADE: [&str; 5] = ["target", "node_modules", "__pycache__", "Cargo.lock", "package-lock.json"];

/// Runs, waits for a change, and runs again, until it is interrupted.
pub async fn run(options: Options, json: bool) -> Result<()> {
    let again = async {
        loop {
            let before = look(&options);
            let (now, same) = (options.clone(), json);
            let done =
                tokio::task::spawn_blocking(move || once(&now, same)).await.context("the run ended early")?;
            if let Err(error) = done {
                eprintln!("watchfire: {error:#}");
            }
            if !json {
                println!("waiting for a change in {}; Ctrl-C ends it", options.folder.display());
            }
            // What changed while it ran is a change too.
            settled(&options, before).await;
        }
    };
    tokio::select! {
        ended = again => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Waits until files are others than before, and then until they stay as they are.
async fn settled(options: &Options, before: Files) {
    while look(options) == before {
        tokio::time::sleep(LOOK).await;
    }
    let mut seen = look(options);
    loop {
        tokio::time::sleep(QUIET).await;
        let now = look(options);
        if now == seen {
            return;
        }
        seen = now;
    }
}

/// Files, each with when it was changed and its size.
type Files = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

fn look(options: &Options) -> Files {
    let mut files = Files::new();
    // With a component that is given, only its cases are the project's.
    let folder = match &options.module {
        Some(module) => {
            note(&mut files, module);
            options.folder.join("cases")
        }
        None => options.folder.clone(),
    };
    // What a run writes is no change.
    let results = options.junit.as_deref().and_then(|file| file.canonicalize().ok());
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let made = name.starts_with('.') || MADE.contains(&&*name) || name.ends_with(".wasm");
            let ours = results.is_some() && path.canonicalize().ok() == results;
            if made || ours || files.len() >= MOST {
                continue;
            }
            // A link to a folder above would lead round and round.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                _ => note(&mut files, &path),
            }
        }
    }
    files
}

fn note(files: &mut Files, path: &Path) {
    let known = std::fs::metadata(path).ok();
    let changed = known.as_ref().and_then(|known| known.modified().ok());
    files.insert(path.into(), (changed, known.map_or(0, |known| known.len())));
}
