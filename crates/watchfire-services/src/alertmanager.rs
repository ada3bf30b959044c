//! Alertmanager and amtool, built from their Go module.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::process::{Process, free_port};
use crate::{Failure, cache, provide, wire};

/// An Alertmanager by itself, without a cluster.
pub struct Alertmanager {
    process: Process,
    port: u16,
}

impl Alertmanager {
    /// One with this configuration (YAML).
    pub fn start(configuration: &str) -> Result<Self, Failure> {
        let program = program("alertmanager")?;
        let mut process = Process::new("alertmanager")?;
        let port = free_port()?;
        let folder = process.folder().to_owned();
        let file = folder.join("alertmanager.yml");
        std::fs::write(&file, configuration).map_err(|error| Failure::broken("alertmanager", error))?;
        let command = move || {
            let mut command = Command::new(&program);
            command.arg(format!("--config.file={}", file.display()));
            command.arg(format!("--storage.path={}", folder.join("data").display()));
            command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--cluster.listen-address=");
            command
        };
        process.run(command, move || wire::http_ok(port, "/-/ready"))?;
        Ok(Self { process, port })
    }

    /// The address, as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// As kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops it as an operator does.
    pub fn stop(&mut self) {
        self.process.stop(Signal::TERM);
    }

    /// Starts it again on the same port with what it kept.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.process.start()
    }

    /// The end of what it printed.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// Which process it is, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }
}

fn program(name: &str) -> Result<PathBuf, Failure> {
    let file = provide::alertmanager(&cache()).join(name);
    match file.is_file() {
        true => Ok(file),
        false => Err(Failure::Missing(format!(
            "there is no {name}: cargo xtask services builds it from its Go module where there is Go"
        ))),
    }
}

/// The program amtool.
pub fn amtool() -> Result<PathBuf, Failure> {
    program("amtool")
}

/// The published schema of the API, version 2 (OpenAPI 2.0, YAML), where the Go module keeps it.
pub fn alertmanager_schema() -> Result<PathBuf, Failure> {
    // Written when the programs were built: where the module lies only Go knows.
    let folder = program("module")?;
    let module = std::fs::read_to_string(folder).map_err(|error| Failure::broken("alertmanager", error))?;
    let file = Path::new(module.trim()).join("api/v2/openapi.yaml");
    match file.is_file() {
        true => Ok(file),
        false => Err(Failure::Missing(format!("{} is not there any more", file.display()))),
    }
}
