//! TimescaleDB inside a package: PGlite (PostgreSQL as WebAssembly) with the extension, served on a port. It is real, slow,
//! and takes one connection at a time; COPY FROM STDIN closes the connection. For the extension's schema, policies and
//! queries on every machine; COPY into hypertables is tested where [`crate::Postgres::start_with_timescale`] finds the
//! extension compiled for the machine.

use std::process::Command;

use rustix::process::Signal;

use crate::process::{Process, free_port, on_path};
use crate::{Failure, cache, provide, wire};

/// A server with the extension created in its only database.
pub struct Timescale {
    process: Process,
    port: u16,
}

impl Timescale {
    /// Starts one.
    pub fn start() -> Result<Self, Failure> {
        let script = provide::pglite(&cache()).join("serve.mjs");
        let node = on_path("node").filter(|_| script.is_file()).ok_or_else(|| {
            Failure::Missing(
                "there is no PGlite with TimescaleDB: `cargo xtask services` brings it (needs npm)".into(),
            )
        })?;
        let mut process = Process::new("timescale")?;
        let port = free_port()?;
        let data = process.folder().join("data");
        let command = move || {
            let mut command = Command::new(&node);
            command.arg(&script).arg(&data).arg(port.to_string());
            command
        };
        process.run(command, move || wire::postgres(port, "postgres", "postgres", "SELECT 1").is_ok())?;
        Ok(Self { process, port })
    }

    /// Where clients connect; TLS must be off.
    pub fn url(&self) -> String {
        format!("postgres://postgres:postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs statements; gives all rows as texts. No other connection may be open meanwhile.
    pub fn query(&self, sql: &str) -> std::io::Result<Vec<wire::Row>> {
        wire::postgres(self.port, "postgres", "postgres", sql)
    }

    /// As kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops it: the database is closed.
    pub fn stop(&mut self) {
        self.process.stop(Signal::TERM);
    }

    /// Starts it again on the same port with the same data.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.process.start()
    }

    /// The end of what it printed.
    pub fn said(&self) -> String {
        self.process.said()
    }
}
