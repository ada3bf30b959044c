//! State: what is kept at the end, what was kept before, and versions and instances that change in between.

use crate::native::{counts, fails, passes};

fn two_readings(rest: &str) -> String {
    format!(
        "
name: state
timeline:
  - {{ at: 1s, readings: {{ a: {{ x: 1 }}, b: {{ x: 1 }} }} }}
  - {{ at: 2s, readings: {{ a: {{ x: 1 }} }} }}
{rest}"
    )
}

#[test]
fn all_state_is_compared_byte_by_byte() {
    passes(
        counts(),
        &two_readings(
            "keeps:
  - { device: b, slot: 0, bytes: \"01000000 00000000\" }
  - { device: a, slot: 0, fields: [ 2 ] }
",
        ),
    );
    fails(
        counts(),
        &two_readings(
            "keeps:\n  - { device: a, slot: 0, fields: [ 3 ] }\n  - { device: c, slot: 7, bytes: ff }\n",
        ),
        &[
            "expected   a slot 0  [3]  (line 7)\n  kept       a slot 0  [2]",
            "expected   nothing\n  kept       b slot 0  0100000000000000",
            "expected   c slot 7  ff  (line 8)\n  kept       nothing",
        ],
    );
}

#[test]
fn state_from_before_is_migrated_or_refuses_the_rule() {
    let case = |version: u32, slot: u32, rest: &str| {
        format!(
            "
name: before
devices: [ {{ id: a }}, {{ id: b }} ]
state:
  version: {version}
  blobs:
    - {{ device: a, slot: {slot}, fields: [ 40 ] }}
    - {{ device: b, slot: {slot}, fields: [ 7 ] }}
timeline: [ {{ at: 1s, readings: {{ a: {{ x: 1 }} }} }} ]
{rest}"
        )
    };
    let kept = "publishes: [ { at: 1s, device: a, metrics: { count: 41 } } ]
keeps:
  - { device: a, slot: 0, fields: [ 41 ] }
  - { device: b, slot: 0, fields: [ 7 ] }
";
    passes(counts(), &case(1, 0, kept));
    // Of the same version: taken over as it is.
    passes(counts(), &case(2, 0, kept));
    passes(counts(), &case(1, 3, "refused: nothing is known of slot 3"));
    passes(counts(), &case(3, 0, "refused: state of version 3 cannot go back to version 2"));
    fails(
        counts(),
        &case(1, 3, "expect: []"),
        &["the rule is refused: migrate, slot 3, 2 devices from a to b: nothing is known of slot 3"],
    );
}

#[test]
fn a_further_version_has_other_parameters_and_the_same_state() {
    let case = |by: &str, rest: &str| {
        format!(
            "
name: versions
timeline:
  - {{ at: 1s, readings: {{ a: {{ x: 1 }} }} }}
  - {{ at: 2s, deploy: {{ parameters: {{ by: {by} }} }} }}
  - {{ at: 3s, readings: {{ a: {{ x: 1 }} }} }}
publishes:
  - {{ at: 1s, device: a, metrics: {{ count: 1 }} }}
{rest}"
        )
    };
    // A native module takes any parameters, where its manifest has a schema.
    let module = || counts().with_schema(serde_json::json!({ "type": "object" }));
    passes(module(), &case("10", "  - { at: 3s, device: a, metrics: { count: 11 } }\n"));
    // One that is refused changes nothing, and is a failure.
    let refused = case("-1", "  - { at: 3s, device: a, metrics: { count: 2 } }\n");
    fails(module(), &refused, &["at 2s: the deployment is refused: it does not count down"]);
    passes(module(), &format!("{refused}fails: [ {{ at: 2s, text: it does not count down }} ]\n"));
    let unknown = case("1", "").replace("name: versions", "name: versions\nparameters: [ 1 ]");
    fails(module(), &unknown, &["the rule is refused: parameters: "]);
}

#[test]
fn an_instance_is_replaced_once_in_between() {
    // An instance has loaded 1 of `a` and replaces what another one counted meanwhile: each goes on from what is stored.
    passes(
        counts(),
        "
name: replaced
timeline:
  - { at: 1s, readings: { a: { x: 1 } } }
  - { at: 2s, replace: true }
  - { at: 3s, readings: { a: { x: 1 }, b: { x: 1 } } }
  - { at: 4s, replace: true }
  - { at: 4s, readings: { a: { x: 1 } } }
publishes:
  - { at: 1s, device: a, metrics: { count: 1 } }
  - { at: 3s, device: a, metrics: { count: 2 } }
  - { at: 3s, device: b, metrics: { count: 1 } }
  - { at: 4s, device: a, metrics: { count: 3 } }
keeps:
  - { device: a, slot: 0, fields: [ 3 ] }
  - { device: b, slot: 0, fields: [ 1 ] }
",
    );
    let forgets = "
name: forgets
timeline:
  - { at: 1s, every: 1s, until: 2s, readings: { a: { x: 1 } } }
  - { at: 3s, replace: true }
  - { at: 4s, readings: { a: { x: 1 } } }
expect: [ { at: 4s, trigger: { device: a, key: high } } ]
";
    fails(
        crate::native::forgetful(),
        forgets,
        &["expected   4s  trigger a high  (line 7)\n  happened   nothing"],
    );
}
