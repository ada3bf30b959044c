//! Bounds of what wrong passwords cost: each takes an argon2, and two cores make some forty of them a second.
//!
//! Who was wrong for a device waits before the next try for that device, longer each time; and all who come from one
//! address share one place in the queue of those that are hashed, so that guessing for one device, or from one
//! place, keeps nobody else from being let in. Passwords that were right lately cost no hash and are not bounded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Wrong passwords that cost no waiting: people mistype, and devices are given new ones.
const FREE: u32 = 5;
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// A pair of address and device that was not wrong for so long is forgotten.
const FORGET: Duration = Duration::from_secs(600);
/// Pairs that are remembered.
const PAIRS: usize = 20_000;

/// Who was wrong lately.
#[derive(Debug, Default)]
pub(crate) struct Guesses(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    pairs: HashMap<(IpAddr, String), Wrong>,
    /// The place of each address from which a password is being checked.
    places: HashMap<IpAddr, Arc<Semaphore>>,
}

#[derive(Debug)]
struct Wrong {
    count: u32,
    last: Instant,
}

impl Wrong {
    fn wait(&self) -> Duration {
        match self.count.checked_sub(FREE) {
            None => Duration::ZERO,
            Some(more) => LONGEST.min(Duration::from_secs(1 << more.min(6))),
        }
    }
}

/// A network of IPv6 is one place: it has more addresses than any table.
fn place(address: Option<IpAddr>) -> IpAddr {
    match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        Some(address) => address,
        None => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

impl Guesses {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a password for a device may be checked now.
    pub(crate) fn may_try(&self, from: Option<IpAddr>, device: &str, now: Instant) -> bool {
        let table = self.lock();
        let wrong = table.pairs.get(&(place(from), device.to_string()));
        wrong.is_none_or(|wrong| now >= wrong.last + wrong.wait())
    }

    /// A password was checked.
    pub(crate) fn tried(&self, from: Option<IpAddr>, device: &str, right: bool, now: Instant) {
        let mut table = self.lock();
        let key = (place(from), device.to_string());
        if right {
            table.pairs.remove(&key);
            return;
        }
        if table.pairs.len() >= PAIRS && !table.pairs.contains_key(&key) {
            table.pairs.retain(|_, wrong| now < wrong.last + wrong.wait());
            if table.pairs.len() >= PAIRS {
                table.pairs.clear();
            }
        }
        let wrong = table.pairs.entry(key).or_insert(Wrong { count: 0, last: now });
        if now > wrong.last + FORGET {
            wrong.count = 0;
        }
        wrong.count = wrong.count.saturating_add(1);
        wrong.last = now;
    }

    /// Waits for the place of an address in the queue.
    pub(crate) async fn place(&self, from: Option<IpAddr>) -> Option<OwnedSemaphorePermit> {
        let semaphore = {
            let mut table = self.lock();
            table.places.retain(|_, place| Arc::strong_count(place) > 1);
            table.places.entry(place(from)).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
        };
        // It is never closed.
        semaphore.acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_for_a_device_from_an_address_become_slow() {
        let guesses = Guesses::default();
        let (evil, good) = (Some("10.0.0.1".parse().unwrap()), Some("10.0.0.2".parse().unwrap()));
        let mut now = Instant::now();
        let mut tried = 0;
        for _ in 0..600 {
            if guesses.may_try(evil, "a", now) {
                guesses.tried(evil, "a", false, now);
                tried += 1;
            }
            now += Duration::from_secs(1);
        }
        assert!((10..25).contains(&tried), "{tried} in ten minutes");
        assert!(guesses.may_try(good, "a", now) && guesses.may_try(evil, "b", now));
        now += LONGEST;
        guesses.tried(evil, "a", true, now);
        guesses.tried(evil, "a", false, now);
        assert!(guesses.may_try(evil, "a", now), "a right one forgives");
    }

    #[test]
    fn a_network_is_one_place() {
        let of = |text: &str| place(Some(text.parse().unwrap()));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[tokio::test]
    async fn an_address_has_one_place() {
        let guesses = Guesses::default();
        let first = guesses.place(None).await;
        let second = tokio::time::timeout(Duration::from_millis(20), guesses.place(None)).await;
        assert!(first.is_some() && second.is_err());
        assert!(guesses.place(Some("10.0.0.1".parse().unwrap())).await.is_some());
        drop(first);
        assert!(guesses.place(None).await.is_some());
        drop(guesses.place(Some("10.0.0.2".parse().unwrap())).await);
        assert_eq!(guesses.lock().places.len(), 1, "places that nobody has are gone");
    }
}
