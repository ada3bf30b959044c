//! What the shipped rules say, however the log is cut.

use serde_json::json;
use watchfire_model::Severity;

use crate::drive::{Event, prove};

fn of(metric: &'static str, values: &[(u32, f64, f64)]) -> Event {
    Event::Readings(
        values.iter().map(|(device, time, value)| (*device, *time, vec![(metric, *value)])).collect(),
    )
}

#[test]
fn threshold_has_two_sides_severities_and_a_deadband() {
    let parameters = json!({"limits": [
        {"metric": "t", "high": 80, "low": 10, "severity": "minor", "deadband": 5},
        {"metric": "t", "high": 90, "severity": "critical", "deadband": 5},
    ]});
    let log = [
        of("t", &[(0, 1.0, 50.0), (1, 1.0, 85.0), (0, 2.0, 81.0), (0, 3.0, 78.0), (0, 4.0, 91.0)]),
        of("t", &[(0, 5.0, 86.0), (0, 6.0, 84.0), (0, 7.0, 74.0), (1, 7.0, 75.0), (0, 8.0, 70.0)]),
        of("t", &[(2, 9.0, 9.0), (2, 10.0, 14.9), (2, 11.0, 15.0), (0, 12.0, 80.0)]),
    ];
    let said = prove("threshold", &parameters, 3, &log);
    let (minor, critical) = (Some(Severity::Minor), Some(Severity::Critical));
    assert_eq!(
        said[&(0, "t.high".into())],
        [(2.0, minor), (3.0, minor), (4.0, critical), (5.0, critical), (6.0, minor), (7.0, None)]
    );
    assert_eq!(said[&(1, "t.high".into())], [(1.0, minor), (7.0, None)]);
    assert_eq!(said[&(2, "t.low".into())], [(9.0, minor), (10.0, minor), (11.0, None)]);
    assert_eq!(said.len(), 3);
}
