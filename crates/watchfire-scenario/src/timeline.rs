//! The time line of a case: spreads series out, reads recordings, and puts everything into the order of time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_saphyr::Spanned;
use watchfire_model::{DeviceSpec, Duration, Timestamp, Value};

use crate::case::{Action, Row, What};
use crate::file::{DeviceFile, Metric, Pairs, Step};
use crate::recording::{Recorded, Recording, RecordingError};
use crate::series::Series;
use crate::spread::{Result, check_device, fault, line_of};

/// Readings of one case: a year of one device every minute, and a mistyped `every` still ends.
const MOST_READINGS: usize = 600_000;
/// How deep an object of a recording may be, as for telemetry.
const DEEPEST: usize = 16;

/// Everything that happens, in order of time, and the line of each.
pub(crate) fn actions(
    timeline: Vec<Spanned<Step>>,
    start: Timestamp,
    folder: &Path,
) -> Result<(Vec<Action>, Vec<u64>)> {
    let mut all: Vec<(Action, u64)> = Vec::new();
    let mut before = start;
    let mut readings = 0_usize;
    for step in timeline {
        let line = line_of(&step);
        let step = step.value;
        let at = step.at.after(start);
        if at < start {
            return fault(line, format!("{at} is before the start, {start}"));
        }
        if at < before {
            let (at, before) = (at.since(start), before.since(start));
            return fault(line, format!("the time line goes back from {before} to {at}"));
        }
        before = at;
        let mut push = |at, what| all.push((Action { at, what }, line));
        if !step.register.is_empty() {
            let specs: Vec<DeviceSpec> = step.register.into_iter().map(DeviceFile::into).collect();
            specs.iter().try_for_each(|spec| check_device(line, spec))?;
            push(at, What::Register(specs));
        }
        for id in step.delete {
            push(at, What::Delete(id));
        }
        if let Some(reset) = step.reset {
            push(at, What::Reset { device: reset.device, key: reset.key });
        }
        if let Some(deploy) = step.deploy {
            push(at, What::Deploy(deploy.parameters));
        }
        if step.replace {
            push(at, What::Replace);
        }
        let (times, spacing) = match (step.every, step.until) {
            (None, None) => (1, Duration::ZERO),
            (Some(every), Some(until)) => {
                let until = until.after(start);
                if every == Duration::ZERO || until < at {
                    return fault(line, "a series has an `every` above zero, and an `until` not before `at`");
                }
                (1 + until.since(at).0 / every.0, every)
            }
            _ => return fault(line, "`every` and `until` go together"),
        };
        if let Some(file) = step.file {
            if !step.readings.0.is_empty() || times > 1 || step.measured.is_some() {
                return fault(line, "`file` stands alone: its readings have times of their own");
            }
            for (at, row) in recorded(line, &folder.join(file), at)? {
                push(at, What::Reading(row));
                readings += 1;
            }
            if readings > MOST_READINGS {
                return fault(line, format!("a case has at most {MOST_READINGS} readings"));
            }
            continue;
        }
        if step.readings.0.is_empty() {
            if times > 1 || step.measured.is_some() {
                return fault(line, "`every`, `until` and `measured` are of readings, and there are none");
            }
            push(at, What::Nothing);
            continue;
        }
        readings = readings.saturating_add((times as usize).saturating_mul(step.readings.0.len()));
        if readings > MOST_READINGS {
            return fault(line, format!("a case has at most {MOST_READINGS} readings"));
        }
        let measured = step.measured.map_or(at, |measured| measured.after(start));
        let mut devices = made(line, step.readings, times > 1)?;
        for n in 0..times {
            let later = Duration(spacing.0 * n);
            let part = if times > 1 { n as f64 / (times - 1) as f64 } else { 0.0 };
            for (device, metrics) in &mut devices {
                let metrics = values(line, metrics, later, part)?;
                let row = Row { line, at: measured + later, device: device.clone(), metrics };
                push(at + later, What::Reading(row));
            }
        }
    }
    // A series runs on beside the steps behind it.
    all.sort_by_key(|(action, _)| action.at);
    Ok(all.into_iter().unzip())
}

/// A metric of a step, with what it needs to go on.
enum Made {
    Value(Value),
    Series(Box<Series>),
}

type Metrics = Vec<(String, Made)>;

fn made(line: u64, readings: Pairs<Pairs<Metric>>, series: bool) -> Result<Vec<(String, Metrics)>> {
    let mut devices = Vec::new();
    for (device, metrics) in readings.0 {
        if metrics.0.is_empty() {
            return fault(line, "a reading has at least one metric");
        }
        let mut all = Vec::new();
        for (name, metric) in metrics.0 {
            let made = match metric {
                Metric::Value(value) => Made::Value(value),
                Metric::Series(_) if !series => {
                    return fault(line, format!("{name}: this needs a series: give `every` and `until`"));
                }
                Metric::Series(file) => {
                    let series = Series::new(&file, &device, &name);
                    Made::Series(Box::new(series.or_else(|what| fault(line, format!("{name}: {what}")))?))
                }
            };
            all.push((name, made));
        }
        devices.push((device, all));
    }
    Ok(devices)
}

fn values(line: u64, metrics: &mut Metrics, later: Duration, part: f64) -> Result<BTreeMap<String, Value>> {
    let mut values = BTreeMap::new();
    for (name, metric) in metrics {
        let value = match metric {
            Made::Value(value) => value.clone(),
            Made::Series(series) => series.next(later, part),
        };
        if matches!(value, Value::Number(x) if !x.is_finite()) {
            return fault(line, format!("{name}: what devices send is finite"));
        }
        values.insert(name.clone(), value);
    }
    Ok(values)
}

/// Readings of a file: the first comes at `at`, the others as much later as they did; all times move by the same.
fn recorded(line: u64, file: &Path, at: Timestamp) -> Result<Vec<(Timestamp, Row)>> {
    let recording = Recording::read(file).or_else(|error| match error {
        RecordingError::File { ref source, .. } => fault(line, format!("{error}: {source}")),
        error => fault(line, error.to_string()),
    })?;
    let first = recording.first();
    let moved = |time: Timestamp| {
        if time < first { at - first.since(time) } else { at + time.since(first) }
    };
    let mut rows = Vec::with_capacity(recording.all().len());
    for reading in recording.all() {
        let metrics = flat(reading).or_else(|what| fault(line, format!("{}: {what}", file.display())))?;
        // Nothing but `null`: a reading that a server would not take.
        if metrics.is_empty() {
            let (device, time) = (&reading.device, reading.time);
            return fault(line, format!("{}: {device} at {time} has no metric", file.display()));
        }
        let row = Row { line, at: moved(reading.time), device: reading.device.clone(), metrics };
        rows.push((moved(reading.came()), row));
    }
    Ok(rows)
}

/// The metrics of a reading as a server takes them: members of objects are called by their path, `null` is no value.
pub(crate) fn flat(reading: &Recorded) -> std::result::Result<BTreeMap<String, Value>, String> {
    fn add(
        metrics: &mut BTreeMap<String, Value>,
        name: String,
        value: &serde_json::Value,
        depth: usize,
    ) -> std::result::Result<(), String> {
        let value = match value {
            serde_json::Value::Null => return Ok(()),
            serde_json::Value::Bool(flag) => Value::Boolean(*flag),
            serde_json::Value::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Array(_) => return Err(format!("{name} is a list")),
            serde_json::Value::Object(_) if depth == DEEPEST => return Err(format!("{name} is too deep")),
            serde_json::Value::Object(members) => {
                let mut members = members.iter();
                return members.try_for_each(|(member, value)| {
                    add(metrics, format!("{name}.{member}"), value, depth + 1)
                });
            }
        };
        if metrics.insert(name.clone(), value).is_some() {
            return Err(format!("{name} comes twice"));
        }
        Ok(())
    }
    let mut metrics = BTreeMap::new();
    for (name, value) in &reading.metrics {
        add(&mut metrics, name.clone(), value, 1)?;
    }
    Ok(metrics)
}

/// Devices of the time line that nobody registers are registered from the start.
pub(crate) fn register_named(devices: &mut Vec<DeviceSpec>, actions: &[Action], lines: &[u64]) -> Result<()> {
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for action in actions {
        if let What::Register(specs) = &action.what {
            known.extend(specs.iter().map(|spec| spec.id.as_str()));
        }
    }
    let listed: BTreeSet<String> = devices.iter().map(|spec| spec.id.clone()).collect();
    for (action, &line) in actions.iter().zip(lines) {
        let What::Reading(row) = &action.what else { continue };
        if !listed.contains(&row.device) && known.insert(&row.device) {
            let spec = DeviceSpec { id: row.device.clone(), ..DeviceSpec::default() };
            check_device(line, &spec)?;
            devices.push(spec);
        }
    }
    Ok(())
}

/// Refuses what could not reach the log: readings of devices that are not registered then.
pub(crate) fn follow(devices: &[DeviceSpec], actions: &[Action], lines: &[u64]) -> Result<()> {
    let mut present: BTreeSet<&str> = devices.iter().map(|spec| spec.id.as_str()).collect();
    for (action, &line) in actions.iter().zip(lines) {
        match &action.what {
            What::Register(specs) => present.extend(specs.iter().map(|spec| spec.id.as_str())),
            What::Delete(id) => {
                if !present.remove(id.as_str()) {
                    return fault(line, format!("device {id:?} is deleted and not registered then"));
                }
            }
            What::Reading(Row { device, .. }) | What::Reset { device, .. } => {
                if !present.contains(device.as_str()) {
                    return fault(line, format!("device {device:?} is not registered then"));
                }
            }
            What::Deploy(_) | What::Replace | What::Nothing => {}
        }
    }
    Ok(())
}
