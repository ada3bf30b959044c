//! Rules that come with the product: components in a folder, there as modules from the start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use watchfire_api::contract::{ModuleInfo, ModuleWorks};
use watchfire_api::control::ControlPlane;
use watchfire_model::{Digest, Timestamp};
use watchfire_store::{ModuleRow, Store};

/// The folder of shipped rules: as configured, or `rules` beside the binary, where that is there.
pub fn folder(configured: Option<&Path>) -> Option<PathBuf> {
    match configured {
        Some(folder) => Some(folder.into()),
        None => {
            let beside = std::env::current_exe().ok()?.parent()?.join("rules");
            beside.is_dir().then_some(beside)
        }
    }
}

/// The components in a folder and one level below, by name.
pub fn components(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .with_context(|| format!("the folder of rules {} cannot be read", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && depth == 0 {
                folders.push((path, depth + 1));
            } else if path.extension().is_some_and(|extension| extension == "wasm") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Registers what is not known yet. A component that cannot be loaded is passed over with a warning: it must
/// not keep the others from running.
pub async fn register(
    folder: &Path,
    works: &dyn ModuleWorks,
    store: &Store,
    control: &ControlPlane,
    now: Timestamp,
) -> Result<usize> {
    let mut added = 0;
    for path in components(folder)? {
        let bytes = std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let digest = Digest::of(&bytes);
        if control.module(digest).is_some() {
            continue;
        }
        let bytes: Arc<[u8]> = bytes.into();
        let info = match works.add(bytes.clone()).await {
            Ok(info) => ModuleInfo { uploaded_at: now, ..info },
            Err(refusal) => {
                tracing::warn!(file = %path.display(), code = refusal.code, %refusal, "a shipped rule is passed over");
                continue;
            }
        };
        let row = ModuleRow {
            digest,
            name: info.name.clone(),
            version: info.version.clone(),
            language: info.language.clone().unwrap_or_default(),
            size: info.size,
            report: serde_json::json!(info),
            created_at: now,
            created_by: "shipped".into(),
        };
        // Stored before it is known: a rule that names it must find it again after a restart.
        store.add_module(&row, bytes.to_vec()).await.context("a shipped rule could not be stored")?;
        tracing::info!(name = info.name, version = info.version, %digest, "a shipped rule");
        control.add_module(info);
        added += 1;
    }
    Ok(added)
}
