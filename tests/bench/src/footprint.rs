//! Resident memory of the release binary: 900 threshold and 100 ewma rules over 15 000 devices, after readings of
//! every device. What a limit keeps of a device is a byte or two, and is there only while the device is beyond it;
//! what the anomaly keeps are mean, variance and count.

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::event::METRICS;
use crate::figure::Figure;
use crate::server::{Rule, Server};
use crate::{Options, load};

/// Readings of each device.
const TIMES: u64 = 3;

pub fn run(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = Server::start(options, None)?;
        server.register().await?;
        let mut connections = load::connect(server.mqtt, 50).await?;
        load::send_each(&mut connections, 50, TIMES).await?;
        server.level().await?;
        let before = server.memory()? as f64;
        server.deploy(rules()).await?;
        load::send_each(&mut connections, 50, TIMES).await?;
        server.level().await?;
        let resident = server.memory()? as f64;
        let mut state = 0;
        for rule in (0..100).map(|i| format!("ewma-{i}")) {
            let shown = server.call("GET", &format!("/rules/{rule}"), None).await?;
            state += shown["health"]["state_bytes"].as_u64().context("a rule does not say its state")?;
        }
        let mega = |bytes: f64| bytes / f64::from(1 << 20);
        let figure = format!(
            "resident with 900 threshold and 100 ewma rules, 15 000 devices, against the bytes of their state \
             ({:.0} MiB before the rules)",
            mega(before)
        );
        let pair = (mega(resident), mega(state as f64));
        let met = |value, _| Some(value < 1024.0);
        figures.push(Figure::against("footprint", figure, "MiB", pair, "< 1 GiB", met));
        Ok(())
    })
}

fn rules() -> Vec<Rule> {
    let metric = |i: usize| METRICS[i % METRICS.len()];
    let threshold = |i: usize| {
        let parameters = json!({"metric": metric(i), "high": 500.0 + i as f64, "deadband": 2.0});
        (format!("threshold-{i}"), "threshold", parameters)
    };
    let ewma = |i: usize| (format!("ewma-{i}"), "ewma-anomaly", json!({"metrics": [metric(i)]}));
    (0..900).map(threshold).chain((0..100).map(ewma)).collect()
}
