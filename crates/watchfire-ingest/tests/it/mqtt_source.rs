//! `[source.mqtt]` against Mosquitto.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use watchfire_ingest::board::State;
use watchfire_ingest::mqtt_source::{MqttSource, MqttSourceOptions, MqttSourceTls};
use watchfire_ingest::{Source, UnknownDevices};
use watchfire_log::{AppendError, Record, Reject};
use watchfire_model::Values;
use watchfire_services::{Mosquitto, or_skip};
use watchfire_testkit::MemoryLog;

use crate::setup::{NOW, intake};

const PATIENCE: Duration = Duration::from_secs(60);

async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn options(broker: &Mosquitto) -> MqttSourceOptions {
    MqttSourceOptions { enabled: true, broker: broker.address(), ..MqttSourceOptions::default() }
}

struct Node {
    log: Arc<MemoryLog>,
    source: Arc<MqttSource>,
}

impl Node {
    /// A node that comes back, with what its log holds and nothing else.
    fn over(log: Arc<MemoryLog>, options: MqttSourceOptions) -> Self {
        let intake = intake(&log);
        intake.restore_repeats(std::path::Path::new("/does/not/exist")).unwrap();
        let source = Source::new("mqtt-source", UnknownDevices::Register);
        let source = MqttSource::start(options, source, intake).unwrap();
        Self { log, source }
    }

    async fn start(options: MqttSourceOptions) -> Self {
        let node = Self::over(MemoryLog::new(2, NOW), options);
        node.runs().await;
        node
    }

    async fn runs(&self) {
        wait_for("running", || (self.source.state() == State::Running).then_some(())).await;
    }

    fn values(&self) -> Vec<u32> {
        let mut values = Vec::new();
        for entry in self.log.records() {
            let Record::Readings { batch, .. } = &entry.record else { continue };
            for column in &batch.columns {
                let Values::Numbers(numbers) = &column.values else { continue };
                values.extend(numbers.iter().filter(|number| !number.is_nan()).map(|number| *number as u32));
            }
        }
        values.sort_unstable();
        values
    }

    fn rejects(&self) -> Vec<Reject> {
        let rejects = |record: &Record| match record {
            Record::Rejects(rejects) => rejects.clone(),
            _ => Vec::new(),
        };
        self.log.records().iter().flat_map(|entry| rejects(&entry.record)).collect()
    }

    async fn has(&self, count: u32) {
        wait_for(&format!("{count} values"), || (self.values().len() >= count as usize).then_some(())).await;
    }
}

/// Publishes with QoS 1, and returns once the broker has all of it.
async fn publish(broker: &Mosquitto, messages: impl IntoIterator<Item = (String, String)>) {
    let mut options = MqttOptions::new("sender", "127.0.0.1", broker.port());
    options.set_inflight(50);
    let (client, mut events) = AsyncClient::new(options, 100);
    let messages: Vec<_> = messages.into_iter().collect();
    let count = messages.len();
    tokio::spawn(async move {
        for (topic, payload) in messages {
            client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
        }
        // Dropped with the client, the end of which ends the connection.
        tokio::time::sleep(PATIENCE).await;
    });
    let mut acknowledged = 0;
    while acknowledged < count {
        let event = tokio::time::timeout(PATIENCE, events.poll()).await.unwrap().unwrap();
        acknowledged += usize::from(matches!(event, Event::Incoming(Packet::PubAck(_))));
    }
}

/// Numbers without a time of their own: one that is taken twice is seen.
fn numbers(range: std::ops::Range<u32>) -> impl Iterator<Item = (String, String)> {
    range.map(|number| (format!("devices/d{}/telemetry", number % 5), format!("{{\"v\":{number}}}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_read_mapped_and_what_cannot_be_used_is_a_letter() {
    let Some(broker) = or_skip("mqtt-source", Mosquitto::start()) else { return };
    let mapping = toml::from_str("topic = 'plant/{device}/{metric}'").unwrap();
    let topics = vec!["devices/+/telemetry".into(), "plant/#".into()];
    let node = Node::start(MqttSourceOptions { topics, mapping: vec![mapping], ..options(&broker) }).await;
    let messages = [
        ("devices/a/telemetry", "{\"v\":1}"),
        ("devices/a/telemetry", "no json"),
        ("plant/p1/temperature", "2"),
        ("plant/p1", "3"),
        ("devices/a/telemetry", "[{\"v\":4},{\"v\":5}]"),
    ];
    publish(&broker, messages.map(|(topic, payload)| (topic.to_string(), payload.to_string()))).await;
    node.has(4).await;
    assert_eq!(node.values(), [1, 2, 4, 5]);
    let letters = node.rejects();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (&*letters[0].source, &*letters[0].address, &*letters[0].code),
        ("mqtt-source", "devices/a/telemetry", "not-json")
    );
    node.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_before_it_is_durable_and_all_comes_again() {
    let Some(broker) = or_skip("mqtt-source-crash", Mosquitto::start()) else { return };
    let node = Node::start(options(&broker)).await;
    publish(&broker, numbers(0..50)).await;
    node.has(50).await;
    // They are received, and never durable: the next life must get them from the broker.
    node.log.hold();
    publish(&broker, numbers(50..60)).await;
    wait_for("an append", || (node.log.held() > 0).then_some(())).await;
    let copy = node.log.copy();
    node.log.refuse(Some(AppendError::Closed));
    drop(node);
    publish(&broker, numbers(60..100)).await;
    let node = Node::over(copy, options(&broker));
    node.has(100).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.values(), (0..100).collect::<Vec<_>>());
    // Stopped as it should be, it leaves nothing unacknowledged.
    publish(&broker, numbers(100..150)).await;
    node.has(150).await;
    node.source.stop().await;
    let again = Node::over(node.log.clone(), options(&broker));
    again.runs().await;
    publish(&broker, numbers(150..160)).await;
    again.has(160).await;
    assert_eq!(again.values(), (0..160).collect::<Vec<_>>());
    again.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_is_waited_for() {
    let Some(mut broker) = or_skip("mqtt-source-outage", Mosquitto::start()) else { return };
    let node = Node::start(options(&broker)).await;
    publish(&broker, numbers(0..100)).await;
    node.has(100).await;
    for round in 1..=3 {
        // What is received when the broker dies has no acknowledgement, and comes again.
        node.log.hold();
        publish(&broker, numbers(round * 100..round * 100 + 10)).await;
        wait_for("an append", || (node.log.held() > 0).then_some(())).await;
        broker.kill();
        wait_for("waiting", || matches!(node.source.state(), State::Waiting(_)).then_some(())).await;
        if round % 2 == 1 {
            node.log.release();
        }
        broker.restart().unwrap();
        node.runs().await;
        node.log.release();
        publish(&broker, numbers(round * 100 + 10..round * 100 + 100)).await;
        node.has(round * 100 + 100).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(node.values(), (0..400).collect::<Vec<_>>());
    node.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_while_the_log_takes_nothing() {
    let Some(broker) = or_skip("mqtt-source-full", Mosquitto::start()) else { return };
    let node = Node::start(MqttSourceOptions { in_flight: 30, ..options(&broker) }).await;
    node.log.refuse(Some(AppendError::DiskFull));
    publish(&broker, numbers(0..200)).await;
    let reason = wait_for("waiting", || match node.source.state() {
        State::Waiting(reason) => Some(reason),
        _ => None,
    });
    assert!(reason.await.contains("disk is full"));
    assert_eq!(node.values().len(), 0);
    node.log.refuse(None);
    node.has(200).await;
    node.runs().await;
    // An append that fails behind its acceptance is made again.
    node.log.hold();
    publish(&broker, numbers(200..220)).await;
    wait_for("an append", || (node.log.held() > 0).then_some(())).await;
    node.log.fail("no luck");
    node.log.release();
    node.has(220).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.values(), (0..220).collect::<Vec<_>>());
    node.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_we_are_is_shown_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let ca = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, &authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
    let server = server.signed_by(&key, &issuer).unwrap();
    std::fs::write(file("ca.pem"), ca.pem()).unwrap();
    std::fs::write(file("server.pem"), server.pem()).unwrap();
    std::fs::write(file("server.key"), key.serialize_pem()).unwrap();
    // "secret", as `mosquitto_passwd` writes it, is not needed: a plain file is hashed by the broker's own tool.
    std::fs::write(file("passwords"), "watchfire:secret\n").unwrap();
    let hashed = std::process::Command::new("mosquitto_passwd").arg("-U").arg(file("passwords")).status();
    if !hashed.is_ok_and(|status| status.success()) {
        return watchfire_services::skip("mqtt-source-tls", "there is no mosquitto_passwd");
    }
    let lines = format!(
        "allow_anonymous false\npassword_file {}\ncertfile {}\nkeyfile {}\n",
        file("passwords").display(),
        file("server.pem").display(),
        file("server.key").display()
    );
    let Some(broker) = or_skip("mqtt-source-tls", Mosquitto::start_with(&lines)) else { return };
    let tls = MqttSourceTls { ca: file("ca.pem"), certificate: None, key: None };
    let of = |password: &str| MqttSourceOptions {
        username: Some("watchfire".into()),
        password: Some(password.into()),
        tls: Some(tls.clone()),
        ..options(&broker)
    };
    let wrong = Node::over(MemoryLog::new(2, NOW), of("wrong"));
    let reason = wait_for("a refusal", || match wrong.source.state() {
        State::Waiting(reason) => Some(reason),
        _ => None,
    });
    let reason = reason.await;
    assert!(reason.contains("broker") && !reason.contains("wrong"), "{reason}");
    wrong.source.stop().await;
    let right = Node::start(of("secret")).await;
    right.source.stop().await;
    // One that somebody else vouches for is not spoken to.
    std::fs::write(file("ca.pem"), rcgen::generate_simple_self_signed(vec!["x".into()]).unwrap().cert.pem())
        .unwrap();
    let other = Node::over(MemoryLog::new(2, NOW), of("secret"));
    wait_for("a refusal", || matches!(other.source.state(), State::Waiting(_)).then_some(())).await;
    other.source.stop().await;
    assert!(
        MqttSource::start(
            MqttSourceOptions {
                tls: Some(MqttSourceTls { ca: file("nothing.pem"), certificate: None, key: None }),
                ..options(&broker)
            },
            Source::new("x", UnknownDevices::Refuse),
            intake(&MemoryLog::new(1, NOW)),
        )
        .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_put_right_counts_by_itself() {
    let users = tempfile::NamedTempFile::new().unwrap();
    let made = Mosquitto::set_password(users.path(), "me", "new");
    let lines = format!("allow_anonymous false\npassword_file {}", users.path().display());
    let broker = made.and_then(|()| Mosquitto::start_with(&lines));
    let Some(broker) = or_skip("mqtt-source-password", broker) else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "old\n").unwrap();
    let mut options = options(&broker);
    options.username = Some("me".into());
    options.password = Some(watchfire_model::Secret::in_file(file.path()));
    let node = Node::over(MemoryLog::new(2, NOW), options);
    wait_for("the refusal", || match node.source.state() {
        // Brokers say it in one of two ways.
        State::Waiting(reason) if reason.contains("the broker") => Some(()),
        _ => None,
    })
    .await;
    std::fs::write(file.path(), "new\n").unwrap();
    node.runs().await;
}
