//! The clock of the log. It never goes back; it follows the wall clock while that behaves, and goes on at
//! the rate of the boot clock where it does not. While intake is paused it stands still, so that nothing
//! becomes due by our own downtime; the gap that follows says for how long.

use std::sync::Arc;
use std::time::Duration;

use watchfire_model::Timestamp;

use crate::clock::Clock;
use crate::contract::AppendError;
use crate::record::GapReason;

/// So far ahead of the wall clock the log's stands still until that caught up; farther ahead it goes on.
const STANDSTILL: Duration = Duration::from_secs(1);
/// A forward jump from this on is a gap: the machine slept, or the clock was set.
const NOTICED: Duration = Duration::from_secs(10);

/// A span in which intake stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub from: Timestamp,
    pub to: Timestamp,
    pub reason: GapReason,
}

pub(super) struct LogTime {
    clock: Arc<dyn Clock>,
    bound: Duration,
    stable: Duration,
    /// The latest time that was given out, and the boot clock then.
    last: Timestamp,
    boot: Duration,
    pause: Option<(GapReason, AppendError)>,
    step: Option<Step>,
    /// From when on intake stood still, if no group was told yet.
    gap: Option<(Timestamp, GapReason)>,
}

/// A jump that is not trusted yet.
#[derive(Clone, Copy)]
struct Step {
    /// Wall clock less boot clock, in microseconds.
    difference: i128,
    /// On the boot clock.
    since: Duration,
    /// A wall clock that is no farther ahead than this is believed again.
    bound: Duration,
}

fn plus(time: Timestamp, span: Duration) -> Timestamp {
    time + watchfire_model::Duration::from(span)
}

impl LogTime {
    /// Goes on after `last`, the time of the newest group if there is one. A wall clock that is farther ahead of it
    /// than `away`, longer than an installation is ever switched off, is not believed at once: a clock chip whose
    /// battery is dead begins wherever it likes, and what is in the log once never goes back.
    pub fn new(
        clock: Arc<dyn Clock>,
        last: Option<Timestamp>,
        bound: Duration,
        stable: Duration,
        away: Duration,
    ) -> Self {
        let (wall, boot) = (clock.wall(), clock.boot());
        let mut now = last.map_or(wall, |last| last.max(wall));
        let gap = last.filter(|last| *last < now).map(|last| (last, GapReason::Stopped));
        let (mut pause, mut step) = (None, None);
        if let Some(last) = last.filter(|last| wall > plus(*last, away)) {
            now = last;
            step = Some(Step { difference: difference(wall, boot), since: boot, bound: away });
            pause = Some((GapReason::ClockStep, AppendError::ClockStep(wall.since(last).to_std())));
        }
        Self { clock, bound, stable, last: now, boot, pause, step, gap }
    }

    /// What time it is. Notices when the wall clock was set.
    pub fn now(&mut self) -> Timestamp {
        if self.pause.is_some() {
            return self.last;
        }
        // The wall clock first: a thread that is put aside between the two sees no forward jump.
        let wall = self.clock.wall();
        let boot = self.clock.boot();
        let projected = plus(self.last, boot.saturating_sub(self.boot));
        self.boot = boot;
        if wall > plus(projected, self.bound) {
            self.last = projected;
            let jump = wall.since(projected).to_std();
            self.step = Some(Step { difference: difference(wall, boot), since: boot, bound: self.bound });
            self.pause = Some((GapReason::ClockStep, AppendError::ClockStep(jump)));
        } else if wall > plus(projected, NOTICED) {
            self.gap.get_or_insert((projected, GapReason::ClockStep));
            self.last = wall;
        } else if projected.since(wall).to_std() > STANDSTILL {
            self.last = projected;
        } else {
            self.last = self.last.max(wall);
        }
        self.last
    }

    /// The time of a group, and the gap that it has to begin with.
    pub fn stamp(&mut self) -> (Timestamp, Option<Gap>) {
        let now = self.now();
        if self.pause.is_some() {
            return (now, None);
        }
        let gap = self.gap.take().filter(|(from, _)| *from < now);
        (now, gap.map(|(from, reason)| Gap { from, to: now, reason }))
    }

    /// Whether the next group has to begin with a gap.
    pub fn has_gap(&self) -> bool {
        self.pause.is_none() && self.gap.is_some()
    }

    /// Why intake is paused.
    pub fn paused(&self) -> Option<&(GapReason, AppendError)> {
        self.pause.as_ref()
    }

    /// Intake stands still from now on.
    pub fn pause(&mut self, reason: GapReason, error: AppendError) {
        self.now();
        if self.pause.is_none() {
            self.pause = Some((reason, error));
        }
    }

    /// Intake goes on, if this is why it stood still. Whether it did.
    pub fn resume(&mut self, reason: GapReason) -> bool {
        if self.pause.as_ref().is_none_or(|(paused, _)| *paused != reason) {
            return false;
        }
        self.pause = None;
        self.gap.get_or_insert((self.last, reason));
        self.now();
        true
    }

    /// The wall clock is right: a jump that was not trusted yet is accepted.
    pub fn confirm(&mut self) -> bool {
        if !matches!(self.pause, Some((GapReason::ClockStep, _))) {
            return false;
        }
        (self.pause, self.step) = (None, None);
        self.gap.get_or_insert((self.last, GapReason::ClockStep));
        let (wall, boot) = (self.clock.wall(), self.clock.boot());
        self.last = self.last.max(wall);
        self.boot = boot;
        true
    }

    /// Whether a jump was undone, or has been stable for long enough. To be called now and then.
    pub fn settle(&mut self) -> bool {
        let (Some(step), Some((GapReason::ClockStep, _))) = (self.step, &self.pause) else {
            return false;
        };
        let wall = self.clock.wall();
        let boot = self.clock.boot();
        let projected = plus(self.last, boot.saturating_sub(self.boot));
        if wall <= plus(projected, step.bound) {
            // What is believed at a start may be a jump for one that runs: it is confirmed, or it paused again.
            if wall > plus(projected, self.bound) {
                return self.confirm();
            }
            self.step = None;
            return self.resume(GapReason::ClockStep);
        }
        let moved = (difference(wall, boot) - step.difference).unsigned_abs() > NOTICED.as_micros();
        if moved {
            self.step = Some(Step { difference: difference(wall, boot), since: boot, ..step });
            return false;
        }
        boot.saturating_sub(step.since) >= self.stable && self.confirm()
    }
}

fn difference(wall: Timestamp, boot: Duration) -> i128 {
    i128::from(wall.0) - boot.as_micros() as i128
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const START: Timestamp = Timestamp(1_800_000_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);
    const MONTH: Duration = Duration::from_secs(30 * 86_400);

    fn log_time(clock: &Arc<ManualClock>, last: Option<Timestamp>, stable: Duration) -> LogTime {
        LogTime::new(clock.clone(), last, HOUR, stable, MONTH)
    }

    /// Runs steps (seconds that pass, seconds by which the wall clock is set besides) and gives the log's
    /// time after each, in seconds from the start; `None`: paused.
    fn check(steps: &[(u64, i64)], expected: &[Option<i64>]) -> LogTime {
        let clock = Arc::new(ManualClock::new(START));
        let mut time = log_time(&clock, None, Duration::from_secs(300));
        let mut seen = Vec::new();
        for &(passed, set) in steps {
            clock.advance(Duration::from_secs(passed));
            clock.set_wall(Timestamp(clock.wall().0 + set * 1_000_000));
            time.settle();
            let now = time.now();
            seen.push(time.paused().is_none().then_some((now.0 - START.0) / 1_000_000));
        }
        assert_eq!(seen, expected);
        time
    }

    #[test]
    fn it_follows_a_clock_that_behaves() {
        let mut time = check(&[(1, 0), (7200, 0), (100_000, 0)], &[Some(1), Some(7201), Some(107_201)]);
        assert_eq!(time.stamp().1, None);
    }

    #[test]
    fn after_a_backward_step_it_goes_on() {
        check(&[(10, 0), (10, -7200), (10, 0), (0, 7200)], &[Some(10), Some(20), Some(30), Some(30)]);
        // A small one is waited out.
        check(&[(10, -1), (1, 0), (10, 0)], &[Some(9), Some(10), Some(20)]);
    }

    #[test]
    fn a_large_forward_step_pauses_until_it_is_stable_or_undone() {
        let mut time = check(&[(10, 7200), (299, 0), (2, 0)], &[None, None, Some(7511)]);
        let (now, gap) = time.stamp();
        let from = plus(START, Duration::from_secs(10));
        assert_eq!(gap, Some(Gap { from, to: now, reason: GapReason::ClockStep }));
        let mut undone = check(&[(10, 7200), (50, -7200)], &[None, Some(60)]);
        assert_eq!(undone.stamp().1.map(|gap| gap.from), Some(from));
        // It moves again: the five minutes begin anew.
        check(&[(1, 7200), (200, 100), (200, 0), (101, 0)], &[None, None, None, Some(7802)]);
    }

    #[test]
    fn a_noticeable_forward_step_is_a_gap_without_a_pause() {
        let mut time = check(&[(10, 600)], &[Some(610)]);
        let gap = time.stamp().1.unwrap();
        assert_eq!(gap.to.since(gap.from).to_std(), Duration::from_secs(600));
    }

    #[test]
    fn a_pause_stops_time_and_ends_in_a_gap() {
        let clock = Arc::new(ManualClock::new(START));
        let mut time = log_time(&clock, None, HOUR);
        time.pause(GapReason::DiskFull, AppendError::DiskFull);
        clock.advance(HOUR);
        assert_eq!(time.stamp(), (START, None));
        assert!(!time.resume(GapReason::ClockStep) && time.resume(GapReason::DiskFull));
        let to = plus(START, HOUR);
        assert_eq!(time.stamp(), (to, Some(Gap { from: START, to, reason: GapReason::DiskFull })));
    }

    #[test]
    fn a_start_behind_the_last_record_does_not_go_back() {
        let clock = Arc::new(ManualClock::new(Timestamp(0)));
        let mut time = log_time(&clock, Some(START), HOUR);
        clock.advance(Duration::from_secs(5));
        assert_eq!(time.stamp(), (plus(START, Duration::from_secs(5)), None));
    }

    /// A start so many seconds after the last record, with a clock that shows so many more.
    fn start(off: u64, ahead: i64) -> (Arc<ManualClock>, LogTime) {
        let clock = Arc::new(ManualClock::new(Timestamp(START.0 + (off as i64 + ahead) * 1_000_000)));
        let time = log_time(&clock, Some(START), Duration::from_secs(300));
        (clock, time)
    }

    #[test]
    fn a_start_does_not_believe_a_clock_that_is_months_ahead() {
        let years = 70 * 365 * 86_400;
        let (clock, mut time) = start(60, years);
        assert!(matches!(time.paused(), Some((GapReason::ClockStep, AppendError::ClockStep(_)))));
        assert_eq!((time.now(), time.stamp()), (START, (START, None)), "log time stands where it was");
        // The network says what time it is: that is believed at once, though the log slept for two days.
        clock.advance(Duration::from_secs(20));
        assert!(!time.settle());
        clock.set_wall(plus(START, Duration::from_secs(2 * 86_400)));
        assert!(time.settle() && time.paused().is_none());
        let to = plus(START, Duration::from_secs(2 * 86_400));
        assert_eq!(time.stamp(), (to, Some(Gap { from: START, to, reason: GapReason::Stopped })));
    }

    #[test]
    fn what_was_off_for_months_waits_for_a_stable_clock_or_a_word() {
        let (clock, mut time) = start(100 * 86_400, 0);
        clock.advance(Duration::from_secs(299));
        assert!(!time.settle() && time.paused().is_some());
        clock.advance(Duration::from_secs(2));
        assert!(time.settle() && time.paused().is_none());
        assert_eq!(time.stamp().1.map(|gap| (gap.from, gap.to)), Some((START, clock.wall())));
        let (clock, mut time) = start(100 * 86_400, 0);
        assert!(time.confirm() && time.now() == clock.wall());
        // A month is believed.
        assert!(start(29 * 86_400, 0).1.paused().is_none());
    }
}
