//! What programs are told: alerts on topics of a real broker of MQTT, and as events on those of a real Kafka.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde_json::Value as Json;
use tokio::task::JoinHandle;
use watchfire_notify::channel::kafka::ID;
use watchfire_notify::channel::payload::{Alert, Message};
use watchfire_notify::channel::{Channel, Delivering, Kept};
use watchfire_notify::{Outcome, ReceiverConfig, Retry};
use watchfire_services::{Failure, Kafka, Mosquitto, or_skip};

use crate::receiver::START;

/// Where the alert of these tests goes by default.
const TOPIC: &str = "watchfire/notices/press-1/hot/_";

pub fn channel(text: &str) -> Channel {
    let config: ReceiverConfig = toml::from_str(&format!("name = 'program'\n{text}")).unwrap();
    Channel::check(&config).unwrap();
    Channel::new(&config).unwrap()
}

pub fn alert(device: &str, fires: bool) -> Alert {
    let labels =
        [("alertname", "hot"), ("rule", "hot"), ("device", device), ("site", "lyon"), ("severity", "major")];
    let own = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    Alert {
        status: if fires { "firing" } else { "resolved" }.into(),
        labels: own(&labels),
        annotations: own(&[("summary", "Bearing too hot")]),
        starts_at: "2026-07-01T08:00:00Z".into(),
        ends_at: if fires { "0001-01-01T00:00:00Z" } else { "2026-07-01T09:00:00Z" }.into(),
        generator_url: String::new(),
        fingerprint: format!("f-{device}"),
        response: None,
    }
}

fn message(alerts: Vec<Alert>) -> Message {
    let firing = alerts.iter().any(|alert| alert.status == "firing");
    Message {
        version: "4".into(),
        group_key: "{}:{alertname=\"hot\"}".into(),
        truncated_alerts: 0,
        status: if firing { "firing" } else { "resolved" }.into(),
        receiver: "program".into(),
        group_labels: BTreeMap::new(),
        common_labels: BTreeMap::new(),
        common_annotations: BTreeMap::new(),
        external_url: String::new(),
        notification_reason: "first notification".into(),
        route_labels: BTreeMap::new(),
        alerts,
        digest: None,
    }
}

pub async fn send(channel: &Channel, id: &str, alerts: Vec<Alert>) -> Outcome {
    let payload = serde_json::to_string(&message(alerts)).unwrap();
    channel.send(&Delivering { id, payload: &payload, now: START, thread: &Kept::default() }).await
}

async fn taken(channel: &Channel, id: &str, alerts: Vec<Alert>) {
    let outcome = send(channel, id, alerts).await;
    assert!(matches!(outcome, Outcome::Delivered { .. }), "{outcome:?}");
}

/// What was said, where it comes again.
pub async fn later(channel: &Channel, alerts: Vec<Alert>) -> String {
    match send(channel, "d-later", alerts).await {
        Outcome::Failed { retry: Retry::Later(None), error, .. } => error,
        other => panic!("{other:?}"),
    }
}

/// What was said, where it never will.
async fn never(channel: &Channel, alerts: Vec<Alert>) -> String {
    match send(channel, "d-never", alerts).await {
        Outcome::Failed { retry: Retry::Never, error, .. } => error,
        other => panic!("{other:?}"),
    }
}

/// So long that brokers refuse it.
fn long(device: &str) -> Alert {
    let mut alert = alert(device, true);
    alert.annotations.insert("description".into(), "x".repeat(20_000));
    alert
}

/// A message as a subscriber got it.
#[derive(Clone, Debug)]
struct Heard {
    topic: String,
    payload: Vec<u8>,
    retained: bool,
}

impl Heard {
    fn json(&self) -> Json {
        serde_json::from_slice(&self.payload).unwrap()
    }
}

/// Somebody who hears everything, and at first what is retained.
struct Subscriber {
    client: AsyncClient,
    heard: Arc<Mutex<Vec<Heard>>>,
    task: JoinHandle<()>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Subscriber {
    fn start(port: u16) -> Self {
        let name = format!("subscriber-{}", NUMBER.fetch_add(1, Ordering::SeqCst));
        let mut options = MqttOptions::new(name, "127.0.0.1", port);
        options.set_max_packet_size(Some(1 << 20));
        let (client, mut events) = AsyncClient::new(options, 16);
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let (asking, list) = (client.clone(), heard.clone());
        let task = tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                match event {
                    Event::Incoming(Packet::ConnAck(_)) => {
                        asking.subscribe("#", QoS::AtMostOnce).await.unwrap();
                    }
                    Event::Incoming(Packet::Publish(publish)) => list.lock().unwrap().push(Heard {
                        topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
                        payload: publish.payload.to_vec(),
                        retained: publish.retain,
                    }),
                    _ => {}
                }
            }
        });
        Self { client, heard, task }
    }

    /// What it was sent until now: a broker sends in order, so nothing is missing once a mark of ours came back.
    async fn all(&self) -> Vec<Heard> {
        let mark = format!("mark/{}", NUMBER.fetch_add(1, Ordering::SeqCst));
        let list = || self.heard.lock().unwrap().clone();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut asked = None;
        let came = || list().iter().any(|heard| heard.topic == mark);
        while !came() {
            // One that goes out before the subscription is there comes to nobody.
            if asked.is_none_or(|at: Instant| at.elapsed() > Duration::from_millis(200)) {
                asked = Some(Instant::now());
                self.client.publish(mark.clone(), QoS::AtLeastOnce, false, "").await.unwrap();
            }
            assert!(Instant::now() < deadline, "the mark does not come back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        list().into_iter().filter(|heard| !heard.topic.starts_with("mark/")).collect()
    }
}

/// What somebody gets who subscribes now.
async fn standing(port: u16) -> Vec<Heard> {
    let all = Subscriber::start(port).all().await;
    assert!(all.iter().all(|heard| heard.retained), "{all:?}");
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_stands_on_its_topic_until_it_is_over() {
    let Some(broker) = or_skip("channel-mqtt-retained", Mosquitto::start()) else { return };
    let live = Subscriber::start(broker.port());
    assert!(live.all().await.is_empty());
    let channel = channel(&format!("mqtt = {{ url = 'mqtt://{}' }}", broker.address()));
    taken(&channel, "d-1", vec![alert("press-1", true), alert("press-2", true)]).await;
    let found = standing(broker.port()).await;
    assert_eq!(found.iter().filter(|heard| heard.topic == TOPIC).count(), 1);
    assert_eq!(found.len(), 2, "{found:?}");
    let said = found.iter().find(|heard| heard.topic == TOPIC).unwrap().json();
    for (name, value) in [
        ("id", "d-1"),
        ("status", "firing"),
        ("reason", "first notification"),
        ("receiver", "program"),
        ("groupKey", "{}:{alertname=\"hot\"}"),
        ("fingerprint", "f-press-1"),
        ("startsAt", "2026-07-01T08:00:00Z"),
    ] {
        assert_eq!(said[name], value, "{name}");
    }
    assert_eq!(said["labels"]["severity"], "major");
    assert_eq!(said["annotations"]["summary"], "Bearing too hot");

    // A repeat is the same under the same id.
    let heard = live.all().await;
    taken(&channel, "d-1", vec![alert("press-1", true), alert("press-2", true)]).await;
    let twice = live.all().await;
    assert_eq!(twice.len(), 4);
    let payloads = |heard: &[Heard]| heard.iter().map(|one| one.payload.clone()).collect::<Vec<_>>();
    assert_eq!(payloads(&twice[2..]), payloads(&heard));

    taken(&channel, "d-2", vec![alert("press-1", false)]).await;
    let heard = live.all().await;
    let [.., over, cleared] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((over.topic.as_str(), cleared.topic.as_str()), (TOPIC, TOPIC));
    assert_eq!(over.json()["status"], "resolved");
    assert_eq!(over.json()["id"], "d-2");
    assert!(cleared.payload.is_empty());
    let found = standing(broker.port()).await;
    assert_eq!(
        found.iter().map(|heard| heard.topic.as_str()).collect::<Vec<_>>(),
        ["watchfire/notices/press-2/hot/_"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_what_somebody_made_of_them_and_need_not_retain() {
    let Some(broker) = or_skip("channel-mqtt-topic", Mosquitto::start()) else { return };
    let live = Subscriber::start(broker.port());
    assert!(live.all().await.is_empty());
    let keys =
        format!("url = 'mqtt://{}', topic = '{{site}}/{{severity}}', retain = false", broker.address());
    let channel = channel(&format!("mqtt = {{ {keys} }}"));
    taken(&channel, "d-1", vec![alert("press-1", true), alert("press-1", false)]).await;
    let heard = live.all().await;
    let said = |heard: &Heard| (heard.topic.clone(), heard.json()["status"].as_str().unwrap().to_string());
    assert_eq!(
        heard.iter().map(said).collect::<Vec<_>>(),
        [
            ("lyon/major".to_string(), "firing".to_string()),
            ("lyon/major".to_string(), "resolved".to_string()),
        ]
    );
    assert!(standing(broker.port()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_tried_later() {
    let nobody = channel("mqtt = { url = 'mqtt://127.0.0.1:9', timeout = '2s' }");
    let said = later(&nobody, vec![alert("press-1", true)]).await;
    assert!(said.starts_with("unreachable"), "{said}");
    // It listens, and never says anything.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mqtt://{}", silent.local_addr().unwrap());
    let silent_channel = channel(&format!("mqtt = {{ url = '{url}', timeout = '500ms' }}"));
    assert_eq!(later(&silent_channel, vec![alert("press-1", true)]).await, "no answer in time");

    let Some(mut broker) = or_skip("channel-mqtt-away", Mosquitto::start()) else { return };
    let channel = channel(&format!("mqtt = {{ url = 'mqtt://{}', timeout = '5s' }}", broker.address()));
    taken(&channel, "d-1", vec![alert("press-1", true)]).await;
    broker.kill();
    later(&channel, vec![alert("press-2", true)]).await;
    broker.restart().unwrap();
    taken(&channel, "d-2", vec![alert("press-2", true)]).await;
    // What it retained before, a broker that is killed may have forgotten.
    let found = standing(broker.port()).await;
    assert!(found.iter().any(|heard| heard.topic == "watchfire/notices/press-2/hot/_"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_put_right_counts_with_the_next_attempt() {
    let users = tempfile::NamedTempFile::new().unwrap();
    let Some(()) = or_skip("channel-mqtt-password", Mosquitto::set_password(users.path(), "me", "new"))
    else {
        return;
    };
    let lines = format!("allow_anonymous false\npassword_file {}", users.path().display());
    let Some(broker) = or_skip("channel-mqtt-password", Mosquitto::start_with(&lines)) else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "0ld\n").unwrap();
    let password = format!("{{ file = '{}' }}", file.path().display());
    let keys = format!("url = 'mqtt://{}', username = 'me', password = {password}", broker.address());
    let channel = channel(&format!("mqtt = {{ {keys} }}"));
    let said = later(&channel, vec![alert("press-1", true)]).await;
    assert!(said.starts_with("credentials") && !said.contains("0ld"), "{said}");
    std::fs::write(file.path(), "new\n").unwrap();
    taken(&channel, "d-1", vec![alert("press-1", true)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_is_larger_than_the_broker_takes_keeps_the_others_from_nobody() {
    let lines = "allow_anonymous true\nmax_packet_size 4000";
    let Some(broker) = or_skip("channel-mqtt-large", Mosquitto::start_with(lines)) else { return };
    let channel = channel(&format!("mqtt = {{ url = 'mqtt://{}' }}", broker.address()));
    let said = never(&channel, vec![long("press-2"), alert("press-1", true)]).await;
    assert!(said.contains("the broker takes 4000"), "{said}");
    let found = standing(broker.port()).await;
    assert_eq!(found.iter().map(|heard| heard.topic.as_str()).collect::<Vec<_>>(), [TOPIC]);
}

/// One for all tests: each has a topic of its own.
fn shared(test: &str) -> Option<&'static Kafka> {
    static SHARED: OnceLock<Result<Kafka, Failure>> = OnceLock::new();
    or_skip(test, SHARED.get_or_init(Kafka::start).as_ref().map_err(Clone::clone))
}

pub async fn make(brokers: &str, name: &str, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let mut topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
    for (key, value) in settings {
        topic = topic.set(key, value);
    }
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
}

/// A record as a consumer sees it.
#[derive(Clone, Debug)]
pub struct Got {
    pub key: String,
    pub value: Json,
    pub headers: BTreeMap<String, String>,
}

/// All of a topic with one partition.
pub async fn read(brokers: &str, topic: &str) -> Vec<Got> {
    let (brokers, topic) = (brokers.to_string(), topic.to_string());
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &brokers)
            .set("group.id", "test")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        let mut assigned = TopicPartitionList::new();
        assigned.add_partition_offset(&topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&assigned).unwrap();
        let (mut got, mut looks) = (Vec::new(), 0);
        loop {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                    got.push(Got {
                        key: String::from_utf8(message.key().unwrap_or_default().to_vec()).unwrap(),
                        value: serde_json::from_slice(message.payload().unwrap_or_default()).unwrap(),
                        headers: headers
                            .map(|header| {
                                let value = header.value.unwrap_or_default().to_vec();
                                (header.key.to_string(), String::from_utf8(value).unwrap())
                            })
                            .collect(),
                    });
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return got,
                // A lost connection mends itself.
                Some(Err(_)) | None => looks += 1,
            }
            assert!(looks < 600, "{topic} does not end: {} records", got.len());
        }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_events_on_a_topic() {
    let Some(kafka) = shared("channel-kafka-events") else { return };
    let brokers = kafka.bootstrap();
    make(&brokers, "events", &[]).await;
    let of = |more: &str| {
        let keys = format!("brokers = '{brokers}', topic = 'events', source = '/plant/7', timeout = '30s'");
        channel(&format!("kafka = {{ {keys}{more} }}"))
    };
    let binary = of("");
    taken(&binary, "d-1", vec![alert("press-1", true), alert("press-2", true)]).await;
    // A repeat.
    taken(&binary, "d-1", vec![alert("press-1", true), alert("press-2", true)]).await;
    taken(&of(", mode = 'structured'"), "d-2", vec![alert("press-1", false)]).await;
    let got = read(&brokers, "events").await;
    let keys: Vec<_> = got.iter().map(|one| one.key.as_str()).collect();
    assert_eq!(keys, ["press-1", "press-2", "press-1", "press-2", "press-1"]);
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", "d-1-f-press-1"),
        ("ce_source", "/plant/7"),
        ("ce_type", "io.watchfire.alert.firing"),
        ("ce_subject", "press-1"),
        ("ce_time", "2026-07-01T08:00:00Z"),
        ("ce_severitytext", "major"),
        ("ce_severitynumber", "17"),
        ("ce_partitionkey", "press-1"),
        ("content-type", "application/json"),
        (ID, "d-1-f-press-1"),
    ] {
        assert_eq!(got[0].headers.get(name).map(String::as_str), Some(value), "{name}");
        assert_eq!(got[0].headers.get(name), got[2].headers.get(name), "{name} of the repeat");
    }
    assert_eq!(got[1].headers["ce_id"], "d-1-f-press-2");
    assert_eq!(got[0].value["annotations"]["summary"], "Bearing too hot");
    assert_eq!(got[0].value["receiver"], "program");

    let envelope = &got[4].value;
    assert_eq!(got[4].headers["content-type"], "application/cloudevents+json; charset=utf-8");
    assert_eq!(envelope["id"], "d-2-f-press-1");
    assert_eq!(envelope["type"], "io.watchfire.alert.resolved");
    assert_eq!(envelope["time"], "2026-07-01T09:00:00Z");
    assert_eq!(envelope["severitynumber"], 17);
    assert_eq!(envelope["data"]["status"], "resolved");
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_away_are_tried_later() {
    let nobody = channel("kafka = { brokers = '127.0.0.1:9', topic = 't', timeout = '1s' }");
    let said = later(&nobody, vec![alert("press-1", true)]).await;
    assert!(said.starts_with("unreachable"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_is_tried_later_and_an_event_that_is_too_large_is_not() {
    let Some(kafka) = shared("channel-kafka-refused") else { return };
    let brokers = kafka.bootstrap();
    let keys = format!("brokers = '{brokers}', topic = 'missing', timeout = '5s'");
    let missing = channel(&format!("kafka = {{ {keys} }}"));
    later(&missing, vec![alert("press-1", true)]).await;
    // Somebody makes it, and it counts with one of the next attempts.
    make(&brokers, "missing", &[]).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !matches!(send(&missing, "d-1", vec![alert("press-1", true)]).await, Outcome::Delivered { .. }) {
        assert!(Instant::now() < deadline, "the topic is there");
    }

    make(&brokers, "small", &[("max.message.bytes", "4000")]).await;
    let small = channel(&format!("kafka = {{ brokers = '{brokers}', topic = 'small', timeout = '30s' }}"));
    let said = never(&small, vec![long("press-2"), alert("press-1", true)]).await;
    assert!(said.starts_with("refused"), "{said}");
    let got = read(&brokers, "small").await;
    assert_eq!(got.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), ["press-1"]);
}
