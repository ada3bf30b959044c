//! Prometheus, as the system has it: it evaluates rules and sends alerts.

use std::process::Command;

use rustix::process::Signal;

use crate::process::{Process, free_port, on_path};
use crate::{Failure, wire};

/// A Prometheus that evaluates rules.
pub struct Prometheus {
    process: Process,
    port: u16,
}

impl Prometheus {
    /// One with this configuration and this file of rules, `rules.yml` beside it (both YAML).
    pub fn start(configuration: &str, rules: &str) -> Result<Self, Failure> {
        let program = on_path("prometheus").ok_or_else(|| {
            Failure::Missing("there is no Prometheus: install the package prometheus".into())
        })?;
        let mut process = Process::new("prometheus")?;
        let port = free_port()?;
        let folder = process.folder().to_owned();
        for (name, text) in [("prometheus.yml", configuration), ("rules.yml", rules)] {
            std::fs::write(folder.join(name), text).map_err(|error| Failure::broken("prometheus", error))?;
        }
        let command = move || {
            let mut command = Command::new(&program);
            command.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
            command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
            command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
            // It finds its Alertmanagers only some seconds after it has begun to evaluate.
            command.arg("--rules.alert.resend-delay=1s");
            command
        };
        process.run(command, move || wire::http_ok(port, "/-/ready"))?;
        Ok(Self { process, port })
    }

    /// The address, as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Stops it as an operator does.
    pub fn stop(&mut self) {
        self.process.stop(Signal::TERM);
    }

    /// The end of what it printed.
    pub fn said(&self) -> String {
        self.process.said()
    }
}
