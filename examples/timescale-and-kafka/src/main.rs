//! Results in PostgreSQL and on Kafka: starts both, an engine with `watchfire.toml`, and a simulated fleet; then shows
//! what arrived. `cargo xtask example` builds and runs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use watchfire_services::{Kafka, Postgres};

/// Results in PostgreSQL and on Kafka.
#[derive(Parser)]
struct Arguments {
    /// The binary.
    #[arg(long)]
    binary: PathBuf,
    /// The folder of shipped rules as components.
    #[arg(long)]
    rules: PathBuf,
    /// Devices of the fleet.
    #[arg(long, default_value_t = 200)]
    devices: u32,
    /// How long they send.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
}

/// Where the engine of this example listens: `watchfire.toml` says so.
const SERVER: &str = "http://127.0.0.1:8090";
const MQTT: &str = "127.0.0.1:1893";

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    println!("PostgreSQL and Kafka start");
    let postgres = Postgres::start()?;
    let kafka = Kafka::start()?;
    let data = tempfile::tempdir()?;

    println!("the engine starts");
    let watchfire = |words: &[&str]| {
        let mut command = Command::new(&arguments.binary);
        command.args(words).env("WATCHFIRE_SERVER", SERVER).env_remove("WATCHFIRE_TOKEN");
        command
    };
    let log = std::fs::File::create(data.path().join("engine.log"))?;
    let engine = watchfire(&["serve", "--config"])
        .arg(here.join("watchfire.toml"))
        .arg("--data")
        .arg(data.path().join("data"))
        .env("WATCHFIRE_RULES", &arguments.rules)
        .env("WATCHFIRE_SINK__TIMESCALE__URL", postgres.url())
        .env("WATCHFIRE_SINK__KAFKA__BROKERS", kafka.bootstrap())
        .stderr(log)
        .spawn()
        .context("the engine does not start")?;
    let mut engine = Engine(engine);
    let began = Instant::now();
    while !watchfire(&["status", "--json"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
        if began.elapsed() > PATIENCE || engine.0.try_wait()?.is_some() {
            bail!("the engine does not run:\n{}", std::fs::read_to_string(data.path().join("engine.log"))?);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    run(watchfire(&["apply"]).arg(here.join("deploy")))?;
    let machines = data.path().join("machines.ndjson");
    std::fs::write(&machines, registry(arguments.devices))?;
    run(watchfire(&["device", "import"]).arg(&machines))?;

    println!("\n{} machines send for {} s", arguments.devices, arguments.seconds);
    let (devices, seconds) = (arguments.devices.to_string(), arguments.seconds.to_string());
    run(&mut watchfire(&["simulate", "--mqtt", MQTT, "--devices", &devices, "--seconds", &seconds]))?;
    level(|| watchfire(&["sink", "ls", "--json"]))?;
    run(&mut watchfire(&["sink", "ls"]))?;

    println!("\n== PostgreSQL");
    let mut queries: Vec<_> =
        std::fs::read_dir(here.join("queries"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    queries.sort();
    for query in queries {
        println!("\n{}", std::fs::read_to_string(&query)?.trim_end());
        run(postgres.psql().args(["--quiet", "--set", "ON_ERROR_STOP=1", "--file"]).arg(query))?;
    }
    let rows = postgres.query("SELECT count(*) FROM derived_changes")?;
    ensure!(rows[0][0].as_deref() != Some("0"), "nothing arrived in the database");

    println!("== Kafka");
    let topics = topics(&kafka.bootstrap())?;
    for (topic, seen) in &topics {
        println!("\n{topic}: {} messages, the last of them\n  {}", seen.messages, seen.last);
    }
    let messages = |topic: &str| topics.get(topic).map_or(0, |seen| seen.messages);
    let (all, changes) = (messages("watchfire.readings"), messages("watchfire.changes"));
    ensure!(changes > 0 && all > changes, "{all} readings and {changes} changes arrived on Kafka");
    println!("\n{all} readings, of which {changes} went through the rule `changes` and into the database");
    Ok(())
}

/// The engine, which ends with this value.
struct Engine(Child);

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have ended by itself; what it had is a temporary folder.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The machines, as the simulator calls them, at four sites.
fn registry(devices: u32) -> String {
    const SITES: [&str; 4] = ["lyon", "porto", "gdansk", "turku"];
    let line = |number: u32| {
        let site = SITES[number as usize % SITES.len()];
        format!(
            "{}\n",
            serde_json::json!({ "id": format!("machine-{number:05}"), "type": "machine", "site": site })
        )
    };
    (0..devices).map(line).collect()
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{:?} ended with {status}", command.get_program());
    Ok(())
}

/// Waits until both sinks wrote everything; a tick that is written meanwhile does not count.
fn level(list: impl Fn() -> Command) -> Result<()> {
    let began = Instant::now();
    loop {
        let answer = list().output()?;
        let sinks: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
        let sinks = sinks.as_array().or_else(|| sinks["items"].as_array()).cloned().unwrap_or_default();
        let done = |sink: &Value| {
            sink["state"] == "running" && sink["behind"].as_u64().is_some_and(|behind| behind < 10)
        };
        if sinks.len() == 2 && sinks.iter().all(done) {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "the sinks are not level: {sinks:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What is on a topic.
#[derive(Default)]
struct Seen {
    messages: usize,
    last: String,
}

/// Reads every topic of the engine from beginning to end.
fn topics(brokers: &str) -> Result<BTreeMap<String, Seen>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "example")
        .set("enable.partition.eof", "false")
        .create()?;
    let wait = Duration::from_secs(20);
    let metadata = consumer.fetch_metadata(None, wait)?;
    let (mut seen, mut all, mut left) = (BTreeMap::new(), TopicPartitionList::new(), 0);
    for topic in metadata.topics().iter().filter(|topic| topic.name().starts_with("watchfire.")) {
        seen.insert(topic.name().to_string(), Seen::default());
        for partition in topic.partitions() {
            let (first, end) = consumer.fetch_watermarks(topic.name(), partition.id(), wait)?;
            all.add_partition_offset(topic.name(), partition.id(), Offset::Beginning)?;
            left += end - first;
        }
    }
    consumer.assign(&all)?;
    let mut quiet = Instant::now();
    while left > 0 && quiet.elapsed() < Duration::from_secs(10) {
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message?;
        quiet = Instant::now();
        left -= 1;
        let topic = seen.entry(message.topic().to_string()).or_default();
        topic.messages += 1;
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let headers = message.headers().map_or(String::new(), |headers| {
            headers.iter().map(|header| format!(" {}={}", header.key, text(header.value))).collect()
        });
        topic.last = format!("{}{headers} {}", text(message.key()), text(message.payload()));
    }
    Ok(seen)
}
