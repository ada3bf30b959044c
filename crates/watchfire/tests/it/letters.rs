//! Dead letters of a real server, replayed.

use std::sync::Arc;

use serde_json::{Value, json};
use watchfire::config::Config;
use watchfire::serve::Server;
use watchfire_log::SystemClock;

use crate::mqtt::Client;
use crate::{call, hot, rules, wait_for};

const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
unknown_devices = "quarantine"
[[http.mapping]]
path = "plant/{device}/{metric}"
[mqtt]
listen = "127.0.0.1:0"
unknown_devices = "quarantine"
[[mqtt.mapping]]
topic = "factory/devices/{device}/{metric}"
"#;

struct Setup {
    server: Server,
    folder: tempfile::TempDir,
}

impl Setup {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let server = Self::serve(&folder).await;
        Self { server, folder }
    }

    async fn serve(folder: &tempfile::TempDir) -> Server {
        let config = format!("data = {:?}\nrules = {:?}\n{CONFIG}", folder.path().join("data"), rules());
        let config = Config::read(&config, "test", []).unwrap();
        Server::start(config, Arc::new(SystemClock)).await.unwrap()
    }

    async fn restart(self) -> Self {
        self.server.stop().await.unwrap();
        Self { server: Self::serve(&self.folder).await, folder: self.folder }
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        call(self.server.addresses.http, method, path, body).await
    }

    async fn letters(&self, count: usize) -> Vec<Value> {
        wait_for("dead letters", async || {
            let letters = self.call("GET", "/dead-letters", None).await["items"].as_array().cloned().unwrap();
            (letters.len() == count).then_some(letters)
        })
        .await
    }

    /// The status of a replay, and what it said.
    async fn replay(&self, letter: &Value) -> (u16, Value) {
        let id = letter["id"].as_str().unwrap().replace('/', "-");
        let address = self.server.addresses.http;
        let path = format!("http://{address}/api/v1/dead-letters/{id}/replay");
        let answer = reqwest::Client::new().post(path).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn value(&self, device: &str, metric: &str) -> Value {
        let state = self.call("GET", &format!("/devices/{}/state", device.replace(' ', "%20")), None).await;
        state["metrics"][metric]["value"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_of_a_mapped_topic_is_read_as_the_mapping_says() {
    let setup = Setup::start().await;
    let mut client = Client::connect(setup.server.addresses.mqtt.unwrap(), "plc", None).await.unwrap();
    assert!(client.publish("factory/devices/press-1/temperature", "71.5").await);
    let letter = setup.letters(1).await.remove(0);

    // Before the device is registered: refused, not marked, and no further letter.
    let (status, answer) = setup.replay(&letter).await;
    assert_eq!((status, &answer["reason"]), (422, &json!("unknown-device")), "{answer}");
    let (status, _) = setup.replay(&letter).await;
    assert_eq!(status, 422);
    assert!(setup.letters(1).await[0]["replayed_at"].is_null());

    setup.call("PUT", "/devices/press-1", Some(json!({}))).await;
    let (status, answer) = setup.replay(&letter).await;
    assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{answer}");
    wait_for("the reading", async || (setup.value("press-1", "temperature").await == 71.5).then_some(()))
        .await;
    assert_eq!(setup.replay(&letter).await.0, 409);

    // Sensible to nobody, however often it is tried: one letter all the same.
    assert!(client.publish("factory/devices/press-1/temperature", "warm").await);
    let letter = setup.letters(2).await.remove(0);
    for _ in 0..3 {
        assert_eq!(setup.replay(&letter).await.0, 422);
    }
    assert!(client.publish("factory/devices/press-1/temperature", "hot").await);
    setup.letters(3).await;
    setup.server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_of_an_encoded_address_is_of_the_device_that_it_names() {
    let setup = Setup::start().await;
    let address = setup.server.addresses.http;
    let path = format!("http://{address}/ingest/v1/devices/press%2042/telemetry");
    let sent = reqwest::Client::new().post(path).body(r#"{"temperature":42.5}"#).send().await.unwrap();
    assert!(sent.status().is_success());
    let letter = setup.letters(1).await.remove(0);
    assert_eq!(letter["device"], "press 42");
    setup.call("PUT", "/devices/press%2042", Some(json!({}))).await;
    let (status, answer) = setup.replay(&letter).await;
    assert_eq!(status, 200, "{answer}");
    wait_for("the reading", async || (setup.value("press 42", "temperature").await == 42.5).then_some(()))
        .await;
    setup.letters(1).await;

    // An upload that names its devices itself.
    let path = format!("http://{address}/ingest/v1/telemetry");
    let event = r#"{"device":"press-7","metrics":{"temperature":7}}"#;
    assert!(reqwest::Client::new().post(path).body(event).send().await.unwrap().status().is_success());
    let letter = setup.letters(2).await.remove(0);
    setup.call("PUT", "/devices/press-7", Some(json!({}))).await;
    assert_eq!(setup.replay(&letter).await.0, 200);
    wait_for("the reading", async || (setup.value("press-7", "temperature").await == 7.0).then_some(()))
        .await;

    // A mapped address, encoded too.
    let path = format!("http://{address}/ingest/v1/plant/press%208/temperature");
    assert!(reqwest::Client::new().post(path).body("8").send().await.unwrap().status().is_success());
    let letter = setup.letters(3).await.remove(0);
    setup.call("PUT", "/devices/press%208", Some(json!({}))).await;
    let (status, answer) = setup.replay(&letter).await;
    assert_eq!(status, 200, "{answer}");
    wait_for("the reading", async || (setup.value("press 8", "temperature").await == 8.0).then_some(()))
        .await;
    setup.server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_rule_failed_on_twice_raise_their_alert_once_it_works() {
    let setup = Setup::start().await;
    setup.call("PUT", "/devices/press-1", Some(json!({}))).await;
    let mut broken = hot();
    // What it has to say is longer than it may say.
    broken["limits"] = json!({"output": 1});
    setup.call("PUT", "/rules/hot?wait=true", Some(broken)).await;
    let mut client = Client::connect(setup.server.addresses.mqtt.unwrap(), "press-1", None).await.unwrap();
    assert!(client.temperature("press-1", 90.25).await);
    let first = setup.letters(1).await.remove(0);
    let line: Value = serde_json::from_str(first["payload"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&first["kind"], &first["code"], &first["rows"]),
        (&json!("rule"), &json!("output"), &json!(1))
    );
    assert_eq!((&line["device"], &line["metrics"]), (&json!("press-1"), &json!({"temperature": 90.25})));
    assert_eq!(setup.replay(&first).await.1["outcome"], "redo");
    let second = setup.letters(2).await.remove(0);
    assert_eq!((&second["payload"], &second["code"]), (&first["payload"], &first["code"]));

    // The redo and its failure are in the log that is replayed here, and do neither anything new.
    let setup = setup.restart().await;
    setup.call("PUT", "/rules/hot?wait=true", Some(hot())).await;
    setup.call("POST", "/rules/hot/pause", Some(json!({}))).await;
    let (status, answer) = setup.replay(&second).await;
    assert_eq!((status, answer["detail"].to_string().contains("is paused")), (409, true), "{answer}");
    setup.call("POST", "/rules/hot/resume", Some(json!({}))).await;
    assert_eq!(setup.replay(&first).await.0, 409);
    assert_eq!(setup.replay(&second).await.0, 200);
    let alert = wait_for("the alert", async || {
        setup.call("GET", "/alerts?state=active", None).await["items"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!((&alert["device"], &alert["rule"]), (&json!("press-1"), &json!("hot")));
    assert_eq!(setup.letters(2).await.iter().filter(|letter| letter["replayed_at"].is_null()).count(), 0);
    setup.server.stop().await.unwrap();
}
