//! Rules whose verdict depends on chance are found out.

use crate::native::{counts_rows, fails, forgetful, passes, threshold};

const TWICE: &str = "
name: at one time
timeline:
  - { at: 10s, readings: { a: { x: 1 }, b: { x: 81 } } }
";

#[test]
fn a_rule_that_looks_at_single_rows_does_not_care() {
    passes(threshold(), &format!("{TWICE}expect: [ {{ at: 10s, trigger: {{ device: b, key: high }} }} ]"));
}

#[test]
fn where_a_batch_is_cut_must_not_matter() {
    fails(
        counts_rows(),
        &format!("{TWICE}expect: [ {{ at: 10s, trigger: {{ device: a, key: high }} }} ]"),
        &["played whole and played row by row must do the same:
    whole       10s  trigger a high major
    row by row  nothing"],
    );
}

#[test]
fn state_that_is_in_memory_alone_is_lost() {
    fails(
        forgetful(),
        "
name: the third reading
timeline:
  - { at: 0s, every: 1m, until: 1h, readings: { a: { x: 1 } } }
expect:
  - { at: 2m, trigger: { device: a, key: high } }
",
        &[
            "played whole and played fresh instances must do the same:
    whole            2m  trigger a high major
    fresh instances  nothing",
            "played row by row, fresh instances",
        ],
    );
}
