//! What time it is. Only the edge reads a clock: the log's appender, sources, the API, the notify worker
//! and the wiring. Everything behind the log is told the time as an argument.

use std::sync::Mutex;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};
use watchfire_model::Timestamp;

/// Two clocks: one that people set, one that nobody can.
pub trait Clock: Send + Sync {
    /// The time of day, UTC. May be stepped either way.
    fn wall(&self) -> Timestamp;
    /// Time since some fixed moment, spent asleep included. Never goes back, and is never stepped.
    fn boot(&self) -> Duration;
}

/// The clocks of the machine: `CLOCK_REALTIME` and `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Realtime);
        Timestamp(tv_sec.saturating_mul(1_000_000).saturating_add(tv_nsec / 1000))
    }

    fn boot(&self) -> Duration {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
        Duration::new(tv_sec.max(0) as u64, tv_nsec.clamp(0, 999_999_999) as u32)
    }
}

/// A clock that begins at a chosen time and runs faster (or slower) than the machine's: for replays of
/// recorded data. Both of its clocks run at that speed, so it never seems to be stepped.
#[derive(Clone, Copy, Debug)]
pub struct ScaledClock {
    start: Timestamp,
    speed: f64,
    origin: Duration,
}

impl ScaledClock {
    /// A clock that shows `start` now and from now on runs at `speed` times the speed of the machine's. A
    /// speed that is not a positive finite number counts as 1.
    pub fn new(start: Timestamp, speed: f64) -> Self {
        let speed = if speed.is_finite() && speed > 0.0 { speed } else { 1.0 };
        Self { start, speed, origin: SystemClock.boot() }
    }

    /// How many times faster than the machine's clock it runs.
    pub fn speed(&self) -> f64 {
        self.speed
    }
}

impl Clock for ScaledClock {
    fn wall(&self) -> Timestamp {
        self.start + watchfire_model::Duration::from(self.boot())
    }

    fn boot(&self) -> Duration {
        let passed = SystemClock.boot().saturating_sub(self.origin).as_secs_f64() * self.speed;
        Duration::try_from_secs_f64(passed).unwrap_or(Duration::MAX)
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<(Timestamp, Duration)>,
}

impl ManualClock {
    /// A clock that shows this time.
    pub fn new(wall: Timestamp) -> Self {
        Self { state: Mutex::new((wall, Duration::from_secs(1))) }
    }

    /// Time passes: both clocks move on.
    pub fn advance(&self, by: Duration) {
        let mut state = self.lock();
        state.0 = state.0 + watchfire_model::Duration::from(by);
        state.1 += by;
    }

    /// Someone sets the wall clock; the boot clock does not notice.
    pub fn set_wall(&self, wall: Timestamp) {
        self.lock().0 = wall;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Timestamp, Duration)> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        self.lock().0
    }

    fn boot(&self) -> Duration {
        self.lock().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_both_clocks() {
        assert!(SystemClock.wall() > "2024-01-01T00:00:00Z".parse().unwrap());
        let before = SystemClock.boot();
        assert!(before > Duration::ZERO && SystemClock.boot() >= before);
    }

    #[test]
    fn a_scaled_clock_moves_wall_and_boot_together() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let clock = ScaledClock::new(start, 1e6);
        let before = clock.boot();
        while clock.boot() < before + Duration::from_secs(60) {
            std::hint::spin_loop();
        }
        assert!(clock.wall() >= start + watchfire_model::Duration::from_secs(60));
        assert_eq!(ScaledClock::new(start, f64::NAN).speed(), 1.0);
    }

    #[test]
    fn a_manual_clock_moves_when_told() {
        let clock = ManualClock::new(Timestamp(0));
        let boot = clock.boot();
        clock.advance(Duration::from_secs(2));
        assert_eq!((clock.wall(), clock.boot() - boot), (Timestamp(2_000_000), Duration::from_secs(2)));
        clock.set_wall(Timestamp(5));
        assert_eq!((clock.wall(), clock.boot() - boot), (Timestamp(5), Duration::from_secs(2)));
    }
}
