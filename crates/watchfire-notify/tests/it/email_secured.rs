//! Mail over TLS and with a login: to a relay that has a certificate, and wants to know who writes.

use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use watchfire_notify::channel::Channel;
use watchfire_notify::{Outcome, ReceiverConfig, Retry};

use crate::authority::Authority;
use crate::email::{failed, send};

const HOST: &str = "127.0.0.1";
const USER: &str = "watchfire";
const PASSWORD: &str = "open sesame";
const TAKEN: Outcome = Outcome::Delivered { status: 250 };

/// What a relay is like.
#[derive(Clone, Copy)]
struct Like {
    /// TLS from the first byte.
    implicit: bool,
    /// It offers STARTTLS.
    offers: bool,
    /// How it lets log in.
    mechanism: &'static str,
}

const STARTTLS: Like = Like { implicit: false, offers: true, mechanism: "PLAIN" };
const IMPLICIT: Like = Like { implicit: true, ..STARTTLS };

/// What came.
#[derive(Default)]
struct Came {
    /// Commands before TLS: what everybody on the way can read.
    clear: Vec<String>,
    /// Mails, each from somebody who has logged in.
    mails: Vec<String>,
    connections: usize,
}

/// A relay that takes mail from those who log in, and lets them do that over TLS alone.
struct Relay {
    port: u16,
    came: Arc<Mutex<Came>>,
    acceptor: Arc<Mutex<TlsAcceptor>>,
    password: Arc<Mutex<&'static str>>,
}

impl Relay {
    async fn start(like: Like, certificate: (String, String)) -> Self {
        let listener = tokio::net::TcpListener::bind((HOST, 0)).await.unwrap();
        let relay = Self {
            port: listener.local_addr().unwrap().port(),
            came: Arc::default(),
            acceptor: Arc::new(Mutex::new(acceptor(&certificate))),
            password: Arc::new(Mutex::new(PASSWORD)),
        };
        let (came, acceptor, password) = (relay.came.clone(), relay.acceptor.clone(), relay.password.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                came.lock().unwrap().connections += 1;
                let acceptor = acceptor.lock().unwrap().clone();
                let session = Session { like, came: came.clone(), password: password.clone() };
                tokio::spawn(async move {
                    let clear = match like.implicit {
                        true => Some(stream),
                        false => session.serve(stream, false).await,
                    };
                    let Some(clear) = clear else { return };
                    // Whoever does not like the certificate goes away.
                    if let Ok(stream) = acceptor.accept(clear).await {
                        session.serve(stream, true).await;
                    }
                });
            }
        });
        relay
    }

    fn mails(&self) -> usize {
        self.came.lock().unwrap().mails.len()
    }

    /// Nothing was said in clear but who we are and that we want TLS.
    fn kept_quiet(&self) {
        for said in &self.came.lock().unwrap().clear {
            let known = ["EHLO", "STARTTLS", "QUIT"].iter().any(|command| said.starts_with(command));
            assert!(known, "{said:?} in clear");
        }
    }
}

fn acceptor((certificates, key): &(String, String)) -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(certificates.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// One connection of a relay.
struct Session {
    like: Like,
    came: Arc<Mutex<Came>>,
    password: Arc<Mutex<&'static str>>,
}

impl Session {
    /// Until the connection ends, or goes on over TLS: then it is given back.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, encrypted: bool) -> Option<S> {
        let mut stream = BufReader::new(stream);
        if !encrypted || self.like.implicit {
            stream.write_all(b"220 relay\r\n").await.ok()?;
        }
        let mut known = false;
        loop {
            let said = line(&mut stream).await?;
            if !encrypted {
                self.came.lock().unwrap().clear.push(said.clone());
            }
            let mut words = said.split(' ');
            let answer = match (words.next(), encrypted) {
                (Some("EHLO"), false) if self.like.offers => {
                    "250-relay\r\n250-8BITMIME\r\n250 STARTTLS".into()
                }
                (Some("EHLO"), false) => "250-relay\r\n250 8BITMIME".into(),
                (Some("EHLO"), true) => {
                    format!("250-relay\r\n250-8BITMIME\r\n250 AUTH {}", self.like.mechanism)
                }
                (Some("STARTTLS"), false) if self.like.offers => {
                    stream.write_all(b"220 go on\r\n").await.ok()?;
                    return Some(stream.into_inner());
                }
                (Some("AUTH"), true) => {
                    known = self.login(&mut stream, words.nth(1)).await?;
                    if known { "235 welcome" } else { "535 5.7.8 who are you" }.into()
                }
                (Some("MAIL"), _) if !known => "530 5.7.0 log in first".into(),
                (Some("DATA"), true) => {
                    stream.write_all(b"354 go on\r\n").await.ok()?;
                    let mut mail = String::new();
                    loop {
                        match line(&mut stream).await?.as_str() {
                            "." => break,
                            more => mail.extend([more, "\n"]),
                        }
                    }
                    self.came.lock().unwrap().mails.push(mail);
                    "250 taken".into()
                }
                (Some("QUIT"), _) => "221 bye".into(),
                _ => String::from("250 ok"),
            };
            stream.write_all(format!("{answer}\r\n").as_bytes()).await.ok()?;
        }
    }

    /// Whether user and password are right (RFC 4954; RFC 4616 for PLAIN).
    async fn login<S>(&self, stream: &mut BufReader<S>, first: Option<&str>) -> Option<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let right = *self.password.lock().unwrap();
        if self.like.mechanism == "PLAIN" {
            return Some(decoded(first?)? == format!("\0{USER}\0{right}"));
        }
        let mut told = Vec::new();
        for question in ["Username:", "Password:"] {
            stream.write_all(format!("334 {}\r\n", STANDARD.encode(question)).as_bytes()).await.ok()?;
            told.push(decoded(&line(stream).await?)?);
        }
        Some(told == [USER, right])
    }
}

async fn line(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = String::new();
    let count = stream.read_line(&mut line).await.ok()?;
    (count > 0).then(|| line.trim_end_matches(['\r', '\n']).to_string())
}

fn decoded(text: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

fn email(relay: &Relay, more: &str) -> Channel {
    let text = format!(
        "name = \"x\"\nemail = {{ host = \"{HOST}\", port = {}, timeout = \"5s\", username = \"{USER}\", \
         from = \"alerts@plant.example\", to = [\"anna@plant.example\"], {more} }}",
        relay.port
    );
    let config: ReceiverConfig = toml::from_str(&text).unwrap();
    Channel::check(&config).unwrap();
    Channel::new(&config).unwrap()
}

fn trusting(ca: &Path, password: &str) -> String {
    format!("ca = {ca:?}, password = \"{password}\"")
}

#[tokio::test]
async fn mail_is_sent_over_tls_by_those_who_log_in() {
    let authority = Authority::new("of the relay");
    let folder = tempfile::tempdir().unwrap();
    let ca = authority.trusted_in(folder.path());
    for (like, more) in [
        (STARTTLS, ""),
        (Like { mechanism: "LOGIN", ..STARTTLS }, ""),
        (IMPLICIT, ", tls = \"implicit\""),
        (Like { mechanism: "LOGIN", ..IMPLICIT }, ", tls = \"implicit\""),
    ] {
        let relay = Relay::start(like, authority.sign(HOST)).await;
        let channel = email(&relay, &format!("{}{more}", trusting(&ca, PASSWORD)));
        assert_eq!(send(&channel, "d-1", "firing").await, TAKEN, "{more}");
        assert_eq!(send(&channel, "d-2", "resolved").await, TAKEN, "{more}");
        let came = relay.came.lock().unwrap();
        assert_eq!((came.mails.len(), came.connections), (2, 1), "one connection serves for both");
        assert!(came.mails[0].contains("acknowledge_url") || came.mails[0].contains("/a/token"));
        drop(came);
        relay.kept_quiet();
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_without_it_and_passes_once_it_is_put_right() {
    let authority = Authority::new("of the relay");
    let folder = tempfile::tempdir().unwrap();
    let ca = authority.trusted_in(folder.path());
    for mechanism in ["PLAIN", "LOGIN"] {
        let relay = Relay::start(Like { mechanism, ..STARTTLS }, authority.sign(HOST)).await;
        let channel = email(&relay, &trusting(&ca, "open barley"));
        let outcome = send(&channel, "d-1", "firing").await;
        assert!(matches!(outcome, Outcome::Failed { status: Some(535), .. }), "{outcome:?}");
        let (retry, error) = failed(outcome);
        // Somebody may put it right, here or there: an alert is worth another try.
        assert_eq!((retry, error.as_str()), (Retry::Later(None), "answered 535 5.7.8 who are you"));
        assert_eq!(relay.mails(), 0);
        *relay.password.lock().unwrap() = "open barley";
        assert_eq!(send(&channel, "d-1", "firing").await, TAKEN);

        // One that stands in a file is read anew after an attempt that failed.
        let file = folder.path().join("password");
        std::fs::write(&file, "open wheat\n").unwrap();
        let channel = email(&relay, &format!("ca = {ca:?}, password = {{ file = {file:?} }}"));
        assert_eq!(failed(send(&channel, "d-2", "firing").await).0, Retry::Later(None));
        std::fs::write(&file, "open barley\n").unwrap();
        assert_eq!(failed(send(&channel, "d-2", "firing").await).0, Retry::Later(None));
        assert_eq!(send(&channel, "d-2", "firing").await, TAKEN);
        assert_eq!(relay.mails(), 2);
        relay.kept_quiet();
    }
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_is_told_and_nobody_gets_the_mail() {
    let (authority, other) = (Authority::new("of the relay"), Authority::new("of somebody else"));
    let folder = tempfile::tempdir().unwrap();
    for (like, more) in [(STARTTLS, ""), (IMPLICIT, ", tls = \"implicit\"")] {
        let relay = Relay::start(like, authority.sign(HOST)).await;
        let ca = other.trusted_in(folder.path());
        let channel = email(&relay, &format!("{}{more}", trusting(&ca, PASSWORD)));
        let (retry, error) = failed(send(&channel, "d-1", "firing").await);
        assert_eq!(retry, Retry::Later(None));
        assert!(error.contains("invalid peer certificate: UnknownIssuer"), "{error}");
        // The file says otherwise, which counts after one more attempt, but the certificate is for another host.
        authority.trusted_in(folder.path());
        *relay.acceptor.lock().unwrap() = acceptor(&authority.sign("relay.example"));
        let (_, error) = failed(send(&channel, "d-1", "firing").await);
        assert!(error.contains("UnknownIssuer"), "{error}");
        let (retry, error) = failed(send(&channel, "d-1", "firing").await);
        assert_eq!(retry, Retry::Later(None));
        assert!(error.contains("certificate not valid for name \"127.0.0.1\""), "{error}");
        assert_eq!(relay.mails(), 0);
        *relay.acceptor.lock().unwrap() = acceptor(&authority.sign(HOST));
        assert_eq!(send(&channel, "d-1", "firing").await, TAKEN);
        assert_eq!(relay.mails(), 1);
        relay.kept_quiet();
    }
}

#[tokio::test]
async fn nothing_is_sent_to_a_relay_without_the_encryption_that_is_wanted() {
    let authority = Authority::new("of the relay");
    let folder = tempfile::tempdir().unwrap();
    let ca = authority.trusted_in(folder.path());
    let relay = Relay::start(Like { offers: false, ..STARTTLS }, authority.sign(HOST)).await;
    let channel = email(&relay, &trusting(&ca, PASSWORD));
    let (retry, error) = failed(send(&channel, "d-1", "firing").await);
    assert_eq!(retry, Retry::Later(None));
    assert_eq!(error, "the relay cannot be used: STARTTLS is not supported on this server");
    assert_eq!(relay.mails(), 0);
    relay.kept_quiet();
}

#[test]
fn a_file_without_a_certificate_is_no_authority() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, "").unwrap();
    let text = format!("host = \"h\", from = \"a@b.example\", to = [\"a@b.example\"], ca = {ca:?}");
    let config: ReceiverConfig = toml::from_str(&format!("name = \"x\"\nemail = {{ {text} }}")).unwrap();
    let (_, fault) = Channel::check(&config).unwrap_err();
    assert_eq!(fault, format!("ca: {} holds no certificate", ca.display()));
}

/// Whom the system trusts does not count where a file says who is.
#[test]
fn only_the_authorities_of_the_file_are_trusted() {
    // The system is asked through the environment, which is another process's: this test is run by itself again.
    const AGAIN: &str = "WATCHFIRE_TEST_TRUSTED";
    const NAME: &str = "email_secured::only_the_authorities_of_the_file_are_trusted";
    let Some(folder) = std::env::var_os(AGAIN) else {
        let folder = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        let mut again = std::process::Command::new(program);
        again.args(["--exact", NAME, "--nocapture"]).env(AGAIN, folder.path());
        let output = again.env("SSL_CERT_FILE", folder.path().join("system.pem")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    };
    let folder = Path::new(&folder);
    let (system, own) = (Authority::new("of the system"), Authority::new("of the plant"));
    std::fs::write(folder.join("system.pem"), &system.pem).unwrap();
    let ca = own.trusted_in(folder);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let relay = Relay::start(STARTTLS, system.sign(HOST)).await;
        let without = email(&relay, &format!("password = \"{PASSWORD}\""));
        assert_eq!(send(&without, "d-1", "firing").await, TAKEN);
        let (_, error) = failed(send(&email(&relay, &trusting(&ca, PASSWORD)), "d-2", "firing").await);
        assert!(error.contains("UnknownIssuer"), "{error}");
        assert_eq!(relay.mails(), 1);
    });
}
