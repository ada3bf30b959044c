//! Rule projects: `watchfire rule new`, `rule build`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use watchfire_host::build::build_rust_rules;
use watchfire_model::RuleSpec;

use crate::commands::ClientError;

/// The SDK and the contract, as they lie in a new project: it builds anywhere, without this repository.
const SDK: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../../guest-sdk/rust/Cargo.toml")),
    ("src/alert.rs", include_str!("../../../guest-sdk/rust/src/alert.rs")),
    ("src/batch.rs", include_str!("../../../guest-sdk/rust/src/batch.rs")),
    ("src/device.rs", include_str!("../../../guest-sdk/rust/src/device.rs")),
    ("src/device_rule.rs", include_str!("../../../guest-sdk/rust/src/device_rule.rs")),
    ("src/effects.rs", include_str!("../../../guest-sdk/rust/src/effects.rs")),
    ("src/glue.rs", include_str!("../../../guest-sdk/rust/src/glue.rs")),
    ("src/helpers.rs", include_str!("../../../guest-sdk/rust/src/helpers.rs")),
    ("src/lib.rs", include_str!("../../../guest-sdk/rust/src/lib.rs")),
    ("src/log.rs", include_str!("../../../guest-sdk/rust/src/log.rs")),
    ("src/parameters.rs", include_str!("../../../guest-sdk/rust/src/parameters.rs")),
    ("src/reading.rs", include_str!("../../../guest-sdk/rust/src/reading.rs")),
    ("src/rule.rs", include_str!("../../../guest-sdk/rust/src/rule.rs")),
    ("src/schema.rs", include_str!("../../../guest-sdk/rust/src/schema.rs")),
    ("src/state.rs", include_str!("../../../guest-sdk/rust/src/state.rs")),
    ("src/window.rs", include_str!("../../../guest-sdk/rust/src/window.rs")),
    ("wit/rule.wit", include_str!("../../../guest-sdk/rust/wit/rule.wit")),
];

/// A new project; `{{name}}` is replaced.
const TEMPLATE: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("template/Cargo.toml.txt")),
    ("README.md", include_str!("template/README.md.txt")),
    ("parameters.json", include_str!("template/parameters.json")),
    ("src/lib.rs", include_str!("template/lib.rs.txt")),
    ("cases/raises-and-clears.yaml", include_str!("template/raises-and-clears.yaml")),
    ("cases/stays-quiet.yaml", include_str!("template/stays-quiet.yaml")),
    (".gitignore", "/target\n*.wasm\n"),
];

fn usage(what: String) -> anyhow::Error {
    ClientError::Usage(what).into()
}

/// Makes a project in a folder of its name.
pub fn new(name: &str, language: &str, parent: &Path) -> Result<PathBuf> {
    if language != "rust" {
        return Err(usage(format!("there is no template for {language:?} yet: rust")));
    }
    RuleSpec::check_name(name).map_err(usage)?;
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.contains('.') {
        let what = "a project's name is a package's too: it begins with a letter and has no '.'";
        return Err(usage(what.into()));
    }
    let folder = parent.join(name);
    if folder.exists() {
        bail!("{} is there already", folder.display());
    }
    for (file, text) in TEMPLATE {
        write(&folder.join(file), &text.replace("{{name}}", name))?;
    }
    for (file, text) in SDK {
        write(&folder.join("watchfire-rule").join(file), text)?;
    }
    Ok(folder)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("{} cannot be made", parent.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

/// Builds every rule of a folder; gives the components. They are put into `output`, or beside the project.
pub fn build(folder: &Path, output: Option<&Path>) -> Result<Vec<PathBuf>> {
    if !folder.join("Cargo.toml").is_file() {
        return Err(usage(format!("{} is no rule project: there is no Cargo.toml", folder.display())));
    }
    let output = output.unwrap_or(folder);
    std::fs::create_dir_all(output).with_context(|| format!("{} cannot be made", output.display()))?;
    let built = build_rust_rules(folder)?;
    if built.is_empty() {
        bail!("{} has no package with a library of type cdylib", folder.display());
    }
    let mut files = Vec::new();
    for (name, component) in built {
        watchfire_host::inspect(&component).with_context(|| format!("{name} is no rule"))?;
        let path = output.join(format!("{name}.wasm"));
        // A component that did not change keeps its file and time.
        if std::fs::read(&path).ok().as_deref() != Some(&component[..]) {
            std::fs::write(&path, &component)
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        files.push(path);
    }
    Ok(files)
}
