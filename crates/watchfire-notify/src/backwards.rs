//! A wall clock that is set back. What waits for a time would wait for as much longer: a press burns now, whatever the
//! clock of the machine says.

use std::time::Duration;

use watchfire_log::Clock;
use watchfire_model::{Duration as Span, Timestamp};

/// A clock that is brought into line with others goes back by less, all the time.
const TOLERANCE: Span = Span::from_secs(1);

/// Compares the wall clock with one that nobody sets.
pub(crate) struct Backwards {
    wall: Timestamp,
    boot: Duration,
}

impl Backwards {
    pub fn new(clock: &dyn Clock) -> Self {
        Self { wall: clock.wall(), boot: clock.boot() }
    }

    /// By how much it was set back since the last look.
    pub fn look(&mut self, clock: &dyn Clock) -> Option<Span> {
        let (wall, boot) = (clock.wall(), clock.boot());
        let expected = self.wall + Span::from(boot.saturating_sub(self.boot));
        (self.wall, self.boot) = (wall, boot);
        let by = expected.since(wall);
        (by > TOLERANCE).then_some(by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_log::ManualClock;

    #[test]
    fn only_a_step_back_is_told_and_only_once() {
        let clock = ManualClock::new(Timestamp(1_000_000_000_000_000));
        let mut backwards = Backwards::new(&clock);
        clock.advance(Duration::from_secs(10));
        assert_eq!(backwards.look(&clock), None);
        clock.set_wall(clock.wall() - Span::from_secs(3600));
        clock.advance(Duration::from_secs(5));
        assert_eq!(backwards.look(&clock), Some(Span::from_secs(3600)));
        assert_eq!(backwards.look(&clock), None);
        clock.set_wall(clock.wall() + Span::from_secs(7200));
        assert_eq!(backwards.look(&clock), None);
        clock.set_wall(clock.wall() - Span::from_millis(200));
        assert_eq!(backwards.look(&clock), None);
    }
}
