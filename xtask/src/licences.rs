//! The licences that a dependency may have: permissive ones, and MPL-2.0, whose duties end at its own files.

use std::path::Path;

use anyhow::{Result, bail};

use crate::run::{Workspace, output};

const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Refuses a package whose licence is not of the list; gives how many packages there are.
pub fn check(workspace: &Workspace, folder: &Path) -> Result<usize> {
    let metadata = output(workspace.cargo_in(folder).args(["metadata", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut faults = Vec::new();
    for package in packages {
        let (name, version) = (package["name"].as_str(), package["version"].as_str());
        let licence = package["license"].as_str().unwrap_or("none");
        if !allowed(licence) {
            faults.push(format!("{} {}: {licence}", name.unwrap_or("?"), version.unwrap_or("?")));
        }
    }
    if !faults.is_empty() {
        bail!("licences that are not on the list:\n  {}", faults.join("\n  "));
    }
    Ok(packages.len())
}

/// Whether an SPDX expression can be met by licences of the list: `OR` offers a choice, `AND` asks for both
/// and binds more tightly. The old form `A/B` is a choice.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    either(&words, &mut at) && at == words.len()
}

fn either(words: &[&str], at: &mut usize) -> bool {
    let mut met = both(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at);
    }
    met
}

fn both(words: &[&str], at: &mut usize) -> bool {
    let mut met = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at);
    }
    met
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let Some(&word) = words.get(*at) else { return false };
    *at += 1;
    if word == "(" {
        let met = either(words, at);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return met && closed;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        *at += 2;
        return ALLOWED.contains(&format!("{word} WITH {exception}").as_str());
    }
    ALLOWED.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        let check =
            |expression: &str, expected: bool| assert_eq!(allowed(expression), expected, "{expression}");
        check("MIT", true);
        check("MIT OR Apache-2.0", true);
        check("MIT/Apache-2.0", true);
        check("GPL-3.0", false);
        check("GPL-3.0 OR MIT", true);
        check("GPL-3.0 AND MIT", false);
        check("(MIT OR GPL-3.0) AND Unicode-3.0", true);
        check("MIT AND (GPL-2.0 OR LGPL-2.1)", false);
        check("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", true);
        check("GPL-2.0 WITH Classpath-exception-2.0", false);
        check("", false);
        check("none", false);
        check("(MIT", false);
    }
}
