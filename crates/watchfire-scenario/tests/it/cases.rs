//! What a case can say, and how it fails.

use crate::native::{check, fails, passes, publishes, restless, threshold, timers};

#[test]
fn timers_in_timers_run_at_their_times_while_nothing_comes() {
    let started = std::time::Instant::now();
    passes(
        timers(),
        "
name: hours
timeline:
  - { at: 1m, readings: { a: { x: 1 } } }
  - { at: 1d }
expect:
  - { at: 7860s, trigger: { device: a, key: high, details: { value: 3 } } }
",
    );
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn a_rule_that_never_rests_is_stopped() {
    let text = "
name: restless
timeline: [ { at: 0s, readings: { a: { x: 1 } } }, { at: 1h } ]
expect: []
";
    fails(restless(), text, &["a call failed, played whole, at 600ms: more than 600000 timers"]);
}

#[test]
fn rows_of_the_output_stream_are_compared() {
    let case = |rows: &str| {
        format!(
            "
name: output
devices: [ {{ id: site }} ]
pass: [ mode ]
timeline:
  - {{ at: 5h, every: 30m, until: 6h, readings: {{ a: {{ x: {{ from: 1, to: 2 }}, mode: auto }} }} }}
  - {{ at: 7h }}
publishes:
  - {{ at: 5h, device: a, metrics: {{ double: 2, mode: auto }} }}
  - {{ at: 330m, device: a, metrics: {{ double: 3, mode: auto }} }}
  - {{ at: 6h, device: a, metrics: {{ double: 4, mode: auto }} }}
{rows}
"
        )
    };
    passes(publishes(), &case("  - { at: 6h, device: site, metrics: { day: 1 } }"));
    fails(publishes(), &case(""), &["expected   nothing\n  published  6h  site { day: 1 }"]);
}

#[test]
fn a_call_that_fails_fails_the_case() {
    let text = "
name: absurd
timeline: [ { at: 0s, readings: { a: { x: 2000 } } } ]
expect: []
";
    fails(threshold(), text, &["a call failed, played whole, at 0s on a: batch failed: x is absurd"]);
}

#[test]
fn never_names_what_must_not_be_triggered() {
    let case = |never: &str| {
        format!("name: n\ntimeline: [ {{ at: 1s, readings: {{ a: {{ x: 90 }} }} }} ]\nnever: [ {never} ]\n")
    };
    passes(threshold(), &case("{ device: b }, { device: a, key: low }, { severity: minor }"));
    let text = case("{ key: high }");
    fails(threshold(), &text, &["must not happen  (line 3)\n  happened  1s  trigger a high major"]);
}

#[test]
fn latched_alerts_are_reset_and_late_ones_may_be_within() {
    passes(
        threshold(),
        "
name: latched
condition: { latched: true }
timeline:
  - { at: 1s, readings: { a: { x: 90 } } }
  - { at: 2s, readings: { a: { x: 10 } } }
  - { at: 5s, reset: { device: a, key: high } }
expect:
  - { at: 0s, within: 1s, trigger: { device: a, key: high } }
  - { at: 2s, latched: { device: a, key: high } }
  - { at: 5s, clear: { device: a, key: high } }
",
    );
    let late = "
name: late
timeline: [ { at: 10s, readings: { a: { x: 90 } } } ]
expect: [ { at: 1s, within: 5s, trigger: { device: a, key: high } } ]
";
    fails(threshold(), late, &["expected   1s to 6s  trigger a high  (line 4)", "happened   10s  trigger"]);
}

#[test]
fn times_may_be_absolute_and_measured_before_the_start() {
    passes(
        threshold(),
        "
name: buffered
start: 2026-06-01T12:00:00Z
timeline:
  - at: 2026-06-01T12:00:10Z
    measured: 2026-06-01T11:00:00Z
    readings: { a: { x: 90 } }
expect: [ { at: 2026-06-01T11:00:00Z, trigger: { device: a, key: high } } ]
",
    );
}

#[test]
fn many_differences_are_cut_and_counted() {
    let text = "
name: many
timeline:
  - { at: 0s, every: 2s, until: 200s, readings: { a: { x: 90 } } }
  - { at: 201s, readings: { a: { x: 0 } } }
expect: []
";
    let report = check(threshold(), text);
    assert_eq!(report.cases[0].differences.len(), 2);
    let text = text.replace("every: 2s, until: 200s, readings: { a: { x: 90 } }", "readings: { ROWS }");
    let rows: Vec<_> = (0..50).map(|i| format!("d{i:02}: {{ x: 90 }}")).collect();
    let report = check(threshold(), &text.replace("ROWS", &rows.join(", ")));
    assert_eq!((report.cases[0].differences.len(), report.cases[0].more), (20, 30));
    assert!(report.to_string().contains("\n  and 30 more"), "{report}");
}
