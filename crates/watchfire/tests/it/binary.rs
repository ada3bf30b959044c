//! The real binary.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::mqtt::Client;
use crate::receiver::Receiver;
use crate::{PATIENCE, call, hot, rules, wait_for};

const BINARY: &str = env!("CARGO_BIN_EXE_watchfire");

/// A command without the environment of whoever runs the tests.
pub fn watchfire() -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars() {
        if name.starts_with("WATCHFIRE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

pub(crate) struct Engine {
    child: Child,
    pub(crate) http: SocketAddr,
    pub(crate) mqtt: SocketAddr,
}

impl Engine {
    pub(crate) async fn start(config: &Path) -> Self {
        let mut command: tokio::process::Command = watchfire().into();
        command.args(["serve", "--config"]).arg(config).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        let found = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let value: Value = serde_json::from_str(&line).unwrap_or_default();
                if value["message"] == "watchfire runs" {
                    return Some(value);
                }
                seen.push(line);
            }
            None
        });
        let Ok(Some(runs)) = found.await else { panic!("the engine does not run:\n{}", seen.join("\n")) };
        // Nobody reads on: what is logged later must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let http = runs["http"].as_str().unwrap().parse().unwrap();
        let mqtt = runs["mqtt"].as_str().unwrap();
        let mqtt = mqtt.trim_start_matches("Some(").trim_end_matches(')').parse().unwrap();
        Self { child, http, mqtt }
    }

    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) async fn terminate(mut self) -> std::process::ExitStatus {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("an end").unwrap()
    }
}

#[tokio::test]
async fn modules_are_compiled_in_a_process_of_their_own() {
    // What that process does.
    let compile = |module: Vec<u8>| {
        let mut child = watchfire()
            .args(["compile-module", "plain"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), &module).unwrap();
        child.wait_with_output().unwrap()
    };
    let module = std::fs::read(rules().join("threshold.wasm")).unwrap();
    let compiled = compile(module.clone());
    assert!(compiled.status.success() && compiled.stdout.len() > module.len(), "{:?}", compiled.status);
    let refused = compile(b"no module".to_vec());
    assert_eq!(refused.status.code(), Some(1));
    assert!(!refused.stdout.is_empty(), "it says why");

    // An engine asks it for each of the rules that it finds at its first start.
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), ([127, 0, 0, 1], 9).into());
    let mut command: tokio::process::Command = watchfire().into();
    command.args(["serve", "--config"]).arg(config).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut apart = Vec::new();
    let started = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let value: Value = serde_json::from_str(&line).unwrap_or_default();
            match value["message"].as_str() {
                Some("compiled") => apart.push(value["apart"].clone()),
                Some("watchfire runs") => break,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, started).await.unwrap();
    assert!(!apart.is_empty() && apart.iter().all(|apart| *apart == true), "{apart:?}");
}

pub(crate) fn write_config(folder: &Path, hook: SocketAddr) -> std::path::PathBuf {
    let path = folder.join("watchfire.toml");
    let text = format!(
        "data = {:?}\nrules = {:?}\n[telemetry]\nformat = \"json\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
         [mqtt]\nlisten = \"127.0.0.1:0\"\n[[receiver]]\nname = \"hook\"\nretry_initial = \"50ms\"\n\
         retry_max = \"200ms\"\nwebhook = {{ url = \"http://{hook}/hook\" }}\n",
        folder.join("data"),
        rules()
    );
    std::fs::write(&path, text).unwrap();
    path
}

pub(crate) fn dump(data: &Path) -> Vec<Value> {
    let output = watchfire().args(["log", "dump", "--data"]).arg(data).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_it_loses_nothing_and_tells_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (receiver, hook) = Receiver::start().await;
    let config = write_config(folder.path(), hook);
    receiver.broken.store(true, Ordering::Relaxed);
    let engine = Engine::start(&config).await;
    call(engine.http, "PUT", "/rules/hot?wait=true", Some(hot())).await;
    let mut engine = Some(engine);
    let mut acknowledged = Vec::new();
    for life in 0..3 {
        let running = match engine.take() {
            Some(engine) => engine,
            None => Engine::start(&config).await,
        };
        let mut client = Client::connect(running.mqtt, &format!("life-{life}"), None).await.unwrap();
        for reading in 0..20 {
            // Each value is different, so that each is found again.
            let value = f64::from(life * 100 + reading) / 1000.0 + 90.0;
            assert!(client.temperature(&format!("press-{life}"), value).await);
            acknowledged.push(value);
        }
        running.kill().await;
    }
    // The receiver was down for three lives of the engine. Now it hears of each alert, once.
    receiver.broken.store(false, Ordering::Relaxed);
    let engine = Engine::start(&config).await;
    let alerts = wait_for("three alerts", async || {
        let alerts = call(engine.http, "GET", "/alerts", None).await["items"].as_array().cloned().unwrap();
        (alerts.len() >= 3).then_some(alerts)
    });
    assert_eq!(alerts.await.len(), 3);
    wait_for("three deliveries", async || (receiver.told().len() >= 3).then_some(())).await;
    let mut told = receiver.told();
    told.sort();
    let expected: Vec<_> = (0..3).map(|life| ("firing".to_string(), format!("press-{life}"))).collect();
    assert_eq!(told, expected);

    let status = engine.terminate().await;
    assert!(status.success(), "{status}");
    // Values are compared as numbers: as texts, one is found within another (90 in 90.001).
    let entries = dump(&data);
    let rows = entries.iter().filter_map(|entry| entry["rows"].as_array()).flatten();
    let mut logged: Vec<f64> = rows.filter_map(|row| row["metrics"]["temperature"].as_f64()).collect();
    logged.sort_by(f64::total_cmp);
    acknowledged.sort_by(f64::total_cmp);
    assert_eq!(logged, acknowledged);
    let verified = watchfire().args(["log", "verify", "--data"]).arg(&data).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_belongs_to_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let (_receiver, hook) = Receiver::start().await;
    let config = write_config(folder.path(), hook);
    let engine = Engine::start(&config).await;
    let second = watchfire().args(["serve", "--config"]).arg(&config).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("in use by another process"), "{said}");
    assert!(engine.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_taken_while_running_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (_receiver, hook) = Receiver::start().await;
    let config = write_config(folder.path(), hook);
    let engine = Engine::start(&config).await;
    call(engine.http, "PUT", "/rules/hot?wait=true", Some(hot())).await;
    let mut client = Client::connect(engine.mqtt, "press-1", None).await.unwrap();
    assert!(client.temperature("press-1", 95.0).await);
    wait_for("the alert", async || {
        let alerts = call(engine.http, "GET", "/alerts?state=active", None).await;
        (alerts["items"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    let archive = folder.path().join("backup.tar");
    let server = format!("http://{}", engine.http);
    let taken = watchfire().args(["backup", "--server", &server]).arg(&archive).output().unwrap();
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    engine.kill().await;

    std::fs::remove_dir_all(folder.path().join("data")).unwrap();
    let restored = watchfire()
        .arg("restore")
        .arg(&archive)
        .arg("--data")
        .arg(folder.path().join("data"))
        .output()
        .unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let engine = Engine::start(&config).await;
    let alerts = call(engine.http, "GET", "/alerts", None).await;
    assert_eq!(alerts["items"].as_array().unwrap().len(), 1, "{alerts}");
    // The rule runs, and knows that the condition stands.
    let mut client = Client::connect(engine.mqtt, "press-1", None).await.unwrap();
    assert!(client.temperature("press-1", 20.0).await);
    wait_for("the end of the alert", async || {
        let alerts = call(engine.http, "GET", "/alerts?state=active", None).await;
        alerts["items"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    assert!(engine.terminate().await.success());
}
