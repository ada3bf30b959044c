//! A fleet of simulated devices over real MQTT connections: synthetic machines with seeded faults, or a
//! recording with its times moved to now.

mod client;
mod fleet;
mod replay;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio_util::sync::CancellationToken;
use watchfire_log::{Clock, ScaledClock, SystemClock};
use watchfire_scenario::Recording;

use crate::commands::ClientError;

pub use fleet::{Fleet, Machine};
pub use replay::play;

/// `watchfire simulate`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The MQTT listener
    #[arg(long, default_value = "127.0.0.1:1883")]
    mqtt: SocketAddr,
    /// How many devices
    #[arg(long, default_value_t = 100)]
    devices: u32,
    /// Readings per second of each device
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Ends after so many seconds; not given: with Ctrl-C
    #[arg(long)]
    seconds: Option<u64>,
    /// Seed of values and faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A recording (NDJSON: device, time, metrics; or CSV with a column for each metric) in place of synthetic machines; its times are moved to now
    #[arg(long)]
    replay: Option<PathBuf>,
    /// How many times faster than it was the recording is sent
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
}

/// What became of the readings of a fleet.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections that stand.
    pub connected: AtomicU64,
    /// Readings that were sent, resends not counted.
    pub sent: AtomicU64,
    /// Readings that the engine acknowledged.
    pub acknowledged: AtomicU64,
    /// Connections that broke or could not be made.
    pub broken: AtomicU64,
}

impl Tally {
    /// Readings that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

/// Runs the command.
pub async fn run(options: Options) -> Result<()> {
    let stop = CancellationToken::new();
    let tally = Arc::new(Tally::default());
    let began = Instant::now();
    let end = {
        let (stop, seconds) = (stop.clone(), options.seconds);
        tokio::spawn(async move {
            let limit = async {
                match seconds {
                    Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = limit => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            stop.cancel();
        })
    };
    let report = tokio::spawn(report(tally.clone(), stop.clone()));
    match &options.replay {
        Some(file) => {
            if !(options.speed.is_finite() && options.speed > 0.0) {
                return Err(ClientError::Usage("--speed is a positive number".into()).into());
            }
            let recording = Recording::read(file)?;
            let now = SystemClock.wall();
            let clock = Arc::new(ScaledClock::new(recording.first(), options.speed));
            // The times that are told are of now: the recording's, as far from its first as the clock went.
            let moved = move |time: watchfire_model::Timestamp, first: watchfire_model::Timestamp| {
                let passed = time.since(first).as_secs_f64() / options.speed;
                now + watchfire_model::Duration::from(Duration::from_secs_f64(passed))
            };
            play(&recording, options.mqtt, clock, moved, tally.clone(), stop.clone()).await;
        }
        None => {
            let fleet = Fleet {
                mqtt: options.mqtt,
                devices: options.devices,
                rate: options.rate,
                seed: options.seed,
            };
            fleet.run(tally.clone(), stop.clone()).await?;
        }
    }
    stop.cancel();
    end.abort();
    let _ = report.await;
    let (sent, acknowledged) = (tally.sent.load(Ordering::Relaxed), tally.acknowledged());
    println!(
        "{sent} readings sent, {acknowledged} acknowledged, {:.0} a second",
        acknowledged as f64 / began.elapsed().as_secs_f64()
    );
    if acknowledged == 0 {
        bail!("nothing was acknowledged: is there an engine at {}?", options.mqtt);
    }
    Ok(())
}

/// A line a second on a terminal; quiet in a pipe.
async fn report(tally: Arc<Tally>, stop: CancellationToken) {
    use std::io::{IsTerminal as _, Write as _};
    if !std::io::stderr().is_terminal() {
        return;
    }
    let mut before = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let acknowledged = tally.acknowledged();
        eprint!(
            "\r{} connected, {acknowledged} acknowledged, {} a second   ",
            tally.connected.load(Ordering::Relaxed),
            acknowledged - before
        );
        let _ = std::io::stderr().flush();
        before = acknowledged;
    }
    eprintln!();
}
