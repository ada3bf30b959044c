//! A device that keeps a ledger: it sends a few readings, over MQTT or HTTP, again and again until each is
//! acknowledged, and only then the next. So it knows what must be in the log, and in which order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::engine::Addresses;
use crate::mqtt::{Link, PATIENCE};

/// Above [`LIMIT`](crate::engine::MAIN_LIMIT) of the rule that never changes.
pub const HOT: f64 = 120.0;
/// Below its deadband.
pub const CALM: f64 = 20.0;
/// What the rule that comes and goes looks at: between its limits and beyond them.
const LOADS: [f64; 6] = [0.0, 44.0, 52.0, 58.0, 66.0, 85.0];
/// Serial numbers of two devices are so far apart.
pub const SERIALS: u64 = 1_000_000;

/// One reading.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Unlike that of any other reading of any device.
    pub serial: u64,
    /// Milliseconds since the epoch; grows from reading to reading.
    pub time: i64,
    /// What the rule that never changes looks at.
    pub temperature: f64,
    /// What the rule that comes and goes looks at.
    pub load: f64,
}

impl Reading {
    /// What it says, by metric.
    pub fn metrics(&self) -> Value {
        let mut metrics = json!({"serial": self.serial, "temperature": self.temperature, "load": self.load});
        // Columns that only some rows have, of all types.
        if self.serial.is_multiple_of(3) {
            metrics["mode"] = if self.serial.is_multiple_of(2) { "auto" } else { "manual" }.into();
        }
        if self.serial.is_multiple_of(5) {
            metrics["door_open"] = self.serial.is_multiple_of(2).into();
        }
        metrics
    }

    fn json(&self) -> Value {
        json!({"time": self.time, "metrics": self.metrics()})
    }
}

/// What one device sent and got acknowledged.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// The device.
    pub device: String,
    /// Acknowledged readings in order.
    pub acknowledged: Vec<Reading>,
    /// Times that readings had to be sent again.
    pub resent: u64,
}

/// How a device talks.
enum Way {
    Mqtt { five: bool, link: Option<Link> },
    Http { client: reqwest::Client, array: bool },
}

/// A device.
pub struct Device {
    number: u64,
    way: Way,
    addresses: Addresses,
    random: StdRng,
    ledger: Ledger,
    time: i64,
    hot: bool,
    load: f64,
}

impl Device {
    /// A device that has sent nothing yet. Its number says how it talks: MQTT 3.1.1 or 5, HTTP/1.1 or 2.
    pub fn new(number: u64, addresses: Addresses, seed: u64) -> Result<Self> {
        let client = reqwest::Client::builder();
        let way = match number % 4 {
            0 => Way::Mqtt { five: false, link: None },
            1 => Way::Http { client: client.http1_only().build()?, array: true },
            2 => Way::Mqtt { five: true, link: None },
            _ => Way::Http { client: client.http2_prior_knowledge().build()?, array: false },
        };
        Ok(Self {
            number,
            way,
            addresses,
            random: StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ledger: Ledger { device: name(number), acknowledged: Vec::new(), resent: 0 },
            time: 0,
            hot: false,
            load: 0.0,
        })
    }

    /// Sends until it is told to stop, then a last reading that is calm in every respect, so that each of
    /// its alerts is resolved in the end.
    pub async fn run(mut self, stop: Arc<AtomicBool>) -> Result<Ledger> {
        while !stop.load(Ordering::Relaxed) {
            // Mostly one at a time, now and then some at once.
            let count = if self.random.random_ratio(1, 5) { self.random.random_range(2..8) } else { 1 };
            let values: Vec<_> = (0..count).map(|_| self.wander()).collect();
            self.send(&values).await?;
            let pause = self.random.random_range(1..60);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.finish().await
    }

    /// Sends a last, calm reading.
    pub async fn finish(mut self) -> Result<Ledger> {
        self.send(&[(CALM, 0.0)]).await?;
        Ok(self.ledger)
    }

    fn wander(&mut self) -> (f64, f64) {
        if self.random.random_ratio(1, 16) {
            self.hot = !self.hot;
        }
        if self.random.random_ratio(1, 16) {
            self.load = LOADS[self.random.random_range(0..LOADS.len())];
        }
        let noise = f64::from(self.random.random_range(0..1000_u32)) / 1000.0;
        (if self.hot { HOT } else { CALM } + noise, self.load)
    }

    /// Sends readings with these values until all are acknowledged.
    pub async fn send(&mut self, values: &[(f64, f64)]) -> Result<()> {
        // Times grow, and are never ahead of the clock: the engine would move them back.
        let first = loop {
            let first = crate::now_millis() - values.len() as i64 + 1;
            if first > self.time {
                break first;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        self.time = first + values.len() as i64 - 1;
        let serial = self.number * SERIALS + self.ledger.acknowledged.len() as u64;
        let readings = values.iter().zip(0..).map(|((temperature, load), i)| Reading {
            serial: serial + i as u64,
            time: first + i,
            temperature: *temperature,
            load: *load,
        });
        let mut open: std::collections::VecDeque<Reading> = readings.collect();
        let mut failures = 0;
        while !open.is_empty() {
            let sent = self.attempt(&mut open, failures > 0).await;
            if let Err(error) = sent {
                failures += 1;
                self.ledger.resent += open.len() as u64;
                ensure!(
                    failures < 3000,
                    "{}: a reading was never acknowledged: {error:#}",
                    self.ledger.device
                );
                let pause = 20 + self.random.random_range(0..80);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        Ok(())
    }

    /// One attempt with all that are open; those that were acknowledged leave the queue.
    async fn attempt(&mut self, open: &mut std::collections::VecDeque<Reading>, again: bool) -> Result<()> {
        let device = self.ledger.device.clone();
        match &mut self.way {
            Way::Mqtt { five, link } => {
                // Taken out: after a failure nobody uses it again.
                let mut live = match link.take() {
                    Some(live) => live,
                    None => Link::connect(self.addresses.mqtt, &device, *five).await?,
                };
                let payloads: Vec<String> = open.iter().map(|reading| reading.json().to_string()).collect();
                let acknowledged = &mut self.ledger.acknowledged;
                let topic = format!("devices/{device}/telemetry");
                live.publish(&topic, &payloads, again, || acknowledged.extend(open.pop_front())).await?;
                *link = Some(live);
            }
            Way::Http { client, array } => {
                let (path, kind, body) = if *array {
                    let items: Vec<Value> = open.iter().map(Reading::json).collect();
                    let path = format!("devices/{device}/telemetry");
                    (path, "application/json", Value::from(items).to_string())
                } else {
                    let line = |reading: &Reading| {
                        let mut event = reading.json();
                        event["device"] = device.as_str().into();
                        event.to_string() + "\n"
                    };
                    ("telemetry".into(), "application/x-ndjson", open.iter().map(line).collect())
                };
                let url = format!("http://{}/ingest/v1/{path}", self.addresses.http);
                let request = client.post(url).header("content-type", kind).body(body).timeout(PATIENCE);
                let answer = request.send().await?;
                let status = answer.status();
                let said: Value = serde_json::from_str(&answer.text().await?).unwrap_or_default();
                ensure!(status.is_success() && said["accepted"] == open.len(), "{status}: {said}");
                self.ledger.acknowledged.extend(open.drain(..));
            }
        }
        Ok(())
    }
}

/// The device with this number.
pub fn name(number: u64) -> String {
    format!("torture-{number:04}")
}
