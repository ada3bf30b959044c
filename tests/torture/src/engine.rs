//! The engine under test: the real binary, started, killed, and spoken to over its API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// Where the engine listens: the same over all its lives.
#[derive(Clone, Copy)]
pub struct Addresses {
    /// API and telemetry.
    pub http: SocketAddr,
    /// MQTT.
    pub mqtt: SocketAddr,
}

/// The binary with its configuration and data folder.
pub struct Engine {
    binary: PathBuf,
    config: PathBuf,
    data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    http: reqwest::Client,
    /// Where it listens.
    pub addresses: Addresses,
}

impl Engine {
    /// Writes a configuration that delivers to `hook`; does not start yet.
    pub fn new(binary: &Path, folder: &Path, hook: SocketAddr) -> Result<Self> {
        let addresses = Addresses { http: free_port()?, mqtt: free_port()? };
        let config = folder.join("watchfire.toml");
        let data = folder.join("data");
        std::fs::write(&config, crate::config::text(&data, &addresses, hook))?;
        Ok(Self {
            binary: binary.into(),
            config,
            data,
            log: folder.join("engine.log"),
            child: None,
            http: crate::client(),
            addresses,
        })
    }

    /// Starts the engine and waits until it is ready; gives how long that took.
    pub async fn start(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.binary)
            .args(["serve", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        let child = self.child.insert(child);
        while began.elapsed() < Duration::from_secs(60) {
            if let Some(status) = child.try_wait()? {
                bail!("the engine ended with {status}: see {}", self.log.display());
            }
            let url = format!("http://{}/-/ready", self.addresses.http);
            let answer = self.http.get(url).timeout(Duration::from_secs(1)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(began.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("the engine was not ready within a minute: see {}", self.log.display())
    }

    /// Ends the engine without a warning.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks the engine to end, and waits until it did.
    pub async fn terminate(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let killed = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status()?;
        anyhow::ensure!(killed.success(), "kill -TERM failed");
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                anyhow::ensure!(status.success(), "the engine ended with {status} on SIGTERM");
                return Ok(());
            }
            anyhow::ensure!(began.elapsed() < Duration::from_secs(30), "the engine did not end on SIGTERM");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Calls the API; an answer that is no success is an error with its text.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        let url = format!("http://{}/api/v1{path}", self.addresses.http);
        let mut request = self.http.request(method.parse()?, &url).timeout(Duration::from_secs(20));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        anyhow::ensure!(status.is_success(), "{method} {path}: {status}: {text}");
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }

    /// Deploys a threshold rule on `temperature`.
    pub async fn deploy(&self, rule: &str, high: f64) -> Result<()> {
        let body = json!({
            "module": "threshold",
            "parameters": {"limits": [{"metric": "temperature", "high": high, "deadband": 10.0, "severity": "major"}]},
        });
        self.call("PUT", &format!("/rules/{rule}?wait=true"), Some(body)).await.map(drop)
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
        let output = Command::new(&self.binary).args(arguments).arg("--data").arg(&self.data).output()?;
        if !output.status.success() {
            bail!("{arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A port that is free now. Another process may take it before the engine does; then the start fails and says so.
fn free_port() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
