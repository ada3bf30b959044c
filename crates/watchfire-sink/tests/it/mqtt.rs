//! `[sink.mqtt]` against Mosquitto: killed, refusing, with TLS.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde_json::Value as Json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use watchfire_model::Value;
use watchfire_model::alert::{ResolveReason, TransitionKind};
use watchfire_services::{Mosquitto, or_skip};
use watchfire_sink::Running;
use watchfire_sink::mqtt::{self, MqttSinkConfig};

use crate::world::*;

/// A message as a subscriber got it.
#[derive(Clone, Debug)]
struct Heard {
    topic: String,
    event: Json,
    retained: bool,
}

/// A subscriber that comes back whenever the broker does.
struct Subscriber {
    heard: Arc<Mutex<Vec<Heard>>>,
    subscribed: Arc<AtomicBool>,
    _stop: DropGuard,
}

impl Subscriber {
    /// Subscribed to everything once this returns. With QoS 0: what the broker acknowledged is on its way to the
    /// subscriber then, and there is nothing from the subscriber that could make a kill reset the connection.
    async fn start(port: u16) -> Self {
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let subscribed = Arc::new(AtomicBool::new(false));
        let stop = CancellationToken::new();
        let mut options = MqttOptions::new("subscriber", "127.0.0.1", port);
        options.set_max_packet_size(Some(1 << 20)).set_connection_timeout(5);
        let (client, mut events) = AsyncClient::new(options, 16);
        let (list, flag, stopped) = (heard.clone(), subscribed.clone(), stop.clone());
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    () = stopped.cancelled() => return,
                    event = events.poll() => event,
                };
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        client.subscribe("#", QoS::AtMostOnce).await.unwrap();
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => flag.store(true, Ordering::SeqCst),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                        let event = serde_json::from_slice(&publish.payload).unwrap();
                        list.lock().unwrap().push(Heard { topic, event, retained: publish.retain });
                    }
                    Ok(_) => {}
                    Err(_) => {
                        flag.store(false, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        });
        let subscriber = Self { heard, subscribed, _stop: stop.drop_guard() };
        subscriber.there(true).await;
        subscriber
    }

    async fn there(&self, there: bool) {
        until("the subscriber is there, or gone", || {
            let is = self.subscribed.load(Ordering::SeqCst);
            if is == there { Ok(()) } else { Err(is) }
        })
        .await;
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    fn readings(&self) -> Vec<Heard> {
        self.heard().into_iter().filter(|heard| heard.event["type"] == "reading").collect()
    }

    /// Waits until the last message on a topic is as it should be.
    async fn last(&self, topic: &str, right: impl Fn(&Json) -> bool) -> Heard {
        let last = || self.heard().into_iter().rfind(|heard| heard.topic == topic);
        until(topic, || match last() {
            Some(heard) if right(&heard.event) => Ok(()),
            other => Err(other),
        })
        .await;
        last().unwrap()
    }
}

/// A door before the broker, which is shut until the subscriber is back.
struct Door {
    port: u16,
    open: Arc<AtomicBool>,
}

impl Door {
    async fn to(broker: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = Arc::new(AtomicBool::new(true));
        let is_open = open.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                if !is_open.load(Ordering::SeqCst) {
                    continue;
                }
                let broker = broker.clone();
                tokio::spawn(async move {
                    if let Ok(mut other) = TcpStream::connect(broker).await {
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut other).await;
                    }
                });
            }
        });
        Self { port, open }
    }
}

fn config(url: &str, more: &str) -> MqttSinkConfig {
    let config: MqttSinkConfig = toml::from_str(&format!("url = '{url}'\n{more}")).unwrap();
    config.check().unwrap();
    config
}

async fn start(world: &World, config: MqttSinkConfig) -> Running {
    mqtt::start(config, world.surroundings()).await.unwrap()
}

/// The numbers `n` that came; fails where those of a device do not count up, repeats under one id aside.
fn in_order(readings: &[Heard]) -> BTreeSet<u64> {
    let mut known: HashMap<&str, &Json> = HashMap::new();
    let mut numbers = BTreeSet::new();
    let mut last: HashMap<&str, u64> = HashMap::new();
    for Heard { topic, event, .. } in readings {
        let (id, device) = (event["id"].as_str().unwrap(), event["device"].as_str().unwrap());
        assert_eq!(*topic, format!("watchfire/readings/{device}"));
        if let Some(before) = known.insert(id, event) {
            assert_eq!(before, event, "a repeat is the same");
            continue;
        }
        let n = event["metrics"]["n"].as_f64().unwrap() as u64;
        assert!(numbers.insert(n), "{n} came under two ids");
        let before = last.insert(device, n);
        assert!(before.is_none_or(|before| before < n), "{n} of {device} came after {before:?}");
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_dies_again_and_again_and_no_event_is_missing() {
    let Some(mut broker) = or_skip("sink-mqtt-kill-9", Mosquitto::start()) else { return };
    let door = Door::to(broker.address()).await;
    let subscriber = Subscriber::start(broker.port()).await;
    let mut world = World::new().await;
    world.register(5).await;
    let url = format!("mqtt://127.0.0.1:{}", door.port);
    let running = start(&world, config(&url, "in_flight = 20\nalerts = false")).await;
    let mut count = 0;
    let mut cut_short = 0;
    for round in 1..=4 {
        let before = subscriber.readings().len();
        world.many(5, 2, 5000).await;
        count += 2 * 5000;
        // Some of it is there, and more is on its way.
        until("some of it arrives", || {
            let arrived = subscriber.readings().len() - before;
            if arrived > 60 * round { Ok(()) } else { Err(arrived) }
        })
        .await;
        door.open.store(false, Ordering::SeqCst);
        broker.kill();
        subscriber.there(false).await;
        if in_order(&subscriber.readings()).len() < count as usize {
            cut_short += 1;
        }
        world.many(5, 1, 10).await;
        count += 10;
        says(&running, "unreachable").await;
        broker.restart().unwrap();
        subscriber.there(true).await;
        door.open.store(true, Ordering::SeqCst);
        level(&running).await;
    }
    assert!(cut_short > 0, "no kill was in the middle");
    until("everything arrives", || {
        let numbers = in_order(&subscriber.readings());
        if numbers == (0..count).collect() { Ok(()) } else { Err(numbers.len()) }
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_publishes_again_under_the_same_ids() {
    let Some(broker) = or_skip("sink-mqtt-engine", Mosquitto::start()) else { return };
    let subscriber = Subscriber::start(broker.port()).await;
    let mut world = World::new().await;
    world.register(4).await;
    let url = format!("mqtt://{}", broker.address());
    let mut count = 0;
    for _ in 0..3 {
        let before = subscriber.readings().len();
        world.many(4, 20, 100).await;
        count += 20 * 100;
        let engine =
            tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
        let started = mqtt::start(config(&url, "in_flight = 5\nalerts = false"), world.surroundings());
        let running = engine.spawn(started).await.unwrap().unwrap();
        until("some of it arrives", || {
            let arrived = subscriber.readings().len() - before;
            if arrived > 100 { Ok(()) } else { Err(arrived) }
        })
        .await;
        engine.shutdown_background();
        drop(running);
        gone(&world).await;
        world = world.reopen(false).await;
    }
    let running = start(&world, config(&url, "alerts = false")).await;
    level(&running).await;
    until("everything arrives", || {
        let numbers = in_order(&subscriber.readings());
        if numbers == (0..count).collect() { Ok(()) } else { Err(numbers.len()) }
    })
    .await;
    assert!(
        subscriber.readings().len() > count as usize,
        "nothing came again: the engine did not die in time"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_active_at_a_device_is_retained() {
    let Some(broker) = or_skip("sink-mqtt-state", Mosquitto::start()) else { return };
    let subscriber = Subscriber::start(broker.port()).await;
    let world = World::new().await;
    world.register(3).await;
    let url = format!("mqtt://{}", broker.address());
    let running = start(&world, config(&url, "streams = []\nselect = { site = ['lyon'] }")).await;
    let (state, events) = ("watchfire/alerts/device-0", "watchfire/alerts/device-0/events");
    let active =
        |count: usize| move |state: &Json| state["alerts"].as_array().is_some_and(|all| all.len() == count);

    world.transition("device-0", 1, TransitionKind::Raised).await;
    // Of another site: not taken.
    world.transition("device-1", 2, TransitionKind::Raised).await;
    world.transition("device-2", 3, TransitionKind::Raised).await;
    let raised = subscriber.last(events, |event| event["type"] == "alert.raised").await;
    let now = subscriber.last(state, active(1)).await;
    assert_eq!(now.event["alerts"][0]["rule"], "hot");
    assert_eq!(now.event["alerts"][0]["severity"], "major");
    assert_eq!(now.event["alerts"][0]["id"], raised.event["alert"]);
    subscriber.last("watchfire/alerts/device-2", active(1)).await;

    // One who comes later gets what is active.
    let late = Subscriber::start(broker.port()).await;
    assert!(late.last(state, active(1)).await.retained);
    drop(late);

    let resolved = TransitionKind::Resolved { reason: ResolveReason::Cleared };
    world.transition("device-0", 4, resolved).await;
    let event = subscriber.last(events, |event| event["type"] == "alert.resolved").await;
    assert_eq!(event.event["reason"], "cleared");
    subscriber.last(state, active(0)).await;
    let late = Subscriber::start(broker.port()).await;
    assert!(late.last(state, active(0)).await.retained);
    late.last("watchfire/alerts/device-2", active(1)).await;
    level(&running).await;
    assert!(!subscriber.heard().iter().any(|heard| heard.topic.contains("device-1")));
    drop((late, subscriber));

    // A broker that has forgotten everything, as ours does whenever the engine ends, is told again.
    running.stop().await;
    let Some(broker) = or_skip("sink-mqtt-state", Mosquitto::start()) else { return };
    let subscriber = Subscriber::start(broker.port()).await;
    let url = format!("mqtt://{}", broker.address());
    let running = start(&world, config(&url, "streams = []\nselect = { site = ['lyon'] }")).await;
    subscriber.last("watchfire/alerts/device-2", active(1)).await;
    level(&running).await;
    assert!(subscriber.heard().iter().all(|heard| heard.topic == "watchfire/alerts/device-2"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_let_us_in_or_publish_is_told_apart() {
    let Some(closed) = or_skip("sink-mqtt-closed", Mosquitto::start_with("allow_anonymous false")) else {
        return;
    };
    let mut world = World::new().await;
    world.register(1).await;
    let url = format!("mqtt://{}", closed.address());
    let running = start(&world, config(&url, "username = 'me'\npassword = 's3cret'")).await;
    says(&running, "credentials").await;
    assert!(!format!("{:?}", running.status()).contains("s3cret"));
    running.stop().await;

    // A password that is put right counts by itself.
    let users = tempfile::NamedTempFile::new().unwrap();
    Mosquitto::set_password(users.path(), "me", "new").unwrap();
    {
        let lines = format!("allow_anonymous false\npassword_file {}", users.path().display());
        let Some(broker) = or_skip("sink-mqtt-password", Mosquitto::start_with(&lines)) else { return };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "old\n").unwrap();
        let mut config = config(&format!("mqtt://{}", broker.address()), "username = 'me'");
        config.password = watchfire_model::Secret::in_file(file.path());
        let running = start(&world, config).await;
        says(&running, "credentials").await;
        std::fs::write(file.path(), "new\n").unwrap();
        level(&running).await;
        running.stop().await;
    }

    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rules.path(), "topic read #\n").unwrap();
    let lines = format!("allow_anonymous true\nacl_file {}", rules.path().display());
    let Some(silent) = or_skip("sink-mqtt-acl", Mosquitto::start_with(&lines)) else { return };
    world.reading("readings", "device-0", &[("t", Value::Number(1.0))]).await;
    let running = start(&world, config(&format!("mqtt://{}", silent.address()), "")).await;
    until("not-permitted", || {
        let status = running.status();
        let told = status.lanes.iter().any(|lane| lane.code == Some("not-permitted"));
        if told { Ok(()) } else { Err((status, silent.said())) }
    })
    .await;
    assert_eq!(running.status().lanes.iter().map(|lane| lane.rows).sum::<u64>(), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_larger_than_the_broker_takes_is_a_dead_letter() {
    let lines = "allow_anonymous true\nmax_packet_size 2000";
    let Some(broker) = or_skip("sink-mqtt-large", Mosquitto::start_with(lines)) else { return };
    let subscriber = Subscriber::start(broker.port()).await;
    let mut world = World::new().await;
    world.register(1).await;
    for (n, text) in [(0.0, "short".to_string()), (1.0, "x".repeat(3000)), (2.0, "short".to_string())] {
        let metrics = [("n", Value::Number(n)), ("text", Value::Text(text))];
        world.reading("readings", "device-0", &metrics).await;
    }
    let running = start(&world, config(&format!("mqtt://{}", broker.address()), "")).await;
    level(&running).await;
    let letters = world.store.dead_letters(&Default::default()).await.unwrap().items;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].reason.contains("the broker takes 2000"), "{}", letters[0].reason);
    until("the others arrive", || {
        let numbers = in_order(&subscriber.readings());
        if numbers == BTreeSet::from([0, 2]) { Ok(()) } else { Err(numbers) }
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_rests_on_the_certificate_that_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let certified = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        let (certificate, key) = (folder.path().join(format!("{name}.pem")), folder.path().join(name));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (certificate, key)
    };
    let (certificate, key) = certified("broker");
    let (other, _) = certified("other");
    let lines =
        format!("allow_anonymous true\ncertfile {}\nkeyfile {}", certificate.display(), key.display());
    let Some(broker) = or_skip("sink-mqtt-tls", Mosquitto::start_with(&lines)) else { return };
    let mut world = World::new().await;
    world.register(1).await;
    world.reading("readings", "device-0", &[("t", Value::Number(1.0))]).await;
    let url = format!("mqtts://127.0.0.1:{}", broker.port());
    let running = start(&world, config(&url, &format!("ca = '{}'", other.display()))).await;
    says(&running, "tls").await;
    running.stop().await;
    let running = start(&world, config(&url, &format!("ca = '{}'", certificate.display()))).await;
    let status = level(&running).await;
    assert_eq!(status.lanes.iter().map(|lane| lane.rows).sum::<u64>(), 1);
    running.stop().await;
}
