//! karma, a dashboard for Alertmanagers, where the system has it: no registry has it as a package. It is one program, which
//! its project builds for every release, or `go build ./cmd/karma` in its sources.

use std::process::Command;

use crate::process::{Process, free_port, on_path};
use crate::{Failure, wire};

/// A karma.
pub struct Karma {
    process: Process,
    port: u16,
}

impl Karma {
    /// One with this configuration (YAML), which says nothing of where it listens.
    pub fn start(configuration: &str) -> Result<Self, Failure> {
        let program = on_path("karma").ok_or_else(|| {
            Failure::Missing("there is no karma: put the program of one of its releases into the path".into())
        })?;
        let mut process = Process::new("karma")?;
        let port = free_port()?;
        let file = process.folder().join("karma.yaml");
        std::fs::write(&file, configuration).map_err(|error| Failure::broken("karma", error))?;
        let command = move || {
            let mut command = Command::new(&program);
            command.arg(format!("--config.file={}", file.display()));
            command.arg("--listen.address=127.0.0.1").arg(format!("--listen.port={port}"));
            command
        };
        process.run(command, move || wire::http_ok(port, "/health"))?;
        Ok(Self { process, port })
    }

    /// The address, as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The end of what it printed.
    pub fn said(&self) -> String {
        self.process.said()
    }
}
