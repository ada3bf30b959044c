//! What a compiler in a process of its own may have of the processors: all that it can use while nobody else wants
//! them, otherwise a share.
//!
//! Low priority does not do it. Where no processor is idle, threads are woken where they ran before; with a compiler of
//! the lowest priority on one of two processors, everything else queued on the other: a reading was told after 20 s in
//! place of 14 ms. A process that is stopped is in nobody's way, and leaves a processor that others find idle.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

/// Between two looks at what others want.
const LOOK: Duration = Duration::from_millis(200);
/// While others want the processors, out of each such time ...
const PERIOD: Duration = Duration::from_millis(20);
/// ... the compiler runs for so long.
const RUN: Duration = Duration::from_millis(6);

/// Says that the compiler is done.
#[derive(Default)]
pub(crate) struct Over {
    over: Mutex<bool>,
    changed: Condvar,
}

impl Over {
    /// It is.
    pub(crate) fn set(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits for that, no longer than this; says whether it came.
    fn within(&self, time: Duration) -> bool {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(over, time, |over| !*over);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Stops a compiler now and then, as long as it is not over and others want the processors.
pub(crate) fn pace(compiler: Pid, over: &Over) {
    let mut looked = Use::look(compiler);
    let mut wanted = false;
    while !over.within(if wanted { RUN } else { LOOK }) {
        if wanted {
            // It may have ended: then there is nothing to stop.
            let _ = kill_process(compiler, Signal::STOP);
            over.within(PERIOD - RUN);
            let _ = kill_process(compiler, Signal::CONT);
        }
        if looked.at.elapsed() >= LOOK {
            let now = Use::look(compiler);
            wanted = now.is_wanted_since(&looked);
            looked = now;
        }
    }
}

/// Time of processors, as of one moment.
struct Use {
    at: Instant,
    /// That this process took.
    own: Duration,
    /// That the compiler took.
    compiler: Duration,
    /// That anybody took, and how many processors there are, where the system tells.
    machine: Option<(Duration, usize)>,
}

impl Use {
    fn look(compiler: Pid) -> Self {
        let own = clock_gettime(ClockId::ProcessCPUTime);
        let read = |path: String| std::fs::read_to_string(path).ok();
        Self {
            at: Instant::now(),
            own: Duration::try_from(own).unwrap_or_default(),
            compiler: read(format!("/proc/{}/stat", compiler.as_raw_nonzero()))
                .and_then(|text| of_process(&text))
                .unwrap_or_default(),
            machine: read("/proc/stat".into()).and_then(|text| of_machine(&text)),
        }
    }

    /// Whether others than the compiler wanted processors in between. What this process may have is asked apart: in a
    /// container that is less than what the machine has.
    fn is_wanted_since(&self, before: &Self) -> bool {
        let took = |now: Duration, then: Duration| {
            now.saturating_sub(then).as_secs_f64() / (self.at - before.at).as_secs_f64().max(1e-3)
        };
        let own = took(self.own, before.own);
        let ours = std::thread::available_parallelism().map_or(1, usize::from);
        let others = self.machine.zip(before.machine).map(|((now, processors), (then, _))| {
            (processors, took(now, then) - took(self.compiler, before.compiler))
        });
        !leaves_room(ours, own) || others.is_some_and(|(processors, busy)| !leaves_room(processors, busy))
    }
}

/// Whether a compiler may run freely beside what takes so many of the processors: one and a half are left, or on a small
/// machine almost nothing happens.
fn leaves_room(processors: usize, busy: f64) -> bool {
    let processors = processors as f64;
    busy <= (processors - 1.5).max(processors / 4.0)
}

/// From /proc/stat (proc_stat(5)): time that processors were not idle, and how many there are.
fn of_machine(text: &str) -> Option<(Duration, usize)> {
    let numbers = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let times: Vec<u64> = numbers.map(str::parse).collect::<Result<_, _>>().ok()?;
    // user, nice, system, idle, iowait, irq, softirq, steal; what guests took is in the first two.
    let &[user, nice, system, _, _, irq, softirq, steal] = times.first_chunk()?;
    let processors = text.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
    (processors > 0).then(|| (ticks(user + nice + system + irq + softirq + steal), processors))
}

/// From /proc/PID/stat (proc_pid_stat(5)): time of processors that a process took.
fn of_process(text: &str) -> Option<Duration> {
    // The second field is a name in brackets, which may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(ticks(next()? + next()?))
}

fn ticks(count: u64) -> Duration {
    Duration::from_secs_f64(count as f64 / rustix::param::clock_ticks_per_second().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_compiler_runs_freely_where_there_is_room() {
        for (processors, busy, free) in [
            (1, 0.1, true),
            (1, 0.5, false),
            (2, 0.5, true),
            (2, 0.9, false),
            (4, 2.4, true),
            (4, 2.6, false),
            (16, 14.0, true),
            (16, 15.0, false),
        ] {
            assert_eq!(leaves_room(processors, busy), free, "{busy} of {processors}");
        }
    }

    #[test]
    fn what_the_system_tells_is_read() {
        let text = "cpu  100 20 30 5000 60 7 8 35 90 0\ncpu0 50 10 15 2500 30 3 4 17 45 0\n\
                    cpu1 50 10 15 2500 30 4 4 18 45 0\nintr 12 0\n";
        assert_eq!(of_machine(text), Some((ticks(200), 2)));
        assert_eq!(of_machine("cpu  1 2 3\ncpu0 1 2 3\n"), None);
        assert_eq!(of_machine(""), None);
        let text = "42 (a) name) S 1 42 42 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 100 1 1";
        assert_eq!(of_process(text), Some(ticks(300)));
        assert_eq!(of_process("42 (a"), None);
    }

    #[test]
    fn what_others_want_is_told_from_what_the_compiler_takes() {
        let begin = Instant::now();
        let seconds = |all: f64| Duration::from_secs_f64(all);
        let look = |at: f64, own: f64, compiler: f64, machine: Option<f64>| Use {
            at: begin + seconds(at),
            own: seconds(own),
            compiler: seconds(compiler),
            machine: machine.map(|busy| (seconds(busy), 64)),
        };
        let before = look(0.0, 5.0, 1.0, Some(100.0));
        assert!(!look(1.0, 5.01, 2.0, Some(101.1)).is_wanted_since(&before), "it alone");
        assert!(look(1.0, 5.01, 2.0, Some(164.0)).is_wanted_since(&before), "63 of 64 are taken by others");
        assert!(look(1.0, 69.0, 2.0, None).is_wanted_since(&before), "by this process, as far as is known");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn who_is_paced_gets_its_share_and_is_never_left_stopped() {
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let id = Pid::from_child(&child);
        let stop = AtomicBool::new(false);
        let over = Over::default();
        let state = || {
            let text = std::fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero())).unwrap();
            text.rsplit_once(')').unwrap().1.split_whitespace().next().unwrap().to_string()
        };
        let mut stopped = 0;
        std::thread::scope(|scope| {
            // This process wants all that there is.
            for _ in 0..std::thread::available_parallelism().unwrap().get() {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            scope.spawn(|| pace(id, &over));
            let until = Instant::now() + Duration::from_secs(30);
            while stopped < 10 && Instant::now() < until {
                stopped += usize::from(state() == "T");
                std::thread::sleep(Duration::from_millis(1));
            }
            over.set();
            stop.store(true, Ordering::Relaxed);
        });
        assert!(stopped >= 10, "it was seen stopped {stopped} times");
        assert_ne!(state(), "T");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
