//! Follows the tutorials to the letter: files are written and changed as they say, commands are run by one shell in an
//! empty folder, and what they print is held against what is said of it.
//!
//! Of what is expected, each line must be printed, in that order. Numbers, times and ids count as equal, `...` stands for
//! anything, and so does white space of any length.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::run::Workspace;

/// Each with what must be on the path.
const TUTORIALS: [(&str, &str); 6] = [
    ("alerts", "python3"),
    ("rust", "cargo"),
    ("python", "python3"),
    ("javascript", "npm"),
    ("go", "go"),
    ("c", "python3"),
];

/// The ports that an engine without a configuration listens on, and that the mail of a tutorial goes to.
const PORTS: [u16; 3] = [8080, 1883, 2525];

/// A first build of a project is among what a block does.
const PATIENCE: Duration = Duration::from_secs(600);

/// Follows all of them, or those that are named.
pub fn follow(workspace: &Workspace, names: &[String]) -> Result<String> {
    if let Some(unknown) = names.iter().find(|name| TUTORIALS.iter().all(|(known, _)| known != *name)) {
        bail!("there is no tutorial {unknown:?}");
    }
    build::binary(workspace)?;
    let mut followed = 0;
    for (name, needs) in TUTORIALS {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let tool = Command::new(needs).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if tool.is_err() {
            println!("SKIPPED tutorial {name}: there is no {needs}");
            continue;
        }
        if let Some(port) = PORTS.into_iter().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_err()) {
            bail!("port {port} of this machine is not free: the tutorials name it");
        }
        let path = format!("docs/tutorials/{name}.md");
        println!("== {path}");
        let text = std::fs::read_to_string(workspace.root.join(&path))
            .with_context(|| format!("{path} cannot be read"))?;
        let folder = workspace.target.join("xtask/tutorials").join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        walk(workspace, &folder, &text).with_context(|| path)?;
        followed += 1;
    }
    Ok(format!("{followed} tutorials hold"))
}

/// A block of a document.
struct Block<'a> {
    line: usize,
    /// What stands behind the three marks.
    kind: &'a str,
    /// The last name in marks of code of a paragraph above that ends with a colon: the file that the block is about.
    file: Option<&'a str>,
    body: String,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut above = "";
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else {
            if !line.is_empty() {
                above = line;
            }
            continue;
        };
        let mut body = String::new();
        for (_, line) in lines.by_ref().take_while(|(_, line)| *line != "```") {
            body += line;
            body.push('\n');
        }
        let file = above.ends_with(':').then(|| above.split('`').rev().nth(1)).flatten();
        blocks.push(Block { line: at + 1, kind, file, body });
        above = "";
    }
    blocks
}

fn walk(workspace: &Workspace, folder: &Path, text: &str) -> Result<()> {
    let mut shell = Shell::start(workspace, folder)?;
    let (mut here, mut printed) = (folder.to_owned(), String::new());
    for block in blocks(text) {
        let file = block.file.map(|name| here.join(name));
        match (block.kind, file) {
            ("sh", _) => {
                print!("{}", block.body);
                let began = Instant::now();
                (printed, here) = shell.run(&block.body)?;
                println!("  ({} s)", began.elapsed().as_secs());
            }
            ("text", _) => {
                if let Some(missing) = missing(&block.body, &printed) {
                    bail!("line {}: {missing:?} was not printed, but\n{printed}", block.line);
                }
            }
            ("diff", Some(file)) => {
                let before = std::fs::read_to_string(&file)
                    .with_context(|| format!("line {}: {} cannot be read", block.line, file.display()))?;
                let after = changed(&before, &block.body)
                    .with_context(|| format!("line {}: {}", block.line, file.display()))?;
                std::fs::write(&file, after)?;
            }
            (_, Some(file)) => {
                std::fs::create_dir_all(file.parent().context("a file lies in a folder")?)?;
                std::fs::write(&file, &block.body)?;
            }
            (kind, None) => bail!("line {}: nothing says which file this {kind} is of", block.line),
        }
    }
    Ok(())
}

/// The first line of what is expected that does not stand in what was printed, below those before it.
fn missing<'a>(expected: &'a str, printed: &str) -> Option<&'a str> {
    let printed: Vec<_> = printed.lines().map(plain).collect();
    let mut from = 0;
    for line in expected.lines().filter(|line| !line.trim().is_empty() && line.trim() != "...") {
        let wanted = plain(line);
        match printed[from..].iter().position(|line| fits(&wanted, line)) {
            Some(at) => from += at + 1,
            None => return Some(line),
        }
    }
    None
}

/// Whether a line is as expected; `...` is anything.
fn fits(wanted: &str, line: &str) -> bool {
    let mut parts = wanted.split("...");
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A line with its numbers and ids alike, and single spaces.
fn plain(line: &str) -> String {
    let mut out = String::new();
    for word in line.split_whitespace() {
        let parts = word.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
        let mut any = String::new();
        for part in parts {
            let (name, mark) = match part.strip_suffix(|c: char| !c.is_ascii_alphanumeric()) {
                Some(name) => (name, &part[name.len()..]),
                None => (part, ""),
            };
            let number = name.starts_with(|c: char| c.is_ascii_digit());
            let id = name.len() >= 8 && name.chars().all(|c| c.is_ascii_hexdigit());
            let _ = write!(any, "{}{mark}", if number || id { "#" } else { name });
        }
        // A fraction more or less is no other number.
        while any.contains("#.#") {
            any = any.replace("#.#", "#");
        }
        let _ = write!(out, "{}{any}", if out.is_empty() { "" } else { " " });
    }
    out
}

/// A file with the hunks of a difference applied; each must fit at one place.
fn changed(before: &str, difference: &str) -> Result<String> {
    let mut text = before.to_string();
    let side = |hunk: &[&str], mark: char| {
        let of_side = hunk.iter().filter(|line| line.is_empty() || line.starts_with([' ', mark]));
        of_side.map(|line| format!("{}\n", line.get(1..).unwrap_or_default())).collect::<String>()
    };
    let lines: Vec<_> = difference.lines().collect();
    for hunk in lines.split(|line| line.starts_with("@@")) {
        let (old, new) = (side(hunk, '-'), side(hunk, '+'));
        match text.matches(&old).count() {
            1 => text = text.replacen(&old, &new, 1),
            count => bail!("this stands there {count} times:\n{old}"),
        }
    }
    Ok(text)
}

/// One shell for all blocks of a tutorial, as a reader has one.
struct Shell {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    fn start(workspace: &Workspace, folder: &Path) -> Result<Self> {
        let binary = workspace.binary("watchfire");
        let own = binary.parent().context("the binary lies in a folder")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([own.to_owned()].into_iter().chain(std::env::split_paths(&path)))?;
        let mut command = Command::new("sh");
        command.arg("-c").arg("exec 2>&1; exec sh").current_dir(folder).env("PATH", path);
        command.env("WATCHFIRE_CACHE", workspace.languages()).env_remove("RUST_BACKTRACE");
        // What projects in Rust depend on is compiled once.
        command.env("CARGO_TARGET_DIR", workspace.languages().join("target"));
        for name in ["WATCHFIRE_CONFIG", "WATCHFIRE_SERVER", "WATCHFIRE_TOKEN"] {
            command.env_remove(name);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("sh")?;
        let output = child.stdout.take().context("the shell has an output")?;
        let input = child.stdin.take().context("the shell has an input")?;
        let (sender, lines) = sync_channel(1024);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, input, lines })
    }

    /// Runs a block; gives what it prints, and the folder that the shell is in behind it.
    fn run(&mut self, block: &str) -> Result<(String, PathBuf)> {
        writeln!(self.input, "{block}printf '\\n=done %s\\n' \"$PWD\"")?;
        let deadline = Instant::now() + PATIENCE;
        let mut printed = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else { bail!("no end of\n{block}\n{printed}") };
            match line.strip_prefix("=done ") {
                Some(folder) => return Ok((printed, folder.into())),
                None => {
                    printed += &line;
                    printed.push('\n');
                }
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The engine and the fleet, where a step failed before they ended; without them the shell says no.
        let _ = writeln!(self.input, "kill $ENGINE $MAIL $! 2> /dev/null; exit");
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_file_that_the_paragraph_above_ends_with() {
        let text = "The whole of `a/b.py`:\n\n```python\nx\n\ny\n```\n\nThen run it.\n\n```sh\nls\n```\n";
        let found: Vec<_> = blocks(text).into_iter().map(|b| (b.line, b.kind, b.file, b.body)).collect();
        assert_eq!(
            found,
            [(3, "python", Some("a/b.py"), "x\n\ny\n".into()), (11, "sh", None, "ls\n".to_string())]
        );
    }

    #[test]
    fn what_is_expected_is_printed_in_that_order() {
        let printed =
            "id   at\n1/0/812/0  2026-01-01T10:00:00.123456Z  rule x\nsha 0123456789ab\nwhat: a (b)\n";
        assert_eq!(missing("id at\n1/0/9/3   2027-02-03T04:05:06.7Z   rule x\n", printed), None);
        assert_eq!(missing("...\nsha ffffffffff\n", printed), None);
        assert_eq!(missing("what: ... (b)\n", printed), None);
        assert_eq!(missing("what: ... (c)\n", printed), Some("what: ... (c)"));
        assert_eq!(missing("sha 0123456789\nid at\n", printed), Some("id at"));
        assert_eq!(missing("1/0/812/0 ... rule y\n", printed), Some("1/0/812/0 ... rule y"));
    }

    #[test]
    fn a_difference_fits_at_one_place_or_not_at_all() {
        let before = "a\nb\nc\n\na\nd\n";
        assert_eq!(changed(before, " a\n-b\n+B\n@@\n \n a\n+e\n d\n").unwrap(), "a\nB\nc\n\na\ne\nd\n");
        assert!(changed(before, "-a\n+x\n").is_err());
        assert!(changed(before, "-y\n+x\n").is_err());
    }
}
