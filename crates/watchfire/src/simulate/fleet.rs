//! Synthetic machines. What a machine says at a time, and what is wrong with it then, is a function of its
//! number, the seed and the time: the same fleet can be made again.

use std::f64::consts::TAU;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use watchfire_log::{Clock as _, SystemClock};

use crate::commands::ClientError;

use super::{Tally, client};

/// Connections of one fleet: more devices share them.
const CONNECTIONS: u32 = 20_000;

/// Connections that are made at the same time.
const CONNECTING: Duration = Duration::from_micros(500);

/// A fleet.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// The MQTT listener.
    pub mqtt: SocketAddr,
    /// How many machines.
    pub devices: u32,
    /// Readings per second of each.
    pub rate: f64,
    /// Of values and faults.
    pub seed: u64,
}

fn usage(what: String) -> anyhow::Error {
    ClientError::Usage(what).into()
}

impl Fleet {
    /// The id of a machine.
    pub fn device(number: u32) -> String {
        format!("machine-{number:05}")
    }

    /// The site of a machine.
    pub fn site(number: u32) -> String {
        format!("hall-{:03}", number / HALL)
    }

    /// When the last machine has said something for the first time, since the fleet began.
    pub fn complete_after(&self) -> Duration {
        CONNECTING * self.devices + Duration::from_secs_f64(1.0 / self.rate)
    }

    /// Sends until it is stopped; returns once everything that was sent is acknowledged or given up.
    pub async fn run(self, tally: Arc<Tally>, stop: CancellationToken) -> Result<()> {
        if self.devices == 0 || self.devices > CONNECTIONS {
            return Err(usage(format!("--devices is 1 to {CONNECTIONS}")));
        }
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return Err(usage("--rate is a positive number".into()));
        }
        let mut tasks = JoinSet::new();
        let began = Instant::now();
        for number in 0..self.devices {
            let (tally, stop) = (tally.clone(), stop.clone());
            tasks.spawn(async move {
                tokio::time::sleep_until(began + CONNECTING * number).await;
                self.device_task(number, began, tally, stop).await;
            });
        }
        // Whoever cannot get through by then is given up: a closing tally must come.
        stop.cancelled().await;
        let all = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(10), all).await;
        Ok(())
    }

    async fn device_task(self, number: u32, began: Instant, tally: Arc<Tally>, stop: CancellationToken) {
        let id = Self::device(number);
        let topic = format!("devices/{id}/telemetry");
        let (sender, receiver) = mpsc::channel(16);
        let connection = tokio::spawn(client::run(self.mqtt, id, receiver, tally, stop.clone()));
        let mut machine = Machine::new(number, self.seed);
        let interval = Duration::from_secs_f64(1.0 / self.rate);
        // Spread over the interval: a fleet does not report in step.
        let mut next = Instant::now() + interval.mul_f64(unit(hash(self.seed, u64::from(number), 7)));
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = stop.cancelled() => break,
            }
            next = (next + interval).max(Instant::now());
            let Some(metrics) = machine.reading(began.elapsed().as_secs_f64()) else { continue };
            let time = SystemClock.wall();
            let payload = format!(r#"{{"time":"{time}","metrics":{metrics}}}"#);
            if sender.send((topic.clone(), payload.into_bytes())).await.is_err() {
                break;
            }
        }
        drop(sender);
        let _ = connection.await;
    }
}

/// What is wrong with a machine for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The temperature jumps far above its limit, and back.
    Spike,
    /// The pressure creeps up past its limit.
    Drift,
    /// The current is not what it usually is.
    Odd,
    /// The vibration sensor shows one value.
    Stuck,
    /// It says nothing.
    Silent,
    /// It vibrates more than its peers, and not more than others may.
    Worn,
    /// It does not say its humidity.
    Incomplete,
}

const FAULTS: [Fault; 7] =
    [Fault::Spike, Fault::Drift, Fault::Odd, Fault::Stuck, Fault::Silent, Fault::Worn, Fault::Incomplete];

/// Of so many machines one has faults.
const FAULTY: u64 = 20;

/// So many machines stand in one hall: one of them has faults.
const HALL: u32 = 20;

/// The hall that loses its network, which silences all of its machines at once ...
const CUT_OFF: u32 = 7;

/// ... so many seconds after the fleet began.
const CUT_OFF_AT: f64 = 8.0;

/// A fault lasts this long ...
const LASTS: f64 = 8.0;

/// ... and comes again after that long, in seconds; the first at the latest.
const PERIOD: f64 = 24.0;

/// Faults begin once machines are known: an anomaly is one against what is usual.
const QUIET: f64 = 6.0;

/// One synthetic machine.
#[derive(Debug)]
pub struct Machine {
    number: u32,
    seed: u64,
    readings: u64,
}

impl Machine {
    /// The machine of this number.
    pub fn new(number: u32, seed: u64) -> Self {
        Self { number, seed, readings: 0 }
    }

    /// What is wrong with it at a time, in seconds since the fleet began, and for how long already.
    pub fn fault(&self, at: f64) -> Option<(Fault, f64)> {
        if self.number / HALL == CUT_OFF {
            let since = (at - CUT_OFF_AT).rem_euclid(PERIOD);
            return (at >= CUT_OFF_AT && since < LASTS).then_some((Fault::Silent, since));
        }
        let number = u64::from(self.number);
        if number % FAULTY != self.seed % FAULTY {
            return None;
        }
        let begins = QUIET + unit(hash(self.seed, number, 1)) * (PERIOD - QUIET - LASTS);
        let since = (at - begins).rem_euclid(PERIOD);
        let kind = FAULTS[(number / FAULTY) as usize % FAULTS.len()];
        (at >= begins && since < LASTS).then_some((kind, since))
    }

    /// The metrics of a reading as JSON; `None`: it says nothing.
    pub fn reading(&mut self, at: f64) -> Option<String> {
        self.readings += 1;
        let mut random = hash(self.seed, u64::from(self.number), 1000 + self.readings);
        let mut noise = || {
            random = mix(random);
            unit(random) * 2.0 - 1.0
        };
        let phase = unit(hash(self.seed, u64::from(self.number), 2));
        let mut temperature = 65.0 + 6.0 * (TAU * (at / 300.0 + phase)).sin() + 0.4 * noise();
        let mut pressure = 5.0 + 0.1 * (TAU * (at / 200.0 + phase)).sin() + 0.02 * noise();
        let mut vibration = 2.0 + 0.2 * noise();
        let mut current = 12.0 + 0.3 * noise();
        let humidity = 45.0 + 5.0 * (TAU * (at / 900.0 + phase)).sin() + 0.2 * noise();
        let mut incomplete = false;
        match self.fault(at) {
            Some((Fault::Spike, _)) => temperature += 35.0,
            Some((Fault::Drift, since)) => pressure += since * 0.6,
            Some((Fault::Odd, _)) => current += 6.0,
            Some((Fault::Stuck, _)) => vibration = 2.0,
            Some((Fault::Silent, _)) => return None,
            Some((Fault::Worn, _)) => vibration += 1.5,
            Some((Fault::Incomplete, _)) => incomplete = true,
            None => {}
        }
        let humidity = if incomplete { String::new() } else { format!(r#","humidity":{humidity:.2}"#) };
        Some(format!(
            r#"{{"temperature":{temperature:.3},"pressure":{pressure:.3},"vibration":{vibration:.3},"current":{current:.3}{humidity}}}"#
        ))
    }
}

/// A step of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn hash(seed: u64, number: u64, what: u64) -> u64 {
    mix(mix(mix(seed) ^ number) ^ what)
}

/// 0 to 1.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_can_be_made_again_and_differ() {
        let say = |number, seed| Machine::new(number, seed).reading(1.0);
        assert_eq!(say(1, 1), say(1, 1));
        assert_ne!(say(1, 1), say(2, 1));
        assert_ne!(say(1, 1), say(1, 2));
        let value: serde_json::Value = serde_json::from_str(&say(1, 1).unwrap()).unwrap();
        assert!(value["temperature"].as_f64().is_some_and(|t| (50.0..80.0).contains(&t)));
    }

    #[test]
    fn every_kind_of_fault_comes_and_goes_within_the_first_period() {
        for (i, kind) in FAULTS.into_iter().enumerate() {
            let machine = Machine::new((1 + FAULTY * i as u64) as u32, 1);
            let at = |second: u32| machine.fault(f64::from(second)).map(|(kind, _)| kind);
            assert!((0..QUIET as u32).all(|second| at(second).is_none()));
            let faulty: Vec<_> = (0..PERIOD as u32).filter_map(at).collect();
            assert!(faulty.len() >= 7 && faulty.iter().all(|found| *found == kind), "{kind:?} {faulty:?}");
            assert_eq!(at(PERIOD as u32), None);
        }
        assert_eq!(Machine::new(2, 1).fault(10.0), None);
    }

    #[test]
    fn a_hall_is_cut_off_as_a_whole() {
        let silent = |number, at| Machine::new(number, 1).reading(at).is_none();
        let hall = CUT_OFF * HALL..(CUT_OFF + 1) * HALL;
        assert!(hall.clone().all(|number| silent(number, 8.0) && silent(number, 15.9)));
        assert!(hall.clone().all(|number| !silent(number, 7.9) && !silent(number, 16.0)));
        assert!(hall.clone().all(|number| Fleet::site(number) == Fleet::site(hall.start)));
        assert_ne!(Fleet::site(hall.start), Fleet::site(hall.end));
    }
}
