//! How long to wait after an attempt that failed.

use sha2::{Digest as _, Sha256};
use watchfire_model::Duration;

/// The wait after attempt `attempt` (from 1): doubled each time from `initial` to `max`, and spread over
/// 75 to 125 % of that, so that what failed together does not come again together. The spread follows from
/// id and attempt, so that a restart waits as long.
pub fn backoff(id: &str, attempt: u32, initial: Duration, max: Duration) -> Duration {
    let doubled = initial.0.saturating_mul(1_u64 << attempt.saturating_sub(1).min(40));
    let wait = doubled.min(max.0);
    let mut sha = Sha256::new();
    sha.update(id);
    sha.update(attempt.to_le_bytes());
    let spread = u64::from(sha.finalize()[0]);
    Duration(wait / 4 * 3 + (u128::from(wait / 2) * u128::from(spread) / 255) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_spread_and_bounded() {
        let (initial, max) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut different = std::collections::HashSet::new();
        for attempt in 1..100 {
            let middle = (1_000_000_u64 << (attempt - 1).min(30)).min(60_000_000);
            let wait = backoff("a", attempt, initial, max).0;
            assert!((middle * 3 / 4..=middle * 5 / 4).contains(&wait), "{attempt}: {wait}");
            different.insert(wait);
            assert_eq!(wait, backoff("a", attempt, initial, max).0);
        }
        assert!(different.len() > 50);
        assert!(backoff("a", u32::MAX, initial, Duration(u64::MAX)).0 > 0);
    }
}
