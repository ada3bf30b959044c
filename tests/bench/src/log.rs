//! Durable appends, against plain writes and fdatasyncs of as many bytes in as many groups.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use watchfire_log::clock::SystemClock;
use watchfire_log::embedded::{EmbeddedLog, LogOptions};
use watchfire_log::{Append, Log};
use watchfire_model::PartitionId;

use crate::event;
use crate::figure::{Figure, alternate};

const GROUPS: usize = 300;

pub fn run(figures: &mut Vec<Figure>) -> Result<()> {
    // In the target folder, on the disk that the project is on: the folder for temporary files may be memory.
    let target = std::env::current_exe()?;
    let folder = tempfile::tempdir_in(target.parent().unwrap_or(Path::new(".")))?;
    for rows in [64, 1024, 8192] {
        let batches = event::batches(GROUPS, rows, 3);
        let options = LogOptions { partitions: 1, reserve_bytes: 0, ..LogOptions::default() };
        let place = folder.path().join(format!("log-{rows}"));
        let (log, _) = EmbeddedLog::open(&place, options, Arc::new(SystemClock))?;
        let plain = folder.path().join(format!("plain-{rows}"));
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        // What the log writes for one of these: devices, times and five columns.
        let payload = vec![0x5a; rows * (4 + 8 + 5 * 8) + 200];
        let per_second = |began: Instant| (GROUPS * rows) as f64 / began.elapsed().as_secs_f64();
        let pair = alternate(
            5,
            || {
                let copies: Vec<_> = batches.iter().map(|batch| (**batch).clone()).collect();
                let began = Instant::now();
                for batch in copies {
                    let append = Append::Intake { rows: vec![(PartitionId(0), batch)], rejects: Vec::new() };
                    let durable = log.append(append).map(|ticket| runtime.block_on(ticket.durable()));
                    std::hint::black_box(durable.is_ok());
                }
                per_second(began)
            },
            || {
                let write = || -> std::io::Result<f64> {
                    let mut file = std::fs::File::create(&plain)?;
                    // Preallocated, as segments are: else each sync writes the new length too.
                    rustix::fs::fallocate(
                        &file,
                        rustix::fs::FallocateFlags::empty(),
                        0,
                        (GROUPS * payload.len()) as u64,
                    )?;
                    file.sync_all()?;
                    let began = Instant::now();
                    for _ in 0..GROUPS {
                        file.write_all(&payload)?;
                        file.sync_data()?;
                    }
                    Ok(per_second(began))
                };
                write().unwrap_or(f64::NAN)
            },
        );
        let figure = format!("durable append, groups of {rows} rows, against write + fdatasync");
        let met = |_, ratio| Some(ratio >= 0.8);
        figures.push(Figure::against("log", figure, "readings/s", pair, ">= 0.8x", met));
        log.close();
    }
    Ok(())
}
