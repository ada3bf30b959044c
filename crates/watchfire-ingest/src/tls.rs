//! Certificates of our listeners, and which ones of clients are believed: rustls 0.23 with ring, from PEM files,
//! replaceable while running.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificate::ClientCertificate;

/// Where a listener's certificate stands.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate and those between it and the root, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Those whose signature makes a client certificate good, PEM; `None`: clients are asked for none.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Whether clients must have one; not said: they may.
    #[serde(default)]
    pub client_certificates: Option<ClientCertificates>,
    /// Client certificates that were taken back: revocation lists of each of `client_ca`, PEM.
    #[serde(default)]
    pub client_crl: Option<PathBuf>,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// One that is shown must be good; who shows none has another credential, or none.
    #[default]
    Optional,
    /// Who shows none gets no connection.
    Required,
}

/// A certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read, or holds nothing of the kind.
    #[error("cannot read {what} from {path}")]
    Read {
        /// Certificate or key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error("certificate {0} and its key cannot be used")]
    Unusable(PathBuf, #[source] rustls::Error),
    /// One of the certificates of those who sign for clients is no good.
    #[error("client certificates cannot be checked with {0}")]
    Authority(PathBuf, #[source] rustls::Error),
    /// They, or the revocation lists, cannot be used together.
    #[error("client certificates cannot be checked with {0}")]
    Verifier(PathBuf, #[source] rustls::server::VerifierBuilderError),
}

/// A certificate that was read and is not used yet.
#[derive(Debug)]
pub struct Fresh(Arc<Material>);

/// What was read from the files.
#[derive(Debug)]
pub(crate) struct Material {
    server: Arc<ServerConfig>,
    /// Which client certificates are believed; `None`: clients are asked for none.
    pub(crate) verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// TLS of one listener.
#[derive(Debug)]
pub struct ServerTls {
    config: TlsConfig,
    protocols: Vec<Vec<u8>>,
    /// Connections with a client certificate look at it again when this changes.
    current: watch::Sender<Arc<Material>>,
}

impl ServerTls {
    /// Reads certificate and key. `protocols`: what ALPN offers, such as `h2`; empty: no ALPN.
    pub fn load(config: TlsConfig, protocols: &[&str]) -> Result<Arc<Self>, TlsError> {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let current = watch::Sender::new(read(&config, &protocols)?);
        Ok(Arc::new(Self { config, protocols, current }))
    }

    /// Reads the files again, for connections made from now on. On an error the certificate stays as it is.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.swap(self.prepare()?);
        Ok(())
    }

    /// Reads the files again and changes nothing yet: of several certificates all are read before one is swapped.
    pub fn prepare(&self) -> Result<Fresh, TlsError> {
        read(&self.config, &self.protocols).map(Fresh)
    }

    /// Uses what [`ServerTls::prepare`] read, for connections made from now on; those whose client certificate is not
    /// good by it end.
    pub fn swap(&self, fresh: Fresh) {
        self.current.send_replace(fresh.0);
    }

    /// Makes the handshake; gives the certificate that the client showed, if it did. It has no time limit of its own.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<(TlsStream<TcpStream>, Option<ClientCertificate>)> {
        // Marked as seen here: what is swapped during the handshake counts as a change after it.
        let mut material = self.current.subscribe();
        let server = material.borrow_and_update().server.clone();
        let stream = TlsAcceptor::from(server).accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
        let certificate = chain.map(|chain| ClientCertificate::new(chain, material));
        Ok((stream, certificate))
    }
}

fn read_error(what: &'static str, path: &Path) -> impl Fn(rustls_pki_types::pem::Error) -> TlsError {
    let path = path.to_path_buf();
    move |source| TlsError::Read { what, path: path.clone(), source }
}

/// All of a kind that a file holds: at least one.
fn read_all<T: PemObject>(what: &'static str, path: &Path) -> Result<Vec<T>, TlsError> {
    let error = read_error(what, path);
    let all: Vec<T> = T::pem_file_iter(path).map_err(&error)?.collect::<Result<_, _>>().map_err(&error)?;
    if all.is_empty() {
        return Err(error(rustls_pki_types::pem::Error::NoItemsFound));
    }
    Ok(all)
}

fn read(config: &TlsConfig, protocols: &[Vec<u8>]) -> Result<Arc<Material>, TlsError> {
    let chain: Vec<CertificateDer<'static>> = read_all("a certificate", &config.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(read_error("a private key", &config.key))?;
    let unusable = |source| TlsError::Unusable(config.certificate.clone(), source);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(config, provider.clone())?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(verifier.clone().unwrap_or_else(WebPkiClientVerifier::no_client_auth))
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    server.alpn_protocols = protocols.to_vec();
    if config.client_ca.is_some() {
        // A session that is resumed brings the certificate of its first handshake along, unchecked: it may be over, or
        // taken back since.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    Ok(Arc::new(Material { server: Arc::new(server), verifier }))
}

/// Which client certificates are believed.
fn verifier(
    config: &TlsConfig,
    provider: Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let Some(path) = &config.client_ca else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    for authority in read_all("a certificate", path)? {
        roots.add(authority).map_err(|source| TlsError::Authority(path.clone(), source))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if let Some(path) = &config.client_crl {
        // The age of a list is not looked at: one that nobody renewed would lock a whole fleet out.
        let lists: Vec<CertificateRevocationListDer<'static>> = read_all("a revocation list", path)?;
        builder = builder.with_crls(lists);
    }
    if config.client_certificates.unwrap_or_default() == ClientCertificates::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map(Some).map_err(|source| TlsError::Verifier(path.clone(), source))
}
