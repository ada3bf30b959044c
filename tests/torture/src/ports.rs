//! Ports that stay ours while nobody listens on them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port below those that the system gives to connections. One of those would not do: while the engine is
/// down, a client that tries again and again could get the very port as its own end, and the engine could
/// not listen on it any more.
pub fn free() -> Result<SocketAddr> {
    let (lowest, count) = (12_000_u32, 18_000_u32);
    // Two runs at the same time begin at different places.
    let start = std::process::id() % count;
    for _ in 0..count {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (lowest + (start + step) % count) as u16;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port is free")
}
