//! Releases what came of records, in order. What a partition says of itself (an activation, a failed call)
//! is durable before anything behind it is released: otherwise a crash in between could leave an effect
//! whose replay decides differently.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use watchfire_log::{Append, AppendError, Log, Record};
use watchfire_model::alert::{AlertChanges, AlertKeeper, Recovered};
use watchfire_model::{PartitionId, Position};

use crate::error::EngineError;
use crate::partition::Output;

/// Appends that may be on their way to the disk at once.
const IN_FLIGHT: usize = 1024;
/// Transitions handed over at once.
const HANDED_OVER: usize = 512;

type Outcome = Pin<Box<dyn Future<Output = Result<Arc<[Position]>, AppendError>> + Send>>;

/// Something to be released, with its number in the order of evaluation.
struct Waiting {
    number: u64,
    what: What,
}

enum What {
    Output(Output),
    /// What the keeper is to compare itself with.
    Recovered(Box<Recovered>),
}

struct Sent {
    number: u64,
    outcome: Outcome,
    /// To be appended again if the group fails.
    records: Vec<(PartitionId, Record)>,
}

pub(crate) struct Releaser {
    log: Arc<dyn Log>,
    keeper: Arc<dyn AlertKeeper>,
    partition: PartitionId,
    queue: VecDeque<Waiting>,
    /// The number that was given last.
    pushed: u64,
    sent: VecDeque<Sent>,
    /// Nothing is released until what was sent is durable.
    barrier: bool,
    /// What the keeper was given last.
    submitted: u64,
}

impl Releaser {
    pub fn new(log: Arc<dyn Log>, keeper: Arc<dyn AlertKeeper>, partition: PartitionId) -> Self {
        let (queue, sent) = (VecDeque::new(), VecDeque::new());
        Self { log, keeper, partition, queue, pushed: 0, sent, barrier: false, submitted: 0 }
    }

    pub fn push(&mut self, outputs: &mut Vec<Output>) {
        for output in outputs.drain(..) {
            self.enqueue(What::Output(output));
        }
    }

    /// Has the keeper compare what it has with what the partition holds as raised now, behind all that was pushed.
    pub fn compare(&mut self, recovered: Recovered) {
        self.enqueue(What::Recovered(Box::new(recovered)));
    }

    fn enqueue(&mut self, what: What) {
        self.pushed += 1;
        self.queue.push_back(Waiting { number: self.pushed, what });
    }

    /// The number of what was pushed last.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Everything up to this number is released, and what of it was appended is durable. Under load there is always
    /// something on its way: whoever waits must wait for a number, not for nothing to be left.
    pub fn released(&self) -> u64 {
        let first =
            self.sent.iter().map(|sent| sent.number).chain(self.queue.front().map(|next| next.number));
        first.min().map_or(self.pushed, |first| first - 1)
    }

    /// How much waits.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Everything is released, and what was appended is durable.
    pub fn is_done(&self) -> bool {
        self.queue.is_empty() && self.sent.is_empty()
    }

    /// The number of what the keeper was given last.
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    pub fn submit(&mut self, changes: AlertChanges) {
        self.submitted = self.keeper.submit(changes);
    }

    /// Releases what may be released by now.
    pub fn pump(&mut self) -> Result<(), EngineError> {
        self.collect()?;
        let mut changes = AlertChanges::default();
        while (!self.barrier || self.sent.is_empty()) && self.sent.len() < IN_FLIGHT {
            self.barrier = false;
            let Some(Waiting { number, what }) = self.queue.pop_front() else { break };
            match what {
                What::Recovered(recovered) => {
                    let mut all = std::mem::take(&mut changes);
                    all.recovered = Some(*recovered);
                    self.submit(all);
                }
                What::Output(Output::Transition(transition)) => {
                    changes.transitions.push(*transition);
                    if changes.transitions.len() >= HANDED_OVER {
                        self.submit(std::mem::take(&mut changes));
                    }
                }
                What::Output(Output::Own(record)) => {
                    let records = vec![(self.partition, record.clone())];
                    if self.send(number, records)? {
                        self.barrier = true;
                    } else {
                        self.put_back(number, Output::Own(record));
                        break;
                    }
                }
                What::Output(Output::Derived(records)) => {
                    if !self.send(number, records.clone())? {
                        self.put_back(number, Output::Derived(records));
                        break;
                    }
                }
            }
        }
        if !changes.transitions.is_empty() {
            self.submit(changes);
        }
        self.collect()
    }

    fn put_back(&mut self, number: u64, output: Output) {
        self.queue.push_front(Waiting { number, what: What::Output(output) });
    }

    /// Appends; `false`: the log does not take it now.
    fn send(&mut self, number: u64, records: Vec<(PartitionId, Record)>) -> Result<bool, EngineError> {
        match self.log.append(Append::Records(records.clone())) {
            Ok(ticket) => {
                self.sent.push_back(Sent { number, outcome: Box::pin(ticket.durable()), records });
                Ok(true)
            }
            Err(AppendError::Closed) => Err(AppendError::Closed.into()),
            // It passes: a full queue, a full disk, an untrusted clock. Meanwhile nothing is released.
            Err(_) => Ok(false),
        }
    }

    /// Looks what has become durable.
    fn collect(&mut self) -> Result<(), EngineError> {
        let mut context = Context::from_waker(Waker::noop());
        while let Some(first) = self.sent.front_mut() {
            match first.outcome.as_mut().poll(&mut context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(_)) => drop(self.sent.pop_front()),
                Poll::Ready(Err(AppendError::Closed)) => return Err(AppendError::Closed.into()),
                Poll::Ready(Err(error)) => {
                    tracing::warn!(partition = %self.partition, "an append of the loop failed and is tried again: {error}");
                    let Some(failed) = self.sent.pop_front() else { return Ok(()) };
                    if !self.send(failed.number, failed.records.clone())? {
                        // Its place is in front of what waits; the barrier, if it was one, stays with it.
                        let output = match <[_; 1]>::try_from(failed.records) {
                            Ok([(partition, record)]) if self.barrier && partition == self.partition => {
                                Output::Own(record)
                            }
                            Ok(one) => Output::Derived(one.into()),
                            Err(records) => Output::Derived(records),
                        };
                        self.put_back(failed.number, output);
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}
