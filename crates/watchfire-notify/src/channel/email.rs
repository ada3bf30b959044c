//! E-mail over SMTP (RFC 5321): text and HTML, one thread for each group of alerts.

use std::fmt::Write as _;
use std::path::PathBuf;

use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use watchfire_model::{Duration, Secret};

use super::text::{Text, cut};
use super::{Delivering, Outcome, Renewed, Retry, unreadable};

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
            let certificate =
                Certificate::from_pem(&pem).map_err(|error| format!("ca: {}: {error}", path.display()))?;
            parameters = parameters.add_root_certificate(certificate);
        }
        parameters.build_rustls().map_err(|error| format!("tls: {error}"))
    }

    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
        let (tls, port) = match self.tls {
            Encryption::Implicit => (Tls::Wrapper(self.parameters()?), 465),
            Encryption::Starttls => (Tls::Required(self.parameters()?), 587),
            Encryption::None => (Tls::None, 25),
        };
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&self.host)
            .port(self.port.unwrap_or(port))
            .tls(tls)
            .timeout(Some(self.timeout.to_std()));
        if let Some(hello) = &self.hello {
            transport = transport.hello_name(ClientId::Domain(hello.clone()));
        }
        if let (Some(username), Some(password)) = (&self.username, &self.password) {
            let password = password.read().map_err(|error| format!("password: {error}"))?;
            transport = transport.credentials(Credentials::new(username.clone(), password.to_string()));
        }
        Ok(transport.build())
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
    config.transport().map(drop)
}

/// A relay that is ready to be used. Its connections are kept open.
#[derive(Clone)]
pub struct Email {
    config: EmailConfig,
    from: Mailbox,
    to: Vec<Mailbox>,
    transport: Renewed<AsyncSmtpTransport<Tokio1Executor>>,
}

impl std::fmt::Debug for Email {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Email").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Email {
    /// Makes the client of a configuration. Connects to nothing.
    pub fn new(config: &EmailConfig) -> Result<Self, String> {
        let transport = Renewed::new(config.transport()?);
        Ok(Self { config: config.clone(), from: config.from()?, to: config.to()?, transport })
    }

    /// One attempt.
    pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
        let Ok(message) = delivering.message() else { return unreadable() };
        let text = Text::of(&message, ALERTS);
        let mail = match self.mail(delivering, &message.group_key, &text) {
            Ok(mail) => mail,
            Err(error) => return Outcome::Failed { retry: Retry::Never, status: None, error },
        };
        match self.transport.get().send(mail).await {
            Ok(answer) => Outcome::Delivered { status: answer.code().into() },
            Err(error) => {
                self.read_anew();
                failed(&error)
            }
        }
    }

    /// A password or certificate in a file may have been changed. Where they cannot be used, those before count on.
    fn read_anew(&self) {
        let in_files =
            self.config.ca.is_some() || self.config.password.as_ref().is_some_and(|p| p.file().is_some());
        if in_files {
            self.transport.renew(self.config.transport());
        }
    }

    fn mail(&self, delivering: &Delivering<'_>, group: &str, text: &Text) -> Result<lettre::Message, String> {
        let domain = self.from.email.domain();
        // The first mail of a group need not be there any more: all of them answer one that never was.
        let thread = format!("<{}@{domain}>", digest(group));
        let mut mail = lettre::Message::builder()
            .from(self.from.clone())
            .subject(cut(&text.title, SUBJECT))
            .message_id(Some(format!("<{}@{domain}>", digest(delivering.id))))
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

/// What stands before the `@` of an id: ids of deliveries and groups hold what must not stand there.
fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What a relay says of the mail itself is final (RFC 5321, section 4.2.1); what it says of who logs in is not, for that
/// may be put right, and neither is whatever else goes wrong.
fn failed(error: &lettre::transport::smtp::Error) -> Outcome {
    let status = error.status().map(u16::from);
    let login = matches!(status, Some(530 | 534 | 535 | 538));
    let retry = if error.is_permanent() && !login { Retry::Never } else { Retry::Later(None) };
    let error = match status {
        Some(status) => format!("answered {status}"),
        None if error.is_timeout() => "no answer in time".into(),
        None => format!("the relay cannot be used: {error}"),
    };
    Outcome::Failed { retry, status, error }
}

fn plain(text: &Text) -> String {
    let mut said = String::new();
    for line in &text.lines {
        // Writing to a String does not fail.
        let _ = writeln!(said, "{}", cut(&line.description, DESCRIPTION));
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
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
