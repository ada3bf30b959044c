//! Commands that need no server.

use crate::binary::watchfire;
use crate::rules;

fn said(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_configuration_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("watchfire.toml");
    let check = |text: &str, code: i32, expected: &str| {
        std::fs::write(&path, text).unwrap();
        let output = watchfire().args(["check-config", "--config"]).arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(said(&output).contains(expected), "{}", said(&output));
    };
    check(include_str!("../../../../docs/watchfire.example.toml"), 0, "can be used");
    check("[http]\nlisen = \"x\"", 1, "did you mean `listen`?");
    let output = watchfire().args(["check-config", "--nonsense"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_new_project_builds_and_passes_its_cases_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], below: &str| {
        let mut command = watchfire();
        // One target folder for all runs of this test: the SDK is compiled once.
        command.env("CARGO_TARGET_DIR", std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("rule-new"));
        command.args(arguments).current_dir(folder.path().join(below)).output().unwrap()
    };
    let made = run(&["rule", "new", "too-hot", "--language", "rust"], "");
    assert!(made.status.success(), "{}", said(&made));
    assert_eq!(run(&["rule", "new", "too-hot"], "").status.code(), Some(1));
    assert_eq!(run(&["rule", "new", "Too Hot"], "").status.code(), Some(2));
    let built = run(&["rule", "build"], "too-hot");
    assert!(built.status.success(), "{}", said(&built));
    assert!(folder.path().join("too-hot/too-hot.wasm").is_file());
    let tested = run(&["rule", "test"], "too-hot");
    assert!(tested.status.success() && said(&tested).contains("2 of 2 cases passed"), "{}", said(&tested));

    // A case that is wrong fails, and says what is different.
    let wrong = "name: wrong\ntimeline: [{ at: 1s, readings: { boiler-1: { pressure: 1 } } }]\nexpect:\n  - { at: 5s, trigger: { device: boiler-1, key: pressure } }";
    std::fs::write(folder.path().join("too-hot/cases/stays-quiet.yaml"), wrong).unwrap();
    let tested = run(&["rule", "test", "--module", "too-hot.wasm"], "too-hot");
    assert_eq!(tested.status.code(), Some(1));
    assert!(said(&tested).contains("stays-quiet.yaml") && said(&tested).contains("5s"), "{}", said(&tested));
}

#[test]
fn a_new_project_in_every_language_builds_and_passes_its_cases() {
    for (language, tool) in [
        ("python", "python3"),
        ("javascript", "node"),
        ("typescript", "node"),
        ("go", "go"),
        ("c", "python3"),
    ] {
        let there = std::process::Command::new(tool).arg("version").output().map(drop).map_err(|_| {
            watchfire_services::Failure::Missing(format!("there is no {tool}: rules in {language} need it"))
        });
        if watchfire_services::or_skip(&format!("rule-new-{language}"), there).is_none() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str], below: &str| {
            let mut command = watchfire();
            // What is fetched stays for the next run.
            let cache = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("languages");
            command.env("WATCHFIRE_CACHE", std::env::var_os("WATCHFIRE_CACHE").unwrap_or(cache.into()));
            command.args(arguments).current_dir(folder.path().join(below)).output().unwrap()
        };
        let made = run(&["rule", "new", "too-hot", "--language", language], "");
        assert!(made.status.success(), "{}", said(&made));
        let tested = run(&["rule", "test"], "too-hot");
        assert!(
            tested.status.success() && said(&tested).contains("2 of 2 cases passed"),
            "{language}: {}",
            said(&tested)
        );
        let text = std::fs::read_to_string(folder.path().join("too-hot/README.md")).unwrap();
        assert!(text.contains("too-hot.wasm") && !text.contains("{{"), "{text}");
    }
}

#[test]
fn shipped_rules_pass_their_cases() {
    let components = rules();
    let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules");
    for rule in [
        "band",
        "ewma-anomaly",
        "fleet-outlier",
        "missing-metric",
        "rate-of-change",
        "report-by-exception",
        "silence",
        "site-silence",
        "stuck-sensor",
        "threshold",
    ] {
        let mut command = watchfire();
        command.args(["rule", "test"]).arg(project.join(rule));
        let tested = command.arg("--module").arg(components.join(format!("{rule}.wasm"))).output().unwrap();
        assert!(tested.status.success(), "{rule}: {}", said(&tested));
    }
}

#[test]
fn the_demonstration_shows_every_kind_of_alert() {
    let mut demo = watchfire();
    // On a machine that is busy more than the usual number of lines come in one second.
    demo.args(["demo", "--devices", "160", "--seconds", "24", "--lines", "1000", "--rules"]).arg(rules());
    let output = demo.output().unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for rule in [
        "limits",
        "temperature-jump",
        "odd-current",
        "stuck-vibration",
        "silent",
        "pressure-band",
        "no-humidity",
        "outlier",
        "site-silent",
    ] {
        assert!(text.contains(&format!("{rule} firing")), "{rule} is not in\n{text}");
    }
    assert!(text.contains("resolved"), "{text}");
    let p50 = text.split("reading to webhook     p50 ").nth(1).and_then(|rest| rest.split(' ').next());
    assert!(p50.is_some_and(|p50| p50.parse::<f64>().is_ok_and(|p50| p50 > 0.0)), "{text}");
}
