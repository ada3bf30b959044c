//! `watchfire demo`: the whole engine on its embedded defaults, a fleet over real MQTT connections, shipped
//! rules as WebAssembly components, and a webhook receiver; prints alerts as they are raised, delivered and
//! resolved, and a tally at the end.

mod machines;
mod print;
mod receiver;
mod rules;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use watchfire_host::{Host, HostOptions};
use watchfire_log::{Clock, ScaledClock, SystemClock};
use watchfire_scenario::Recording;

use crate::config::{Config, TelemetryConfig};
use crate::serve::Server;
use crate::simulate::{Fleet, Tally, play};
use crate::{shipped, telemetry};
use print::Printer;
use receiver::Receiver;

/// How long the demonstration waits for the last deliveries.
const SETTLE: Duration = Duration::from_secs(3);

/// What the demonstration does.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How many machines
    #[arg(long, default_value_t = 1000)]
    devices: u32,
    /// For how long
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Readings per second of each machine
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Recorded readings (NDJSON: device, time, metrics) in place of simulated machines
    #[arg(long)]
    replay: Option<PathBuf>,
    /// How many times faster than it was a recording runs, the engine's clock with it
    #[arg(long, default_value_t = 10_000.0)]
    speed: f64,
    /// A folder of rule files to deploy; without it `deploy` beside the recording, else rules for the simulated fleet
    #[arg(long)]
    deploy: Option<PathBuf>,
    /// The folder of shipped rules as components; `rules` beside the binary where it is not given
    #[arg(long, env = "WATCHFIRE_RULES")]
    rules: Option<PathBuf>,
    /// Seed of values and faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Lines about alerts in a second at most; the others are counted
    #[arg(long, default_value_t = 20)]
    lines: u32,
    /// What the engine logs meanwhile
    #[arg(long, default_value = "warn")]
    log: String,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Closing {
    /// Who reported.
    pub devices: usize,
    /// Readings that were acknowledged.
    pub acknowledged: u64,
    /// In so many seconds.
    pub seconds: f64,
    /// Alerts.
    pub raised: u64,
    /// Of these.
    pub resolved: u64,
    /// Messages that the receiver took, each counted once.
    pub deliveries: u64,
    /// Messages that came again, with the same id.
    pub repeated: u64,
    /// From the time of a reading to its alert at the receiver, in milliseconds: median and 99 of 100.
    pub latency: Option<(f64, f64)>,
}

/// Runs the command: an error where nothing was acknowledged or nothing delivered.
pub async fn run(options: Options) -> Result<()> {
    telemetry::init(&TelemetryConfig { level: options.log.clone(), ..TelemetryConfig::default() });
    let closing = show(&options).await?;
    println!();
    println!("devices                {:>12}", closing.devices);
    println!("readings acknowledged  {:>12}", closing.acknowledged);
    println!("readings per second    {:>12.0}", closing.acknowledged as f64 / closing.seconds.max(1e-3));
    println!("alerts raised          {:>12}", closing.raised);
    println!("alerts resolved        {:>12}", closing.resolved);
    println!("deliveries             {:>12}", closing.deliveries);
    if closing.repeated > 0 {
        println!("delivered again        {:>12}  (same id)", closing.repeated);
    }
    match closing.latency {
        Some((p50, p99)) => println!("reading to webhook     p50 {p50:.1} ms, p99 {p99:.1} ms"),
        None => println!("reading to webhook     no alert of a reading was delivered"),
    }
    if closing.acknowledged == 0 {
        bail!("no reading was acknowledged");
    }
    if closing.deliveries == 0 {
        bail!("no alert was delivered");
    }
    Ok(())
}

async fn show(options: &Options) -> Result<Closing> {
    let Some(components) = shipped::folder(options.rules.as_deref()) else {
        bail!(
            "there are no shipped rules: give their folder with --rules, or run `cargo xtask demo`, which builds them"
        );
    };
    let recording = options.replay.as_deref().map(Recording::read).transpose()?;
    if !(options.speed.is_finite() && options.speed > 0.0) {
        return Err(crate::commands::ClientError::Usage("--speed is a positive number".into()).into());
    }
    let folder = tempfile::Builder::new().prefix("watchfire-demo-").tempdir().context("a folder for data")?;

    let data = folder.path().join("data");
    if recording.is_some() {
        println!("modules    are being compiled; those of interpreted languages take a while");
        compile(components.clone(), data.join("cache")).await?;
    }
    // A recording has a clock of its own: it begins at the first reading and runs faster.
    let scaled =
        recording.as_ref().map(|recording| Arc::new(ScaledClock::new(recording.first(), options.speed)));
    let clock: Arc<dyn Clock> = match &scaled {
        Some(scaled) => scaled.clone(),
        None => Arc::new(SystemClock),
    };
    let printer = Printer::new(options.lines);
    if let Some(recording) = &recording {
        printer.until(recording.last());
    }
    let speed = scaled.as_ref().map_or(1.0, |scaled| scaled.speed());
    let receiver = Receiver::start(clock.clone(), speed, printer.clone()).await?;
    let config = configuration(&data, &components, &receiver)?;
    let server = Server::start(config, clock).await?;
    let (http, mqtt) = (server.addresses.http, server.addresses.mqtt.context("there is no MQTT listener")?);
    println!("engine     http://{http}  mqtt://{mqtt}  data in {}", data.display());

    let deployed = match (&options.deploy, &options.replay) {
        (Some(folder), _) => rules::folder(folder)?,
        (None, Some(file)) => rules::beside(file)?,
        (None, None) => rules::fleet()?,
    };
    rules::deploy(http, &deployed).await?;

    let events = print::follow(server.store().clone(), printer.clone());
    let deliveries = receiver.print();
    let (tally, stop) = (Arc::new(Tally::default()), CancellationToken::new());
    let interrupted = on_interrupt(stop.clone());
    let began = Instant::now();
    let devices = match (&recording, scaled) {
        (Some(recording), Some(clock)) => {
            println!(
                "recording  {} readings of {} devices, {} to {}, {} times as fast",
                recording.all().len(),
                recording.devices().len(),
                recording.first(),
                recording.last(),
                options.speed
            );
            play(recording, mqtt, clock, |time, _| time, tally.clone(), stop.clone()).await;
            recording.devices().len()
        }
        _ => {
            println!(
                "fleet      {} machines, {} readings a second each, for {} s",
                options.devices, options.rate, options.seconds
            );
            let (limit, ended) = (stop.clone(), printer.clone());
            let seconds = options.seconds;
            tokio::spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
                    () = limit.cancelled() => {}
                }
                ended.until(SystemClock.wall());
                limit.cancel();
            });
            let fleet = Fleet { mqtt, devices: options.devices, rate: options.rate, seed: options.seed };
            let registration = tokio::spawn(machines::register(http, fleet));
            fleet.run(tally.clone(), stop.clone()).await?;
            // A demonstration may be over before all machines have said something.
            if registration.is_finished() {
                registration.await??
            } else {
                registration.abort()
            }
            options.devices as usize
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    // Counted before the fleet's own end is taken for silence.
    let acknowledged = tally.acknowledged.load(Ordering::Relaxed);
    server.engine().wait_level().await?;
    settle(&server, &printer).await?;
    let (raised, resolved) = printer.counts();
    let (delivered, repeated, latency) = receiver.counts();
    for task in [events, deliveries, interrupted] {
        task.abort();
    }
    printer.flush();
    server.stop().await?;
    Ok(Closing { devices, acknowledged, seconds, raised, resolved, deliveries: delivered, repeated, latency })
}

/// Compiles the shipped rules into the cache that the engine will find: those of interpreted languages take seconds each,
/// which would be days of a clock that runs fast.
async fn compile(components: PathBuf, cache: PathBuf) -> Result<()> {
    tokio::task::spawn_blocking(move || {
        let host = Host::new(HostOptions { cache_folder: Some(cache), ..HostOptions::default() })?;
        for file in shipped::components(&components)? {
            let bytes = std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            // One that is refused is passed over with a warning when the engine starts.
            let _ = host.add(&bytes);
        }
        Ok(())
    })
    .await?
}

/// The embedded defaults, with free ports, a folder that goes away, and the receiver.
fn configuration(data: &Path, components: &Path, receiver: &Receiver) -> Result<Config> {
    let text = format!(
        "data = {:?}\nrules = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n[mqtt]\nlisten = \"127.0.0.1:0\"\n\
         [[receiver]]\nname = \"demo\"\nwebhook = {{ url = {:?} }}\n",
        data,
        components,
        receiver.url()
    );
    // Not the environment of whoever shows it: that may be meant for another engine.
    Ok(Config::read(&text, "the demonstration", [])?)
}

/// Waits until what was raised is delivered, for a while.
async fn settle(server: &Server, printer: &Printer) -> Result<()> {
    let deadline = Instant::now() + SETTLE;
    let filter = watchfire_store::DeliveryFilter {
        state: Some(watchfire_store::DeliveryState::Pending),
        limit: 1,
        ..Default::default()
    };
    let mut quiet = 0;
    while Instant::now() < deadline && quiet < 3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let waiting = !server.store().deliveries(&filter).await?.items.is_empty();
        quiet = if waiting || printer.moved() { 0 } else { quiet + 1 };
    }
    Ok(())
}

fn on_interrupt(stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    })
}
