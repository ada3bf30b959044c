//! What a verdict rests on, kept with the alert that it raised.

use std::collections::BTreeMap;

use watchfire_model::alert::{Detail, Evidence, EvidenceRow, EvidenceTimer, Verdict};
use watchfire_model::batch::{NO_BOOLEAN, NO_TEXT};
use watchfire_model::call::Rows;
use watchfire_model::device::Registry;
use watchfire_model::{DeviceHandle, DeviceSpec, Value, Values};

use super::Here;
use super::call::Call;
use crate::rule::Rule;

/// Rows of a device that it holds: enough to see what led to it, little enough to keep with each alert.
const ROWS: usize = 32;

/// Conditions that were triggered in a callback and are pending, with the row of the latest trigger. What that rests on
/// is collected once for all of them, or when one is raised: it goes through the rows, which every row may trigger.
pub(super) type Pending = BTreeMap<(DeviceHandle, Box<str>), Option<u32>>;

/// Keeps with conditions what their latest triggers, which are of this callback, rest on. It takes the place of what was
/// kept of an earlier one: what an alert tells is what was said last before it was raised, and that is what somebody
/// who is paged looks at. A condition that is pending holds one, some kilobytes of memory and checkpoint.
pub(super) fn keep_evidence(
    here: Here,
    rule: &mut Rule,
    call: &Call,
    devices: &Registry,
    triggered: Pending,
) {
    let mut rows_of: BTreeMap<DeviceHandle, Vec<u32>> =
        triggered.keys().map(|(device, _)| (*device, Vec::new())).collect();
    if let (Some(rows), false) = (&call.rows, triggered.is_empty()) {
        for (row, device) in rows.devices().iter().enumerate() {
            if let Some(mine) = rows_of.get_mut(device) {
                mine.extend(rows.row_of_batch(row as u32));
            }
        }
    }
    for ((device, key), row) in triggered {
        let Some(condition) = rule.condition(device, &key) else { continue };
        let verdict = Verdict {
            severity: condition.severity(),
            summary: condition.summary().to_string(),
            details: condition.details().to_vec(),
        };
        let told = match &call.rows {
            Some(rows) => evidence_rows(rows, &rows_of[&device], row),
            None => Told::default(),
        };
        let seen = devices.get(device).map(|device| seen(&device.spec));
        let evidence = Evidence { device: seen, ..evidence(here, rule, call, device, told, verdict) };
        rule.condition_or_new(device, &key).set_evidence(Box::new(evidence));
    }
}

fn evidence(
    here: Here,
    rule: &Rule,
    call: &Call,
    device: DeviceHandle,
    told: Told,
    verdict: Verdict,
) -> Evidence {
    let timers = call.timers.iter().filter(|timer| timer.device == device);
    let silent = call.silent.iter().find(|silent| silent.device == device);
    Evidence {
        module: rule.spec.module,
        parameters: rule.spec.parameters.clone(),
        position: here.position,
        callback: match &call.schedule {
            Some(name) => format!("schedule {name}"),
            None => call.name.into(),
        },
        now: call.now,
        device: None,
        state_before: rule.state_of(device),
        state_left_out: Vec::new(),
        stream: rule.spec.input.clone(),
        rows: told.rows,
        rows_left_out: told.left_out,
        row: told.row,
        timers: timers.map(|timer| EvidenceTimer { tag: timer.tag, at: timer.at }).collect(),
        last_reading: silent.and_then(|silent| silent.last),
        verdict: Some(verdict),
    }
}

/// What a rule sees of a device.
fn seen(device: &DeviceSpec) -> DeviceSpec {
    DeviceSpec { interval: None, speaks_for: Vec::new(), ..device.clone() }
}

/// JSON has no infinities: they are told as texts.
fn number(x: f64) -> Value {
    if x.is_finite() { Value::Number(x) } else { Value::Text(x.to_string()) }
}

pub(crate) fn finite(details: Vec<Detail>) -> Vec<Detail> {
    let value = |value| match value {
        Value::Number(x) => number(x),
        other => other,
    };
    details.into_iter().map(|detail| Detail { value: value(detail.value), ..detail }).collect()
}

/// Rows as evidence holds them.
#[derive(Default)]
struct Told {
    rows: Vec<EvidenceRow>,
    /// As many others are not in it.
    left_out: u64,
    /// The one that is named.
    row: Option<usize>,
}

/// `mine`: the rows of the device, as places in the batch.
fn evidence_rows(rows: &Rows, mine: &[u32], named: Option<u32>) -> Told {
    let (batch, all) = (rows.batch(), mine.len());
    // Up to the row that is named, where one is: what comes behind it seldom led to it.
    let upto = named.map_or(all, |named| mine.partition_point(|row| *row <= named));
    let mine = &mine[upto.saturating_sub(ROWS)..upto];
    let left_out = all - mine.len();
    let mut told: Vec<EvidenceRow> = mine
        .iter()
        .map(|row| EvidenceRow { time: batch.times[*row as usize], metrics: BTreeMap::new() })
        .collect();
    for column in batch.columns.iter().filter(|column| rows.sees(&column.metric)) {
        for (told, &row) in told.iter_mut().zip(mine) {
            let place = match &column.rows {
                None => row as usize,
                Some(some) => match some.binary_search(&row) {
                    Ok(place) => place,
                    Err(_) => continue,
                },
            };
            let value = match &column.values {
                Values::Numbers(numbers) if numbers[place].is_nan() => continue,
                Values::Numbers(numbers) => number(numbers[place]),
                Values::Texts(texts) if texts.codes[place] == NO_TEXT => continue,
                Values::Texts(texts) => {
                    Value::Text(texts.dictionary[texts.codes[place] as usize].to_string())
                }
                Values::Booleans(flags) if flags[place] == NO_BOOLEAN => continue,
                Values::Booleans(flags) => Value::Boolean(flags[place] != 0),
            };
            told.metrics.insert(column.metric.to_string(), value);
        }
    }
    let row = named.and_then(|named| mine.iter().position(|row| *row == named));
    Told { rows: told, left_out: left_out as u64, row }
}
