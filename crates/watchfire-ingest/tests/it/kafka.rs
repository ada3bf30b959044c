//! `[source.kafka]` against a real broker.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset};
use watchfire_ingest::board::State;
use watchfire_ingest::kafka::{DeviceFrom, KafkaOptions, KafkaSource, Start, ValueFormat};
use watchfire_ingest::{Intake, Source, UnknownDevices};
use watchfire_log::{AppendError, Consumed, Record, Reject};
use watchfire_model::{Timestamp, Values};
use watchfire_services::{Failure, Kafka, or_skip};
use watchfire_testkit::MemoryLog;

use crate::setup::{NOW, intake};

/// A broker may start anew, and a group may have to give a node up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The broker of all tests that leave it as it is.
fn kafka(test: &str) -> Option<&'static Kafka> {
    static SHARED: OnceLock<Result<Kafka, Failure>> = OnceLock::new();
    or_skip(test, SHARED.get_or_init(Kafka::start).as_ref().map_err(Clone::clone))
}

pub(crate) async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn create(bootstrap: &str, topic: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let made = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    made.into_iter().for_each(|made| drop(made.unwrap()));
}

pub(crate) fn producer(bootstrap: &str) -> BaseProducer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("queue.buffering.max.messages", "1000000")
        .set("linger.ms", "5")
        .create()
        .unwrap()
}

/// Sends values without a time of their own: one that is taken twice is not known as a repeat, and is seen here.
pub(crate) fn send(producer: &BaseProducer, topic: &str, values: std::ops::Range<u32>) {
    for value in values {
        let (key, text) = (format!("device-{}", value % 7), format!("{{\"v\":{value}}}"));
        let mut record = BaseRecord::to(topic).key(&key).payload(&text);
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(rdkafka::error::RDKafkaErrorCode::QueueFull));
            producer.poll(Duration::from_millis(10));
            record = back;
        }
    }
    producer.flush(PATIENCE).unwrap();
}

pub(crate) fn options(bootstrap: &str, topic: &str) -> KafkaOptions {
    KafkaOptions {
        enabled: true,
        brokers: bootstrap.into(),
        topics: vec![topic.into()],
        group: format!("of-{topic}"),
        device: DeviceFrom::Key,
        properties: BTreeMap::from([
            ("topic.metadata.refresh.interval.ms".into(), "500".into()),
            ("session.timeout.ms".into(), "6000".into()),
        ]),
        ..KafkaOptions::default()
    }
}

pub(crate) struct Node {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) source: Arc<KafkaSource>,
}

impl Node {
    pub(crate) fn start(options: KafkaOptions) -> Self {
        Self::over(MemoryLog::new(2, NOW), options)
    }

    /// A node that comes back, with what its log holds and nothing else.
    pub(crate) fn over(log: Arc<MemoryLog>, options: KafkaOptions) -> Self {
        let intake = intake(&log);
        intake.restore_repeats(std::path::Path::new("/does/not/exist")).unwrap();
        let source = Source::new("kafka", UnknownDevices::Register);
        let source = KafkaSource::start(options, source, intake.clone()).unwrap();
        Self { log, intake, source }
    }

    /// The values of `v` in the log.
    pub(crate) fn values(&self) -> Vec<u32> {
        values(&self.log)
    }

    fn rejects(&self) -> Vec<Reject> {
        let rejects = |record: &Record| match record {
            Record::Rejects(rejects) => rejects.clone(),
            _ => Vec::new(),
        };
        self.log.records().iter().flat_map(|entry| rejects(&entry.record)).collect()
    }

    fn consumed(&self) -> Vec<Consumed> {
        let consumed = |record: &Record| match record {
            Record::Consumed(all) => all.clone(),
            _ => Vec::new(),
        };
        self.log.records().iter().flat_map(|entry| consumed(&entry.record)).collect()
    }
}

pub(crate) fn values(log: &MemoryLog) -> Vec<u32> {
    let mut values = Vec::new();
    for entry in log.records() {
        let Record::Readings { batch, .. } = &entry.record else { continue };
        for column in batch.columns.iter().filter(|column| &*column.metric == "v") {
            let Values::Numbers(numbers) = &column.values else { continue };
            values.extend(numbers.iter().filter(|number| !number.is_nan()).map(|number| *number as u32));
        }
    }
    values.sort_unstable();
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_becomes_a_letter_with_its_place_and_the_rest_passes() {
    let Some(kafka) = kafka("kafka-letters") else { return };
    let topic = "letters";
    create(&kafka.bootstrap(), topic, 1).await;
    let producer = producer(&kafka.bootstrap());
    let large = format!("{{\"v\":1,\"x\":\"{}\"}}", "x".repeat(5000));
    let records: [(Option<&str>, Option<&str>); 7] = [
        (Some("a"), Some("{\"v\":1}")),
        (Some("a"), None),
        (Some("a"), Some("")),
        (Some("a"), Some(&large)),
        (Some("a"), Some("no json")),
        (None, Some("{\"v\":2}")),
        (Some("b"), Some("[{\"v\":3},{\"v\":\"text\",\"w\":[]},{\"v\":4}]")),
    ];
    for (key, value) in records {
        let mut record: BaseRecord<'_, str, str> = BaseRecord::to(topic);
        (record.key, record.payload) = (key, value);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();

    let node = Node::start(KafkaOptions { record_bytes: 4096, ..options(&kafka.bootstrap(), topic) });
    wait_for("all of it", || (node.values().len() == 3 && node.rejects().len() == 6).then_some(())).await;
    assert_eq!(node.values(), [1, 3, 4]);
    let letters: Vec<_> = node
        .rejects()
        .into_iter()
        .map(|reject| (reject.source, reject.address, reject.code, reject.index, reject.payload.len()))
        .collect();
    let letter = |offset: i64, code: &str, index, length| {
        ("kafka".to_string(), format!("letters/0/{offset}"), code.to_string(), index, length)
    };
    assert_eq!(
        letters,
        [
            letter(1, "tombstone", None, 0),
            letter(2, "empty-payload", None, 0),
            letter(3, "record-too-large", None, 4096),
            letter(4, "not-json", Some(0), 7),
            letter(5, "no-device", None, 7),
            letter(6, "metric-array", Some(1), 19),
        ]
    );
    // What became of them is in the same group as how far it was read.
    let next = || node.intake.places().of("kafka", topic, 0).map(|place| place.next);
    wait_for("the place", || (next() == Some(7)).then_some(())).await;
    assert_eq!(node.source.state(), State::Running);
    node.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_come_from_headers_and_fields_and_values_are_cbor() {
    let Some(kafka) = kafka("kafka-forms") else { return };
    create(&kafka.bootstrap(), "forms.cbor", 2).await;
    create(&kafka.bootstrap(), "forms.mapped", 2).await;
    let producer = producer(&kafka.bootstrap());
    let headers = OwnedHeaders::new().insert(Header { key: "unit", value: Some("press-1") });
    // {"v": 1} and {"v": 2.5}, one behind the other.
    let cbor = [0xa1, 0x61, b'v', 1, 0xa1, 0x61, b'v', 0xf9, 0x41, 0x00];
    let record: BaseRecord<'_, (), [u8]> = BaseRecord::to("forms.cbor").payload(&cbor[..]).headers(headers);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    let mapped = "{\"unit\":{\"id\":\"press-2\"},\"at\":1767225600000,\"values\":{\"v\":7}}";
    let record: BaseRecord<'_, (), str> = BaseRecord::to("forms.mapped").payload(mapped);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();

    let of_cbor = Node::start(KafkaOptions {
        device: DeviceFrom::Header,
        device_header: "unit".into(),
        format: ValueFormat::Cbor,
        ..options(&kafka.bootstrap(), "forms.cbor")
    });
    wait_for("two readings", || (of_cbor.values() == [1, 2]).then_some(())).await;
    assert!(of_cbor.intake.registries().find("press-1").is_some());
    of_cbor.source.stop().await;

    let mapping = "topic = 'forms.*'\ndevice = '/unit/id'\ntime = '/at'\nmetrics = '/values'";
    let fields = Node::start(KafkaOptions {
        device: DeviceFrom::Field,
        mapping: vec![toml::from_str(mapping).unwrap()],
        ..options(&kafka.bootstrap(), "^forms\\.map.*")
    });
    wait_for("a reading", || (fields.values() == [7]).then_some(())).await;
    assert!(fields.intake.registries().find("press-2").is_some());
    fields.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_begins_where_it_is_told_to_and_then_where_the_log_ends() {
    let Some(kafka) = kafka("kafka-start") else { return };
    let topic = "start";
    create(&kafka.bootstrap(), topic, 1).await;
    let producer = producer(&kafka.bootstrap());
    send(&producer, topic, 0..10);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let between = Start::At(Timestamp(now.as_micros() as i64));
    tokio::time::sleep(Duration::from_millis(50)).await;
    send(&producer, topic, 10..20);

    let of = |start, group: &str| KafkaOptions {
        start,
        group: group.into(),
        ..options(&kafka.bootstrap(), topic)
    };
    let earliest = Node::start(of(Start::Earliest, "earliest"));
    let at = Node::start(of(between, "between"));
    let latest = Node::start(of(Start::Latest, "latest"));
    wait_for("all", || (earliest.values().len() == 20).then_some(())).await;
    wait_for("those behind the time", || (at.values().len() == 10).then_some(())).await;
    assert_eq!(at.values(), (10..20).collect::<Vec<_>>());
    wait_for("running", || (latest.source.state() == State::Running).then_some(())).await;
    // It has the partition; where that ends is looked up a moment later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    send(&producer, topic, 20..25);
    wait_for("new ones", || (latest.values().len() == 5).then_some(())).await;
    assert_eq!(latest.values(), (20..25).collect::<Vec<_>>());
    wait_for("new ones", || (earliest.values().len() == 25).then_some(())).await;

    // The group knows how far we are, and that it was us.
    earliest.source.stop().await;
    let reader: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", "earliest")
        .create()
        .unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition(topic, 0);
    let committed = reader.committed_offsets(list, PATIENCE).unwrap();
    let committed = committed.find_partition(topic, 0).unwrap();
    assert_eq!(committed.offset(), Offset::Offset(25));
    assert!(committed.metadata().starts_with("watchfire "), "{:?}", committed.metadata());

    // Stopped and started: on from there, whatever `start` says.
    send(&producer, topic, 25..30);
    let again = Node::over(earliest.log.clone(), of(Start::Latest, "earliest"));
    wait_for("the rest", || (again.values().len() == 30).then_some(())).await;
    assert_eq!(again.values(), (0..30).collect::<Vec<_>>());
    let mut next = 0;
    for consumed in again.consumed() {
        assert_eq!((consumed.from, consumed.anew), (next, next == 0), "{consumed:?}");
        next = consumed.next;
    }
    assert_eq!(next, 30);
    for node in [&again, &at, &latest] {
        node.source.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_it_goes_on_where_the_log_ends() {
    let Some(kafka) = kafka("kafka-crash") else { return };
    let topic = "crash";
    create(&kafka.bootstrap(), topic, 3).await;
    let bootstrap = kafka.bootstrap();
    let sending = {
        let bootstrap = bootstrap.clone();
        tokio::task::spawn_blocking(move || {
            let producer = producer(&bootstrap);
            for part in 0..40 {
                send(&producer, topic, part * 250..(part + 1) * 250);
                std::thread::sleep(Duration::from_millis(60));
            }
        })
    };
    let options = KafkaOptions { batch_records: 100, ..options(&bootstrap, topic) };
    let mut log = MemoryLog::new(2, NOW);
    for _ in 0..6 {
        let node = Node::over(log.clone(), options.clone());
        let before = node.values().len();
        wait_for("some more", || (node.values().len() > before + 300).then_some(())).await;
        // What it has now is all that the next life knows; this one goes on for a while, and commits what the next
        // does not know of.
        let copy = node.log.copy();
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..1500))).await;
        node.source.stop().await;
        log = copy;
    }
    sending.await.unwrap();
    let node = Node::over(log, options);
    wait_for("all", || (node.values().len() >= 10_000).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.values(), (0..10_000).collect::<Vec<_>>());
    node.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pauses_while_the_log_takes_nothing() {
    let Some(kafka) = kafka("kafka-pause") else { return };
    let topic = "pause";
    create(&kafka.bootstrap(), topic, 2).await;
    let producer = producer(&kafka.bootstrap());
    send(&producer, topic, 0..1000);
    let node = Node::start(options(&kafka.bootstrap(), topic));
    wait_for("all", || (node.values().len() == 1000).then_some(())).await;
    node.log.refuse(Some(AppendError::DiskFull));
    send(&producer, topic, 1000..5000);
    let reason = wait_for("a pause", || match node.source.state() {
        State::Waiting(reason) => Some(reason),
        _ => None,
    });
    let reason = reason.await;
    assert!(reason.contains("disk is full"), "{reason}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.values().len(), 1000);
    node.log.refuse(None);
    wait_for("the rest", || (node.values().len() == 5000).then_some(())).await;
    assert_eq!(node.values(), (0..5000).collect::<Vec<_>>());
    wait_for("running", || (node.source.state() == State::Running).then_some(())).await;

    // An append that fails behind its acceptance: all begins again at what the log has.
    node.log.hold();
    send(&producer, topic, 5000..6000);
    wait_for("an append", || (node.log.held() > 0).then_some(())).await;
    node.log.fail("no luck");
    node.log.release();
    wait_for("the rest", || (node.values().len() >= 6000).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.values(), (0..6000).collect::<Vec<_>>());
    node.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_share_the_partitions() {
    let Some(kafka) = kafka("kafka-group") else { return };
    let topic = "group";
    create(&kafka.bootstrap(), topic, 4).await;
    let producer = producer(&kafka.bootstrap());
    send(&producer, topic, 0..1000);
    let first = Node::start(options(&kafka.bootstrap(), topic));
    wait_for("all", || (first.values().len() == 1000).then_some(())).await;
    let second = Node::start(options(&kafka.bootstrap(), topic));
    let mut sent = 1000;
    wait_for("the second to have some", || {
        send(&producer, topic, sent..sent + 100);
        sent += 100;
        (second.values().len() > 50).then_some(())
    })
    .await;
    wait_for("all", || (first.values().len() + second.values().len() >= sent as usize).then_some(())).await;
    // One leaves: the other has all again, from where it left.
    second.source.stop().await;
    let before = first.values().len();
    send(&producer, topic, sent..sent + 1000);
    sent += 1000;
    wait_for("all by one", || (first.values().len() + second.values().len() >= sent as usize).then_some(()))
        .await;
    assert!(first.values().len() > before);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut all = [first.values(), second.values()].concat();
    all.sort_unstable();
    assert_eq!(all, (0..sent).collect::<Vec<_>>());
    first.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_is_waited_for() {
    let Some(mut kafka) = or_skip("kafka-outage", Kafka::start()) else { return };
    let topic = "outage";
    create(&kafka.bootstrap(), topic, 2).await;
    send(&producer(&kafka.bootstrap()), topic, 0..500);
    let node = Node::start(options(&kafka.bootstrap(), topic));
    wait_for("all", || (node.values().len() == 500).then_some(())).await;
    kafka.kill();
    wait_for("waiting", || matches!(node.source.state(), State::Waiting(_)).then_some(())).await;
    let mut kafka =
        tokio::task::spawn_blocking(move || kafka.restart().map(|()| kafka)).await.unwrap().unwrap();
    wait_for("running", || (node.source.state() == State::Running).then_some(())).await;
    send(&producer(&kafka.bootstrap()), topic, 500..1000);
    wait_for("the rest", || (node.values().len() >= 1000).then_some(())).await;
    assert_eq!(node.values(), (0..1000).collect::<Vec<_>>());
    // Our end does not wait for a broker that is not there.
    kafka.kill();
    let began = Instant::now();
    node.source.stop().await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_deleted_are_counted_and_a_topic_made_anew_is_read() {
    let Some(kafka) = kafka("kafka-deleted") else { return };
    let topic = "deleted";
    create(&kafka.bootstrap(), topic, 1).await;
    let producer = producer(&kafka.bootstrap());
    send(&producer, topic, 0..100);
    let node = Node::start(options(&kafka.bootstrap(), topic));
    wait_for("all", || (node.values().len() == 100).then_some(())).await;
    node.source.stop().await;
    send(&producer, topic, 100..200);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().unwrap();
    let mut before = rdkafka::TopicPartitionList::new();
    before.add_partition_offset(topic, 0, Offset::Offset(150)).unwrap();
    admin.delete_records(&before, &AdminOptions::new()).await.unwrap();
    let lost = || {
        let lost = &watchfire_telemetry::metrics().sources.lost;
        lost.get_or_create(&[("source", "kafka".to_string())]).get()
    };
    let already = lost();
    let node = Node::over(node.log.clone(), options(&kafka.bootstrap(), topic));
    wait_for("what is left", || (node.values().len() == 150).then_some(())).await;
    assert_eq!(lost() - already, 50);
    node.source.stop().await;

    admin.delete_topics(&[topic], &AdminOptions::new()).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        let made = admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
        if made.into_iter().all(|made| made.is_ok()) {
            break;
        }
        assert!(Instant::now() < deadline, "the topic stays deleted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    send(&self::producer(&kafka.bootstrap()), topic, 200..210);
    let node = Node::over(node.log.clone(), options(&kafka.bootstrap(), topic));
    wait_for("the new ones", || (node.values().len() >= 160).then_some(())).await;
    assert_eq!(node.values()[150..], (200..210).collect::<Vec<_>>());
    // Known a moment after it is in the log.
    let next = || node.intake.places().of("kafka", topic, 0).map(|place| place.next);
    wait_for("the place", || (next() == Some(10)).then_some(())).await;
    node.source.stop().await;
}
