//! The fleet over MQTT 3.1.1: light enough that what is measured is the engine beside it on the same machine.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use watchfire_log::{Clock, SystemClock};
use watchfire_model::Timestamp;

use crate::event::{self, DEVICES, Random};

/// Connections that are being made at the same time.
const CONNECTING: usize = 100;

/// A PUBLISH of QoS 1, of which packet id and time change from one sending to the next.
pub struct Reading {
    bytes: Vec<u8>,
    id_at: usize,
    time_at: usize,
}

impl Reading {
    /// Of a device, with these values.
    pub fn new(device: &str, values: [f64; 5]) -> Self {
        let topic = format!("devices/{device}/telemetry");
        let payload = event::payload(device, Timestamp(0), values);
        let mut bytes = vec![0x32];
        let mut length = 2 + topic.len() + 2 + payload.len();
        // Section 2.2.3: seven bits a byte, the lowest first.
        while length >= 128 {
            bytes.push((length % 128) as u8 | 128);
            length /= 128;
        }
        bytes.push(length as u8);
        bytes.extend((topic.len() as u16).to_be_bytes());
        bytes.extend(topic.as_bytes());
        let id_at = bytes.len();
        bytes.extend([0, 0]);
        bytes.extend(&payload);
        let time_at = id_at + 2 + r#"{"device":"","time":""#.len() + device.len();
        Self { bytes, id_at, time_at }
    }

    /// The packet with this id and time.
    pub fn at(&mut self, id: u16, time: &[u8; 24]) -> &[u8] {
        self.bytes[self.id_at..self.id_at + 2].copy_from_slice(&id.to_be_bytes());
        self.bytes[self.time_at..self.time_at + 24].copy_from_slice(time);
        &self.bytes
    }
}

/// The wall clock as devices write it; written anew once a millisecond.
pub struct Stamp(i64, [u8; 24]);

impl Stamp {
    /// Not written yet.
    pub fn new() -> Self {
        Self(0, [b'0'; 24])
    }

    /// Now.
    pub fn now(&mut self) -> &[u8; 24] {
        let now = SystemClock.wall();
        if now.0 / 1000 != self.0 {
            self.0 = now.0 / 1000;
            self.1.copy_from_slice(event::stamp(now).as_bytes());
        }
        &self.1
    }
}

/// A connection with its devices.
pub struct Connection {
    client: u32,
    /// Where it writes and reads.
    pub stream: TcpStream,
    /// One of each of its devices, sent in turn.
    pub readings: Vec<Reading>,
    next: usize,
    id: u16,
}

impl Connection {
    /// The next packet.
    pub fn packet(&mut self, time: &[u8; 24]) -> &[u8] {
        self.id = self.id.checked_add(1).unwrap_or(1);
        self.next = (self.next + 1) % self.readings.len();
        self.readings[self.next].at(self.id, time)
    }
}

/// Connects so many clients, over which the fleet is spread evenly; in order, the first has device 0.
pub async fn connect(mqtt: SocketAddr, clients: u32) -> Result<Vec<Connection>> {
    let mut random = Random(1);
    let mut connections = Vec::with_capacity(clients as usize);
    let mut connecting = JoinSet::new();
    for client in 0..clients {
        if connecting.len() >= CONNECTING
            && let Some(connected) = connecting.join_next().await
        {
            connections.push(connected??);
        }
        let devices = (0..DEVICES).filter(|device| device % clients == client);
        // Without spikes: what is beyond its limit is sent on purpose.
        let readings: Vec<Reading> = devices
            .map(|number| Reading::new(&event::device(number), event::values(&mut random, u64::MAX)))
            .collect();
        connecting.spawn(async move {
            let stream = tokio::time::timeout(Duration::from_secs(20), greet(mqtt, client)).await;
            let stream = stream.context("a client could not connect within 20 s")??;
            anyhow::Ok(Connection { client, stream, readings, next: 0, id: 0 })
        });
    }
    while let Some(connected) = connecting.join_next().await {
        connections.push(connected??);
    }
    connections.sort_by_key(|connection| connection.client);
    Ok(connections)
}

async fn greet(mqtt: SocketAddr, client: u32) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(mqtt).await?;
    // Acknowledgements would wait 40 ms for each other.
    stream.set_nodelay(true)?;
    let name = format!("bench-{client}");
    let mut hello = vec![0x10, (12 + name.len()) as u8, 0, 4];
    // Version 4, a clean session, no keep-alive.
    hello.extend(b"MQTT\x04\x02\x00\x00");
    hello.extend((name.len() as u16).to_be_bytes());
    hello.extend(name.as_bytes());
    stream.write_all(&hello).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    ensure!(answer == [0x20, 2, 0, 0], "the connection was refused: {answer:?}");
    Ok(stream)
}

/// Counts PUBACKs in what is read: four bytes each, and nothing else comes.
#[derive(Default)]
pub struct Acknowledgements(usize);

impl Acknowledgements {
    /// How many these bytes complete.
    pub fn count(&mut self, bytes: usize) -> usize {
        self.0 += bytes;
        let whole = self.0 / 4;
        self.0 %= 4;
        whole
    }
}

/// What the connections of a round share.
struct Round {
    window: usize,
    acknowledged: AtomicU64,
    stop: AtomicBool,
    stamp: Mutex<Stamp>,
}

/// Keeps so many readings of each connection on their way. Gives how many were acknowledged in a second, and what
/// `beside` measured in that time.
pub async fn saturate<T>(
    connections: &mut Vec<Connection>,
    window: usize,
    during: Duration,
    beside: impl Fn() -> Result<T>,
) -> Result<(f64, T, T)> {
    let round = Arc::new(Round::new(window));
    let tasks = begin(connections, &round, u64::MAX);
    // The first second is for getting up to speed.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, began) = (beside()?, Instant::now());
    let first = round.acknowledged.load(Ordering::Relaxed);
    tokio::time::sleep(during).await;
    let count = round.acknowledged.load(Ordering::Relaxed) - first;
    let rate = count as f64 / began.elapsed().as_secs_f64();
    let after = beside()?;
    round.stop.store(true, Ordering::Relaxed);
    *connections = end(tasks).await?;
    Ok((rate, before, after))
}

/// Sends so many readings of every device, and returns once they are acknowledged.
pub async fn send_each(connections: &mut Vec<Connection>, window: usize, times: u64) -> Result<()> {
    let tasks = begin(connections, &Arc::new(Round::new(window)), times);
    *connections = end(tasks).await?;
    Ok(())
}

impl Round {
    fn new(window: usize) -> Self {
        Self {
            window,
            acknowledged: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            stamp: Mutex::new(Stamp::new()),
        }
    }
}

fn begin(connections: &mut Vec<Connection>, round: &Arc<Round>, times: u64) -> JoinSet<Result<Connection>> {
    let mut tasks = JoinSet::new();
    for connection in connections.drain(..) {
        let most = times.saturating_mul(connection.readings.len() as u64);
        tasks.spawn(drive(connection, round.clone(), most));
    }
    tasks
}

async fn end(mut tasks: JoinSet<Result<Connection>>) -> Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(tasks.len());
    while let Some(done) = tasks.join_next().await {
        connections.push(done??);
    }
    connections.sort_by_key(|connection| connection.client);
    Ok(connections)
}

async fn drive(mut connection: Connection, round: Arc<Round>, most: u64) -> Result<Connection> {
    let (mut left, mut waiting) = (most, 0);
    let mut out = Vec::new();
    let mut buffer = [0; 4096];
    let mut acknowledgements = Acknowledgements::default();
    loop {
        if round.stop.load(Ordering::Relaxed) {
            left = 0;
        }
        out.clear();
        {
            let mut stamp = round.stamp.lock().unwrap_or_else(PoisonError::into_inner);
            let time = stamp.now();
            while left > 0 && waiting < round.window {
                out.extend_from_slice(connection.packet(time));
                left -= 1;
                waiting += 1;
            }
        }
        if !out.is_empty() {
            connection.stream.write_all(&out).await?;
        }
        if waiting == 0 {
            return Ok(connection);
        }
        let read = connection.stream.read(&mut buffer).await?;
        ensure!(read > 0, "the engine hung up");
        let count = acknowledgements.count(read);
        waiting -= count.min(waiting);
        round.acknowledged.fetch_add(count as u64, Ordering::Relaxed);
    }
}
