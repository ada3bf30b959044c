//! Files with mistakes.

use watchfire_scenario::Case;

fn check(text: &str, expected: &str) {
    let error = Case::from_yaml(text, "cases/x.yaml").expect_err(text).to_string();
    assert!(error.starts_with("cases/x.yaml:") && error.contains(expected), "{error}\nfor {text}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

/// A case with these steps, the first in line 3.
fn steps(steps: &str) -> String {
    format!("name: x\ntimeline:\n{steps}\nexpect: []\n")
}

#[test]
fn mistakes_of_shape_are_told_with_their_line() {
    check("name: x\nexpects: []\n", "x.yaml:2: ");
    check("name: x\nexpects: []\n", "expects");
    check("timeline: []\nexpect: []\n", "name");
    check("name: x\ntimeline: [\nexpect: []\n", "x.yaml:");
    check(&steps("  - { at: 1s, readings: { a: { x: [1] } } }"), "a metric: a number");
    check(&steps("  - { at: soon }"), "x.yaml:3: ");
    check(&steps("  - { at: soon }"), "a span since the start such as 90s");
    check(&steps("  - { att: 1s }"), "att");
    check("name: x\ncondition: { on_dely: 3s }\nexpect: []\n", "on_dely");
    check("name: x\ndevices:\n  - { id: a, kind: press }\nexpect: []\n", "x.yaml:3: ");
    check("name: x\nexpect:\n  - { at: 1s, trigger: { device: a, key: k, severity: bad } }\n", "x.yaml:3: ");
}

#[test]
fn mistakes_of_meaning_are_told_with_their_line() {
    check("name: x\ntimeline: []\n", "nothing is expected");
    check("name: x\nrefused: no\nexpect: []\n", "`refused`");
    check(&steps("  - { at: 2s }\n  - { at: 1s }"), "x.yaml:4: the time line goes back from 2s to 1s");
    check(&steps("  - { at: 2020-01-01T00:00:00Z }"), "is before the start");
    check(&steps("  - { at: 2s, every: 1s, readings: { a: { x: 1 } } }"), "`every` and `until` go together");
    check(&steps("  - { at: 2s, every: 0s, until: 3s, readings: { a: { x: 1 } } }"), "above zero");
    check(
        &steps("  - { at: 0s, every: 1us, until: 1d, readings: { a: { x: 1 } } }"),
        "at most 600000 readings",
    );
    check(&steps("  - { at: 2s, measured: 1s }"), "there are none");
    check(&steps("  - { at: 2s, readings: { a: {} } }"), "at least one metric");
    check(&steps("  - { at: 2s, readings: { a: { x: { from: 1, to: 2 } } } }"), "needs a series");
    check(&steps("  - { at: 2s, readings: { a: { x: .nan } } }"), "finite");
    check(&steps("  - { at: 2s, readings: { a/b: { x: 1 } } }"), "device id contains '/'");
    check(&steps("  - { at: 2s, delete: [ a ] }"), "is deleted and not registered then");
    let before = "  - { at: 1s, readings: { a: { x: 1 } } }\n  - { at: 2s, register: [ { id: a } ] }";
    check(&steps(before), "x.yaml:3: device \"a\" is not registered then");
    check("name: x\ndevices: [ { id: a }, { id: a } ]\nexpect: []\n", "device \"a\" comes twice");
    let both = "{ at: 1s, trigger: { device: a, key: k }, clear: { device: a, key: k } }";
    check(&format!("name: x\nexpect:\n  - {both}\n"), "x.yaml:3: what is expected is one of");
    let made = |series: &str| {
        steps(&format!("  - {{ at: 0s, every: 1s, until: 9s, readings: {{ a: {{ x: {series} }} }} }}"))
    };
    check(&made("{ from: 1 }"), "x.yaml:3: x: `from` and `to` go together");
    check(&made("{ sine: { amplitude: 1, period: 1m, phse: 3 } }"), "phse");
    check(&made("{ noise: { amplitude: 1, deviation: 1 } }"), "x: noise has either");
    check(&steps("  - { at: 1s, file: nowhere.csv }"), "x.yaml:3: cases/nowhere.csv cannot be read: ");
    check(&steps("  - { at: 1s, file: a.csv, readings: { a: { x: 1 } } }"), "`file` stands alone");
    let kept = |blob: &str| format!("name: x\nkeeps:\n  - {{ device: a, slot: 0, {blob} }}\n");
    check(&kept("bytes: \"0g\""), "x.yaml:3: \"0g\" is no row of bytes");
    check(&kept("bytes: \"\""), "without bytes");
    check(&kept("bytes: \"00\", fields: [ 1 ]"), "either `bytes` or `fields`");
    check(&kept("fields: [ \"5 u7\" ]"), "x.yaml:3: ");
    check(
        "name: x\nstate: { version: 1, blobs: [ { device: a, slot: 0, fields: [ 1 ] } ] }\nexpect: []\n",
        "device \"a\" is not registered at the start",
    );
    check(
        "name: x\nsamples:\n  - { at: 1s, device: a, metrics: {}, tolerance: -1 }\n",
        "x.yaml:3: a tolerance",
    );
    check("name: x\nlogs: [ { at: 1s, level: loud, text: a } ]\n", "loud");
    let clear = "{ at: 1s, clear: { device: a, key: k, severity: major } }";
    check(&format!("name: x\nexpect:\n  - {clear}\n"), "a clear has no severity");
}
