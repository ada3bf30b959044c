//! The cases of the shipped rules (`rules/*/cases/*.yaml`, described in `rules/README.md`), run against their
//! components in every cut.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use watchfire_model::call::Silence;
use watchfire_model::time::Duration;
use watchfire_model::{Limits, Severity};

use crate::drive::{Bench, CUTS, Event, shipped};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    parameters: serde_json::Value,
    timeline: Vec<Step>,
    expect: Vec<Expected>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at: Duration,
    measured: Option<Duration>,
    #[serde(default)]
    readings: BTreeMap<String, BTreeMap<String, f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    at: Duration,
    trigger: Option<Condition>,
    clear: Option<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    device: String,
    key: String,
    severity: Option<Severity>,
}

/// The devices, and the log with the silences that the loop would find.
fn log_of(case: &Case, silence: Silence) -> (Vec<String>, Vec<Event>) {
    let devices: BTreeSet<String> =
        case.timeline.iter().flat_map(|step| step.readings.keys().cloned()).collect();
    let devices: Vec<String> = devices.into_iter().collect();
    let handle = |id: &String| devices.iter().position(|device| device == id).unwrap() as u32;
    let mut heard: Vec<(f64, Option<f64>, bool)> = vec![(0.0, None, false); devices.len()];
    let mut log = Vec::new();
    for step in &case.timeline {
        let at = step.at.as_secs_f64();
        if let Silence::After(span) = silence {
            let mut due: Vec<_> = (0..devices.len())
                .filter(|&i| !heard[i].2 && heard[i].0 + span.as_secs_f64() <= at)
                .map(|i| (heard[i].0 + span.as_secs_f64(), i))
                .collect();
            due.sort_by(|a, b| a.0.total_cmp(&b.0));
            for (at, i) in due {
                heard[i].2 = true;
                log.push(Event::Silent(at, vec![(i as u32, heard[i].1)]));
            }
        }
        let measured = step.measured.unwrap_or(step.at).as_secs_f64();
        let readings: Vec<_> = step
            .readings
            .iter()
            .map(|(device, metrics)| {
                heard[handle(device) as usize] = (at, Some(measured), false);
                // Names live as long as the test: there are a handful.
                let metrics =
                    metrics.iter().map(|(metric, value)| (&*metric.clone().leak(), *value)).collect();
                (handle(device), measured, metrics)
            })
            .collect();
        if !readings.is_empty() {
            log.push(Event::Readings(readings));
        }
    }
    (devices, log)
}

#[test]
fn shipped_rules_say_what_their_cases_say() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules");
    let mut cases = 0;
    for rule in ["ewma-anomaly", "rate-of-change", "silence", "stuck-sensor", "threshold"] {
        let module = shipped(rule);
        for entry in std::fs::read_dir(rules.join(rule).join("cases")).unwrap() {
            let path = entry.unwrap().path();
            let case: Case = serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            cases += 1;
            for cut in CUTS {
                let bench = |devices| {
                    Bench::with_limits(module.clone(), case.parameters.clone(), devices, Limits::default())
                };
                let (devices, log) = log_of(&case, bench(0).silence);
                let said = bench(devices.len() as u32).run(&log, cut);
                // Changes only: what is said again is none.
                let mut changes = BTreeSet::new();
                for ((device, key), said) in said {
                    let mut before = None;
                    for (at, now) in said {
                        if now != before {
                            changes.insert((
                                ((at * 1e6) as u64),
                                devices[device as usize].clone(),
                                key.clone(),
                                now,
                            ));
                        }
                        before = now;
                    }
                }
                let expected: BTreeSet<_> = case
                    .expect
                    .iter()
                    .map(|expected| {
                        let condition = expected.trigger.as_ref().or(expected.clear.as_ref()).unwrap();
                        let severity = expected.trigger.as_ref().and_then(|trigger| trigger.severity);
                        (expected.at.0, condition.device.clone(), condition.key.clone(), severity)
                    })
                    .collect();
                assert_eq!(changes, expected, "{rule}: {} ({cut:?})", case.name);
            }
        }
    }
    assert!(cases >= 5);
}
