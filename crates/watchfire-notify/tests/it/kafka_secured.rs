//! Events on a topic of Kafka over TLS and with a login: a real broker, and certificates of the test.

#[cfg(not(feature = "kafka-tls"))]
#[test]
fn events_are_sent_over_tls() {
    watchfire_services::skip(
        "channel-kafka-tls",
        "built without the feature `kafka-tls`, which needs OpenSSL's headers",
    );
}

#[cfg(feature = "kafka-tls")]
mod with_tls {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use watchfire_notify::Outcome;
    use watchfire_notify::channel::Channel;
    use watchfire_services::{Failure, Kafka, Secured, or_skip};

    use crate::authority::Authority;
    use crate::outlets::{alert, channel, later, make, read, send};

    const USER: &str = "watchfire";
    const PASSWORD: &str = "right";

    fn broker(authority: &Authority) -> Result<Kafka, Failure> {
        let (certificates, key) = authority.sign("127.0.0.1");
        let users = &[(USER, PASSWORD)];
        Kafka::start_secured(Secured { certificates: &certificates, key: &key, users })
    }

    fn secured(kafka: &Kafka, topic: &str, ca: &Path, more: &str) -> Channel {
        channel(&format!(
            "kafka = {{ brokers = '{}', topic = '{topic}', timeout = '5s', security_protocol = 'sasl_ssl', \
             ssl_ca = {ca:?}, sasl_username = '{USER}'{more} }}",
            kafka.secured()
        ))
    }

    /// Once whatever stood in the way is mended. A broker needs a moment for it.
    async fn passes(channel: &Channel, id: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match send(channel, id, vec![alert("press-1", true)]).await {
                Outcome::Delivered { .. } => return,
                other => assert!(Instant::now() < deadline, "{other:?}"),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn events_arrive_over_tls_and_what_does_not_fit_is_told_until_it_does() {
        let authority = Authority::new("of the broker");
        let Some(mut kafka) = or_skip("channel-kafka-tls", broker(&authority)) else { return };
        let folder = tempfile::tempdir().unwrap();
        let ca = authority.trusted_in(folder.path());
        make(&kafka.bootstrap(), "secured", &[]).await;
        let right = format!(", sasl_password = '{PASSWORD}'");
        for (id, more) in [
            ("default", ""),
            ("plain", ", sasl_mechanism = 'PLAIN'"),
            ("scram-256", ", sasl_mechanism = 'SCRAM-SHA-256'"),
        ] {
            passes(&secured(&kafka, "secured", &ca, &format!("{right}{more}")), id).await;
        }

        // A password that is wrong until its file says otherwise, and one that the broker does not know any more.
        let password = folder.path().join("password");
        std::fs::write(&password, "other\n").unwrap();
        let login = secured(&kafka, "secured", &ca, &format!(", sasl_password = {{ file = {password:?} }}"));
        let said = later(&login, vec![alert("press-1", true)]).await;
        assert!(said.starts_with("credentials") && !said.contains("other"), "{said}");
        std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
        passes(&login, "login").await;
        kafka.set_password(USER, "new").unwrap();
        kafka.kill();
        kafka.restart().unwrap();
        let said = later(&login, vec![alert("press-1", true)]).await;
        assert!(said.starts_with("credentials"), "{said}");
        kafka.set_password(USER, PASSWORD).unwrap();
        passes(&login, "login-again").await;

        // An authority that is not trusted, until its file says otherwise.
        Authority::new("of somebody else").trusted_in(folder.path());
        let other = secured(&kafka, "secured", &ca, &right);
        let said = later(&other, vec![alert("press-1", true)]).await;
        assert!(said.starts_with("tls"), "{said}");
        authority.trusted_in(folder.path());
        passes(&other, "authority").await;

        let got = read(&kafka.bootstrap(), "secured").await;
        let ids: Vec<_> = got.iter().map(|one| one.headers["ce_id"].trim_end_matches("-f-press-1")).collect();
        assert_eq!(ids, ["default", "plain", "scram-256", "login", "login-again", "authority"]);
    }
}
