//! What the log says already of records that are about to be replayed. A replay obeys it: the same
//! activations, the same failures, and nothing appended that is there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use watchfire_log::record::Skipped;
use watchfire_log::{BreakerChange, Entry, Log, LogError, Origin, Record};
use watchfire_model::{Offset, PartitionId, Position, RuleVersion};

/// Collected from the log for one partition.
#[derive(Debug, Default)]
pub struct Lookahead {
    /// By the control record that wanted the version: one that was refused does not count, so its number comes again.
    activations: HashMap<(Offset, String, RuleVersion), Result<(), String>>,
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
            Record::Activated { rule, version, offset } if *offset >= from => {
                self.activations.insert((*offset, rule.clone(), *version), Ok(()));
            }
            Record::Refused { rule, version, offset, reason } if *offset >= from => {
                self.activations.insert((*offset, rule.clone(), *version), Err(reason.clone()));
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

    /// What came of a version that the control record at `offset` wanted; `None`: nothing yet.
    pub(crate) fn activation(
        &self,
        offset: Offset,
        rule: &str,
        version: RuleVersion,
    ) -> Option<Result<(), String>> {
        self.activations.get(&(offset, rule.to_string(), version)).cloned()
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

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_model::{Epoch, Timestamp};

    #[test]
    fn what_came_of_a_version_counts_for_the_record_that_wanted_it() {
        let mut known = Lookahead::default();
        let mut add = |at: Offset, record: Record| {
            let position = Position { epoch: Epoch(1), partition: PartitionId(0), offset: at };
            let entry = Entry { position, appended_at: Timestamp(0), record };
            known.add(PartitionId(0), 10, &entry);
        };
        let refused = |offset| Record::Refused { rule: "r".into(), version: 2, offset, reason: "no".into() };
        // The checkpoint lies between the record that wanted it and what came of it: that is in the checkpoint.
        add(11, refused(8));
        add(15, refused(12));
        add(20, Record::Activated { rule: "r".into(), version: 2, offset: 17 });
        assert_eq!(known.activation(12, "r", 2), Some(Err("no".into())));
        assert_eq!(known.activation(17, "r", 2), Some(Ok(())));
        assert_eq!(known.activation(19, "r", 2), None, "nothing came of it yet");
        assert_eq!(known.activation(8, "r", 2), None);
    }
}
