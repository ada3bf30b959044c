//! `[source.kafka]` over TLS and with a login: a real broker, and certificates of the test.

#[cfg(not(feature = "kafka-tls"))]
#[test]
fn kafka_is_read_over_tls() {
    watchfire_services::skip(
        "source-kafka-tls",
        "built without the feature `kafka-tls`, which needs OpenSSL's headers",
    );
}

#[cfg(feature = "kafka-tls")]
mod with_tls {
    use std::path::Path;
    use std::time::Duration;

    use rcgen::{DnType, SanType};
    use watchfire_ingest::board::State;
    use watchfire_ingest::kafka::{KafkaOptions, KafkaSasl, KafkaTls};
    use watchfire_services::{Failure, Kafka, Secured, or_skip};

    use crate::certificates::Authority;
    use crate::kafka::{Node, create, options, producer, send, wait_for};

    const USER: &str = "watchfire";
    const PASSWORD: &str = "right";

    fn broker(authority: &Authority) -> Result<Kafka, Failure> {
        let (certificate, key) = authority.issue(7, |params| {
            params.distinguished_name.push(DnType::CommonName, "broker");
            params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        });
        let (certificates, key, users) = (&certificate.pem(), &key.serialize_pem(), &[(USER, PASSWORD)]);
        Kafka::start_secured(Secured { certificates, key, users })
    }

    fn secured(kafka: &Kafka, topic: &str, ca: &Path, mechanism: &str, password: &str) -> KafkaOptions {
        let sasl = format!("mechanism = '{mechanism}'\nusername = '{USER}'\npassword = '{password}'");
        KafkaOptions {
            tls: Some(KafkaTls { ca: Some(ca.to_owned()), ..KafkaTls::default() }),
            sasl: Some(toml::from_str::<KafkaSasl>(&sasl).unwrap()),
            ..options(&kafka.secured(), topic)
        }
    }

    /// Waits until it waits, and says why in these words.
    async fn says(node: &Node, words: &str) {
        let says = || matches!(node.source.state(), State::Waiting(reason) if reason.contains(words));
        wait_for(words, || says().then_some(())).await;
        // A broker that lets nobody in is not one that is down: the reason stays what it is.
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(says(), "{:?} instead of {words}", node.source.state());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn records_arrive_over_tls_and_what_does_not_fit_is_said_until_it_does() {
        let authority = Authority::new("of the broker");
        let Some(mut kafka) = or_skip("source-kafka-tls", broker(&authority)) else { return };
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, &authority.pem).unwrap();
        let producer = producer(&kafka.bootstrap());

        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            create(&kafka.bootstrap(), mechanism, 2).await;
            send(&producer, mechanism, 0..200);
            let node = Node::start(secured(&kafka, mechanism, &ca, mechanism, PASSWORD));
            wait_for(mechanism, || (node.values().len() >= 200).then_some(())).await;
            wait_for("running", || (node.source.state() == State::Running).then_some(())).await;
            node.source.stop().await;
        }

        // A password that is wrong from the start, and is right once the broker has it too.
        let topic = "login";
        create(&kafka.bootstrap(), topic, 2).await;
        send(&producer, topic, 0..200);
        let node = Node::start(secured(&kafka, topic, &ca, "SCRAM-SHA-512", "new"));
        says(&node, "uthentication").await;
        kafka.set_password(USER, "new").unwrap();
        wait_for("all", || (node.values().len() >= 200).then_some(())).await;
        wait_for("running", || (node.source.state() == State::Running).then_some(())).await;
        // And one that the broker forgets while it is away.
        kafka.set_password(USER, "other").unwrap();
        kafka.kill();
        kafka.restart().unwrap();
        says(&node, "uthentication").await;
        kafka.set_password(USER, "new").unwrap();
        send(&producer, topic, 200..400);
        wait_for("the rest", || (node.values().len() >= 400).then_some(())).await;
        wait_for("running", || (node.source.state() == State::Running).then_some(())).await;
        assert_eq!(node.values(), (0..400).collect::<Vec<_>>());
        node.source.stop().await;

        // A certificate of an authority that is not trusted, until the file says otherwise.
        let topic = "authority";
        create(&kafka.bootstrap(), topic, 2).await;
        send(&producer, topic, 0..200);
        std::fs::write(&ca, &Authority::new("of somebody else").pem).unwrap();
        let node = Node::start(secured(&kafka, topic, &ca, "SCRAM-SHA-512", "new"));
        says(&node, "certificate").await;
        std::fs::write(&ca, &authority.pem).unwrap();
        wait_for("all", || (node.values().len() >= 200).then_some(())).await;
        wait_for("running", || (node.source.state() == State::Running).then_some(())).await;
        assert_eq!(node.values(), (0..200).collect::<Vec<_>>());
        node.source.stop().await;
    }
}
