//! From what a compiler gives to a component, without any tool that somebody would have to install.

use std::path::Path;

use anyhow::{Context, Result};
use watchfire_host::component::{Core, from_core};

/// The world that all SDKs implement.
const WORLD: &str = "full-rule";

/// The component of a core module that says nothing of the contract. `adapter`: the text of a module that stands in for
/// WASI.
pub fn of(core: &Path, wit: &Path, adapter: Option<&Path>) -> Result<Vec<u8>> {
    let bytes = std::fs::read(core).with_context(|| format!("{} cannot be read", core.display()))?;
    let adapter = match adapter {
        Some(text) => Some(
            wat::parse_file(text)
                .map_err(|error| anyhow::anyhow!("the adapter {}: {error}", text.display()))?,
        ),
        None => None,
    };
    let core = Core {
        module: &bytes,
        wit: Some((wit, WORLD)),
        adapter: adapter.as_deref().map(|bytes| ("wasi_snapshot_preview1", bytes)),
    };
    Ok(from_core(&core)?)
}
