//! The rows of a rule that failed, once more.

use std::collections::BTreeMap;
use std::sync::Arc;

use watchfire_log::{LogError, Record};
use watchfire_model::call::{Callback, Rows};
use watchfire_model::{Offset, READINGS};

use super::{Here, Output, Partition};

impl Partition {
    /// One callback for each record in the range whose batch this rule failed on, with the time of here.
    pub(super) fn redo(&mut self, here: Here, rule: &str, from: Offset, to: Offset, out: &mut Vec<Output>) {
        let Some(&id) = self.rule_ids.get(rule) else { return };
        let failed = match self.failed_batches(here, rule, from, to) {
            Ok(failed) => failed,
            Err(error) => {
                tracing::error!(rule, position = %here.position, %error, "the rows to evaluate again are gone");
                return;
            }
        };
        self.with_rule(id, |partition, rule| {
            for rows in failed {
                // The rule may read another stream by now.
                if *rows.stream() == *rule.spec.input {
                    partition.call_rule(here, rule, Callback::Batch(Arc::new(rows)), here.time, true, out);
                }
            }
        });
    }

    fn failed_batches(
        &self,
        here: Here,
        rule: &str,
        from: Offset,
        to: Offset,
    ) -> Result<Vec<Rows>, LogError> {
        let Some(log) = &self.setup.history else { return Ok(Vec::new()) };
        let metrics: Arc<[String]> = match self.rule_ids.get(rule).map(|id| &self.rules[id.0 as usize]) {
            Some(Some(rule)) => rule.subscription.metrics.as_slice().into(),
            _ => return Ok(Vec::new()),
        };
        let mut reader = log.reader(self.setup.id, from)?;
        let mut batches = BTreeMap::new();
        let mut failed = BTreeMap::new();
        // Failures stand behind what failed, and only those before this record count: a replay sees the same.
        while reader.offset() < here.position.offset {
            let Some(entry) = reader.next()? else { break };
            let offset = entry.position.offset;
            match &entry.record {
                Record::Readings { stream, batch, .. } if offset <= to => {
                    batches.insert(offset, (stream.clone(), batch.clone()));
                }
                Record::Skipped(skipped)
                    if skipped.rule == rule
                        && (from..=to).contains(&skipped.offset)
                        && !skipped.rows.is_empty() =>
                {
                    failed.insert(skipped.offset, skipped.rows.clone());
                }
                _ => {}
            }
        }
        let rows = failed.into_iter().filter_map(|(offset, mut rows)| {
            let (stream, batch) = batches.remove(&offset)?;
            // Handles are permanent, and the log gives back what was written; devices deleted since are
            // not evaluated any more.
            rows.retain(|row| {
                batch
                    .devices
                    .get(*row as usize)
                    .is_some_and(|device| self.registry.get(*device).is_some_and(|device| !device.deleted))
            });
            let stream = if *stream == *READINGS { READINGS.into() } else { stream };
            (!rows.is_empty()).then(|| Rows::new(stream, batch, Some(rows), metrics.clone()))
        });
        Ok(rows.collect())
    }
}
