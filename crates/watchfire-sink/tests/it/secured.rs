//! Kafka over TLS and with logins: a real broker, and certificates of the test.

#[cfg(not(feature = "kafka-tls"))]
#[test]
fn kafka_is_spoken_to_over_tls() {
    watchfire_services::skip(
        "sink-kafka-tls",
        "built without the feature `kafka-tls`, which needs OpenSSL's headers",
    );
}

#[cfg(feature = "kafka-tls")]
mod with_tls {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use watchfire_services::{Failure, Kafka, Secured, or_skip};
    use watchfire_sink::kafka::KafkaConfig;

    use crate::topics::{complete, config_of, read, run};
    use crate::world::*;

    const USER: &str = "watchfire";
    const PASSWORD: &str = "right";

    /// Who signs.
    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        pem: String,
    }

    impl Authority {
        fn new(name: &str) -> Self {
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            Self { issuer: Issuer::new(params, key), pem }
        }

        /// A certificate of a broker, and its key.
        fn sign(&self) -> (String, String) {
            let params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
        }

        fn broker(&self) -> Result<Kafka, Failure> {
            let (certificates, key) = self.sign();
            Kafka::start_secured(Secured {
                certificates: &certificates,
                key: &key,
                users: &[(USER, PASSWORD)],
            })
        }
    }

    /// The file of an authority, in the folder of a world.
    fn trust(world: &World, authority: &Authority) -> String {
        let file = world.folder.path().join("ca.pem");
        std::fs::write(&file, &authority.pem).unwrap();
        file.display().to_string()
    }

    fn secured(kafka: &Kafka, prefix: &str, ca: &str, password: &str, more: &str) -> KafkaConfig {
        let more = format!(
            "security_protocol = 'sasl_ssl'\nssl_ca = '{ca}'\nsasl_username = '{USER}'\nsasl_password = '{password}'\n\
             alerts = false\ndead_letters = false\n{more}"
        );
        config_of(&kafka.secured(), prefix, &more)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_arrives_over_tls_and_a_certificate_that_does_not_fit_is_told() {
        let authority = Authority::new("of the broker");
        let Some(mut kafka) = or_skip("sink-kafka-tls", authority.broker()) else { return };
        for (prefix, more) in [
            ("tls-default", ""),
            ("tls-plain", "sasl_mechanism = 'PLAIN'"),
            ("tls-256", "sasl_mechanism = 'SCRAM-SHA-256'\ntransactional = true"),
        ] {
            let mut world = World::new().await;
            world.register(5).await;
            let config = secured(&kafka, prefix, &trust(&world, &authority), PASSWORD, more);
            let running = run(&world, &config).await;
            world.many(5, 10, 100).await;
            level(&running).await;
            running.stop().await;
            assert_eq!(complete(&read(&kafka.bootstrap(), &format!("{prefix}.readings")), 1000), 0, "{more}");
        }

        // A certificate of an authority that is not trusted, until the file says otherwise: from the start ...
        let mut world = World::new().await;
        world.register(5).await;
        let other = Authority::new("of somebody else");
        let running = run(&world, &secured(&kafka, "tls-other", &trust(&world, &other), PASSWORD, "")).await;
        world.many(5, 1, 100).await;
        says(&running, "tls").await;
        trust(&world, &authority);
        level(&running).await;
        // ... and later.
        let (certificates, key) = other.sign();
        kafka.set_certificate(&certificates, &key).unwrap();
        kafka.kill();
        kafka.restart().unwrap();
        world.many(5, 1, 100).await;
        says(&running, "tls").await;
        trust(&world, &other);
        level(&running).await;
        running.stop().await;
        assert_eq!(complete(&read(&kafka.bootstrap(), "tls-other.readings"), 200), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wrong_password_is_told_and_passes_without_a_restart() {
        let authority = Authority::new("of the broker");
        let Some(mut kafka) = or_skip("sink-kafka-password", authority.broker()) else { return };
        for (prefix, more) in [("login", ""), ("login-tx", "transactional = true")] {
            let mut world = World::new().await;
            world.register(5).await;
            kafka.set_password(USER, "other").unwrap();
            let config = secured(&kafka, prefix, &trust(&world, &authority), PASSWORD, more);
            let running = run(&world, &config).await;
            world.many(5, 1, 100).await;
            says(&running, "credentials").await;
            kafka.set_password(USER, PASSWORD).unwrap();
            level(&running).await;
            // Once more with a producer that has written already: its connections are lost, and no new one is let in.
            kafka.set_password(USER, "other").unwrap();
            kafka.kill();
            kafka.restart().unwrap();
            world.many(5, 1, 100).await;
            says(&running, "credentials").await;
            kafka.set_password(USER, PASSWORD).unwrap();
            level(&running).await;
            running.stop().await;
            assert_eq!(complete(&read(&kafka.bootstrap(), &format!("{prefix}.readings")), 200), 0, "{more}");
        }
    }
}
