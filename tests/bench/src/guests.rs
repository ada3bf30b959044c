//! The same rules in every language that has an SDK, each against the native loop of the same run. The components are
//! those of ../guests; a component that does not say what the native loop says stops the bench.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use serde_json::json;
use watchfire_host::{Host, HostOptions};
use watchfire_model::call::{Module, Modules, Rows};
use watchfire_model::state::Blobs;
use watchfire_model::{Batch, DeviceHandle, Digest, KeyedState};

use crate::call::{self, Fleet, rows};
use crate::event::{self, DEVICES, METRICS};
use crate::figure::{Figure, alternate, cpu};
use crate::{Options, failing, instances};

/// The metric that most of them look at.
pub const METRIC: &str = METRICS[0];
/// Readings of a record.
const SIZE: usize = 1024;
/// Records of a round: ten readings of each device.
const RECORDS: usize = 150;
const ROUNDS: usize = 7;

/// A language, and what is wanted of it.
struct Language {
    name: &'static str,
    /// What a rule with state may cost against the native loop: what the first prototypes of rules did.
    stateful: (&'static str, f64),
    /// What a rule without state may cost for each reading.
    stateless: Option<(&'static str, f64)>,
    /// Whether looking at one reading at a time may cost no more than twice as much as columns: calling a function
    /// costs an interpreter more than what the function does.
    both_levels: bool,
}

const LANGUAGES: [Language; 5] = [
    Language { name: "rust", stateful: ("<= 1.45x", 100.0 / 69.0), stateless: None, both_levels: true },
    Language { name: "c", stateful: ("<= 1.20x", 83.0 / 69.0), stateless: None, both_levels: true },
    Language {
        name: "go",
        stateful: ("<= 4.14x", 286.0 / 69.0),
        stateless: Some(("< 15 ns", 15.0)),
        both_levels: true,
    },
    Language {
        name: "javascript",
        stateful: ("<= 53.0x", 3659.0 / 69.0),
        stateless: Some(("< 250 ns", 250.0)),
        both_levels: false,
    },
    Language {
        name: "python",
        stateful: ("<= 111x", 7672.0 / 69.0),
        stateless: Some(("< 250 ns", 250.0)),
        both_levels: false,
    },
];

/// The folder of the components of ../guests.
fn folder(options: &Options) -> Result<PathBuf> {
    match &options.guests {
        Some(folder) if folder.is_dir() => Ok(folder.clone()),
        _ => bail!("there are no guests: `cargo xtask bench guests` builds them, or give --guests FOLDER"),
    }
}

/// The component of a language; `None`: it was not built, which is said.
pub fn component(options: &Options, language: &str) -> Result<Option<PathBuf>> {
    let path = folder(options)?.join(format!("{language}.wasm"));
    if path.is_file() {
        return Ok(Some(path));
    }
    eprintln!("LEFT OUT: {language}, there is no {}", path.display());
    Ok(None)
}

pub fn run(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let fleet = Fleet::new();
    let mut built = Vec::new();
    for language in &LANGUAGES {
        if let Some(path) = component(options, language.name)? {
            let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            built.push((language, bytes));
        }
    }
    ensure!(!built.is_empty(), "no language has a component");
    let host = Host::new(HostOptions::default())?;
    for (language, bytes) in &built {
        let name = language.name;
        eprintln!("guests: {name}");
        host.add(bytes).with_context(|| format!("add {name}"))?;
        let module = host.get(Digest::of(bytes)).map_err(|failure| anyhow!("{failure}"))?;
        calls(&fleet, language, &module, figures).with_context(|| name)?;
    }
    drop(host);
    let named: Vec<_> = built.iter().map(|(language, bytes)| (language.name, &bytes[..])).collect();
    instances::run(&named, figures)?;
    failing::run(options, figures)
}

/// What calls cost: with state, little and more of it, and without, on both levels.
fn calls(
    fleet: &Fleet,
    language: &Language,
    module: &Arc<dyn Module>,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let batches = event::batches(RECORDS, SIZE, 7);
    let start = |case: &str| call::rule(module, json!({"case": case, "high": HIGH}));
    let name = language.name;

    let (mut rule, mut native) = (start("ewma-batch")?, Native::<1>::default());
    let pair =
        compare(&batches, &[METRIC], |rows| fleet.call(&mut rule, rows), |rows| Ok(native.ewma(rows)))?;
    same_state(&rule.state, &native.state)?;
    let (goal, limit) = language.stateful;
    let met = |_, ratio| Some(ratio <= limit);
    let figure = format!("{name}: Ewma of each device, state stored, by columns, against the native loop");
    figures.push(Figure::against("guests", figure, "ns/reading", pair, goal, met));

    let (mut rule, mut native) = (start("five-batch")?, Native::<{ METRICS.len() }>::default());
    let pair = compare(&batches, &METRICS, |rows| fleet.call(&mut rule, rows), |rows| Ok(native.ewma(rows)))?;
    same_state(&rule.state, &native.state)?;
    let figure =
        format!("{name}: five Ewma of each device, 120 bytes stored, by columns, against the native loop");
    figures.push(Figure::against("guests", figure, "ns/reading", pair, goal, met));

    let (mut by_row, mut by_column) = (start("ewma-device")?, start("ewma-batch")?);
    let pair = compare(
        &batches,
        &[METRIC],
        |rows| fleet.call(&mut by_row, rows),
        |rows| fleet.call(&mut by_column, rows),
    )?;
    same_state(&by_row.state, &by_column.state)?;
    let (goal, met) = levels(language);
    let figure = format!("{name}: Ewma of each device, a reading at a time, against by columns");
    figures.push(Figure::against("guests", figure, "ns/reading", pair, goal, met));

    let mut rule = start("limit-batch")?;
    let pair = compare(&batches, &[METRIC], |rows| fleet.call(&mut rule, rows), |rows| Ok(over(rows)))?;
    let (goal, limit) = language.stateless.unwrap_or(("report", f64::NAN));
    let figure = format!("{name}: a limit, by columns, against the native loop");
    let met = |value, _| language.stateless.is_some().then_some(value < limit);
    figures.push(Figure::against("guests", figure, "ns/reading", pair, goal, met));

    let mut by_row = start("limit-device")?;
    let pair = compare(
        &batches,
        &[METRIC],
        |rows| fleet.call(&mut by_row, rows),
        |rows| fleet.call(&mut rule, rows),
    )?;
    let (goal, met) = levels(language);
    let figure = format!("{name}: a limit, a reading at a time, against by columns");
    figures.push(Figure::against("guests", figure, "ns/reading", pair, goal, met));
    Ok(())
}

/// What is wanted of a reading at a time against columns.
fn levels(language: &Language) -> (&'static str, impl FnOnce(f64, f64) -> Option<bool> + use<>) {
    let wanted = language.both_levels;
    (if wanted { "<= 2x" } else { "report" }, move |_, ratio| wanted.then_some(ratio <= 2.0))
}

/// Nanoseconds for each reading of two ways to evaluate these metrics of the same records, which must trigger equally
/// often.
fn compare(
    batches: &[Arc<Batch>],
    metrics: &[&str],
    mut value: impl FnMut(&Arc<Rows>) -> Result<usize>,
    mut reference: impl FnMut(&Arc<Rows>) -> Result<usize>,
) -> Result<(f64, f64)> {
    let failed = RefCell::new(None);
    let (mut said, mut expected) = (0, 0);
    let pair = alternate(
        ROUNDS,
        || round(batches, metrics, &mut value, &mut said, &failed),
        || round(batches, metrics, &mut reference, &mut expected, &failed),
    );
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    ensure!(said == expected && said > 0, "{said} triggers, the reference has {expected}");
    Ok(pair)
}

fn round(
    batches: &[Arc<Batch>],
    metrics: &[&str],
    call: &mut impl FnMut(&Arc<Rows>) -> Result<usize>,
    triggers: &mut usize,
    failed: &RefCell<Option<Error>>,
) -> f64 {
    let prepared: Vec<_> = batches.iter().map(|batch| rows(batch, metrics)).collect();
    // Made dense by the first rule on the stream: the same for every language.
    for rows in &prepared {
        metrics.iter().for_each(|metric| drop(rows.numbers(metric)));
    }
    let began = cpu();
    for rows in &prepared {
        match call(rows) {
            Ok(more) => *triggers += more,
            // The first says what is wrong: behind it all calls fail.
            Err(error) => drop(failed.borrow_mut().get_or_insert(error)),
        }
    }
    (cpu() - began) * 1e9 / (RECORDS * SIZE) as f64
}

/// Both keep the same of every device, to the last bit.
fn same_state(kept: &KeyedState, expected: &KeyedState) -> Result<()> {
    for device in (0..DEVICES).map(DeviceHandle) {
        let (kept, expected) = (kept.get(0, device), expected.get(0, device));
        ensure!(kept == expected, "{device:?} has the state {kept:?}, the reference {expected:?}");
    }
    Ok(())
}

const HIGH: f64 = 100.0;

/// The limit: rows above it.
fn over(rows: &Rows) -> usize {
    rows.numbers(METRIC).iter().filter(|value| **value > HIGH).count()
}

/// What the guests do with state of the first so many metrics, compiled for this machine.
#[derive(Default)]
struct Native<const N: usize> {
    averages: Vec<[Average; N]>,
    /// The record that had a device last.
    seen: Vec<u32>,
    record: u32,
    state: KeyedState,
}

#[derive(Clone, Copy, Default)]
struct Average {
    mean: f64,
    variance: f64,
    count: i64,
}

impl<const N: usize> Native<N> {
    /// Takes a record in; gives how many of its values are odd.
    fn ewma(&mut self, rows: &Rows) -> usize {
        const ALPHA: f64 = 0.05;
        self.averages.resize(DEVICES as usize, [Average::default(); N]);
        self.seen.resize(DEVICES as usize, 0);
        self.record += 1;
        let mut odd = 0;
        let mut touched = Vec::with_capacity(rows.len());
        let columns: [_; N] = std::array::from_fn(|m| rows.numbers(METRICS[m]));
        let columns = columns.each_ref().map(|column| &column[..rows.len()]);
        for (row, &device) in rows.devices().iter().enumerate() {
            let i = device.0 as usize;
            if self.seen[i] != self.record {
                self.seen[i] = self.record;
                touched.push(device);
            }
            for (average, column) in self.averages[i].iter_mut().zip(columns) {
                let value = column[row];
                let delta = value - average.mean;
                if average.count >= 30 && delta * delta > 36.0 * average.variance && average.variance > 0.0 {
                    odd += 1;
                }
                if average.count == 0 {
                    (average.mean, average.variance) = (value, 0.0);
                } else {
                    average.mean += ALPHA * delta;
                    average.variance = (1.0 - ALPHA) * (average.variance + ALPHA * delta * delta);
                }
                average.count += 1;
            }
        }
        let mut blobs = Blobs::default();
        for device in &touched {
            let mut blob = [[0; 24]; N];
            for (bytes, average) in blob.iter_mut().zip(&self.averages[device.0 as usize]) {
                let Average { mean, variance, count } = average;
                bytes[..8].copy_from_slice(&mean.to_le_bytes());
                bytes[8..16].copy_from_slice(&variance.to_le_bytes());
                bytes[16..].copy_from_slice(&count.to_le_bytes());
            }
            blobs.push(blob.as_flattened());
        }
        self.state.set_many(0, &touched, &blobs);
        odd
    }
}
