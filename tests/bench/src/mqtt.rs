//! Durable readings over MQTT, QoS 1: the release binary as a child, the fleet in this process, both on the same
//! cores. The reference is what the disk alone takes of the same readings in groups of 1 024.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::event::METRICS;
use crate::figure::{Figure, median};
use crate::server::{Rule, Server};
use crate::{Options, disk, load};

const CLIENTS: u32 = 100;
/// Readings of a client on their way: 5 000 in all.
const WINDOW: usize = 50;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(4);

pub fn run(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    // One thread is enough for the fleet, and leaves the rest to the engine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let goal = |value, _| Some(value >= 150_000.0);
        one(options, Vec::new(), "durable QoS 1, 100 connections", ">= 150000/s", goal, figures).await?;
        let with = "the same, evaluated by 10 threshold rules and ewma-anomaly";
        one(options, rules(), with, "report", |_, _| None, figures).await
    })
}

/// Limits on each metric that nothing exceeds by itself, and the anomaly of one.
pub fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for (i, metric) in METRICS.iter().enumerate() {
        let usual = 20.0 + 10.0 * i as f64;
        let side = |side: &str, limit: f64| {
            let parameters = json!({"metric": metric, side: limit, "deadband": 2.0});
            (format!("{metric}-{side}"), "threshold", parameters)
        };
        rules.push(side("high", usual + 50.0));
        rules.push(side("low", usual - 10.0));
    }
    rules.push(("odd".into(), "ewma-anomaly", json!({"metrics": ["temperature"]})));
    rules
}

async fn one(
    options: &Options,
    rules: Vec<Rule>,
    what: &str,
    goal: &'static str,
    met: impl Fn(f64, f64) -> Option<bool>,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let server = Server::start(options, None)?;
    server.register().await?;
    server.deploy(rules).await?;
    let folder = disk::folder()?;
    let mut connections = load::connect(server.mqtt, CLIENTS).await?;
    let (mut rates, mut plain, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (rate, before, after) = load::saturate(&mut connections, WINDOW, ROUND, || server.cpu()).await?;
        rates.push(rate);
        costs.push((after - before) * 1e6 / (rate * ROUND.as_secs_f64()));
        server.level().await?;
        plain.push(disk::plain(&folder.path().join("plain"), 300, 1024)?);
    }
    let pair = (median(&mut rates), median(&mut plain));
    let figure = format!(
        "{what}, against write + fdatasync of groups of 1 024 (engine: {:.1} us of CPU a reading)",
        median(&mut costs)
    );
    figures.push(Figure::against("mqtt", figure, "readings/s", pair, goal, met));
    Ok(())
}
