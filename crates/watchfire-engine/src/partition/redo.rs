//! The rows of a rule that failed, once more, and those that it missed.

use std::sync::Arc;

use watchfire_log::Redo;
use watchfire_model::call::{Callback, Rows};

use super::call::Of;
use super::{Here, Output, Partition};
use crate::rule::Rule;

impl Partition {
    /// One callback of one rule, with the time of here. What the rule would not be given any more is left out: it
    /// may be gone or read another stream, and of a device that it does not select now, deleted or not, nothing
    /// would ever end what it raised. Handles are permanent, so a device that was registered again under the same
    /// name is another one, and is not taken for the one that sent the rows.
    pub(super) fn redo(&mut self, here: Here, redo: &Redo, out: &mut Vec<Output>) {
        self.rows_since_checkpoint += redo.batch.rows() as u64;
        let Some(&id) = self.rule_ids.get(redo.rule.as_str()) else { return };
        self.with_rule(id, |partition, rule| {
            if rule.stands() {
                partition.begin_delays_anew(here, rule);
            }
        });
        if let Some(range) = redo.missed {
            return self.slice(here, redo, range, out);
        }
        self.with_rule(id, |partition, rule| {
            if let Some(rows) = partition.rows_of_redo(rule, redo) {
                partition.call_rule(here, rule, Callback::Batch(rows), here.time, Of::Redo, out);
            }
        });
    }

    /// The rows of a redo that a rule is given now; `None`: none.
    pub(super) fn rows_of_redo(&self, rule: &Rule, redo: &Redo) -> Option<Arc<Rows>> {
        if *redo.stream != *rule.spec.input {
            return None;
        }
        let selections = &self.streams[rule.stream].selections;
        let devices = (0_u32..).zip(&redo.batch.devices);
        let rows: Vec<u32> = devices
            .filter(|(_, device)| selections.contains(rule.group, **device))
            .map(|(row, _)| row)
            .collect();
        let metrics = rule.subscription.metrics.as_slice().into();
        let some = !rows.is_empty();
        some.then(|| Arc::new(Rows::new(redo.stream.clone(), redo.batch.clone(), Some(rows), metrics)))
    }
}
