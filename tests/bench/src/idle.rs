//! What a thousand rules cost that have no rows in a record: the partition itself evaluates records with them and
//! without them.

use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use watchfire_engine::{Partition, PartitionSetup};
use watchfire_host::{Host, HostOptions};
use watchfire_log::{Entry, Record};
use watchfire_model::{Actor, Control, DeviceSpec, Epoch, PartitionId, Position, READINGS};

use crate::Options;
use crate::event::{self, BEGIN, DEVICES};
use crate::figure::{Figure, alternate, cpu};
use crate::pipeline::deployment;

const RULES: usize = 1000;
const RECORDS: usize = 2000;

pub fn run(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let host = Arc::new(Host::new(HostOptions::default())?);
    let mut none = Fed::new(options, &host, 0)?;
    let mut many = Fed::new(options, &host, RULES)?;
    let pair = alternate(9, || many.round(), || none.round());
    let each = (pair.0 - pair.1) / RULES as f64;
    let figure = format!(
        "1 000 rules without rows, records of 10: each of them ({:.0} ns a record with them, {:.0} without)",
        pair.0, pair.1
    );
    figures.push(Figure {
        bench: "rules",
        figure,
        unit: "ns/record and rule",
        value: each,
        reference: Some(pair.1),
        ratio: Some(pair.0 / pair.1),
        goal: "0 (below 1 ns)",
        met: Some(each < 1.0),
    });
    Ok(())
}

/// A partition, and where its log is.
struct Fed {
    partition: Partition,
    offset: u64,
}

impl Fed {
    fn new(options: &Options, host: &Arc<Host>, rules: usize) -> Result<Self> {
        let setup = PartitionSetup {
            id: PartitionId(0),
            partitions: 1,
            epoch: Epoch(1),
            modules: host.clone(),
            events: None,
        };
        let mut fed = Self { partition: Partition::new(setup), offset: 0 };
        let devices = (0..DEVICES)
            .map(|number| DeviceSpec { id: event::device(number), ..DeviceSpec::default() })
            .collect();
        fed.apply(Record::Control(Box::new(Control::DevicesPut { devices, by: Actor::default() })));
        for i in 0..rules {
            // A metric that nobody sends.
            let parameters = json!({"metric": "level", "high": 500.0, "deadband": 2.0});
            let control = deployment(options, host, &format!("idle-{i}"), "threshold", &parameters)?;
            fed.apply(Record::Control(Box::new(control)));
        }
        Ok(fed)
    }

    fn apply(&mut self, record: Record) {
        let position = Position { epoch: Epoch(1), partition: PartitionId(0), offset: self.offset };
        self.offset += 1;
        self.partition.apply(&Entry { position, appended_at: BEGIN, record }, &mut Vec::new());
    }

    /// Nanoseconds for each record.
    fn round(&mut self) -> f64 {
        let records: Vec<Record> = event::batches(RECORDS, 10, 13)
            .into_iter()
            .map(|batch| Record::Readings { stream: READINGS.into(), origin: None, batch })
            .collect();
        let began = cpu();
        records.into_iter().for_each(|record| self.apply(record));
        (cpu() - began) * 1e9 / RECORDS as f64
    }
}
