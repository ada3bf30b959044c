//! Which rows make a call fail.
//!
//! A call that failed is tried again with fewer rows, and what the tries would have done is thrown away, until the rows
//! are known without which it passes. They become a record each, and the call is made once more without them, as if they
//! had never come: a rule sees the rows around them in their order, and each with the state that the one before it left.
//!
//! So the search is one of prefixes: the shortest that fails ends with a row that is at fault, and what is in front of it
//! passes. A row that is at fault costs the logarithm of the number of rows in tries. All of it is bounded: by a time, and
//! by a credit that calls which pass refill. Where either is used up, whatever was not cleared by then is left out.
//!
//! It depends on how long calls take and on what came before, and a replay does not: the log says what came of it.

use std::sync::Arc;

use watchfire_model::call::{CallFailure, Callback, Context, FailureKind, Rows, Setup};
use watchfire_model::{Limits, Timestamp};

use super::call::Call;
use super::{Here, Partition};
use crate::rule::Rule;

/// Tries that a rule has at most, saved up.
pub(crate) const CREDIT: u32 = 512;

/// Tries that each call that passes refills.
pub(crate) const REFILL: u32 = 2;

/// A try that runs out of time costs as much as so many: the partition stands still meanwhile.
const OVERRUN: u32 = 16;

/// Rows of one call that are looked for one by one. Where there are more it is not the rows.
const ROWS: usize = 32;

/// All tries of a search have so many times the time of one call.
const TIMES: u64 = 4;

/// So many rows at fault in front of any that is not: it fails on everything.
const NONE_GOOD: usize = 8;

/// A try has this part of the time that a call has, where it is time that a call took too much of ...
const SHARE: u64 = 8;

/// ... but not less than this.
const LEAST: watchfire_model::Duration = watchfire_model::Duration(20_000);

/// What a search found.
pub(super) struct Found {
    /// Rows that a call is made with, ascending.
    pub good: Vec<u32>,
    /// Rows that are at fault, with what they made of a call.
    pub poison: Vec<(u32, CallFailure)>,
    /// Rows that were not cleared.
    pub rest: Vec<u32>,
}

impl Partition {
    /// Looks for the rows because of which a call failed. Rows are those of the call, from 0.
    pub(super) fn search(
        &mut self,
        here: Here,
        rule: &mut Rule,
        call: &Call,
        rows: &Arc<Rows>,
        failure: &CallFailure,
    ) -> Found {
        let count = rows.len() as u32;
        let mut found = Found { good: Vec::new(), poison: Vec::new(), rest: (0..count).collect() };
        let adds_up = match failure.kind {
            FailureKind::Refused | FailureKind::Trapped | FailureKind::Stack => false,
            // What many rows use up together: it is one of them only if it does so alone.
            FailureKind::Time | FailureKind::Fuel | FailureKind::Memory => true,
            FailureKind::Output | FailureKind::Load => return found,
        };
        let hasty = failure.kind == FailureKind::Time;
        let left = rule.spec.limits.time.0.saturating_mul(1000 * TIMES);
        let mut trial = Trial { partition: self, here, rule, call, rows, hasty, left };
        let mut last = failure.clone();
        while found.poison.len() < ROWS {
            // Without any of the rest it passes, with all of it it fails.
            let (mut passes, mut fails) = (0, found.rest.len());
            while fails - passes > 1 {
                let middle = passes + (fails - passes) / 2;
                match trial.run(&found.good, &found.rest[..middle]) {
                    Some(Ok(())) => passes = middle,
                    Some(Err(failure)) => (fails, last) = (middle, failure),
                    None => return found,
                }
            }
            let row = found.rest[fails - 1];
            if adds_up {
                match trial.run(&[], &[row]) {
                    Some(Err(failure)) => last = failure,
                    Some(Ok(())) | None => return found,
                }
            }
            found.poison.push((row, last.clone()));
            found.good.extend_from_slice(&found.rest[..fails - 1]);
            found.rest.drain(..fails);
            let hopeless = found.good.is_empty() && found.poison.len() >= NONE_GOOD;
            if found.rest.is_empty() || hopeless {
                break;
            }
            match trial.run(&found.good, &found.rest) {
                Some(Ok(())) => {
                    found.good.append(&mut found.rest);
                    break;
                }
                Some(Err(failure)) => last = failure,
                None => break,
            }
        }
        found
    }
}

/// Calls whose effects are thrown away.
struct Trial<'a> {
    partition: &'a mut Partition,
    here: Here,
    rule: &'a mut Rule,
    call: &'a Call,
    rows: &'a Arc<Rows>,
    /// With a part of the time only.
    hasty: bool,
    /// Nanoseconds.
    left: u64,
}

impl Trial<'_> {
    /// Whether a call with these rows passes; `None`: there is no time or credit for it.
    fn run(&mut self, some: &[u32], more: &[u32]) -> Option<Result<(), CallFailure>> {
        if self.rule.credit == 0 || self.left == 0 {
            return None;
        }
        self.rule.credit -= 1;
        let picked: Vec<u32> = some.iter().chain(more).copied().collect();
        let rows = self.rows.pick(&picked);
        let tried = self.try_rows(rows);
        if matches!(&tried, Err(failure) if failure.kind == FailureKind::Time) {
            self.rule.credit = self.rule.credit.saturating_sub(OVERRUN);
        }
        Some(tried)
    }

    fn try_rows(&mut self, rows: Rows) -> Result<(), CallFailure> {
        let mut limits = self.rule.spec.limits.clone();
        if self.hasty {
            limits.time = watchfire_model::Duration(limits.time.0 / SHARE).max(LEAST).min(limits.time);
        }
        let (now, replay) = (self.call.now, self.here.replay);
        let (tried, took) = self.partition.try_call(self.rule, now, Arc::new(rows), limits, replay);
        self.left = self.left.saturating_sub(took);
        self.rule.wasted = self.rule.wasted.saturating_add(took);
        tried
    }
}

impl Partition {
    /// A call whose effects are thrown away: whether it passes, and how many nanoseconds it took.
    pub(super) fn try_call(
        &mut self,
        rule: &mut Rule,
        now: Timestamp,
        rows: Arc<Rows>,
        limits: Limits,
        replay: bool,
    ) -> (Result<(), CallFailure>, u64) {
        let setup =
            Setup { rule: rule.name.to_string(), parameters: rule.parameters.clone(), limits, replay };
        // A fresh one each time: what a try leaves in the memory of an instance never happened.
        let module = rule.module.clone().map_or_else(|| self.setup.modules.get(rule.spec.module), Ok);
        let mut instance = match module.and_then(|module| module.start(&setup)) {
            Ok((instance, _)) => instance,
            Err(failure) => return (Err(failure), 0),
        };
        let context = Context {
            now,
            devices: self.registry.clone(),
            selected: self.streams[rule.stream].selections.devices(rule.group),
            state: std::mem::take(&mut rule.state),
        };
        let outcome = instance.call(Callback::Batch(rows), context);
        rule.state = outcome.state;
        let took = outcome.cost.nanoseconds;
        rule.stats.nanoseconds = rule.stats.nanoseconds.saturating_add(took);
        let tried = outcome.result.and_then(|effects| {
            let kept = self.check_kept(rule, &effects);
            kept.map_err(|what| CallFailure::new(FailureKind::Output, what))
        });
        (tried, took)
    }
}
