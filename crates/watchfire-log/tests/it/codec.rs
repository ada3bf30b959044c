//! Every record is read back as it was, and no bytes make a reader panic.

use proptest::prelude::*;
use watchfire_log::codec::group::{GroupHeader, GroupWriter, SegmentHeader, Share};
use watchfire_log::codec::record::{decode, encode, kind};
use watchfire_log::record::{GapReason, Origin, Record, Skipped};
use watchfire_log::{Append, Breaker, BreakerChange, Consumed, MissedRange, Redo, Reject, Slice};
use watchfire_model::call::FailureKind;
use watchfire_model::external::{ExternalAlert, ExternalAlerts};
use watchfire_model::{Actor, BatchBuilder, DeviceHandle, Duration, Epoch, PartitionId, Position, Timestamp};

use crate::help;

/// Rows of devices with some of a few metrics, each of any kind: sparse and dense columns come of it.
fn readings() -> impl Strategy<Value = Record> {
    let value = (0..4_u8, 0..3_u8, any::<f64>().prop_filter("finite", |x| x.is_finite()), "[a-c]{0,3}");
    let row = (any::<u32>(), any::<i64>(), prop::collection::vec(value, 0..5));
    let origin = prop::option::of((any::<u32>(), any::<u64>(), "[a-zü]{0,8}"));
    (prop::collection::vec(row, 0..40), "[a-z.]{1,12}", origin).prop_map(|(rows, stream, origin)| {
        let mut batch = BatchBuilder::new();
        for (device, time, values) in rows {
            batch.begin(DeviceHandle(device), Timestamp(time));
            for (metric, kind, number, text) in values {
                let metric = format!("m{metric}");
                // A metric that comes twice is refused, which leaves the row as it was.
                let _ = match kind {
                    0 => batch.number(&metric, number),
                    1 => batch.text(&metric, &text),
                    _ => batch.boolean(&metric, number > 0.0),
                };
            }
            batch.commit();
        }
        let origin = origin.map(|(callback, offset, rule)| {
            Box::new(Origin {
                epoch: Epoch(1),
                partition: PartitionId(0),
                offset,
                rule,
                callback,
                stream: "s".into(),
                target: PartitionId(2),
            })
        });
        Record::Readings { stream: stream.into(), origin, batch: batch.finish().into() }
    })
}

fn record() -> impl Strategy<Value = Record> {
    let reject =
        (any::<Vec<u8>>(), ".{0,20}", prop::option::of(any::<u32>())).prop_map(|(payload, text, index)| {
            Reject { payload, reason: text.clone(), address: text, index, ..help::reject(1) }
        });
    let skipped = (any::<u64>(), any::<Vec<u32>>(), ".{0,20}").prop_map(|(offset, rows, reason)| {
        Record::Skipped(Box::new(Skipped {
            rule: reason.clone(),
            version: 3,
            offset,
            callback: 1,
            callback_name: "batch".into(),
            rows,
            rows_at: Some(offset / 2).filter(|at| at % 2 == 0),
            kind: FailureKind::Fuel,
            reason,
            state_before: Vec::new(),
        }))
    });
    let redo = (readings(), any::<u64>(), ".{0,20}", prop::option::of(".{0,9}"));
    let redo = redo.prop_map(|(readings, offset, rule, reason)| {
        let Record::Readings { stream, batch, .. } = readings else { unreachable!() };
        let failed = Position { epoch: Epoch(2), partition: PartitionId(2), offset };
        let by = Actor { name: rule.clone(), reason, request: None };
        let slice = Slice { from: offset, next: !offset, as_of: offset / 3, taken_back: offset % 4 == 0 };
        let (missed, upto) = match offset % 2 {
            0 => (Some(slice), None),
            _ => (None, Some(rule.clone())),
        };
        Record::Redo(Box::new(Redo { rule, stream, failed, missed, upto, by, batch }))
    });
    let breaker = (any::<u64>(), ".{0,20}", 0..4).prop_map(|(offset, rule, change)| {
        // A wait is a day at most.
        let wait = Duration(offset % 86_400_000_001);
        let (kind, reason) = (FailureKind::Time, rule.clone());
        let change = match change {
            0 => BreakerChange::Opened { offset, callback: 3, why: "half".into(), kind, reason, wait },
            1 => BreakerChange::StaysOpen { kind, reason, wait },
            2 => BreakerChange::Closed,
            _ => BreakerChange::Lost {
                range: MissedRange { from: offset, next: !offset, taken_back: offset % 3 == 0 },
            },
        };
        Record::Breaker(Box::new(Breaker { rule, version: 2, change }))
    });
    let external = (any::<i64>(), ".{0,20}", ".{0,20}").prop_map(|(time, name, value)| {
        let labels = std::collections::BTreeMap::from([(name.clone(), value.clone())]);
        let alert = ExternalAlert {
            fingerprint: "0123456789abcdef".into(),
            annotations: if time % 2 == 0 { labels.clone() } else { Default::default() },
            labels,
            generator_url: value,
            // Within the years that RFC 3339 has.
            starts_at: Some(Timestamp(time % 60_000_000_000_000_000)).filter(|_| time % 3 == 0),
            ends_at: None,
            resolve_timeout: Duration(time.unsigned_abs() % 86_400_000_001),
        };
        let by = Actor { name, reason: None, request: None };
        Record::External(Box::new(ExternalAlerts { by, alerts: vec![alert.clone(), alert] }))
    });
    let Append::Records(control) = help::control(7) else { unreachable!() };
    prop_oneof![
        4 => readings(),
        1 => prop::collection::vec(reject, 0..5).prop_map(Record::Rejects),
        1 => skipped,
        2 => redo,
        1 => breaker,
        1 => external,
        1 => Just(Record::Tick),
        1 => Just(Record::CheckpointMark),
        1 => Just(control[0].1.clone()),
        1 => (any::<i64>(), any::<i64>()).prop_map(|(from, to)| Record::Gap {
            from: Timestamp(from), to: Timestamp(to), reason: GapReason::WriteFailed }),
        1 => (".{0,9}", any::<u32>(), any::<u64>())
            .prop_map(|(rule, version, offset)| Record::Activated { rule, version, offset }),
        1 => prop::collection::vec((".{0,9}", any::<i32>(), any::<i64>(), any::<bool>()), 0..4).prop_map(|all| {
            let consumed = |(topic, partition, from, anew): (String, i32, i64, bool)| Consumed {
                source: "kafka".into(), topic, partition, from, next: !from, anew };
            Record::Consumed(all.into_iter().map(consumed).collect()) }),
        1 => (".{0,9}", any::<u32>(), any::<u64>()).prop_map(|(rule, version, offset)| Record::Refused {
            reason: rule.clone(), rule, version, offset }),
    ]
}

fn bytes_of(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(record, &mut bytes).unwrap();
    bytes
}

fn group(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = GroupWriter::new(&mut bytes, 1);
    for record in records {
        writer.record(PartitionId(2), record, None).unwrap();
    }
    let share = Share { partition: PartitionId(2), count: records.len() as u32, first: 10 };
    writer.finish(9, 3, (1, 4096), Timestamp(5), Epoch(2), &[share]).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_record_is_read_back(record in record()) {
        let bytes = bytes_of(&record);
        let back = decode(kind(&record), &bytes).unwrap();
        // Bytes are compared: NaN is not equal to itself.
        prop_assert_eq!(bytes_of(&back), bytes);
        if !matches!(record, Record::Readings { .. } | Record::Redo(_)) {
            prop_assert_eq!(back, record);
        }
    }

    #[test]
    fn a_group_is_read_back(records in prop::collection::vec(record(), 0..6)) {
        let bytes = group(&records);
        let header = GroupHeader::decode(&bytes).unwrap();
        prop_assert_eq!(header.length(), bytes.len());
        prop_assert_eq!((header.group, header.synced_segment, header.synced_byte), (3, 1, 4096));
        let entries = header.entries(&bytes).unwrap();
        prop_assert_eq!(entries.len(), records.len());
        for ((entry, record), offset) in entries.iter().zip(&records).zip(10..) {
            prop_assert_eq!(entry.position.offset, offset);
            prop_assert_eq!(bytes_of(&entry.record), bytes_of(record));
        }
    }

    #[test]
    fn damaged_bytes_are_an_error_or_a_record_and_never_a_panic(
        record in record(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        other in 0..12_u8,
    ) {
        let mut bytes = bytes_of(&record);
        for (at, byte) in &damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
        }
        let _ = decode(kind(&record), &bytes[..cut.index(bytes.len() + 1)]);
        for kind in [kind(&record), other] {
            if let Ok(back) = decode(kind, &bytes) {
                bytes_of(&back);
            }
        }
    }

    #[test]
    fn a_damaged_group_is_never_taken_for_a_whole_one(
        records in prop::collection::vec(record(), 1..4),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let whole = group(&records);
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let read = GroupHeader::decode(&bytes).and_then(|header| header.entries(&bytes));
        // What no checksum covers says nothing: four bytes of the header, and the padding.
        let silent = (68..72).contains(&at) || at >= whole.len() - 7;
        prop_assert!(read.is_err() || silent, "byte {}", at);
    }

    #[test]
    fn noise_is_no_segment_and_no_group(noise in prop::collection::vec(any::<u8>(), 0..5000)) {
        prop_assert!(SegmentHeader::decode(&noise).is_err());
        prop_assert!(GroupHeader::decode(&noise).is_err());
    }
}

#[test]
fn a_count_beyond_the_bytes_allocates_nothing() {
    // 4 billion rows, columns, values, dictionary entries: each is refused for its first missing byte.
    let mut bytes =
        bytes_of(&Record::Readings { stream: "s".into(), origin: None, batch: help::row(1).into() });
    for place in 0..bytes.len() - 3 {
        let before: [u8; 4] = bytes[place..place + 4].try_into().unwrap();
        bytes[place..place + 4].copy_from_slice(&[0xff; 4]);
        let _ = decode(1, &bytes);
        bytes[place..place + 4].copy_from_slice(&before);
    }
    assert!(decode(1, &bytes).is_ok());
    assert!(decode(2, &[0xff; 4]).is_err());
}
