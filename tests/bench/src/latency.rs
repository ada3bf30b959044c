//! From a reading that is written to a socket to its alert at a webhook: 15 000 devices, a connection each, at half
//! of the rate that they can send at most. The reference is an echo over loopback that answers after an fdatasync,
//! under the same load: no durable answer is quicker.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::event::{self, DEVICES};
use crate::figure::Figure;
use crate::load::{self, Acknowledgements, Connection, Reading, Stamp};
use crate::server::Server;
use crate::{Options, disk, hook, mqtt};

/// Readings of a device on their way while the maximum is looked for.
const WINDOW: usize = 2;
/// How long half of the maximum is kept up.
const STEADY: Duration = Duration::from_secs(25);
/// Between two readings beyond their limit, and two echoes.
const BETWEEN: Duration = Duration::from_millis(25);
/// How long the fleet runs before the first of them.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two looks at what is due to be sent.
const TICK: Duration = Duration::from_millis(1);

/// What was measured at one rate.
pub struct Measured {
    /// The most that the connections send.
    most: f64,
    /// Readings a second that were acknowledged.
    pub rate: f64,
    /// From the reading to the webhook.
    pub latencies: Vec<Duration>,
    echoes: Vec<Duration>,
}

pub fn run(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let Measured { most, rate, mut latencies, mut echoes } = measure(options, "", None, || Ok(()))?;
    figures.push(Figure {
        bench: "latency",
        figure: "the most that 15 000 connections send, 10 threshold rules".into(),
        unit: "readings/s",
        value: most,
        reference: None,
        ratio: None,
        goal: "report",
        met: None,
    });
    for (quantile, name, goal, limit) in [(0.5, "p50", "< 3 ms", 3.0), (0.99, "p99", "< 10 ms", 10.0)] {
        let pair = (at(&mut latencies, quantile), at(&mut echoes, quantile));
        let figure = format!(
            "reading to webhook, {name} of {} at {rate:.0} readings/s, against an echo after fdatasync",
            latencies.len()
        );
        figures.push(Figure::against("latency", figure, "ms", pair, goal, |value, _| Some(value < limit)));
    }
    Ok(())
}

/// Measures with an engine that has this configuration besides, at this rate, or at half of the most that it takes.
/// `before` is called between the search for the most and the measurement.
pub fn measure(
    options: &Options,
    configuration: &str,
    rate: Option<f64>,
    before: impl FnOnce() -> Result<()>,
) -> Result<Measured> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (_server, mut rig) = Rig::start(options, configuration).await?;
        before()?;
        let rate = rate.unwrap_or(rig.most / 2.0);
        Ok(rig.steady(rate, async { Ok(()) }).await?.0)
    })
}

/// A fleet that is connected to an engine with limits, and a receiver of its alerts.
pub struct Rig {
    fleet: Fleet,
    receiver: Receiver,
    /// The most that the connections send, in readings a second.
    pub most: f64,
}

impl Rig {
    /// Starts an engine with this configuration besides, and looks for the most that its fleet can send.
    pub async fn start(options: &Options, configuration: &str) -> Result<(Server, Self)> {
        let receiver = Receiver::start()?;
        let server = Server::start_with(options, Some(receiver.address), configuration)?;
        server.register().await?;
        // One limit for each probe to be over: the anomaly would tell of it as well.
        let rules = mqtt::rules().into_iter().filter(|(_, module, _)| *module == "threshold").collect();
        server.deploy(rules).await?;
        let mut connections = load::connect(server.mqtt, DEVICES).await?;
        let (most, (), ()) =
            load::saturate(&mut connections, WINDOW, Duration::from_secs(4), || Ok(())).await?;
        server.level().await?;
        Ok((server, Self { fleet: Fleet::new(connections), receiver, most }))
    }

    /// Sends at this rate for [`STEADY`], and on until `beside` is done; gives what was measured, and its answer.
    pub async fn steady<T>(
        &mut self,
        rate: f64,
        beside: impl Future<Output = Result<T>>,
    ) -> Result<(Measured, T)> {
        let folder = disk::folder()?;
        let echo = Echo::start(&folder.path().join("echo"))?;
        let done = Cell::new(false);
        let beside = async {
            let answer = beside.await?;
            done.set(true);
            anyhow::Ok(answer)
        };
        let (rate, answer) = tokio::try_join!(self.fleet.pace(rate, &self.receiver, &done), beside)?;
        self.receiver.wait().await?;
        let (latencies, echoes) = (self.receiver.latencies(), echo.stop()?);
        ensure!(latencies.len() > 100 && echoes.len() > 100, "too little was measured");
        Ok((Measured { most: self.most, rate, latencies, echoes }, answer))
    }
}

/// A quantile, in milliseconds.
pub fn at(all: &mut [Duration], quantile: f64) -> f64 {
    all.sort_unstable();
    let place = ((all.len() - 1) as f64 * quantile).round() as usize;
    all[place].as_secs_f64() * 1000.0
}

/// The connections, one for each device.
struct Fleet {
    sending: Vec<(OwnedWriteHalf, Vec<Reading>)>,
    acknowledged: Arc<AtomicU64>,
    sent: u64,
    probes: usize,
    id: u16,
    stamp: Stamp,
}

impl Fleet {
    fn new(connections: Vec<Connection>) -> Self {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut sending = Vec::with_capacity(connections.len());
        for connection in connections {
            let (read, write) = connection.stream.into_split();
            tokio::spawn(count(read, acknowledged.clone()));
            sending.push((write, connection.readings));
        }
        Self { sending, acknowledged, sent: 0, probes: 0, id: 1, stamp: Stamp::new() }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Sends at this rate, device after device, and now and then a reading beyond its limit, for [`STEADY`] and until
    /// `done`; gives the rate at which readings were acknowledged.
    async fn pace(&mut self, rate: f64, receiver: &Receiver, done: &Cell<bool>) -> Result<f64> {
        let (sent, acknowledged) = (self.sent, self.acknowledged());
        let began = Instant::now();
        let mut probe_at = began + SETTLE;
        let mut tick = tokio::time::interval(TICK);
        while began.elapsed() < STEADY || !done.get() {
            tick.tick().await;
            let due = sent + (began.elapsed().as_secs_f64() * rate) as u64;
            while self.sent < due {
                let number = (self.sent % u64::from(DEVICES)) as usize;
                self.send(number, None).await?;
            }
            if Instant::now() >= probe_at {
                probe_at += BETWEEN;
                // Far from each other, and each once.
                ensure!(self.probes < DEVICES as usize, "every device has an alert already");
                let number = self.probes * 7919 % DEVICES as usize;
                self.probes += 1;
                let device = event::device(number as u32);
                let mut reading = Reading::new(&device, [95.0, 30.0, 40.0, 50.0, 60.0]);
                receiver.expect(device);
                self.send(number, Some(&mut reading)).await?;
            }
        }
        let (sent, count) = (self.sent - sent, self.acknowledged() - acknowledged);
        ensure!(count as f64 > 0.95 * sent as f64, "{sent} readings were sent, {count} acknowledged in time");
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }

    /// Sends a reading over the connection of a device: the usual one, or another.
    async fn send(&mut self, number: usize, other: Option<&mut Reading>) -> Result<()> {
        self.id = self.id.checked_add(1).unwrap_or(1);
        self.sent += 1;
        let (write, readings) = &mut self.sending[number];
        let reading = other.unwrap_or(&mut readings[0]);
        send(write, reading.at(self.id, self.stamp.now())).await
    }
}

async fn send(stream: &OwnedWriteHalf, packet: &[u8]) -> Result<()> {
    let mut rest = packet;
    while !rest.is_empty() {
        match stream.try_write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn count(mut read: OwnedReadHalf, acknowledged: Arc<AtomicU64>) {
    let mut buffer = [0; 256];
    let mut acknowledgements = Acknowledgements::default();
    while let Ok(read @ 1..) = read.read(&mut buffer).await {
        acknowledged.fetch_add(acknowledgements.count(read) as u64, Ordering::Relaxed);
    }
}

/// The webhook receiver, on a thread of its own: the fleet must not keep it from noting the time.
struct Receiver {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    sent: HashMap<String, Instant>,
    latencies: Vec<Duration>,
}

impl Receiver {
    fn start() -> Result<Self> {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let router = axum::Router::new().route("/alerts", post(take)).with_state(seen.clone());
        let address = hook::serve(router)?;
        Ok(Self { address, seen })
    }

    /// From now on an alert of this device is waited for.
    fn expect(&self, device: String) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.sent.insert(device, Instant::now());
    }

    /// Waits until all came.
    async fn wait(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let left = self.seen.lock().unwrap_or_else(PoisonError::into_inner).sent.len();
            if left == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{left} alerts did not come");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn latencies(&self) -> Vec<Duration> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner).latencies)
    }
}

async fn take(State(seen): State<Arc<Mutex<Seen>>>, body: Bytes) -> StatusCode {
    let now = Instant::now();
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    for alert in message["alerts"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let device = alert["labels"]["device"].as_str().unwrap_or_default();
        if alert["status"] == "firing"
            && let Some(sent) = seen.sent.remove(device)
        {
            seen.latencies.push(now - sent);
        }
    }
    StatusCode::OK
}

/// Echoes that are answered after an fdatasync, one after the other.
struct Echo {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Result<Vec<Duration>>>,
}

impl Echo {
    fn start(path: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let mut file = std::fs::File::create(path)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 16 << 20)?;
        file.sync_all()?;
        let answering = std::thread::spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let mut message = [0; 256];
            // Ends when the other side hangs up.
            while stream.read_exact(&mut message).is_ok() {
                file.write_all(&message)?;
                file.sync_data()?;
                stream.write_all(&message)?;
            }
            Ok(())
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let asking = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            let (mut message, mut times) = ([7; 256], Vec::new());
            std::thread::sleep(SETTLE);
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(BETWEEN);
                let began = Instant::now();
                stream.write_all(&message)?;
                stream.read_exact(&mut message)?;
                times.push(began.elapsed());
            }
            drop(stream);
            answering.join().map_err(|_| anyhow::anyhow!("the echo panicked"))??;
            Ok(times)
        });
        Ok(Self { stop, asking })
    }

    fn stop(self) -> Result<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        self.asking.join().ok().context("the echo panicked")?
    }
}
