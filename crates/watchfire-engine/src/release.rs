//! Releases what came of records, in order. What a partition says of itself (an activation, a failed call)
//! is durable before anything behind it is released: otherwise a crash in between could leave an effect
//! whose replay decides differently.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use watchfire_log::{Append, AppendError, Log, Record};
use watchfire_model::alert::{AlertChanges, AlertKeeper};
use watchfire_model::{PartitionId, Position};

use crate::error::EngineError;
use crate::partition::Output;

/// Appends that may be on their way to the disk at once.
const IN_FLIGHT: usize = 1024;
/// Transitions handed over at once.
const HANDED_OVER: usize = 512;

type Outcome = Pin<Box<dyn Future<Output = Result<Arc<[Position]>, AppendError>> + Send>>;

struct Sent {
    outcome: Outcome,
    /// To be appended again if the group fails.
    records: Vec<(PartitionId, Record)>,
}

pub(crate) struct Releaser {
    log: Arc<dyn Log>,
    keeper: Arc<dyn AlertKeeper>,
    partition: PartitionId,
    queue: VecDeque<Output>,
    sent: VecDeque<Sent>,
    /// Nothing is released until what was sent is durable.
    barrier: bool,
    /// What the keeper was given last.
    submitted: u64,
}

impl Releaser {
    pub fn new(log: Arc<dyn Log>, keeper: Arc<dyn AlertKeeper>, partition: PartitionId) -> Self {
        let (queue, sent) = (VecDeque::new(), VecDeque::new());
        Self { log, keeper, partition, queue, sent, barrier: false, submitted: 0 }
    }

    pub fn push(&mut self, outputs: &mut Vec<Output>) {
        self.queue.extend(outputs.drain(..));
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
        while !(self.barrier && !self.sent.is_empty()) && self.sent.len() < IN_FLIGHT {
            self.barrier = false;
            match self.queue.pop_front() {
                None => break,
                Some(Output::Transition(transition)) => {
                    changes.transitions.push(*transition);
                    if changes.transitions.len() >= HANDED_OVER {
                        self.submit(std::mem::take(&mut changes));
                    }
                }
                Some(Output::Own(record)) => {
                    let records = vec![(self.partition, record.clone())];
                    if self.send(records)? {
                        self.barrier = true;
                    } else {
                        self.queue.push_front(Output::Own(record));
                        break;
                    }
                }
                Some(Output::Derived(records)) => {
                    if !self.send(records.clone())? {
                        self.queue.push_front(Output::Derived(records));
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

    /// Appends; `false`: the log does not take it now.
    fn send(&mut self, records: Vec<(PartitionId, Record)>) -> Result<bool, EngineError> {
        match self.log.append(Append::Records(records.clone())) {
            Ok(ticket) => {
                self.sent.push_back(Sent { outcome: Box::pin(ticket.durable()), records });
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
                    if !self.send(failed.records.clone())? {
                        // Its place is in front of what waits; the barrier, if it was one, stays with it.
                        self.queue.push_front(match <[_; 1]>::try_from(failed.records) {
                            Ok([(partition, record)]) if self.barrier && partition == self.partition => {
                                Output::Own(record)
                            }
                            Ok(one) => Output::Derived(one.into()),
                            Err(records) => Output::Derived(records),
                        });
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}
