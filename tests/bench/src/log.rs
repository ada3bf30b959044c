//! Durable appends, against plain writes and fdatasyncs of as many bytes in as many groups.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use watchfire_log::clock::SystemClock;
use watchfire_log::embedded::{EmbeddedLog, LogOptions};
use watchfire_log::{Append, Log};
use watchfire_model::PartitionId;

use crate::figure::{Figure, alternate};
use crate::{disk, event};

const GROUPS: usize = 300;

pub fn run(figures: &mut Vec<Figure>) -> Result<()> {
    let folder = disk::folder()?;
    for rows in [64, 1024, 8192] {
        let batches = event::batches(GROUPS, rows, 3);
        let options = LogOptions { partitions: 1, reserve_bytes: 0, ..LogOptions::default() };
        let place = folder.path().join(format!("log-{rows}"));
        let (log, _) = EmbeddedLog::open(&place, options, Arc::new(SystemClock))?;
        let plain = folder.path().join(format!("plain-{rows}"));
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
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
            || disk::plain(&plain, GROUPS, rows).unwrap_or(f64::NAN),
        );
        let figure = format!("durable append, groups of {rows} rows, against write + fdatasync");
        let met = |_, ratio| Some(ratio >= 0.8);
        figures.push(Figure::against("log", figure, "readings/s", pair, ">= 0.8x", met));
        log.close();
    }
    Ok(())
}
