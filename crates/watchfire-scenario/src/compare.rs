//! Compares what came of a case with what was expected, and what came of it in one mode with another.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use watchfire_model::alert::ResolveReason;
use watchfire_model::call::Module;
use watchfire_model::{Timestamp, Value};

use crate::case::{Case, Expected, Kind, Row};
use crate::play::{Change, MODES, Played, play};
use crate::report::{CaseReport, Difference, DifferenceKind, LogLine};

/// How far ahead the other side of something that does not fit is looked for.
const AHEAD: usize = 100;
/// Differences that are told of one case: the first ones explain the others.
const MOST_DIFFERENCES: usize = 20;

/// Plays a case in every mode and says whether it is as it should be.
pub(crate) fn judge(module: &Arc<dyn Module>, case: &Case) -> CaseReport {
    let mut differences = Vec::new();
    let mut log = Vec::new();
    let mut first: Option<Played> = None;
    for mode in MODES {
        let mut played = match (play(module, case, mode), &case.refused) {
            (Ok(played), None) => played,
            (Err(refused), Some(expected)) if refused.0.contains(expected) => continue,
            (Err(refused), expected) => {
                let happened = format!("the rule is refused: {}", refused.0);
                let wanted = expected.as_ref().map(|text| format!("the rule is refused: {text}"));
                differences.push(Difference::new(DifferenceKind::Refused, None, wanted, Some(happened)));
                break;
            }
            (Ok(_), Some(expected)) => {
                let wanted = format!("the rule is refused: {expected}");
                let happened = Some("the rule starts".to_string());
                differences.push(Difference::new(DifferenceKind::Refused, None, Some(wanted), happened));
                break;
            }
        };
        // What happens at one time to one alert keeps its order; between alerts and rows there is none.
        played.changes.sort_by(|a, b| (a.at, &a.device, &a.key).cmp(&(b.at, &b.device, &b.key)));
        played.published.sort_by_cached_key(|row| (row.at, row.device.clone(), format!("{:?}", row.metrics)));
        for (at, text) in &played.failures {
            let text = format!("{}: {text}", case.offset(*at));
            let told = |known: &Difference| known.happened.as_ref() == Some(&text);
            if !differences.iter().any(told) {
                let failed = Difference::new(DifferenceKind::Failed, None, None, Some(text));
                differences.push(failed.in_mode(mode.name));
            }
        }
        match &first {
            None => {
                against_expected(case, &played, &mut differences);
                log = played
                    .messages
                    .iter()
                    .map(|(at, level, text)| LogLine {
                        at: case.offset(*at),
                        level: level.clone(),
                        text: text.clone(),
                    })
                    .collect();
                first = Some(played);
            }
            Some(whole) => against_whole(case, whole, &played, mode.name, &mut differences),
        }
    }
    let passed = differences.is_empty();
    let more = differences.len().saturating_sub(MOST_DIFFERENCES);
    differences.truncate(MOST_DIFFERENCES);
    let simulated = case.actions.last().map_or_else(Default::default, |last| last.at.since(case.start));
    let (name, file) = (case.name.clone(), case.file.clone());
    CaseReport { name, file, passed, simulated, differences, more, log }
}

fn against_expected(case: &Case, played: &Played, out: &mut Vec<Difference>) {
    if let Some(expect) = &case.expect {
        let mut expect: Vec<&Expected> = expect.iter().collect();
        expect.sort_by_key(|expected| expected.at);
        let mut found = Vec::new();
        for (_, (expected, changes)) in grouped(
            expect.into_iter().map(|e| ((&*e.device, &*e.key), e)),
            played.changes.iter().map(|c| ((&*c.device, &*c.key), c)),
        ) {
            align(&expected, &changes, fits, |expected, change| {
                let at = expected.map_or_else(|| change.map_or(case.start, |c| c.at), |e| e.at);
                let line = expected.map(|e| e.line);
                let wanted = expected.map(|e| expected_text(case, e));
                // Only where it makes the difference is the small print told.
                let full = expected.is_some_and(|e| e.summary.is_some() || !e.details.is_empty());
                let happened = change.map(|c| change_text(case, c, full));
                found.push((at, Difference::new(DifferenceKind::Expected, line, wanted, happened)));
            });
        }
        told_in_order(found, out);
    }
    for never in &case.never {
        let is = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        for change in &played.changes {
            let severity = never.severity.is_none_or(|severity| severity == change.severity);
            if change.kind == Kind::Trigger
                && is(&never.device, &change.device)
                && is(&never.key, &change.key)
                && severity
            {
                let happened = Some(change_text(case, change, false));
                let wanted = Some("never".to_string());
                out.push(Difference::new(DifferenceKind::Never, Some(never.line), wanted, happened));
            }
        }
    }
    if let Some(publishes) = &case.publishes {
        let mut wanted: Vec<&Row> = publishes.iter().collect();
        wanted.sort_by_cached_key(|row| (row.at, row.device.clone(), format!("{:?}", row.metrics)));
        let mut found = Vec::new();
        for (_, (wanted, rows)) in grouped(
            wanted.into_iter().map(|row| (&*row.device, row)),
            played.published.iter().map(|row| (&*row.device, row)),
        ) {
            align(&wanted, &rows, same_row, |wanted, row| {
                let at = wanted.or(row).map_or(case.start, |row| row.at);
                let texts = (wanted.map(|w| row_text(case, w)), row.map(|r| row_text(case, r)));
                let line = wanted.map(|row| row.line);
                found.push((at, Difference::new(DifferenceKind::Published, line, texts.0, texts.1)));
            });
        }
        told_in_order(found, out);
    }
}

fn against_whole(case: &Case, whole: &Played, other: &Played, mode: &str, out: &mut Vec<Difference>) {
    let mut found = Vec::new();
    for (_, (whole, other)) in grouped(
        whole.changes.iter().map(|c| ((&*c.device, &*c.key), c)),
        other.changes.iter().map(|c| ((&*c.device, &*c.key), c)),
    ) {
        align(
            &whole,
            &other,
            |a, b| a == b,
            |a, b| {
                let at = a.or(b).map_or(case.start, |change| change.at);
                let text = |change: &Change| change_text(case, change, a.is_some() && b.is_some());
                let difference = Difference::new(DifferenceKind::Modes, None, a.map(text), b.map(text));
                found.push((at, difference.in_mode(mode)));
            },
        );
    }
    for (_, (whole, other)) in grouped(
        whole.published.iter().map(|row| (&*row.device, row)),
        other.published.iter().map(|row| (&*row.device, row)),
    ) {
        align(&whole, &other, same_row, |a, b| {
            let at = a.or(b).map_or(case.start, |row| row.at);
            let texts = (a.map(|row| row_text(case, row)), b.map(|row| row_text(case, row)));
            found.push((at, Difference::new(DifferenceKind::Modes, None, texts.0, texts.1).in_mode(mode)));
        });
    }
    told_in_order(found, out);
}

fn told_in_order(mut found: Vec<(Timestamp, Difference)>, out: &mut Vec<Difference>) {
    found.sort_by_key(|(at, _)| *at);
    out.extend(found.into_iter().map(|(_, difference)| difference));
}

/// Both sides by what they are about.
fn grouped<'a, K: Ord, A, B>(
    a: impl Iterator<Item = (K, &'a A)>,
    b: impl Iterator<Item = (K, &'a B)>,
) -> BTreeMap<K, (Vec<&'a A>, Vec<&'a B>)> {
    let mut groups: BTreeMap<K, (Vec<&A>, Vec<&B>)> = BTreeMap::new();
    for (key, a) in a {
        groups.entry(key).or_default().0.push(a);
    }
    for (key, b) in b {
        groups.entry(key).or_default().1.push(b);
    }
    groups
}

/// Walks along two sequences and tells what does not fit: missing on one side, or different.
fn align<A, B>(
    a: &[&A],
    b: &[&B],
    fits: impl Fn(&A, &B) -> bool,
    mut tell: impl FnMut(Option<&A>, Option<&B>),
) {
    let (mut i, mut j) = (0, 0);
    while let (Some(&left), Some(&right)) = (a.get(i), b.get(j)) {
        if fits(left, right) {
            (i, j) = (i + 1, j + 1);
        } else if a[i..].iter().take(AHEAD).any(|later| fits(later, right)) {
            tell(Some(left), None);
            i += 1;
        } else if b[j..].iter().take(AHEAD).any(|later| fits(left, later)) {
            tell(None, Some(right));
            j += 1;
        } else {
            tell(Some(left), Some(right));
            (i, j) = (i + 1, j + 1);
        }
    }
    a[i..].iter().for_each(|left| tell(Some(left), None));
    b[j..].iter().for_each(|right| tell(None, Some(right)));
}

fn fits(expected: &Expected, change: &Change) -> bool {
    let detail = |(name, value): (&String, &Value)| {
        change.details.iter().any(|detail| detail.name == *name && same_value(&detail.value, value))
    };
    expected.kind == change.kind
        && (expected.at..=expected.at + expected.within).contains(&change.at)
        && expected.severity.is_none_or(|severity| severity == change.severity)
        && expected.summary.as_ref().is_none_or(|summary| *summary == change.summary)
        && expected.details.iter().all(detail)
}

fn same_row(a: &Row, b: &Row) -> bool {
    a.at == b.at
        && a.device == b.device
        && a.metrics.len() == b.metrics.len()
        && a.metrics.iter().all(|(name, value)| b.metrics.get(name).is_some_and(|b| same_value(value, b)))
}

/// Numbers that a person would write the same are the same: a file has few of the seventeen digits.
fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-3),
        _ => a == b,
    }
}

fn expected_text(case: &Case, expected: &Expected) -> String {
    let mut text = case.offset(expected.at);
    if expected.within.0 > 0 {
        let _ = write!(text, " to {}", case.offset(expected.at + expected.within));
    }
    let _ = write!(text, "  {} {} {}", expected.kind, expected.device, expected.key);
    if let Some(severity) = expected.severity {
        let _ = write!(text, " {severity}");
    }
    if let Some(summary) = &expected.summary {
        let _ = write!(text, " {summary:?}");
    }
    values_text(&mut text, expected.details.iter());
    text
}

fn change_text(case: &Case, change: &Change, full: bool) -> String {
    let mut text = format!("{}  {} {} {}", case.offset(change.at), change.kind, change.device, change.key);
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
        values_text(&mut text, change.details.iter().map(|detail| (&detail.name, &detail.value)));
    }
    text
}

fn row_text(case: &Case, row: &Row) -> String {
    let mut text = format!("{}  {}", case.offset(row.at), row.device);
    values_text(&mut text, row.metrics.iter());
    text
}

fn values_text<'a>(text: &mut String, values: impl Iterator<Item = (&'a String, &'a Value)>) {
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
