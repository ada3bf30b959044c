//! The SDKs, as they lie in this binary: a new project carries a copy of the one that it needs, so that it builds anywhere,
//! without this repository. A new project is the sample `boiler-pressure` of its language under another name.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rust_embed::RustEmbed;

use super::Language;

/// `guest-sdk/`, less what is made there.
#[derive(RustEmbed)]
#[folder = "../../guest-sdk"]
#[exclude = "*/target/*"]
#[exclude = "*/node_modules/*"]
#[exclude = "*__pycache__*"]
#[exclude = "*.wasm"]
struct Sdks;

/// The folder of the SDK in a project.
pub const FOLDER: &str = "watchfire-rule";

const SAMPLE: &str = "boiler-pressure";

/// Of a new project; `{{name}}` and `{{rule}}` are replaced.
const README: &str = include_str!("README.md.txt");

/// The file that a writer of a rule changes.
fn rule_file(language: Language) -> &'static str {
    match language {
        Language::Rust => "src/lib.rs",
        Language::Python => "rule.py",
        Language::JavaScript => "rule.js",
        Language::TypeScript => "rule.ts",
        Language::Go => "main.go",
        Language::C => "rule.c",
    }
}

/// What of an SDK is no part of a project: it is about the SDK itself.
const OWN: [&str; 4] = ["samples/", "tests/", "test/", "Cargo.lock"];

/// The folder of a language in `guest-sdk/`.
fn folder(language: Language) -> &'static str {
    match language {
        Language::Rust => "rust",
        Language::Python => "python",
        Language::JavaScript | Language::TypeScript => "javascript",
        Language::Go => "go",
        Language::C => "c",
    }
}

/// Writes a project: the sample under its name, and the SDK beside it.
pub fn write_project(language: Language, name: &str, into: &Path) -> Result<()> {
    let sdk = format!("{}/", folder(language));
    let sample = format!("{sdk}samples/{SAMPLE}/");
    for file in Sdks::iter() {
        let (Some(bytes), Some(rest)) = (Sdks::get(&file), file.strip_prefix(&sample)) else { continue };
        let text = String::from_utf8_lossy(&bytes.data).replace(SAMPLE, name);
        let (mut rest, mut text) = (rest.to_string(), renamed(&text, name));
        // The sample in TypeScript is one in JavaScript: its types are inferred.
        if language == Language::JavaScript {
            if rest == "tsconfig.json" {
                continue;
            }
            (rest, text) = (rest.replace("rule.ts", "rule.js"), text.replace("rule.ts", "rule.js"));
        }
        write(&into.join(rest), text.as_bytes())?;
    }
    let readme = README.replace("{{name}}", name).replace("{{rule}}", rule_file(language));
    write(&into.join("README.md"), readme.as_bytes())?;
    write(&into.join(".gitignore"), b"/target\n*.wasm\n__pycache__/\nnode_modules/\n")?;
    write_sdk(language, &into.join(FOLDER))
}

/// The sample lies two folders below its SDK, and a project one above it; types are called as the rule is.
fn renamed(text: &str, name: &str) -> String {
    let words = name.split(['-', '_']).map(|word| {
        let mut letters = word.chars();
        letters
            .next()
            .map_or(String::new(), |first| first.to_ascii_uppercase().to_string() + letters.as_str())
    });
    let type_name: String = words.collect();
    text.replace("\"../..\"", &format!("\"{FOLDER}\""))
        .replace("\"../../", &format!("\"./{FOLDER}/"))
        .replace("file:../..", &format!("file:{FOLDER}"))
        .replace("=> ../../", &format!("=> ./{FOLDER}/"))
        .replace("=> ../..", &format!("=> ./{FOLDER}"))
        .replace("BoilerPressure", &type_name)
}

/// Writes an SDK.
pub fn write_sdk(language: Language, into: &Path) -> Result<()> {
    let sdk = format!("{}/", folder(language));
    for file in Sdks::iter() {
        let Some(rest) = file.strip_prefix(&sdk) else { continue };
        if OWN.iter().any(|own| rest.starts_with(own)) || rest.ends_with("_test.go") {
            continue;
        }
        if let Some(bytes) = Sdks::get(&file) {
            write(&into.join(rest), &bytes.data)?;
        }
    }
    Ok(())
}

/// The SDK of a project: its own copy; else that of this binary, in `scratch`.
pub fn of(project: &Path, language: Language, scratch: &Path) -> Result<PathBuf> {
    let own = project.join(FOLDER);
    if own.is_dir() {
        return Ok(own);
    }
    let into = scratch.join(FOLDER);
    write_sdk(language, &into)?;
    Ok(into)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("{} cannot be made", parent.display()))?;
    }
    std::fs::write(path, bytes).with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_project_points_out_of_it() {
        for language in Language::ALL {
            let parent = tempfile::tempdir().unwrap();
            let folder = parent.path().join("press-heat");
            write_project(language, "press-heat", &folder).unwrap();
            assert!(folder.join(rule_file(language)).is_file(), "{language:?}");
            let mut folders = vec![folder.clone()];
            let mut looked = 0;
            while let Some(next) = folders.pop() {
                for entry in std::fs::read_dir(next).unwrap().flatten() {
                    let path = entry.path();
                    // What an SDK says of its own place is not about projects.
                    if path == folder.join(FOLDER) {
                        continue;
                    }
                    if path.is_dir() {
                        folders.push(path);
                        continue;
                    }
                    let text = std::fs::read_to_string(&path).unwrap();
                    assert!(!text.contains("../.."), "{}:\n{text}", path.display());
                    looked += 1;
                }
            }
            assert!(looked >= 5, "{language:?}: {looked} files");
        }
    }
}
