//! `docs/contract.md`: the reference of what a rule imports and exports, from the comments of `wit/`. Written by hand it would
//! say something else before long.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use wit_parser::{
    Docs, InterfaceId, Package, Resolve, Type, TypeDef, TypeDefKind, TypeId, WorldItem, WorldKey,
};

use crate::run::Workspace;

/// What stands before the reference: how it is read.
const HEAD: &str = include_str!("contract-head.md.txt");

/// The world whose exports are all that there are.
const FULL: &str = "full-rule";

/// Writes the reference, or checks that it is what `wit/` says.
pub fn write(workspace: &Workspace, check: bool) -> Result<String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(workspace.root.join("wit")).context("wit/ is no package")?;
    let text = Reference { resolve: &resolve, package: &resolve.packages[package] }.text()?;
    let path = workspace.root.join("docs/contract.md");
    let same = std::fs::read_to_string(&path).is_ok_and(|committed| committed == text);
    if check && !same {
        bail!("docs/contract.md is not what wit/ says: `cargo xtask contract-docs` writes it");
    }
    if !same {
        std::fs::write(&path, &text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok("docs/contract.md is what wit/ says".into())
}

struct Reference<'a> {
    resolve: &'a Resolve,
    package: &'a Package,
}

impl Reference<'_> {
    fn text(&self) -> Result<String> {
        let full = self.package.worlds.get(FULL).with_context(|| format!("there is no world {FULL}"))?;
        let full = &self.resolve.worlds[*full];
        let exported = |id: InterfaceId| full.exports.contains_key(&WorldKey::Interface(id));
        let mut out = HEAD.replace("{{package}}", &self.package.name.to_string());
        for (title, export) in [("What a module may import", false), ("What a module exports", true)] {
            writeln!(out, "\n## {title}\n\n| interface | functions |\n|---|---|")?;
            for (name, &id) in self.package.interfaces.iter().filter(|(_, id)| exported(**id) == export) {
                let functions = self.resolve.interfaces[id].functions.keys();
                let functions: Vec<_> = functions.map(|name| format!("`{name}`")).collect();
                let functions =
                    if functions.is_empty() { "types alone".into() } else { functions.join(", ") };
                writeln!(out, "| [{name}](#{name}) | {functions} |")?;
            }
            for (name, &id) in self.package.interfaces.iter().filter(|(_, id)| exported(**id) == export) {
                self.interface(&mut out, name, id)?;
            }
        }
        writeln!(out, "\n## Worlds")?;
        for (name, &id) in &self.package.worlds {
            let world = &self.resolve.worlds[id];
            writeln!(out, "\n### {name}\n\n{}\n", commented(&world.docs, name)?)?;
            let names = |items: &mut dyn Iterator<Item = (&WorldKey, &WorldItem)>| {
                let names: Vec<_> = items.map(|(key, _)| self.interface_name(key)).collect();
                if names.is_empty() { "nothing".to_string() } else { names.join(", ") }
            };
            writeln!(out, "- imports: {}", names(&mut world.imports.iter()))?;
            writeln!(out, "- exports: {}", names(&mut world.exports.iter()))?;
        }
        Ok(out)
    }

    fn interface_name(&self, key: &WorldKey) -> String {
        let name = match key {
            WorldKey::Name(name) => Some(name.clone()),
            WorldKey::Interface(id) => self.resolve.interfaces[*id].name.clone(),
        };
        name.map_or_else(String::new, |name| format!("[{name}](#{name})"))
    }

    fn interface(&self, out: &mut String, name: &str, id: InterfaceId) -> Result<()> {
        let interface = &self.resolve.interfaces[id];
        writeln!(out, "\n### {name}\n\n{}", commented(&interface.docs, name)?)?;
        for (type_name, &id) in &interface.types {
            let definition = &self.resolve.types[id];
            // A `use` of another interface is told there.
            if !self.is_use(definition) {
                let place = format!("{name}.{type_name}");
                self.type_definition(out, &place, type_name, definition)?;
            }
        }
        if interface.functions.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n| function | does |\n|---|---|")?;
        for (function_name, function) in &interface.functions {
            let parameters: Vec<_> = function
                .params
                .iter()
                .map(|parameter| format!("{}: {}", parameter.name, self.type_text(&parameter.ty)))
                .collect();
            let result =
                function.result.map_or_else(String::new, |ty| format!(" -> {}", self.type_text(&ty)));
            let says = commented(&function.docs, &format!("{name}.{function_name}"))?;
            let signature = format!("{function_name}({}){result}", parameters.join(", "));
            writeln!(out, "| `{signature}` | {} |", cell(&says))?;
        }
        Ok(())
    }

    fn is_use(&self, definition: &TypeDef) -> bool {
        let TypeDefKind::Type(Type::Id(of)) = definition.kind else { return false };
        self.resolve.types[of].owner != definition.owner
    }

    fn type_definition(&self, out: &mut String, place: &str, name: &str, definition: &TypeDef) -> Result<()> {
        let kind = match &definition.kind {
            TypeDefKind::Record(_) => "record",
            TypeDefKind::Variant(_) => "variant",
            TypeDefKind::Enum(_) => "enum",
            TypeDefKind::Type(_) => "type",
            other => bail!("{place}: the reference does not know how to show a {}", other.as_str()),
        };
        let says = commented(&definition.docs, place)?;
        match &definition.kind {
            TypeDefKind::Type(ty) => {
                writeln!(out, "\n**{kind} `{name}`** = `{}`. {says}", self.type_text(ty))?
            }
            _ => writeln!(out, "\n**{kind} `{name}`**. {says}")?,
        }
        match &definition.kind {
            TypeDefKind::Record(record) => {
                let fields = record
                    .fields
                    .iter()
                    .map(|field| (&field.name, format!("`{}`", self.type_text(&field.ty)), &field.docs));
                table(out, ["field", "type"], fields.collect())?;
            }
            TypeDefKind::Variant(variant) => {
                let cases = variant.cases.iter().map(|case| {
                    let holds = case.ty.map_or_else(String::new, |ty| format!("`{}`", self.type_text(&ty)));
                    (&case.name, holds, &case.docs)
                });
                table(out, ["case", "holds"], cases.collect())?;
            }
            TypeDefKind::Enum(cases) => {
                let names: Vec<_> = cases.cases.iter().map(|case| format!("`{}`", case.name)).collect();
                writeln!(out, "\nOne of {}.", names.join(", "))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A type as WIT writes it.
    fn type_text(&self, ty: &Type) -> String {
        match ty {
            Type::Bool => "bool".into(),
            Type::U8 => "u8".into(),
            Type::U16 => "u16".into(),
            Type::U32 => "u32".into(),
            Type::U64 => "u64".into(),
            Type::S8 => "s8".into(),
            Type::S16 => "s16".into(),
            Type::S32 => "s32".into(),
            Type::S64 => "s64".into(),
            Type::F32 => "f32".into(),
            Type::F64 => "f64".into(),
            Type::Char => "char".into(),
            Type::String => "string".into(),
            Type::ErrorContext => "error-context".into(),
            Type::Id(id) => self.named_type_text(*id),
        }
    }

    fn named_type_text(&self, id: TypeId) -> String {
        let definition = &self.resolve.types[id];
        if let Some(name) = &definition.name {
            return name.clone();
        }
        match &definition.kind {
            TypeDefKind::Option(ty) => format!("option<{}>", self.type_text(ty)),
            TypeDefKind::List(ty) => format!("list<{}>", self.type_text(ty)),
            TypeDefKind::Result(result) => {
                let side = |ty: &Option<Type>| ty.map_or_else(|| "_".into(), |ty| self.type_text(&ty));
                format!("result<{}, {}>", side(&result.ok), side(&result.err))
            }
            TypeDefKind::Tuple(tuple) => {
                let types: Vec<_> = tuple.types.iter().map(|ty| self.type_text(ty)).collect();
                format!("tuple<{}>", types.join(", "))
            }
            other => other.as_str().into(),
        }
    }
}

/// Fields or cases, with their comments where there are any.
fn table(out: &mut String, head: [&str; 2], rows: Vec<(&String, String, &Docs)>) -> Result<()> {
    let told = rows.iter().any(|(_, _, docs)| !docs.is_empty());
    let third = if told { ["  |", "---|"] } else { ["", ""] };
    writeln!(out, "\n| {} | {} |{}\n|---|---|{}", head[0], head[1], third[0], third[1])?;
    for (name, of, docs) in rows {
        let says = cell(docs.contents.as_deref().unwrap_or_default());
        let says = if told { format!(" {says} |") } else { says };
        writeln!(out, "| `{name}` | {of} |{says}")?;
    }
    Ok(())
}

/// The comment of an item: one that has none says nothing to whoever writes a rule.
fn commented(docs: &Docs, place: &str) -> Result<String> {
    match docs.contents.as_deref().map(str::trim) {
        Some(text) if !text.is_empty() => Ok(text.to_string()),
        _ => bail!("{place} has no comment in wit/"),
    }
}

/// A comment as the cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(wit: &str) -> Result<String> {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("test.wit", wit)?;
        Reference { resolve: &resolve, package: &resolve.packages[package] }.text()
    }

    const SMALL: &str = "package a:b@1.0.0;
        /// Plain.
        interface types {
          /// A number.
          type device = u32;
        }
        /// Of this moment.
        interface clock {
          use types.{device};
          /// A pair.
          record pair { /// The first | one.
            first: device, second: option<list<string>> }
          /// The time.
          now: func(of: device) -> result<pair, string>;
        }
        /// All.
        world full-rule { import clock; export types; }";

    #[test]
    fn functions_types_and_worlds_are_told_with_their_comments() {
        let text = reference(SMALL).unwrap();
        for part in [
            "| `now(of: device) -> result<pair, string>` | The time. |",
            "**record `pair`**. A pair.",
            "| `first` | `device` | The first \\| one. |",
            "| `second` | `option<list<string>>` |  |",
            "**type `device`** = `u32`. A number.",
            "- imports: [types](#types), [clock](#clock)",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        // A type that is used elsewhere is told once.
        assert_eq!(text.matches("**type `device`**").count(), 1);
        assert!(text.find("### clock").unwrap() < text.find("## What a module exports").unwrap());
    }

    #[test]
    fn what_has_no_comment_is_named() {
        let error = reference(&SMALL.replace("/// The time.", "")).unwrap_err();
        assert_eq!(error.to_string(), "clock.now has no comment in wit/");
    }
}
