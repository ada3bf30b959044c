//! The real binary reading from a real Kafka, both killed while records come.

use std::path::Path;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use watchfire_services::{Kafka, or_skip};

use crate::binary::{Engine, dump};
use crate::{PATIENCE, call, wait_for};

const TOPIC: &str = "plant";
const DEVICES: u32 = 5;

fn write_config(folder: &Path, brokers: &str) -> std::path::PathBuf {
    let path = folder.join("watchfire.toml");
    let text = format!(
        "data = {:?}\n[telemetry]\nformat = \"json\"\n[http]\nlisten = \"127.0.0.1:0\"\n[mqtt]\nlisten = \
         \"127.0.0.1:0\"\n[source.kafka]\nenabled = true\nbrokers = {brokers:?}\ntopics = [{TOPIC:?}]\ndevice = \
         \"key\"\nunknown_devices = \"register\"\nbatch_records = 200\n",
        folder.join("data"),
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// Sends the numbers of a range, a device after the other; they have no time of their own, so one that were taken twice
/// would not be known as a repeat.
fn send(brokers: &str, numbers: std::ops::Range<u32>, pause: Duration) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("delivery.timeout.ms", "120000")
        .create()
        .unwrap();
    for number in numbers {
        let (key, text) = (format!("device-{}", number % DEVICES), format!("{{\"n\":{number}}}"));
        let record = BaseRecord::to(TOPIC).key(&key).payload(&text);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        if number % 100 == 99 {
            producer.poll(pause);
            std::thread::sleep(pause);
        }
    }
    producer.flush(Duration::from_secs(120)).unwrap();
}

/// The last number of a device that the engine has seen.
async fn last(engine: &Engine, device: u32) -> Option<u32> {
    // The only error is that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::new();
    let url = format!("http://{}/api/v1/devices/device-{device}/state", engine.http);
    let answer = client.get(url).send().await.unwrap();
    let state: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default();
    state["metrics"]["n"]["value"].as_f64().map(|number| number as u32)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_it_reads_each_record_once() {
    let Some(kafka) = or_skip("kafka-torture", tokio::task::spawn_blocking(Kafka::start).await.unwrap())
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (data, brokers) = (folder.path().join("data"), kafka.bootstrap());
    let config = write_config(folder.path(), &brokers);
    const ALL: u32 = 20_000;
    let sending = tokio::task::spawn_blocking({
        let brokers = brokers.clone();
        move || send(&brokers, 0..ALL, Duration::from_millis(60))
    });
    let mut kafka = Some(kafka);
    for life in 0..4 {
        let engine = Engine::start(&config).await;
        let before = last(&engine, 0).await;
        wait_for("something new", async || (last(&engine, 0).await > before).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..1200))).await;
        if life == 1 {
            // Not the engine this time, but what it reads from.
            let mut broker = kafka.take().unwrap();
            kafka = Some(
                tokio::task::spawn_blocking(move || {
                    broker.kill();
                    broker.restart().map(|()| broker)
                })
                .await
                .unwrap()
                .unwrap(),
            );
            let before = last(&engine, 0).await;
            wait_for("something new", async || (last(&engine, 0).await > before).then_some(())).await;
        }
        engine.kill().await;
    }
    sending.await.unwrap();
    let engine = Engine::start(&config).await;
    for device in 0..DEVICES {
        let newest = ALL - DEVICES + device;
        wait_for("the newest", async || (last(&engine, device).await == Some(newest)).then_some(())).await;
    }
    let status = tokio::time::timeout(PATIENCE, engine.terminate()).await.unwrap();
    assert!(status.success(), "{status}");

    let entries = dump(&data);
    let rows = |entry: &serde_json::Value| entry["rows"].as_array().cloned().unwrap_or_default();
    let number = |row: &serde_json::Value| row["metrics"]["n"].as_f64().map(|number| number as u32);
    // Each once, and those of a device in the order in which they were sent.
    let mut all = Vec::new();
    let mut newest = std::collections::BTreeMap::new();
    for entry in &entries {
        for row in rows(entry) {
            let number = number(&row).unwrap();
            let before = newest.insert((entry["partition"].clone().to_string(), number % DEVICES), number);
            assert!(before < Some(number), "{before:?} before {number}");
            all.push(number);
        }
    }
    all.sort_unstable();
    assert_eq!(all.len(), ALL as usize);
    assert_eq!(all, (0..ALL).collect::<Vec<_>>());
    assert!(entries.iter().any(|entry| entry["kind"] == "consumed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_from_kafka_are_replayed() {
    let Some(kafka) = or_skip("kafka-replay", tokio::task::spawn_blocking(Kafka::start).await.unwrap())
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), &kafka.bootstrap());
    let text = std::fs::read_to_string(&config).unwrap().replace("\"register\"", "\"quarantine\"");
    std::fs::write(&config, text).unwrap();
    send(&kafka.bootstrap(), 0..1, Duration::ZERO);
    let engine = Engine::start(&config).await;
    let letter = wait_for("a letter", async || {
        let letters = call(engine.http, "GET", "/dead-letters", None).await;
        letters["items"].as_array().and_then(|letters| letters.first().cloned())
    })
    .await;
    assert_eq!((&letter["source"], &letter["code"]), (&"kafka".into(), &"quarantined".into()), "{letter}");
    call(engine.http, "PUT", "/devices/device-0", Some(serde_json::json!({}))).await;
    let id = letter["id"].as_str().unwrap().replace('/', "%2F");
    call(engine.http, "POST", &format!("/dead-letters/{id}/replay"), None).await;
    wait_for("the reading", async || (last(&engine, 0).await == Some(0)).then_some(())).await;
    engine.kill().await;
}
