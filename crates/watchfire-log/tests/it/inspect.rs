//! Looking into a closed folder.

use std::sync::Arc;

use watchfire_log::embedded::EmbeddedLog;
use watchfire_log::inspect::{Inspection, to_json};
use watchfire_log::{Append, Log, LogError, SystemClock};
use watchfire_model::PartitionId;

use crate::help::*;

#[test]
fn a_closed_folder_is_listed_verified_and_dumped() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = EmbeddedLog::open(folder.path(), options(), Arc::new(SystemClock)).unwrap();
    assert!(matches!(Inspection::open(folder.path()), Err(LogError::InUse(_))));
    for number in 0..300 {
        durable(log.append(rows(0, [number])).unwrap()).unwrap();
    }
    durable(log.append(control(5)).unwrap()).unwrap();
    durable(log.append(redo(6)).unwrap()).unwrap();
    let odd = watchfire_log::Reject { payload: vec![0xff], ..reject(1) };
    let rejects = vec![(PartitionId(0), odd)];
    durable(log.append(Append::Intake { rows: Vec::new(), rejects }).unwrap()).unwrap();
    let range = log.range(PartitionId(0));
    log.close();

    let inspection = Inspection::open(folder.path()).unwrap();
    let segments = inspection.segments();
    assert!(segments.len() > 2 && segments[1].first_offsets[0] > 0);
    let verified = inspection.verify().unwrap();
    assert_eq!((verified.segments, verified.torn.clone()), (segments.len(), None));
    let all: Vec<_> = inspection.entries().map(|entry| to_json(&entry.unwrap())).collect();
    assert_eq!(all.len() as u64, verified.records);
    assert_eq!(all.iter().filter(|entry| entry["partition"] == 0).count() as u64, range.1);
    assert_eq!(all[0]["rows"][0]["metrics"], serde_json::json!({"value": 0.0, "mode": "auto", "open": true}));
    assert_eq!(all[300]["control"]["name"], "rule-5");
    let redo = all.iter().find(|entry| entry["kind"] == "redo").unwrap();
    assert_eq!((&redo["failed"], &redo["rule"]), (&"1/1/6".into(), &"rule-6".into()));
    assert_eq!(redo["rows"][0]["metrics"]["value"], 6.0);
    assert_eq!(all.last().unwrap()["rejects"][0]["payload_hex"], "ff");
    drop(inspection);

    let name = folder.path().join(&segments[0].file);
    let mut bytes = std::fs::read(&name).unwrap();
    bytes[4096 + 1000] ^= 1;
    std::fs::write(&name, bytes).unwrap();
    let error = Inspection::open(folder.path()).unwrap().verify().unwrap_err();
    assert!(matches!(error, LogError::Corrupt { file, at, .. } if file == segments[0].file && at <= 5096));
    assert!(matches!(Inspection::open(&folder.path().join("nothing")), Err(LogError::Format(_))));
}
