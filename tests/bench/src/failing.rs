//! What rules that fail in every call cost the others: the partition itself evaluates records with a thousand rules, with
//! ten of them failing and with none.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;
use watchfire_engine::RuleStats;
use watchfire_host::{Host, HostOptions};

use crate::Options;
use crate::figure::{Figure, alternate};
use crate::guests;
use crate::idle::Fed;
use crate::pipeline::deployment;

const RULES: usize = 1000;
/// One of so many fails.
const FAILING: usize = 100;
const RECORDS: usize = 200;
const ROWS: usize = 100;

pub fn run(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let Some(component) = guests::component(options, "rust")? else { return Ok(()) };
    let host = Arc::new(Host::new(HostOptions::default())?);
    let fed = |failing: bool| {
        let rule = |i: usize| {
            let case = if failing && i.is_multiple_of(FAILING) { "failing" } else { "limit-batch" };
            let name = format!("{case}-{i}");
            deployment(&host, &name, &component, &json!({"case": case, "high": 500.0}))
        };
        anyhow::Ok(Fed::new(&host, (0..RULES).map(rule).collect::<Result<Vec<_>>>()?))
    };
    let (mut some, mut none) = (fed(true)?, fed(false)?);
    let records = alternate(5, || some.round(RECORDS, ROWS), || none.round(RECORDS, ROWS));
    let (others, failed) = stats(&some, "limit-batch");
    let (all, unexpected) = stats(&none, "limit-batch");
    ensure!(
        failed > 0 && unexpected == 0,
        "{failed} calls failed where some do, {unexpected} where none does"
    );
    let pair = (others.p99_nanoseconds() as f64 / 1e3, all.p99_nanoseconds() as f64 / 1e3);
    let figure = format!(
        "1 000 rules, records of {ROWS}: p99 of a call of a rule while 1 % of the others fail in each call, against none \
         failing ({failed} calls failed)"
    );
    figures.push(Figure::against("guests", figure, "us", pair, "<= 2x", |_, ratio| Some(ratio <= 2.0)));
    let figure = "the same: a record with all its calls, CPU";
    let pair = (records.0 / 1e3, records.1 / 1e3);
    figures.push(Figure::against("guests", figure, "us/record", pair, "report", |_, _| None));
    Ok(())
}

/// The numbers of the rules of a case together, and how many calls of the others failed.
fn stats(fed: &Fed, case: &str) -> (RuleStats, u64) {
    let (mut together, mut failures) = (RuleStats::default(), 0);
    for (name, status) in fed.rules() {
        if name.starts_with(case) {
            together.add(&status.stats);
        } else {
            failures += status.stats.failures;
        }
    }
    failures += together.failures;
    (together, failures)
}
