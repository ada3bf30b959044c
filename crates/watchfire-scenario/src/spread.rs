//! From the file of a case to what is run: checks what the shape alone does not say, and spreads series out.

use std::collections::{BTreeMap, BTreeSet};

use serde_saphyr::Spanned;
use watchfire_model::{DeviceSpec, Duration, Timestamp, Value};

use crate::case::{Action, Case, Expected, Kind, Never, Row, What};
use crate::file::{CaseError, CaseFile, DeviceFile, ExpectedFile, Identity, Metric, Step};

/// Where 0s is, if the file does not say: 2026-01-01T00:00:00Z.
const START: Timestamp = Timestamp(1_767_225_600_000_000);
/// Readings of one case: a year of one device every minute, and a mistyped `every` still ends.
const MOST_READINGS: usize = 600_000;

struct Fault {
    line: u64,
    message: String,
}

type Result<T> = std::result::Result<T, Fault>;

fn fault<T>(line: u64, message: impl Into<String>) -> Result<T> {
    Err(Fault { line, message: message.into() })
}

pub(crate) fn case(file: CaseFile, name: &str) -> std::result::Result<Case, CaseError> {
    convert(file, name).map_err(|Fault { line, message }| CaseError {
        file: name.into(),
        line: line.max(1),
        message,
    })
}

fn convert(file: CaseFile, name: &str) -> Result<Case> {
    let start = file.start.unwrap_or(START);
    let expects = file.expect.is_some() || file.publishes.is_some() || !file.never.is_empty();
    match (&file.refused, expects) {
        (Some(_), true) => return fault(1, "a rule that is `refused` does nothing that could be expected"),
        (None, false) => {
            return fault(1, "nothing is expected: give `expect` (`[]` for nothing), `never` or `publishes`");
        }
        _ => {}
    }
    let mut devices: Vec<DeviceSpec> = Vec::new();
    for device in file.devices {
        let (line, spec) = (line_of(&device), device.value.into());
        check_device(line, &spec)?;
        if devices.iter().any(|other| other.id == spec.id) {
            return fault(line, format!("device {:?} comes twice", spec.id));
        }
        devices.push(spec);
    }
    let (actions, lines) = actions(file.timeline, start)?;
    register_named(&mut devices, &actions, &lines)?;
    follow(&devices, &actions, &lines)?;
    let expect =
        file.expect.map(|expected| expected.into_iter().map(|one| expectation(one, start)).collect());
    let never = file.never.into_iter().map(|never| Never {
        line: line_of(&never),
        device: never.value.device,
        key: never.value.key,
        severity: never.value.severity,
    });
    let publishes = file.publishes.map(|rows| {
        let row = |row: Spanned<crate::file::Published>| Row {
            line: line_of(&row),
            at: row.value.at.after(start),
            device: row.value.device,
            metrics: row.value.metrics,
        };
        rows.into_iter().map(row).collect()
    });
    Ok(Case {
        name: file.name,
        file: name.into(),
        start,
        parameters: file.parameters,
        condition: file.condition.into(),
        select: file.select,
        limits: file.limits,
        pass: file.pass,
        devices,
        actions,
        expect: expect.transpose()?,
        never: never.collect(),
        publishes,
        refused: file.refused,
    })
}

fn line_of<T>(spanned: &Spanned<T>) -> u64 {
    spanned.referenced.line()
}

fn check_device(line: u64, spec: &DeviceSpec) -> Result<()> {
    DeviceSpec::check_id(&spec.id).or_else(|reason| fault(line, format!("{:?}: {reason}", spec.id)))
}

/// Everything that happens, in order of time, and the line of each.
fn actions(timeline: Vec<Spanned<Step>>, start: Timestamp) -> Result<(Vec<Action>, Vec<u64>)> {
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
        for n in 0..times {
            let later = Duration(spacing.0 * n);
            for (device, metrics) in &step.readings.0 {
                let part = if times > 1 { n as f64 / (times - 1) as f64 } else { 0.0 };
                let metrics = values(line, metrics.0.as_slice(), part, times > 1)?;
                let row = Row { line, at: measured + later, device: device.clone(), metrics };
                push(at + later, What::Reading(row));
            }
        }
    }
    // A series runs on beside the steps behind it.
    all.sort_by_key(|(action, _)| action.at);
    Ok(all.into_iter().unzip())
}

fn values(
    line: u64,
    metrics: &[(String, Metric)],
    part: f64,
    series: bool,
) -> Result<BTreeMap<String, Value>> {
    if metrics.is_empty() {
        return fault(line, "a reading has at least one metric");
    }
    let mut values = BTreeMap::new();
    for (metric, value) in metrics {
        let value = match value {
            Metric::Ramp(_) if !series => {
                return fault(line, format!("{metric}: from and to need a series: give `every` and `until`"));
            }
            Metric::Ramp(ramp) => Value::Number(ramp.from + (ramp.to - ramp.from) * part),
            Metric::Value(value) => value.clone(),
        };
        if matches!(value, Value::Number(x) if !x.is_finite()) {
            return fault(line, format!("{metric}: what devices send is finite"));
        }
        values.insert(metric.clone(), value);
    }
    Ok(values)
}

/// Devices of the time line that nobody registers are registered from the start.
fn register_named(devices: &mut Vec<DeviceSpec>, actions: &[Action], lines: &[u64]) -> Result<()> {
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
fn follow(devices: &[DeviceSpec], actions: &[Action], lines: &[u64]) -> Result<()> {
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
            What::Nothing => {}
        }
    }
    Ok(())
}

fn expectation(file: Spanned<ExpectedFile>, start: Timestamp) -> Result<Expected> {
    let line = line_of(&file);
    let ExpectedFile { at, within, trigger, clear, latched, realarm } = file.value;
    let given =
        [(Kind::Trigger, trigger), (Kind::Clear, clear), (Kind::Latched, latched), (Kind::Realarm, realarm)];
    let mut given = given.into_iter().filter_map(|(kind, identity)| Some((kind, identity?)));
    let (Some((kind, identity)), None) = (given.next(), given.next()) else {
        return fault(line, "what is expected is one of trigger, clear, latched and realarm");
    };
    let Identity { device, key, severity, summary, details } = identity;
    if kind == Kind::Clear && severity.is_some() {
        return fault(line, "a clear has no severity");
    }
    Ok(Expected { line, at: at.after(start), within, kind, device, key, severity, summary, details })
}
