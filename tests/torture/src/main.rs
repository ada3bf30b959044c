//! Kills the real binary at random moments, again and again, while devices send over MQTT and HTTP, rules are
//! deployed and rolled back, and the webhook receiver refuses, hangs, cuts connections and dies. At the end
//! independent ledgers say whether
//!
//! - every acknowledged reading is in the log, once, in the order of its device, as it was sent,
//! - every acknowledged change of a rule is in the log and was made by every partition,
//! - every condition that should have alerted did, at its time, and is resolved; no identity had two alerts at
//!   once; a rollback counted from its place in the log on,
//! - every alert arrived at the receiver, its raise before its resolve, and what came twice had the same id.
//!
//! With `--sinks`, results also flow to a PostgreSQL and a Kafka that are killed like the engine, and
//!
//! - the table holds exactly the acknowledged readings, once each,
//! - the topic holds all of them, in the order of each device; with a seed that is even once each, for readers of what
//!   is committed; with one that is odd repeats share their id.
//!
//! Each of these proofs is then tried on evidence that was tampered with, and must fail.
//!
//! Prints its seed; the same seed gives the same sequence of faults (not the same timing).

mod config;
mod device;
mod doubt;
mod engine;
mod evidence;
mod model;
mod mqtt;
mod outlets;
mod ports;
mod prove;
mod receiver;
mod storm;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use clap::Parser;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use device::{CALM, Device, Ledger};
use engine::Engine;
use evidence::Evidence;
use outlets::Outlets;
use receiver::Receiver;
use storm::Storm;

/// How long what is under way in the end may take to come to rest.
const REST: Duration = Duration::from_secs(90);

/// Kills the engine again and again and proves that nothing acknowledged is lost.
#[derive(Parser)]
struct Arguments {
    /// How long devices send.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of the sequence of faults; printed when it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Devices: a quarter each over MQTT 3.1.1, MQTT 5, HTTP/1.1 and HTTP/2.
    #[arg(long, default_value_t = 40)]
    devices: u64,
    /// The binary under test.
    #[arg(long)]
    binary: PathBuf,
    /// The folder with the components of the shipped rules.
    #[arg(long, env = "WATCHFIRE_RULES")]
    rules: PathBuf,
    /// Let results flow to a PostgreSQL and a Kafka, and kill these as well.
    #[arg(long)]
    sinks: bool,
    /// Keep the folder with configuration, data and the engine's log.
    #[arg(long)]
    keep: bool,
}

fn now_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
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

    let outcome = torture(&arguments, seed, &folder).await;
    match &outcome {
        Ok(()) if !arguments.keep => std::fs::remove_dir_all(&folder)?,
        _ => println!("torture: seed {seed}: kept {}", folder.display()),
    }
    outcome
}

async fn torture(arguments: &Arguments, seed: u64, folder: &Path) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let receiver = Receiver::start(seed).await?;
    let rules = std::path::absolute(&arguments.rules)?;
    let outlets = arguments.sinks.then(|| Outlets::start(seed.is_multiple_of(2))).transpose()?;
    let sections = outlets.as_ref().map(Outlets::configuration).unwrap_or_default();
    let mut engine = Engine::new(&arguments.binary, &rules, folder, receiver.address, &sections)?;
    let first = engine.start().await?;
    let main = engine::threshold("temperature", engine::MAIN_LIMIT);
    engine.api.call("PUT", "/rules/main?wait=true", Some(main)).await?;
    let mut storm = Storm::default();
    storm.changes.push(storm::change(&engine.api, Some(60.0)).await?.made()?);

    let stop = Arc::new(AtomicBool::new(false));
    let mut devices = Vec::new();
    for number in 0..arguments.devices {
        let device = Device::new(number, engine.addresses, seed)?;
        devices.push(tokio::spawn(device.run(stop.clone())));
    }
    let dying = tokio::spawn(receiver.clone().die_again_and_again(seed));
    let outlets = outlets.map(|outlets| outlets::dying(outlets, seed, stop.clone()));
    let time = Duration::from_secs(arguments.seconds);
    storm.rage(&mut engine, &receiver, &mut random, time).await?;

    receiver.heal().await?;
    let mut ledgers = vec![go_back(&engine, &mut storm, arguments.devices, seed).await?];
    stop.store(true, Ordering::Relaxed);
    for device in devices {
        ledgers.push(device.await??);
    }
    dying.await??;
    let slowest = storm.starts.iter().max().copied().unwrap_or_default();
    let last = storm.starts.last().copied().unwrap_or_default();
    println!(
        "torture: {} kills ({} before it was ready), {} ends; starts: first {:.2} s, slowest {:.2} s, last {:.2} s",
        storm.kills,
        storm.early,
        storm.ends,
        first.as_secs_f64(),
        slowest.as_secs_f64(),
        last.as_secs_f64(),
    );
    println!(
        "torture: {} readings acknowledged, {} sent again",
        ledgers.iter().map(|ledger| ledger.acknowledged.len()).sum::<usize>(),
        ledgers.iter().map(|ledger| ledger.resent).sum::<u64>(),
    );

    let outlets = match outlets {
        Some(dying) => Some(dying.await??),
        None => None,
    };
    let evidence = collect(&mut engine, &receiver, outlets, ledgers, storm).await?;
    prove(&evidence)?;
    let found = doubt::check(&evidence)?;
    println!("torture: tampered with {found} times, and each time the proof for it failed");
    Ok(())
}

/// Where the effect of a rollback can be seen with the naked eye: a limit that nothing reaches is deployed and
/// taken back, and only after that a load raises an alert.
async fn go_back(engine: &Engine, storm: &mut Storm, number: u64, seed: u64) -> Result<Ledger> {
    let alerts = async || {
        let path = format!("/alerts?rule=churn&device={}", device::name(number));
        let page = engine.api.call("GET", &path, None).await?;
        anyhow::Ok(page["items"].as_array().map_or(0, Vec::len))
    };
    let mut device = Device::new(number, engine.addresses, seed)?;
    device.send(&[(CALM, 0.0)]).await?;
    let high = storm::change(&engine.api, Some(1000.0)).await?.made()?;
    device.send(&[(CALM, 85.0)]).await?;
    // Said once every partition has swapped: it has seen the reading before by then.
    let back = storm::change(&engine.api, None).await?.made()?;
    ensure!(alerts().await? == 0, "an alert by a version that nothing reaches");
    storm.changes.extend([high, back]);
    device.send(&[(CALM, 85.0)]).await?;
    let began = Instant::now();
    while alerts().await? == 0 {
        ensure!(began.elapsed() < REST, "no alert by the version that came back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    device.finish().await
}

/// Waits until everything came to rest, stops the engine, and gathers what is known from every side. Where
/// it does not come to rest, the proofs say what is missing.
async fn collect(
    engine: &mut Engine,
    receiver: &Receiver,
    outlets: Option<Outlets>,
    ledgers: Vec<Ledger>,
    storm: Storm,
) -> Result<Evidence> {
    let mut evidence = Evidence {
        ledgers,
        changes: storm.changes,
        arrivals: Vec::new(),
        alerts: Vec::new(),
        deliveries: Vec::new(),
        versions: evidence::versions(&engine.api).await?,
        log: Vec::new(),
        outlet: None,
    };
    let began = Instant::now();
    while began.elapsed() < REST {
        let (alerts, deliveries) =
            (evidence::alerts(&engine.api).await?, evidence::deliveries(&engine.api).await?);
        // Twice the same: nothing is on its way any more.
        let stable = alerts == evidence.alerts && deliveries == evidence.deliveries;
        (evidence.alerts, evidence.deliveries) = (alerts, deliveries);
        if stable
            && storm::at_rest(&evidence.alerts, &evidence.deliveries)
            && prove::episodes(&evidence).is_ok()
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    if let Some(outlets) = outlets {
        evidence.outlet = Some(outlets.collect(&engine.api).await?);
    }
    println!("torture: at rest after {:.1} s", began.elapsed().as_secs_f64());
    if let Some((megabytes, files)) = engine.size() {
        println!("torture: in the end it has {megabytes} MB of memory and {files} open files");
    }
    ensure!(engine.terminate(Duration::from_secs(30)).await?, "the engine did not end on SIGTERM");
    println!("torture: the log: {}", engine.verify_log()?.trim_end());
    evidence.arrivals = receiver.arrivals()?;
    evidence.log = evidence::log(engine)?;
    Ok(evidence)
}

/// Runs every proof, so that one that fails does not hide another.
fn prove(evidence: &Evidence) -> Result<()> {
    let mut failed = Vec::new();
    for (name, proof) in prove::PROOFS {
        match proof(evidence) {
            Ok(said) => println!("torture: {said}"),
            Err(error) => {
                println!("torture: FAILED: {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    ensure!(failed.is_empty(), "does not hold: {}", failed.join(", "));
    Ok(())
}
