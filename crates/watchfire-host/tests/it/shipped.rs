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

#[test]
fn rate_of_change_compares_readings_far_enough_apart() {
    let parameters = json!({"metric": "p", "rise": 10, "fall": 5, "per": 60, "over": 10, "deadband": 4});
    let log = [
        of("p", &[(0, 0.0, 1.0), (0, 5.0, 100.0), (0, 60.0, 12.0), (0, 50.0, 99.0), (0, 120.0, 20.0)]),
        of("p", &[(0, 180.0, 25.0), (0, 240.0, 19.0), (1, 240.0, 0.0), (0, 300.0, 19.0)]),
    ];
    let said = prove("rate-of-change", &parameters, 2, &log);
    let major = Some(Severity::Major);
    // 11 a minute; then 8, within the deadband; then 5. The reading at 5 s is too near, the one at 50 s late.
    assert_eq!(said[&(0, "p.rise".into())], [(60.0, major), (120.0, major), (180.0, None)]);
    assert_eq!(said[&(0, "p.fall".into())], [(240.0, major), (300.0, None)]);
    assert_eq!(said.len(), 2);
}

#[test]
fn stuck_sensor_waits_for_its_time_and_clears_on_a_change() {
    let parameters = json!({"metric": "t", "epsilon": 0.5, "after": 60});
    let log = [
        of("t", &[(0, 0.0, 7.0), (1, 0.0, 7.0), (0, 30.0, 7.4), (1, 30.0, 8.0), (0, 59.0, 6.6)]),
        of("t", &[(0, 60.0, 7.0), (1, 60.0, 8.0), (0, 70.0, 7.5), (0, 80.0, 7.6), (0, 10.0, 1.0)]),
        of("t", &[(0, 139.0, 7.6), (1, 90.0, 8.5)]),
    ];
    let said = prove("stuck-sensor", &parameters, 2, &log);
    let warning = Some(Severity::Warning);
    assert_eq!(said[&(0, "t.stuck".into())], [(60.0, warning), (70.0, warning), (80.0, None)]);
    assert_eq!(said[&(1, "t.stuck".into())], [(90.0, warning)]);
}

#[test]
fn silence_ends_with_the_next_reading() {
    let log = [
        of("t", &[(0, 1.0, 7.0), (1, 2.0, 7.0)]),
        Event::Silent(100.0, vec![(0, Some(1.0)), (2, None)]),
        of("t", &[(1, 101.0, 7.0), (0, 102.0, 7.0), (0, 103.0, 7.0)]),
        Event::Silent(200.0, vec![(0, Some(103.0))]),
    ];
    let said = prove("silence", &json!({"after": 60}), 3, &log);
    let major = Some(Severity::Major);
    assert_eq!(said[&(0, "silent".into())], [(100.0, major), (102.0, None), (200.0, major)]);
    assert_eq!(said[&(2, "silent".into())], [(100.0, major)]);
    assert_eq!(said.len(), 2);
}

#[test]
fn an_anomaly_is_judged_by_what_came_before_it() {
    for metrics in [json!(["t"]), json!(["*"]), json!(["t", "absent"])] {
        let parameters = json!({"metrics": metrics, "warm_up": 10, "trigger_sigmas": 4, "clear_sigmas": 2});
        let mut values: Vec<_> =
            (0..40).flat_map(|i| [(0, f64::from(i), f64::from(i % 2)), (1, f64::from(i), 5.0)]).collect();
        // Device 1 never changed, so there is nothing to measure its step by; device 2 is not warm yet.
        values.extend([(0, 40.0, 9.0), (1, 40.0, 5.1), (2, 40.0, 0.0), (2, 41.0, 99.0), (0, 41.0, 0.5)]);
        let said = prove("ewma-anomaly", &parameters, 3, &[of("t", &values)]);
        assert_eq!(said[&(0, "t".into())], [(40.0, Some(Severity::Warning)), (41.0, None)]);
        assert_eq!(said.len(), 1);
    }
}

#[test]
fn the_quick_way_past_quiet_batches_misses_nothing() {
    // After some quiet batches the rule knows the state of all devices and no longer asks whose readings
    // it got; an instance that starts with an alert standing, and devices that come later, must be seen.
    let parameters = json!({"metric": "t", "high": 80});
    let mut log = vec![of("t", &[(0, 1.0, 90.0)])];
    log.extend((0..40).map(|i| of("t", &[(1, f64::from(i + 2), 20.0)])));
    log.push(of("t", &[(0, 50.0, 70.0), (2, 51.0, 81.0)]));
    log.extend((0..40).map(|i| of("t", &[(1, f64::from(i + 52), 20.0)])));
    log.push(of("t", &[(2, 100.0, 10.0)]));
    let said = prove("threshold", &parameters, 3, &log);
    let major = Some(Severity::Major);
    assert_eq!(said[&(0, "t.high".into())], [(1.0, major), (50.0, None)]);
    assert_eq!(said[&(2, "t.high".into())], [(51.0, major), (100.0, None)]);
}
