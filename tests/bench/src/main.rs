//! Measures Watchfire. Each figure stands beside a reference that is measured in the same run, in rounds that
//! alternate with it: machines are shared and noisy, ratios are what lasts. Nothing here is a test.

mod alerts;
mod call;
mod consume;
mod decode;
mod deploying;
mod disk;
mod event;
mod failing;
mod figure;
mod footprint;
mod guests;
mod hook;
mod idle;
mod instances;
mod kafka;
mod latency;
mod load;
mod log;
mod mqtt;
mod pipeline;
mod rules;
mod server;
mod sinks;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};

use figure::Figure;

/// Measures Watchfire.
#[derive(Parser)]
struct Arguments {
    /// What to measure; all of it where nothing is named.
    benches: Vec<Bench>,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: Options,
}

/// What benches of the whole need.
#[derive(clap::Args)]
struct Options {
    /// The binary, for benches of the whole.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// The folder of shipped rules as components.
    #[arg(long, env = "WATCHFIRE_RULES")]
    rules: Option<PathBuf>,
    /// The folder of the components of tests/bench/guests.
    #[arg(long, env = "WATCHFIRE_GUESTS")]
    guests: Option<PathBuf>,
    /// Alerts that the bench of them delivers one by one.
    #[arg(long, default_value_t = 20_000)]
    alerts: usize,
    /// Alerts that are active while it asks, and that its storm has.
    #[arg(long, default_value_t = 100_000)]
    active: usize,
}

impl Options {
    /// The folder of shipped rules, which has to be there.
    fn rules(&self) -> Result<PathBuf> {
        match &self.rules {
            Some(folder) if folder.is_dir() => Ok(folder.clone()),
            _ => bail!("there are no shipped rules: `cargo xtask bench` builds them, or give --rules FOLDER"),
        }
    }

    /// A shipped rule.
    fn component(&self, name: &str) -> Result<PathBuf> {
        Ok(self.rules()?.join(format!("{name}.wasm")))
    }
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Bench {
    /// Calls of shipped rules.
    Rules,
    /// The same rules in every language, and what deploying one of Python costs others.
    Guests,
    /// The latter alone.
    Deploying,
    /// JSON to columns.
    Decode,
    /// Durable appends.
    Log,
    /// Bytes to committed alerts, without the network.
    Pipeline,
    /// Durable readings over MQTT.
    Mqtt,
    /// From a reading to its webhook.
    Latency,
    /// Resident memory of a thousand rules.
    Footprint,
    /// The log to PostgreSQL and Kafka, and Kafka to alerts.
    Sinks,
    /// Alerts one by one, many of them, and a storm, beside Alertmanager.
    Alerts,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // The only error is that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if std::env::var_os("RUST_BACKTRACE").is_some() {
        eprintln!("RUST_BACKTRACE is set: calls of rules that fail cost more, and some others too");
    }
    let options = &arguments.options;
    let mut benches = arguments.benches;
    if benches.is_empty() {
        benches = Bench::value_variants().to_vec();
        // It is part of another.
        benches.retain(|bench| *bench != Bench::Deploying);
    }
    let mut figures: Vec<Figure> = Vec::new();
    for bench in benches {
        match bench {
            Bench::Rules => {
                rules::run(options, &mut figures)?;
                idle::run(options, &mut figures)?;
            }
            Bench::Guests => {
                guests::run(options, &mut figures)?;
                deploying::run(options, &mut figures)?;
            }
            Bench::Deploying => deploying::run(options, &mut figures)?,
            Bench::Decode => decode::run(&mut figures)?,
            Bench::Log => log::run(&mut figures)?,
            Bench::Pipeline => pipeline::run(options, &mut figures)?,
            Bench::Mqtt => mqtt::run(options, &mut figures)?,
            Bench::Latency => latency::run(options, &mut figures)?,
            Bench::Footprint => footprint::run(options, &mut figures)?,
            Bench::Sinks => {
                kafka::run(options, &mut figures)?;
                sinks::run(options, &mut figures)?;
            }
            Bench::Alerts => alerts::run(options, &mut figures)?,
        }
    }
    if arguments.json {
        println!("{}", serde_json::json!({ "figures": figures }));
    } else {
        figure::print(&figures);
    }
    Ok(())
}
