//! HTTP connections: HTTP/1.1 and HTTP/2 (by ALPN, or with prior knowledge), with or without TLS. Serves any axum
//! router, that of the control API included.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::{Request, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use watchfire_telemetry::metrics;

use crate::certificate::ClientCertificate;
use crate::tls::ServerTls;

/// Bounds of an HTTP listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenOptions {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address; a proxy is one.
    pub connections_per_address: usize,
    /// Seconds within which the TLS handshake, and then the headers of a request, must have come.
    pub header_seconds: u64,
    /// Requests that one HTTP/2 connection may have open.
    pub streams: u32,
    /// Seconds that requests have at a shutdown to be answered.
    pub drain_seconds: u64,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 5000,
            header_seconds: 10,
            streams: 200,
            drain_seconds: 10,
        }
    }
}

/// Serves a router until `stop`; then requests that are being answered have some time to end. Handlers find the
/// client's address as [`ConnectInfo`], and the [`ClientCertificate`] that it showed as an extension.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<ServerTls>>,
    options: ListenOptions,
    stop: CancellationToken,
) {
    let limit = Duration::from_secs(options.header_seconds);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limit);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.streams)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(options.connections.min(Semaphore::MAX_PERMITS)));
    let addresses = Arc::new(Addresses { most: options.connections_per_address, open: Mutex::default() });
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most often: no file descriptors left. Those who are connected go on.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            refused("connections");
            continue;
        };
        let Some(address) = addresses.admit(peer.ip()) else {
            refused("connections-per-address");
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (router, builder, watcher, tls) =
            (router.clone(), builder.clone(), graceful.watcher(), tls.clone());
        let stop = stop.clone();
        tokio::spawn(async move {
            let (_place, _address) = (place, address);
            // Who has sent nothing yet has nothing to lose when we stop.
            let begun = tokio::select! {
                () = stop.cancelled() => return,
                begun = tokio::time::timeout(limit, begin(stream, tls)) => begun,
            };
            match begun {
                Ok(Some(Begun::Plain(stream, version))) => {
                    connection(stream, peer, None, router, version.of(builder), watcher).await;
                }
                Ok(Some(Begun::Tls(stream, version))) => {
                    let (stream, certificate) = *stream;
                    connection(stream, peer, certificate, router, version.of(builder), watcher).await;
                }
                Ok(None) => refused("handshake"),
                Err(_) => refused("handshake-timeout"),
            }
        });
    }
    drop(listener);
    let drain = Duration::from_secs(options.drain_seconds);
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("HTTP requests were still open at the end of the drain");
    }
}

/// Connections by address.
struct Addresses {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that is counted, until it is dropped.
struct Admitted(Arc<Addresses>, IpAddr);

impl Addresses {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admitted> {
        let mut open = self.lock();
        let here = open.get(&address).copied().unwrap_or(0);
        if here >= self.most {
            return None;
        }
        open.insert(address, here + 1);
        Some(Admitted(self.clone(), address))
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.0.lock();
        match open.get_mut(&self.1) {
            Some(here) if *here > 1 => *here -= 1,
            _ => drop(open.remove(&self.1)),
        }
    }
}

fn refused(why: &'static str) {
    let labels = [("source", "http".into()), ("reason", why.into())];
    metrics().intake.refused.get_or_create(&labels).inc();
}

#[derive(Clone, Copy)]
enum Version {
    Http1,
    Http2,
}

impl Version {
    /// hyper's own detection has no time limit: it is told.
    fn of(self, builder: auto::Builder<TokioExecutor>) -> auto::Builder<TokioExecutor> {
        match self {
            Self::Http1 => builder.http1_only(),
            Self::Http2 => builder.http2_only(),
        }
    }
}

enum Begun {
    Plain(TcpStream, Version),
    Tls(Box<(tokio_rustls::server::TlsStream<TcpStream>, Option<ClientCertificate>)>, Version),
}

/// Makes the TLS handshake, and finds out which HTTP is spoken.
async fn begin(stream: TcpStream, tls: Option<Arc<ServerTls>>) -> Option<Begun> {
    if let Some(tls) = tls {
        let (stream, certificate) = tls.accept(stream).await.ok()?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        return Some(Begun::Tls(
            Box::new((stream, certificate)),
            if h2 { Version::Http2 } else { Version::Http1 },
        ));
    }
    // `PRI * HTTP/2.0` begins HTTP/2 with prior knowledge; no method of HTTP/1.1 begins with PR.
    loop {
        let mut start = [0; 2];
        match stream.peek(&mut start).await.ok()? {
            0 => return None,
            1 if start[0] == b'P' => tokio::time::sleep(Duration::from_millis(5)).await,
            _ if start == *b"PR" => return Some(Begun::Plain(stream, Version::Http2)),
            _ => return Some(Begun::Plain(stream, Version::Http1)),
        }
    }
}

async fn connection<S>(
    stream: S,
    peer: SocketAddr,
    certificate: Option<ClientCertificate>,
    router: Router,
    builder: auto::Builder<TokioExecutor>,
    watcher: Watcher,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(certificate) = &certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        router.clone().oneshot(request)
    });
    let begun = Instant::now();
    let open = metrics().intake.connections.get_or_create(&[("source", "http".into())]).clone();
    open.inc();
    let served = watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()).await;
    open.dec();
    if let Err(error) = served {
        tracing::debug!(%peer, %error, seconds = begun.elapsed().as_secs(), "an HTTP connection ended early");
    }
}
