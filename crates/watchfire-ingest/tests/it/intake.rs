//! The way to the log, without a protocol.

use watchfire_decode::{Framing, Shape};
use watchfire_ingest::intake::{Content, Payload};
use watchfire_ingest::{Principal, Source, UnknownDevices};
use watchfire_testkit::MemoryLog;

use crate::setup::{NOW, intake};

#[tokio::test]
async fn repeats_are_known_after_a_restart() {
    let log = MemoryLog::new(2, NOW);
    let source = Source::new("test", UnknownDevices::Register);
    let bytes = br#"[{"device":"a","time":1767225600000,"metrics":{"t":1}},{"device":"b","time":1767225600000,"metrics":{"t":1}},{"device":"a","metrics":{"t":2}}]"#;
    let payloads = [Payload { address: "x", bytes, content: Content::Items(Shape::Event, Framing::Auto) }];
    let before = intake(&log);
    let submitted = before.submit(&source, &Principal::Anonymous, &payloads).await.unwrap();
    submitted.durable().await.unwrap();
    assert_eq!(submitted.verdicts[0].accepted, 3);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("repeats");
    let after = intake(&log);
    assert_eq!(after.restore_repeats(&file).unwrap(), 3, "there is no file: the log is read");
    // Handles of a directory that is empty after this restart come in the same order.
    let again = after.submit(&source, &Principal::Anonymous, &payloads).await.unwrap();
    again.durable().await.unwrap();
    assert_eq!(again.verdicts[0].accepted, 3, "repeats are acknowledged");
    let rows: usize = log
        .records()
        .iter()
        .map(|entry| match &entry.record {
            watchfire_log::Record::Readings { batch, .. } => batch.rows(),
            _ => 0,
        })
        .sum();
    assert_eq!(rows, 4, "only the one without a time of its own is appended again");
}

/// What the queue before the disk counts for a dead letter beside its payload.
const LETTER: usize = 250;

fn letters(log: &MemoryLog) -> Vec<watchfire_log::Reject> {
    let rejects = |entry: &std::sync::Arc<watchfire_log::Entry>| match &entry.record {
        watchfire_log::Record::Rejects(rejects) => rejects.clone(),
        _ => Vec::new(),
    };
    log.records().iter().flat_map(rejects).collect()
}

#[tokio::test]
async fn the_memory_of_repeats_outlives_the_log_that_it_came_from() {
    let log = MemoryLog::new(2, NOW);
    let source = Source::new("test", UnknownDevices::Register);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("repeats");
    let send = async |intake: &watchfire_ingest::Intake, second: i64| {
        let bytes = format!(r#"{{"device":"a","time":{},"metrics":{{"t":1}}}}"#, 1_767_225_600_000 + second);
        let content = Content::Items(Shape::Event, Framing::Auto);
        let payloads = [Payload { address: "x", bytes: bytes.as_bytes(), content }];
        let submitted = intake.submit(&source, &Principal::Anonymous, &payloads).await.unwrap();
        submitted.durable().await.unwrap();
    };
    let rows = || {
        let rows = |entry: &std::sync::Arc<watchfire_log::Entry>| match &entry.record {
            watchfire_log::Record::Readings { batch, .. } => batch.rows(),
            _ => 0,
        };
        log.records().iter().map(rows).sum::<usize>()
    };
    let before = intake(&log);
    for second in 0..10 {
        send(&before, second).await;
    }
    before.save_repeats(&file).await.unwrap();
    for second in 10..15 {
        send(&before, second).await;
    }
    assert_eq!(rows(), 15);
    // What the file covers may go from the log, and no more than that.
    let partition = watchfire_model::PartitionId::of("a", 2);
    let cursor = log.cursor("repeats", partition).unwrap();
    log.drop_before(partition, cursor);
    assert_eq!(rows(), 5);
    let after = intake(&log);
    assert_eq!(after.restore_repeats(&file).unwrap(), 5);
    for second in (0..15).rev() {
        send(&after, second).await;
    }
    assert_eq!(rows(), 5, "all were known");
    // A file that is damaged costs what only it knew, and nothing else.
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let after = intake(&log);
    assert_eq!(after.restore_repeats(&file).unwrap(), 5);
    send(&after, 12).await;
    assert_eq!(rows(), 5);
    send(&after, 3).await;
    assert_eq!(rows(), 6);
}

#[tokio::test]
async fn many_bad_items_are_few_dead_letters_and_none_is_lost() {
    let log = MemoryLog::new(2, NOW);
    let intake = intake(&log);
    let source = Source::new("test", UnknownDevices::Register);
    let count = 50_000;
    let bytes = format!("[{}{{\"t\":1}}]", "1,".repeat(count));
    let shape = Shape::Device("a");
    let payloads =
        [Payload { address: "x", bytes: bytes.as_bytes(), content: Content::Items(shape, Framing::Auto) }];
    let submitted = intake.submit(&source, &Principal::Anonymous, &payloads).await.unwrap();
    submitted.durable().await.unwrap();
    let verdict = &submitted.verdicts[0];
    assert_eq!((verdict.accepted, verdict.rejected_in_all, verdict.rejected.len()), (1, count, 1000));

    let letters = letters(&log);
    let size: usize = letters.iter().map(|letter| letter.payload.len() + LETTER).sum();
    assert!(size < 2 * bytes.len(), "{size} bytes of dead letters for {} bytes", bytes.len());
    let items: usize = letters.iter().map(|l| l.payload.iter().filter(|byte| **byte == b'1').count()).sum();
    assert_eq!(items, count);
    assert!(
        letters.last().unwrap().reason.starts_with("49900 items"),
        "{:?}",
        letters.last().unwrap().reason
    );
}

#[tokio::test]
async fn what_shares_a_letter_is_read_again_as_the_same_items() {
    for separator in [",", ",\n  "] {
        let log = MemoryLog::new(2, NOW);
        let before = intake(&log);
        let refusing = Source::new("test", UnknownDevices::Quarantine);
        let item = |i: usize| {
            format!("{{\"device\":\"d{}\",\"time\":{i},{}\"metrics\":{{\"t\":{i}}}}}", i % 7, &separator[1..])
        };
        let items: Vec<String> = (1_767_225_600_000..1_767_225_600_150).map(item).collect();
        let bytes = format!("[{}]", items.join(separator));
        let content = Content::Items(Shape::Event, Framing::Auto);
        let payload = Payload { address: "x", bytes: bytes.as_bytes(), content: content.clone() };
        let submitted = before.submit(&refusing, &Principal::Anonymous, &[payload]).await.unwrap();
        assert_eq!(submitted.verdicts[0].quarantined, 150);
        let letters = letters(&log);
        assert_eq!(letters.len(), 101);

        let source = Source::new("test", UnknownDevices::Register);
        let mut accepted = 0;
        for letter in &letters {
            let payload = Payload { address: "x", bytes: &letter.payload, content: content.clone() };
            let again = before.submit(&source, &Principal::Anonymous, &[payload]).await.unwrap();
            again.durable().await.unwrap();
            accepted += again.verdicts[0].accepted;
        }
        assert_eq!(accepted, 150);
    }
}
