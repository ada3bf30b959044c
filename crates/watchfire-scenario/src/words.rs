//! What is expected and what happened, in words.

use std::fmt::Write as _;

use watchfire_model::alert::ResolveReason;
use watchfire_model::{Duration, Value};

use crate::blob::{self, Field};
use crate::case::{Case, Expected, ExpectedRow, Fails, Kept, Kind, Logged, Row};
use crate::play::{Change, Failure};

/// Devices that are named with a failure.
const NAMED: usize = 3;

fn time(case: &Case, at: watchfire_model::Timestamp, within: Duration) -> String {
    let mut text = case.offset(at);
    if within.0 > 0 {
        let _ = write!(text, " to {}", case.offset(at + within));
    }
    text
}

pub(crate) fn expected(case: &Case, expected: &Expected) -> String {
    let mut text = time(case, expected.at, expected.within);
    let _ = write!(text, "  {} {} {}", expected.kind, expected.device, expected.key);
    if let Some(severity) = expected.severity {
        let _ = write!(text, " {severity}");
    }
    if let Some(summary) = &expected.summary {
        let _ = write!(text, " {summary:?}");
    }
    values(&mut text, expected.details.iter());
    text
}

/// All of it but the time.
pub(crate) fn change_at(change: &Change) -> String {
    of_change(String::new(), change, matches!(change.kind, Kind::Trigger | Kind::Realarm))
}

pub(crate) fn change(case: &Case, change: &Change, full: bool) -> String {
    of_change(format!("{}  ", case.offset(change.at)), change, full)
}

fn of_change(mut text: String, change: &Change, full: bool) -> String {
    let _ = write!(text, "{} {} {}", change.kind, change.device, change.key);
    match change.kind {
        Kind::Trigger | Kind::Realarm => {
            let _ = write!(text, " {}", change.severity);
        }
        Kind::Clear | Kind::Latched => {}
    }
    if let Some(reason) = change.reason.filter(|reason| *reason != ResolveReason::Cleared) {
        let _ = write!(text, " ({reason:?})");
    }
    if full {
        let _ = write!(text, " {:?}", change.summary);
        values(&mut text, change.details.iter().map(|detail| (&detail.name, &detail.value)));
    }
    text
}

pub(crate) fn row(case: &Case, row: &Row) -> String {
    let mut text = format!("{}  {}", case.offset(row.at), row.device);
    values(&mut text, row.metrics.iter());
    text
}

pub(crate) fn expected_row(case: &Case, expected: &ExpectedRow) -> String {
    let mut text = format!("{}  {}", time(case, expected.row.at, expected.within), expected.row.device);
    values(&mut text, expected.row.metrics.iter());
    if expected.tolerance > 0.0 {
        let _ = write!(text, " ± {}", expected.tolerance);
    }
    text
}

/// With the layout of what was expected, where that has one.
pub(crate) fn kept(kept: &Kept, layout: &[Field]) -> String {
    format!("{} slot {}  {}", kept.device, kept.slot, blob::text(&kept.bytes, layout))
}

pub(crate) fn logged(case: &Case, logged: &Logged) -> String {
    format!("{}  {}  {:?}", case.offset(logged.at), level(logged.level), logged.text)
}

pub(crate) fn level(level: watchfire_model::call::Level) -> String {
    format!("{level:?}").to_lowercase()
}

pub(crate) fn fails(case: &Case, fails: &Fails) -> String {
    let device = fails.device.iter().map(|device| format!(" on {device}")).collect::<String>();
    format!("{}  a failure{device} that says {:?}", case.offset(fails.at), fails.text)
}

pub(crate) fn failure(case: &Case, failure: &Failure) -> String {
    let mut text = case.offset(failure.at);
    for (place, device) in failure.devices.iter().take(NAMED).enumerate() {
        let _ = write!(text, "{}{device}", if place == 0 { " on " } else { ", " });
    }
    if failure.devices.len() > NAMED {
        let _ = write!(text, " and {} more", failure.devices.len() - NAMED);
    }
    let _ = write!(text, ": {}", failure.text);
    text
}

fn values<'a>(text: &mut String, values: impl Iterator<Item = (&'a String, &'a Value)>) {
    let values: Vec<String> = values
        .map(|(name, value)| match value {
            Value::Number(number) => format!("{name}: {number}"),
            Value::Boolean(flag) => format!("{name}: {flag}"),
            Value::Text(value) => format!("{name}: {value:?}"),
        })
        .collect();
    if !values.is_empty() {
        let _ = write!(text, " {{ {} }}", values.join(", "));
    }
}
