//! Which rows of a record which rules see. Rules with the same selector share a set of devices, those with
//! the same metrics besides share the selected rows; a rule without rows in a record costs nothing.
//!
//! Devices that the same selectors take are of one class, so a record of one class is selected by looking
//! at its devices once, and a selector that takes all rows of a record copies nothing.

use std::collections::HashMap;
use std::sync::Arc;

use watchfire_model::batch::{NO_BOOLEAN, NO_TEXT};
use watchfire_model::call::{DeviceSet, Rows};
use watchfire_model::rule::metric_matches;
use watchfire_model::{Batch, Column, DeviceHandle, DeviceSpec, Registry, Selector, Values};

use crate::rule::RuleId;

type GroupId = u32;
type MetricId = u32;

/// The selections of one stream.
#[derive(Default)]
pub(crate) struct Selections {
    groups: Vec<Option<Group>>,
    by_selector: HashMap<Selector, GroupId>,
    /// Which groups take the devices of a class, ascending. Class 0: none.
    classes: Vec<Arc<[GroupId]>>,
    class_ids: HashMap<Arc<[GroupId]>, u32>,
    class_of: Vec<u32>,
    metrics: HashMap<Arc<str>, MetricId>,
    names: Vec<Arc<str>>,
    scratch: Scratch,
}

/// The rules with one selector.
struct Group {
    selector: Selector,
    devices: Arc<DeviceSet>,
    selections: Vec<Selection>,
    /// For each metric seen so far, the selections with a pattern that it matches.
    by_metric: Vec<Vec<u32>>,
    /// Selections that see all metrics.
    open: Vec<u32>,
}

/// The rules with one selector and one list of metrics.
struct Selection {
    patterns: Arc<[String]>,
    rules: Vec<RuleId>,
}

/// What selecting needs for the length of one record.
#[derive(Default)]
struct Scratch {
    class_seen: Vec<bool>,
    present: Vec<u32>,
    metric_of_column: Vec<MetricId>,
    hits: Vec<u32>,
    touched: Vec<GroupId>,
    rows: Vec<Vec<u32>>,
    partial: Vec<bool>,
}

/// A device came into a group or left it.
pub(crate) struct Move {
    pub group: GroupId,
    pub member: bool,
}

impl Selections {
    pub fn new(registry: &Registry) -> Self {
        let mut new = Self::default();
        new.class_ids.insert(Arc::from([]), 0);
        new.classes.push(Arc::from([]));
        new.class_of.resize(registry.devices().len(), 0);
        new
    }

    /// Adds a rule; gives its group.
    pub fn add(
        &mut self,
        rule: RuleId,
        selector: &Selector,
        metrics: &[String],
        registry: &Registry,
    ) -> GroupId {
        let id = match self.by_selector.get(selector) {
            Some(&id) => id,
            None => self.add_group(selector, registry),
        };
        let names = &self.names;
        let Some(group) = self.groups[id as usize].as_mut() else { return id };
        match group.selections.iter_mut().find(|selection| *selection.patterns == *metrics) {
            Some(selection) => selection.rules.push(rule),
            None => {
                group.selections.push(Selection { patterns: metrics.into(), rules: vec![rule] });
                group.index(names);
            }
        }
        id
    }

    fn add_group(&mut self, selector: &Selector, registry: &Registry) -> GroupId {
        let mut devices = DeviceSet::default();
        let id = self.groups.iter().position(Option::is_none).unwrap_or(self.groups.len());
        if id == self.groups.len() {
            self.groups.push(None);
        }
        let mut moved: HashMap<u32, u32> = HashMap::new();
        for (i, device) in registry.devices().iter().enumerate() {
            if device.deleted || !selector.matches(&device.spec) {
                continue;
            }
            devices.set(DeviceHandle(i as u32), true);
            let old = self.class_of[i];
            self.class_of[i] = *moved.entry(old).or_insert_with(|| {
                let mut groups = self.classes[old as usize].to_vec();
                groups.push(id as GroupId);
                groups.sort_unstable();
                intern(&mut self.classes, &mut self.class_ids, groups)
            });
        }
        self.groups[id] = Some(Group {
            selector: selector.clone(),
            devices: Arc::new(devices),
            selections: Vec::new(),
            by_metric: Vec::new(),
            open: Vec::new(),
        });
        self.by_selector.insert(selector.clone(), id as GroupId);
        id as GroupId
    }

    pub fn remove(&mut self, rule: RuleId, id: GroupId) {
        let Some(group) = self.groups[id as usize].as_mut() else { return };
        for selection in &mut group.selections {
            selection.rules.retain(|other| *other != rule);
        }
        group.selections.retain(|selection| !selection.rules.is_empty());
        group.index(&self.names);
        if !group.selections.is_empty() {
            return;
        }
        self.by_selector.remove(&group.selector);
        self.groups[id as usize] = None;
        let mut moved: HashMap<u32, u32> = HashMap::new();
        for class in &mut self.class_of {
            let old = *class;
            if self.classes[old as usize].contains(&id) {
                *class = *moved.entry(old).or_insert_with(|| {
                    let groups = self.classes[old as usize].iter().copied().filter(|g| *g != id).collect();
                    intern(&mut self.classes, &mut self.class_ids, groups)
                });
            }
        }
    }

    /// The devices of a group.
    pub fn devices(&self, group: GroupId) -> Arc<DeviceSet> {
        self.groups[group as usize].as_ref().map(|group| group.devices.clone()).unwrap_or_default()
    }

    pub fn contains(&self, group: GroupId, device: DeviceHandle) -> bool {
        self.groups[group as usize].as_ref().is_some_and(|group| group.devices.contains(device))
    }

    /// The rules of a group.
    pub fn rules(&self, group: GroupId) -> Vec<RuleId> {
        let selections = self.groups[group as usize].iter().flat_map(|group| &group.selections);
        let mut rules: Vec<_> = selections.flat_map(|selection| selection.rules.iter().copied()).collect();
        rules.sort_unstable();
        rules
    }

    /// A device is new, changed, or (`None`) deleted.
    pub fn set_device(&mut self, device: DeviceHandle, spec: Option<&DeviceSpec>) -> Vec<Move> {
        if device.0 as usize >= self.class_of.len() {
            self.class_of.resize(device.0 as usize + 1, 0);
        }
        let (mut moves, mut groups) = (Vec::new(), Vec::new());
        for (id, group) in self.groups.iter_mut().enumerate() {
            let Some(group) = group else { continue };
            let member = spec.is_some_and(|spec| group.selector.matches(spec));
            if member {
                groups.push(id as GroupId);
            }
            if member != group.devices.contains(device) {
                Arc::make_mut(&mut group.devices).set(device, member);
                moves.push(Move { group: id as GroupId, member });
            }
        }
        self.class_of[device.0 as usize] = intern(&mut self.classes, &mut self.class_ids, groups);
        moves
    }

    /// The rows that each rule sees of a record: rules ascending, those without rows left out.
    pub fn select(&mut self, stream: &Arc<str>, batch: &Arc<Batch>, out: &mut Vec<(RuleId, Arc<Rows>)>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.classes_of(batch, &mut scratch);
        self.groups_of(batch, &mut scratch);
        self.metrics_of(batch, &mut scratch);
        let mut presence: Vec<Option<Presence>> = Vec::new();
        presence.resize_with(batch.columns.len(), || None);
        for &id in &scratch.touched {
            let Some(group) = &self.groups[id as usize] else { continue };
            let rows = scratch.partial[id as usize].then(|| std::mem::take(&mut scratch.rows[id as usize]));
            group.select(stream, batch, rows, &scratch.metric_of_column, &mut presence, out);
        }
        for id in scratch.touched.drain(..) {
            (scratch.hits[id as usize], scratch.partial[id as usize]) = (0, false);
        }
        for class in scratch.present.drain(..) {
            scratch.class_seen[class as usize] = false;
        }
        self.scratch = scratch;
        out.sort_unstable_by_key(|(rule, _)| *rule);
    }

    fn classes_of(&self, batch: &Batch, scratch: &mut Scratch) {
        scratch.class_seen.resize(self.classes.len(), false);
        let mut last = u32::MAX;
        for device in &batch.devices {
            let class = self.class_of.get(device.0 as usize).copied().unwrap_or(0);
            if class != last {
                last = class;
                if !std::mem::replace(&mut scratch.class_seen[class as usize], true) {
                    scratch.present.push(class);
                }
            }
        }
    }

    fn groups_of(&self, batch: &Batch, scratch: &mut Scratch) {
        scratch.hits.resize(self.groups.len(), 0);
        scratch.partial.resize(self.groups.len(), false);
        scratch.rows.resize_with(self.groups.len(), Vec::new);
        for &class in &scratch.present {
            for &group in &*self.classes[class as usize] {
                scratch.hits[group as usize] += 1;
                if scratch.hits[group as usize] == 1 {
                    scratch.touched.push(group);
                }
            }
        }
        let mut any = false;
        for &group in &scratch.touched {
            let whole = scratch.hits[group as usize] as usize == scratch.present.len();
            scratch.partial[group as usize] = !whole;
            any |= !whole;
        }
        if any {
            for (row, device) in batch.devices.iter().enumerate() {
                let class = self.class_of.get(device.0 as usize).copied().unwrap_or(0);
                for &group in &*self.classes[class as usize] {
                    if scratch.partial[group as usize] {
                        scratch.rows[group as usize].push(row as u32);
                    }
                }
            }
        }
    }

    fn metrics_of(&mut self, batch: &Batch, scratch: &mut Scratch) {
        scratch.metric_of_column.clear();
        let before = self.names.len();
        for column in &batch.columns {
            let metric = match self.metrics.get(&column.metric) {
                Some(&metric) => metric,
                None => {
                    let metric = self.names.len() as MetricId;
                    self.names.push(column.metric.clone());
                    self.metrics.insert(column.metric.clone(), metric);
                    metric
                }
            };
            scratch.metric_of_column.push(metric);
        }
        if self.names.len() > before {
            for group in self.groups.iter_mut().flatten() {
                group.index(&self.names);
            }
        }
    }
}

fn intern(
    classes: &mut Vec<Arc<[GroupId]>>,
    ids: &mut HashMap<Arc<[GroupId]>, u32>,
    groups: Vec<GroupId>,
) -> u32 {
    if let Some(&id) = ids.get(&groups[..]) {
        return id;
    }
    let groups: Arc<[GroupId]> = groups.into();
    let id = classes.len() as u32;
    classes.push(groups.clone());
    ids.insert(groups, id);
    id
}

/// The rows in which a column has a value.
enum Presence {
    All,
    Some(Vec<u32>),
}

fn presence_of(column: &Column, rows: usize) -> Presence {
    if let Some(some) = &column.rows {
        return if some.len() == rows { Presence::All } else { Presence::Some(some.clone()) };
    }
    fn of<T>(values: &[T], missing: impl Fn(&T) -> bool) -> Presence {
        if !values.iter().any(&missing) {
            return Presence::All;
        }
        let has = values.iter().enumerate().filter(|(_, value)| !missing(value));
        Presence::Some(has.map(|(row, _)| row as u32).collect())
    }
    match &column.values {
        Values::Numbers(numbers) => of(numbers, |x| x.is_nan()),
        Values::Texts(texts) => of(&texts.codes, |code| *code == NO_TEXT),
        Values::Booleans(flags) => of(flags, |flag| *flag == NO_BOOLEAN),
    }
}

impl Group {
    fn index(&mut self, names: &[Arc<str>]) {
        self.by_metric = vec![Vec::new(); names.len()];
        self.open.clear();
        for (i, selection) in self.selections.iter().enumerate() {
            if selection.patterns.is_empty() {
                self.open.push(i as u32);
                continue;
            }
            for (metric, name) in names.iter().enumerate() {
                if selection.patterns.iter().any(|pattern| metric_matches(pattern, name)) {
                    self.by_metric[metric].push(i as u32);
                }
            }
        }
    }

    fn select(
        &self,
        stream: &Arc<str>,
        batch: &Arc<Batch>,
        rows: Option<Vec<u32>>,
        metric_of_column: &[MetricId],
        presence: &mut [Option<Presence>],
        out: &mut Vec<(RuleId, Arc<Rows>)>,
    ) {
        let mut give = |selection: &Selection, rows: Option<Vec<u32>>| {
            if rows.as_ref().is_some_and(Vec::is_empty) {
                return;
            }
            let rows = rows.filter(|rows| rows.len() < batch.rows());
            let rows = Rows::new(stream.clone(), batch.clone(), rows, selection.patterns.clone());
            let rows = Arc::new(rows);
            out.extend(selection.rules.iter().map(|rule| (*rule, rows.clone())));
        };
        // (selection, column): sorted, the columns of one selection lie together.
        let mut seen: Vec<(u32, u32)> = Vec::new();
        for (column, &metric) in metric_of_column.iter().enumerate() {
            seen.extend(self.by_metric[metric as usize].iter().map(|&selection| (selection, column as u32)));
        }
        seen.sort_unstable();
        for columns in seen.chunk_by(|a, b| a.0 == b.0) {
            let selection = &self.selections[columns[0].0 as usize];
            for &(_, column) in columns {
                let place = &mut presence[column as usize];
                place.get_or_insert_with(|| presence_of(&batch.columns[column as usize], batch.rows()));
            }
            let some: Option<Vec<&[u32]>> = columns
                .iter()
                .map(|&(_, column)| match &presence[column as usize] {
                    Some(Presence::Some(rows)) => Some(rows.as_slice()),
                    _ => None,
                })
                .collect();
            match some {
                None => give(selection, rows.clone()),
                Some(some) => give(selection, Some(within(&some, rows.as_deref(), batch.rows()))),
            }
        }
        if let Some((last, others)) = self.open.split_last() {
            for &selection in others {
                give(&self.selections[selection as usize], rows.clone());
            }
            give(&self.selections[*last as usize], rows);
        }
    }
}

/// The rows that are in one of the lists, and in `rows` (`None`: all are).
fn within(lists: &[&[u32]], rows: Option<&[u32]>, count: usize) -> Vec<u32> {
    let mut bits = vec![0_u64; count.div_ceil(64)];
    for &row in lists.iter().copied().flatten() {
        bits[row as usize / 64] |= 1 << (row % 64);
    }
    let has = |row: &u32| bits[*row as usize / 64] >> (row % 64) & 1 != 0;
    match rows {
        Some(rows) => rows.iter().copied().filter(has).collect(),
        None => (0..count as u32).filter(has).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_model::{BatchBuilder, Timestamp};

    fn device(i: u32) -> DeviceSpec {
        let kind = if i.is_multiple_of(2) { "press" } else { "pump" };
        DeviceSpec { id: format!("d{i}"), kind: kind.into(), ..DeviceSpec::default() }
    }

    fn selector(text: &str) -> Selector {
        serde_json::from_str(text).unwrap()
    }

    /// Rules 0 to 4, six devices, the last one deleted; every second reading has `temp`, device 3 has `rpm`.
    fn check(rows: &[u32], expected: &[(u32, &[u32])]) {
        let mut registry = Registry::default();
        for i in 0..6 {
            registry.put(device(i));
        }
        let mut selections = Selections::new(&registry);
        let metrics = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        selections.add(RuleId(0), &Selector::default(), &[], &registry);
        selections.add(RuleId(4), &selector(r#"{"type":"press"}"#), &[], &registry);
        selections.add(RuleId(2), &selector(r#"{"type":"press"}"#), &metrics(&["te*"]), &registry);
        selections.add(RuleId(1), &Selector::default(), &metrics(&["temp", "rpm"]), &registry);
        let gone = selections.add(RuleId(9), &selector(r#"{"type":"pump"}"#), &[], &registry);
        selections.add(RuleId(3), &selector(r#"{"devices":"d3"}"#), &metrics(&["never"]), &registry);
        selections.remove(RuleId(9), gone);
        registry.delete("d5");
        assert_eq!(selections.set_device(DeviceHandle(5), None).len(), 1);
        let mut b = BatchBuilder::new();
        for (i, &row) in rows.iter().enumerate() {
            b.begin(DeviceHandle(row), Timestamp(0));
            if i % 2 == 0 {
                b.number("temp", 1.0).unwrap();
            }
            if row == 3 {
                b.number("rpm", 1.0).unwrap();
            }
            b.boolean("on", true).unwrap();
            b.commit();
        }
        let batch = Arc::new(b.finish());
        for _ in 0..2 {
            let mut out = Vec::new();
            selections.select(&"readings".into(), &batch, &mut out);
            let got: Vec<(u32, Vec<u32>)> = out
                .iter()
                .map(|(rule, rows)| {
                    (rule.0, (0..rows.len() as u32).map(|row| rows.row_of_batch(row).unwrap()).collect())
                })
                .collect();
            let expected: Vec<_> = expected.iter().map(|(rule, rows)| (*rule, rows.to_vec())).collect();
            assert_eq!(got, expected, "{rows:?}");
        }
    }

    #[test]
    fn each_rule_sees_its_rows() {
        check(&[0, 2], &[(0, &[0, 1]), (1, &[0]), (2, &[0]), (4, &[0, 1])]);
        check(&[1, 0, 3, 3], &[(0, &[0, 1, 2, 3]), (1, &[0, 2, 3]), (4, &[1])]);
        check(&[1, 1], &[(0, &[0, 1]), (1, &[0])]);
        check(&[5], &[]);
        check(&[5, 4, 0], &[(0, &[1, 2]), (1, &[2]), (2, &[2]), (4, &[1, 2])]);
    }
}
