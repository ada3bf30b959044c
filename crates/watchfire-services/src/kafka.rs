//! Apache Kafka as one node that is broker and controller (KRaft).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::process::{Process, free_port, on_path};
use crate::{Failure, cache, provide, wire};

/// Sixteen bytes in base64, as Kafka names a cluster.
const CLUSTER: &str = "d2F0Y2hmaXJlLXRlc3RzMQ";

/// A broker. It takes some seconds to start and some 200 MB: tests of one binary share one.
pub struct Kafka {
    process: Process,
    port: u16,
}

impl Kafka {
    /// Starts one.
    pub fn start() -> Result<Self, Failure> {
        Self::start_with(&[])
    }

    /// As [`Kafka::start`], with these properties in addition to, or instead of, the ones that are set here.
    pub fn start_with(properties: &[(&str, &str)]) -> Result<Self, Failure> {
        let home = provide::kafka(&cache());
        if !home.join("lib").is_dir() {
            return Err(Failure::Missing(
                "there is no Kafka: `cargo xtask services` brings it (needs Java 17 and Maven)".into(),
            ));
        }
        let java =
            on_path("java").ok_or_else(|| Failure::Missing("there is no Java: install a JRE".into()))?;
        let archive = home.join("kafka.jsa");
        let sharing = match archive.is_file() {
            true => vec![format!("-XX:SharedArchiveFile={}", archive.display())],
            false => Vec::new(),
        };
        let (process, port) = broker(java, home, sharing.clone(), sharing, properties)?;
        Ok(Self { process, port })
    }

    /// What clients take as `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.process.id()
    }

    /// As kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops it as an operator does.
    pub fn stop(&mut self) {
        self.process.stop(Signal::TERM);
    }

    /// Starts it again on the same port with the same data.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.process.start()
    }

    /// Holds it where it is: a broker that does not answer.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// The end of what it printed.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// Writes down which classes a run has loaded, for later starts to map instead of loading them: 4 s instead of 8 s.
    pub(crate) fn archive_classes(home: &Path) -> Result<(), Failure> {
        let java = on_path("java").ok_or_else(|| Failure::Missing("there is no Java".into()))?;
        let made = home.join("kafka.jsa.new");
        let archiving = vec![format!("-XX:ArchiveClassesAtExit={}", made.display())];
        // Formatting would leave an archive of what formatting needs.
        let (mut process, _) = broker(java, home.to_owned(), Vec::new(), archiving, &[])?;
        process.stop(Signal::TERM);
        std::fs::rename(made, home.join("kafka.jsa"))
            .map_err(|error| Failure::broken("the archive of Kafka's classes", error))
    }
}

/// Formats a folder and serves it: with these options of the runtime for the one and for the other. Gives the port too.
fn broker(
    java: PathBuf,
    home: PathBuf,
    formatting: Vec<String>,
    serving: Vec<String>,
    properties: &[(&str, &str)],
) -> Result<(Process, u16), Failure> {
    let mut process = Process::new("kafka")?;
    let (port, controller) = (free_port()?, free_port()?);
    let file = process.folder().join("server.properties");
    let text = server_properties(process.folder(), port, controller, properties);
    std::fs::write(&file, text).map_err(|error| Failure::broken("kafka", error))?;
    let format = {
        let (java, home, file) = (java.clone(), home.clone(), file.clone());
        move || {
            let mut command = command(&java, &home, &formatting, "kafka.tools.StorageTool");
            command.args(["format", "-t", CLUSTER, "-c"]).arg(&file);
            command
        }
    };
    process.start_once(format)?;
    let serve = move || {
        let mut command = command(&java, &home, &serving, "kafka.Kafka");
        command.arg(&file);
        command
    };
    process.run(serve, move || wire::kafka_brokers(port).is_ok_and(|brokers| brokers > 0))?;
    Ok((process, port))
}

fn command(java: &Path, home: &Path, options: &[String], class: &str) -> Command {
    // An archive of classes counts only for the same jars in the same order.
    let mut jars: Vec<PathBuf> = std::fs::read_dir(home.join("lib"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    jars.sort();
    let path: Vec<_> = jars.iter().map(|jar| jar.display().to_string()).collect();
    let mut command = Command::new(java);
    command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]).args(options);
    command.args(["-cp", &path.join(":"), class]);
    command
}

fn server_properties(folder: &Path, port: u16, controller: u16, more: &[(&str, &str)]) -> String {
    let (node, data) = (format!("127.0.0.1:{port}"), folder.join("data").display().to_string());
    let (voters, listeners, advertised) = (
        format!("1@127.0.0.1:{controller}"),
        format!("PLAINTEXT://{node},CONTROLLER://127.0.0.1:{controller}"),
        format!("PLAINTEXT://{node}"),
    );
    let mut properties = vec![
        ("process.roles", "broker,controller"),
        ("node.id", "1"),
        ("controller.quorum.voters", &voters),
        ("listeners", &listeners),
        ("advertised.listeners", &advertised),
        ("controller.listener.names", "CONTROLLER"),
        ("inter.broker.listener.name", "PLAINTEXT"),
        ("listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT"),
        ("log.dirs", &data),
        ("num.partitions", "4"),
        ("offsets.topic.replication.factor", "1"),
        ("offsets.topic.num.partitions", "4"),
        ("group.initial.rebalance.delay.ms", "0"),
        ("transaction.state.log.replication.factor", "1"),
        ("transaction.state.log.min.isr", "1"),
        ("transaction.state.log.num.partitions", "4"),
        ("share.coordinator.state.topic.replication.factor", "1"),
        ("share.coordinator.state.topic.min.isr", "1"),
        ("log.segment.bytes", "67108864"),
        ("log.cleaner.dedupe.buffer.size", "8388608"),
        // A start after kill -9 takes 4 s instead of 12: the dead broker is given up early.
        ("broker.session.timeout.ms", "1500"),
        ("broker.heartbeat.interval.ms", "300"),
        ("controller.quorum.election.timeout.ms", "500"),
        ("controller.quorum.fetch.timeout.ms", "1000"),
    ];
    properties.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    let mut text = String::new();
    for (name, value) in properties.iter().chain(more) {
        let _ = writeln!(text, "{name}={value}");
    }
    text
}
