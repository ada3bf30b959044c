//! Calls of shipped components, through the rule host, as the partition loop makes them.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use serde_json::json;
use watchfire_host::{Host, HostOptions};
use watchfire_model::call::{Module, Modules, Rows};
use watchfire_model::state::Blobs;
use watchfire_model::{Digest, KeyedState};

use crate::Options;
use crate::call::{Fleet, rows, rule};
use crate::event::{self, DEVICES, METRICS};
use crate::figure::{Figure, alternate, cpu};

fn load(options: &Options, host: &Host, name: &str) -> Result<Arc<dyn Module>> {
    let bytes = std::fs::read(options.component(name)?)?;
    host.add(&bytes).with_context(|| format!("add {name}"))?;
    host.get(Digest::of(&bytes)).map_err(|failure| anyhow!("{failure}"))
}

pub fn run(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let host = Host::new(HostOptions::default())?;
    let fleet = Fleet::new();
    let threshold = load(options, &host, "threshold")?;
    let ewma = load(options, &host, "ewma-anomaly")?;
    further_threshold(&fleet, &threshold, figures)?;
    stateful(&fleet, &ewma, figures)?;
    for size in [1, 10] {
        small_records(&fleet, &threshold, size, figures)?;
    }
    Ok(())
}

/// Ten threshold rules on one stream: what each costs beside the native loop for the same verdicts.
fn further_threshold(fleet: &Fleet, module: &Arc<dyn Module>, figures: &mut Vec<Figure>) -> Result<()> {
    const RULES: usize = 10;
    const RECORDS: usize = 400;
    const SIZE: usize = 1024;
    let batches = event::batches(RECORDS, SIZE, 5);
    let limit = |i: usize| 100.0 + i as f64;
    let mut rules = (0..RULES)
        .map(|i| rule(module, json!({"metric": "temperature", "high": limit(i), "deadband": 2.0})))
        .collect::<Result<Vec<_>>>()?;
    let mut native: Vec<Vec<bool>> = vec![vec![false; DEVICES as usize]; RULES];
    let readings = (RECORDS * SIZE * RULES) as f64;
    let mut failed = None;
    let (mut alerts, mut native_alerts) = (0, 0);
    let pair = alternate(
        9,
        || {
            alerts = 0;
            let prepared: Vec<_> = batches.iter().map(|batch| rows(batch, &["temperature"])).collect();
            // Made dense by the first rule on the stream: not what a further one costs.
            prepared.iter().for_each(|rows| drop(rows.numbers("temperature")));
            let began = cpu();
            for rows in &prepared {
                for rule in &mut rules {
                    match fleet.call(rule, rows) {
                        Ok(count) => alerts += count,
                        Err(error) => failed = Some(error),
                    }
                }
            }
            (cpu() - began) * 1e9 / readings
        },
        || {
            native_alerts = 0;
            let began = cpu();
            for batch in &batches {
                let Some(column) = batch.columns.first() else { continue };
                let watchfire_model::Values::Numbers(values) = &column.values else { continue };
                for (i, active) in native.iter_mut().enumerate() {
                    for (&value, device) in values.iter().zip(&batch.devices) {
                        let active = &mut active[device.0 as usize];
                        if value > limit(i) {
                            *active = true;
                            native_alerts += 1;
                        } else if *active && value <= limit(i) - 2.0 {
                            *active = false;
                            native_alerts += 1;
                        }
                    }
                }
            }
            (cpu() - began) * 1e9 / readings
        },
    );
    if let Some(error) = failed {
        return Err(error);
    }
    anyhow::ensure!(alerts > 0 && native_alerts > 0, "{alerts} and {native_alerts} triggers and clears");
    let figure = "a further threshold rule with deadband, records of 1 024 rows, against the native loop";
    figures
        .push(Figure::against("rules", figure, "ns/reading", pair, "<= 6 ns", |value, _| Some(value <= 6.0)));
    Ok(())
}

/// Mean and deviation of five metrics for each device, written back with each record.
fn stateful(fleet: &Fleet, module: &Arc<dyn Module>, figures: &mut Vec<Figure>) -> Result<()> {
    const RECORDS: usize = 150;
    const SIZE: usize = 1024;
    let batches = event::batches(RECORDS, SIZE, 7);
    let mut rule = rule(module, json!({"metrics": METRICS}))?;
    let mut native = Native::default();
    let readings = (RECORDS * SIZE) as f64;
    let mut failed = None;
    let pair = alternate(
        7,
        || {
            let prepared: Vec<_> = batches.iter().map(|batch| rows(batch, &METRICS)).collect();
            let began = cpu();
            for rows in &prepared {
                failed = fleet.call(&mut rule, rows).err().or(failed.take());
            }
            (cpu() - began) * 1e9 / readings
        },
        || {
            let prepared: Vec<_> = batches.iter().map(|batch| rows(batch, &METRICS)).collect();
            let began = cpu();
            prepared.iter().for_each(|rows| native.record(rows));
            (cpu() - began) * 1e9 / readings
        },
    );
    if let Some(error) = failed {
        return Err(error);
    }
    anyhow::ensure!(native.triggers > 0);
    let figure = "ewma-anomaly, five metrics, state written back, against the same native";
    figures
        .push(Figure::against("rules", figure, "ns/reading", pair, "<= 1.5x", |_, ratio| Some(ratio <= 1.5)));
    Ok(())
}

/// The same as the shipped rule does, compiled for this machine: the reference.
#[derive(Default)]
struct Native {
    averages: [Vec<[f64; 4]>; 5],
    seen: Vec<u32>,
    record: u32,
    state: KeyedState,
    triggers: u64,
}

impl Native {
    fn record(&mut self, rows: &Rows) {
        self.seen.resize(DEVICES as usize, 0);
        for (slot, metric) in METRICS.iter().enumerate() {
            self.record += 1;
            let averages = &mut self.averages[slot];
            averages.resize(DEVICES as usize, [0.0; 4]);
            let values = rows.numbers(metric);
            let mut touched = Vec::with_capacity(rows.len());
            for (&value, &device) in values.iter().zip(rows.devices()) {
                let i = device.0 as usize;
                if self.seen[i] != self.record {
                    self.seen[i] = self.record;
                    touched.push(device);
                }
                let [mean, variance, count, anomalous] = &mut averages[i];
                let delta = value - *mean;
                let square = delta * delta;
                if *count >= 30.0 {
                    if square > 16.0 * *variance && *variance > 0.0 {
                        *anomalous = 1.0;
                        self.triggers += 1;
                    } else if *anomalous > 0.0 && square <= 4.0 * *variance {
                        *anomalous = 0.0;
                        self.triggers += 1;
                    }
                }
                if *count == 0.0 {
                    (*mean, *variance) = (value, 0.0);
                } else {
                    *mean += 0.05 * delta;
                    *variance = 0.95 * (*variance + 0.05 * square);
                }
                *count += 1.0;
            }
            let mut blobs = Blobs::default();
            for device in &touched {
                let bytes: Vec<u8> =
                    averages[device.0 as usize][..3].iter().flat_map(|field| field.to_le_bytes()).collect();
                blobs.push(&bytes);
            }
            self.state.set_many(slot as u32, &touched, &blobs);
        }
    }
}

/// A thousand rules that all have rows of a small record: microseconds for each record and rule.
fn small_records(
    fleet: &Fleet,
    module: &Arc<dyn Module>,
    size: usize,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    const RULES: usize = 1000;
    const RECORDS: usize = 60;
    let batches = event::batches(RECORDS, size, 11);
    let mut rules = (0..RULES)
        .map(|_| rule(module, json!({"metric": "temperature", "high": 500.0, "deadband": 2.0})))
        .collect::<Result<Vec<_>>>()?;
    let mut failed = None;
    let mut exceeded = 0;
    let calls = (RULES * RECORDS) as f64;
    let pair = alternate(
        5,
        || {
            let prepared: Vec<_> = batches.iter().map(|batch| rows(batch, &["temperature"])).collect();
            let began = cpu();
            for rows in &prepared {
                for rule in &mut rules {
                    failed = fleet.call(rule, rows).err().or(failed.take());
                }
            }
            (cpu() - began) * 1e6 / calls
        },
        || {
            let began = cpu();
            for batch in &batches {
                for _ in 0..RULES {
                    if let Some(column) = batch.columns.first()
                        && let watchfire_model::Values::Numbers(values) = &column.values
                    {
                        exceeded +=
                            values.iter().filter(|value| **std::hint::black_box(value) > 500.0).count();
                    }
                }
            }
            (cpu() - began) * 1e6 / calls
        },
    );
    std::hint::black_box(exceeded);
    if let Some(error) = failed {
        return Err(error);
    }
    let figure = format!("1 000 rules that have rows, records of {size}, against the native loop");
    figures.push(Figure::against("rules", figure, "us/record and rule", pair, "<= 1 us", |value, _| {
        Some(value <= 1.0)
    }));
    Ok(())
}
