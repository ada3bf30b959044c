//! Compares what came of a case with what was expected, and what came of it in one mode with another.

use std::collections::BTreeMap;
use std::sync::Arc;

use watchfire_model::call::Module;
use watchfire_model::{Timestamp, Value};

use crate::blob::Field;
use crate::case::{Case, Expected, ExpectedRow, Fails, Kept, Kind, Row};
use crate::play::{Change, Failure, MODES, Played, play};
use crate::report::{CaseReport, Difference, DifferenceKind, LogLine};
use crate::words;

/// How far ahead the other side of something that does not fit is looked for.
const AHEAD: usize = 100;
/// Differences that are told of one case: the first ones explain the others.
const MOST_DIFFERENCES: usize = 20;
/// Log messages that are told of one case: what explains a failure comes first.
const MOST_LINES: usize = 100;

/// Plays a case in every mode and says whether it is as it should be.
pub(crate) fn judge(module: &Arc<dyn Module>, case: &Case) -> CaseReport {
    let began = std::time::Instant::now();
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
        against_failures(case, &played.failures, mode.name, &mut differences);
        match &first {
            None => {
                against_expected(case, &played, &mut differences);
                let line = |logged: &crate::case::Logged| LogLine {
                    at: case.offset(logged.at),
                    level: words::level(logged.level),
                    text: logged.text.clone(),
                };
                log = played.messages.iter().take(MOST_LINES).map(line).collect();
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
    CaseReport { name, file, passed, simulated, took: began.elapsed().into(), differences, more, log }
}

/// Each failure must be one that is expected, and each that is expected must be there. How many calls it takes for that
/// depends on the mode: rows of one record that all fail, fail in one call.
fn against_failures(case: &Case, failures: &[Failure], mode: &str, out: &mut Vec<Difference>) {
    let fits = |fails: &Fails, failure: &Failure| {
        fails.at == failure.at
            && failure.text.contains(&fails.text)
            && fails.device.as_ref().is_none_or(|device| failure.devices.contains(device))
    };
    let mut tell = |line, expected: Option<String>, happened: Option<String>| {
        let same = |known: &Difference| known.expected == expected && known.happened == happened;
        if !out.iter().any(|known| known.kind == DifferenceKind::Failed && same(known)) {
            out.push(Difference::new(DifferenceKind::Failed, line, expected, happened).in_mode(mode));
        }
    };
    for failure in failures {
        if !case.fails.iter().any(|fails| fits(fails, failure)) {
            tell(None, None, Some(words::failure(case, failure)));
        }
    }
    for fails in &case.fails {
        if !failures.iter().any(|failure| fits(fails, failure)) {
            tell(Some(fails.line), Some(words::fails(case, fails)), None);
        }
    }
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
                let wanted = expected.map(|e| words::expected(case, e));
                // Only where it makes the difference is the small print told.
                let full = expected.is_some_and(|e| e.summary.is_some() || !e.details.is_empty());
                let happened = change.map(|c| words::change(case, c, full));
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
                let happened = Some(words::change(case, change, false));
                let wanted = Some("never".to_string());
                out.push(Difference::new(DifferenceKind::Never, Some(never.line), wanted, happened));
            }
        }
    }
    if let Some(publishes) = &case.publishes {
        let mut wanted: Vec<&ExpectedRow> = publishes.iter().collect();
        wanted.sort_by_cached_key(|expected| {
            (expected.row.at, expected.row.device.clone(), format!("{:?}", expected.row.metrics))
        });
        let mut found = Vec::new();
        for (_, (wanted, rows)) in grouped(
            wanted.into_iter().map(|expected| (&*expected.row.device, expected)),
            played.published.iter().map(|row| (&*row.device, row)),
        ) {
            align(&wanted, &rows, is_row, |wanted, row| {
                let at = wanted.map(|wanted| &wanted.row).or(row).map_or(case.start, |row| row.at);
                let texts = (wanted.map(|w| words::expected_row(case, w)), row.map(|r| words::row(case, r)));
                let line = wanted.map(|wanted| wanted.row.line);
                found.push((at, Difference::new(DifferenceKind::Published, line, texts.0, texts.1)));
            });
        }
        told_in_order(found, out);
    }
    for sample in &case.samples {
        let there = |row: &&Row| row.device == sample.row.device && in_time(sample, row);
        let mut rows = played.published.iter().filter(there);
        if rows.clone().any(|row| has_values(sample, row)) {
            continue;
        }
        let wanted = Some(words::expected_row(case, sample));
        let happened = rows.next().map(|row| words::row(case, row));
        out.push(Difference::new(DifferenceKind::Published, Some(sample.row.line), wanted, happened));
    }
    if let Some(keeps) = &case.keeps {
        against_kept(keeps, &played.kept, out);
    }
    if let Some(logs) = &case.logs {
        let (logs, messages) = (logs.iter().collect::<Vec<_>>(), played.messages.iter().collect::<Vec<_>>());
        align(&logs, &messages, same_message, |wanted, message| {
            let texts = (wanted.map(|w| words::logged(case, w)), message.map(|m| words::logged(case, m)));
            let line = wanted.map(|wanted| wanted.line);
            out.push(Difference::new(DifferenceKind::Logged, line, texts.0, texts.1));
        });
    }
}

fn against_kept(keeps: &[Kept], kept: &[Kept], out: &mut Vec<Difference>) {
    for (_, (wanted, kept)) in grouped(keeps.iter().map(at_place), kept.iter().map(at_place)) {
        align(&wanted, &kept, same_blob, |wanted, kept| {
            let layout: &[Field] = wanted.map_or(&[], |wanted| &wanted.layout);
            let texts = (wanted.map(|w| words::kept(w, layout)), kept.map(|k| words::kept(k, layout)));
            let line = wanted.map(|wanted| wanted.line);
            out.push(Difference::new(DifferenceKind::Kept, line, texts.0, texts.1));
        });
    }
}

fn against_whole(case: &Case, whole: &Played, other: &Played, mode: &str, out: &mut Vec<Difference>) {
    let differs = |a, b| Difference::new(DifferenceKind::Modes, None, a, b).in_mode(mode);
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
                let text = |change: &Change| words::change(case, change, a.is_some() && b.is_some());
                found.push((at, differs(a.map(text), b.map(text))));
            },
        );
    }
    for (_, (whole, other)) in grouped(
        whole.published.iter().map(|row| (&*row.device, row)),
        other.published.iter().map(|row| (&*row.device, row)),
    ) {
        align(&whole, &other, same_row, |a, b| {
            let at = a.or(b).map_or(case.start, |row| row.at);
            found.push((at, differs(a.map(|row| words::row(case, row)), b.map(|row| words::row(case, row)))));
        });
    }
    told_in_order(found, out);
    // What is kept, and what is logged, are a rule's own affair, unless the case says what they are: a sum may be added
    // up in another order, a message may be one of a batch.
    if case.keeps.is_some() {
        for (_, (whole, other)) in grouped(whole.kept.iter().map(at_place), other.kept.iter().map(at_place)) {
            align(&whole, &other, same_blob, |a, b| {
                let text = |kept: &Kept| words::kept(kept, &[]);
                out.push(differs(a.map(text), b.map(text)));
            });
        }
    }
    // A call that fails says what it says once more without the rows that are left out.
    if case.logs.is_some() && whole.failures.is_empty() {
        let (whole, other): (Vec<_>, Vec<_>) =
            (whole.messages.iter().collect(), other.messages.iter().collect());
        align(&whole, &other, same_message, |a, b| {
            let text = |logged: &crate::case::Logged| words::logged(case, logged);
            out.push(differs(a.map(text), b.map(text)));
        });
    }
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

fn at_place(kept: &Kept) -> ((&str, u32), &Kept) {
    ((&kept.device, kept.slot), kept)
}

fn same_blob(a: &Kept, b: &Kept) -> bool {
    a.bytes == b.bytes
}

fn same_message(a: &crate::case::Logged, b: &crate::case::Logged) -> bool {
    (a.at, a.level, &a.text) == (b.at, b.level, &b.text)
}

/// Whether a row is what is expected: at its time or within the span behind it, each number within the tolerance.
fn is_row(expected: &ExpectedRow, row: &Row) -> bool {
    in_time(expected, row)
        && expected.row.device == row.device
        && expected.row.metrics.len() == row.metrics.len()
        && has_values(expected, row)
}

fn in_time(expected: &ExpectedRow, row: &Row) -> bool {
    (expected.row.at..=expected.row.at + expected.within).contains(&row.at)
}

fn has_values(expected: &ExpectedRow, row: &Row) -> bool {
    let fits = |wanted: &Value, value: &Value| match (wanted, value) {
        (Value::Number(a), Value::Number(b)) if (a - b).abs() <= expected.tolerance => true,
        _ => same_value(wanted, value),
    };
    let mut wanted = expected.row.metrics.iter();
    wanted.all(|(name, wanted)| row.metrics.get(name).is_some_and(|value| fits(wanted, value)))
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
