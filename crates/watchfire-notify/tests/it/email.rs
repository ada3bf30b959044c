//! Mail, read back from a server that speaks SMTP.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use watchfire_model::Timestamp;
use watchfire_notify::channel::{Channel, Delivering, Kept};
use watchfire_notify::{Outcome, ReceiverConfig, Retry};

/// A server that keeps what it takes.
struct Catcher {
    port: u16,
    mails: Arc<Mutex<Vec<String>>>,
}

impl Catcher {
    /// `answer`: what it says once it has the whole mail.
    async fn start(answer: &'static str) -> Self {
        Self::says(answer, &[]).await
    }

    /// Beside that, to commands that hold one of these texts, the next of its answers each time, and the last from then on.
    async fn says(answer: &'static str, others: &[(&'static str, &[&'static str])]) -> Self {
        let others: Vec<(&str, Vec<&str>)> = others.iter().map(|(of, all)| (*of, all.to_vec())).collect();
        let others = Arc::new(Mutex::new(others));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mails = Arc::new(Mutex::new(Vec::new()));
        let kept = mails.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, others) = (kept.clone(), others.clone());
                let other = move |said: &str| {
                    let mut others = others.lock().unwrap();
                    let (_, answers) = others.iter_mut().find(|(of, _)| said.contains(of))?;
                    Some(if answers.len() > 1 { answers.remove(0) } else { answers[0] })
                };
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let greeting = other("GREETING").unwrap_or("220 catcher\r\n");
                    let _ = stream.write_all(greeting.as_bytes()).await;
                    let (mut mail, mut within, mut line) = (String::new(), false, String::new());
                    while stream.read_line(&mut line).await.is_ok_and(|count| count > 0) {
                        let said = std::mem::take(&mut line);
                        if within && said != ".\r\n" {
                            mail.push_str(said.strip_prefix('.').unwrap_or(&said));
                            continue;
                        }
                        let other = if within { None } else { other(&said) };
                        let answers: &[u8] = match said.split_whitespace().next() {
                            _ if other.is_some() => other.unwrap_or_default().as_bytes(),
                            Some(".") if within => {
                                within = false;
                                let mail = std::mem::take(&mut mail);
                                if answer.starts_with('2') {
                                    kept.lock().unwrap().push(mail);
                                }
                                answer.as_bytes()
                            }
                            Some("EHLO") => b"250-catcher\r\n250 8BITMIME\r\n",
                            Some("DATA") => {
                                within = true;
                                b"354 go on\r\n"
                            }
                            Some("QUIT") => b"221 bye\r\n",
                            _ => b"250 ok\r\n",
                        };
                        if stream.write_all(answers).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, mails }
    }

    fn mails(&self) -> Vec<String> {
        self.mails.lock().unwrap().clone()
    }
}

fn email(port: u16, more: &str) -> Channel {
    let text = format!(
        "name = \"x\"\nemail = {{ host = \"127.0.0.1\", port = {port}, timeout = \"1s\", \
         from = \"Plant <alerts@plant.example>\", to = [\"anna@plant.example\", \"Olé <ole@plant.example>\"]{more} }}"
    );
    let config: ReceiverConfig = toml::from_str(&text).unwrap();
    Channel::check(&config).unwrap();
    Channel::new(&config).unwrap()
}

pub async fn send(channel: &Channel, id: &str, status: &str) -> Outcome {
    let payload = serde_json::json!({
        "version": "4", "groupKey": "{}:{device=\"press-1\"}", "truncatedAlerts": 0, "status": status,
        "receiver": "x", "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {},
        "externalURL": "", "notification_reason": "", "routeLabels": {},
        "alerts": [{
            "status": status, "labels": {"alertname": "hot", "severity": "major"},
            "annotations": {
                "summary": "Bearing überhitzt",
                "description": "Bearing <überhitzt>\nDevice press-1",
                "acknowledge_url": "https://plant.example/a/token",
            },
            "startsAt": "2026-07-01T08:00:00Z", "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "", "fingerprint": "f",
        }],
    });
    let payload = payload.to_string();
    channel
        .send(&Delivering {
            id,
            payload: &payload,
            now: Timestamp(1_767_225_600_000_000),
            thread: &Kept::default(),
        })
        .await
}

/// A header of a mail, unfolded.
fn header(mail: &str, name: &str) -> String {
    let head = mail.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ");
    let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no {name} in\n{mail}")).trim().to_string()
}

#[tokio::test]
async fn the_mails_of_a_group_are_one_thread_and_hold_the_link() {
    let catcher = Catcher::start("250 taken\r\n").await;
    let channel = email(catcher.port, ", tls = \"none\"");
    assert_eq!(send(&channel, "d-1", "firing").await, Outcome::Delivered { status: 250 });
    assert_eq!(send(&channel, "d-2", "resolved").await, Outcome::Delivered { status: 250 });
    // The same delivery once more is the same mail: a program that reads them knows it by its id.
    assert_eq!(send(&channel, "d-1", "firing").await, Outcome::Delivered { status: 250 });
    let mails = catcher.mails();
    let of = |name: &str| mails.iter().map(|mail| header(mail, name)).collect::<Vec<_>>();
    let (ids, threads) = (of("Message-ID"), of("References"));
    assert!(ids[0] != ids[1] && ids[0] == ids[2], "{ids:?}");
    assert!(threads.iter().all(|thread| *thread == threads[0] && thread.ends_with("@plant.example>")));
    assert_eq!(of("In-Reply-To"), threads);
    assert_eq!(of("Auto-Submitted")[0], "auto-generated");
    assert!(of("To")[0].contains("anna@plant.example") && of("To")[0].contains("ole@plant.example"));
    assert!(mails[0].contains("multipart/alternative"));
    let body = mails[0].replace("=\r\n", "");
    assert!(body.contains("Acknowledge: https://plant.example/a/token"), "{body}");
    assert!(body.contains("&lt;=C3=BCberhitzt&gt;") || body.contains("&lt;überhitzt&gt;"), "{body}");
    assert!(!mails[1].contains("/a/token"), "there is nothing to acknowledge");
}

#[tokio::test]
async fn what_a_relay_says_decides_whether_it_is_tried_again() {
    let cases = [
        ("451 later\r\n", Retry::Later(None), 451),
        ("550 nobody here\r\n", Retry::Never, 550),
        ("535 who are you\r\n", Retry::Later(None), 535),
    ];
    for (answer, expected, code) in cases {
        let channel = email(Catcher::start(answer).await.port, ", tls = \"none\"");
        match send(&channel, "d-1", "firing").await {
            Outcome::Failed { retry, status, .. } => assert_eq!((retry, status), (expected, Some(code))),
            other => panic!("{answer}: {other:?}"),
        }
    }
    // No encryption where it is wanted, nobody there, and nothing of TLS.
    let port = Catcher::start("250 taken\r\n").await.port;
    for (port, more) in [(port, ""), (9, ", tls = \"none\""), (port, ", tls = \"implicit\"")] {
        let outcome = send(&email(port, more), "d-1", "firing").await;
        assert!(matches!(outcome, Outcome::Failed { retry: Retry::Later(None), .. }), "{more}: {outcome:?}");
    }
}

const PLAIN: &str = ", tls = \"none\"";

pub fn failed(outcome: Outcome) -> (Retry, String) {
    match outcome {
        Outcome::Failed { retry, error, .. } => (retry, error),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_address_that_is_refused_keeps_the_mail_from_nobody_else() {
    let anna = ("RCPT TO:<anna@", &["550 5.1.1 nobody here\r\n"][..]);
    let catcher = Catcher::says("250 taken\r\n", &[anna]).await;
    let (retry, error) = failed(send(&email(catcher.port, PLAIN), "d-1", "firing").await);
    assert_eq!(retry, Retry::Never);
    assert_eq!(error, "anna@plant.example: answered 550 5.1.1 nobody here; 1 others have it");
    assert_eq!(catcher.mails().len(), 1);
}

#[tokio::test]
async fn what_is_tried_again_goes_to_those_who_do_not_have_it() {
    let anna = ("RCPT TO:<anna@", &["450 later\r\n", "250 ok\r\n"][..]);
    let ole = ("RCPT TO:<ole@", &["250 ok\r\n", "550 he has it already\r\n"][..]);
    let catcher = Catcher::says("250 taken\r\n", &[anna, ole]).await;
    let channel = email(catcher.port, PLAIN);
    let (retry, error) = failed(send(&channel, "d-1", "firing").await);
    assert_eq!(retry, Retry::Later(None), "{error}");
    assert!(error.starts_with("anna@plant.example: answered 450"), "{error}");
    assert_eq!(send(&channel, "d-1", "firing").await, Outcome::Delivered { status: 250 });
    let ids: Vec<_> = catcher.mails().iter().map(|mail| header(mail, "Message-ID")).collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "{ids:?}");
}

#[tokio::test]
async fn what_is_about_the_relay_may_be_put_right() {
    for (of, answer) in [
        ("GREETING", "554 no service\r\n"),
        ("EHLO", "550 who are you\r\n"),
        ("MAIL FROM", "550 not this sender\r\n"),
        ("RCPT TO", "554 5.7.1 relay access denied\r\n"),
        ("DATA", "554 no\r\n"),
    ] {
        let catcher = Catcher::says("250 taken\r\n", &[(of, &[answer][..])]).await;
        let (retry, error) = failed(send(&email(catcher.port, PLAIN), "d-1", "firing").await);
        assert_eq!(retry, Retry::Later(None), "{of}: {error}");
    }
    // A connection that the relay has ended meanwhile is no failure: another one is made.
    let catcher = Catcher::says("250 taken\r\n", &[("NOOP", &["421 too long\r\n"][..])]).await;
    let channel = email(catcher.port, PLAIN);
    for id in ["d-1", "d-2"] {
        assert_eq!(send(&channel, id, "firing").await, Outcome::Delivered { status: 250 });
    }
}

#[test]
fn what_is_wrong_is_said() {
    for (text, said) in [
        ("host = \"\", from = \"a@b.example\", to = [\"a@b.example\"]", "host"),
        ("host = \"h\", from = \"a@b.example\", to = []", "to: names nobody"),
        ("host = \"h\", from = \"anna\", to = [\"a@b.example\"]", "from"),
        ("host = \"h\", from = \"a@b.example\", to = [\"a@b.example\", \"b\"]", "to[1]"),
        (
            "host = \"h\", from = \"a@b.example\", to = [\"a@b.example\"], username = \"u\"",
            "username and password",
        ),
        (
            "host = \"h\", from = \"a@b.example\", to = [\"a@b.example\"], tls = \"none\", username = \"u\", \
             password = \"secret\"",
            "tls: a password",
        ),
        ("host = \"h\", from = \"a@b.example\", to = [\"a@b.example\"], ca = \"/nowhere\"", "ca: /nowhere"),
    ] {
        let config: ReceiverConfig = toml::from_str(&format!("name = \"x\"\nemail = {{ {text} }}")).unwrap();
        let (key, fault) = Channel::check(&config).unwrap_err();
        assert_eq!(key, "email");
        assert!(fault.starts_with(said) && !format!("{fault}{config:?}").contains("secret"), "{fault}");
    }
}
