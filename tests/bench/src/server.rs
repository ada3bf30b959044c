//! The release binary as a child of its own: `watchfire serve` with its defaults, on free ports.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::event::{self, DEVICES};
use crate::{Options, disk};

/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rules that are deployed at the same time.
const DEPLOYS: usize = 8;

/// A rule: its name, its module, its parameters.
pub type Rule = (String, &'static str, Value);

/// A running engine; killed when it is dropped.
pub struct Server {
    child: Child,
    client: reqwest::Client,
    http: SocketAddr,
    /// Where devices connect.
    pub mqtt: SocketAddr,
    binary: PathBuf,
    /// What it is configured with, whatever else is.
    text: String,
    folder: TempDir,
}

impl Server {
    /// Starts it with its embedded defaults; alerts go to `hook`, if there is one.
    pub fn start(options: &Options, hook: Option<SocketAddr>) -> Result<Self> {
        Self::start_with(options, hook, "")
    }

    /// As [`Server::start`], with this configuration besides.
    pub fn start_with(options: &Options, hook: Option<SocketAddr>, configuration: &str) -> Result<Self> {
        let binary = options.binary.as_deref().context("the binary is wanted: --binary PATH")?;
        let folder = disk::folder()?;
        let mut text = format!(
            "data = {:?}\nrules = {:?}\n[telemetry]\nlevel = \"warn,watchfire=info\"\nformat = \"json\"\n\
             [http]\nlisten = \"127.0.0.1:0\"\n[mqtt]\nlisten = \"127.0.0.1:0\"\n\
             [engine]\nready_lag = 1\n[log]\nreserve_bytes = 0\n",
            folder.path().join("data"),
            options.rules()?
        );
        if let Some(hook) = hook {
            text.push_str(&format!(
                "[[receiver]]\nname = \"bench\"\nwebhook = {{ url = \"http://{hook}/alerts\" }}\n"
            ));
        }
        let (child, lines) = launch(binary, &folder, &format!("{text}{configuration}"))?;
        // From here on it ends with this value.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let binary = binary.to_owned();
        let mut server = Self { child, client, http: nowhere, mqtt: nowhere, binary, text, folder };
        (server.http, server.mqtt) = addresses(&lines)?;
        Ok(server)
    }

    /// Ends it as an operator does, and starts it with its data and another configuration besides.
    pub fn restart(&mut self, configuration: &str) -> Result<()> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        let text = format!("{}{configuration}", self.text);
        let (child, lines) = launch(&self.binary, &self.folder, &text)?;
        self.child = child;
        (self.http, self.mqtt) = addresses(&lines)?;
        Ok(())
    }

    /// The value of a metric, by its name and labels as they are written; 0 where there is none yet.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.client.get(format!("http://{}/metrics", self.http)).send().await?.text().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        Ok(value.unwrap_or(0.0))
    }

    /// Calls the API; an answer that is no success is an error with its text.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        call(&self.client, self.http, method, path, body.map(|body| body.to_string())).await
    }

    /// Uploads a component; gives its digest once it is compiled.
    pub async fn upload(&self, component: Vec<u8>) -> Result<String> {
        // Compiling yields to everything else that the machine does.
        let request = self.client.post(format!("http://{}/api/v1/modules", self.http)).timeout(10 * PATIENCE);
        let answer = request.header("content-type", "application/wasm").body(component).send().await?;
        let known = read(answer).await.context("POST /modules")?;
        Ok(known["digest"].as_str().context("a module has no digest")?.to_owned())
    }

    /// Registers the whole fleet.
    pub async fn register(&self) -> Result<()> {
        let lines: String =
            (0..DEVICES).map(|number| format!("{}\n", json!({"id": event::device(number)}))).collect();
        call(&self.client, self.http, "POST", "/devices:import", Some(lines)).await.map(drop)
    }

    /// Deploys rules; returns once every partition runs them.
    pub async fn deploy(&self, rules: Vec<Rule>) -> Result<()> {
        let mut deploying = JoinSet::new();
        for (name, module, parameters) in rules {
            if deploying.len() >= DEPLOYS
                && let Some(done) = deploying.join_next().await
            {
                done??;
            }
            let (client, http) = (self.client.clone(), self.http);
            deploying.spawn(async move {
                let body = json!({"module": module, "parameters": parameters}).to_string();
                let path = format!("/rules/{name}?wait=true");
                call(&client, http, "PUT", &path, Some(body)).await.map(drop)
            });
        }
        while let Some(done) = deploying.join_next().await {
            done??;
        }
        Ok(())
    }

    /// Waits until everything that was taken is evaluated.
    pub async fn level(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let answer = self.client.get(format!("http://{}/-/ready", self.http)).send().await?;
            if answer.status().is_success() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the engine is still behind after {PATIENCE:?}")
    }

    /// Bytes of memory that are resident.
    pub fn memory(&self) -> Result<u64> {
        memory_of(self.child.id(), "VmRSS:")
    }

    /// Which process it is.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its API is.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// CPU seconds so far.
    pub fn cpu(&self) -> Result<f64> {
        cpu_of(self.child.id())
    }
}

/// Bytes of memory of a process: resident ("VmRSS:"), or the most that ever was ("VmHWM:").
pub fn memory_of(process: u32, line: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|text| text.strip_prefix(line));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kilobytes.context("/proc does not say how much memory is resident")? * 1024)
}

/// CPU seconds of a process so far.
pub fn cpu_of(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which may hold anything, in parentheses: user and system time are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    let ticks = ticks(11).zip(ticks(12)).context("/proc does not say how much CPU was used")?;
    Ok((ticks.0 + ticks.1) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Starts a binary in its folder; gives what it says, line by line.
fn launch(binary: &Path, folder: &TempDir, configuration: &str) -> Result<(Child, Receiver<String>)> {
    let config = folder.path().join("watchfire.toml");
    std::fs::write(&config, configuration)?;
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WATCHFIRE_") {
            command.env_remove(name);
        }
    }
    let mut child = command
        .args(["serve", "--config"])
        .arg(&config)
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", binary.display()))?;
    let lines = child.stderr.take().map(follow).context("the engine has no standard error")?;
    Ok((child, lines))
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn call(
    client: &reqwest::Client,
    http: SocketAddr,
    method: &str,
    path: &str,
    body: Option<String>,
) -> Result<Value> {
    let mut request = client.request(method.parse()?, format!("http://{http}/api/v1{path}"));
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body);
    }
    read(request.send().await?).await.with_context(|| format!("{method} {path}"))
}

/// The JSON of an answer; one that is no success is an error with its text.
async fn read(answer: reqwest::Response) -> Result<Value> {
    let (status, text) = (answer.status(), answer.text().await?);
    if !status.is_success() {
        bail!("{status}: {text}");
    }
    Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
}

/// Its log, line by line; read to the end whether somebody listens or not, so that it never waits for us.
fn follow(stderr: ChildStderr) -> Receiver<String> {
    let (lines, followed) = sync_channel(256);
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let _ = lines.try_send(line);
        }
    });
    followed
}

fn addresses(lines: &Receiver<String>) -> Result<(SocketAddr, SocketAddr)> {
    let until = Instant::now() + PATIENCE;
    let mut said = Vec::new();
    while let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
        let value: Value = serde_json::from_str(&line).unwrap_or_default();
        if value["message"] == "watchfire runs" {
            let of = |name: &str| {
                let text = value[name].as_str().unwrap_or_default();
                let text = text.trim_start_matches("Some(").trim_end_matches(')');
                text.parse().with_context(|| format!("the address of {name}"))
            };
            return Ok((of("http")?, of("mqtt")?));
        }
        said.push(line);
    }
    Err(anyhow!("the engine does not run:\n{}", said.join("\n")))
}
