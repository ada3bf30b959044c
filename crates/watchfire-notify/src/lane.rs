//! The worker of one receiver. Each receiver has its own, so that one that hangs delays nobody else.
//!
//! It takes from the ledger the first pending delivery of each group, so that a group's notices go out in
//! order: the next one only after the one before came to its end and that is durable. A crash between the
//! answer and the record repeats the attempt with the same id.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use watchfire_log::Clock;
use watchfire_model::Timestamp;
use watchfire_store::deliveries::{Attempted, DueDelivery};
use watchfire_store::{DeliveryState, Store, StoreError};
use watchfire_telemetry::metrics;

use crate::backoff::backoff;
use crate::backwards::Backwards;
use crate::channel::{Channel, Delivering, Kept, Outcome, Retry, Thread};
use crate::config::ReceiverConfig;
use crate::health::Health;
use crate::resend::Pass;
use crate::turning::Turning;

/// How long what is under way may take once the end has come.
const DRAIN: Duration = Duration::from_secs(5);
/// The longest sleep: clocks that run faster than time are looked at again.
const SLEEP: Duration = Duration::from_secs(1);
/// What comes to an end within so long is recorded in one transaction.
const LINGER: Duration = Duration::from_millis(10);
/// Deliveries that are read at once.
const AHEAD: usize = 128;
/// The longest rest that a receiver is given where it asks for one.
const REST: watchfire_model::Duration = watchfire_model::Duration::from_secs(3600);
/// So many failures in a row, and the receiver is tried with one request at a time until it answers.
const FAILING: u32 = 3;

/// What a worker needs.
pub(crate) struct Lane {
    pub config: ReceiverConfig,
    pub channel: Channel,
    /// The base of links.
    pub public_url: Option<String>,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub stop: watch::Receiver<bool>,
    pub turning: Turning,
    pub health: Health,
}

struct Done {
    delivery: DueDelivery,
    outcome: Outcome,
    took: Duration,
    thread: Option<Thread>,
}

/// A lot that is recorded.
struct Recorded {
    groups: Vec<String>,
    /// Some of it is to be tried again.
    again: bool,
}

struct State {
    under_way: JoinSet<Done>,
    /// What came to an end and is not being recorded yet, with its groups.
    ended: Vec<(String, Attempted)>,
    /// When the first of that did.
    ended_at: Instant,
    /// What is being recorded, one lot at a time.
    recording: JoinSet<Recorded>,
    /// Groups of what is under way or not recorded yet, and whether more of them waits.
    busy: HashMap<String, bool>,
    /// What is due, read ahead: the first of each group. Asking the ledger after each end is dear.
    ahead: VecDeque<DueDelivery>,
    /// When that was read. It does not count for long: what waits may be superseded meanwhile.
    read: Instant,
    /// More may be due than was read.
    look: bool,
    /// When the next that is not due yet is, as of what was read.
    next: Option<Timestamp>,
    /// Failures since the last success.
    failures: u32,
    /// The receiver does not answer: it is tried again then, and not before.
    probes_at: Option<Timestamp>,
    /// It asked for rest: nothing is sent before then, whatever comes of what was under way.
    rests_until: Option<Timestamp>,
    /// What stands is said again then; not before the first round.
    resends_at: Option<Timestamp>,
    /// How far what stands is said again.
    pass: Option<Pass>,
}

impl Lane {
    pub(crate) async fn run(mut self) {
        let mut changes = self.store.subscribe_deliveries();
        let mut state = State {
            under_way: JoinSet::new(),
            ended: Vec::new(),
            ended_at: Instant::now(),
            recording: JoinSet::new(),
            busy: HashMap::new(),
            ahead: VecDeque::new(),
            read: Instant::now(),
            look: true,
            next: None,
            failures: 0,
            probes_at: None,
            rests_until: None,
            resends_at: None,
            pass: None,
        };
        let mut backwards = Backwards::new(&*self.clock);
        // It may have been set back while nobody looked.
        self.bring_nearer(self.config.retry_max.max(REST)).await;
        let mut expired = Instant::now() - 2 * SLEEP;
        while !*self.stop.borrow() {
            self.turning.turned();
            // Seen before looking: a change while we look wakes us again.
            state.look |= changes.has_changed().unwrap_or(false);
            changes.borrow_and_update();
            if expired.elapsed() >= SLEEP {
                expired = Instant::now();
                state.look |= self.expire().await;
            }
            if let Some(by) = backwards.look(&*self.clock) {
                for until in [&mut state.probes_at, &mut state.rests_until, &mut state.resends_at] {
                    *until = until.map(|until| until - by);
                }
                self.bring_nearer(self.config.retry_max).await;
            }
            if self.lingers(&state).is_some_and(|left| left.is_zero() || state.under_way.is_empty()) {
                self.record(&mut state);
            }
            let mut wait = self.start_due(&mut state).await;
            wait = self.lingers(&state).map_or(wait, |left| left.min(wait));
            tokio::select! {
                Some(done) = state.under_way.join_next() => self.finish(&mut state, unpanicked(done)),
                Some(recorded) = state.recording.join_next() => free(&mut state, unpanicked(recorded)),
                changed = changes.changed() => match changed {
                    Ok(()) => state.look = true,
                    Err(_) => break,
                },
                () = tokio::time::sleep(wait) => {}
                changed = self.stop.changed() => if changed.is_err() { break },
            }
        }
        let deadline = tokio::time::Instant::now() + DRAIN;
        while let Ok(Some(done)) = tokio::time::timeout_at(deadline, state.under_way.join_next()).await {
            self.finish(&mut state, unpanicked(done));
        }
        // What is left stays pending in the ledger: it is tried again with the same id.
        state.under_way.shutdown().await;
        self.record(&mut state);
        while let Some(recorded) = state.recording.join_next().await {
            free(&mut state, unpanicked(recorded));
            self.record(&mut state);
        }
    }

    /// Starts what is due and has room; gives how long to sleep at most.
    async fn start_due(&self, state: &mut State) -> Duration {
        let now = self.clock.wall();
        let until = state.probes_at.max(state.rests_until);
        if let Some(until) = until.filter(|until| *until > now) {
            return until.since(now).to_std().min(SLEEP);
        }
        if let Some(every) = self.channel.resends() {
            if state.resends_at.is_none_or(|at| at <= now || at > now + every) {
                state.resends_at = Some(now + every);
                state.pass.get_or_insert_with(Pass::new);
            }
            if state.pass.is_some() && !state.under_way.is_empty() {
                return SLEEP;
            }
            if let Some(pass) = state.pass.take() {
                state.pass = self.resend(pass, now).await;
            }
        }
        let room = if state.failures >= FAILING { 1 } else { self.config.max_in_flight };
        let room = room.saturating_sub(state.under_way.len());
        // Whatever was not recorded is sent once more after a crash.
        if room == 0 || state.busy.len() >= AHEAD.max(2 * self.config.max_in_flight) {
            return SLEEP;
        }
        let look = state.look || state.next.is_some_and(|next| next <= now);
        if (look && state.ahead.is_empty()) || state.read.elapsed() > SLEEP {
            // What is under way is due too, as far as the ledger knows.
            let limit = AHEAD.max(room) + state.busy.len();
            if let Err(error) = self.read_ahead(state, now, limit).await {
                tracing::error!(receiver = self.config.name, error = error.chain(), "cannot read deliveries");
                return SLEEP;
            }
        }
        let mut started = 0;
        while started < room
            && let Some(delivery) = state.ahead.pop_front()
        {
            started += 1;
            state.busy.insert(delivery.group_key.clone(), delivery.followed);
            let channel = self.channel.clone();
            state.under_way.spawn(async move {
                let started = Instant::now();
                let thread = Kept::new(delivery.thread.clone());
                let delivering =
                    Delivering { id: &delivery.id, payload: &delivery.payload, now, thread: &thread };
                let outcome = caught(channel.send(&delivering)).await;
                Done { delivery, outcome, took: started.elapsed(), thread: thread.after() }
            });
        }
        // The next page.
        if state.pass.is_some() && started == 0 {
            return Duration::ZERO;
        }
        // Nothing more begins before something ends.
        if started == room {
            return SLEEP;
        }
        match state.next {
            Some(next) => next.since(now).to_std().clamp(Duration::from_millis(1), SLEEP),
            None => SLEEP,
        }
    }

    /// Reads what is due, at most so many.
    async fn read_ahead(&self, state: &mut State, now: Timestamp, most: usize) -> Result<(), StoreError> {
        let due = self.store.due_deliveries(&self.config.name, now, most as u32).await?;
        state.next = self.store.next_delivery(&self.config.name, now).await?;
        (state.look, state.read) = (due.len() == most, Instant::now());
        state.ahead.clear();
        for delivery in due {
            // As of now: what is under way may be recorded by the time that these are begun.
            match state.busy.get_mut(&delivery.group_key) {
                Some(followed) => *followed = delivery.followed,
                None => state.ahead.push_back(delivery),
            }
        }
        Ok(())
    }

    /// Takes what came to an end: this one and whatever else did meanwhile.
    fn finish(&self, state: &mut State, first: Done) {
        let mut next = Some(first);
        while let Some(done) = next {
            let group = done.delivery.group_key.clone();
            let attempted = self.judge(state, done);
            if state.ended.is_empty() {
                state.ended_at = Instant::now();
            }
            state.ended.push((group, attempted));
            next = state.under_way.try_join_next().map(unpanicked);
        }
    }

    /// How long what came to an end may wait for others to be recorded with it.
    fn lingers(&self, state: &State) -> Option<Duration> {
        let waits = !state.ended.is_empty() && state.recording.is_empty();
        waits.then(|| LINGER.saturating_sub(state.ended_at.elapsed()))
    }

    /// Begins to record what came to an end, in one transaction, unless the lot before is not recorded yet. Others are
    /// sent meanwhile, but none of these groups: a crash could repeat this one after the next.
    fn record(&self, state: &mut State) {
        if state.ended.is_empty() || !state.recording.is_empty() {
            return;
        }
        let (groups, attempts): (Vec<String>, Vec<Attempted>) = state.ended.drain(..).unzip();
        let again = attempts.iter().any(|attempted| attempted.state == DeliveryState::Pending);
        let (store, stop, receiver) = (self.store.clone(), self.stop.clone(), self.config.name.clone());
        state.recording.spawn(async move {
            let mut wait = Duration::from_millis(50);
            while let Err(error) = store.record_attempts(&attempts).await {
                tracing::error!(receiver, error = error.chain(), "cannot record deliveries");
                if *stop.borrow() {
                    break;
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
            Recorded { groups, again }
        });
    }

    fn judge(&self, state: &mut State, done: Done) -> Attempted {
        let Done { delivery, outcome, took, thread } = done;
        let now = self.clock.wall();
        let receiver = || ("receiver", self.config.name.clone());
        let telemetry = &metrics().alerts;
        let attempt = delivery.attempts + 1;
        let mut attempted = Attempted {
            sequence: delivery.sequence,
            attempt,
            at: now,
            state: DeliveryState::Pending,
            next_try: now,
            status: None,
            error: None,
            took: took.into(),
            thread: None,
        };
        let outcome_name = match outcome {
            Outcome::Delivered { status } => {
                state.failures = 0;
                state.probes_at = None;
                attempted.state = DeliveryState::Delivered;
                attempted.thread = thread;
                attempted.status = Some(status);
                let age = now.since(delivery.created_at).as_secs_f64();
                telemetry.delivery_seconds.get_or_create(&[receiver()]).observe(age);
                if let Some(caused) = delivery.caused_at {
                    let whole = now.since(caused).as_secs_f64();
                    telemetry.reading_to_delivered.get_or_create(&[receiver()]).observe(whole);
                }
                "delivered"
            }
            Outcome::Failed { retry: Retry::Never, status, error } => {
                // It answers, so it is well: it only does not want this one.
                state.failures = 0;
                tracing::warn!(
                    receiver = self.config.name,
                    delivery = delivery.id,
                    error,
                    "a delivery was refused"
                );
                attempted.state = DeliveryState::Refused;
                attempted.status = status;
                attempted.error = Some(error);
                "never"
            }
            Outcome::Failed { retry: Retry::Later(after), status, error } => {
                state.failures = state.failures.saturating_add(1);
                let config = &self.config;
                let own = backoff(&delivery.id, attempt, config.retry_initial, config.retry_max);
                let asked = after.map(watchfire_model::Duration::from);
                attempted.next_try = now + asked.map_or(own, |asked| asked.max(own));
                if let Some(asked) = asked {
                    state.rests_until = state.rests_until.max(Some(now + asked));
                } else if state.failures >= FAILING {
                    // Probe it with one request after each wait, whatever else is due: short at first, so
                    // that it is noticed soon when it is back.
                    let pause =
                        backoff("lane", state.failures - FAILING + 1, config.retry_initial, config.retry_max);
                    state.probes_at = Some(now + pause.min(watchfire_model::Duration::from_secs(15)));
                }
                tracing::info!(
                    receiver = config.name,
                    delivery = delivery.id,
                    attempt,
                    error,
                    "will try again"
                );
                attempted.status = status;
                attempted.error = Some(error);
                "later"
            }
        };
        telemetry.attempts.get_or_create(&[receiver(), ("outcome", outcome_name.into())]).inc();
        self.health.note(&attempted, state.failures, state.probes_at.max(state.rests_until));
        if attempted.state != DeliveryState::Pending {
            let end = ("state", attempted.state.as_str().to_string());
            telemetry.deliveries.get_or_create(&[receiver(), end]).inc();
        }
        attempted
    }

    /// Nothing waits for its next attempt for longer than this.
    async fn bring_nearer(&self, longest: watchfire_model::Duration) {
        let latest = self.clock.wall() + longest;
        if let Err(error) = self.store.bring_deliveries_nearer(&self.config.name, latest).await {
            tracing::error!(
                receiver = self.config.name,
                error = error.chain(),
                "cannot bring deliveries nearer"
            );
        }
    }

    /// Gives up what waits for too long; says whether anything was.
    async fn expire(&self) -> bool {
        let now = self.clock.wall();
        match self.store.expire_deliveries(&self.config.name, now - self.config.expire, now).await {
            Ok(0) => return false,
            Ok(expired) => {
                let labels = [("receiver", self.config.name.clone()), ("state", "expired".to_string())];
                metrics().alerts.deliveries.get_or_create(&labels).inc_by(expired);
                tracing::error!(receiver = self.config.name, expired, "deliveries were given up");
            }
            Err(error) => {
                tracing::error!(
                    receiver = self.config.name,
                    error = error.chain(),
                    "cannot expire deliveries"
                );
            }
        }
        true
    }
}

/// The next of what was recorded may go out.
fn free(state: &mut State, recorded: Recorded) {
    // What was made since it was read how many follow has woken us, and is read anew.
    let followed = recorded.groups.iter().filter_map(|group| state.busy.remove(group));
    state.look |= followed.fold(recorded.again, |any, followed| any | followed);
}

/// An attempt; one that panics failed, and is tried again later like any other.
async fn caught(attempt: impl Future<Output = Outcome>) -> Outcome {
    AssertUnwindSafe(attempt).catch_unwind().await.unwrap_or_else(|panic| {
        let said =
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Outcome::Failed {
            retry: Retry::Later(None),
            status: None,
            error: format!("the channel panicked: {}", said.unwrap_or("it does not say why")),
        }
    })
}

/// What a task gave; it is one of those that do not panic.
fn unpanicked<T>(joined: Result<T, JoinError>) -> T {
    joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_attempt_that_panics_is_one_that_failed() {
        for (attempt, said) in [(1, "number 1"), (2, "plain")] {
            let outcome =
                caught(
                    async move { if attempt == 1 { panic!("number {attempt}") } else { panic!("plain") } },
                );
            let Outcome::Failed { retry: Retry::Later(None), status: None, error } = outcome.await else {
                panic!("it is no failure to be tried again");
            };
            assert_eq!(error, format!("the channel panicked: {said}"));
        }
    }
}
