//! What documents say of other files: that code they quote stands there, and that what they link to is there.

use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::contract;
use crate::run::{Workspace, output};

/// Stands above a block of code that is quoted from a file: `<!-- from PATH -->`.
const QUOTED: &str = "<!-- from ";

/// Checks every document that git knows.
pub fn check(workspace: &Workspace) -> Result<String> {
    contract::write(workspace, true)?;
    let mut git = Command::new("git");
    git.current_dir(&workspace.root);
    let tracked = output(git.args(["ls-files", "*.md"])).context("the documents are asked of git")?;
    let (mut quotes, mut links) = (0, 0);
    for name in tracked.lines() {
        let text = std::fs::read_to_string(workspace.root.join(name))
            .with_context(|| format!("{name} cannot be read"))?;
        for quote in quoted(&text).with_context(|| name.to_string())? {
            let source = std::fs::read_to_string(workspace.root.join(quote.path))
                .with_context(|| format!("{name}:{}: {} cannot be read", quote.line, quote.path))?;
            if !stands_in(&quote.lines, &source) {
                bail!("{name}:{}: this does not stand in {} any more", quote.line, quote.path);
            }
            quotes += 1;
        }
        for (line, target) in linked(&text) {
            let path = beside(Path::new(name), target);
            if !workspace.root.join(&path).exists() {
                bail!("{name}:{line}: links to {}, which is not there", path.display());
            }
            links += 1;
        }
    }
    Ok(format!("{quotes} quotations stand where they are from, {links} links lead somewhere"))
}

/// A block of code that says where it is from.
struct Quote<'a> {
    line: usize,
    path: &'a str,
    lines: Vec<&'a str>,
}

/// The quotations of a document.
fn quoted(text: &str) -> Result<Vec<Quote<'_>>> {
    let mut quotes = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(path) = line.strip_prefix(QUOTED).and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        if !lines.next().is_some_and(|(_, line)| line.starts_with("```")) {
            bail!("line {}: no block of code stands below {line}", at + 1);
        }
        let block: Vec<_> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        quotes.push(Quote { line: at + 1, path, lines: block });
    }
    Ok(quotes)
}

/// Whether lines stand in a text one below the other, perhaps further to the right.
fn stands_in(lines: &[&str], text: &str) -> bool {
    let Some(first) = lines.iter().position(|line| !line.is_empty()) else { return false };
    let text: Vec<_> = text.lines().collect();
    text.windows(lines.len()).any(|window| {
        let Some(indent) = window[first].strip_suffix(lines[first]) else { return false };
        indent.trim().is_empty()
            && window
                .iter()
                .zip(lines)
                .all(|(there, quoted)| there.strip_prefix(indent).unwrap_or(there.trim_start()) == *quoted)
    })
}

/// What a document links to in this repository, with the line: without what is quoted as code.
fn linked(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    let mut code = false;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        // Every second part stands between marks of code.
        for part in line.split('`').step_by(2) {
            for (start, _) in part.match_indices("](") {
                let target = part[start + 2..].split(')').next().unwrap_or_default();
                let target = target.split('#').next().unwrap_or_default();
                if !target.is_empty() && !target.contains("://") {
                    links.push((at + 1, target));
                }
            }
        }
    }
    links
}

/// A path that is meant from the folder of a document.
fn beside(document: &Path, target: &str) -> PathBuf {
    let mut path = document.parent().unwrap_or(Path::new("")).to_owned();
    for component in Path::new(target).components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quotation_may_be_indented_and_nothing_else() {
        let source = "class A:\n    def f(x):\n        g(x)\n\n        h(x)\n\nclass B:\n    pass\n";
        assert!(stands_in(&["def f(x):", "    g(x)", "", "    h(x)"], source));
        assert!(stands_in(&["class B:"], source));
        assert!(!stands_in(&["def f(x):", "        g(x)"], source));
        assert!(!stands_in(&["f(x):"], source));
        assert!(!stands_in(&["def f(x):", "    g(y)"], source));
        assert!(!stands_in(&[], source));
    }

    #[test]
    fn quotations_are_found_and_must_have_a_block() {
        let text = "a\n<!-- from x/y.py -->\n```python\nb\n\nc\n```\nd\n";
        let quotes = quoted(text).unwrap();
        assert_eq!((quotes.len(), quotes[0].line, quotes[0].path), (1, 2, "x/y.py"));
        assert_eq!(quotes[0].lines, ["b", "", "c"]);
        assert!(quoted("<!-- from x -->\ntext\n").is_err());
    }

    #[test]
    fn links_are_those_of_the_text_and_of_this_repository() {
        let text = "[a](b.md#c) and [d](#e), [f](https://g.h)\n```\n[i](j.md)\n```\n`[k](l.md)` [m](../n)\n";
        assert_eq!(linked(text), [(1, "b.md"), (5, "../n")]);
        assert_eq!(beside(Path::new("docs/x/y.md"), "../n/./o.md"), Path::new("docs/n/o.md"));
        assert_eq!(beside(Path::new("README.md"), "docs/z.md"), Path::new("docs/z.md"));
    }
}
