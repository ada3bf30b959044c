//! What the log says already of records that are about to be replayed. A replay obeys it: the same
//! activations, the same failures, and nothing appended that is there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use watchfire_log::record::Skipped;
use watchfire_log::{BreakerChange, Entry, Log, LogError, Origin, Record};
use watchfire_model::{Offset, PartitionId, Position, RuleVersion};

/// Collected from the log for one partition.
#[derive(Debug, Default)]
pub struct Lookahead {
    /// In the order of the log: a version that was refused does not count, so its number comes again.
    activations: HashMap<(String, RuleVersion), VecDeque<Result<(), String>>>,
    /// A call may have left several out, each for some of its rows.
    skipped: HashMap<(Offset, String, u32), Vec<Skipped>>,
    /// Breakers that opened, by the callback behind which they did.
    opened: HashMap<(Offset, String, u32), BreakerChange>,
    origins: HashSet<Origin>,
}

impl Lookahead {
    /// Reads everything behind `from`, which is the next record of `partition`.
    pub fn read(log: &dyn Log, partition: PartitionId, from: Offset) -> Result<Self, LogError> {
        let mut known = Self::default();
        if from >= log.range(partition).1 {
            return Ok(known);
        }
        let position = Position { epoch: log.epoch(), partition, offset: from };
        for entry in log.scan(position)? {
            known.add(partition, from, &*entry?);
        }
        Ok(known)
    }

    /// Notes one record. What was derived in a later epoch than its cause counts too: a restore counts the epoch up
    /// between the two, and gives no offset twice.
    pub fn add(&mut self, partition: PartitionId, from: Offset, entry: &Entry) {
        if let Record::Readings { origin: Some(origin), .. } = &entry.record
            && origin.partition == partition
            && origin.offset >= from
        {
            self.origins.insert((**origin).clone());
        }
        if entry.position.partition != partition || entry.position.offset < from {
            return;
        }
        match &entry.record {
            Record::Activated { rule, version } => {
                self.activations.entry((rule.clone(), *version)).or_default().push_back(Ok(()));
            }
            Record::Refused { rule, version, reason } => {
                let refused = Err(reason.clone());
                self.activations.entry((rule.clone(), *version)).or_default().push_back(refused);
            }
            Record::Skipped(skipped) if skipped.offset >= from => {
                let key = (skipped.offset, skipped.rule.clone(), skipped.callback);
                self.skipped.entry(key).or_default().push((**skipped).clone());
            }
            Record::Breaker(breaker) => {
                if let BreakerChange::Opened { offset, callback, .. } = breaker.change
                    && offset >= from
                {
                    self.opened.insert((offset, breaker.rule.clone(), callback), breaker.change.clone());
                }
            }
            _ => {}
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.activations.is_empty()
            && self.skipped.is_empty()
            && self.opened.is_empty()
            && self.origins.is_empty()
    }

    pub(crate) fn activation(&mut self, rule: &str, version: RuleVersion) -> Option<Result<(), String>> {
        self.activations.get_mut(&(rule.to_string(), version))?.pop_front()
    }

    /// What a call left out; empty: nothing.
    pub(crate) fn skipped(&self, offset: Offset, rule: &Arc<str>, callback: u32) -> &[Skipped] {
        if self.skipped.is_empty() {
            return &[];
        }
        self.skipped.get(&(offset, rule.to_string(), callback)).map_or(&[], Vec::as_slice)
    }

    /// What opened the breaker of a rule behind a callback; `None`: nothing did.
    pub(crate) fn opened(&self, offset: Offset, rule: &Arc<str>, callback: u32) -> Option<&BreakerChange> {
        if self.opened.is_empty() {
            return None;
        }
        self.opened.get(&(offset, rule.to_string(), callback))
    }

    pub(crate) fn has(&self, origin: &Origin) -> bool {
        self.origins.contains(origin)
    }
}
