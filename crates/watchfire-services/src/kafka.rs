//! Apache Kafka as one node that is broker and controller (KRaft).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::process::{Process, free_port, on_path};
use crate::{Failure, cache, provide, wire};

/// Sixteen bytes in base64, as Kafka names a cluster.
const CLUSTER: &str = "d2F0Y2hmaXJlLXRlc3RzMQ";

/// Mechanisms whose passwords stand in the data and not in the configuration.
const SCRAM: [&str; 2] = ["SCRAM-SHA-256", "SCRAM-SHA-512"];

/// The file, in the folder of a broker, of its key and certificates.
const KEYSTORE: &str = "broker.pem";

/// A broker. It takes some seconds to start and some 200 MB: tests of one binary share one.
pub struct Kafka {
    process: Process,
    port: u16,
    secured: Option<u16>,
}

/// A listener with TLS and logins, beside the plain one: SASL_SSL with PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
#[derive(Clone, Copy, Debug)]
pub struct Secured<'a> {
    /// The broker's certificate for 127.0.0.1, and who signed it, as PEM.
    pub certificates: &'a str,
    /// Its key, as PEM (PKCS #8).
    pub key: &'a str,
    /// Who may log in, and with which password. Letters and digits: they stand in a line of the configuration.
    pub users: &'a [(&'a str, &'a str)],
}

impl Kafka {
    /// Starts one.
    pub fn start() -> Result<Self, Failure> {
        Self::start_with(&[])
    }

    /// As [`Kafka::start`], with these properties in addition to, or instead of, the ones that are set here.
    pub fn start_with(properties: &[(&str, &str)]) -> Result<Self, Failure> {
        Self::start_as(properties, None)
    }

    /// Starts one that has a listener with TLS and logins too, see [`Kafka::secured`].
    pub fn start_secured(secured: Secured<'_>) -> Result<Self, Failure> {
        Self::start_as(&[], Some(secured))
    }

    fn start_as(properties: &[(&str, &str)], secured: Option<Secured<'_>>) -> Result<Self, Failure> {
        let (java, home, sharing) = tools()?;
        let (process, port, secured) = broker(java, home, sharing.clone(), sharing, properties, secured)?;
        Ok(Self { process, port, secured })
    }

    /// What clients take as `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// As [`Kafka::bootstrap`], of the listener with TLS and logins.
    ///
    /// # Panics
    /// Where it was started without.
    pub fn secured(&self) -> String {
        format!("127.0.0.1:{}", self.secured.expect("it was started with a secured listener"))
    }

    /// Gives a user another password for SCRAM-SHA-512, and for nothing else: a change takes seconds. Connections that are
    /// there stay.
    pub fn set_password(&self, user: &str, password: &str) -> Result<(), Failure> {
        let (java, home, sharing) = tools()?;
        let mut command = command(&java, &home, &sharing, "kafka.admin.ConfigCommand");
        command.args(["--bootstrap-server", &self.bootstrap(), "--alter", "--entity-type", "users"]);
        command.args(["--entity-name", user, "--add-config"]);
        finish(command.arg(format!("SCRAM-SHA-512=[password={password}]")))
    }

    /// Gives the listener with TLS another certificate and key, from the next start on.
    pub fn set_certificate(&self, certificates: &str, key: &str) -> Result<(), Failure> {
        std::fs::write(self.process.folder().join(KEYSTORE), format!("{key}{certificates}"))
            .map_err(|error| Failure::broken("kafka", error))
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
        let (mut process, ..) = broker(java, home.to_owned(), Vec::new(), archiving, &[], None)?;
        process.stop(Signal::TERM);
        std::fs::rename(made, home.join("kafka.jsa"))
            .map_err(|error| Failure::broken("the archive of Kafka's classes", error))
    }
}

/// Java, where Kafka lies, and the options that make it start faster.
fn tools() -> Result<(PathBuf, PathBuf, Vec<String>), Failure> {
    let home = provide::kafka(&cache());
    if !home.join("lib").is_dir() {
        return Err(Failure::Missing(
            "there is no Kafka: `cargo xtask services` brings it (needs Java 17 and Maven)".into(),
        ));
    }
    let java = on_path("java").ok_or_else(|| Failure::Missing("there is no Java: install a JRE".into()))?;
    let archive = home.join("kafka.jsa");
    let sharing = match archive.is_file() {
        true => vec![format!("-XX:SharedArchiveFile={}", archive.display())],
        false => Vec::new(),
    };
    Ok((java, home, sharing))
}

/// Formats a folder and serves it: with these options of the runtime for the one and for the other. Gives the ports too.
fn broker(
    java: PathBuf,
    home: PathBuf,
    formatting: Vec<String>,
    serving: Vec<String>,
    properties: &[(&str, &str)],
    secured: Option<Secured<'_>>,
) -> Result<(Process, u16, Option<u16>), Failure> {
    let broken = |error: std::io::Error| Failure::broken("kafka", error);
    let mut process = Process::new("kafka")?;
    let (port, controller) = (free_port()?, free_port()?);
    let file = process.folder().join("server.properties");
    let secured_port = secured.map(|_| free_port()).transpose()?;
    let mut text = server_properties(process.folder(), [port, controller], secured_port, properties);
    let mut passwords = Vec::new();
    if let Some(secured) = secured {
        let keystore = process.folder().join(KEYSTORE);
        std::fs::write(&keystore, format!("{}{}", secured.key, secured.certificates)).map_err(broken)?;
        text += &secured_properties(&keystore, secured.users);
        for ((user, password), mechanism) in
            secured.users.iter().flat_map(|user| SCRAM.map(|mechanism| (user, mechanism)))
        {
            passwords.push("--add-scram".to_string());
            passwords.push(format!("{mechanism}=[name={user},password={password}]"));
        }
    }
    std::fs::write(&file, text).map_err(broken)?;
    let format = {
        let (java, home, file) = (java.clone(), home.clone(), file.clone());
        move || {
            let mut command = command(&java, &home, &formatting, "kafka.tools.StorageTool");
            command.args(["format", "-t", CLUSTER, "-c"]).arg(&file).args(&passwords);
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
    Ok((process, port, secured_port))
}

/// Runs a tool of Kafka to its end.
fn finish(command: &mut Command) -> Result<(), Failure> {
    let output = command.output().map_err(|error| Failure::broken("kafka", error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Err(Failure::Broken(format!("a tool of Kafka: {}\n{said}", output.status)))
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

fn server_properties(
    folder: &Path,
    [port, controller]: [u16; 2],
    secured: Option<u16>,
    more: &[(&str, &str)],
) -> String {
    let data = folder.join("data").display().to_string();
    let voters = format!("1@127.0.0.1:{controller}");
    let mut advertised = format!("PLAINTEXT://127.0.0.1:{port}");
    if let Some(secured) = secured {
        advertised += &format!(",SECURED://127.0.0.1:{secured}");
    }
    let listeners = format!("{advertised},CONTROLLER://127.0.0.1:{controller}");
    let mut properties = vec![
        ("process.roles", "broker,controller"),
        ("node.id", "1"),
        ("controller.quorum.voters", &voters),
        ("listeners", &listeners),
        ("advertised.listeners", &advertised),
        ("controller.listener.names", "CONTROLLER"),
        ("inter.broker.listener.name", "PLAINTEXT"),
        ("listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURED:SASL_SSL"),
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
        // A start after kill -9 takes some 6 s instead of 12: the dead broker is given up early. Not earlier: on a machine
        // that is busy it would be given up while it lives, and its transactions would not be ended.
        ("broker.session.timeout.ms", "4000"),
        ("broker.heartbeat.interval.ms", "500"),
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

/// What the listener with TLS and logins needs. Names of listeners are in lower case here.
fn secured_properties(keystore: &Path, users: &[(&str, &str)]) -> String {
    let module = "org.apache.kafka.common.security";
    let plain: String = users.iter().map(|(user, password)| format!(" user_{user}=\"{password}\"")).collect();
    let mut text = format!(
        "listener.name.secured.ssl.keystore.type=PEM\n\
         listener.name.secured.ssl.keystore.location={}\n\
         listener.name.secured.sasl.enabled.mechanisms=PLAIN,{}\n\
         listener.name.secured.plain.sasl.jaas.config={module}.plain.PlainLoginModule required{plain};\n",
        keystore.display(),
        SCRAM.join(","),
    );
    for mechanism in SCRAM {
        let _ = writeln!(
            text,
            "listener.name.secured.{}.sasl.jaas.config={module}.scram.ScramLoginModule required;",
            mechanism.to_lowercase()
        );
    }
    text
}
