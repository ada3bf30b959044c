//! Rust: cargo, for a bare machine.

use std::path::Path;

use anyhow::{Result, bail};
use watchfire_host::build::build_rust_rules;

pub fn build(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let built = build_rust_rules(folder)?;
    if built.is_empty() {
        bail!("{} has no package with a library of type cdylib", folder.display());
    }
    Ok(built)
}
