//! Kills the real binary at random moments, again and again, while devices send over MQTT and HTTP, rules are
//! deployed and rolled back, and the webhook receiver refuses and hangs. At the end an independent ledger says
//! whether
//!
//! - every acknowledged reading is in the log, once, in the order of its device,
//! - every condition that should have alerted did, and is resolved, and no identity had two alerts at once,
//! - every alert arrived at the receiver, its raise before its resolve, and what came twice had the same id.
//!
//! Prints its seed; the same seed gives the same sequence of faults (not the same timing).

mod config;
mod device;
mod engine;
mod prove;
mod receiver;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Parser;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Kills the engine again and again and proves that nothing acknowledged is lost.
#[derive(Parser)]
struct Arguments {
    /// How long devices send.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of the sequence of faults; printed when it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Devices, half over MQTT, half over HTTP.
    #[arg(long, default_value_t = 40)]
    devices: u64,
    /// The binary under test.
    #[arg(long)]
    binary: PathBuf,
    /// Keep the folder with configuration, data and the engine's log.
    #[arg(long)]
    keep: bool,
}

fn now_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn client() -> reqwest::Client {
    reqwest::Client::new()
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // The only error is that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    println!("torture: seed {seed}, {} s, {} devices", arguments.seconds, arguments.devices);
    let folder =
        std::env::temp_dir().join(format!("watchfire-torture-{}-{}", std::process::id(), now_millis()));
    std::fs::create_dir_all(&folder)?;
    println!("torture: folder {}", folder.display());

    let outcome = torture(&arguments, seed, &folder).await;
    match &outcome {
        Ok(()) if !arguments.keep => std::fs::remove_dir_all(&folder)?,
        _ => println!("torture: kept {}", folder.display()),
    }
    outcome
}

async fn torture(arguments: &Arguments, seed: u64, folder: &std::path::Path) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let receiver = receiver::Receiver::start(seed).await?;
    let mut engine = engine::Engine::new(&arguments.binary, folder, receiver.address)?;
    engine.start().await?;
    engine.deploy("main", 100.0).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let devices: Vec<_> = (0..arguments.devices)
        .map(|number| {
            let way = if number % 2 == 0 { device::Way::Mqtt } else { device::Way::Http };
            tokio::spawn(device::run(number, way, engine.addresses, seed, stop.clone()))
        })
        .collect();

    let began = Instant::now();
    let (mut kills, mut deploys, mut slowest) = (0_u32, 0_u32, Duration::ZERO);
    while began.elapsed() < Duration::from_secs(arguments.seconds) {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..1500))).await;
        if random.random_ratio(1, 3) {
            // A rule beside the one under test comes, changes and goes back; cut off by the kill or not.
            let change = async {
                engine.deploy("churn", f64::from(random.random_range(90..110_u32))).await?;
                if random.random_ratio(1, 2) {
                    engine.call("POST", "/rules/churn/rollback", None).await?;
                }
                anyhow::Ok(())
            };
            if tokio::time::timeout(Duration::from_secs(5), change).await.is_ok_and(|done| done.is_ok()) {
                deploys += 1;
            }
        }
        engine.kill()?;
        kills += 1;
        if random.random_ratio(1, 4) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..1000))).await;
        }
        slowest = slowest.max(engine.start().await?);
    }

    receiver.heal();
    stop.store(true, Ordering::Relaxed);
    let mut ledgers = Vec::new();
    for device in devices {
        ledgers.push(device.await?);
    }
    println!(
        "torture: {kills} kills, {deploys} deployments, slowest start {:.2} s, {} readings acknowledged, {} sent again",
        slowest.as_secs_f64(),
        ledgers.iter().map(|ledger| ledger.acknowledged.len()).sum::<usize>(),
        ledgers.iter().map(|ledger| ledger.resent).sum::<u64>(),
    );
    prove::all(&mut engine, &receiver, &ledgers).await
}
