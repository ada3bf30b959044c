//! Output streams: rows with derived values, and readings that rules emit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use watchfire_log::{Origin, Record};
use watchfire_model::batch::{NO_BOOLEAN, NO_TEXT};
use watchfire_model::call::{Effects, EmittedReading, Rows};
use watchfire_model::rule::metric_matches;
use watchfire_model::{
    Batch, BatchBuilder, Column, DeviceHandle, PartitionId, RuleSpec, Timestamp, Value, Values,
};
use watchfire_telemetry::metrics;

use super::call::Call;
use super::{Here, Output, Partition};
use crate::rule::Rule;
use crate::status::RuleEventKind;

impl Partition {
    /// Makes the records of a rule's output stream out of what a callback gave.
    pub(super) fn publish(
        &mut self,
        here: Here,
        rule: &mut Rule,
        call: &Call,
        effects: &Effects,
        out: &mut Vec<Output>,
    ) {
        let spec = rule.spec.clone();
        let Some(stream) = &spec.output else { return };
        let mut targets: BTreeMap<PartitionId, BatchBuilder> = BTreeMap::new();
        if let Some(rows) = &call.rows
            && (!effects.derived.is_empty() || !spec.pass.is_empty())
        {
            let builder = targets.entry(self.setup.id).or_default();
            derived_rows(builder, &spec, rows, effects);
        }
        self.emitted_rows(here, rule, call, &effects.emitted, &mut targets);
        let mut records = Vec::new();
        for (target, builder) in targets {
            if builder.is_empty() {
                continue;
            }
            let origin = Origin {
                epoch: here.position.epoch,
                partition: here.position.partition,
                offset: here.position.offset,
                rule: rule.name.to_string(),
                callback: call.number,
                stream: stream.clone(),
                target,
            };
            if self.known.has(&origin) {
                continue;
            }
            let record = Record::Readings {
                stream: stream.as_str().into(),
                origin: Some(Box::new(origin)),
                batch: Arc::new(builder.finish()),
            };
            records.push((target, record));
        }
        if !records.is_empty() {
            out.push(Output::Derived(records));
        }
    }

    fn emitted_rows(
        &self,
        here: Here,
        rule: &Rule,
        call: &Call,
        emitted: &[EmittedReading],
        targets: &mut BTreeMap<PartitionId, BatchBuilder>,
    ) {
        // Values of one device and time are one reading, at the place of the first.
        type Row<'a> = (PartitionId, DeviceHandle, Timestamp, Vec<(&'a str, &'a Value)>);
        let mut rows: Vec<Row<'_>> = Vec::new();
        let mut places: HashMap<(&str, Timestamp), usize> = HashMap::new();
        for reading in emitted {
            let known = places.get(&(reading.device.as_str(), reading.time)).copied();
            // A metric that comes twice is a second reading.
            if let Some(place) = known
                && rows[place].3.iter().all(|(metric, _)| *metric != reading.metric)
            {
                rows[place].3.push((&reading.metric, &reading.value));
                continue;
            }
            let target = PartitionId::of(&reading.device, self.setup.partitions);
            let Some(handle) = self.handle_in(target, &reading.device) else {
                metrics().rules.emitted_unknown.inc();
                self.event(here, rule, call.now, || RuleEventKind::UnknownDevice {
                    device: reading.device.clone(),
                });
                continue;
            };
            places.insert((&reading.device, reading.time), rows.len());
            rows.push((target, handle, reading.time, vec![(&reading.metric, &reading.value)]));
        }
        for (target, handle, time, values) in rows {
            let builder = targets.entry(target).or_default();
            builder.begin(handle, time);
            for (metric, value) in values {
                // It cannot be there twice: looked at above.
                let _ = match value {
                    Value::Number(x) if !x.is_finite() => Ok(()),
                    Value::Number(x) => builder.number(metric, *x),
                    Value::Text(text) => builder.text(metric, text),
                    Value::Boolean(flag) => builder.boolean(metric, *flag),
                };
            }
            if builder.values_of_row() == 0 { builder.abort() } else { builder.commit() }
        }
    }

    fn handle_in(&self, partition: PartitionId, device: &str) -> Option<DeviceHandle> {
        if partition == self.setup.id {
            return self.registry.find(device);
        }
        self.foreign.get(usize::from(partition.0))?.handles.get(device).copied().map(DeviceHandle)
    }
}

/// The rows with a derived value (all, where columns are passed on), less those that `keep` removes.
fn derived_rows(builder: &mut BatchBuilder, spec: &RuleSpec, rows: &Rows, effects: &Effects) {
    let batch = rows.batch();
    let is_derived = |metric: &str| effects.derived.iter().any(|(derived, _)| derived == metric);
    let passed: Vec<&Column> = batch
        .columns
        .iter()
        .filter(|column| spec.pass.iter().any(|pattern| metric_matches(pattern, &column.metric)))
        .filter(|column| !is_derived(&column.metric))
        .collect();
    for row in 0..rows.len() {
        if effects.keep.as_ref().is_some_and(|keep| keep.get(row) == Some(&0)) {
            continue;
        }
        let Some(source) = rows.row_of_batch(row as u32) else { continue };
        builder.begin(rows.devices()[row], rows.times()[row]);
        for column in &passed {
            pass(builder, column, source);
        }
        for (metric, values) in &effects.derived {
            if let Some(x) = values.get(row).filter(|x| x.is_finite()) {
                // The last one of a name counts: the host replaces a column that is derived again.
                let _ = builder.number(metric, *x);
            }
        }
        if builder.values_of_row() == 0 { builder.abort() } else { builder.commit() }
    }
}

/// Copies a row, whole. `seen`: whether a column counts; gives whether the row has a value in one that does.
pub(crate) fn copy_row(
    builder: &mut BatchBuilder,
    batch: &Batch,
    row: u32,
    seen: impl Fn(&str) -> bool,
) -> bool {
    let mut has = false;
    builder.begin(batch.devices[row as usize], batch.times[row as usize]);
    for column in &batch.columns {
        let before = builder.values_of_row();
        pass(builder, column, row);
        has |= builder.values_of_row() > before && seen(&column.metric);
    }
    if has {
        builder.commit()
    } else {
        builder.abort()
    }
    has
}

fn pass(builder: &mut BatchBuilder, column: &Column, row: u32) {
    let place = match &column.rows {
        None => row as usize,
        Some(some) => match some.binary_search(&row) {
            Ok(place) => place,
            Err(_) => return,
        },
    };
    // A metric of two kinds has a value in one of them only, for one row.
    let _ = match &column.values {
        Values::Numbers(numbers) if numbers[place].is_nan() => Ok(()),
        Values::Numbers(numbers) => builder.number(&column.metric, numbers[place]),
        Values::Texts(texts) if texts.codes[place] == NO_TEXT => Ok(()),
        Values::Texts(texts) => builder.text(&column.metric, &texts.dictionary[texts.codes[place] as usize]),
        Values::Booleans(flags) if flags[place] == NO_BOOLEAN => Ok(()),
        Values::Booleans(flags) => builder.boolean(&column.metric, flags[place] != 0),
    };
}
