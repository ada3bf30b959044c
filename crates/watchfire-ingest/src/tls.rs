//! Certificates of our listeners: rustls 0.23 with ring, from PEM files, replaceable while running.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Where a listener's certificate stands.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate and those between it and the root, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
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
}

/// A certificate that was read and is not used yet.
#[derive(Debug)]
pub struct Fresh(Arc<ServerConfig>);

/// TLS of one listener.
#[derive(Debug)]
pub struct ServerTls {
    config: TlsConfig,
    protocols: Vec<Vec<u8>>,
    current: RwLock<Arc<ServerConfig>>,
}

impl ServerTls {
    /// Reads certificate and key. `protocols`: what ALPN offers, such as `h2`; empty: no ALPN.
    pub fn load(config: TlsConfig, protocols: &[&str]) -> Result<Arc<Self>, TlsError> {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let current = RwLock::new(read(&config, &protocols)?);
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

    /// Uses what [`ServerTls::prepare`] read, for connections made from now on.
    pub fn swap(&self, fresh: Fresh) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh.0;
    }

    /// Makes the handshake. It has no time limit of its own.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        TlsAcceptor::from(current).accept(stream).await
    }
}

fn read(config: &TlsConfig, protocols: &[Vec<u8>]) -> Result<Arc<ServerConfig>, TlsError> {
    fn error(what: &'static str, path: &Path) -> impl Fn(rustls_pki_types::pem::Error) -> TlsError {
        let path = path.to_path_buf();
        move |source| TlsError::Read { what, path: path.clone(), source }
    }
    let certificate_error = error("a certificate", &config.certificate);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&config.certificate)
        .map_err(&certificate_error)?
        .collect::<Result<_, _>>()
        .map_err(&certificate_error)?;
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(error("a private key", &config.key))?;
    let unusable = |source| TlsError::Unusable(config.certificate.clone(), source);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    server.alpn_protocols = protocols.to_vec();
    Ok(Arc::new(server))
}
