//! Calls that must fail, and what a rule logs.

use crate::native::{counts, fails, passes};

const POISON: &str = "
name: poison
timeline:
  - { at: 1s, readings: { a: { x: 1 }, b: { x: 2000 }, c: { x: 1 } } }
  - { at: 2s, readings: { a: { x: 2 } } }
publishes:
  - { at: 1s, device: a, metrics: { count: 1 } }
  - { at: 1s, device: c, metrics: { count: 1 } }
  - { at: 2s, device: a, metrics: { count: 2 } }
";

#[test]
fn the_rows_around_one_that_fails_are_evaluated_in_every_mode() {
    passes(counts(), &format!("{POISON}fails: [ {{ at: 1s, device: b, text: 2000 is absurd }} ]"));
    fails(counts(), POISON, &["a call failed, played whole, at 1s on b: batch failed: 2000 is absurd"]);
}

#[test]
fn a_failure_that_does_not_come_is_told() {
    let case = |wanted: &str| format!("{POISON}fails:\n  - {{ at: 1s, text: absurd }}\n  - {{ {wanted} }}\n");
    for (wanted, told) in [
        ("at: 2s, text: absurd", "2s  a failure that says \"absurd\"  (line 12)"),
        ("at: 1s, device: a, text: absurd", "1s  a failure on a that says \"absurd\"  (line 12)"),
        ("at: 1s, text: insane", "1s  a failure that says \"insane\"  (line 12)"),
    ] {
        let expected = format!("expected   {told}\n  happened   nothing, played whole");
        fails(counts(), &case(wanted), &[&expected]);
    }
}

#[test]
fn messages_are_compared_in_their_order() {
    let case = |logs: &str| {
        format!(
            "
name: messages
timeline:
  - {{ at: 1s, readings: {{ a: {{ x: 1 }}, b: {{ x: 2 }} }} }}
logs:
  - {{ at: 1s, level: info, text: 1 of 0 }}
{logs}
"
        )
    };
    passes(counts(), &case("  - { at: 1s, level: info, text: 2 of 1 }"));
    fails(counts(), &case(""), &["expected   nothing\n  logged     1s  info  \"2 of 1\""]);
    let other = case("  - { at: 1s, level: warn, text: 2 of 1 }");
    fails(
        counts(),
        &other,
        &["expected   1s  warn  \"2 of 1\"  (line 7)\n  logged     1s  info  \"2 of 1\""],
    );
}
