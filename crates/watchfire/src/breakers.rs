//! Tells people of rules that are out of a partition because they kept failing.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use watchfire_engine::{BreakerStatus, Engine};
use watchfire_model::{PartitionId, Severity};
use watchfire_notify::{Notice, NoticeKind, Notifier};

/// How often it is looked whether somebody has to be told.
const LOOK: std::time::Duration = std::time::Duration::from_secs(2);

/// What is told of a rule that is out.
const KIND: NoticeKind = NoticeKind {
    name: "watchfire-rule",
    label: "rule",
    over: "passes again and has gone on",
    severity: Severity::Major,
};

/// Looks until it is stopped.
pub fn watch(engine: Arc<Engine>, notifier: Arc<Notifier>, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let status = engine.status().await;
            // A partition that does not answer, or replays what came before, may hold a rule that is out: nothing is
            // known to be over.
            if status
                .partitions
                .values()
                .any(|partition| partition.as_ref().is_none_or(|p| p.next < p.live_from))
            {
                continue;
            }
            let out = status.rules.iter().filter(|(_, rule)| !rule.breakers.is_empty());
            notifier.set_notices(KIND, out.filter_map(|(name, rule)| notice(name, &rule.breakers)).collect());
        }
    })
}

/// What is told of one rule: of the partition that it is out of for the longest, and how many there are.
fn notice(name: &str, breakers: &BTreeMap<PartitionId, BreakerStatus>) -> Option<Notice> {
    let (partition, first) = breakers.iter().min_by_key(|(_, breaker)| breaker.since)?;
    // A trap with the first line of its backtrace; the rest is in the log.
    let reason = first.reason.lines().map(str::trim).filter(|line| !line.is_empty()).take(3);
    let reason = reason.collect::<Vec<_>>().join(" ");
    let others = match breakers.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let from =
        first.from.map_or_else(|| "nothing yet".into(), |from| format!("what comes from offset {from} on"));
    let lost = match breakers.values().map(|breaker| breaker.lost).sum::<u64>() {
        0 => String::new(),
        lost => format!("; {lost} records were not kept for it and are lost to it"),
    };
    let text = format!(
        "the rule {name} is out of partition {partition}{others} since {}: {}; the last one said: {reason}; \
         it misses {from}{lost}",
        first.since, first.why
    );
    Some(Notice { about: name.into(), since: first.since, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_model::call::FailureKind;
    use watchfire_model::{OnRecovery, Timestamp};

    #[test]
    fn a_notice_says_since_when_why_and_what_is_missed() {
        let status = |since, lost| BreakerStatus {
            since: Timestamp(since),
            why: "20 of 20 callbacks within 1m failed".into(),
            kind: FailureKind::Trapped,
            reason: "rule r, batch of 3 rows: it trapped\nerror while executing:\n  0: f\n  1: g".into(),
            retry_at: None,
            tries: 0,
            from: Some(7),
            upto: 9,
            records: 2,
            rows: 6,
            caught_up: 0,
            lost,
            on_recovery: OnRecovery::CatchUp,
        };
        let breakers = BTreeMap::from([(PartitionId(0), status(5, 0)), (PartitionId(1), status(3, 4))]);
        let notice = notice("r", &breakers).unwrap();
        assert_eq!((notice.about.as_str(), notice.since), ("r", Timestamp(3)));
        for part in [
            "partition 1 and 1 more",
            "20 of 20",
            "it trapped error while executing: 0: f;",
            "offset 7",
            "4 records",
        ] {
            assert!(notice.text.contains(part), "{part}: {}", notice.text);
        }
    }
}
