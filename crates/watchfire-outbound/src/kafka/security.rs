//! How brokers are spoken to, and who logs in.

use rdkafka::ClientConfig;
use serde::Deserialize;
use watchfire_model::Secret;

use crate::Wrong;

/// How brokers are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityProtocol {
    /// In the clear, without a login.
    Plaintext,
    /// TLS.
    Ssl,
    /// In the clear, with a login.
    SaslPlaintext,
    /// TLS, with a login.
    SaslSsl,
}

/// How brokers are spoken to as somebody configured it, under these names. All but `plaintext` need a build with the
/// feature `kafka-tls`.
#[derive(Clone, Copy)]
pub struct Security<'a> {
    /// `security_protocol`; not said: `plaintext`.
    pub protocol: Option<SecurityProtocol>,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`; not said: the last.
    pub sasl_mechanism: Option<&'a str>,
    /// Who logs in.
    pub sasl_username: Option<&'a str>,
    /// With which password.
    pub sasl_password: Option<&'a Secret>,
    /// The file of the authorities that are trusted; not said: those of the system.
    pub ssl_ca: Option<&'a str>,
    /// The file of our own certificate.
    pub ssl_certificate: Option<&'a str>,
    /// And of its key.
    pub ssl_key: Option<&'a str>,
    /// The password of that key.
    pub ssl_key_password: Option<&'a Secret>,
}

/// What a client logs in with. It keeps what it was made with.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    sasl_password: Option<String>,
    ssl_key_password: Option<String>,
}

impl Security<'_> {
    /// Says what could not work, before anything is connected to. Passwords are not read: see [`Security::secrets`].
    pub fn check(&self) -> Result<(), Wrong> {
        let given = [
            ("sasl_mechanism", self.sasl_mechanism.is_some()),
            ("sasl_username", self.sasl_username.is_some()),
            ("sasl_password", self.sasl_password.is_some()),
            ("ssl_ca", self.ssl_ca.is_some()),
            ("ssl_certificate", self.ssl_certificate.is_some()),
            ("ssl_key", self.ssl_key.is_some()),
            ("ssl_key_password", self.ssl_key_password.is_some()),
        ];
        let first = given.iter().find(|(_, is_given)| *is_given).map(|(key, _)| *key);
        let protocol = self.protocol.unwrap_or(SecurityProtocol::Plaintext);
        if !cfg!(feature = "kafka-tls") {
            let secured = (protocol != SecurityProtocol::Plaintext).then_some("security_protocol");
            if let Some(key) = secured.or(first) {
                return Err(Wrong::new(
                    key,
                    "this build speaks neither TLS nor SASL: build with the feature `kafka-tls`",
                ));
            }
        }
        let login = matches!(protocol, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl);
        let tls = matches!(protocol, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl);
        for (key, is_given) in given {
            let counts = if key.starts_with("sasl") { login } else { tls };
            if is_given && !counts {
                return Err(Wrong::new(key, "counts for nothing with this `security_protocol`"));
            }
        }
        if login && (self.sasl_username.is_none() || self.sasl_password.is_none()) {
            let key = if self.sasl_username.is_none() { "sasl_username" } else { "sasl_password" };
            return Err(Wrong::new(key, "is missing"));
        }
        let mechanism = self.sasl_mechanism;
        if mechanism.is_some_and(|name| !["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&name)) {
            return Err(Wrong::new("sasl_mechanism", "is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"));
        }
        Ok(())
    }

    /// The secrets as they are now.
    pub fn secrets(&self) -> Result<Secrets, Wrong> {
        let read = |key, secret: Option<&Secret>| {
            secret.map(Secret::read).transpose().map_err(|error| Wrong::new(key, error.to_string()))
        };
        Ok(Secrets {
            sasl_password: read("sasl_password", self.sasl_password)?,
            ssl_key_password: read("ssl_key_password", self.ssl_key_password)?,
        })
    }

    /// Sets the properties of a client.
    pub fn apply(&self, secrets: &Secrets, client: &mut ClientConfig) {
        if let Some(protocol) = self.protocol {
            let protocol = match protocol {
                SecurityProtocol::Plaintext => "plaintext",
                SecurityProtocol::Ssl => "ssl",
                SecurityProtocol::SaslPlaintext => "sasl_plaintext",
                SecurityProtocol::SaslSsl => "sasl_ssl",
            };
            client.set("security.protocol", protocol);
            if protocol.starts_with("sasl") {
                client.set("sasl.mechanism", self.sasl_mechanism.unwrap_or("SCRAM-SHA-512"));
            }
        }
        for (property, value) in [
            ("sasl.username", self.sasl_username),
            ("sasl.password", secrets.sasl_password.as_deref()),
            ("ssl.ca.location", self.ssl_ca),
            ("ssl.certificate.location", self.ssl_certificate),
            ("ssl.key.location", self.ssl_key),
            ("ssl.key.password", secrets.ssl_key_password.as_deref()),
        ] {
            if let Some(value) = value {
                client.set(property, value);
            }
        }
    }
}
