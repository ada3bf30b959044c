//! `rule test` and `rule check` without a server.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary::watchfire;
use crate::{PATIENCE, rules};

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn threshold() -> PathBuf {
    rules().join("threshold.wasm")
}

/// A project of nothing but cases, for a component that is given.
struct Project(tempfile::TempDir);

impl Project {
    fn new() -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(project.0.path().join("cases")).unwrap();
        project
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A case in which the alert is expected at this second; it comes at the second.
    fn case(&self, name: &str, second: u64) {
        let text = format!(
            "name: \"{name} & <co>\"\nparameters: {{ metric: t, high: 80 }}\ntimeline: [ {{ at: 2s, readings: {{ a: {{ t: 81 }} }} }} ]\n\
             expect: [ {{ at: {second}s, trigger: {{ device: a, key: t.high }} }} ]\n"
        );
        std::fs::write(self.path().join("cases").join(format!("{name}.yaml")), text).unwrap();
    }

    fn test(&self, more: &[&str]) -> std::process::Command {
        let mut command = watchfire();
        command.args(["rule", "test"]).arg(self.path()).arg("--module").arg(threshold()).args(more);
        command
    }
}

#[test]
fn results_are_written_for_continuous_integration() {
    let project = Project::new();
    project.case("good", 2);
    project.case("wrong", 3);
    let file = project.path().join("results.xml");
    let output = project.test(&["--json", "--junit", file.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["module"], &json["cases"][0]["passed"]), (&"threshold".into(), &true.into()));
    assert_eq!(json["cases"][1]["differences"][0]["kind"], "expected");

    let text = std::fs::read_to_string(&file).unwrap();
    let count = |what: &str| text.matches(what).count();
    assert_eq!((count("<testsuite "), count("<testcase "), count("<failure ")), (1, 2, 1), "{text}");
    assert!(text.contains("tests=\"2\" failures=\"1\""), "{text}");
    assert!(text.contains("name=\"good &amp; &lt;co&gt;\"") && !text.contains("<co>"), "{text}");
    assert!(text.contains("expected   3s  trigger a t.high") && text.contains("time=\"0."), "{text}");
    assert_eq!(count("<"), count(">"), "every tag is closed: {text}");
    // A case with a mistake is told with its place, as one that failed; the others are run.
    std::fs::write(project.path().join("cases/bad.yaml"), "name: bad\nexpects: []\n").unwrap();
    let output = project.test(&["--junit", file.to_str().unwrap()]).output().unwrap();
    let told = said(&output);
    assert!(output.status.code() == Some(1) && told.contains("bad.yaml:2: "), "{told}");
    assert!(told.contains("ok      good") && told.contains("1 of 3 cases passed"), "{told}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("tests=\"3\" failures=\"2\"") && text.contains("bad.yaml:2: "), "{text}");
    assert!(text.contains("message=\"1 difference: "), "{text}");
    let empty = tempfile::tempdir().unwrap();
    let output = watchfire()
        .args(["rule", "test"])
        .arg(empty.path())
        .arg("--module")
        .arg(threshold())
        .output()
        .unwrap();
    assert!(output.status.code() == Some(1) && said(&output).contains("cases"), "{}", said(&output));
}

/// A process that is ended, whatever becomes of the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn cases_run_again_with_each_change_until_it_is_interrupted() {
    let project = Project::new();
    project.case("first", 3);
    let mut child =
        Ended(project.test(&["--watch"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let (sender, lines) = std::sync::mpsc::sync_channel(1000);
    let stdout = child.0.stdout.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let wait_for = |what: &str| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = lines.recv_timeout(left).unwrap_or_else(|_| panic!("{what:?} did not come"));
            if line.contains(what) {
                return;
            }
        }
    };
    wait_for("0 of 1 cases passed");
    wait_for("waiting for a change");
    project.case("first", 2);
    wait_for("1 of 1 cases passed");
    wait_for("waiting for a change");
    // A mistake does not end it, and a new file is a change.
    std::fs::write(project.path().join("cases/second.yaml"), "name: [\n").unwrap();
    wait_for("waiting for a change");
    project.case("second", 2);
    wait_for("2 of 2 cases passed");
    wait_for("waiting for a change");
    // Nothing changes, nothing runs.
    assert!(lines.recv_timeout(Duration::from_secs(2)).is_err());
    let id = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_component_is_checked_without_a_server() {
    let check = |arguments: &[&str], what: &Path| {
        watchfire().args(["rule", "check"]).arg(what).args(arguments).output().unwrap()
    };
    let set = ["--set", "metric=temperature", "--set", "high=80"];
    let output = check(&set, &threshold());
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "module      threshold 0.1.0",
        "digest      sha256:",
        "language    Rust",
        "alerts.trigger",
        "metric (string",
        "high (number",
        "reads       temperature",
        "for a call of 1000 rows",
        "of 250 devices",
        "time 500ms, memory 64.0 MiB",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let output = check(&["--json", set[0], set[1], set[2], set[3]], &threshold());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["ok"], &json["name"]), (&true.into(), &"threshold".into()));
    assert_eq!(json["cost"]["metrics"], serde_json::json!(["temperature"]));
    assert!(
        json["cost"]["call_nanoseconds"].as_u64().unwrap() > 1000 && json["size"].as_u64().unwrap() > 1000
    );
    // It needs parameters: all but its cost is known. With bad ones a deployment would be refused.
    let output = check(&[], &threshold());
    assert!(
        output.status.success() && said(&output).contains("warning     it needs parameters"),
        "{}",
        said(&output)
    );
    let output = check(&["--set", "metric=t", "--set", "high=hot"], &threshold());
    assert!(output.status.code() == Some(1) && said(&output).contains("/high"), "{}", said(&output));
    assert_eq!(check(&["--set", "high"], &threshold()).status.code(), Some(2));
}

#[test]
fn what_a_server_would_refuse_is_refused_with_the_same_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.wasm");
    for (bytes, code, words) in [
        (&b"PK\x03\x04"[..], "not-wasm", "this is not WebAssembly"),
        (b"\0asm\x01\0\0\0", "core-module", "this is a core WebAssembly module"),
        (b"\0asm\x0d\0\x01\0", "no-handler", "does not export watchfire:rule/handler"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let output = watchfire().args(["rule", "check"]).arg(&file).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(words), "{}", said(&output));
        let output = watchfire().args(["rule", "check", "--json"]).arg(&file).output().unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&json["ok"], &json["reason"]), (&false.into(), &code.into()));
        assert!(json["detail"].as_str().unwrap().contains(words));
    }
    let output = watchfire().args(["rule", "check"]).arg(folder.path().join("none.wasm")).output().unwrap();
    assert!(output.status.code() == Some(1) && said(&output).contains("none.wasm cannot be read"));
}
