//! What arrives on topics of a real Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value as Json, json};
use watchfire_log::record::Skipped;
use watchfire_log::{Record, Reject};
use watchfire_model::alert::TransitionKind;
use watchfire_model::call::FailureKind;
use watchfire_model::{PartitionId, Value};
use watchfire_services::{Failure, Kafka, or_skip};
use watchfire_sink::Running;
use watchfire_sink::kafka::{self, ID, KafkaConfig};

use crate::world::*;

/// One for all tests that leave it alone. Each has a prefix of its own.
fn shared(test: &str) -> Option<&'static Kafka> {
    static SHARED: OnceLock<Result<Kafka, Failure>> = OnceLock::new();
    or_skip(test, SHARED.get_or_init(Kafka::start).as_ref().map_err(Clone::clone))
}

pub fn config_of(brokers: &str, prefix: &str, more: &str) -> KafkaConfig {
    let text = format!("brokers = '{brokers}'\nname = '{prefix}'\ntopic_prefix = '{prefix}'\n{more}");
    let config: KafkaConfig = toml::from_str(&text).unwrap();
    config.check().unwrap();
    config
}

pub async fn run(world: &World, config: &KafkaConfig) -> Running {
    kafka::start(config.clone(), world.surroundings()).await.unwrap()
}

/// A message as a consumer sees it.
#[derive(Clone, Debug)]
pub struct Got {
    pub partition: i32,
    pub key: String,
    pub value: Vec<u8>,
    pub headers: BTreeMap<String, String>,
}

impl Got {
    pub fn id(&self) -> &str {
        &self.headers[ID]
    }

    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.value).unwrap()
    }
}

/// All that a reader with `read_committed` sees in a topic.
pub fn read(brokers: &str, topic: &str) -> Vec<Got> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(30)).unwrap();
    let partitions = metadata.topics()[0].partitions().len();
    let mut assigned = TopicPartitionList::new();
    for partition in 0..partitions {
        assigned.add_partition_offset(topic, partition as i32, Offset::Beginning).unwrap();
    }
    consumer.assign(&assigned).unwrap();
    let (mut got, mut ended, mut looks) = (Vec::new(), BTreeSet::new(), 0);
    while ended.len() < partitions {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                got.push(Got {
                    partition: message.partition(),
                    key: String::from_utf8(message.key().unwrap_or_default().to_vec()).unwrap(),
                    value: message.payload().unwrap_or_default().to_vec(),
                    headers: headers
                        .map(|header| {
                            let value = header.value.unwrap_or_default().to_vec();
                            (header.key.to_string(), String::from_utf8(value).unwrap())
                        })
                        .collect(),
                });
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            // A lost connection mends itself.
            Some(Err(_)) | None => looks += 1,
        }
        assert!(looks < 600, "{topic} does not end: {} messages of {ended:?}", got.len());
    }
    got
}

/// Readings of `n`, the number that [`World::many`] counts up: all of them, in order for each device, and how many
/// repeats there were. A repeat is the same as the first.
pub fn complete(got: &[Got], count: usize) -> usize {
    let mut first: BTreeMap<&str, &Got> = BTreeMap::new();
    let mut last: BTreeMap<&str, (i64, i32)> = BTreeMap::new();
    let mut repeats = 0;
    for message in got {
        if let Some(first) = first.insert(message.id(), message) {
            assert_eq!((&first.value, first.partition), (&message.value, message.partition));
            repeats += 1;
            continue;
        }
        let value = message.json();
        assert_eq!(value["device"], message.key);
        let n = value["metrics"]["n"].as_f64().unwrap() as i64;
        if let Some((before, partition)) = last.insert(&message.key, (n, message.partition)) {
            assert!(before < n, "{}: {n} came after {before}", message.key);
            assert_eq!(partition, message.partition, "{} is in two partitions", message.key);
        }
    }
    assert_eq!(first.len(), count);
    repeats
}

pub fn topic(brokers: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (key, value) in settings {
        topic = topic.set(key, value);
    }
    let asked = admin.create_topics([&topic], &AdminOptions::new());
    let made = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(asked));
    made.unwrap()[0].as_ref().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_asked_for_arrives_once_and_in_order() {
    let Some(kafka) = shared("kafka-all") else { return };
    let brokers = kafka.bootstrap();
    let mut world = World::new().await;
    world.register(20).await;
    let config = config_of(
        &brokers,
        "all",
        "streams = ['readings', 'smooth']\npartitions = 3\nalerts_topic = 'all.events'\nevent_source = '/plant/7'",
    );
    let running = run(&world, &config).await;
    world.many(20, 30, 200).await;
    let time = world
        .reading(
            "smooth",
            "device-3",
            &[("a\"b", Value::Text("né\n".into())), ("on", Value::Boolean(true)), ("x", Value::Number(-0.1))],
        )
        .await;
    world.transition("device-3", 1, TransitionKind::Raised).await;
    let reject = Reject {
        source: "mqtt".into(),
        address: "devices/press/telemetry".into(),
        device: Some("device-3".into()),
        sender: None,
        index: Some(4),
        code: "not-json".into(),
        reason: "byte 3".into(),
        payload: vec![0xff, 0, b'{'],
    };
    let skipped = Skipped {
        rule: "hot".into(),
        version: 3,
        offset: 5,
        callback: 0,
        callback_name: "batch".into(),
        rows: vec![2, 3],
        rows_at: None,
        kind: FailureKind::Trapped,
        reason: "unreachable".into(),
        state_before: Vec::new(),
    };
    let records = vec![
        (PartitionId(0), Record::Rejects(vec![reject])),
        (PartitionId(0), Record::Skipped(Box::new(skipped))),
    ];
    let positions = world.append(records).await;
    let status = level(&running).await;
    assert_eq!(status.in_force.as_deref(), Some("Kafka, 1 broker, idempotent"));

    let readings = read(&brokers, "all.readings");
    assert_eq!(complete(&readings, 6000), 0);
    assert_eq!(readings.iter().map(|got| got.partition).collect::<BTreeSet<_>>().len(), 3);
    let smooth = read(&brokers, "all.smooth");
    let expected = json!({
        "device": "device-3", "time": time, "metrics": { "a\"b": "né\n", "on": true, "x": -0.1 },
    });
    assert_eq!(smooth.iter().map(Got::json).collect::<Vec<_>>(), [expected]);

    let events = read(&brokers, "all.events");
    let [event] = &events[..] else { panic!("{events:?}") };
    let rows = world.store.events_after(0, 10).await.unwrap();
    assert_eq!(event.key, "device-3");
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", &rows[0].id),
        ("ce_source", "/plant/7"),
        ("ce_type", "watchfire.alert.raised"),
        ("ce_time", &rows[0].at.to_string()),
        ("ce_subject", "device-3"),
        ("ce_severity", "major"),
        ("content-type", "application/json"),
        (ID, &rows[0].id),
    ] {
        assert_eq!(event.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    let data = event.json();
    assert_eq!(
        (&data["rule"], &data["type"], &data["device"]),
        (&"hot".into(), &"alert.raised".into(), &"device-3".into())
    );

    let letters = read(&brokers, "all.dead-letters");
    let reject = letters.iter().find(|got| got.headers["watchfire-kind"] == "input").unwrap();
    assert_eq!((&reject.value[..], &reject.key[..]), (&[0xff, 0, b'{'][..], "device-3"));
    assert_eq!(reject.headers["watchfire-code"], "not-json");
    assert_eq!(reject.headers["watchfire-index"], "4");
    assert_eq!(reject.id(), format!("{}/0", positions[0]));
    let skip = letters.iter().find(|got| got.headers["watchfire-kind"] == "rule").unwrap();
    assert_eq!((skip.headers["watchfire-code"].as_str(), &skip.json()["rows"]), ("trapped", &json!([2, 3])));
    assert_eq!(letters.len(), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_asked_for_arrives_and_structured_events_are_envelopes() {
    let Some(kafka) = shared("kafka-some") else { return };
    let brokers = kafka.bootstrap();
    let mut world = World::new().await;
    world.register(4).await;
    let config = config_of(
        &brokers,
        "some",
        "select = { site = 'lyon' }\nmetrics = ['t*']\ndead_letters = false\nevents = 'structured'",
    );
    let running = run(&world, &config).await;
    let number = Value::Number;
    world.reading("readings", "device-0", &[("t1", number(1.0)), ("p", number(2.0))]).await;
    world.reading("readings", "device-1", &[("t1", number(3.0))]).await;
    world.reading("readings", "device-2", &[("p", number(4.0))]).await;
    world.reading("smooth", "device-0", &[("t1", number(5.0))]).await;
    world.transition("device-0", 1, TransitionKind::Raised).await;
    world.transition("device-1", 2, TransitionKind::Raised).await;
    level(&running).await;
    let metrics: Vec<_> =
        read(&brokers, "some.readings").iter().map(|got| got.json()["metrics"].clone()).collect();
    assert_eq!(metrics, [json!({ "t1": 1.0 })]);
    let events = read(&brokers, "some.alerts");
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!(event.headers["content-type"], "application/cloudevents+json; charset=utf-8");
    let envelope = event.json();
    assert_eq!((&envelope["specversion"], &envelope["data"]["rule"]), (&"1.0".into(), &"hot".into()));
    assert_eq!((&envelope["subject"], &envelope["severity"]), (&"device-0".into(), &"major".into()));
    running.stop().await;
    // Neither of these was made.
    let admin: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let metadata = admin.fetch_metadata(None, Duration::from_secs(30)).unwrap();
    let names: Vec<_> = metadata.topics().iter().map(|topic| topic.name()).collect();
    assert!(!names.contains(&"some.dead-letters") && !names.contains(&"some.smooth"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_and_properties_are_as_the_section_says() {
    let Some(kafka) = shared("kafka-section") else { return };
    let brokers = kafka.bootstrap();
    let mut world = World::new().await;
    world.register(2).await;
    let config = config_of(
        &brokers,
        "section",
        "streams = ['readings', 'smooth']\ntopics = { smooth = 'plant.smoothed' }\nalerts = false\ndead_letters = false\n\
         options = { 'message.max.bytes' = '2000' }",
    );
    let running = run(&world, &config).await;
    world.many(2, 1, 50).await;
    world.reading("smooth", "device-1", &[("x", Value::Number(1.0))]).await;
    // Brokers would take it: it is the property that does not.
    let long = Value::Text("x".repeat(5000));
    world.reading("readings", "device-0", &[("n", Value::Number(1e6)), ("note", long)]).await;
    let status = level(&running).await;
    running.stop().await;
    assert_eq!(status.lanes.iter().map(|lane| lane.refused).sum::<u64>(), 1);
    assert_eq!(complete(&read(&brokers, "section.readings"), 50), 0);
    let smoothed: Vec<_> =
        read(&brokers, "plant.smoothed").iter().map(|got| got.json()["metrics"].clone()).collect();
    assert_eq!(smoothed, [json!({ "x": 1.0 })]);
    let admin: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let metadata = admin.fetch_metadata(None, Duration::from_secs(30)).unwrap();
    assert!(metadata.topics().iter().all(|topic| topic.name() != "section.smooth"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_starts_now_leaves_out_what_was_and_later_goes_on_where_it_was() {
    let Some(kafka) = shared("kafka-now") else { return };
    let brokers = kafka.bootstrap();
    for (prefix, more) in [("now", ""), ("now-tx", "transactional = true")] {
        let mut world = World::new().await;
        world.register(4).await;
        world.many(4, 2, 50).await;
        world.transition("device-0", 1, TransitionKind::Raised).await;
        let config = config_of(&brokers, prefix, &format!("start = 'now'\n{more}"));
        let running = run(&world, &config).await;
        level(&running).await;
        // Where "now" is for alerts is written like anything else: one that is stopped before is still new.
        until("the place of alerts is written", || {
            let status = running.status();
            let written = status.lanes.iter().any(|lane| lane.lane == "alerts" && lane.next > 0);
            if written { Ok(()) } else { Err(status) }
        })
        .await;
        running.stop().await;
        // It is not new any more: what comes while it is away is not left out.
        for (step, device) in [(2, "device-1"), (3, "device-2")] {
            world.many(4, 2, 50).await;
            world.transition(device, step, TransitionKind::Raised).await;
            let running = run(&world, &config).await;
            level(&running).await;
            running.stop().await;
        }
        let readings = read(&brokers, &format!("{prefix}.readings"));
        assert_eq!(complete(&readings, 200), 0, "{more}");
        let least = readings.iter().filter_map(|got| got.json()["metrics"]["n"].as_f64()).reduce(f64::min);
        assert_eq!(least, Some(100.0), "{more}");
        let events = read(&brokers, &format!("{prefix}.alerts"));
        let devices: Vec<_> = events.iter().map(|event| event.key.as_str()).collect();
        assert_eq!(devices, ["device-1", "device-2"], "{more}");
    }
}

/// Others' cursors, many more than are read at first.
fn crowd(brokers: &str, topic: &str) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    for i in 0..3000 {
        let value = r#"{"epoch":1,"next":1}"#;
        producer.send(BaseRecord::to(topic).partition(0).key(&format!("other/{i}")).payload(value)).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_goes_on_where_the_last_one_was() {
    let Some(kafka) = shared("kafka-restart") else { return };
    let brokers = kafka.bootstrap();
    for (prefix, more) in [("again", ""), ("again-tx", "transactional = true")] {
        let mut world = World::new().await;
        world.register(5).await;
        let config = config_of(&brokers, prefix, more);
        let mut count = 0;
        for round in 0..3 {
            let running = run(&world, &config).await;
            world.many(5, 4, 50).await;
            world.transition(&format!("device-{round}"), round, TransitionKind::Raised).await;
            count += 200;
            level(&running).await;
            running.stop().await;
            assert_eq!(complete(&read(&brokers, &format!("{prefix}.readings")), count), 0, "{more}");
            let events = read(&brokers, &format!("{prefix}.alerts"));
            let ids: BTreeSet<_> = events.iter().map(|event| event.id().to_string()).collect();
            assert_eq!(ids.len(), events.len());
            crowd(&brokers, &format!("{prefix}.cursors"));
        }
        // A restored backup is another life: it goes on behind what is there, and says so.
        let mut world = world.reopen(true).await;
        let running = run(&world, &config).await;
        world.many(5, 1, 50).await;
        level(&running).await;
        running.stop().await;
        assert_eq!(complete(&read(&brokers, &format!("{prefix}.readings")), count + 50), 0, "{more}");
        let cursors = read(&brokers, &format!("{prefix}.cursors"));
        let gaps: Vec<_> =
            cursors.iter().filter(|got| got.key.starts_with(&format!("{prefix}/0/gap/1/"))).collect();
        let [gap] = &gaps[..] else { panic!("{gaps:?}") };
        assert_eq!((&gap.json()["reason"], &gap.json()["to"]["epoch"]), (&"restored".into(), &2.into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_leaves_nothing_out() {
    let Some(kafka) = shared("kafka-dies") else { return };
    let brokers = kafka.bootstrap();
    for (prefix, more) in [("dies", ""), ("dies-tx", "transactional = true")] {
        let mut world = World::new().await;
        world.register(5).await;
        let config = config_of(&brokers, prefix, &format!("{more}\nalerts = false\nlinger = '50ms'"));
        let (mut count, mut interrupted) = (0, 0);
        for round in 0..8 {
            let running = run(&world, &config).await;
            world.many(5, 30, 100).await;
            count += 3000;
            // What is being written then is given up half way.
            tokio::time::sleep(Duration::from_millis(150 + 40 * round)).await;
            interrupted += usize::from(running.status().lanes.iter().any(|lane| lane.behind > 0));
            running.stop().await;
        }
        assert!(interrupted > 0, "no stop came in the middle");
        let running = run(&world, &config).await;
        level(&running).await;
        running.stop().await;
        let repeats = complete(&read(&brokers, &format!("{prefix}.readings")), count);
        if !more.is_empty() {
            assert_eq!(repeats, 0, "exactly once for readers with read_committed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_loses_and_repeats_nothing() {
    for (prefix, more) in [("killed", ""), ("killed-tx", "transactional = true")] {
        let Some(mut kafka) = or_skip("kafka-kill-9", Kafka::start()) else { return };
        let brokers = kafka.bootstrap();
        let mut world = World::new().await;
        world.register(7).await;
        let config = config_of(&brokers, prefix, &format!("{more}\nalerts = false\nlinger = '20ms'"));
        let running = run(&world, &config).await;
        level(&running).await;
        let mut count = 0;
        for round in 0..3 {
            world.many(7, 40, 100).await;
            tokio::time::sleep(Duration::from_millis(190 + 30 * round)).await;
            kafka.kill();
            world.many(7, 5, 100).await;
            count += 4500;
            says(&running, "unreachable").await;
            kafka.restart().unwrap();
            level(&running).await;
        }
        let got = read(&brokers, &format!("{prefix}.readings"));
        assert_eq!(complete(&got, count), 0, "{more}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_is_a_dead_letter_and_the_rest_passes() {
    let Some(kafka) = shared("kafka-large") else { return };
    let brokers = kafka.bootstrap();
    for (prefix, more) in [("large", ""), ("large-tx", "transactional = true")] {
        // The first is refused by the brokers, the second not even sent.
        topic(&brokers, &format!("{prefix}.readings"), 1, &[("max.message.bytes", "20000")]);
        let mut world = World::new().await;
        world.register(5).await;
        // More than is taken at once: the batch is larger than the topic takes, and each message is small.
        let config = config_of(&brokers, prefix, &format!("{more}\ncompression = 'none'"));
        world.many(5, 5, 100).await;
        for length in [30_000, 1_500_000] {
            let text = Value::Text("x".repeat(length));
            world.reading("readings", "device-2", &[("n", Value::Number(1e6)), ("note", text)]).await;
        }
        world.many(5, 5, 100).await;
        let running = run(&world, &config).await;
        let status = level(&running).await;
        assert_eq!(status.lanes.iter().map(|lane| lane.refused).sum::<u64>(), 2);
        running.stop().await;
        let repeats = complete(&read(&brokers, &format!("{prefix}.readings")), 1000);
        assert_eq!(repeats, 0, "{more}");
        let letters = world.store.dead_letters(&Default::default()).await.unwrap().items;
        assert_eq!(letters.len(), 2, "{letters:?}");
        for letter in letters {
            assert_eq!(
                (letter.code.as_str(), letter.device.as_deref()),
                ("refused-by-sink", Some("device-2"))
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_the_topics_has_a_name_and_passes_without_a_hand() {
    let Some(kafka) = shared("kafka-topics") else { return };
    let brokers = kafka.bootstrap();
    let mut world = World::new().await;
    world.register(3).await;
    world.many(3, 1, 30).await;
    let config = config_of(&brokers, "none", "create_topics = false\ndead_letters = false\nalerts = false");
    let running = run(&world, &config).await;
    says(&running, "no-topic").await;
    topic(&brokers, "none.readings", 2, &[]);
    topic(&brokers, "none.cursors", 1, &[]);
    says(&running, "configuration").await;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    admin.delete_topics(&["none.cursors"], &AdminOptions::new()).await.unwrap();
    says(&running, "no-topic").await;
    topic(&brokers, "none.cursors", 1, &[("cleanup.policy", "compact")]);
    level(&running).await;
    running.stop().await;
    assert_eq!(complete(&read(&brokers, "none.readings"), 30), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_engines_with_one_name_write_once_in_transactions() {
    let Some(kafka) = shared("kafka-fenced") else { return };
    let brokers = kafka.bootstrap();
    let mut world = World::new().await;
    world.register(3).await;
    let config = config_of(&brokers, "fenced", "transactional = true\nalerts = false");
    let first = run(&world, &config).await;
    world.many(3, 2, 50).await;
    level(&first).await;
    let second = run(&world, &config).await;
    level(&second).await;
    world.many(3, 2, 50).await;
    level(&second).await;
    level(&first).await;
    second.stop().await;
    first.stop().await;
    assert_eq!(complete(&read(&brokers, "fenced.readings"), 200), 0);
}
