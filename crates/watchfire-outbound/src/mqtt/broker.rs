//! Where a broker is, who we are there, and whom its certificate rests on.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use watchfire_model::Secret;

use crate::Wrong;

/// A broker as somebody configured it.
#[derive(Clone, Copy)]
pub struct Broker<'a> {
    /// `mqtt://host:1883`, or with TLS `mqtts://host:8883`.
    pub url: &'a str,
    /// Who we are there; empty: nobody.
    pub username: &'a str,
    /// What proves it.
    pub password: &'a Secret,
    /// With `mqtts`: a file with the certificates that its certificate rests on; not said: those of the system.
    pub ca: Option<&'a Path>,
}

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an address; one of IPv6 in brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether it speaks TLS there.
    pub tls: bool,
}

impl Broker<'_> {
    /// Says what could not work, before anything is connected to: of `url`, `password` or `ca`.
    pub fn check(&self) -> Result<(), Wrong> {
        let address = self.address()?;
        if self.username.is_empty() && !self.password.is_empty() {
            return Err(Wrong::new("password", "needs a username"));
        }
        if let Err(error) = self.password.read() {
            return Err(Wrong::new("password", error.to_string()));
        }
        if self.ca.is_some() && !address.tls {
            return Err(Wrong::new("ca", "needs an url that begins with mqtts://"));
        }
        Ok(())
    }

    /// Where it is.
    pub fn address(&self) -> Result<Address, Wrong> {
        // The text is not repeated: somebody may have put a password into it.
        let wrong = |what: &str| Wrong::new("url", what);
        if self.url.is_empty() {
            return Err(wrong("is missing: mqtt://host:1883, or mqtts://host:8883"));
        }
        let (tls, rest) = match self.url.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            _ => return Err(wrong("begins with mqtt:// or mqtts://")),
        };
        if rest.contains('@') {
            return Err(wrong("holds no user: there are keys for username and password"));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // A colon within brackets is of an IPv6 address.
        let (host, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong("has no port behind the colon"))?),
            None => (rest, if tls { 8883 } else { 1883 }),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        if host.is_empty() || !host.chars().all(plain) {
            return Err(wrong("names no host"));
        }
        Ok(Address { host: host.to_string(), port, tls })
    }

    /// What TLS to it rests on, out of the file as it is now.
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        match self.ca {
            Some(file) => {
                let cannot = |error: rustls_pki_types::pem::Error| format!("{}: {error}", file.display());
                for certificate in CertificateDer::pem_file_iter(file).map_err(cannot)? {
                    let added = roots.add(certificate.map_err(cannot)?);
                    added.map_err(|error| format!("{}: {error}", file.display()))?;
                }
            }
            None => {
                // One that cannot be read is no reason to do without the others.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err("there is no certificate that others could rest on".into());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }
}

/// Says what is wrong with what the names of our clients begin with.
pub fn check_client_id(client_id: &str) -> Result<(), Wrong> {
    if client_id.is_empty() || client_id.len() > 64 {
        return Err(Wrong::new("client_id", "is of 1 to 64 characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_a_host_and_a_port() {
        let none = Secret::default();
        let check = |url: &str, host: &str, port: u16, tls: bool| {
            let broker = Broker { url, username: "", password: &none, ca: None };
            assert_eq!(broker.address(), Ok(Address { host: host.into(), port, tls }), "{url}");
        };
        check("mqtt://h", "h", 1883, false);
        check("mqtts://h.example.org/", "h.example.org", 8883, true);
        check("mqtt://127.0.0.1:9", "127.0.0.1", 9, false);
        check("mqtt://[::1]:9", "[::1]", 9, false);
        check("mqtt://[::1]", "[::1]", 1883, false);
    }
}
