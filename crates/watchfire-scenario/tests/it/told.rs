//! What a rule says of recorded readings, and the case that is made of it.

use watchfire_model::DeviceSpec;
use watchfire_scenario::{Case, Deployed, Recording, Rule};

fn shipped(name: &str) -> Rule {
    Rule::load(&std::fs::read(watchfire_host::build::shipped(name).unwrap()).unwrap()).unwrap()
}

fn threshold() -> Rule {
    shipped("threshold")
}

const LINES: &str = r#"{"device":"press-1","time":"2026-05-01T10:00:00Z","received":"2026-05-01T10:00:01Z","metrics":{"t":70}}
{"device":"press-1","time":"2026-05-01T10:01:00Z","received":"2026-05-01T10:01:01Z","metrics":{"t":90.5,"mode":"auto"}}
{"device":"press-1","time":"2026-05-01T10:02:00Z","received":"2026-05-01T10:02:01Z","metrics":{"t":60}}
"#;

fn case(parameters: serde_json::Value) -> Case {
    deployed(Deployed { parameters, ..Deployed::default() })
}

fn deployed(deployed: Deployed) -> Case {
    let recording = Recording::from_ndjson(LINES, "the log").unwrap();
    let device = DeviceSpec { id: "press-1".into(), kind: "press".into(), ..DeviceSpec::default() };
    Case::of_recording("press-1", &recording, vec![device], deployed).unwrap()
}

#[test]
fn a_recording_is_told_and_becomes_a_case_that_passes() {
    let rule = threshold();
    let told = rule.tell(&case(serde_json::json!({ "metric": "t", "high": 80, "deadband": 5 })));
    assert!(told.report.passed, "{told}");
    let text = told.to_string();
    for line in [
        "press-1: 3 readings, 2026-05-01T10:00:01.000000Z to 2026-05-01T10:02:01.000000Z",
        "  2026-05-01T10:01:00.000000Z  trigger press-1 t.high major ",
        "  2026-05-01T10:02:00.000000Z  clear press-1 t.high",
        "2 changes of alerts, 0 rows published, 0 calls failed",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    let json = serde_json::to_value(&told).unwrap();
    assert_eq!((&json["readings"], &json["changes"][0]["change"]), (&3.into(), &"trigger".into()));
    assert_eq!(json["changes"][0]["details"]["value"], 90.5);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("press-1.yaml");
    std::fs::write(&file, told.to_yaml("threshold 0.1.0", "press-1.ndjson")).unwrap();
    std::fs::write(folder.path().join("press-1.ndjson"), told.to_ndjson()).unwrap();
    let report = rule.run(&[Case::read(&file).unwrap()]);
    assert!(report.passed(), "{report}\n{}", std::fs::read_to_string(&file).unwrap());
    // It expects what was said, and nothing else.
    let text =
        std::fs::read_to_string(&file).unwrap().replace("\"severity\":\"major\"", "\"severity\":\"minor\"");
    std::fs::write(&file, text).unwrap();
    assert!(!rule.run(&[Case::read(&file).unwrap()]).passed());
}

#[test]
fn what_was_published_is_part_of_the_case() {
    let rule = shipped("report-by-exception");
    let parameters = serde_json::json!({ "metric": "t", "change": 0.5, "every": 600 });
    let told = rule.tell(&deployed(Deployed { parameters, pass: vec!["*".into()], ..Deployed::default() }));
    assert!(told.report.passed && told.published == 3, "{told}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("press-1.yaml");
    let text = told.to_yaml("report-by-exception 0.1.0", "press-1.ndjson");
    std::fs::write(&file, &text).unwrap();
    std::fs::write(folder.path().join("press-1.ndjson"), told.to_ndjson()).unwrap();
    let report = rule.run(&[Case::read(&file).unwrap()]);
    assert!(report.passed(), "{report}\n{text}");
    std::fs::write(&file, text.replace("90.5", "91.5")).unwrap();
    let report = rule.run(&[Case::read(&file).unwrap()]);
    assert!(!report.passed() && report.to_string().contains("published"), "{report}");
}

#[test]
fn a_rule_that_is_refused_says_so() {
    let told = threshold().tell(&case(serde_json::json!({ "metric": "t", "high": "hot" })));
    assert!(!told.report.passed && told.to_string().contains("the rule is refused: parameters: "), "{told}");
}

#[test]
fn the_cost_of_a_rule_is_measured() {
    let rule = threshold();
    let cost = rule.measure(&serde_json::json!({ "metric": "temperature", "high": 80 })).unwrap();
    assert_eq!(
        (cost.metrics.as_slice(), cost.columns.as_slice()),
        (&["temperature".to_string()][..], &["temperature".to_string()][..])
    );
    assert!(cost.calls >= 11 && cost.rows == 1000 && cost.failure.is_none(), "{cost:?}");
    assert!(
        cost.call_nanoseconds.is_some_and(|time| time > 1000) && cost.start_nanoseconds > 1000,
        "{cost:?}"
    );
    // A fifth of numbers from 0 to 100 is above 80: there is something to keep and to say.
    assert!(cost.state > 0 && cost.effects > 100 && cost.memory > 0, "{cost:?}");
    assert!(rule.measure(&serde_json::Value::Null).unwrap_err().contains("metric"));
}
