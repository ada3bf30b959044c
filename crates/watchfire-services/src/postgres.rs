//! PostgreSQL, the newest that is installed.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Signal, geteuid};

use crate::process::{Process, free_port, on_path};
use crate::{Failure, wire};

/// The user that Debian's packages make: PostgreSQL refuses to run as root.
const USER: &str = "postgres";

/// A PostgreSQL server that trusts everybody on the loopback address.
pub struct Postgres {
    process: Process,
    port: u16,
}

/// Where the newest version lies.
pub fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, folder)| folder.join("postgres").is_file() && folder.join("initdb").is_file())
        .max();
    let on_path = || Some(on_path("initdb")?.parent()?.to_owned());
    newest.map(|(_, folder)| folder).or_else(on_path).filter(|folder| folder.join("postgres").is_file())
}

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
        let programs = programs().ok_or_else(|| {
            Failure::Missing("there is no PostgreSQL: install the package postgresql".into())
        })?;
        let user = other_user()?;
        let mut process = Process::new("postgres")?;
        let folder = process.folder().to_owned();
        if let Some((user, group)) = user {
            std::os::unix::fs::chown(&folder, Some(user), Some(group))
                .map_err(|error| Failure::broken("postgres", error))?;
        }
        let at = folder.clone();
        let program = move |name: &str| {
            let program = programs.join(name);
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
        Ok(Self { process, port })
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{USER}", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
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
