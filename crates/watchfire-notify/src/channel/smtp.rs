//! One mail over SMTP (RFC 5321), command by command: what an answer means depends on what was asked. A refusal of one
//! recipient is about that one, a refusal of the whole mail is about the mail, and every other one is about the relay,
//! which somebody may put right.

use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::Response;

use super::email::Encryption;
use super::text::cut;

/// Characters of what a relay said, at most.
const SAID: usize = 200;

/// Where a relay is, and how it is spoken to.
#[derive(Clone)]
pub(super) struct Relay {
    pub host: String,
    pub port: u16,
    pub encryption: Encryption,
    /// Not where nothing is encrypted.
    pub tls: Option<TlsParameters>,
    pub hello: ClientId,
    pub credentials: Option<Credentials>,
    /// For each command and its answer.
    pub timeout: Duration,
}

/// Why a mail, or one recipient of it, was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// It will never be.
    pub forever: bool,
    pub status: Option<u16>,
    pub error: String,
}

impl Refusal {
    fn later(error: &Error) -> Self {
        Self { forever: false, ..Self::of(error) }
    }

    /// A permanent answer is final (section 4.2.1), but for what is said of who logs in and of what is permitted: the
    /// former by codes of RFC 4954, the latter by an enhanced code 5.7 (RFC 3463, section 3.8).
    fn of(error: &Error) -> Self {
        let status = error.status().map(u16::from);
        let said = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        // What the client does not find at the relay it takes for a fault of its own.
        let what = if error.is_client() { said.clone() } else { error.to_string() };
        let login = matches!(status, Some(530 | 534 | 535 | 538));
        let forever = error.is_permanent() && !login && !said.starts_with("5.7.");
        let said = cut(said.replace(['\r', '\n'], " ").trim(), SAID);
        let error = match status {
            Some(status) => format!("answered {status} {said}").trim_end().to_string(),
            None => format!("the relay cannot be used: {}", cut(&what, SAID)),
        };
        Self { forever, status, error }
    }

    fn slow() -> Self {
        Self { forever: false, status: None, error: "no answer in time".into() }
    }
}

/// A connection that is kept open between mails.
pub(super) type Kept = Option<AsyncSmtpConnection>;

impl Relay {
    /// One mail to several: for each, in order, the answer to the mail, or why that one was refused. An error is about
    /// the relay, and then nobody has it.
    pub async fn send(
        &self,
        kept: &mut Kept,
        from: &Address,
        to: &[&Address],
        mail: &[u8],
    ) -> Result<Vec<Result<u16, Refusal>>, Refusal> {
        // A relay ends a connection on which nothing happens for minutes.
        let mut open = kept.take();
        if let Some(connection) = &mut open
            && self.in_time(connection.test_connected()).await != Ok(true)
        {
            open = None;
        }
        let mut connection = match open {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let sent = self.transaction(&mut connection, from, to, mail).await;
        match &sent {
            Ok(_) => *kept = Some(connection),
            // What it thinks of the transaction is not known.
            Err(_) => drop(self.in_time(connection.abort()).await),
        }
        sent
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Refusal> {
        let implicit = self.tls.clone().filter(|_| self.encryption == Encryption::Implicit);
        let address = (self.host.as_str(), self.port);
        let connecting =
            AsyncSmtpConnection::connect_tokio1(address, Some(self.timeout), &self.hello, implicit, None);
        let mut connection = self.asked(connecting).await?;
        if self.encryption == Encryption::Starttls
            && let Some(tls) = &self.tls
        {
            self.asked(connection.starttls(tls.clone(), &self.hello)).await?;
        }
        if let Some(credentials) = &self.credentials {
            self.asked(connection.auth(DEFAULT_MECHANISMS, credentials)).await?;
        }
        Ok(connection)
    }

    async fn transaction(
        &self,
        connection: &mut AsyncSmtpConnection,
        from: &Address,
        to: &[&Address],
        mail: &[u8],
    ) -> Result<Vec<Result<u16, Refusal>>, Refusal> {
        let lacks = |what: &str| Refusal {
            forever: false,
            status: None,
            error: format!("the relay does not know {what}, which this mail needs"),
        };
        let mut parameters = Vec::new();
        if [from].iter().chain(to).any(|address| !address.to_string().is_ascii()) {
            if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Err(lacks("SMTPUTF8"));
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if !mail.is_ascii() {
            if !connection.server_info().supports_feature(Extension::EightBitMime) {
                return Err(lacks("8BITMIME"));
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        self.asked(connection.command(Mail::new(Some(from.clone()), parameters))).await?;
        let mut answers = Vec::with_capacity(to.len());
        for address in to {
            let asked = connection.command(Rcpt::new((*address).clone(), Vec::new()));
            answers.push(match self.in_time(asked).await? {
                Ok(answer) => Ok(u16::from(answer.code())),
                // Without a code it is the connection that broke.
                Err(error) if error.status().is_none() => return Err(Refusal::later(&error)),
                Err(error) => Err(Refusal::of(&error)),
            });
        }
        if answers.iter().all(Result::is_err) {
            self.asked(connection.command(Rset)).await?;
            return Ok(answers);
        }
        self.asked(connection.command(Data)).await?;
        let taken: Result<Response, Error> = self.in_time(connection.message(mail)).await?;
        let said = match taken {
            Ok(answer) => Ok(u16::from(answer.code())),
            Err(error) if error.status().is_none() => return Err(Refusal::later(&error)),
            Err(error) => Err(Refusal::of(&error)),
        };
        for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
            *answer = said.clone();
        }
        Ok(answers)
    }

    async fn in_time<T>(&self, asked: impl Future<Output = T>) -> Result<T, Refusal> {
        tokio::time::timeout(self.timeout, asked).await.map_err(|_| Refusal::slow())
    }

    /// What is about the relay comes again.
    async fn asked<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Refusal> {
        self.in_time(asked).await?.map_err(|error| Refusal::later(&error))
    }
}
