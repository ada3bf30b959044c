//! Readings that are made or recorded, and rows that are looked at in between.

use watchfire_scenario::{Case, run_module};

use crate::native::{fails, passes, publishes, threshold};

#[test]
fn parts_of_a_series_are_added_up() {
    passes(
        publishes(),
        "
name: a sine on a ramp
timeline:
  - at: 10s
    every: 15s
    until: 70s
    readings:
      a: { x: { from: 0, to: 40, sine: { amplitude: 5, period: 1m } } }
      b: { x: { steps: { 0s: 1, 30s: 2 }, value: 10 } }
publishes:
  - { at: 10s, device: a, metrics: { double: 0 } }
  - { at: 10s, device: b, metrics: { double: 22 } }
  - { at: 25s, device: a, metrics: { double: 30 } }
  - { at: 25s, device: b, metrics: { double: 22 } }
  - { at: 40s, device: a, metrics: { double: 40 } }
  - { at: 40s, device: b, metrics: { double: 24 } }
  - { at: 55s, device: a, metrics: { double: 50 } }
  - { at: 55s, device: b, metrics: { double: 24 } }
  - { at: 70s, device: a, metrics: { double: 80 } }
  - { at: 70s, device: b, metrics: { double: 24 } }
",
    );
}

const NOISE: &str = "
name: noise
timeline:
  - at: 0s
    every: 1s
    until: 999s
    readings: { a: { x: { value: 20, noise: { amplitude: 0.5, seed: 3 } } } }
";

#[test]
fn single_rows_are_looked_at_with_a_tolerance() {
    let samples = "
  - { at: 10s, device: a, metrics: { double: 40 }, tolerance: 1 }
  - { at: 100s, within: 3s, device: a, metrics: { double: 40 }, tolerance: 1 }
";
    passes(publishes(), &format!("{NOISE}samples:{samples}"));
    let exact = format!(
        "{NOISE}samples:\n  - {{ at: 10s, device: a, metrics: {{ double: 40 }}, tolerance: 0.001 }}\n"
    );
    fails(
        publishes(),
        &exact,
        &["expected   10s  a { double: 40 } ± 0.001  (line 9)\n  published  10s  a { double: "],
    );
    let late =
        format!("{NOISE}samples:\n  - {{ at: 1501s, within: 1m, device: a, metrics: {{ double: 40 }} }}\n");
    fails(
        publishes(),
        &late,
        &["expected   1501s to 1561s  a { double: 40 }  (line 9)\n  published  nothing"],
    );
}

#[test]
fn all_rows_may_have_a_tolerance_and_come_later() {
    let case = |at: &str, tolerance: f64| {
        format!(
            "
name: tolerance
timeline: [ {{ at: 10s, readings: {{ a: {{ x: 1.04 }} }} }} ]
publishes: [ {{ at: {at}, within: 2s, device: a, metrics: {{ double: 2 }}, tolerance: {tolerance} }} ]
"
        )
    };
    passes(publishes(), &case("8s", 0.1));
    fails(publishes(), &case("7s", 0.1), &["expected   7s to 9s  a { double: 2 } ± 0.1  (line 4)"]);
    fails(publishes(), &case("8s", 0.01), &["published  10s  a { double: 2.08 }"]);
}

#[test]
fn recorded_readings_lie_beside_the_case() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "table.csv",
        "device,time,x,mode\na,2014-03-01T12:00:00Z,70,auto\na,2014-03-01T12:01:00Z,90,auto\nb,2014-03-01T12:02:00Z,95,\n",
    );
    write(
        "lines.ndjson",
        "{\"device\":\"c\",\"time\":\"2020-01-01T00:00:00Z\",\"received\":\"2020-01-01T00:00:09Z\",\"metrics\":{\"x\":99,\"motor\":{\"rpm\":1}}}\n\
         {\"device\":\"c\",\"time\":\"2020-01-01T00:00:10Z\",\"metrics\":{\"x\":10,\"none\":null}}\n",
    );
    let case = |timeline: &str, expect: &str| {
        write("case.yaml", &format!("name: recorded\ntimeline:\n{timeline}\nexpect:{expect}\n"));
        Case::read(&folder.path().join("case.yaml"))
    };
    let module: std::sync::Arc<dyn watchfire_model::call::Module> = std::sync::Arc::new(threshold());
    let expect = "
  - { at: 70s, trigger: { device: a, key: high } }
  - { at: 130s, trigger: { device: b, key: high } }
  # Received at 200s, measured nine seconds before; and a second later it is over.
  - { at: 191s, trigger: { device: c, key: high } }
  - { at: 201s, clear: { device: c, key: high } }";
    let timeline = "  - { at: 10s, file: table.csv }\n  - { at: 200s, file: lines.ndjson }";
    let report = run_module(&module, &[case(timeline, expect).unwrap()]);
    assert!(report.passed(), "{report}");
    write("bad.csv", "device,time\na,soon\n");
    let error = case("  - { at: 10s, file: bad.csv }", " []").unwrap_err().to_string();
    assert!(
        error.contains("case.yaml:3: ") && error.contains("bad.csv, line 2: \"soon\" is no time"),
        "{error}"
    );
    write("list.ndjson", "{\"device\":\"c\",\"time\":0,\"metrics\":{\"x\":[1]}}\n");
    let error = case("  - { at: 10s, file: list.ndjson }", " []").unwrap_err().to_string();
    assert!(error.contains("x is a list"), "{error}");
}
