//! TLS on both: handshakes, ALPN, a certificate that is replaced.

use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use watchfire_ingest::listen::{self, ListenOptions};
use watchfire_ingest::tls::{ServerTls, TlsConfig};

use crate::setup::{Rig, Settings, connect, publish};

fn write(folder: &std::path::Path) -> (TlsConfig, rustls::pki_types::CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let config = TlsConfig {
        certificate: folder.join("cert.pem"),
        key: folder.join("key.pem"),
        ..TlsConfig::default()
    };
    std::fs::write(&config.certificate, cert.pem()).unwrap();
    std::fs::write(&config.key, signing_key.serialize_pem()).unwrap();
    (config, cert.der().clone())
}

fn connector(root: rustls::pki_types::CertificateDer<'static>, alpn: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn mqtt_over_tls_and_a_new_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (config, root) = write(folder.path());
    let mut settings = Settings::default();
    settings.mqtt.connect_seconds = 1;
    let rig = Rig::with(settings).await;
    let tls = ServerTls::load(config.clone(), &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(rig.broker.clone().serve(listener, Some(tls.clone())));
    let name = || ServerName::try_from("localhost").unwrap();

    // Somebody opens the port and says nothing: others are served meanwhile.
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut stream = connector(root.clone(), &[])
        .connect(name(), TcpStream::connect(address).await.unwrap())
        .await
        .unwrap();
    let mut bytes = connect(false, b"secure", 2, 60, None, &[]);
    bytes.extend(publish(false, 0x32, 5, b"devices/a/telemetry", b"{\"t\":1}"));
    stream.write_all(&bytes).await.unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0, 0x40, 2, 0, 5]);
    assert_eq!(rig.rows(), 1);
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0, "closed after a second");

    let (_, fresh) = write(folder.path());
    tls.reload().unwrap();
    let connect = |root| async move {
        connector(root, &[]).connect(name(), TcpStream::connect(address).await.unwrap()).await.is_ok()
    };
    assert!(connect(fresh.clone()).await && !connect(root).await);
    // What cannot be used leaves the one that is in use.
    std::fs::write(&config.key, "nonsense").unwrap();
    assert!(tls.reload().unwrap_err().to_string().contains("private key"));
    assert!(connect(fresh).await);
}

#[tokio::test]
async fn https_speaks_what_alpn_chose() {
    let folder = tempfile::tempdir().unwrap();
    let (config, root) = write(folder.path());
    let tls = ServerTls::load(config, &["h2", "http/1.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
    let stop = tokio_util::sync::CancellationToken::new();
    let serving =
        tokio::spawn(listen::serve(listener, router, Some(tls), ListenOptions::default(), stop.clone()));
    for (alpn, expected) in [("h2", &b"\x00"[..]), ("http/1.1", b"H")] {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector(root.clone(), &[alpn]).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
        let request: &[u8] = if alpn == "h2" {
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
        } else {
            b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
        };
        stream.write_all(request).await.unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(first, expected);
    }
    stop.cancel();
    serving.await.unwrap();
}
