//! The engine under test: the real binary, started, killed, and spoken to over its API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

/// The limit of the rule that never changes.
pub const MAIN_LIMIT: f64 = 100.0;
/// Of both rules.
pub const DEADBAND: f64 = 10.0;

/// Where the engine listens: the same over all its lives.
#[derive(Clone, Copy)]
pub struct Addresses {
    /// API and telemetry.
    pub http: SocketAddr,
    /// MQTT.
    pub mqtt: SocketAddr,
}

/// The API of the engine, whichever of its lives it is in.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    address: SocketAddr,
}

/// The binary with its configuration and data folder.
pub struct Engine {
    binary: PathBuf,
    config: PathBuf,
    data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Its API.
    pub api: Api,
    /// Where it listens.
    pub addresses: Addresses,
}

impl Engine {
    /// Writes a configuration that delivers to `hook`, with these sinks; does not start yet.
    pub fn new(binary: &Path, rules: &Path, folder: &Path, hook: SocketAddr, sinks: &str) -> Result<Self> {
        let addresses = Addresses { http: crate::ports::free()?, mqtt: crate::ports::free()? };
        let config = folder.join("watchfire.toml");
        let data = folder.join("data");
        std::fs::write(&config, crate::config::text(&data, rules, &addresses, hook, sinks))?;
        Ok(Self {
            binary: binary.into(),
            config,
            data,
            log: folder.join("engine.log"),
            child: None,
            api: Api { http: reqwest::Client::new(), address: addresses.http },
            addresses,
        })
    }

    /// Starts the engine and waits for nothing.
    pub fn launch(&mut self) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--config"]).arg(&self.config);
        self.clean(&mut command).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Starts the engine and waits until it is ready; gives how long that took.
    pub async fn start(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.launch()?;
        let child = self.child.as_mut().context("launched above")?;
        while began.elapsed() < Duration::from_secs(60) {
            if let Some(status) = child.try_wait()? {
                bail!("the engine ended with {status}: see {}", self.log.display());
            }
            let url = format!("http://{}/-/ready", self.addresses.http);
            let answer = self.api.http.get(url).timeout(Duration::from_secs(1)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(began.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("the engine was not ready within a minute: see {}", self.log.display())
    }

    /// Ends the engine without a warning. It must have lived until then.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            if let Some(status) = child.try_wait()? {
                bail!("the engine ended by itself with {status}: see {}", self.log.display());
            }
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks the engine to end, and waits until it did, or kills it after `patience`; says whether it ended.
    pub async fn terminate(&mut self, patience: Duration) -> Result<bool> {
        let Some(mut child) = self.child.take() else { return Ok(true) };
        let asked = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status()?;
        ensure!(asked.success(), "kill -TERM failed");
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "the engine ended with {status} on SIGTERM");
                return Ok(true);
            }
            if began.elapsed() > patience {
                child.kill()?;
                child.wait()?;
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Its memory in megabytes and its open files.
    pub fn size(&self) -> Option<(u64, usize)> {
        let folder = PathBuf::from(format!("/proc/{}", self.child.as_ref()?.id()));
        let status = std::fs::read_to_string(folder.join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some((kilobytes / 1024, std::fs::read_dir(folder.join("fd")).ok()?.count()))
    }

    /// Everything in the log, as `log dump` prints it: a JSON object a line.
    pub fn dump_log(&self) -> Result<String> {
        self.offline(&["log", "dump"])
    }

    /// Checks every byte of the log.
    pub fn verify_log(&self) -> Result<String> {
        self.offline(&["log", "verify"])
    }

    fn offline(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--data").arg(&self.data);
        let output = self.clean(&mut command).output()?;
        if !output.status.success() {
            bail!("{arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Without what the environment of whoever runs this would change.
    fn clean<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WATCHFIRE_") {
                command.env_remove(name);
            }
        }
        command
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.take().map(|mut child| child.kill().and_then(|()| child.wait()));
    }
}

impl Api {
    /// Calls the API; gives status and answer. An error: there was no answer.
    pub async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value)> {
        let url = format!("http://{}/api/v1{path}", self.address);
        let mut request = self.http.request(method.parse()?, &url).timeout(Duration::from_secs(20));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status().as_u16(), answer.text().await?);
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// As [`Api::ask`]; an answer that is no success is an error.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        let (status, answer) = self.ask(method, path, body).await?;
        ensure!((200..300).contains(&status), "{method} {path}: {status}: {answer}");
        Ok(answer)
    }

    /// All items of a list.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.call("GET", &format!("{path}?limit=1000{cursor}"), None).await?;
            items.extend(page["items"].as_array().context("a page without items")?.iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }
}

/// A threshold rule on a metric, as it is deployed.
pub fn threshold(metric: &str, high: f64) -> Value {
    json!({
        "module": "threshold",
        "parameters": {"metric": metric, "high": high, "deadband": DEADBAND, "severity": "major"},
    })
}
