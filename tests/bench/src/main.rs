//! Measures Watchfire. Each figure stands beside a reference that is measured in the same run, in rounds that
//! alternate with it: machines are shared and noisy, ratios are what lasts. Nothing here is a test.

mod decode;
mod event;
mod figure;
mod log;
mod rules;

use anyhow::Result;
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
    /// The binary, for benches of the whole.
    #[arg(long)]
    binary: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Bench {
    /// Calls of shipped rules.
    Rules,
    /// JSON to columns.
    Decode,
    /// Durable appends.
    Log,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let benches =
        if arguments.benches.is_empty() { Bench::value_variants().to_vec() } else { arguments.benches };
    let mut figures: Vec<Figure> = Vec::new();
    for bench in benches {
        match bench {
            Bench::Rules => rules::run(&mut figures)?,
            Bench::Decode => decode::run(&mut figures)?,
            Bench::Log => log::run(&mut figures)?,
        }
    }
    if arguments.json {
        println!("{}", serde_json::json!({ "figures": figures }));
    } else {
        figure::print(&figures);
    }
    Ok(())
}
