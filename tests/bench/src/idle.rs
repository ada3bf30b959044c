//! What a thousand rules cost that have no rows in a record: the partition itself evaluates records with them and
//! without them.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use watchfire_engine::{Partition, PartitionSetup, RuleStatus};
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
    let threshold = options.component("threshold")?;
    // A metric that nobody sends.
    let parameters = json!({"metric": "level", "high": 500.0, "deadband": 2.0});
    let idle = (0..RULES)
        .map(|i| deployment(&host, &format!("idle-{i}"), &threshold, &parameters))
        .collect::<Result<Vec<_>>>()?;
    let mut none = Fed::new(&host, Vec::new());
    let mut many = Fed::new(&host, idle);
    let pair = alternate(9, || many.round(RECORDS, 10), || none.round(RECORDS, 10));
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

/// A partition of the whole fleet, and where its log is.
pub struct Fed {
    partition: Partition,
    offset: u64,
}

impl Fed {
    /// A partition with these rules.
    pub fn new(host: &Arc<Host>, rules: Vec<Control>) -> Self {
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
        rules.into_iter().for_each(|rule| fed.apply(Record::Control(Box::new(rule))));
        fed
    }

    /// What is known of its rules, by name.
    pub fn rules(&self) -> BTreeMap<String, RuleStatus> {
        let mut rules = BTreeMap::new();
        self.partition.add_rule_status(&mut rules);
        rules
    }

    fn apply(&mut self, record: Record) {
        let position = Position { epoch: Epoch(1), partition: PartitionId(0), offset: self.offset };
        self.offset += 1;
        self.partition.apply(&Entry { position, appended_at: BEGIN, record }, &mut Vec::new());
    }

    /// Evaluates so many records of so many rows; gives nanoseconds for each record.
    pub fn round(&mut self, records: usize, rows: usize) -> f64 {
        let batches: Vec<Record> = event::batches(records, rows, 13)
            .into_iter()
            .map(|batch| Record::Readings { stream: READINGS.into(), origin: None, batch })
            .collect();
        let began = cpu();
        batches.into_iter().for_each(|record| self.apply(record));
        (cpu() - began) * 1e9 / records as f64
    }
}
