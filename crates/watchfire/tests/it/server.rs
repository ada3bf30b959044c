//! The server in process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use watchfire::config::Config;
use watchfire::serve::Server;
use watchfire_log::SystemClock;

use crate::mqtt::Client;
use crate::receiver::Receiver;
use crate::{call, hot, rules, wait_for};

fn config(data: &Path, hook: SocketAddr, more: &str) -> Config {
    let text = format!(
        "data = {data:?}\nrules = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n[mqtt]\nlisten = \"127.0.0.1:0\"\n{more}\n\
         [[receiver]]\nname = \"hook\"\nretry_initial = \"50ms\"\nwebhook = {{ url = \"http://{hook}/hook\" }}\n",
        rules()
    );
    Config::read(&text, "test", []).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_reading_over_mqtt_to_a_webhook_and_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (receiver, hook) = Receiver::start().await;
    let config = config(&folder.path().join("data"), hook, "");
    let server = Server::start(config.clone(), Arc::new(SystemClock)).await.unwrap();
    let (http, mqtt) = (server.addresses.http, server.addresses.mqtt.unwrap());
    let names: Vec<_> = call(http, "GET", "/modules", None).await["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|module| module["name"].as_str().unwrap().to_string())
        .collect();
    assert!(names.len() >= 5 && names.iter().any(|name| name == "silence"), "{names:?}");
    call(http, "PUT", "/rules/hot?wait=true", Some(hot())).await;

    let mut client = Client::connect(mqtt, "press-1", None).await.unwrap();
    assert!(client.temperature("press-1", 75.0).await);
    assert!(client.temperature("press-1", 85.0).await);
    let firing = ("firing".to_string(), "press-1".to_string());
    wait_for("the alert at the receiver", async || receiver.told().contains(&firing).then_some(())).await;
    let health = wait_for("the cost of the rule", async || {
        let rule = call(http, "GET", "/rules/hot", None).await;
        (rule["health"]["rows"] == 2).then_some(rule)
    });
    assert_eq!(health.await["health"]["failures"], 0);
    let state = call(http, "GET", "/devices/press-1/state", None).await;
    assert!(state.to_string().contains("85"), "{state}");
    // Every step of the way is measured, and the whole.
    let metrics = reqwest::get(format!("http://{http}/metrics")).await.unwrap().text().await.unwrap();
    for step in [
        "decode_seconds_count",
        "ack_seconds_count",
        "log_sync_seconds_count",
        "append_to_evaluated_seconds_count",
        "alert_commit_seconds_count",
        "delivery_seconds_count{receiver=\"hook\"}",
        "reading_to_delivered_seconds_count{receiver=\"hook\"}",
    ] {
        let line = metrics.lines().find(|line| line.contains(step)).unwrap_or_else(|| panic!("no {step}"));
        assert!(!line.ends_with(" 0"), "{line}");
    }
    server.stop().await.unwrap();

    // The alert is active over the restart, is not told again, and ends with the next reading.
    let server = Server::start(config, Arc::new(SystemClock)).await.unwrap();
    let (http, mqtt) = (server.addresses.http, server.addresses.mqtt.unwrap());
    let active = call(http, "GET", "/alerts?state=active", None).await;
    assert_eq!(active["items"].as_array().unwrap().len(), 1, "{active}");
    let mut client = Client::connect(mqtt, "press-1", None).await.unwrap();
    assert!(client.temperature("press-1", 70.0).await);
    let resolved = ("resolved".to_string(), "press-1".to_string());
    wait_for("the resolve at the receiver", async || receiver.told().contains(&resolved).then_some(())).await;
    assert_eq!(receiver.told(), [firing, resolved]);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_found_again_and_can_be_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let (_receiver, hook) = Receiver::start().await;
    let config = config(&folder.path().join("data"), hook, "unknown_devices = \"quarantine\"");
    let server = Server::start(config, Arc::new(SystemClock)).await.unwrap();
    let (http, mqtt) = (server.addresses.http, server.addresses.mqtt.unwrap());
    let mut client = Client::connect(mqtt, "tester", None).await.unwrap();
    assert!(client.publish("devices/press-9/telemetry", "no json").await);
    assert!(client.temperature("press-9", 50.0).await);
    let letters = wait_for("two dead letters", async || {
        let letters = call(http, "GET", "/dead-letters", None).await["items"].as_array().cloned().unwrap();
        (letters.len() == 2).then_some(letters)
    });
    let letters = letters.await;
    // Kept for later is not refused: it has a code of its own.
    let find = |code: &str| letters.iter().find(|letter| letter["code"] == code);
    let (Some(quarantined), Some(_)) = (find("quarantined"), find("not-json")) else { panic!("{letters:?}") };
    call(http, "PUT", "/devices/press-9", Some(json!({ "type": "press" }))).await;
    let id = quarantined["id"].as_str().unwrap().replace('/', "%2F");
    call(http, "POST", &format!("/dead-letters/{id}/replay"), None).await;
    wait_for("the reading in the state of the device", async || {
        let state = call(http, "GET", "/devices/press-9/state", None).await;
        state.to_string().contains("temperature").then_some(())
    })
    .await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_checked_where_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (_receiver, hook) = Receiver::start().await;
    let config = config(&folder.path().join("data"), hook, "authenticate = true");
    let server = Server::start(config, Arc::new(SystemClock)).await.unwrap();
    let (http, mqtt) = (server.addresses.http, server.addresses.mqtt.unwrap());
    call(http, "PUT", "/devices/press-1", Some(json!({}))).await;
    server.store().set_device_password("press-1", "right").await.unwrap();
    assert!(Client::connect(mqtt, "a", None).await.is_err());
    assert!(Client::connect(mqtt, "b", Some(("press-1", "wrong"))).await.is_err());
    let mut client = Client::connect(mqtt, "c", Some(("press-1", "right"))).await.unwrap();
    assert!(client.temperature("press-1", 20.0).await);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_broker_republishes_readings_and_retains_what_is_active_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (_receiver, hook) = Receiver::start().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let more = format!("[sink.mqtt]\nurl = \"mqtt://127.0.0.1:{port}\"");
    let mut config = config(&folder.path().join("data"), hook, &more);
    config.mqtt.listen.set_port(port);
    let server = Server::start(config.clone(), Arc::new(SystemClock)).await.unwrap();
    let (http, mqtt) = (server.addresses.http, server.addresses.mqtt.unwrap());
    call(http, "PUT", "/rules/hot?wait=true", Some(hot())).await;
    let mut subscriber = Client::connect(mqtt, "subscriber", None).await.unwrap();
    assert!(subscriber.subscribe("watchfire/#").await);
    let mut device = Client::connect(mqtt, "press-1", None).await.unwrap();
    assert!(device.temperature("press-1", 85.0).await);
    let mut heard = std::collections::BTreeMap::new();
    while heard.len() < 3 {
        let (topic, payload, _) = subscriber.message().await;
        heard.insert(topic, serde_json::from_slice::<serde_json::Value>(&payload).unwrap());
    }
    assert_eq!(heard["watchfire/readings/press-1"]["metrics"]["temperature"], 85.0);
    assert_eq!(heard["watchfire/alerts/press-1/events"]["type"], "alert.raised");
    assert_eq!(heard["watchfire/alerts/press-1"]["alerts"][0]["rule"], "hot");
    let listed = wait_for("the sink is level", async || {
        let sinks = call(http, "GET", "/sinks", None).await;
        (sinks["items"][0]["behind"] == 0).then_some(sinks)
    });
    assert_eq!(listed.await["items"][0]["name"], "mqtt");
    server.stop().await.unwrap();

    // What the broker had retained ended with it; the sink tells it again.
    let server = Server::start(config, Arc::new(SystemClock)).await.unwrap();
    let mut subscriber = Client::connect(server.addresses.mqtt.unwrap(), "subscriber", None).await.unwrap();
    assert!(subscriber.subscribe("watchfire/alerts/+").await);
    let (topic, payload, _) = subscriber.message().await;
    assert_eq!(topic, "watchfire/alerts/press-1");
    let state: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(state["alerts"][0]["rule"], "hot");
    server.stop().await.unwrap();
}
