//! The event that everything is measured with: 151 bytes, five metrics, 15 000 devices.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use watchfire_model::device::Registries;
use watchfire_model::{Batch, BatchBuilder, DeviceHandle, DeviceSpec, Timestamp};

/// Devices of the fleet.
pub const DEVICES: u32 = 15_000;
/// The metrics of each reading.
pub const METRICS: [&str; 5] = ["temperature", "pressure", "vibration", "current", "humidity"];
/// 2026-01-01T00:00:00Z.
pub const BEGIN: Timestamp = Timestamp(1_767_225_600_000_000);

/// The event as a struct: what serde_json fills, for reference.
#[derive(Deserialize)]
#[allow(dead_code, reason = "what is measured is filling them")]
pub struct Event<'a> {
    device: &'a str,
    time: &'a str,
    metrics: Metrics,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "what is measured is filling them")]
struct Metrics {
    temperature: f64,
    pressure: f64,
    vibration: f64,
    current: f64,
    humidity: f64,
}

/// One value of so many is a spike, where rules alone are measured.
pub const SPIKES: u64 = 2000;

/// A small generator with a seed of its own: xorshift64.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Evenly from -1 to 1.
    pub fn noise(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

/// The id of a device.
pub fn device(number: u32) -> String {
    format!("press-{number:05}")
}

/// The five values of a reading: steady, with a spike in one of so many.
pub fn values(random: &mut Random, spikes: u64) -> [f64; 5] {
    std::array::from_fn(|i| {
        let spike = if random.bits().is_multiple_of(spikes) { 90.0 } else { 0.0 };
        ((20.0 + 10.0 * i as f64 + random.noise() + spike) * 100.0).round() / 100.0
    })
}

/// Batches of `rows` readings each, devices at random.
pub fn batches(count: usize, rows: usize, seed: u64) -> Vec<Arc<Batch>> {
    let mut random = Random(seed);
    (0..count)
        .map(|i| {
            let from = i * rows;
            let any = |random: &mut Random, _| (random.bits() % u64::from(DEVICES)) as u32;
            batch(&mut random, from..from + rows, any)
        })
        .collect()
}

/// A reading of every device, in batches of `rows`.
pub fn sweep(rows: usize, seed: u64) -> Vec<Arc<Batch>> {
    let mut random = Random(seed);
    let all = DEVICES as usize;
    (0..all)
        .step_by(rows)
        .map(|from| batch(&mut random, from..(from + rows).min(all), |_, number| number as u32))
        .collect()
}

/// A batch of these readings, counted from the first of all, a millisecond apart.
fn batch(
    random: &mut Random,
    readings: Range<usize>,
    device: impl Fn(&mut Random, usize) -> u32,
) -> Arc<Batch> {
    let mut builder = BatchBuilder::new();
    for number in readings {
        let time = Timestamp(BEGIN.0 + number as i64 * 1000);
        builder.begin(DeviceHandle(device(random, number)), time);
        for (metric, value) in METRICS.iter().zip(values(random, SPIKES)) {
            let _ = builder.number(metric, value);
        }
        builder.commit();
    }
    Arc::new(builder.finish())
}

/// Payloads of one reading each.
pub fn payloads(count: usize, seed: u64) -> Vec<Vec<u8>> {
    payloads_at(count, seed, SPIKES, |i| Timestamp(BEGIN.0 + (i % 60_000) as i64 * 1000))
}

/// As [`payloads`], at these times, with a spike in one of so many values.
pub fn payloads_at(count: usize, seed: u64, spikes: u64, time: impl Fn(usize) -> Timestamp) -> Vec<Vec<u8>> {
    let mut random = Random(seed);
    (0..count)
        .map(|i| {
            let device = device((random.bits() % u64::from(DEVICES)) as u32);
            payload(&device, time(i), values(&mut random, spikes))
        })
        .collect()
}

/// The payload of one reading.
pub fn payload(device: &str, time: Timestamp, [t, p, v, c, h]: [f64; 5]) -> Vec<u8> {
    let time = stamp(time);
    format!(
        r#"{{"device":"{device}","time":"{time}","metrics":{{"temperature":{t:.2},"pressure":{p:.2},"vibration":{v:.2},"current":{c:.2},"humidity":{h:.2}}}}}"#
    )
    .into_bytes()
}

/// A time as devices write it: RFC 3339 with milliseconds, 24 characters.
pub fn stamp(time: Timestamp) -> String {
    let mut text = time.to_string();
    text.truncate(23);
    text.push('Z');
    text
}

/// All devices, registered in one partition.
pub fn registries() -> Registries {
    let mut registries = Registries::new(1);
    for number in 0..DEVICES {
        registries.0[0].put(DeviceSpec { id: device(number), ..DeviceSpec::default() });
    }
    registries
}
