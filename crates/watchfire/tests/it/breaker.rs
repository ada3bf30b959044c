//! A rule that breaks on streaming readings: taken out, told of, repaired, and given what it missed.

use std::sync::Arc;

use serde_json::{Value, json};
use watchfire::config::Config;
use watchfire::serve::Server;
use watchfire_log::SystemClock;

use crate::mqtt::Client;
use crate::receiver::Receiver;
use crate::{call, hot, rules, wait_for};

/// Alerts of the name that came to the receiver: status and text.
fn told(receiver: &Receiver, name: &str) -> Vec<(String, String)> {
    let messages = receiver.messages.lock().unwrap();
    let alerts = messages.iter().flat_map(|(_, body)| body["alerts"].as_array().cloned().unwrap_or_default());
    let named = alerts.filter(|alert| alert["labels"]["alertname"] == name);
    named.map(|alert| (alert["status"].as_str().unwrap_or_default().into(), alert.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_rule_is_told_of_and_catches_up_once_it_is_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let (receiver, hook) = Receiver::start().await;
    let text = format!(
        "data = {:?}\nrules = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n[mqtt]\nlisten = \"127.0.0.1:0\"\n\
         [[receiver]]\nname = \"hook\"\nretry_initial = \"50ms\"\nwebhook = {{ url = \"http://{hook}/hook\" }}\n",
        folder.path().join("data"),
        rules()
    );
    let config = Config::read(&text, "test", []).unwrap();
    let server = Server::start(config, Arc::new(SystemClock)).await.unwrap();
    let (http, mqtt) = (server.addresses.http, server.addresses.mqtt.unwrap());
    // What it has to say is longer than it may say.
    let mut broken = hot();
    broken["limits"] = json!({"output": 1});
    broken["breaker"] = json!({"calls": 5});
    call(http, "PUT", "/rules/hot?wait=true", Some(broken)).await;
    let mut client = Client::connect(mqtt, "fleet", None).await.unwrap();
    let health = async || call(http, "GET", "/rules/hot", None).await["health"].take();
    let out = wait_for("the rule is out", async || {
        assert!(client.temperature("press-1", 90.0).await);
        let health = health().await;
        (health["breaker"] == "open").then_some(health)
    })
    .await;
    let outage = &out["outages"][0];
    assert!(outage["why"].as_str().unwrap().contains("callbacks within"), "{out}");
    assert!(outage["reason"].as_str().unwrap().contains("output"), "{out}");
    let letters = call(http, "GET", "/dead-letters?rule=hot", None).await["items"].as_array().unwrap().len();
    // Readings are taken as before; the rule does not see them.
    let partition = outage["partition"].as_u64().unwrap();
    let partitions = call(http, "GET", "/status", None).await["partitions"].as_array().unwrap().len();
    let same = |id: &String| {
        let of = watchfire_model::PartitionId::of(id, partitions as u16);
        u64::from(of.0) == partition
    };
    let missed: Vec<String> = (2..).map(|i| format!("press-{i}")).filter(same).take(5).collect();
    for device in &missed {
        assert!(client.temperature(device, 95.0).await);
    }
    wait_for("they are missed", async || {
        (health().await["outages"][0]["missed_rows"].as_u64() >= Some(5)).then_some(())
    })
    .await;
    let status = call(http, "GET", "/status", None).await;
    assert_eq!(status["rules_out"]["hot"][0]["breaker"], "open", "{status}");
    let firing = wait_for("an operator is told", async || told(&receiver, "watchfire-rule").pop()).await;
    assert_eq!(firing.0, "firing");
    assert!(firing.1.contains("hot") && firing.1.contains("callbacks within"), "{}", firing.1);
    let after = call(http, "GET", "/dead-letters?rule=hot", None).await["items"].as_array().unwrap().len();
    assert!(after <= letters.max(6), "what is missed is no dead letter: {letters}, {after}");

    // Repaired.
    call(http, "PUT", "/rules/hot?wait=true", Some(hot())).await;
    wait_for("it is back", async || (health().await["breaker"] == "closed").then_some(())).await;
    let raised = async || {
        let alerts = call(http, "GET", "/alerts?rule=hot", None).await["items"].take();
        let of = |alert: &Value| alert["device"].as_str().unwrap_or_default().to_string();
        let mut devices: Vec<String> = alerts.as_array().unwrap().iter().map(of).collect();
        devices.sort();
        devices
    };
    let mut expected = missed.clone();
    expected.sort();
    wait_for("each missed device has its alert, once", async || {
        let mut raised = raised().await;
        raised.retain(|device| device != "press-1");
        (raised == expected).then_some(())
    })
    .await;
    wait_for("an operator is told that it is over", async || {
        told(&receiver, "watchfire-rule").iter().any(|(status, _)| status == "resolved").then_some(())
    })
    .await;
    let outages = call(http, "GET", "/rules/hot/outages", None).await;
    assert_eq!(outages["items"][0]["closed_by"], "deployed", "{outages}");
    // What it failed on before it was taken out is given to it on demand.
    let answer = call(http, "POST", "/dead-letters:replay?rule=hot", None).await;
    assert!(answer["replayed"].as_u64() > Some(0) && answer["refused"] == 0, "{answer}");
    wait_for("the first device has its alert too", async || {
        raised().await.contains(&"press-1".to_string()).then_some(())
    })
    .await;
    server.stop().await.unwrap();
}
