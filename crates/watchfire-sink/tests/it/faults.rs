//! Faults that a real Kafka has rarely, injected by librdkafka's own mock cluster.

use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::topics::{complete, config_of, read, run};
use crate::world::*;

fn cluster() -> (MockCluster<'static, DefaultProducerContext>, String) {
    let cluster = MockCluster::new(3).unwrap();
    for (topic, partitions) in [("mock.readings", 4), ("mock.cursors", 1), ("mock.alerts", 1)] {
        cluster.create_topic(topic, partitions, 3).unwrap();
    }
    let brokers = cluster.bootstrap_servers();
    (cluster, brokers)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_brokers_say_in_passing_repeats_nothing() {
    let (cluster, brokers) = cluster();
    let mut world = World::new().await;
    world.register(7).await;
    let config = config_of(&brokers, "mock", "dead_letters = false\ncreate_topics = false");
    let running = run(&world, &config).await;
    use RDKafkaRespErr as Error;
    let mut count = 0;
    for error in [
        Error::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Error::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        Error::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        Error::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
        Error::RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION,
    ] {
        cluster.request_errors(RDKafkaApiKey::Produce, &[error, error, error]);
        world.many(7, 10, 100).await;
        count += 1000;
        level(&running).await;
        assert_eq!(complete(&read(&brokers, "mock.readings"), count), 0, "{error:?}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_refused_for_nobodys_fault_passes_in_order() {
    let (cluster, brokers) = cluster();
    let mut world = World::new().await;
    world.register(7).await;
    let config = config_of(&brokers, "mock", "dead_letters = false\nalerts = false\ncreate_topics = false");
    let mut running = run(&world, &config).await;
    level(&running).await;
    let mut count = 0;
    use RDKafkaRespErr as Error;
    for error in [
        Error::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
        Error::RD_KAFKA_RESP_ERR_INVALID_MSG,
        Error::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        Error::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
        Error::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
    ] {
        cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
        world.many(7, 10, 100).await;
        count += 1000;
        let status = level(&running).await;
        assert_eq!(status.lanes.iter().map(|lane| lane.refused).sum::<u64>(), 0, "{error:?}");
        // What was under way then may be there twice, with one id; `complete` checks it, and the order.
        complete(&read(&brokers, "mock.readings"), count);
        if error == Error::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED {
            running.stop().await;
            running = run(&world, &config).await;
        }
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_write_is_told_and_goes_on_once_allowed() {
    let (cluster, brokers) = cluster();
    let mut world = World::new().await;
    world.register(7).await;
    let config = config_of(&brokers, "mock", "dead_letters = false\nalerts = false\ncreate_topics = false");
    let running = run(&world, &config).await;
    level(&running).await;
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 40],
    );
    world.many(7, 10, 100).await;
    says(&running, "not-permitted").await;
    cluster.clear_request_errors(RDKafkaApiKey::Produce);
    level(&running).await;
    complete(&read(&brokers, "mock.readings"), 1000);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_brokers_are_waited_for_and_lost_ones_told_of() {
    let (cluster, brokers) = cluster();
    let mut world = World::new().await;
    world.register(7).await;
    let config = config_of(&brokers, "mock", "dead_letters = false\nalerts = false\ncreate_topics = false");
    let running = run(&world, &config).await;
    level(&running).await;
    for broker in 1..=3 {
        cluster.broker_round_trip_time(broker, Duration::from_millis(1500)).unwrap();
    }
    world.many(7, 10, 100).await;
    level(&running).await;
    for broker in 1..=3 {
        cluster.broker_round_trip_time(broker, Duration::from_millis(1)).unwrap();
        cluster.broker_down(broker).unwrap();
    }
    world.many(7, 10, 100).await;
    says(&running, "unreachable").await;
    for broker in 1..=3 {
        cluster.broker_up(broker).unwrap();
    }
    level(&running).await;
    assert_eq!(complete(&read(&brokers, "mock.readings"), 2000), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_told_and_waited_for() {
    let (cluster, brokers) = cluster();
    let mut world = World::new().await;
    world.register(7).await;
    let config = config_of(&brokers, "mock", "dead_letters = false\nalerts = false\ncreate_topics = false");
    let running = run(&world, &config).await;
    level(&running).await;
    let quota = RDKafkaRespErr::RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED;
    cluster.request_errors(RDKafkaApiKey::Produce, &[quota; 40]);
    world.many(7, 10, 100).await;
    says(&running, "throttled").await;
    cluster.clear_request_errors(RDKafkaApiKey::Produce);
    let status = level(&running).await;
    assert_eq!(status.lanes.iter().map(|lane| lane.refused).sum::<u64>(), 0);
    // What was under way then may be there twice, with one id; `complete` checks it, and the order.
    complete(&read(&brokers, "mock.readings"), 1000);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_acknowledges_too_late_is_told_of_and_nothing_is_sent_again() {
    let (cluster, brokers) = cluster();
    let mut world = World::new().await;
    world.register(7).await;
    let config = config_of(&brokers, "mock", "dead_letters = false\nalerts = false\ncreate_topics = false");
    let running = run(&world, &config).await;
    level(&running).await;
    for broker in 1..=3 {
        cluster.broker_round_trip_time(broker, Duration::from_secs(14)).unwrap();
    }
    world.many(7, 10, 100).await;
    says(&running, "slow").await;
    for broker in 1..=3 {
        cluster.broker_round_trip_time(broker, Duration::from_millis(1)).unwrap();
    }
    level(&running).await;
    assert_eq!(complete(&read(&brokers, "mock.readings"), 1000), 0);
    running.stop().await;
}
