//! PostgreSQL, the newest that is installed, and the newest that has TimescaleDB compiled for it.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, geteuid};

use crate::process::{Process, free_port, on_path};
use crate::{Failure, wire};

/// The user that Debian's packages make: PostgreSQL refuses to run as root.
const USER: &str = "postgres";

/// What a server with the extension is started with: it works only where it is loaded from the start. It would otherwise
/// tell its maker that it runs.
const TIMESCALE: &[(&str, &str)] = &[
    ("shared_preload_libraries", "timescaledb"),
    ("timescaledb.telemetry_level", "off"),
    // All workers of a server are eight where nothing else is said.
    ("timescaledb.max_background_workers", "4"),
];

/// A PostgreSQL server that trusts everybody on the loopback address.
pub struct Postgres {
    process: Process,
    programs: PathBuf,
    port: u16,
    timescale: bool,
}

/// Where the newest version lies.
pub fn programs() -> Option<PathBuf> {
    versions().into_iter().next()
}

/// Where all versions lie, the newest first.
fn versions() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let on_path = on_path("initdb").and_then(|initdb| Some(initdb.parent()?.to_owned()));
    let folders = versions.into_iter().map(|(_, folder)| folder).chain(on_path);
    folders.filter(|folder| folder.join("postgres").is_file() && folder.join("initdb").is_file()).collect()
}

/// Where the extensions of the server with these programs are described.
fn extensions(programs: &Path) -> PathBuf {
    let asked = Command::new(programs.join("pg_config")).arg("--sharedir").output();
    let share = match asked {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().into(),
        _ => programs.with_file_name("share"),
    };
    share.join("extension")
}

/// Where the newest version lies that has TimescaleDB.
fn with_timescale() -> Result<PathBuf, Failure> {
    let mut looked = Vec::new();
    for programs in versions() {
        let extensions = extensions(&programs);
        if extensions.join("timescaledb.control").is_file() {
            return Ok(programs);
        }
        looked.push(extensions.display().to_string());
    }
    Err(Failure::Missing(match looked.is_empty() {
        true => NOT_THERE.into(),
        false => format!(
            "PostgreSQL is here without the extension TimescaleDB: there is no timescaledb.control in {}",
            looked.join(", ")
        ),
    }))
}

const NOT_THERE: &str = "there is no PostgreSQL: install the package postgresql";

/// User and group that a server run by root gets.
fn other_user() -> Result<Option<(u32, u32)>, Failure> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let id = |what: &str| {
        let output = Command::new("id").args([what, USER]).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    match (id("-u"), id("-g"), on_path("setpriv")) {
        (Some(user), Some(group), Some(_)) => Ok(Some((user, group))),
        _ => Err(Failure::Missing(format!(
            "PostgreSQL does not run as root, and there is no user {USER} or no setpriv to become it"
        ))),
    }
}

impl Postgres {
    /// Makes a database cluster and starts it.
    pub fn start() -> Result<Self, Failure> {
        Self::start_with(&[])
    }

    /// As [`Postgres::start`], with these settings, such as `("max_connections", "5")`.
    pub fn start_with(settings: &[(&str, &str)]) -> Result<Self, Failure> {
        let programs = programs().ok_or_else(|| Failure::Missing(NOT_THERE.into()))?;
        Self::start_of(programs, settings, false)
    }

    /// As [`Postgres::start_with`], of a version for which TimescaleDB is compiled, with the extension loaded. It is not
    /// yet created in the database. No package of Debian has it: those of its maker do.
    pub fn start_with_timescale(settings: &[(&str, &str)]) -> Result<Self, Failure> {
        // The last of one name counts.
        Self::start_of(with_timescale()?, &[TIMESCALE, settings].concat(), true)
    }

    fn start_of(programs: PathBuf, settings: &[(&str, &str)], timescale: bool) -> Result<Self, Failure> {
        let user = other_user()?;
        let mut process = Process::new("postgres")?;
        let folder = process.folder().to_owned();
        if let Some((user, group)) = user {
            std::os::unix::fs::chown(&folder, Some(user), Some(group))
                .map_err(|error| Failure::broken("postgres", error))?;
        }
        let (at, from) = (folder.clone(), programs.clone());
        let program = move |name: &str| {
            let program = from.join(name);
            let mut command = match user {
                None => Command::new(program),
                Some((user, group)) => {
                    let mut command = Command::new("setpriv");
                    command.args([format!("--reuid={user}"), format!("--regid={group}")]);
                    // It replaces itself by the program: the process is the server.
                    command.args(["--clear-groups", "--"]).arg(program);
                    command
                }
            };
            command.current_dir(&at);
            command
        };
        let data = folder.join("data");
        let initdb = {
            let (program, data) = (program.clone(), data.clone());
            move || {
                let mut command = program("initdb");
                command.arg("-D").arg(&data).args(["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"]);
                command.arg("--no-sync");
                command
            }
        };
        process.start_once(initdb)?;
        let port = free_port()?;
        let settings: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let command = move || {
            let mut command = program("postgres");
            command
                .arg("-D")
                .arg(&data)
                .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k"])
                .arg(&folder);
            settings.iter().for_each(|setting| {
                command.args(["-c", setting]);
            });
            command
        };
        process.run(command, move || wire::postgres(port, USER, USER, "SELECT 1").is_ok())?;
        Ok(Self { process, programs, port, timescale })
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{USER}", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it was started with TimescaleDB.
    pub fn has_timescale(&self) -> bool {
        self.timescale
    }

    /// `psql`, connected to it.
    pub fn psql(&self) -> Command {
        let mut command = Command::new(self.programs.join("psql"));
        command.arg(self.url()).env("PAGER", "");
        command
    }

    /// Runs statements; gives all rows as texts. For looking from beside the client that a test is about.
    pub fn query(&self, sql: &str) -> std::io::Result<Vec<wire::Row>> {
        wire::postgres(self.port, USER, USER, sql)
    }

    /// As kill -9 of the server and all its processes.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops it as an operator does: connections are closed, data is written.
    pub fn stop(&mut self) {
        self.process.stop(Signal::INT);
    }

    /// Starts it again on the same port with the same data.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.process.start()
    }

    /// Holds all of its processes where they are: a server that does not answer.
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
}
