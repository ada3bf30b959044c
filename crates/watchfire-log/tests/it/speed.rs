//! How fast it is on this machine: run by hand, `cargo test --release -p watchfire-log -- --ignored speed`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use watchfire_log::embedded::{EmbeddedLog, LogOptions};
use watchfire_log::{Append, AppendError, Log, SystemClock};
use watchfire_model::{BatchBuilder, DeviceHandle, PartitionId, Timestamp};

use crate::help::durable;

fn append(rows: u32, partition: u16) -> Append {
    let mut batch = BatchBuilder::new();
    for row in 0..rows {
        batch.begin(DeviceHandle(row), Timestamp(i64::from(row)));
        for metric in ["temperature", "pressure", "vibration", "speed"] {
            batch.number(metric, f64::from(row)).unwrap();
        }
        batch.commit();
    }
    Append::Intake { rows: vec![(PartitionId(partition), batch.finish())], rejects: Vec::new() }
}

#[test]
#[ignore = "a measurement, not a test"]
fn speed() {
    for (name, rows, count) in [("single rows", 1_u32, 400_000_u32), ("batches of 1000", 1000, 4000)] {
        let folder = tempfile::tempdir().unwrap();
        let options = LogOptions { partitions: 2, ..LogOptions::default() };
        let (log, _) = EmbeddedLog::open(folder.path(), options, Arc::new(SystemClock)).unwrap();
        let ready: Vec<Append> = (0..count).map(|i| append(rows, (i % 2) as u16)).collect();
        let began = Instant::now();
        let (mut last, mut full, mut in_append) = (None, 0_u64, std::time::Duration::ZERO);
        for append in ready {
            let mut again = Some(append);
            while let Some(append) = again.take() {
                // A refused append is gone: made anew outside of the measured call.
                let call = Instant::now();
                match log.append(append) {
                    Ok(ticket) => {
                        in_append += call.elapsed();
                        last = Some(ticket);
                    }
                    Err(AppendError::Full) => {
                        full += 1;
                        let waiting: watchfire_log::Ticket =
                            last.take().unwrap_or_else(|| panic!("no ticket"));
                        durable(waiting).unwrap();
                        again = Some(self::append(rows, 0));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        durable(last.unwrap()).unwrap();
        let took = began.elapsed();
        let groups = log.synced_group();
        log.close();
        let bytes: u64 = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("segment"))
            .map(|entry| entry.metadata().unwrap().len())
            .sum();
        // The same bytes in as many writes, each synced.
        let plain = File::create(folder.path().join("plain")).unwrap();
        let buffer = vec![0x55; (bytes / groups) as usize];
        let began = Instant::now();
        for group in 0..groups {
            plain.write_all_at(&buffer, group * buffer.len() as u64).unwrap();
            plain.sync_data().unwrap();
        }
        let raw = began.elapsed();
        let total = f64::from(count) * f64::from(rows);
        println!(
            "{name}: {:.0} rows/s, {} groups of {} bytes in {took:?}; plain write and sync {raw:?} ({:.2}); \
             {:.0} ns per append; {full} times full",
            total / took.as_secs_f64(),
            groups,
            buffer.len(),
            raw.as_secs_f64() / took.as_secs_f64(),
            in_append.as_nanos() as f64 / f64::from(count),
        );
    }
}
