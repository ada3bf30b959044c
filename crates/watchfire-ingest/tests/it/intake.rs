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

    let after = intake(&log);
    assert_eq!(after.rebuild_repeats(1000).unwrap(), 3);
    assert_eq!(after.repeats().snapshot(), before.repeats().snapshot());
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
