//! Certificates that are replaced while everything runs.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use watchfire::config::Config;
use watchfire::serve::Server;
use watchfire_log::SystemClock;

type Root = CertificateDer<'static>;

fn write(folder: &Path, name: &str) -> Root {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), cert.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), signing_key.serialize_pem()).unwrap();
    cert.der().clone()
}

/// Whether a listener shows the certificate of this root.
async fn shows(address: SocketAddr, root: &Root) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let shown = tokio::task::spawn_blocking(move || {
        let mut client = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        client.complete_io(&mut stream).is_ok()
    });
    shown.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_certificates_are_swapped_or_none() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (mqtt, http) = (write(path, "mqtt"), write(path, "http"));
    let tls = |name: &str| {
        let file = |kind: &str| path.join(format!("{name}.{kind}"));
        format!("tls = {{ certificate = {:?}, key = {:?} }}", file("pem"), file("key"))
    };
    let text = format!(
        "data = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n{}\n[mqtt]\nlisten = \"127.0.0.1:0\"\n\
         listen_tls = \"127.0.0.1:0\"\n{}\n",
        path.join("data"),
        tls("http"),
        tls("mqtt")
    );
    let config = Config::read(&text, "test", []).unwrap();
    let server = Server::start(config.clone(), Arc::new(SystemClock)).await.unwrap();
    let (at_http, at_mqtt) = (server.addresses.http, server.addresses.mqtt_tls.unwrap());
    assert!(shows(at_http, &http).await && shows(at_mqtt, &mqtt).await);

    // The one is replaced, the other half-way: its key is of another certificate.
    let new_mqtt = write(path, "mqtt");
    let kept = std::fs::read(path.join("http.key")).unwrap();
    let new_http = write(path, "http");
    let new_key = std::fs::read(path.join("http.key")).unwrap();
    std::fs::write(path.join("http.key"), kept).unwrap();
    assert!(server.reload(&config).is_err());
    assert!(shows(at_http, &http).await, "the broken one stays");
    assert!(shows(at_mqtt, &mqtt).await && !shows(at_mqtt, &new_mqtt).await, "and so does the good one");
    std::fs::write(path.join("http.key"), new_key).unwrap();
    server.reload(&config).unwrap();
    assert!(shows(at_http, &new_http).await && shows(at_mqtt, &new_mqtt).await);
    server.stop().await.unwrap();
}
