//! Rule projects: `watchfire rule new`, `rule build`, in every language that has an SDK.
//!
//! [`sdk`] has the SDKs as they lie in this binary, [`tools`] fetches what a language's own tools lack, [`component`] makes
//! a component of what compilers give. There is one file for each language: what it needs, and how it builds.

mod c;
mod component;
mod go;
mod javascript;
mod python;
mod rust;
mod sdk;
mod tools;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use watchfire_model::RuleSpec;

use crate::commands::ClientError;

/// A language that rules are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// The first.
    Rust,
    /// Compiled with CPython inside.
    Python,
    /// Compiled with QuickJS inside.
    JavaScript,
    /// JavaScript with types.
    TypeScript,
    /// The standard toolchain.
    Go,
    /// C11.
    C,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Rust, Self::Python, Self::JavaScript, Self::TypeScript, Self::Go, Self::C];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::JavaScript => "javascript",
            Self::TypeScript => "typescript",
            Self::Go => "go",
            Self::C => "c",
        }
    }

    /// The language of a project, by its files.
    fn of(folder: &Path) -> Option<Self> {
        let has = |name: &str| folder.join(name).is_file();
        Some(match () {
            () if has("Cargo.toml") => Self::Rust,
            () if has("go.mod") => Self::Go,
            () if has("package.json") && has("rule.ts") => Self::TypeScript,
            () if has("package.json") => Self::JavaScript,
            () if has("rule.py") => Self::Python,
            () if has("rule.c") => Self::C,
            () => return None,
        })
    }
}

fn usage(what: String) -> anyhow::Error {
    ClientError::Usage(what).into()
}

/// Makes a project in a folder of its name.
pub fn new(name: &str, language: &str, parent: &Path) -> Result<PathBuf> {
    let Some(language) = Language::ALL.into_iter().find(|known| known.name() == language) else {
        let known: Vec<&str> = Language::ALL.iter().map(|language| language.name()).collect();
        return Err(usage(format!("there is no template for {language:?}; there are {}", known.join(", "))));
    };
    RuleSpec::check_name(name).map_err(usage)?;
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.contains('.') {
        let what = "a project's name is a package's too: it begins with a letter and has no '.'";
        return Err(usage(what.into()));
    }
    let folder = parent.join(name);
    if folder.exists() {
        bail!("{} is there already", folder.display());
    }
    sdk::write_project(language, name, &folder)?;
    Ok(folder)
}

/// The component of the one rule in a folder.
pub fn component(folder: &Path) -> Result<Vec<u8>> {
    let mut built = compile(folder)?;
    match (built.pop(), built.is_empty()) {
        (Some((_, component)), true) => Ok(component),
        _ => bail!("{} has more than one rule", folder.display()),
    }
}

/// Builds the rule of a folder, in Rust every rule of a workspace; gives the components. They are put into `output`, or
/// beside the project.
pub fn build(folder: &Path, output: Option<&Path>) -> Result<Vec<PathBuf>> {
    let built = compile(folder)?;
    let output = output.unwrap_or(folder);
    std::fs::create_dir_all(output).with_context(|| format!("{} cannot be made", output.display()))?;
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

/// Compiles the rules of a folder: each with its name.
fn compile(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let Some(language) = Language::of(folder) else {
        return Err(usage(format!(
            "{} is no rule project: there is no Cargo.toml, go.mod, package.json, rule.py or rule.c",
            folder.display()
        )));
    };
    let folder = &folder.canonicalize().with_context(|| format!("{} cannot be read", folder.display()))?;
    if language == Language::Rust {
        return rust::build(folder);
    }
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.context("the folder has no name")?;
    let component = match language {
        Language::Python => python::build(folder)?,
        Language::Go => go::build(folder)?,
        Language::C => c::build(folder)?,
        _ => javascript::build(folder)?,
    };
    Ok(vec![(name, component)])
}
