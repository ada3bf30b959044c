//! A device that keeps a ledger: it sends one reading at a time, over MQTT or HTTP, again and again until it
//! is acknowledged, and only then the next. So it knows what must be in the log, and in which order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::engine::Addresses;

/// Above this the rule under test triggers; at [`CALM`] it clears.
pub const HOT: f64 = 120.0;
/// Below the deadband of the rule under test.
pub const CALM: f64 = 20.0;

/// What one device sent and got acknowledged.
pub struct Ledger {
    /// The device.
    pub device: String,
    /// Acknowledged readings in order: milliseconds since the epoch, and the value.
    pub acknowledged: Vec<(i64, f64)>,
    /// Times that a reading had to be sent again.
    pub resent: u64,
}

/// How a device talks.
#[derive(Clone, Copy)]
pub enum Way {
    /// MQTT 3.1.1, QoS 1.
    Mqtt,
    /// HTTP/1.1.
    Http,
}

/// Sends until it is told to stop, then gives its ledger; the last reading sent is acknowledged and calm,
/// so that every alert of the device must be resolved in the end.
pub async fn run(number: u64, way: Way, addresses: Addresses, seed: u64, stop: Arc<AtomicBool>) -> Ledger {
    let mut random = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut ledger = Ledger { device: format!("torture-{number:04}"), acknowledged: Vec::new(), resent: 0 };
    let http = crate::client();
    let mut link = None;
    let mut hot = false;
    // Its own clock, strictly growing: a reading is known by its time.
    let mut time = crate::now_millis();
    loop {
        let last = stop.load(Ordering::Relaxed);
        if last {
            hot = false;
        } else if random.random_ratio(1, 6) {
            hot = !hot;
        }
        let value = if hot { HOT } else { CALM } + f64::from(random.random_range(0..1000_u32)) / 1000.0;
        time = crate::now_millis().max(time + 1);
        let mut tries = 0;
        loop {
            let sent = match way {
                Way::Mqtt => publish(&mut link, &addresses, &ledger.device, time, value).await,
                Way::Http => post(&http, &addresses, &ledger.device, time, value).await,
            };
            match sent {
                Ok(()) => break,
                Err(_) => {
                    link = None;
                    tries += 1;
                    ledger.resent += 1;
                    tokio::time::sleep(Duration::from_millis(20 + random.random_range(0..80))).await;
                    assert!(tries < 6000, "{}: a reading was never acknowledged", ledger.device);
                }
            }
        }
        ledger.acknowledged.push((time, value));
        if last {
            return ledger;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(1..60))).await;
    }
}

async fn post(
    http: &reqwest::Client,
    addresses: &Addresses,
    device: &str,
    time: i64,
    value: f64,
) -> Result<()> {
    let url = format!("http://{}/ingest/v1/devices/{device}/telemetry", addresses.http);
    let body = format!(r#"{{"time":{time},"metrics":{{"temperature":{value}}}}}"#);
    let answer = http
        .post(url)
        .header("content-type", "application/json")
        .body(body)
        .timeout(Duration::from_secs(5))
        .send()
        .await?;
    if !answer.status().is_success() {
        bail!("{}", answer.status());
    }
    Ok(())
}

/// A link of its own and no client library: what is proved must not rest on what is tested or on
/// reconnections that nobody sees. Packets as in MQTT 3.1.1, sections 3.1 to 3.4.
async fn publish(
    link: &mut Option<(TcpStream, u16)>,
    addresses: &Addresses,
    device: &str,
    time: i64,
    value: f64,
) -> Result<()> {
    if link.is_none() {
        *link = Some((connect(addresses, device).await?, 0));
    }
    let (stream, id) = link.as_mut().context("connected above")?;
    *id = id.wrapping_add(1).max(1);
    let topic = format!("devices/{device}/telemetry");
    let payload = format!(r#"{{"time":{time},"metrics":{{"temperature":{value}}}}}"#);
    let mut body = Vec::new();
    text(&mut body, &topic);
    body.extend_from_slice(&id.to_be_bytes());
    body.extend_from_slice(payload.as_bytes());
    stream.write_all(&packet(0x32, &body)).await?;
    let mut acknowledgement = [0; 4];
    tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut acknowledgement)).await??;
    if acknowledgement != [0x40, 2, (*id >> 8) as u8, *id as u8] {
        bail!("expected the PUBACK of {id}, got {acknowledgement:02x?}");
    }
    Ok(())
}

async fn connect(addresses: &Addresses, device: &str) -> Result<TcpStream> {
    let mut stream =
        tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(addresses.mqtt)).await??;
    stream.set_nodelay(true)?;
    let mut body = Vec::new();
    text(&mut body, "MQTT");
    body.extend_from_slice(&[4, 2, 0, 30]);
    text(&mut body, device);
    stream.write_all(&packet(0x10, &body)).await?;
    let mut answer = [0; 4];
    tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await??;
    if answer[0] != 0x20 || answer[3] != 0 {
        bail!("refused: {answer:02x?}");
    }
    Ok(stream)
}

fn text(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(&(text.len() as u16).to_be_bytes());
    body.extend_from_slice(text.as_bytes());
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut rest = body.len();
    loop {
        let byte = (rest % 128) as u8;
        rest /= 128;
        packet.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}
