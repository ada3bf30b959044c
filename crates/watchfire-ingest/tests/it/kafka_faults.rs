//! `[source.kafka]` against the mock cluster of librdkafka, which fails as it is told to.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, TopicPartitionList};
use watchfire_ingest::board::State;
use watchfire_ingest::kafka::KafkaOptions;

use crate::kafka::{Node, options, producer, send, wait_for};

const TOPIC: &str = "faults";

async fn cluster() -> (MockCluster<'static, rdkafka::producer::DefaultProducerContext>, KafkaOptions) {
    let cluster = MockCluster::new(3).unwrap();
    cluster.create_topic(TOPIC, 3, 3).unwrap();
    let options = options(&cluster.bootstrap_servers(), TOPIC);
    (cluster, options)
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_brokers_pass_and_nothing_is_lost_or_doubled() {
    use RDKafkaRespErr::*;
    let (cluster, options) = cluster().await;
    let producer = producer(&cluster.bootstrap_servers());
    send(&producer, TOPIC, 0..500);
    // Before there is a group ...
    for (key, errors) in [
        (RDKafkaApiKey::FindCoordinator, &[RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 2][..]),
        (
            RDKafkaApiKey::JoinGroup,
            &[RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, RD_KAFKA_RESP_ERR_NOT_COORDINATOR],
        ),
        (RDKafkaApiKey::SyncGroup, &[RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS]),
        (RDKafkaApiKey::OffsetFetch, &[RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS; 2]),
        (RDKafkaApiKey::ListOffsets, &[RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION]),
    ] {
        cluster.request_errors(key, errors);
    }
    let node = Node::start(options);
    wait_for("all", || (node.values().len() >= 500).then_some(())).await;
    // ... and while it reads.
    for (round, (key, errors)) in [
        (
            RDKafkaApiKey::Fetch,
            &[RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR__TRANSPORT][..],
        ),
        (
            RDKafkaApiKey::Fetch,
            &[RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE],
        ),
        (RDKafkaApiKey::Heartbeat, &[RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION]),
        (RDKafkaApiKey::Heartbeat, &[RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]),
        (RDKafkaApiKey::Heartbeat, &[RD_KAFKA_RESP_ERR_NOT_COORDINATOR]),
        (RDKafkaApiKey::OffsetCommit, &[RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, RD_KAFKA_RESP_ERR__TRANSPORT]),
    ]
    .into_iter()
    .enumerate()
    {
        cluster.request_errors(key, errors);
        let sent = 500 + (round as u32) * 200;
        send(&producer, TOPIC, sent..sent + 200);
        wait_for(&format!("all of round {round}"), || {
            (node.values().len() as u32 >= sent + 200).then_some(())
        })
        .await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.values(), (0..1700).collect::<Vec<_>>());
    node.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_goes_down_and_slow_answers_are_waited_for() {
    let (cluster, options) = cluster().await;
    let producer = producer(&cluster.bootstrap_servers());
    let node = Node::start(options);
    send(&producer, TOPIC, 0..300);
    wait_for("all", || (node.values().len() >= 300).then_some(())).await;
    for broker in 1..=3 {
        cluster.broker_down(broker).unwrap();
    }
    let reason = wait_for("waiting", || match node.source.state() {
        State::Waiting(reason) => Some(reason),
        _ => None,
    });
    assert!(reason.await.contains("down"));
    for broker in 1..=3 {
        cluster.broker_up(broker).unwrap();
        cluster.broker_round_trip_time(broker, Duration::from_millis(150)).unwrap();
    }
    wait_for("running", || (node.source.state() == State::Running).then_some(())).await;
    for partition in 0..3 {
        cluster.partition_leader(TOPIC, partition, Some(1)).unwrap();
    }
    send(&producer, TOPIC, 300..600);
    wait_for("the rest", || (node.values().len() >= 600).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.values(), (0..600).collect::<Vec<_>>());
    node.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cluster_refuses_is_said_and_tried_again() {
    use RDKafkaRespErr::*;
    let (cluster, options) = cluster().await;
    let producer = producer(&cluster.bootstrap_servers());
    send(&producer, TOPIC, 0..100);
    cluster
        .request_errors(RDKafkaApiKey::FindCoordinator, &[RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED; 3]);
    let node = Node::start(options);
    let reason = wait_for("waiting", || match node.source.state() {
        State::Waiting(reason) => Some(reason),
        _ => None,
    });
    let reason = reason.await;
    assert!(reason.to_lowercase().contains("authorization"), "{reason}");
    wait_for("all", || (node.values().len() >= 100).then_some(())).await;
    assert_eq!(node.source.state(), State::Running);
    node.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_yet_is_waited_for() {
    let cluster = MockCluster::new(1).unwrap();
    let node = Node::start(options(&cluster.bootstrap_servers(), "^late.*"));
    wait_for("an answer", || matches!(node.source.state(), State::Waiting(_)).then_some(())).await;
    cluster.create_topic("late-1", 2, 1).unwrap();
    send(&producer(&cluster.bootstrap_servers()), "late-1", 0..50);
    wait_for("all", || (node.values().len() >= 50).then_some(())).await;
    assert_eq!(node.source.state(), State::Running);
    node.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_moves_is_followed_and_nothing_is_lost_or_doubled() {
    let (cluster, options) = cluster().await;
    let producer = producer(&cluster.bootstrap_servers());
    let coordinator = |broker| {
        cluster.coordinator(MockCoordinator::Group(options.group.clone()), broker).unwrap();
    };
    coordinator(1);
    let node = Node::start(options.clone());
    let mut sent = 0;
    for round in 0..6 {
        let broker = round % 3 + 1;
        coordinator(broker);
        // The one before may be gone altogether, and lead nothing any more.
        let before = if broker == 1 { 3 } else { broker - 1 };
        if round % 2 == 1 {
            cluster.broker_down(before).unwrap();
            for partition in 0..3 {
                cluster.partition_leader(TOPIC, partition, Some(broker)).unwrap();
            }
        }
        send(&producer, TOPIC, sent..sent + 300);
        sent += 300;
        wait_for(&format!("all of round {round}"), || (node.values().len() as u32 >= sent).then_some(()))
            .await;
        // What was read is committed with the new one, in time.
        let reader: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", &options.group)
            .create()
            .unwrap();
        let committed = || {
            let mut list = TopicPartitionList::new();
            list.add_partition_range(TOPIC, 0, 2);
            let committed = reader.committed_offsets(list, Duration::from_secs(5)).ok()?;
            let offsets =
                committed.elements().iter().filter_map(|element| element.offset().to_raw()).sum::<i64>();
            (offsets == i64::from(sent)).then_some(())
        };
        wait_for(&format!("the commit of round {round}"), committed).await;
        if round % 2 == 1 {
            cluster.broker_up(before).unwrap();
        }
    }
    assert_eq!(node.values(), (0..sent).collect::<Vec<_>>());
    assert_eq!(node.source.state(), State::Running);
    node.source.stop().await;
}
