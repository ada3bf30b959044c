//! How many messages somebody gets: a bound on what one receiver is sent in a minute. What is over it is not dropped: it
//! waits for the next message that may go out, and everything that waits by then goes out as one digest.
//!
//! The window slides: in no minute, wherever it begins, more messages go out than the bound says. A bucket of tokens
//! that fills again while it is emptied would let twice as many through.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use watchfire_model::{Duration, Timestamp};

/// What the bound counts in.
pub const WINDOW: Duration = Duration::from_secs(60);

/// When a receiver was sent its last messages: as many as its bound counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sent(VecDeque<Timestamp>);

/// What may go out now, of so many groups that are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Each as a message of its own.
    Each,
    /// All in one digest.
    Digest,
    /// Nothing before then.
    Not {
        /// The first moment at which there is room.
        before: Timestamp,
    },
}

impl Sent {
    /// What may go out of `ready` groups.
    pub fn allowed(&self, ready: usize, most: usize, now: Timestamp) -> Allowed {
        let room = most - self.within(now).min(most);
        match room {
            0 => Allowed::Not { before: self.room_at(most, now) },
            room if ready <= room => Allowed::Each,
            _ => Allowed::Digest,
        }
    }

    /// A message goes out. Those of alerts that no bound holds back are counted too: people read them as well.
    pub fn send(&mut self, most: usize, now: Timestamp) {
        self.0.push_back(now);
        while self.0.len() > most.max(1) {
            self.0.pop_front();
        }
    }

    /// Whether nothing of it matters any more.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.within(now) == 0
    }

    /// A clock that was set back must not make anybody wait for longer than the window: what lies ahead counts as now.
    fn within(&self, now: Timestamp) -> usize {
        self.0.iter().filter(|sent| (**sent).min(now) + WINDOW > now).count()
    }

    fn room_at(&self, most: usize, now: Timestamp) -> Timestamp {
        let first = self.0.len().saturating_sub(most.max(1));
        self.0.get(first).map_or(now, |sent| (*sent).min(now) + WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn what_is_over_the_bound_waits_and_goes_out_together() {
        let mut sent = Sent::default();
        assert_eq!(sent.allowed(3, 3, at(100)), Allowed::Each);
        assert_eq!(sent.allowed(4, 3, at(100)), Allowed::Digest);
        for second in [100, 110, 120] {
            sent.send(3, at(second));
        }
        assert_eq!(sent.allowed(1, 3, at(130)), Allowed::Not { before: at(160) });
        assert_eq!(sent.allowed(1, 3, at(160)), Allowed::Each);
        assert_eq!(sent.allowed(2, 3, at(160)), Allowed::Digest);
        assert!(!sent.is_over(at(179)) && sent.is_over(at(180)));
        // The clock was set back by an hour: nobody waits for an hour.
        assert_eq!(sent.allowed(1, 3, at(-3500)), Allowed::Not { before: at(-3440) });
    }

    proptest! {
        #[test]
        fn no_minute_has_more(gaps in prop::collection::vec((0_i64..40, 1_usize..5), 1..200), most in 1_usize..6) {
            let (mut sent, mut now, mut all, mut waiting) = (Sent::default(), 0, Vec::new(), 0_usize);
            for (gap, arrived) in gaps {
                now += gap;
                waiting += arrived;
                let messages = match sent.allowed(waiting, most, at(now)) {
                    Allowed::Each => waiting,
                    Allowed::Digest => 1,
                    Allowed::Not { before } => {
                        prop_assert!(before > at(now) && before <= at(now) + WINDOW);
                        continue;
                    }
                };
                waiting = 0;
                for _ in 0..messages {
                    sent.send(most, at(now));
                    all.push(now);
                }
            }
            for first in &all {
                prop_assert!(all.iter().filter(|sent| (*first..first + 60).contains(sent)).count() <= most);
            }
        }
    }
}
