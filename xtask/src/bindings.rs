//! Whether the bindings that are checked in have the comments of `wit/`. That the code of them is as `wit/` has it, the
//! components built with it say; a comment that is an old one, nobody but a reader.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use wit_parser::{Docs, Resolve, TypeDefKind, WorldKey};

use crate::run::Workspace;

/// Where generated code is, and whether its generator carries the comments of functions over, beside those of types. No
/// generator does with those of what a module exports.
const GENERATED: [(&str, bool); 2] =
    [("guest-sdk/c/bindings", true), ("guest-sdk/go/internal/imports", false)];

/// Fails with a comment that is not there.
pub fn check(workspace: &Workspace) -> Result<()> {
    let (types, functions) = comments(&workspace.root.join("wit"))?;
    for (folder, carries_functions) in GENERATED {
        let mut found = BTreeSet::new();
        read(&workspace.root.join(folder), &mut found)?;
        let wanted = types.iter().chain(functions.iter().filter(|_| carries_functions));
        if let Some(line) = { wanted }.find(|line| !found.contains(*line)) {
            bail!(
                "{folder} has not the comment {line:?} of wit/: the README of the language says how it is made anew"
            );
        }
    }
    Ok(())
}

/// The lines of the comments of types and their members, and of functions that a module imports.
fn comments(wit: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit).context("wit/ is no package")?;
    let package = &resolve.packages[package];
    let (mut types, mut functions) = (Vec::new(), Vec::new());
    for id in package.interfaces.values() {
        let exported = package
            .worlds
            .values()
            .any(|world| resolve.worlds[*world].exports.contains_key(&WorldKey::Interface(*id)));
        let interface = &resolve.interfaces[*id];
        if !exported {
            interface.functions.values().for_each(|function| add(&mut functions, &function.docs));
        }
        for id in interface.types.values() {
            let definition = &resolve.types[*id];
            add(&mut types, &definition.docs);
            match &definition.kind {
                TypeDefKind::Record(record) => record.fields.iter().for_each(|of| add(&mut types, &of.docs)),
                TypeDefKind::Variant(variant) => {
                    variant.cases.iter().for_each(|of| add(&mut types, &of.docs))
                }
                TypeDefKind::Enum(cases) => cases.cases.iter().for_each(|of| add(&mut types, &of.docs)),
                _ => {}
            }
        }
    }
    Ok((types, functions))
}

fn add(lines: &mut Vec<String>, docs: &Docs) {
    let text = docs.contents.as_deref().unwrap_or_default();
    lines.extend(text.lines().map(|line| line.trim().to_string()).filter(|line| !line.is_empty()));
}

/// The comments, a line each, of all files of a folder.
fn read(folder: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, found)?;
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let comments = text.lines().filter_map(|line| line.trim_start().strip_prefix("//"));
        found.extend(comments.map(|line| line.trim().to_string()));
    }
    Ok(())
}
