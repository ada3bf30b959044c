//! What was handed to the log and is not durable yet: one flight is one append, with everybody who waits for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use watchfire_log::AppendError;

/// One append on its way to the disk.
#[derive(Debug)]
pub struct Flight {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    outcome: Option<Result<(), AppendError>>,
    waiting: Vec<Waker>,
}

impl Flight {
    /// A flight that begins now.
    pub fn begin() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), state: Mutex::default() })
    }

    /// A flight that has landed: nothing had to be written.
    pub fn landed() -> Arc<Self> {
        let flight = Self::begin();
        flight.land(Ok(()));
        flight
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of it; `None`: it is on its way.
    pub fn outcome(&self) -> Option<Result<(), AppendError>> {
        self.lock().outcome.clone()
    }

    /// Tells everybody who waits. The first outcome stays.
    pub fn land(&self, outcome: Result<(), AppendError>) {
        let waiting = {
            let mut state = self.lock();
            state.outcome.get_or_insert(outcome);
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits until it has landed.
    pub fn wait(self: &Arc<Self>) -> Landing {
        Landing(self.clone())
    }

    /// Whether it has landed; where not, the task is woken when it has.
    pub fn poll_outcome(&self, context: &Context<'_>) -> Poll<Result<(), AppendError>> {
        let mut state = self.lock();
        match &state.outcome {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => {
                // A task that polls again and again stands here once.
                if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    state.waiting.push(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

/// Waits for a flight.
#[derive(Debug)]
pub struct Landing(Arc<Flight>);

impl Future for Landing {
    type Output = Result<(), AppendError>;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_outcome(context)
    }
}
