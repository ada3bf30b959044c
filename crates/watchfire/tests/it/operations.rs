//! "Deploying, and undoing it" of docs/operations.md, followed to the letter: its blocks are run as they stand, by one
//! shell, against a fleet that streams.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::PoisonError;

use crate::binary::watchfire;
use crate::readme::{PORTS, blocks};

const OPERATIONS: &str = include_str!("../../../../docs/operations.md");

/// The section, and what each of its blocks must print, the last command of it ending with that code.
const SECTION: &str = "## Deploying, and undoing it\n";
const EXPECTED: [(i32, &[&str]); 8] = [
    (0, &["service"]),
    (0, &["rule service: version 1 (active); a new rule"]),
    (
        1,
        &[
            "is not on the server yet",
            "service@1.0.0 (sha256:",
            "migrate was tried on copies",
            "rule service would be refused: migrate from layout 1 to 2 fails for device machine-",
            "readings are too many",
        ],
    ),
    (
        0,
        &[
            "the module migrates the state from layout 1 to 2",
            "bytes came of it",
            "most: 1000",
            "version 2 (active); the module migrates the state",
        ],
    ),
    (
        0,
        &[
            "version 3 (active); the state stays as it is (layout 2)",
            "parameters.most: 1000 -> 5",
            "five thousand",
        ],
    ),
    (
        0,
        &[
            "rollback from version 3 to 2",
            "most: 5 -> 1000",
            "would be resolved, which did not stand then",
            "version 4 (active); the state of version 2 as of",
        ],
    ),
    (0, &["version 5 (active); the state of version 1 as of", "as it was this morning"]),
    (0, &[]),
];

#[test]
fn what_operations_says_of_deploying_and_undoing_is_so() {
    let _ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    for port in [8080, 1883] {
        if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
            return watchfire_services::skip(
                "operations",
                &format!("port {port} of this machine is not free: {error}"),
            );
        }
    }
    let (_, section) = OPERATIONS.split_once(SECTION).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks = blocks(section, "sh");
    assert_eq!(blocks.len(), EXPECTED.len());
    let folder = tempfile::tempdir().unwrap();
    let mut script = String::from("trap 'kill $FLEET $ENGINE 2> /dev/null' EXIT\n");
    for (i, block) in blocks.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{i}.sh")), block).unwrap();
        // Sourced, so that the blocks are of one shell; on both outputs, so that each is in order.
        let block = folder.path().join(format!("{i}.sh"));
        script += &format!(". {}\nprintf '\\n=end %s\\n' $?\n", block.display());
    }
    let clean = watchfire();
    let mut shell = Command::new("sh");
    for (name, _) in clean.get_envs().filter(|(_, value)| value.is_none()) {
        shell.env_remove(name);
    }
    let binaries = Path::new(env!("CARGO_BIN_EXE_watchfire")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    shell.env("PATH", format!("{}:{path}", binaries.display())).env("TMPDIR", folder.path());
    // One target folder for all runs of the tests: what rules depend on is compiled once.
    shell.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("rule-new"));
    let output = shell.args(["-c", &format!("exec 2>&1\n{script}")]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let parts: Vec<&str> = said.split("\n=end ").collect();
    assert_eq!(parts.len(), EXPECTED.len() + 1, "{said}");
    for (i, (code, expected)) in EXPECTED.iter().enumerate() {
        let ended = parts[i + 1].lines().next().unwrap_or_default();
        assert_eq!(ended, code.to_string(), "{}\n{said}", blocks[i]);
        for text in *expected {
            assert!(
                parts[i].contains(text),
                "{text:?} is not in what this prints:\n{}\n{}",
                blocks[i],
                parts[i]
            );
        }
    }
}
