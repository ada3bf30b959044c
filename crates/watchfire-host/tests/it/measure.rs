//! What a call costs. Run by hand: `cargo test --release -p watchfire-host -- --ignored --nocapture`.

use std::time::Instant;

use serde_json::json;
use watchfire_model::call::Callback;

use crate::drive::{Bench, Reading, shipped};

const METRICS: [&str; 5] = ["temperature", "pressure", "vibration", "current", "humidity"];

fn records(rows: usize, devices: u32) -> Vec<Vec<Reading>> {
    let mut x = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let mut reading = |second: usize| {
        let device = (random() % u64::from(devices)) as u32;
        let metrics = METRICS.map(|metric| (metric, 20.0 + (random() >> 11) as f64 / (1_u64 << 53) as f64));
        (device, second as f64, metrics.to_vec())
    };
    (0..64).map(|record| (0..rows).map(|_| reading(record)).collect()).collect()
}

/// Median nanoseconds of a call, the second round, columns made dense before.
fn median(rule: &str, parameters: serde_json::Value, rows: usize) -> f64 {
    let mut bench = Bench::new(shipped(rule), parameters, 15_000);
    let records: Vec<_> = records(rows, 15_000).iter().map(|record| bench.rows(record)).collect();
    let mut took = Vec::new();
    for round in 0..10 {
        for rows in &records {
            let begun = Instant::now();
            let effects = bench.outcome(Callback::Batch(rows.clone())).result.unwrap();
            if round > 1 {
                took.push(begun.elapsed().as_nanos() as f64);
            }
            for (slot, devices, blobs) in &effects.stores {
                bench.state.set_many(*slot, devices, blobs);
            }
        }
    }
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}

#[test]
#[ignore = "a measurement"]
fn what_a_call_costs() {
    let threshold = json!({"metric": "temperature", "high": 80, "deadband": 2});
    for rows in [1024, 1] {
        let per_row = |ns: f64| format!("{ns:.0} ns a call, {:.2} ns a row", ns / rows as f64);
        println!("threshold, {rows} rows: {}", per_row(median("threshold", threshold.clone(), rows)));
        println!("silence, {rows} rows: {}", per_row(median("silence", json!({}), rows)));
        let one = json!({"metrics": ["temperature"]});
        println!("ewma of one metric, {rows} rows: {}", per_row(median("ewma-anomaly", one, rows)));
        let five = json!({"metrics": METRICS});
        println!("ewma of five metrics, {rows} rows: {}", per_row(median("ewma-anomaly", five, rows)));
    }
}
