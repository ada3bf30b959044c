//! A backup of a server whose log does not reach back to its beginning any more.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use watchfire::config::Config;
use watchfire::serve::Server;
use watchfire_log::{Clock, ScaledClock, SystemClock};

use crate::binary::watchfire;
use crate::mqtt::Client;
use crate::receiver::Receiver;
use crate::{call, hot, rules, wait_for};

/// Small segments that may go as soon as nobody needs them.
fn config(data: &Path, hook: SocketAddr, reserve: u64) -> Config {
    let text = format!(
        "data = {data:?}\nrules = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n[mqtt]\nlisten = \"127.0.0.1:0\"\n\
         [log]\nsegment_bytes = 1048576\nretain_for = \"0s\"\npartitions = 2\nreserve_bytes = {reserve}\n\
         [[receiver]]\nname = \"hook\"\nretry_initial = \"50ms\"\nwebhook = {{ url = \"http://{hook}/hook\" }}\n",
        rules()
    );
    Config::read(&text, "test", []).unwrap()
}

/// The minute that a log keeps everything for after it was opened passes in a moment.
fn clock() -> Arc<dyn Clock> {
    Arc::new(ScaledClock::new(SystemClock.wall(), 300.0))
}

fn segments(data: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data.join("log")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !matches!(name.as_str(), "FORMAT" | "LOCK") && !name.ends_with(".new"));
    names.sort();
    names
}

async fn fill(http: SocketAddr) {
    let client = reqwest::Client::new();
    for upload in 0..10 {
        let reading = |row: u32| {
            let texts = (0..10)
                .map(|i| (format!("text{i}"), json!(format!("{upload}-{row}-{i}-{}", "x".repeat(190)))));
            let metrics: serde_json::Map<String, Value> = texts.collect();
            json!({"device": format!("filler-{}", row % 7), "metrics": metrics}).to_string()
        };
        let body: Vec<String> = (0..150).map(reading).collect();
        let answer = client.post(format!("http://{http}/ingest/v1/telemetry")).body(body.join("\n"));
        let answer = answer.header("content-type", "application/x-ndjson").send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }
}

async fn active(http: SocketAddr) -> Vec<(String, String)> {
    let alerts = call(http, "GET", "/alerts?state=active", None).await;
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let mut found: Vec<_> =
        alerts["items"].as_array().unwrap().iter().map(|a| (text(&a["device"]), text(&a["id"]))).collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_after_retention_is_restored_and_goes_on() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (_receiver, hook) = Receiver::start().await;
    let configured = config(&data, hook, 1 << 20);
    let server = Server::start(configured.clone(), clock()).await.unwrap();
    let (http, mqtt) = (server.addresses.http, server.addresses.mqtt.unwrap());
    call(http, "PUT", "/rules/hot?wait=true", Some(hot())).await;
    let mut client = Client::connect(mqtt, "a", None).await.unwrap();
    assert!(client.temperature("press-1", 95.0).await);
    wait_for("the first alert", async || (active(http).await.len() == 1).then_some(())).await;
    let first = segments(&data).remove(0);
    fill(http).await;
    server.stop().await.unwrap();

    // With the checkpoints of that end nobody needs the beginning of the log.
    let server = Server::start(configured, clock()).await.unwrap();
    let (http, mqtt) = (server.addresses.http, server.addresses.mqtt.unwrap());
    wait_for("retention", async || (!segments(&data).contains(&first)).then_some(())).await;
    // Behind the checkpoint: the restore has to replay this.
    let mut client = Client::connect(mqtt, "b", None).await.unwrap();
    assert!(client.temperature("press-2", 96.0).await);
    wait_for("the second alert", async || (active(http).await.len() == 2).then_some(())).await;
    let before = active(http).await;
    let archive = folder.path().join("backup.tar");
    let taken =
        watchfire().args(["backup", "--server", &format!("http://{http}")]).arg(&archive).output().unwrap();
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    // What happens later is not part of it.
    assert!(client.temperature("press-3", 97.0).await);
    wait_for("the third alert", async || (active(http).await.len() == 3).then_some(())).await;
    let epoch = call(http, "GET", "/status", None).await["epoch"].as_u64().unwrap();
    server.stop().await.unwrap();

    let data = folder.path().join("restored");
    let mut restore = watchfire();
    restore.arg("restore").arg(&archive).arg("--data").arg(&data).arg("--json");
    let restored = restore.output().unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let said: Value = serde_json::from_slice(&restored.stdout).unwrap();
    assert!(said["files"].as_u64().unwrap() >= 5, "{said}");
    let configured = config(&data, hook, 1 << 20);
    for life in 1..3 {
        let server = Server::start(configured.clone(), clock()).await.unwrap();
        let (http, mqtt) = (server.addresses.http, server.addresses.mqtt.unwrap());
        server.engine().wait_level().await.unwrap();
        assert_eq!(call(http, "GET", "/status", None).await["epoch"].as_u64().unwrap(), epoch + 1);
        if life == 1 {
            assert_eq!(active(http).await, before, "the same alerts with the same ids");
        }
        // The rule knows that the conditions stand: one ends, another begins.
        let mut client = Client::connect(mqtt, "c", None).await.unwrap();
        assert!(client.temperature(&format!("press-{life}"), 20.0).await);
        assert!(client.temperature(&format!("press-{}", life + 3), 98.0).await);
        let expected: Vec<String> = match life {
            1 => vec!["press-2".into(), "press-4".into()],
            _ => vec!["press-4".into(), "press-5".into()],
        };
        wait_for("the alerts to go on", async || {
            let now: Vec<String> = active(http).await.into_iter().map(|(device, _)| device).collect();
            (now == expected).then_some(())
        })
        .await;
        server.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_leaves_the_reserve_of_the_disk_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (_receiver, hook) = Receiver::start().await;
    // A reserve that no disk has: intake stands still, and a copy would make that worse.
    let configured = config(&folder.path().join("data"), hook, 1 << 60);
    let server = Server::start(configured, Arc::new(SystemClock)).await.unwrap();
    let archive = folder.path().join("backup.tar");
    let address = format!("http://{}", server.addresses.http);
    let refused = watchfire().args(["backup", "--server", &address]).arg(&archive).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("are kept for alerts and checkpoints"), "{said}");
    assert!(!archive.exists());
    server.stop().await.unwrap();
}
