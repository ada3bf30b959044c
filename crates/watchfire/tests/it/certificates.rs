//! Devices that show a certificate, as the registry knows them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedKey, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    generate_simple_self_signed,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use watchfire::config::Config;
use watchfire::serve::Server;
use watchfire_log::SystemClock;

use crate::mqtt::Client;
use crate::wait_for;

type Authority = Issuer<'static, KeyPair>;

fn authority(file: &Path) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(file, params.self_signed(&key).unwrap().pem()).unwrap();
    Issuer::new(params, key)
}

/// A certificate and its key, PEM.
fn sign(authority: &Authority, device: &str) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, device);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap(), key)
}

struct Setup {
    server: Server,
    config: Config,
    root: CertificateDer<'static>,
    authority: Authority,
    /// The one for everything that no device does.
    admin: reqwest::Client,
    folder: tempfile::TempDir,
}

impl Setup {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        std::fs::write(path.join("server.pem"), cert.pem()).unwrap();
        std::fs::write(path.join("server.key"), signing_key.serialize_pem()).unwrap();
        let authority = authority(&path.join("ca.pem"));
        let tls = format!(
            "certificate = {:?}\nkey = {:?}\nclient_ca = {:?}\nclient_certificates = ",
            path.join("server.pem"),
            path.join("server.key"),
            path.join("ca.pem")
        );
        let text = format!(
            "data = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\nauthenticate = true\n[http.tls]\n{tls}\"optional\"\n\
             [mqtt]\nlisten = \"127.0.0.1:0\"\nlisten_tls = \"127.0.0.1:0\"\nauthenticate = true\n\
             [mqtt.tls]\n{tls}\"required\"\n",
            path.join("data")
        );
        let config = Config::read(&text, "test", []).unwrap();
        let server = Server::start(config.clone(), Arc::new(SystemClock)).await.unwrap();
        let root = cert.der().clone();
        let admin = https(&root, None);
        Self { server, config, root, authority, admin, folder }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let url = format!("https://localhost:{}/api/v1{path}", self.server.addresses.http.port());
        let answer = self.admin.request(method.parse().unwrap(), url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{method} {path}");
        answer.json().await.unwrap_or_default()
    }

    async fn login(
        &self,
        (certificate, key): &(rcgen::Certificate, KeyPair),
        login: Option<(&str, &str)>,
    ) -> Result<Client<TlsStream<TcpStream>>, u8> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let address: SocketAddr = self.server.addresses.mqtt_tls.unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect("localhost".try_into().unwrap(), stream).await.map_err(|_| 255)?;
        Client::open(stream, "c", login, true).await
    }

    async fn upload(&self, client: &reqwest::Client, device: &str) -> u16 {
        let port = self.server.addresses.http.port();
        let url = format!("https://localhost:{port}/ingest/v1/devices/{device}/telemetry");
        client.post(url).body("{\"level\":5}").send().await.unwrap().status().as_u16()
    }
}

fn https(
    root: &CertificateDer<'static>,
    identity: Option<&(rcgen::Certificate, KeyPair)>,
) -> reqwest::Client {
    let root = reqwest::Certificate::from_der(root).unwrap();
    let mut builder = reqwest::Client::builder().tls_certs_only([root]);
    if let Some((certificate, key)) = identity {
        let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
    }
    builder.build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_good_for_as_long_as_its_device_is_registered() {
    let setup = Setup::start().await;
    let press = sign(&setup.authority, "press-1");
    // Somebody whom the registry does not know is nobody, as unknown devices are refused here.
    assert_eq!(setup.login(&press, None).await.err(), Some(4));
    let client = https(&setup.root, Some(&press));
    assert_eq!(setup.upload(&client, "press-1").await, 401);

    setup.call("PUT", "/devices/press-1", json!({})).await;
    setup.call("PUT", "/devices/press-2", json!({})).await;
    setup.call("POST", "/devices/press-1/credentials", json!({"password": "a password"})).await;
    setup.call("POST", "/devices/press-2/credentials", json!({"password": "a password"})).await;
    let why = setup.call("GET", "/devices/press-1/why", Value::Null).await;
    assert!(why["certificate_last_used"].is_null(), "{why}");
    assert_eq!(setup.login(&press, Some(("press-2", "a password"))).await.err(), Some(4));
    assert_eq!(setup.login(&press, Some(("press-1", "another one"))).await.err(), Some(4));
    assert!(setup.login(&press, Some(("press-1", "a password"))).await.is_ok());
    let mut mqtt = setup.login(&press, None).await.unwrap();
    assert!(mqtt.temperature("press-1", 21.5).await);
    assert_eq!(setup.upload(&client, "press-1").await, 200);
    assert_eq!(setup.upload(&client, "press-2").await, 403);
    wait_for("both readings", async || {
        let state = setup.call("GET", "/devices/press-1/state", Value::Null).await;
        let values = (&state["metrics"]["temperature"]["value"], &state["metrics"]["level"]["value"]);
        (values == (&json!(21.5), &json!(5.0))).then_some(())
    })
    .await;
    let why = setup.call("GET", "/devices/press-1/why", Value::Null).await;
    assert!(why["certificate_last_used"].is_string(), "{why}");

    // A gateway may show one too, and a changed grant counts at once.
    setup.call("PUT", "/devices/press-1", json!({"speaks_for": ["press-2"]})).await;
    mqtt.ends().await;
    let mqtt = setup.login(&press, None).await.unwrap();
    assert_eq!(setup.upload(&client, "press-2").await, 200);

    setup.call("DELETE", "/devices/press-1", Value::Null).await;
    mqtt.ends().await;
    assert_eq!(setup.login(&press, None).await.err(), Some(4));
    assert_eq!(setup.upload(&client, "press-1").await, 401);
    setup.server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_for_clients_is_read_again_with_the_rest() {
    let setup = Setup::start().await;
    setup.call("PUT", "/devices/press-1", json!({})).await;
    let before = sign(&setup.authority, "press-1");
    assert!(setup.login(&before, None).await.is_ok());
    let file = setup.folder.path().join("ca.pem");
    std::fs::write(&file, "nonsense").unwrap();
    assert!(setup.server.reload(&setup.config).is_err());
    assert!(setup.login(&before, None).await.is_ok(), "what cannot be read changes nothing");
    let after = sign(&authority(&file), "press-1");
    assert!(setup.login(&after, None).await.is_err());
    setup.server.reload(&setup.config).unwrap();
    assert!(setup.login(&after, None).await.is_ok() && setup.login(&before, None).await.is_err());
    setup.server.stop().await.unwrap();
}
