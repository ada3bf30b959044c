//! The last value of each device of one type at one site, and what they have in common.

use watchfire_rule::{Field, state};

/// Values that are kept of one type at one site. Of more devices those with the smallest hashes are kept: a sample of
/// them without regard to what they say, the same whatever order they come in (bottom-k: Cohen and Kaplan, "Summarizing
/// data using bottom-k sketches", 2007).
const MOST: usize = 128;

/// The standard deviation of normally distributed values is so many times their median absolute deviation.
const SIGMAS: f64 = 1.482_602_218_505_602;

state! {
    /// What one device had last.
    pub struct Peer { hash: u64, time: i64, value: f64 }
}

/// In the order of their hashes.
#[derive(Default)]
pub struct Peers(Vec<Peer>);

impl Peers {
    pub fn read(bytes: &[u8]) -> Self {
        Self(bytes.chunks_exact(<Peer as Field>::SIZE).map(Peer::take).collect())
    }

    pub fn write(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.0.len() * <Peer as Field>::SIZE];
        for (peer, own) in self.0.iter().zip(bytes.chunks_exact_mut(<Peer as Field>::SIZE)) {
            peer.put(own);
        }
        bytes
    }

    /// Takes a value in, and lets go of those that are older than the newest by more than `fresh` microseconds. False:
    /// that is what this one is, or the device has a newer one.
    pub fn add(&mut self, device: &str, time: i64, value: f64, fresh: i64) -> bool {
        let newest = self.0.iter().map(|peer| peer.time).fold(time, i64::max);
        let oldest = newest.saturating_sub(fresh);
        self.0.retain(|peer| peer.time >= oldest);
        let peer = Peer { hash: hash_of(device), time, value };
        match self.0.binary_search_by_key(&peer.hash, |peer| peer.hash) {
            Ok(place) if self.0[place].time > time => return false,
            Ok(place) => self.0[place] = peer,
            Err(_) if time < oldest => return false,
            Err(place) => {
                self.0.insert(place, peer);
                self.0.truncate(MOST);
            }
        }
        true
    }

    /// The values of all others.
    pub fn others(&self, device: &str) -> Vec<f64> {
        let own = hash_of(device);
        self.0.iter().filter(|peer| peer.hash != own).map(|peer| peer.value).collect()
    }
}

/// The median, and the standard deviation that the median absolute deviation stands for: neither moves far while fewer
/// than half of the values are wrong.
pub fn median_and_deviation(mut values: Vec<f64>) -> (f64, f64) {
    let median = median(&mut values);
    values.iter_mut().for_each(|value| *value = (*value - median).abs());
    (median, SIGMAS * self::median(&mut values))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let (half, count) = (values.len() / 2, values.len());
    match count {
        0 => f64::NAN,
        _ if count % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}

/// FNV-1a of 64 bits, and a step of SplitMix64 behind it: names that differ in their last letter alone would have
/// neighbouring hashes, and a sample is to be one of all.
fn hash_of(name: &str) -> u64 {
    let fnv = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let z = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
