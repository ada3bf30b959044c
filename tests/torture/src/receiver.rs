//! A webhook receiver that refuses, hangs, cuts connections and dies, and remembers what it answered with 200.
//! Written on plain sockets, so that it can break off anywhere.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A request that arrived whole.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The idempotency key.
    pub id: String,
    /// The body.
    pub body: Value,
    /// It was answered with 200.
    pub taken: bool,
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Take,
    Refuse(&'static str),
    /// Never answers.
    Hang,
    /// Ends the connection before the request was read.
    CutBefore,
    /// Ends it instead of an answer, or within the answer.
    CutAfter(&'static str),
}

struct Shared {
    arrivals: Vec<Arrival>,
    /// What came that is no delivery at all.
    faults: Vec<String>,
    faulty: bool,
    random: StdRng,
}

impl Shared {
    fn fate(&mut self) -> Fate {
        if !self.faulty {
            return Fate::Take;
        }
        match self.random.random_range(0..40) {
            0..=2 => Fate::Refuse("500 Internal Server Error\r\n"),
            3 => Fate::Refuse("429 Too Many Requests\r\nretry-after: 1\r\n"),
            4..=5 => Fate::Refuse("503 Service Unavailable\r\n"),
            6 => Fate::Hang,
            7..=8 => Fate::CutBefore,
            9..=10 => Fate::CutAfter(""),
            11 => Fate::CutAfter("HTTP/1.1 20"),
            _ => Fate::Take,
        }
    }
}

/// A receiver.
#[derive(Clone)]
pub struct Receiver {
    shared: Arc<Mutex<Shared>>,
    listening: Arc<tokio::sync::Mutex<Option<JoinHandle<()>>>>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Receiver {
    /// Listens, and misbehaves until [`Receiver::heal`].
    pub async fn start(seed: u64) -> Result<Self> {
        let shared = Shared {
            arrivals: Vec::new(),
            faults: Vec::new(),
            faulty: true,
            random: StdRng::seed_from_u64(seed),
        };
        let receiver = Self {
            shared: Arc::new(Mutex::new(shared)),
            listening: Arc::default(),
            address: crate::ports::free()?,
        };
        receiver.open().await?;
        Ok(receiver)
    }

    /// Dies and lives again, by turns, for as long as it misbehaves.
    pub async fn die_again_and_again(self, seed: u64) -> Result<()> {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(1));
        loop {
            tokio::time::sleep(Duration::from_millis(random.random_range(300..3000))).await;
            if !self.with(|shared| shared.faulty) {
                return Ok(());
            }
            self.close().await;
            tokio::time::sleep(Duration::from_millis(random.random_range(50..1200))).await;
            self.open().await?;
        }
    }

    /// Ends all connections, those that wait to be accepted too. Called when the engine was killed: what it
    /// had sent and nobody had read yet is lost, and cannot arrive after what its next life sends.
    pub async fn cut(&self) -> Result<()> {
        if self.close().await {
            self.open().await?;
        }
        Ok(())
    }

    async fn open(&self) -> Result<()> {
        let mut listening = self.listening.lock().await;
        if listening.is_none() {
            let listener = TcpListener::bind(self.address).await.context("the receiver cannot listen")?;
            let shared = self.shared.clone();
            *listening = Some(tokio::spawn(async move {
                // Dropped with this task, and all connections with it.
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(serve(stream, shared.clone()));
                    while connections.try_join_next().is_some() {}
                }
            }));
        }
        Ok(())
    }

    /// Whether it was open.
    async fn close(&self) -> bool {
        let Some(task) = self.listening.lock().await.take() else { return false };
        task.abort();
        let _ = task.await;
        true
    }

    /// From now on it lives, and every delivery is taken.
    pub async fn heal(&self) -> Result<()> {
        self.with(|shared| shared.faulty = false);
        self.open().await
    }

    /// What arrived, in order; an error if something came that is no delivery.
    pub fn arrivals(&self) -> Result<Vec<Arrival>> {
        self.with(|shared| {
            anyhow::ensure!(shared.faults.is_empty(), "at the receiver: {:?}", shared.faults);
            Ok(shared.arrivals.clone())
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Shared) -> T) -> T {
        look(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Requests of one connection, until either side ends it.
async fn serve(stream: TcpStream, shared: Arc<Mutex<Shared>>) {
    let mut stream = BufReader::new(stream);
    while matches!(request(&mut stream, &shared).await, Ok(true)) {}
}

/// One request; whether another one may follow.
async fn request(stream: &mut BufReader<TcpStream>, shared: &Mutex<Shared>) -> Result<bool> {
    let (mut id, mut length, mut line) = (String::new(), 0, String::new());
    stream.read_line(&mut line).await?;
    if line.is_empty() {
        return Ok(false);
    }
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    if line != "POST /hook HTTP/1.1\r\n" {
        lock().faults.push(format!("a request {line:?}"));
    }
    let fate = lock().fate();
    if fate == Fate::CutBefore {
        return Ok(false);
    }
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "idempotency-key" => id = value.trim().into(),
            "content-length" => length = value.trim().parse()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    {
        let mut shared = lock();
        match serde_json::from_slice(&body) {
            Ok(body) if !id.is_empty() => {
                shared.arrivals.push(Arrival { id, body, taken: fate == Fate::Take });
            }
            _ => shared.faults.push(format!("delivery {id:?}: {}", String::from_utf8_lossy(&body))),
        }
    }
    let status = match fate {
        Fate::Take => "200 OK\r\n",
        Fate::Refuse(status) => status,
        Fate::CutBefore => return Ok(false),
        Fate::CutAfter(beginning) => {
            stream.write_all(beginning.as_bytes()).await?;
            return Ok(false);
        }
        Fate::Hang => {
            // Until the sender gives up, or we die.
            let _ = stream.read_u8().await;
            return Ok(false);
        }
    };
    stream.write_all(format!("HTTP/1.1 {status}content-length: 0\r\n\r\n").as_bytes()).await?;
    Ok(true)
}
