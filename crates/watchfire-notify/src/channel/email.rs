//! E-mail over SMTP (RFC 5321): text and HTML, one thread for each group of alerts.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use serde::Deserialize;
use tokio::sync::Mutex;
use watchfire_model::{Duration, Secret};

use super::payload::Message;
use super::smtp::{Kept, Refusal, Relay};
use super::text::{Text, cut, escape};
use super::{Delivering, Halfway, Outcome, Renewed, Retry, Thread, unreadable};
use crate::ids;

/// Alerts of one mail, and characters of each.
const ALERTS: usize = 50;
const DESCRIPTION: usize = 4000;
/// Characters of a subject.
const SUBJECT: usize = 200;

/// Whether the connection is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// From the first byte (port 465).
    Implicit,
    /// From the command STARTTLS on, and not without it (port 587).
    #[default]
    Starttls,
    /// Not at all (port 25): for a relay on the same machine.
    None,
}

/// Where the mail goes.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailConfig {
    /// The relay.
    pub host: String,
    /// Its port; by default that of the encryption.
    pub port: Option<u16>,
    /// `starttls`, `implicit` or `none`. Default `starttls`.
    #[serde(default)]
    pub tls: Encryption,
    /// A file with the certificates of those who sign for the relay; without it those that the system trusts.
    pub ca: Option<PathBuf>,
    /// What we say who we are; by default the name of the machine.
    pub hello: Option<String>,
    /// Who logs in.
    pub username: Option<String>,
    /// The password of the user.
    pub password: Option<Secret>,
    /// Who writes: an address, or `Name <address>`.
    pub from: String,
    /// Who is written to, each as `from`.
    pub to: Vec<String>,
    /// For each command and its answer. Default 10s.
    #[serde(default = "super::timeout")]
    pub timeout: Duration,
}

super::hidden!(EmailConfig);

impl EmailConfig {
    fn from(&self) -> Result<Mailbox, String> {
        self.from.parse().map_err(|error| format!("from: {error}"))
    }

    fn to(&self) -> Result<Vec<Mailbox>, String> {
        let read = |(i, text): (usize, &String)| text.parse().map_err(|error| format!("to[{i}]: {error}"));
        self.to.iter().enumerate().map(read).collect()
    }

    fn parameters(&self) -> Result<TlsParameters, String> {
        let mut parameters = TlsParameters::builder(self.host.clone());
        if let Some(path) = &self.ca {
            let pem = std::fs::read(path).map_err(|error| format!("ca: {}: {error}", path.display()))?;
            if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
                return Err(format!("ca: {} holds no certificate", path.display()));
            }
            let certificate =
                Certificate::from_pem(&pem).map_err(|error| format!("ca: {}: {error}", path.display()))?;
            // Not beside those that the system trusts: each of them could sign for the relay too.
            parameters =
                parameters.certificate_store(CertificateStore::None).add_root_certificate(certificate);
        }
        parameters.build_rustls().map_err(|error| format!("tls: {error}"))
    }

    fn relay(&self) -> Result<Relay, String> {
        let (tls, port) = match self.tls {
            Encryption::Implicit => (Some(self.parameters()?), 465),
            Encryption::Starttls => (Some(self.parameters()?), 587),
            Encryption::None => (None, 25),
        };
        let credentials = match (&self.username, &self.password) {
            (Some(username), Some(password)) => {
                let password = password.read().map_err(|error| format!("password: {error}"))?;
                Some(Credentials::new(username.clone(), password.to_string()))
            }
            _ => None,
        };
        Ok(Relay {
            host: self.host.clone(),
            port: self.port.unwrap_or(port),
            encryption: self.tls,
            tls,
            hello: self.hello.clone().map_or_else(ClientId::default, ClientId::Domain),
            credentials,
            timeout: self.timeout.to_std(),
        })
    }
}

/// Says what is wrong with a configuration, if anything is.
pub fn check(config: &EmailConfig) -> Result<(), String> {
    if config.host.is_empty() {
        return Err("host: names no relay".into());
    }
    if config.to.is_empty() {
        return Err("to: names nobody".into());
    }
    if config.username.is_some() != config.password.is_some() {
        return Err("username and password: both are given, or neither".into());
    }
    if config.username.is_some() && config.tls == Encryption::None {
        return Err("tls: a password is not sent without it".into());
    }
    config.from()?;
    config.to()?;
    config.relay().map(drop)
}

/// What became of a mail with each of those it is for: the answer, or why it will never be taken; `None`: not yet.
type Answers = Vec<Option<Result<u16, Refusal>>>;

/// A relay that is ready to be used. A connection to it is kept open.
#[derive(Clone)]
pub struct Email {
    config: EmailConfig,
    from: Mailbox,
    to: Vec<Mailbox>,
    relay: Renewed<Relay>,
    connection: Arc<Mutex<Kept>>,
    /// Of what some have and others are to get.
    answers: Halfway<Answers>,
}

impl std::fmt::Debug for Email {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Email").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Email {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &EmailConfig) -> Result<Self, String> {
        Ok(Self {
            config: config.clone(),
            from: config.from()?,
            to: config.to()?,
            relay: Renewed::new(config.relay()?),
            connection: Arc::default(),
            answers: Halfway::default(),
        })
    }

    /// One attempt. One address that is refused keeps the mail from nobody else; what is tried again goes to those who do
    /// not have it yet.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let text = Text::of(&message, ALERTS);
        let mail = match self.mail(delivering, &message, &text) {
            Ok(mail) => mail.formatted(),
            Err(error) => return Outcome::Failed { retry: Retry::Never, status: None, error },
        };
        let mut answers = self.answers.take(delivering.id).unwrap_or_else(|| vec![None; self.to.len()]);
        let open: Vec<usize> = (0..self.to.len()).filter(|i| answers[*i].is_none()).collect();
        let to: Vec<_> = open.iter().map(|i| &self.to[*i].email).collect();
        let relay = self.relay.get();
        let sent = relay.send(&mut *self.connection.lock().await, &self.from.email, &to, &mail).await;
        let mut later = None;
        match sent {
            Ok(said) => {
                for (i, said) in open.into_iter().zip(said) {
                    match said {
                        Err(refusal) if !refusal.forever => {
                            later.get_or_insert(self.about(i, &refusal));
                        }
                        end => answers[i] = Some(end),
                    }
                }
            }
            Err(refusal) => later = Some(refusal),
        }
        if let Some(Refusal { status, error, .. }) = later {
            if answers.iter().any(Option::is_some) {
                self.answers.keep(delivering.id, answers);
            }
            self.read_anew();
            return Outcome::Failed { retry: Retry::Later(None), status, error };
        }
        self.ended(&answers)
    }

    /// Somebody who will never have it is reason enough to say so: others may have to be told instead.
    fn ended(&self, answers: &Answers) -> Outcome {
        let all = || answers.iter().flatten().enumerate();
        let refused: Vec<Refusal> =
            all().filter_map(|(i, answer)| Some(self.about(i, answer.as_ref().err()?))).collect();
        match &refused[..] {
            [] => Outcome::Delivered { status: all().find_map(|(_, said)| said.clone().ok()).unwrap_or(250) },
            [first, ..] => {
                let errors: Vec<&str> = refused.iter().map(|one| one.error.as_str()).collect();
                let taken = answers.len() - refused.len();
                let taken = if taken > 0 { format!("; {taken} others have it") } else { String::new() };
                let error = format!("{}{taken}", errors.join("; "));
                Outcome::Failed { retry: Retry::Never, status: first.status, error }
            }
        }
    }

    /// Says whom it is about, where there are several.
    fn about(&self, i: usize, refusal: &Refusal) -> Refusal {
        let error = match &self.to[..] {
            [_] => refusal.error.clone(),
            several => format!("{}: {}", several[i].email, refusal.error),
        };
        Refusal { error, ..refusal.clone() }
    }

    /// A password or certificate in a file may have been changed. Where they cannot be used, those before count on.
    fn read_anew(&self) {
        let in_files =
            self.config.ca.is_some() || self.config.password.as_ref().is_some_and(|p| p.file().is_some());
        if in_files {
            self.relay.renew(self.config.relay());
        }
    }

    fn mail(
        &self,
        delivering: &Delivering<'_>,
        message: &Message,
        text: &Text,
    ) -> Result<lettre::Message, String> {
        let domain = self.from.email.domain();
        // The first mail need not be there any more: all of them answer one that never was. What begins once all was over
        // is another thread, of the same group too.
        let since = thread_of(delivering, message);
        let thread = format!("<{}@{domain}>", ids::of([message.group_key.as_str(), since.as_str()]));
        let mut mail = lettre::Message::builder()
            .from(self.from.clone())
            .subject(cut(&text.title, SUBJECT))
            .message_id(Some(format!("<{}@{domain}>", ids::of([delivering.id]))))
            .in_reply_to(thread.clone())
            .references(thread)
            .header(AutoSubmitted);
        for to in &self.to {
            mail = mail.to(to.clone());
        }
        mail.multipart(MultiPart::alternative_plain_html(plain(text), html(text)))
            .map_err(|error| format!("the mail cannot be written: {error}"))
    }
}

/// Since when the group goes on: kept from its first mail to its last.
fn thread_of(delivering: &Delivering<'_>, message: &Message) -> String {
    let first = || message.alerts.iter().map(|alert| alert.starts_at.as_str()).min().unwrap_or_default();
    let since = delivering.thread.before().map_or_else(|| first().to_string(), String::from);
    // Digests have no end.
    let goes_on = message.status == "firing" && message.digest.is_none();
    delivering.thread.leave(if goes_on { Thread::Keep(since.clone()) } else { Thread::End });
    since
}

/// No machine answers it (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".into())
    }
}

fn plain(text: &Text) -> String {
    let mut said = String::new();
    for line in &text.lines {
        // Writing to a String does not fail.
        let _ = writeln!(said, "{}", cut(&line.description, DESCRIPTION));
        if let Some(response) = &line.response {
            let _ = writeln!(said, "{response}");
        }
        if line.fires
            && let Some(url) = &line.acknowledge
        {
            let _ = writeln!(said, "Acknowledge: {url}");
        }
        said.push('\n');
    }
    said.extend(text.rest());
    said
}

fn html(text: &Text) -> String {
    let mut said = format!("<html><body style=\"font-family:sans-serif\"><h3>{}</h3>", escape(&text.title));
    for line in &text.lines {
        let color = match (line.fires, line.severity.as_str()) {
            (false, _) => "#2e7d32",
            (true, "critical" | "major") => "#b71c1c",
            (true, _) => "#ef6c00",
        };
        let description = escape(&cut(&line.description, DESCRIPTION)).replace('\n', "<br>");
        let _ = write!(said, "<p style=\"border-left:4px solid {color};padding-left:8px\">{description}");
        if let Some(response) = &line.response {
            let _ = write!(said, "<br><em>{}</em>", escape(response));
        }
        if line.fires
            && let Some(url) = &line.acknowledge
        {
            let _ = write!(said, "<br><a href=\"{}\">Acknowledge</a>", escape(url));
        }
        said.push_str("</p>");
    }
    said.extend(text.rest().map(|rest| format!("<p>{rest}</p>")));
    said + "</body></html>"
}
