//! From a reading to its webhook while a component of Python, which is the largest and compiles longest, is uploaded,
//! compiled and deployed; against the same before, in the same run.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::figure::Figure;
use crate::latency::{self, Rig};
use crate::{Options, guests};

/// Readings a second, where half of what the machine takes at most is not less.
const RATE: f64 = 50_000.0;

pub fn run(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let Some(component) = guests::component(options, "python")? else { return Ok(()) };
    let component = std::fs::read(component)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut before, mut during, most, took) = runtime.block_on(async {
        let (server, mut rig) = Rig::start(options, "").await?;
        let rate = RATE.min(rig.most / 2.0);
        let before = rig.steady(rate, async { Ok(Duration::ZERO) }).await?.0;
        let deploy = async {
            let began = Instant::now();
            let digest = server.upload(component).await?;
            // It triggers nothing: the receiver waits for alerts of the probes.
            let body = json!({"module": digest, "parameters": {"case": "limit-batch", "high": 1e6}});
            server.call("PUT", "/rules/deployed?wait=true", Some(body)).await?;
            anyhow::Ok(began.elapsed())
        };
        let (during, took) = rig.steady(rate, deploy).await.context("while a component is deployed")?;
        anyhow::Ok((before, during, rig.most, took))
    })?;
    let half = if RATE < most / 2.0 { "" } else { ", half of the most that the machine takes" };
    let figure = format!(
        "reading to webhook at {:.0} readings/s{half}: p99 while a component of Python is uploaded, compiled and deployed \
         ({:.1} s), against before",
        during.rate,
        took.as_secs_f64()
    );
    let pair = (latency::at(&mut during.latencies, 0.99), latency::at(&mut before.latencies, 0.99));
    figures.push(Figure::against("guests", figure, "ms", pair, "<= 3x", |_, ratio| Some(ratio <= 3.0)));
    Ok(())
}
