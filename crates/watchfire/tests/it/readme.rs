//! The README, followed to the letter: its `sh` blocks are run as they stand, in its order, by one shell in an empty
//! folder outside of the repository, against the binary of this build and on the ports that it names.
//!
//! Here and not in xtask: it is a test of the product, and cargo has built the binary by then. What the README says of
//! `cargo xtask` is what continuous integration runs itself; of that the test checks only that the command exists.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::binary::watchfire;

const README: &str = include_str!("../../../../README.md");
const XTASK: &str = include_str!("../../../../xtask/src/main.rs");

/// The first build of a rule project is among it.
const PATIENCE: Duration = Duration::from_secs(400);

/// Held by tests that take the ports that documents name.
pub static PORTS: Mutex<()> = Mutex::new(());

/// The blocks of a language, in order.
pub fn blocks(text: &str, language: &str) -> Vec<String> {
    let (mut blocks, mut block) = (Vec::new(), None::<String>);
    for line in text.lines() {
        match &mut block {
            Some(_) if line == "```" => blocks.extend(block.take()),
            Some(lines) => *lines += &format!("{line}\n"),
            None if line == format!("```{language}") => block = Some(String::new()),
            None => {}
        }
    }
    blocks
}

/// One shell for all blocks, as a reader has one.
struct Shell {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    fn start(folder: &Path) -> Self {
        // Its environment is that of the command, without what configures Watchfire.
        let clean = watchfire();
        let mut command = Command::new("sh");
        for (name, _) in clean.get_envs().filter(|(_, value)| value.is_none()) {
            command.env_remove(name);
        }
        command.current_dir(folder).env("TMPDIR", folder);
        // One target folder for all runs of the tests: what rules depend on is compiled once.
        command.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("rule-new"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = sync_channel(1024);
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        let input = child.stdin.take().unwrap();
        Self { child, input, lines }
    }

    /// Runs a block and gives what it prints; each of its lines must succeed.
    fn run(&mut self, block: &str) -> String {
        for line in block.lines() {
            writeln!(self.input, "{line}").unwrap();
            // On lines of their own, whatever the command ended with, and on both outputs: each is in order.
            writeln!(
                self.input,
                "DONE=$?; printf '\\n=done %s\\n' $DONE; printf '\\n=done %s\\n' $DONE >&2; (exit $DONE)"
            )
            .unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        let (mut text, mut ends) = (String::new(), 0);
        while ends < 2 * block.lines().count() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else { panic!("no end of\n{block}\n{text}") };
            match line.strip_prefix("=done ") {
                Some("0") => ends += 1,
                Some(code) => panic!("exit code {code} in\n{block}\n{text}"),
                None => text += &format!("{line}\n"),
            }
        }
        text
    }

    /// Runs a block again until it shows something: a reader looks twice, too.
    fn look_for(&mut self, block: &str, expected: &[&str]) -> String {
        let deadline = Instant::now() + crate::PATIENCE;
        loop {
            let text = self.run(block);
            if expected.iter().all(|part| text.contains(part)) {
                return text;
            }
            assert!(Instant::now() < deadline, "{expected:?} is not shown by\n{block}\n{text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The engine, where a block failed before it was stopped; without one the shell says no.
        let _ = writeln!(self.input, "kill $!; exit");
        let _ = self.child.wait();
    }
}

#[test]
fn each_command_of_the_readme_does_what_it_says() {
    let (mut xtask, mut tour) = (Vec::new(), Vec::new());
    for block in blocks(README, "sh") {
        if block.starts_with("cargo xtask ") { xtask.push(block) } else { tour.push(block) }
    }
    assert!(!xtask.is_empty());
    for line in xtask.iter().flat_map(|block| block.lines()) {
        let command = line.split(' ').nth(2).unwrap();
        assert!(XTASK.contains(&format!("\"{command}\" =>")), "there is no {line:?}");
    }
    let _ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    for port in [8080, 1883] {
        if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
            return watchfire_services::skip(
                "readme",
                &format!("port {port} of this machine is not free: {error}"),
            );
        }
    }
    if Command::new("curl").arg("--version").output().is_err() {
        return watchfire_services::skip("readme", "there is no curl");
    }

    // What `cargo build --package watchfire` leaves behind, at the place that the README names.
    let folder = tempfile::tempdir().unwrap();
    let built = folder.path().join("target/debug");
    std::fs::create_dir_all(&built).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_watchfire"), built.join("watchfire")).unwrap();
    let build = "cargo build --package watchfire\n";
    assert!(tour[0].starts_with(build), "{}", tour[0]);
    tour[0] = tour[0].replacen(build, "", 1);

    let mut shell = Shell::start(folder.path());
    let mut lists = 0;
    for block in &tour {
        let command = block.lines().last().unwrap();
        match command {
            "watchfire alert ls" => {
                lists += 1;
                shell.look_for(block, &["boiler-pressure", "boiler-0042", "active"]);
            }
            "watchfire alert ls --all" => {
                lists += 1;
                shell.look_for(block, &["boiler-pressure", "boiler-0042", "resolved", "acknowledged"]);
                assert!(!shell.run("watchfire alert ls\n").contains("boiler-0042"));
            }
            _ => {
                let text = shell.run(block);
                let check = |of: &str, expected: &str| {
                    assert!(!command.starts_with(of) || text.contains(expected), "{block}\n{text}");
                };
                check("watchfire rule test", "2 of 2 cases passed");
                check("watchfire rule deploy", "version 1 (active)");
                check("watchfire alert ack", "13.5");
                check("watchfire alert ack", "is acknowledged");
                check("curl", r#"{"accepted":1,"rejected":[]}"#);
            }
        }
    }
    assert_eq!(lists, 2, "the tour shows the alert and its end");
    let verified = "wait\nwatchfire log verify --data data\n";
    assert!(shell.run(verified).contains("all as written"));
}

#[test]
fn blocks_are_found() {
    let text = "a\n```sh\nx\ny\n```\n```\nsh\n```\n```toml\nz = 1\n```\n```sh\nw\n```\n";
    assert_eq!(blocks(text, "sh"), ["x\ny\n", "w\n"]);
}
