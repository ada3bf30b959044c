//! From the file of a case to what is run: checks what the shape alone does not say.

use std::path::Path;

use serde_saphyr::Spanned;
use watchfire_model::{DeviceSpec, Timestamp};

use crate::before::Before;
use crate::blob::from_hex;
use crate::case::{Case, Expected, ExpectedRow, Fails, Kept, Kind, Logged, Never, Row};
use crate::file::{CaseError, CaseFile, ExpectedFile, Identity, KeptFile, Published, StateFile};
use crate::timeline;

/// Where 0s is, if the file does not say: 2026-01-01T00:00:00Z.
const START: Timestamp = Timestamp(1_767_225_600_000_000);

pub(crate) struct Fault {
    line: u64,
    message: String,
}

pub(crate) type Result<T> = std::result::Result<T, Fault>;

pub(crate) fn fault<T>(line: u64, message: impl Into<String>) -> Result<T> {
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
    let expects = file.expect.is_some()
        || file.publishes.is_some()
        || !file.samples.is_empty()
        || file.keeps.is_some()
        || file.logs.is_some()
        || !(file.never.is_empty() && file.fails.is_empty());
    match (&file.refused, expects) {
        (Some(_), true) => return fault(1, "a rule that is `refused` does nothing that could be expected"),
        (None, false) => {
            let members = "`never`, `publishes`, `samples`, `keeps`, `logs` or `fails`";
            return fault(1, format!("nothing is expected: give `expect` (`[]` for nothing), {members}"));
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
    let folder = Path::new(name).parent().unwrap_or(Path::new(""));
    let (actions, lines) = timeline::actions(file.timeline, start, folder)?;
    timeline::register_named(&mut devices, &actions, &lines)?;
    timeline::follow(&devices, &actions, &lines)?;
    let before = file.state.map(|state| before(state, &devices)).transpose()?;
    let expect =
        file.expect.map(|expected| expected.into_iter().map(|one| expectation(one, start)).collect());
    let never = file.never.into_iter().map(|never| Never {
        line: line_of(&never),
        device: never.value.device,
        key: never.value.key,
        severity: never.value.severity,
    });
    let publishes = file
        .publishes
        .map(|rows| rows.into_iter().map(|row| published(row, start)).collect::<Result<Vec<_>>>());
    let logs = file.logs.map(|all| {
        let one = |logged: Spanned<crate::file::LoggedFile>| Logged {
            line: line_of(&logged),
            at: logged.value.at.after(start),
            level: logged.value.level,
            text: logged.value.text,
        };
        all.into_iter().map(one).collect()
    });
    let fails = file.fails.into_iter().map(|fails| Fails {
        line: line_of(&fails),
        at: fails.value.at.after(start),
        device: fails.value.device,
        text: fails.value.text,
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
        before,
        actions,
        keeps: file.keeps.map(|all| all.into_iter().map(kept).collect()).transpose()?,
        logs,
        fails: fails.collect(),
        expect: expect.transpose()?,
        never: never.collect(),
        publishes: publishes.transpose()?,
        samples: file.samples.into_iter().map(|row| published(row, start)).collect::<Result<_>>()?,
        refused: file.refused,
    })
}

pub(crate) fn line_of<T>(spanned: &Spanned<T>) -> u64 {
    spanned.referenced.line()
}

pub(crate) fn check_device(line: u64, spec: &DeviceSpec) -> Result<()> {
    DeviceSpec::check_id(&spec.id).or_else(|reason| fault(line, format!("{:?}: {reason}", spec.id)))
}

fn published(file: Spanned<Published>, start: Timestamp) -> Result<ExpectedRow> {
    let line = line_of(&file);
    let Published { at, within, device, metrics, tolerance } = file.value;
    if !(tolerance.is_finite() && tolerance >= 0.0) {
        return fault(line, "a tolerance is a number from 0 on");
    }
    Ok(ExpectedRow { row: Row { line, at: at.after(start), device, metrics }, within, tolerance })
}

/// State that is there before the rule is.
fn before(state: StateFile, devices: &[DeviceSpec]) -> Result<Before> {
    let mut blobs = Vec::new();
    for blob in state.blobs {
        let blob = kept(blob)?;
        if !devices.iter().any(|spec| spec.id == blob.device) {
            return fault(blob.line, format!("device {:?} is not registered at the start", blob.device));
        }
        blobs.push(blob);
    }
    Ok(Before { version: state.version, blobs })
}

fn kept(file: Spanned<KeptFile>) -> Result<Kept> {
    let line = line_of(&file);
    let KeptFile { device, slot, bytes, fields } = file.value;
    let (bytes, layout) = match (bytes, fields) {
        (Some(digits), None) => (from_hex(&digits).or_else(|what| fault(line, what))?, Vec::new()),
        (None, Some(fields)) => (fields.bytes, fields.layout),
        _ => return fault(line, "a blob has either `bytes` or `fields`"),
    };
    if bytes.is_empty() {
        return fault(line, "a blob without bytes is none: leave it out");
    }
    Ok(Kept { line, device, slot: slot.0, bytes, layout })
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
