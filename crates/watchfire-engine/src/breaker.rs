//! What the breaker of a rule looks at, and what is kept of a rule while it is out.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use watchfire_model::breaker::{BreakerOptions, OnRecovery};
use watchfire_model::call::{FailureKind, Rows};
use watchfire_model::{Duration, Offset, Timestamp};

/// Parts of the span that go out of sight one by one.
const PARTS: usize = 12;

/// Failures that open a breaker by the time that they take, at least.
const LEAST_FAILURES: u64 = 3;

/// Records and bytes that are kept behind a rule that catches up: more than come while a slice is on its way.
const TAIL: (usize, usize) = (256, 16 << 20);

/// The callbacks of a rule in the span that its breaker looks at. It is measured, so it is no part of what a replay has
/// to come to: it begins anew with the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    parts: [Part; PARTS],
    /// The number of the newest part, counted from the epoch of time.
    newest: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    calls: u64,
    failed: u64,
    /// Those in which a call failed, whether it came to something in the end or not.
    costly: u64,
    /// Nanoseconds in what failed.
    spent: u64,
}

impl Window {
    /// Notes a callback. `spent`: nanoseconds in calls and tries of it that failed.
    pub fn note(&mut self, now: Timestamp, span: Duration, passed: bool, spent: u64) {
        let length = (span.0 / PARTS as u64).max(1);
        let number = now.0.div_euclid(length.min(i64::MAX as u64) as i64);
        for gone in (self.newest + 1..=number).rev().take(PARTS) {
            self.parts[gone.rem_euclid(PARTS as i64) as usize] = Part::default();
        }
        self.newest = self.newest.max(number);
        let part = &mut self.parts[self.newest.rem_euclid(PARTS as i64) as usize];
        part.calls += 1;
        part.failed += u64::from(!passed);
        part.costly += u64::from(!passed || spent > 0);
        part.spent = part.spent.saturating_add(spent);
    }

    /// Why the breaker opens; `None`: it does not.
    pub fn verdict(&self, options: &BreakerOptions) -> Option<String> {
        let sum = |of: fn(&Part) -> u64| self.parts.iter().map(of).sum::<u64>();
        let (calls, failed, spent) = (sum(|p| p.calls), sum(|p| p.failed), sum(|p| p.spent));
        let span = options.span;
        if calls >= u64::from(options.calls) && failed as f64 >= options.failures * calls as f64 {
            return Some(format!("{failed} of {calls} callbacks within {span} failed"));
        }
        let seconds = spent as f64 / 1e9;
        let costly = sum(|p| p.costly);
        if costly >= LEAST_FAILURES && seconds >= options.time * span.as_secs_f64() {
            return Some(format!(
                "calls that failed, in {costly} callbacks, took {seconds:.1} s of the last {span}"
            ));
        }
        None
    }
}

/// A rule that is out of its partition, or behind because it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outage {
    /// When the breaker opened.
    pub since: Timestamp,
    /// How much failed.
    pub why: String,
    /// Which way the last call failed.
    pub kind: FailureKind,
    /// What it said.
    pub reason: String,
    /// When it is tried again; `None`: the breaker is closed again, and the rule catches up.
    pub retry_at: Option<Timestamp>,
    /// How long it waits, or waited last.
    pub wait: Duration,
    /// Tries that failed.
    #[serde(default)]
    pub tries: u32,
    /// What it has not seen.
    pub missed: Missed,
    /// The rule is the same version, and selects the same devices, from this record on: a slice whose rows were chosen
    /// before is not what it missed.
    #[serde(default)]
    pub as_of: Offset,
    /// The breaker never opened: the rule missed this while another version ran, which was taken back.
    #[serde(default)]
    pub taken_back: bool,
    /// What an operator wants to become of that, whatever the deployment says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<OnRecovery>,
}

impl Outage {
    /// Whether the rule is not called; else it catches up.
    pub fn is_open(&self) -> bool {
        self.retry_at.is_some()
    }
}

/// What a rule has not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Missed {
    /// Everything from this record on; `None`: nothing yet.
    pub from: Option<Offset>,
    /// Records with rows for it, since the breaker opened.
    pub records: u64,
    /// Rows of them.
    pub rows: u64,
    /// Rows that it was given since.
    pub caught_up: u64,
    /// Records that are not kept any more, whatever they held.
    #[serde(default)]
    pub lost: u64,
}

impl Missed {
    /// Notes rows of a record.
    pub fn note(&mut self, offset: Offset, rows: usize) {
        self.from.get_or_insert(offset);
        self.records += 1;
        self.rows += rows as u64;
    }
}

/// The latest of what a rule that catches up has missed: what a slice cannot hold, because it came while the slice was
/// on its way. It is emptied at each mark of a checkpoint, so that a replay from there has the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    /// Everything from this record on is here.
    from: Offset,
    records: VecDeque<(Offset, Arc<Rows>)>,
    /// Of the records that the rows are of: they are kept whole.
    bytes: usize,
}

impl Tail {
    /// Nothing from this record on is missed yet.
    pub fn begin(&mut self, from: Offset) {
        self.records.clear();
        (self.from, self.bytes) = (from, 0);
    }

    pub fn push(&mut self, offset: Offset, rows: Arc<Rows>) {
        self.bytes += rows.batch().size();
        self.records.push_back((offset, rows));
        while self.records.len() > 1 && (self.records.len() > TAIL.0 || self.bytes > TAIL.1) {
            let Some((gone, rows)) = self.records.pop_front() else { return };
            self.bytes -= rows.batch().size();
            self.from = gone + 1;
        }
    }

    /// Whether it has everything from this record on.
    pub fn reaches(&self, from: Offset) -> bool {
        self.from <= from
    }

    /// Takes the earliest record.
    pub fn pop(&mut self) -> Option<(Offset, Arc<Rows>)> {
        let (offset, rows) = self.records.pop_front()?;
        self.bytes -= rows.batch().size();
        self.from = offset + 1;
        Some((offset, rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_model::{BatchBuilder, DeviceHandle};

    const SECOND: u64 = 1_000_000_000;

    /// Notes callbacks, each (seconds, passed, nanoseconds in failures).
    fn verdict(options: &BreakerOptions, calls: &[(i64, bool, u64)]) -> Option<String> {
        let mut window = Window::default();
        for &(second, passed, spent) in calls {
            window.note(Timestamp(1_000_000_000_000 + second * 1_000_000), options.span, passed, spent);
        }
        window.verdict(options)
    }

    #[test]
    fn it_is_a_share_of_the_callbacks_within_the_span() {
        let options = BreakerOptions::default();
        let half: Vec<_> = (0..20).map(|i| (i, i % 2 == 0, 0)).collect();
        let said = verdict(&options, &half).unwrap();
        assert_eq!(said, "10 of 20 callbacks within 1m failed");
        assert_eq!(verdict(&options, &half[..19]), None, "too few to say");
        let third: Vec<_> = (0..300).map(|i| (i / 6, i % 3 != 0, 0)).collect();
        assert_eq!(verdict(&options, &third), None);
        // As many, but over a longer time: those in front are out of sight.
        let slow: Vec<_> = (0..20).map(|i| (i * 10, i % 2 == 0, 0)).collect();
        assert_eq!(verdict(&options, &slow), None);
        let mut early: Vec<_> = (0..100).map(|i| (i / 10, false, 0)).collect();
        early.extend((0..100).map(|i| (100 + i / 10, true, 0)));
        assert_eq!(verdict(&options, &early), None, "what is over is over");
    }

    #[test]
    fn it_is_a_share_of_the_time_too() {
        let options = BreakerOptions::default();
        let long = |n: i64| (0..n).map(|i| (i, false, 5 * SECOND / 2)).collect::<Vec<_>>();
        assert_eq!(verdict(&options, &long(2)), None, "one or two may be the machine");
        assert!(verdict(&options, &long(3)).unwrap().contains("took 7.5 s of the last 1m"));
        let short: Vec<_> = (0..15).map(|i| (i, false, SECOND / 10)).collect();
        assert_eq!(verdict(&options, &short), None);
    }

    #[test]
    fn the_tail_forgets_the_earliest_and_says_so() {
        let mut builder = BatchBuilder::new();
        // One row, of which the text is a quarter of what may be kept.
        builder.begin(DeviceHandle(0), Timestamp(0));
        builder.text("x", &"long".repeat(TAIL.1 / 16)).unwrap();
        builder.commit();
        let batch = Arc::new(builder.finish());
        let rows = Arc::new(Rows::new("readings".into(), batch, None, Arc::new([])));
        let mut tail = Tail::default();
        tail.begin(10);
        (10..13).for_each(|offset| tail.push(offset, rows.clone()));
        assert!(tail.reaches(10) && !tail.reaches(9));
        tail.push(13, rows);
        assert!(tail.reaches(11) && !tail.reaches(10));
        assert_eq!(tail.pop().map(|(offset, _)| offset), Some(11));
        assert!(tail.reaches(12) && !tail.reaches(11));
    }
}
