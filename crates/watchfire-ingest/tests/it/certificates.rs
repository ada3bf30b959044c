//! Client certificates over both protocols, made by a CA of the test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CertifiedKey,
    DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd, generate_simple_self_signed,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use watchfire_ingest::listen::{self, ListenOptions};
use watchfire_ingest::tls::{ClientCertificates, ServerTls, TlsConfig};

use crate::setup::{PATIENCE, Rig, Settings, connect, publish};

/// Who signs for clients.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// What a client shows.
type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn issue(
        &self,
        serial: u64,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from(serial));
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn sign(&self, serial: u64, edit: impl FnOnce(&mut CertificateParams)) -> Identity {
        let (certificate, key) = self.issue(serial, edit);
        (certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    fn device(&self, serial: u64, name: &str) -> Identity {
        self.sign(serial, |params| params.distinguished_name.push(DnType::CommonName, name))
    }

    fn revocations(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2024, 2, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// Listeners of both protocols with TLS.
struct Tls {
    rig: Rig,
    authority: Authority,
    root: CertificateDer<'static>,
    mqtt: SocketAddr,
    http: SocketAddr,
    server: Arc<ServerTls>,
    crl: PathBuf,
    _folder: tempfile::TempDir,
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

impl Tls {
    async fn start(policy: ClientCertificates) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let authority = Authority::new("plant");
        write(&file("cert.pem"), &cert.pem());
        write(&file("key.pem"), &signing_key.serialize_pem());
        write(&file("ca.pem"), &authority.pem);
        write(&file("crl.pem"), &authority.revocations(&[]));
        let config = TlsConfig {
            certificate: file("cert.pem"),
            key: file("key.pem"),
            client_ca: Some(file("ca.pem")),
            client_certificates: Some(policy),
            client_crl: Some(file("crl.pem")),
        };
        let rig = Rig::with(Settings { authenticates: true, ..Settings::default() }).await;
        let server = ServerTls::load(config, &[]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mqtt = listener.local_addr().unwrap();
        tokio::spawn(rig.broker.clone().serve(listener, Some(server.clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        let router = rig.router.clone();
        let serving = listen::serve(
            listener,
            router,
            Some(server.clone()),
            ListenOptions::default(),
            Default::default(),
        );
        tokio::spawn(serving);
        let (root, crl) = (cert.der().clone(), file("crl.pem"));
        Self { rig, authority, root, mqtt, http, server, crl, _folder: folder }
    }

    async fn open(&self, to: SocketAddr, identity: Option<&Identity>) -> Option<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                config.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).unwrap()
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(to).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
    }

    /// The code of the CONNACK, and the connection; `None`: there was no handshake.
    async fn login(
        &self,
        identity: Option<&Identity>,
        login: Option<(&str, &str)>,
    ) -> Option<(u8, TlsStream<TcpStream>)> {
        let mut stream = self.open(self.mqtt, identity).await?;
        // With TLS 1.3 a client only learns with the first byte that its certificate was not taken.
        stream.write_all(&connect(true, b"c", 2, 60, login, &[])).await.ok()?;
        let mut head = [0; 4];
        stream.read_exact(&mut head).await.ok()?;
        assert_eq!(head[0], 0x20);
        let mut rest = vec![0; usize::from(head[1]) - 2];
        stream.read_exact(&mut rest).await.ok()?;
        Some((head[3], stream))
    }

    async fn code(&self, identity: Option<&Identity>, login: Option<(&str, &str)>) -> Option<u8> {
        self.login(identity, login).await.map(|(code, _)| code)
    }

    /// The status of an upload for a device; `None`: there was no handshake.
    async fn upload(&self, identity: Option<&Identity>, device: &str, credential: &str) -> Option<u16> {
        let mut stream = self.open(self.http, identity).await?;
        let body = "{\"t\":1}";
        let request = format!(
            "POST /ingest/v1/devices/{device}/telemetry HTTP/1.1\r\nhost: localhost\r\n{credential}\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        answer.split(' ').nth(1)?.parse().ok()
    }
}

#[tokio::test]
async fn a_certificate_says_which_device_it_is() {
    let tls = Tls::start(ClientCertificates::Optional).await;
    let press = tls.authority.device(1, "press-1");
    let (code, mut stream) = tls.login(Some(&press), None).await.unwrap();
    assert_eq!(code, 0);
    for (id, device, expected) in [(1, "press-1", 0), (2, "press-2", 0x87)] {
        let topic = format!("devices/{device}/telemetry");
        stream.write_all(&publish(true, 0x32, id, topic.as_bytes(), b"{\"t\":1}")).await.unwrap();
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.unwrap();
        let mut rest = vec![0; usize::from(head[1])];
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!((head[0], rest.get(2).copied().unwrap_or(0)), (0x40, expected), "{device}");
    }
    let urn = tls.authority.sign(2, |params| {
        params.distinguished_name.push(DnType::CommonName, "somebody");
        let uri = "urn:watchfire:device:press-3".try_into().unwrap();
        params.subject_alt_names = vec![SanType::URI(uri)];
    });
    assert_eq!(tls.upload(Some(&urn), "press-3", "").await, Some(200));
    assert_eq!(tls.upload(Some(&urn), "somebody", "").await, Some(403));
    assert_eq!(tls.upload(Some(&press), "press-1", "").await, Some(200));
    assert_eq!(tls.rig.rejects().len(), 1);
}

#[tokio::test]
async fn what_is_shown_beside_a_certificate_is_of_the_same_device() {
    let tls = Tls::start(ClientCertificates::Optional).await;
    let press = Some(tls.authority.device(1, "press-1"));
    let press = press.as_ref();
    for (login, expected) in [
        (("press-1", "secret"), 0),
        (("press-1", ""), 0),
        (("press-1", "wrong"), 0x86),
        (("press-2", "secret"), 0x86),
        (("press-2", ""), 0x86),
        (("token", "operator"), 0x86),
    ] {
        assert_eq!(tls.code(press, Some(login)).await, Some(expected), "{login:?}");
    }
    let basic = |text: &str| {
        use base64::Engine as _;
        format!("authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(text))
    };
    assert_eq!(tls.upload(press, "press-1", &basic("press-1:secret")).await, Some(200));
    assert_eq!(tls.upload(press, "press-1", &basic("press-1:wrong")).await, Some(401));
    assert_eq!(tls.upload(press, "press-2", &basic("press-2:secret")).await, Some(401));
    assert_eq!(tls.upload(press, "press-1", "authorization: Bearer operator\r\n").await, Some(401));
}

#[tokio::test]
async fn who_has_no_good_certificate_is_not_let_in() {
    let optional = Tls::start(ClientCertificates::Optional).await;
    assert_eq!(optional.code(None, Some(("press-1", "secret"))).await, Some(0));
    assert_eq!(optional.code(None, None).await, Some(0x86));
    assert_eq!(optional.upload(None, "press-1", "").await, Some(401));
    assert_eq!(optional.upload(None, "press-1", "authorization: Bearer operator\r\n").await, Some(200));

    let required = Tls::start(ClientCertificates::Required).await;
    let authority = &required.authority;
    assert_eq!(required.code(None, Some(("press-1", "secret"))).await, None);
    assert_eq!(required.upload(None, "press-1", "authorization: Bearer operator\r\n").await, None);
    assert_eq!(required.code(Some(&authority.device(1, "press-1")), None).await, Some(0));

    for tls in [&optional, &required] {
        let expired = tls.authority.sign(2, |params| {
            params.distinguished_name.push(DnType::CommonName, "press-1");
            params.not_after = date_time_ymd(2020, 1, 1);
        });
        let foreign = Authority::new("plant").device(3, "press-1");
        for identity in [&expired, &foreign] {
            assert_eq!(tls.code(Some(identity), Some(("press-1", "secret"))).await, None);
            assert_eq!(tls.upload(Some(identity), "press-1", "").await, None);
        }
        // Good, but of nobody who is known here.
        let nameless = tls.authority.sign(4, |_| {});
        for identity in [&nameless, &tls.authority.device(5, "stranger")] {
            assert_eq!(tls.code(Some(identity), None).await, Some(0x86));
            assert_eq!(tls.upload(Some(identity), "stranger", "").await, Some(401));
        }
    }
}

#[tokio::test]
async fn certificates_are_taken_back_by_a_list_that_is_read_again() {
    let tls = Tls::start(ClientCertificates::Optional).await;
    let (lost, kept) = (tls.authority.device(1, "press-1"), tls.authority.device(2, "press-2"));
    let (_, mut ends) = tls.login(Some(&lost), None).await.unwrap();
    let (_, mut stays) = tls.login(Some(&kept), None).await.unwrap();
    write(&tls.crl, &tls.authority.revocations(&[1]));
    tls.server.reload().unwrap();
    // Whoever is connected is looked at again, too.
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, ends.read_to_end(&mut rest)).await;
    read.expect("an end").unwrap();
    assert_eq!(rest, [0xe0, 2, 0x87, 0]);
    stays.write_all(&publish(true, 0x32, 1, b"devices/press-2/telemetry", b"{\"t\":1}")).await.unwrap();
    let mut head = [0; 2];
    stays.read_exact(&mut head).await.unwrap();
    assert_eq!(head[0], 0x40);
    assert_eq!(tls.code(Some(&lost), None).await, None);
    assert_eq!(tls.code(Some(&kept), None).await, Some(0));
    // What is no list leaves the one that counts.
    write(&tls.crl, "nonsense");
    assert!(tls.server.reload().unwrap_err().to_string().contains("revocation list"));
    assert_eq!(tls.code(Some(&lost), None).await, None);
    assert_eq!(tls.code(Some(&kept), None).await, Some(0));
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let tls = Tls::start(ClientCertificates::Required).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let short = tls.authority.sign(1, |params| {
        params.distinguished_name.push(DnType::CommonName, "press-1");
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_secs() + 3);
    });
    let (code, mut stream) = tls.login(Some(&short), None).await.unwrap();
    assert_eq!(code, 0);
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    read.expect("an end").unwrap();
    assert_eq!(rest, [0xe0, 2, 0x87, 0]);
}
