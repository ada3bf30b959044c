//! Readings as columns: one row is one reading of one device; one column is one metric.

use std::collections::HashMap;
use std::sync::Arc;

use crate::id::DeviceHandle;
use crate::time::Timestamp;
use crate::value::Kind;

/// In [`TextValues::codes`]: the row has no value.
pub const NO_TEXT: u32 = u32::MAX;
/// In [`Values::Booleans`]: the row has no value.
pub const NO_BOOLEAN: u8 = 255;

/// Readings of one partition and stream. All columns have `devices.len()` rows; `times` has as many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Who said it, a row each.
    pub devices: Vec<DeviceHandle>,
    /// When the device says it measured, a row each.
    pub times: Vec<Timestamp>,
    /// Metrics with at least one value. At most one column has a given metric and kind.
    pub columns: Vec<Column>,
}

/// One metric of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The name of the metric.
    pub metric: Arc<str>,
    /// `None`: dense, `values` has an entry for each row of the batch (with NaN, [`NO_TEXT`] or
    /// [`NO_BOOLEAN`] where there is none). `Some`: sparse, entry i of `values` belongs to row `rows[i]`;
    /// ascending, each row at most once.
    pub rows: Option<Vec<u32>>,
    /// The values.
    pub values: Values,
}

/// The values of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// NaN: no value. What devices send is finite.
    Numbers(Vec<f64>),
    /// Dictionary-encoded texts.
    Texts(TextValues),
    /// 0 false, 1 true, [`NO_BOOLEAN`] no value.
    Booleans(Vec<u8>),
}

/// Texts by their place in a dictionary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextValues {
    /// The different texts, in order of first use.
    pub dictionary: Vec<Arc<str>>,
    /// The place of each text in the dictionary, or [`NO_TEXT`].
    pub codes: Vec<u32>,
}

impl Values {
    /// What the values are.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Numbers(_) => Kind::Number,
            Self::Texts(_) => Kind::Text,
            Self::Booleans(_) => Kind::Boolean,
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Texts(texts) => texts.codes.len(),
            Self::Booleans(flags) => flags.len(),
        }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Batch {
    /// How many readings there are.
    pub fn rows(&self) -> usize {
        self.devices.len()
    }

    /// The column of a metric and kind.
    pub fn column(&self, metric: &str, kind: Kind) -> Option<&Column> {
        self.columns.iter().find(|column| column.values.kind() == kind && *column.metric == *metric)
    }

    /// Bytes of memory that the batch takes, about.
    pub fn size(&self) -> usize {
        let column = |column: &Column| {
            let values = match &column.values {
                Values::Numbers(numbers) => numbers.len() * 8,
                Values::Texts(texts) => {
                    texts.codes.len() * 4 + texts.dictionary.iter().map(|text| text.len() + 32).sum::<usize>()
                }
                Values::Booleans(flags) => flags.len(),
            };
            values + column.rows.as_ref().map_or(0, |rows| rows.len() * 4) + column.metric.len() + 64
        };
        self.rows() * 12 + self.columns.iter().map(column).sum::<usize>() + 64
    }
}

/// A metric came twice in one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricTwice;

/// Collects readings into columns. A reading is begun, gets its values, and is committed or aborted;
/// an aborted one leaves nothing behind.
///
/// Looking a column up by name costs a comparison where readings come in the same shape as those before:
/// each column remembers which one followed it.
#[derive(Clone, Debug, Default)]
pub struct BatchBuilder {
    devices: Vec<DeviceHandle>,
    times: Vec<Timestamp>,
    columns: Vec<ColumnBuilder>,
    by_name: HashMap<Arc<str>, [Option<u32>; 3]>,
    first: u32,
    last: Option<u32>,
    touched: Vec<u32>,
    size: usize,
}

#[derive(Clone, Debug)]
struct ColumnBuilder {
    metric: Arc<str>,
    kind: Kind,
    next: u32,
    rows: Vec<u32>,
    numbers: Vec<f64>,
    codes: Vec<u32>,
    flags: Vec<u8>,
    dictionary: Vec<Arc<str>>,
    by_text: HashMap<Arc<str>, u32>,
}

impl ColumnBuilder {
    fn new(metric: Arc<str>, kind: Kind) -> Self {
        Self {
            metric,
            kind,
            next: 0,
            rows: Vec::new(),
            numbers: Vec::new(),
            codes: Vec::new(),
            flags: Vec::new(),
            dictionary: Vec::new(),
            by_text: HashMap::new(),
        }
    }

    fn code(&mut self, text: &str) -> u32 {
        // Most text metrics are modes and states: the last one again, or one of a few.
        if let Some(&code) = self.codes.last()
            && *self.dictionary[code as usize] == *text
        {
            return code;
        }
        if let Some(&code) = self.by_text.get(text) {
            return code;
        }
        let code = self.dictionary.len() as u32;
        let text: Arc<str> = text.into();
        self.dictionary.push(text.clone());
        self.by_text.insert(text, code);
        code
    }

    fn pop(&mut self) {
        self.rows.pop();
        match self.kind {
            Kind::Number => drop(self.numbers.pop()),
            Kind::Text => drop(self.codes.pop()),
            Kind::Boolean => drop(self.flags.pop()),
        }
    }

    fn finish(self, rows: usize) -> Column {
        let whole = self.rows.len() == rows;
        // Sparse costs four bytes a value for its row, dense eight bytes a missing number.
        let dense = whole || self.rows.len() * 3 >= rows * 2;
        let spread = |missing| {
            let mut dense = vec![missing; rows];
            for (&row, &value) in self.rows.iter().zip(&self.numbers) {
                dense[row as usize] = value;
            }
            dense
        };
        let values = match self.kind {
            Kind::Number if whole || !dense => Values::Numbers(self.numbers),
            Kind::Number => Values::Numbers(spread(f64::NAN)),
            Kind::Text => {
                let codes = if whole || !dense {
                    self.codes
                } else {
                    let mut codes = vec![NO_TEXT; rows];
                    for (&row, &code) in self.rows.iter().zip(&self.codes) {
                        codes[row as usize] = code;
                    }
                    codes
                };
                Values::Texts(TextValues { dictionary: self.dictionary, codes })
            }
            Kind::Boolean if whole || !dense => Values::Booleans(self.flags),
            Kind::Boolean => {
                let mut flags = vec![NO_BOOLEAN; rows];
                for (&row, &flag) in self.rows.iter().zip(&self.flags) {
                    flags[row as usize] = flag;
                }
                Values::Booleans(flags)
            }
        };
        Column { metric: self.metric, rows: (!dense).then_some(self.rows), values }
    }
}

impl BatchBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Readings committed, plus one while a reading is open.
    pub fn rows(&self) -> usize {
        self.devices.len()
    }

    /// Whether there is no reading.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Bytes that the readings take, about: what bounded queues count.
    pub fn size(&self) -> usize {
        self.size + self.devices.len() * 12
    }

    /// How many columns there are, those without a value included.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// The devices of the rows so far.
    pub fn devices(&self) -> &[DeviceHandle] {
        &self.devices
    }

    /// The event times of the rows so far.
    pub fn times(&self) -> &[Timestamp] {
        &self.times
    }

    /// Opens a reading. The one before must have been committed or aborted.
    pub fn begin(&mut self, device: DeviceHandle, time: Timestamp) {
        self.devices.push(device);
        self.times.push(time);
        self.last = None;
        self.touched.clear();
    }

    /// Changes who the open reading is of and when it was measured: a decoder may meet the values before
    /// either.
    pub fn set_origin(&mut self, device: DeviceHandle, time: Timestamp) {
        if let (Some(d), Some(t)) = (self.devices.last_mut(), self.times.last_mut()) {
            (*d, *t) = (device, time);
        }
    }

    /// Adds a number to the open reading.
    pub fn number(&mut self, metric: &str, value: f64) -> Result<(), MetricTwice> {
        let column = self.cell(metric, Kind::Number)?;
        column.numbers.push(value);
        self.size += 12;
        Ok(())
    }

    /// Adds a text to the open reading.
    pub fn text(&mut self, metric: &str, value: &str) -> Result<(), MetricTwice> {
        let column = self.cell(metric, Kind::Text)?;
        let code = column.code(value);
        column.codes.push(code);
        self.size += 8 + value.len();
        Ok(())
    }

    /// Adds a flag to the open reading.
    pub fn boolean(&mut self, metric: &str, value: bool) -> Result<(), MetricTwice> {
        let column = self.cell(metric, Kind::Boolean)?;
        column.flags.push(value.into());
        self.size += 5;
        Ok(())
    }

    /// How many values the open reading has.
    pub fn values_of_row(&self) -> usize {
        self.touched.len()
    }

    /// Ends the open reading.
    pub fn commit(&mut self) {
        self.touched.clear();
    }

    /// Takes the open reading back.
    pub fn abort(&mut self) {
        for column in self.touched.drain(..) {
            self.columns[column as usize].pop();
        }
        self.devices.pop();
        self.times.pop();
        self.last = None;
    }

    fn cell(&mut self, metric: &str, kind: Kind) -> Result<&mut ColumnBuilder, MetricTwice> {
        let row = self.devices.len() as u32 - 1;
        let place = self.place(metric, kind);
        // Another kind of the same metric in one reading is the same mistake as the same kind twice.
        let twice = |b: &Self, place: u32| b.columns[place as usize].rows.last() == Some(&row);
        if twice(self, place) || (self.columns.len() > self.by_name.len() && self.other_kind_has(metric, row))
        {
            return Err(MetricTwice);
        }
        self.touched.push(place);
        let column = &mut self.columns[place as usize];
        column.rows.push(row);
        Ok(column)
    }

    fn other_kind_has(&self, metric: &str, row: u32) -> bool {
        self.by_name.get(metric).is_some_and(|places| {
            places.iter().flatten().any(|&place| self.columns[place as usize].rows.last() == Some(&row))
        })
    }

    fn place(&mut self, metric: &str, kind: Kind) -> u32 {
        let guess = self.last.map_or(self.first, |last| self.columns[last as usize].next);
        let found = match self.columns.get(guess as usize) {
            Some(column) if column.kind == kind && *column.metric == *metric => guess,
            _ => self.look_up(metric, kind),
        };
        match self.last {
            Some(last) => self.columns[last as usize].next = found,
            None => self.first = found,
        }
        self.last = Some(found);
        found
    }

    fn look_up(&mut self, metric: &str, kind: Kind) -> u32 {
        if let Some(Some(place)) = self.by_name.get(metric).map(|places| places[kind as usize]) {
            return place;
        }
        let place = self.columns.len() as u32;
        let metric: Arc<str> =
            self.by_name.get_key_value(metric).map_or_else(|| metric.into(), |(name, _)| name.clone());
        self.columns.push(ColumnBuilder::new(metric.clone(), kind));
        self.by_name.entry(metric).or_default()[kind as usize] = Some(place);
        self.size += 64;
        place
    }

    /// Adds the rows of a finished batch behind the rows here.
    pub fn append(&mut self, other: &Batch) {
        let base = self.devices.len() as u32;
        self.devices.extend_from_slice(&other.devices);
        self.times.extend_from_slice(&other.times);
        self.last = None;
        for column in &other.columns {
            let place = self.place(&column.metric, column.values.kind()) as usize;
            let target = &mut self.columns[place];
            let before = target.rows.len();
            let all = || 0..other.devices.len() as u32;
            let rows = |i: usize| column.rows.as_ref().map_or(i as u32, |rows| rows[i]);
            match &column.values {
                Values::Numbers(numbers) => {
                    if column.rows.is_none() && !numbers.iter().any(|x| x.is_nan()) {
                        target.rows.extend(all().map(|row| base + row));
                        target.numbers.extend_from_slice(numbers);
                    } else {
                        for (i, &number) in numbers.iter().enumerate().filter(|(_, x)| !x.is_nan()) {
                            target.rows.push(base + rows(i));
                            target.numbers.push(number);
                        }
                    }
                }
                Values::Texts(texts) => {
                    for (i, &code) in texts.codes.iter().enumerate().filter(|(_, code)| **code != NO_TEXT) {
                        let code = target.code(&texts.dictionary[code as usize]);
                        target.rows.push(base + rows(i));
                        target.codes.push(code);
                    }
                }
                Values::Booleans(flags) => {
                    for (i, &flag) in flags.iter().enumerate().filter(|(_, flag)| **flag != NO_BOOLEAN) {
                        target.rows.push(base + rows(i));
                        target.flags.push(flag);
                    }
                }
            }
            self.size += 12 * (target.rows.len() - before);
        }
        self.touched.clear();
    }

    /// The batch, with each column dense or sparse, whichever is smaller. Columns without a value are
    /// left out.
    pub fn finish(self) -> Batch {
        let rows = self.devices.len();
        let columns = self
            .columns
            .into_iter()
            .filter(|column| !column.rows.is_empty())
            .map(|column| column.finish(rows))
            .collect();
        Batch { devices: self.devices, times: self.times, columns }
    }

    /// As [`BatchBuilder::finish`], and the builder is empty afterwards.
    pub fn take(&mut self) -> Batch {
        std::mem::take(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(b: &mut BatchBuilder, device: u32) {
        b.begin(DeviceHandle(device), Timestamp(i64::from(device)));
    }

    #[test]
    fn few_values_make_a_sparse_column_and_an_aborted_reading_leaves_nothing() {
        let mut b = BatchBuilder::new();
        for device in 0..10_u32 {
            begin(&mut b, device);
            b.number("a", f64::from(device)).unwrap();
            if device == 4 {
                b.text("mode", "auto").unwrap();
                b.boolean("open", true).unwrap();
            }
            b.commit();
            begin(&mut b, 99);
            b.number("a", 1.0).unwrap();
            b.number("never", 1.0).unwrap();
            assert_eq!(b.number("a", 2.0), Err(MetricTwice));
            assert_eq!(b.text("a", "x"), Err(MetricTwice));
            b.abort();
        }
        let batch = b.take();
        assert!(b.is_empty());
        assert_eq!(batch.rows(), 10);
        let names: Vec<_> = batch.columns.iter().map(|c| &*c.metric).collect();
        assert_eq!(names, ["a", "mode", "open"]);
        assert_eq!(batch.columns[0].rows, None);
        assert_eq!(batch.columns[1].rows, Some(vec![4]));
        let Values::Texts(texts) = &batch.columns[1].values else { panic!() };
        assert_eq!((&*texts.dictionary[0], &texts.codes[..]), ("auto", &[0][..]));
    }

    #[test]
    fn a_metric_of_two_kinds_is_two_columns() {
        let mut b = BatchBuilder::new();
        begin(&mut b, 0);
        b.number("m", 1.0).unwrap();
        b.commit();
        begin(&mut b, 1);
        b.text("m", "one").unwrap();
        assert_eq!(b.number("m", 1.0), Err(MetricTwice));
        b.commit();
        let batch = b.finish();
        assert!(batch.column("m", Kind::Number).is_some() && batch.column("m", Kind::Text).is_some());
    }

    #[test]
    fn appending_batches_is_the_same_as_building_one() {
        let row = |b: &mut BatchBuilder, i: u32| {
            begin(b, i);
            b.number("a", f64::from(i)).unwrap();
            if i.is_multiple_of(3) {
                b.number("b", 0.5).unwrap();
            }
            if i.is_multiple_of(2) {
                b.text("t", if i.is_multiple_of(4) { "x" } else { "y" }).unwrap();
            }
            b.boolean("f", i.is_multiple_of(5)).unwrap();
            b.commit();
        };
        let (mut whole, mut parts) = (BatchBuilder::new(), BatchBuilder::new());
        for i in 0..40 {
            row(&mut whole, i);
        }
        for cut in [0..1, 1..13, 13..14, 14..40] {
            let mut part = BatchBuilder::new();
            cut.for_each(|i| row(&mut part, i));
            parts.append(&part.finish());
        }
        assert_eq!(parts.finish(), whole.finish());
    }
}
