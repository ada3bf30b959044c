//! Who a client certificate says that its owner is. Whether it may be believed was found out before, in the handshake
//! ([`crate::tls`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use watchfire_model::DeviceSpec;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::contract::{Authenticator, Credential, Denied, Principal};
use crate::tls::Material;

/// What stands before the id, in a URI among the alternative names. Schemes and namespaces of URNs have no case
/// (RFC 8141, section 3.1).
const URN: &str = "urn:watchfire:device:";

/// A client certificate that was verified in a handshake.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    owner: Owner,
    /// It, and those between it and who signed it, to be looked at again.
    chain: Arc<[CertificateDer<'static>]>,
    /// By what it was verified, and what is read later.
    material: watch::Receiver<Arc<Material>>,
}

/// What stands in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    /// `None`: it names no device.
    device: Option<String>,
    /// Seconds since the Unix epoch; it is over after that.
    not_after: u64,
}

impl ClientCertificate {
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>, material: watch::Receiver<Arc<Material>>) -> Self {
        let owner = Owner::read(chain.first().map_or(&[], |first| first));
        Self { owner, chain: chain.into(), material }
    }

    /// Whether it is good at this moment: a connection may outlive the certificate that it was made with.
    fn is_good(&self) -> bool {
        let left = !self.owner.left().is_zero();
        // As long as nothing else was read, the handshake has answered it.
        left && (!self.material.has_changed().unwrap_or(true) || self.verify())
    }

    fn verify(&self) -> bool {
        let verifier = self.material.borrow().verifier.clone();
        let (Some(verifier), Some((first, between))) = (verifier, self.chain.split_first()) else {
            return false;
        };
        verifier.verify_client_cert(first, between, UnixTime::now()).is_ok()
    }

    /// Waits until it is no longer good.
    pub(crate) async fn ends(&self) {
        let mut material = self.material.clone();
        while self.is_good() {
            // The wall clock may be set meanwhile, so it is asked now and then.
            let pause = self.owner.left().clamp(Duration::from_millis(10), Duration::from_secs(60));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // A listener that is no more reads nothing any more.
                () = async { if material.changed().await.is_err() { std::future::pending().await } } => {}
            }
        }
    }
}

impl Owner {
    /// Of a certificate that cannot be read, nothing is known: it names no device, and is over.
    fn read(der: &[u8]) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return Self { device: None, not_after: 0 };
        };
        let not_after = certificate.validity().not_after.timestamp().try_into().unwrap_or(0);
        Self { device: device(&certificate), not_after }
    }

    /// How long it is still good.
    fn left(&self) -> Duration {
        // The last second is a good one (RFC 5280, section 4.1.2.5).
        let end = UNIX_EPOCH.checked_add(Duration::from_secs(self.not_after.saturating_add(1)));
        match end {
            Some(end) => end.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO),
            None => Duration::MAX,
        }
    }
}

/// The one `urn:watchfire:device:ID` of the alternative names; where there is none, the one common name. A certificate
/// that says several things of the same kind says none: whoever signed it may have meant another one.
fn device(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let mut ids = names.filter_map(|name| match name {
        GeneralName::URI(uri) => {
            let (urn, id) = uri.split_at_checked(URN.len())?;
            urn.eq_ignore_ascii_case(URN).then_some(id)
        }
        _ => None,
    });
    let id = match (ids.next(), ids.next()) {
        (Some(id), None) => percent_decoded(id)?,
        (Some(_), Some(_)) => return None,
        (None, _) => {
            let mut names = certificate.subject().iter_common_name();
            let (name, None) = (names.next()?, names.next()) else { return None };
            name.as_str().ok()?.to_string()
        }
    };
    DeviceSpec::check_id(&id).is_ok().then_some(id)
}

/// An id as it stands in a URN, where `%C3%9C` is an `Ü`.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Who is there, by all that was shown. A certificate decides; what is shown beside it must be of the same device.
pub(crate) async fn identify(
    authenticator: &dyn Authenticator,
    credential: Credential,
    certificate: Option<&ClientCertificate>,
    from: Option<IpAddr>,
) -> Result<Principal, Denied> {
    let Some(certificate) = certificate else { return authenticator.authenticate(credential, from).await };
    let device = certificate.owner.device.as_deref().filter(|_| certificate.is_good());
    let device = device.ok_or(Denied::NotAccepted)?;
    let principal = authenticator.authenticate(Credential::Certificate(device.into()), from).await?;
    let also = match credential {
        Credential::None => return Ok(principal),
        // Before its password costs a hash.
        Credential::Password { user, .. } if user != device => return Err(Denied::NotAccepted),
        // Many clients of MQTT cannot leave the name away. Alone it proves nothing, and need not.
        Credential::Password { password, .. } if password.is_empty() => return Ok(principal),
        credential => authenticator.authenticate(credential, from).await?,
    };
    if also.name() == principal.name() { Ok(principal) } else { Err(Denied::NotAccepted) }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn check(common_name: Option<&str>, uris: &[&str], expected: Option<&str>) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.not_after = rcgen::date_time_ymd(2020, 1, 2);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = Owner::read(certificate.der());
        assert_eq!(read.device.as_deref(), expected, "{common_name:?} {uris:?}");
        assert_eq!((read.not_after, read.left()), (1_577_923_200, Duration::ZERO));
    }

    #[test]
    fn a_certificate_names_one_device_or_none() {
        check(Some("press-1"), &[], Some("press-1"));
        check(Some("Presse Ü"), &[], Some("Presse Ü"));
        check(Some("ignored"), &["urn:watchfire:device:press-1"], Some("press-1"));
        check(None, &["URN:Watchfire:device:Press%20%C3%9C"], Some("Press Ü"));
        check(Some("press-1"), &["spiffe://plant/line-3"], Some("press-1"));
        check(None, &["spiffe://plant/line-3"], None);
        check(Some("press-1"), &["urn:watchfire:device:a", "urn:watchfire:device:b"], None);
        // The URN is what counts, also where it is no good.
        check(Some("press-1"), &["urn:watchfire:device:"], None);
        check(Some("press-1"), &["urn:watchfire:device:a%2"], None);
        check(Some("press-1"), &["urn:watchfire:device:a%2Fb"], None);
        check(Some("press-1"), &["urn:watchfire:device:%ff"], None);
        check(Some("a/b"), &[], None);
        check(None, &[], None);
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        for bytes in [&b""[..], b"\x30", b"\x30\x82\xff\xff", b"nonsense"] {
            let read = Owner::read(bytes);
            assert_eq!((read.device.as_deref(), read.left()), (None, Duration::ZERO));
        }
    }
}
