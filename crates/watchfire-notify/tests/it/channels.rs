//! What every channel sends, and what it makes of every answer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use watchfire_model::Timestamp;
use watchfire_notify::channel::payload::{Alert, Message};
use watchfire_notify::channel::{Channel, Delivering, Kept, Thread};
use watchfire_notify::stages::digest::Summary;
use watchfire_notify::{Outcome, ReceiverConfig, Retry};

/// A server that answers requests in order, the last answer from then on, and keeps what it was sent.
pub struct Server {
    pub address: String,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    pub async fn start(answer: &'static [u8], wait: Duration) -> Self {
        Self::answering(vec![answer], wait).await
    }

    pub async fn answering(answers: Vec<&'static [u8]>, wait: Duration) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = bodies.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (kept, answers) = (kept.clone(), answers.clone());
                tokio::spawn(async move {
                    let (mut bytes, mut part) = (Vec::new(), [0; 8192]);
                    let body = loop {
                        let Ok(count @ 1..) = stream.read(&mut part).await else { return };
                        bytes.extend_from_slice(&part[..count]);
                        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                            continue;
                        };
                        // The whole of a JSON body can be read, and no part of it.
                        if let Ok(body) = serde_json::from_slice(&bytes[end + 4..]) {
                            break body;
                        }
                    };
                    let answer = {
                        let mut kept = kept.lock().unwrap();
                        kept.push(body);
                        answers[(kept.len() - 1).min(answers.len() - 1)]
                    };
                    tokio::time::sleep(wait).await;
                    let _ = stream.write_all(answer).await;
                });
            }
        });
        Self { address, bodies }
    }

    pub fn bodies(&self) -> Vec<Value> {
        self.bodies.lock().unwrap().clone()
    }
}

const CHANNELS: [&str; 7] = [
    "webhook = { url = \"URL\", timeout = \"500ms\" }",
    "slack = { url = \"URL\", timeout = \"500ms\" }",
    "teams = { url = \"URL\", timeout = \"500ms\" }",
    "pagerduty = { routing_key = \"0123456789abcdef0123456789abcdef\", url = \"URL\", timeout = \"500ms\" }",
    "telegram = { url = \"URL\", token = \"1:a-b_c\", chat_id = \"@plant\", timeout = \"500ms\" }",
    "ntfy = { url = \"URL\", topic = \"plant-7\", timeout = \"500ms\" }",
    "alertmanager = { urls = [\"URL\"], timeout = \"500ms\" }",
];

fn channel(text: &str, url: &str) -> Channel {
    let config: ReceiverConfig =
        toml::from_str(&format!("name = \"x\"\n{}", text.replace("URL", url))).unwrap();
    Channel::check(&config).unwrap();
    Channel::new(&config).unwrap()
}

fn message(alerts: Vec<Alert>) -> Message {
    let status = if alerts.iter().any(|alert| alert.status == "firing") { "firing" } else { "resolved" };
    Message {
        version: "4".into(),
        group_key: "{}:{}".into(),
        truncated_alerts: 0,
        status: status.into(),
        receiver: "x".into(),
        group_labels: Default::default(),
        common_labels: alerts[0].labels.clone(),
        common_annotations: Default::default(),
        external_url: "https://plant.example".into(),
        notification_reason: "first notification".into(),
        route_labels: Default::default(),
        alerts,
        digest: None,
    }
}

fn alert(device: &str, fires: bool) -> Alert {
    let labels = [("alertname", "hot"), ("device", device), ("severity", "critical")];
    let annotations = [
        ("summary", "Bearing <too> hot & rising"),
        ("description", "Bearing <too> hot & rising\nDevice press-1"),
        ("alert_url", "https://plant.example/api/v1/alerts/7"),
        ("acknowledge_url", "https://plant.example/a/token"),
    ];
    let own = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    Alert {
        status: if fires { "firing" } else { "resolved" }.into(),
        labels: own(&labels),
        annotations: own(&annotations),
        starts_at: "2026-07-01T08:00:00Z".into(),
        ends_at: "0001-01-01T00:00:00Z".into(),
        generator_url: String::new(),
        fingerprint: format!("f-{device}"),
        response: None,
    }
}

async fn send(channel: &Channel, message: &Message) -> Outcome {
    let payload = serde_json::to_string(message).unwrap();
    channel
        .send(&Delivering {
            id: "d-1",
            payload: &payload,
            now: Timestamp(1_767_225_600_000_000),
            thread: &Kept::default(),
        })
        .await
}

#[tokio::test]
async fn every_channel_makes_the_same_of_an_answer() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let later = |seconds: Option<u64>| Some(Retry::Later(seconds.map(Duration::from_secs)));
    let cases: [(&'static [u8], u64, Option<Retry>); 10] = [
        (OK, 0, None),
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", 0, None),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", 0, Some(Retry::Never)),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", 0, later(None)),
        (b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", 0, later(None)),
        (b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", 0, Some(Retry::Never)),
        (b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", 0, later(Some(7))),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 0, later(None)),
        // The service died while it answered.
        (b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nhalf", 0, later(None)),
        (OK, 2000, later(None)),
    ];
    for (answer, wait, expected) in cases {
        let server = Server::start(answer, Duration::from_millis(wait)).await;
        for text in CHANNELS {
            let channel = channel(text, &server.address);
            let outcome = send(&channel, &message(vec![alert("press-1", true)])).await;
            let found = match &outcome {
                Outcome::Delivered { .. } => None,
                Outcome::Failed { retry, .. } => Some(*retry),
            };
            assert_eq!(
                found,
                expected,
                "{} on {}: {outcome:?}",
                channel.name(),
                String::from_utf8_lossy(answer)
            );
        }
        assert_eq!(server.bodies().len(), CHANNELS.len());
    }
    // Nobody listens, and TLS where there is none.
    for text in CHANNELS {
        for url in [
            "http://127.0.0.1:9".to_string(),
            Server::start(OK, Duration::ZERO).await.address.replace("http", "https"),
        ] {
            let outcome = send(&channel(text, &url), &message(vec![alert("press-1", true)])).await;
            assert!(
                matches!(outcome, Outcome::Failed { retry: Retry::Later(None), .. }),
                "{url}: {outcome:?}"
            );
        }
    }
}

async fn bodies(text: &str, message: &Message) -> Vec<Value> {
    let server = Server::start(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Duration::ZERO).await;
    assert!(matches!(send(&channel(text, &server.address), message).await, Outcome::Delivered { .. }));
    server.bodies()
}

#[tokio::test]
async fn people_read_what_and_where_and_can_acknowledge() {
    let firing = message(vec![alert("press-1", true)]);
    let over = message(vec![alert("press-1", false)]);
    let slack = bodies(CHANNELS[1], &firing).await.remove(0);
    assert_eq!(slack["text"], "CRITICAL press-1: Bearing &lt;too&gt; hot &amp; rising");
    assert_eq!(slack["blocks"][0]["text"]["text"], "CRITICAL press-1: Bearing <too> hot & rising");
    let said = slack["blocks"][1]["text"]["text"].as_str().unwrap();
    assert!(
        said.contains("Bearing &lt;too&gt;") && said.ends_with("<https://plant.example/a/token|Acknowledge>")
    );
    let over_there = bodies(CHANNELS[1], &over).await.remove(0);
    assert_eq!(over_there["text"], "RESOLVED press-1: Bearing &lt;too&gt; hot &amp; rising");
    assert!(!over_there.to_string().contains("/a/token"), "there is nothing to acknowledge");

    let card = bodies(CHANNELS[2], &firing).await.remove(0)["attachments"][0]["content"].take();
    assert_eq!((&card["type"], &card["body"][0]["color"]), (&json!("AdaptiveCard"), &json!("attention")));
    assert_eq!(card["actions"][0]["url"], "https://plant.example/a/token");

    let telegram = bodies(CHANNELS[4], &firing).await.remove(0);
    assert_eq!((&telegram["chat_id"], &telegram["parse_mode"]), (&json!("@plant"), &json!("HTML")));
    let text = telegram["text"].as_str().unwrap();
    assert!(text.starts_with("<b>CRITICAL press-1: Bearing &lt;too&gt; hot &amp; rising</b>"), "{text}");

    let ntfy = bodies(CHANNELS[5], &firing).await.remove(0);
    assert_eq!((&ntfy["topic"], &ntfy["priority"]), (&json!("plant-7"), &json!(5)));
    assert_eq!(ntfy["actions"][0]["url"], "https://plant.example/a/token");
    assert_eq!(bodies(CHANNELS[5], &over).await[0]["priority"], 2);
}

#[tokio::test]
async fn an_incident_is_triggered_acknowledged_and_resolved_under_one_key() {
    let both = message(vec![alert("press-1", true), alert("press-2", false)]);
    let events = bodies(CHANNELS[3], &both).await;
    let of = |event: &Value| (event["event_action"].clone(), event["dedup_key"].clone());
    assert_eq!(
        events.iter().map(of).collect::<Vec<_>>(),
        [(json!("trigger"), json!("f-press-1")), (json!("resolve"), json!("f-press-2")),]
    );
    assert_eq!(
        (&events[0]["payload"]["severity"], &events[0]["payload"]["source"]),
        (&json!("critical"), &json!("press-1"))
    );
    let known = Alert { response: Some("acknowledged".into()), ..alert("press-1", true) };
    assert_eq!(
        of(&bodies(CHANNELS[3], &message(vec![known])).await[0]),
        (json!("acknowledge"), json!("f-press-1"))
    );
}

// Each request on a connection of its own: the answers are in the order of requests.
const TAKEN: &[u8] = b"HTTP/1.1 202 Accepted\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const REFUSED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const SLOW: &[u8] = b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn an_incident_that_is_refused_keeps_no_other_back_and_none_is_sent_twice() {
    let server = Server::answering(vec![TAKEN, REFUSED, SLOW, TAKEN], Duration::ZERO).await;
    let channel = channel(CHANNELS[3], &server.address);
    let four = message(["a", "b", "c", "d"].map(|device| alert(device, true)).to_vec());
    let first = send(&channel, &four).await;
    let rest = Retry::Later(Some(Duration::from_secs(7)));
    assert!(matches!(first, Outcome::Failed { retry, .. } if retry == rest), "{first:?}");
    let second = send(&channel, &four).await;
    let Outcome::Failed { retry: Retry::Never, status: Some(400), error } = second else {
        panic!("{second:?}")
    };
    assert!(error.starts_with("1 of 4 events: "), "{error}");
    let keys: Vec<_> = server.bodies().iter().map(|event| event["dedup_key"].clone()).collect();
    assert_eq!(keys, [json!("f-a"), json!("f-b"), json!("f-c"), json!("f-c"), json!("f-d")]);
}

#[tokio::test]
async fn what_a_device_is_called_formats_nothing() {
    let mut odd = alert("press-1", true);
    odd.annotations.insert("description".into(), "press_1 *hot* [here](http://a)\nand on".into());
    let card = bodies(CHANNELS[2], &message(vec![odd])).await.remove(0)["attachments"][0]["content"].take();
    assert_eq!(card["body"][1]["text"], "press\\_1 \\*hot\\* \\[here\\](http://a)\n\nand on");
}

#[tokio::test]
async fn a_chat_that_moved_is_followed() {
    let moved: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 49\r\n\r\n\
        {\"parameters\":{\"migrate_to_chat_id\":-1001234567}}";
    let server = Server::answering(vec![moved, TAKEN], Duration::ZERO).await;
    let channel = channel(CHANNELS[4], &server.address);
    let first = send(&channel, &message(vec![alert("press-1", true)])).await;
    let Outcome::Failed { retry: Retry::Later(None), error, .. } = first else { panic!("{first:?}") };
    assert!(error.contains("-1001234567"), "{error}");
    assert!(matches!(
        send(&channel, &message(vec![alert("press-1", true)])).await,
        Outcome::Delivered { .. }
    ));
    assert_eq!(server.bodies()[1]["chat_id"], "-1001234567");
}

#[tokio::test]
async fn a_bot_changes_its_message_while_the_group_goes_on() {
    const POSTED: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 40\r\n\r\n\
        {\"ok\":true,\"channel\":\"C1\",\"ts\":\"17.25\"} ";
    const MISSING: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 40\r\n\r\n\
        {\"ok\":false,\"error\":\"message_not_found\"}";
    let bot = "slack = { url = \"URL\", token = \"xoxb-1\", channel = \"#plant\", timeout = \"500ms\" }";
    // What is sent with what was kept; what is kept from then on, and what was sent.
    let tell = async |answers: Vec<&'static [u8]>, before: Option<&str>, message: &Message| {
        let server = Server::answering(answers, Duration::ZERO).await;
        let payload = serde_json::to_string(message).unwrap();
        let kept = Kept::new(before.map(String::from));
        let now = Timestamp(1_767_225_600_000_000);
        let delivering = Delivering { id: "d-1", payload: &payload, now, thread: &kept };
        let outcome = channel(bot, &server.address).send(&delivering).await;
        assert!(matches!(outcome, Outcome::Delivered { .. }), "{outcome:?}");
        (kept.after(), server.bodies())
    };
    let (firing, over) = (message(vec![alert("press-1", true)]), message(vec![alert("press-1", false)]));
    let (kept, sent) = tell(vec![POSTED], None, &firing).await;
    let place = "{\"channel\":\"C1\",\"ts\":\"17.25\"}";
    assert_eq!(kept, Some(Thread::Keep(place.into())));
    assert_eq!(sent[0]["channel"], "#plant");
    // What fires anew changes the message, and calls people in its thread.
    let (kept, sent) = tell(vec![POSTED], Some(place), &firing).await;
    assert_eq!((kept, sent.len()), (Some(Thread::Keep(place.into())), 2));
    assert_eq!((&sent[0]["channel"], &sent[0]["ts"]), (&json!("C1"), &json!("17.25")));
    assert_eq!((&sent[1]["thread_ts"], &sent[1]["reply_broadcast"]), (&json!("17.25"), &json!(true)));
    // What somebody did is shown where the message is, and calls nobody.
    let mut known = alert("press-1", true);
    known.response = Some("acknowledged".into());
    known.annotations.insert("response_by".into(), "anna".into());
    let known = Message { notification_reason: "response changed".into(), ..message(vec![known]) };
    let (_, sent) = tell(vec![POSTED], Some(place), &known).await;
    let said = sent[0]["blocks"][1]["text"]["text"].as_str().unwrap();
    assert!(sent.len() == 1 && said.contains("_acknowledged by anna_"), "{sent:?}");
    // Its end is the end of the message; the next time there is another one.
    let (kept, sent) = tell(vec![POSTED], Some(place), &over).await;
    assert_eq!((kept, sent.len(), &sent[0]["ts"]), (Some(Thread::End), 1, &json!("17.25")));
    // Each digest tells of something else: none is changed into the next.
    let digest = Message { digest: Some(Summary::default()), ..firing.clone() };
    let (kept, sent) = tell(vec![POSTED], Some(place), &digest).await;
    assert_eq!((kept, &sent[0]["channel"], &sent[0]["ts"]), (None, &json!("#plant"), &Value::Null));
    // Somebody deleted it.
    let (kept, sent) = tell(vec![MISSING, POSTED], Some(place), &firing).await;
    assert_eq!((kept, sent.len()), (Some(Thread::Keep(place.into())), 2));
    assert_eq!((&sent[1]["channel"], &sent[1]["ts"]), (&json!("#plant"), &Value::Null));
}

#[tokio::test]
async fn one_alertmanager_that_takes_it_is_enough_and_what_fires_ends_later() {
    let server = Server::start(TAKEN, Duration::ZERO).await;
    let both = format!(
        "alertmanager = {{ urls = [\"http://127.0.0.1:9\", \"{}/\"], timeout = \"500ms\" }}",
        server.address
    );
    let channel = channel(&both, "");
    let both = message(vec![alert("press-1", true), alert("press-2", false)]);
    assert!(matches!(send(&channel, &both).await, Outcome::Delivered { .. }));
    let posted = &server.bodies()[0];
    assert_eq!(posted[0]["labels"]["device"], "press-1");
    // Four intervals of a minute ahead; and what is over keeps its own end.
    assert_eq!(posted[0]["endsAt"], "2026-01-01T00:04:00.000000Z");
    assert_eq!(posted[1]["endsAt"], "0001-01-01T00:00:00Z");
    assert_eq!(posted[0]["annotations"]["acknowledge_url"], Value::Null);
}

#[tokio::test]
async fn what_is_long_is_cut_to_what_each_takes() {
    let mut long = alert("press-1", true);
    long.annotations.insert("description".into(), "é".repeat(20_000));
    long.annotations.insert("summary".into(), "ü".repeat(5000));
    let many = message(vec![long; 300]);
    // These two carry to a program, which has no such bound.
    let read = |text: &&&str| !text.starts_with("webhook") && !text.starts_with("alertmanager");
    for text in CHANNELS.iter().filter(read) {
        let bodies = bodies(text, &many).await;
        let most = bodies.iter().map(|body| body.to_string().len()).max().unwrap();
        assert!(most < 28_000, "{text}: {most} bytes");
    }
}

#[test]
fn what_is_wrong_with_a_channel_is_said_without_its_secrets() {
    for (text, place, said) in [
        ("", "", "has no channel"),
        (
            "webhook = { url = \"http://a\" }\nntfy = { url = \"http://a\", topic = \"t\" }",
            "",
            "several channels (webhook, ntfy)",
        ),
        ("slack = { url = \"hooks.slack.com/secret\" }", "slack", "url"),
        ("pagerduty = { routing_key = \"secret\" }", "pagerduty", "routing_key: is 32"),
        ("telegram = { token = \"secret\", chat_id = \"\" }", "telegram", "chat_id"),
        ("ntfy = { url = \"http://a\", topic = \"a/secret\" }", "ntfy", "topic: is 1 to 64"),
        ("alertmanager = { urls = [] }", "alertmanager", "urls: names no"),
        ("alertmanager = { urls = [\"http://a\", \"am:secret\"] }", "alertmanager", "urls[1]: "),
        ("alertmanager = { urls = [\"http://a\"], resend = \"1ms\" }", "alertmanager", "resend: "),
        (
            "webhook = { url = \"http://a\", content_type = \"text\" }",
            "webhook",
            "content_type: \"text\" is no media type",
        ),
    ] {
        let config: ReceiverConfig = toml::from_str(&format!("name = \"x\"\n{text}")).unwrap();
        let (key, fault) = Channel::check(&config).unwrap_err();
        assert_eq!(key, place, "{fault}");
        assert!(fault.contains(said) && !fault.contains("secret"), "{fault}");
        assert!(!format!("{config:?}").contains("secret"), "{config:?}");
    }
}
