//! The cases of the shipped rules, against their components.

use std::path::Path;

use watchfire_scenario::{Case, run};

fn shipped(rule: &str) -> Vec<u8> {
    std::fs::read(watchfire_host::build::shipped(rule).unwrap()).unwrap()
}

#[test]
fn shipped_rules_do_what_their_cases_say() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules");
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
        let mut cases = Vec::new();
        for entry in std::fs::read_dir(rules.join(rule).join("cases")).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            cases.push(Case::from_yaml(&text, &path.display().to_string()).unwrap());
        }
        assert!(!cases.is_empty(), "{rule}");
        let report = run(&shipped(rule), &cases).unwrap();
        assert!(report.passed(), "{report}");
    }
}

#[test]
fn a_component_goes_through_series_delays_silence_and_the_registry() {
    let report = run(
        &shipped("threshold"),
        &[Case::from_yaml(
            r#"
name: four minutes above the limit, of which the alert waits for two
parameters: { metric: temperature, high: 80, deadband: 5 }
condition: { on_delay: 2m, off_delay: 30s }
devices: [ { id: press-1, type: press }, { id: oven-1, type: oven } ]
select: { type: press }
timeline:
  - { at: 1m, every: 10s, until: 5m, readings: { press-1: { temperature: 85 }, oven-1: { temperature: 99 } } }
  - { at: 310s, readings: { press-1: { temperature: 60 } } }
  - { at: 1h, readings: { press-1: { temperature: 60 } } }
expect:
  - { at: 3m, trigger: { device: press-1, key: temperature.high, severity: major, details: { limit: 80 } } }
  - { at: 340s, clear: { device: press-1, key: temperature.high } }
never: [ { device: oven-1 } ]
"#,
            "delays.yaml",
        )
        .unwrap()],
    )
    .unwrap();
    assert!(report.passed(), "{report}");
    let report = run(
        &shipped("silence"),
        &[Case::from_yaml(
            r#"
name: who registers late is missed late, who is deleted is missed no more
timeline:
  - { at: 10m, register: [ { id: meter-1, interval: 30s }, { id: meter-2, interval: 1h } ] }
  - { at: 20m, delete: [ meter-1 ] }
  - { at: 1d }
expect:
  - { at: 11m, trigger: { device: meter-1, key: silent, severity: major, summary: the device has stopped reporting } }
  - { at: 20m, clear: { device: meter-1, key: silent } }
  - { at: 130m, trigger: { device: meter-2, key: silent } }
"#,
            "registry.yaml",
        )
        .unwrap()],
    )
    .unwrap();
    assert!(report.passed(), "{report}");
}

#[test]
fn a_wrong_expectation_is_told_with_its_line_and_what_happened() {
    let text = r#"name: wrong
parameters: { metric: t, high: 80, deadband: 5 }
timeline:
  - { at: 10s, readings: { a: { t: 81 }, b: { t: 81 } } }
  - { at: 20s, readings: { a: { t: 70 } } }
expect:
  - { at: 10s, trigger: { device: a, key: t.high, severity: minor } }
  - { at: 20s, clear: { device: a, key: t.high } }
  - { at: 30s, trigger: { device: c, key: t.high } }
"#;
    let report = run(&shipped("threshold"), &[Case::from_yaml(text, "cases/wrong.yaml").unwrap()]).unwrap();
    assert_eq!((report.passed(), report.failed()), (false, 1));
    assert_eq!(
        report.to_string(),
        "FAILED  wrong (cases/wrong.yaml)
  expected   10s  trigger a t.high minor  (line 7)
  happened   10s  trigger a t.high major
  expected   nothing
  happened   10s  trigger b t.high major
  expected   30s  trigger c t.high  (line 9)
  happened   nothing
threshold 0.1.0: 0 of 1 cases passed"
    );
    let json = serde_json::to_value(&report).unwrap();
    let first = &json["cases"][0]["differences"][0];
    assert_eq!((&first["kind"], &first["line"]), (&"expected".into(), &7.into()));
    assert_eq!(first["happened"], "10s  trigger a t.high major");
}

#[test]
fn parameters_that_do_not_do_refuse_the_rule() {
    let refused = |parameters: &str, expect: &str| {
        let text = format!("name: x\nparameters: {parameters}\n{expect}\n");
        run(&shipped("threshold"), &[Case::from_yaml(&text, "x.yaml").unwrap()]).unwrap()
    };
    let report = refused("{ metric: t, high: hot }", "expect: []");
    assert!(!report.passed() && report.to_string().contains("the rule is refused: parameters: "), "{report}");
    let report = refused("{ metric: t }", "refused: 'give a high limit, a low limit, or both'");
    assert!(report.passed(), "{report}");
    let report = refused("{ metric: t, high: 1 }", "refused: whatever");
    assert!(report.to_string().contains("expected   the rule is refused: whatever"), "{report}");
}

#[test]
fn what_is_no_component_is_an_error() {
    assert_eq!(run(b"\0asm", &[]).unwrap_err().to_string(), "the component is no rule");
}
