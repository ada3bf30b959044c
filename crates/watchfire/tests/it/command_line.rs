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

const ROUTES: &str = r#"
[[receiver]]
name = "log"
webhook = { url = "http://127.0.0.1:9/log" }
[[receiver]]
name = "night"
webhook = { url = "http://127.0.0.1:9/night" }
[route]
receiver = "log"
[[route.routes]]
matchers = ['severity=~"major|critical"']
receivers = ["night", "log"]
group_wait = "30s"
active_time_intervals = ["new year"]
[[route.routes]]
matchers = ['site="test"']
receivers = []
[[inhibit]]
name = "critical first"
source_matchers = ['severity="critical"']
target_matchers = ['severity=~".+"']
[[time_interval]]
name = "new year"
months = ["january"]
days_of_month = [1]
"#;

#[test]
fn who_would_be_told_is_said_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("watchfire.toml");
    std::fs::write(&path, ROUTES).unwrap();
    let run = |arguments: &[&str]| {
        let output = watchfire().arg("route").args(arguments).arg("--config").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let at = ["--at", "2026-01-02T00:00:00Z"];
    let test = |labels: &[&str]| run(&[&["test", "--labels"], labels, &at].concat());
    let text = test(&["alertname=hot", "severity=critical", "device=press 1"]);
    for part in [
        "route {}\n  route.routes[0] {severity=~\"major|critical\"}\n",
        "night",
        "{alertname=\"hot\", device=\"press 1\"}",
        "30s",
        "only within new year",
        "is held: outside new year",
        "it may inhibit others by \"critical first\"",
    ] {
        assert!(text.contains(part), "{text} does not say {part}");
    }
    assert!(test(&["site=test"]).contains("nobody is told"));
    assert!(test(&["site=lyon"]).contains("is told"));
    let json = run(&["test", "--labels", "severity=major", "--at", "2026-01-01T12:00:00Z", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["targets"][0]["receiver"], "night");
    assert_eq!(json["targets"][1]["now"], "is told");
    assert_eq!(json["routes"][0]["path"][1]["place"], "route.routes[0]");
    assert_eq!(json["may_be_inhibited"][0], "\"critical first\"");
    let tree = run(&["show"]);
    assert!(tree.contains("\n  {site=\"test\"}") && tree.contains("nobody"), "{tree}");
    let steps: serde_json::Value = serde_json::from_str(&run(&["show", "--json"])).unwrap();
    assert_eq!(steps[1]["receivers"], serde_json::json!(["night", "log"]));
    let wrong = watchfire().args(["route", "test", "--labels", "severity"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn a_configuration_of_alertmanager_becomes_one_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let (yaml, toml) = (folder.path().join("alertmanager.yml"), folder.path().join("watchfire.toml"));
    let import = |text: &str, more: &[&str]| {
        std::fs::write(&yaml, text).unwrap();
        watchfire().args(["route", "import"]).arg(&yaml).args(more).output().unwrap()
    };
    let text = "route:\n  receiver: ops\n  routes: [{matchers: [severity=\"critical\"], group_wait: 1m30s}]\nreceivers:\n\
                - name: ops\n  webhook_configs: [{url: 'http://h/?key=s3cret'}]\n  wechat_configs: [{corp_id: s3cret}]\n";
    let out = ["--out", toml.to_str().unwrap()];
    let output = import(text, &out);
    assert!(output.status.success() && output.stdout.is_empty(), "{}", said(&output));
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(
        notes.contains("not carried: receivers[0].wechat_configs: ") && !notes.contains("s3cret"),
        "{notes}"
    );
    // It holds a secret, and nobody else's file is written over.
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&toml).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(import(text, &out).status.code(), Some(1));
    let checked = watchfire().args(["check-config", "--config"]).arg(&toml).output().unwrap();
    assert!(checked.status.success(), "{}", said(&checked));
    let routed =
        watchfire().args(["route", "test", "--labels", "severity=critical", "--config"]).arg(&toml).output();
    assert!(said(&routed.unwrap()).contains("90s"));

    let printed = import(text, &[]);
    assert_eq!(printed.stdout, std::fs::read(&toml).unwrap());
    let json: serde_json::Value = serde_json::from_slice(&import(text, &["--json"]).stdout).unwrap();
    assert_eq!(json["not_carried"][0]["place"], "receivers[0].wechat_configs");
    let wrong = import("route: {receiver: x}\nreceivers: []", &[]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(said(&wrong).contains("route.receiver: there is no receiver \"x\""), "{}", said(&wrong));
}
