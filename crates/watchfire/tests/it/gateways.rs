//! Devices that speak for others, over every way in.

use std::sync::Arc;

use serde_json::{Value, json};
use watchfire::config::Config;
use watchfire::serve::Server;
use watchfire_log::SystemClock;

use crate::mqtt::Client;
use crate::{call, wait_for};

const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
anonymous = "loopback"
authenticate = true
unknown_devices = "quarantine"
[[http.mapping]]
path = "plant/{device}/{metric}"
[mqtt]
listen = "127.0.0.1:0"
authenticate = true
unknown_devices = "quarantine"
[[mqtt.mapping]]
topic = "plant/{device}/{metric}"
"#;

struct Setup {
    server: Server,
    config: Config,
    folder: tempfile::TempDir,
}

impl Setup {
    /// With a gateway `gw` for presses, a press and a saw.
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::read(CONFIG, "test", []).unwrap();
        config.data = folder.path().join("data");
        let server = Server::start(config.clone(), Arc::new(SystemClock)).await.unwrap();
        let setup = Self { server, config, folder };
        setup.grant(&["press-*"]).await;
        for device in ["press-1", "saw-1"] {
            setup.call("PUT", &format!("/devices/{device}"), Some(json!({}))).await;
        }
        setup
    }

    async fn restart(self) -> Self {
        self.server.stop().await.unwrap();
        let server = Server::start(self.config.clone(), Arc::new(SystemClock)).await.unwrap();
        Self { server, ..self }
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        call(self.server.addresses.http, method, path, body).await
    }

    async fn grant(&self, patterns: &[&str]) {
        let device = json!({"type": "gateway", "speaks_for": patterns});
        assert_eq!(self.call("PUT", "/devices/gw", Some(device)).await["speaks_for"], json!(patterns));
    }

    async fn connect(&self, token: &str) -> Client {
        Client::connect(self.server.addresses.mqtt.unwrap(), "c", Some(("gw", token))).await.unwrap()
    }

    /// The status and body of an upload.
    async fn upload(&self, path: &str, token: &str, body: &str) -> (u16, Value) {
        let url = format!("http://{}/ingest/v1/{path}", self.server.addresses.http);
        let request = reqwest::Client::new().post(url).bearer_auth(token).body(body.to_string());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn has(&self, device: &str, metric: &str, value: f64) {
        let state = format!("/devices/{device}/state");
        wait_for("the reading", async || {
            let state = self.call("GET", &state, None).await;
            (state["metrics"][metric]["value"] == value).then_some(())
        })
        .await;
    }

    /// The newest dead letter, once there are so many.
    async fn letter(&self, count: usize) -> Value {
        let letters = wait_for("dead letters", async || {
            let letters = self.call("GET", "/dead-letters", None).await["items"].as_array().cloned().unwrap();
            assert!(letters.len() <= count, "{letters:?}");
            (letters.len() == count).then_some(letters)
        });
        let letters = letters.await;
        letters.into_iter().max_by_key(|letter| letter["at"].as_str().map(String::from)).unwrap()
    }

    async fn replay(&self, letter: &Value) -> (u16, Value) {
        let id = letter["id"].as_str().unwrap().replace('/', "-");
        let url = format!("http://{}/api/v1/dead-letters/{id}/replay", self.server.addresses.http);
        let answer = reqwest::Client::new().post(url).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_speaks_for_what_it_was_granted() {
    let setup = Setup::start().await;
    let made = setup.call("POST", "/devices/gw/credentials", None).await;
    let token = made["secret"].as_str().unwrap();
    let mut gateway = setup.connect(token).await;

    // As itself, for a press by the topic and by a mapping; not for a saw.
    assert!(gateway.temperature("gw", 1.0).await && gateway.temperature("press-1", 2.0).await);
    setup.has("gw", "temperature", 1.0).await;
    setup.has("press-1", "temperature", 2.0).await;
    assert!(gateway.publish("plant/press-1/pressure", "3").await);
    setup.has("press-1", "pressure", 3.0).await;
    let mut letters = 0;
    for topic in ["devices/saw-1/telemetry", "plant/saw-1/pressure", "devices/press-1/commands/open"] {
        assert!(gateway.publish(topic, "{\"temperature\":4}").await);
        letters += 1;
        let letter = setup.letter(letters).await;
        assert_eq!((&letter["code"], &letter["sender"]), (&json!("not-authorised"), &json!("device:gw")));
        assert_eq!(setup.replay(&letter).await.0, 422);
    }

    // The same over HTTP.
    let items = r#"[{"device":"press-1","metrics":{"a":5}},{"device":"saw-1","metrics":{"a":5}}]"#;
    let (status, answer) = setup.upload("telemetry", token, items).await;
    assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{answer}");
    assert_eq!(answer["rejected"][0]["code"], "not-authorised", "{answer}");
    setup.has("press-1", "a", 5.0).await;
    assert_eq!(setup.upload("devices/press-1/telemetry", token, "{\"b\":6}").await.0, 200);
    assert_eq!(setup.upload("devices/saw-1/telemetry", token, "{\"b\":6}").await.0, 403);
    assert_eq!(setup.upload("plant/press-1/c", token, "7").await.0, 200);
    assert_eq!(setup.upload("plant/saw-1/c", token, "7").await.0, 403);
    setup.has("press-1", "c", 7.0).await;

    // Who explains it.
    assert_eq!(setup.call("GET", "/devices/press-1/why", None).await["gateways"], json!(["gw"]));
    assert_eq!(setup.call("GET", "/devices/saw-1/why", None).await["gateways"], json!([]));
    assert_eq!(setup.call("GET", "/devices/gw/why", None).await["speaks_for"], json!(["press-*"]));

    // The grant is there after a restart.
    let setup = setup.restart().await;
    assert_eq!(setup.call("GET", "/devices/gw", None).await["speaks_for"], json!(["press-*"]));
    assert!(setup.connect(token).await.temperature("press-1", 8.0).await);
    setup.has("press-1", "temperature", 8.0).await;
    setup.server.stop().await.unwrap();
    drop(setup.folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_hears_commands_of_what_it_was_granted() {
    let setup = Setup::start().await;
    let made = setup.call("POST", "/devices/gw/credentials", None).await;
    let token = made["secret"].as_str().unwrap();
    let address = setup.server.addresses.mqtt.unwrap();
    let mut gateway = Client::keeping(address, "c", ("gw", token)).await.unwrap();
    assert!(gateway.subscribe("devices/gw/commands/#").await);
    assert!(gateway.subscribe("devices/press-1/commands/#").await);
    for refused in ["devices/saw-1/commands/#", "devices/+/commands/#", "devices/press-1/#", "#"] {
        assert!(!gateway.subscribe(refused).await, "{refused}");
    }
    let user = json!({"name": "otto", "role": "operator"});
    let user = setup.call("POST", "/tokens", Some(user)).await;
    let mut operator =
        Client::connect(address, "o", Some(("token", user["secret"].as_str().unwrap()))).await.unwrap();
    assert!(operator.publish("devices/press-1/commands/open", "now").await);
    assert_eq!(gateway.hears().await, "devices/press-1/commands/open");

    // It comes back as what it was.
    drop(gateway);
    let gateway = Client::keeping(address, "c", ("gw", token)).await.unwrap();
    assert!(gateway.resumed);

    // Another grant: it is told to go, and what it had subscribed to is forgotten with what it may not hear any more.
    setup.grant(&["saw-*"]).await;
    gateway.ends().await;
    let mut gateway = Client::keeping(address, "c", ("gw", token)).await.unwrap();
    assert!(!gateway.resumed);
    assert!(!gateway.subscribe("devices/press-1/commands/#").await);
    assert!(gateway.subscribe("devices/saw-1/commands/#").await);
    assert!(gateway.temperature("press-1", 1.0).await);
    assert_eq!(setup.letter(1).await["code"], "not-authorised");
    assert!(gateway.temperature("saw-1", 2.0).await);
    setup.has("saw-1", "temperature", 2.0).await;

    // All devices: one filter for all commands.
    setup.grant(&["*"]).await;
    gateway.ends().await;
    let mut gateway = Client::keeping(address, "c", ("gw", token)).await.unwrap();
    assert!(gateway.resumed && gateway.subscribe("devices/+/commands/#").await);

    // Its credential is taken back.
    let path = format!("/devices/gw/credentials/{}", made["id"].as_str().unwrap());
    setup.call("DELETE", &path, None).await;
    gateway.ends().await;
    assert!(Client::keeping(address, "c", ("gw", token)).await.is_err());
    setup.server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_gateway_are_replayed_as_what_it_is_now() {
    let setup = Setup::start().await;
    let made = setup.call("POST", "/devices/gw/credentials", None).await;
    let token = made["secret"].as_str().unwrap();
    let mut gateway = setup.connect(token).await;
    assert!(gateway.temperature("press-8", 8.0).await);
    let first = setup.letter(1).await;
    assert_eq!((&first["code"], &first["sender"]), (&json!("quarantined"), &json!("device:gw")));
    let (status, _) = setup.upload("devices/press-9/telemetry", token, "{\"temperature\":9}").await;
    assert_eq!(status, 200);
    let second = setup.letter(2).await;
    for device in ["press-8", "press-9"] {
        setup.call("PUT", &format!("/devices/{device}"), Some(json!({}))).await;
    }
    let (status, answer) = setup.replay(&first).await;
    assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{answer}");
    setup.has("press-8", "temperature", 8.0).await;

    // What it may not any more, a replay may not for it.
    setup.grant(&[]).await;
    let (status, answer) = setup.replay(&second).await;
    assert_eq!((status, &answer["reason"]), (422, &json!("not-authorised")), "{answer}");
    setup.grant(&["press-9"]).await;
    assert_eq!(setup.replay(&second).await.0, 200);
    setup.has("press-9", "temperature", 9.0).await;
    setup.server.stop().await.unwrap();
}
