//! When rules were out of a partition because they kept failing.

use watchfire_log::{BreakerChange, Entry, Record};
use watchfire_model::Control;
use watchfire_store::outages::{OutageChange, OutageRow};
use watchfire_store::{Store, StoreError};

/// What a record says of that. Saying it again changes nothing.
pub(super) async fn project(store: &Store, entry: &Entry) -> Result<(), StoreError> {
    let (rule, change) = match &entry.record {
        Record::Breaker(breaker) => {
            let change = match &breaker.change {
                BreakerChange::Opened { why, reason, .. } => {
                    let row = OutageRow {
                        position: entry.position.to_string(),
                        rule: breaker.rule.clone(),
                        rule_version: breaker.version,
                        partition: entry.position.partition.0,
                        opened_at: entry.appended_at,
                        why: why.clone(),
                        reason: reason.clone(),
                        ..OutageRow::default()
                    };
                    return store.add_outage(&row).await;
                }
                BreakerChange::StaysOpen { reason, .. } => OutageChange::Tried { reason: reason.clone() },
                BreakerChange::Closed => OutageChange::Closed { by: "tried" },
                // No row is of a time that the rule was not out.
                BreakerChange::Lost { range } if range.taken_back => return Ok(()),
                BreakerChange::Lost { range } => OutageChange::Lost { from: range.from, to: range.next },
            };
            (&breaker.rule, change)
        }
        Record::Redo(redo) => match redo.missed {
            Some(range) if !range.taken_back => {
                (&redo.rule, OutageChange::CaughtUp { from: range.from, to: range.next })
            }
            _ => return Ok(()),
        },
        Record::Activated { rule, .. } => (rule, OutageChange::Closed { by: "deployed" }),
        Record::Control(control) => match &**control {
            Control::RuleRemoved { name, .. } => (name, OutageChange::Closed { by: "removed" }),
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    store.change_outage(rule, entry.position.partition, entry.appended_at, &change).await
}
