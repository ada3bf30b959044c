//! The rows of a callback, as columns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::batch::{Batch, NO_BOOLEAN, NO_TEXT, TextValues, Values};
use crate::id::DeviceHandle;
use crate::rule::metric_matches;
use crate::time::Timestamp;
use crate::value::Kind;

/// The rows of a batch that a rule sees. Columns are made dense when they are asked for, once for all
/// rules that share the selection.
#[derive(Debug)]
pub struct Rows {
    stream: Arc<str>,
    batch: Arc<Batch>,
    /// Rows of the batch, ascending; `None`: all.
    selected: Option<Vec<u32>>,
    /// Patterns of the metrics that the rule sees; empty: all.
    metrics: Arc<[String]>,
    devices: Option<Arc<Vec<DeviceHandle>>>,
    times: Option<Arc<Vec<Timestamp>>>,
    numbers: Dense<Vec<f64>>,
    texts: Dense<TextValues>,
    booleans: Dense<Vec<u8>>,
}

/// Columns of one kind, made dense when they were asked for.
#[derive(Debug)]
struct Dense<T> {
    /// Those that the batch has: a guest may ask for any number of names, and only these are kept.
    present: Mutex<HashMap<Box<str>, Arc<T>>>,
    /// The column of no values, one for all names that the batch lacks.
    absent: OnceLock<Arc<T>>,
}

impl<T> Default for Dense<T> {
    fn default() -> Self {
        Self { present: Mutex::default(), absent: OnceLock::new() }
    }
}

impl<T> Dense<T> {
    fn of(&self, metric: &str, make: impl FnOnce() -> Option<T>, absent: impl FnOnce() -> T) -> Arc<T> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(column) = present.get(metric) {
            return column.clone();
        }
        let Some(column) = make() else { return self.absent.get_or_init(|| Arc::new(absent())).clone() };
        let column = Arc::new(column);
        present.insert(metric.into(), column.clone());
        column
    }
}

impl Rows {
    /// These rows of a batch (ascending; `None`: all), seen through these patterns of metrics (empty: all).
    pub fn new(
        stream: Arc<str>,
        batch: Arc<Batch>,
        selected: Option<Vec<u32>>,
        metrics: Arc<[String]>,
    ) -> Self {
        let pick = |rows: &Vec<u32>| rows.iter().map(|&row| batch.devices[row as usize]).collect();
        let pick_times = |rows: &Vec<u32>| rows.iter().map(|&row| batch.times[row as usize]).collect();
        Self {
            devices: selected.as_ref().map(|rows| Arc::new(pick(rows))),
            times: selected.as_ref().map(|rows| Arc::new(pick_times(rows))),
            stream,
            batch,
            selected,
            metrics,
            numbers: Dense::default(),
            texts: Dense::default(),
            booleans: Dense::default(),
        }
    }

    /// The stream that the batch is of.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The batch that the rows are of.
    pub fn batch(&self) -> &Arc<Batch> {
        &self.batch
    }

    /// The row of the batch behind a row here.
    pub fn row_of_batch(&self, row: u32) -> Option<u32> {
        match &self.selected {
            Some(rows) => rows.get(row as usize).copied(),
            None => ((row as usize) < self.batch.rows()).then_some(row),
        }
    }

    /// Some of these rows (from 0, ascending), seen in the same way.
    pub fn pick(&self, rows: &[u32]) -> Self {
        let rows = rows.iter().filter_map(|row| self.row_of_batch(*row)).collect();
        Self::new(self.stream.clone(), self.batch.clone(), Some(rows), self.metrics.clone())
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.selected.as_ref().map_or(self.batch.rows(), Vec::len)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The devices, a row each.
    pub fn devices(&self) -> &[DeviceHandle] {
        self.devices.as_ref().map_or(&self.batch.devices, |devices| devices)
    }

    /// The event times, a row each.
    pub fn times(&self) -> &[Timestamp] {
        self.times.as_ref().map_or(&self.batch.times, |times| times)
    }

    /// Whether the rule sees a metric.
    pub fn sees(&self, metric: &str) -> bool {
        self.metrics.is_empty() || self.metrics.iter().any(|pattern| metric_matches(pattern, metric))
    }

    /// The columns with a value in these rows, ordered by metric, so that their order says nothing of the cut.
    pub fn columns(&self) -> Vec<(Arc<str>, Kind)> {
        let mut columns: Vec<_> = self
            .batch
            .columns
            .iter()
            .filter(|column| self.sees(&column.metric))
            .map(|column| (column.metric.clone(), column.values.kind()))
            .filter(|(metric, kind)| match kind {
                Kind::Number => self.numbers(metric).iter().any(|x| !x.is_nan()),
                Kind::Text => self.texts(metric).codes.iter().any(|&code| code != NO_TEXT),
                Kind::Boolean => self.booleans(metric).iter().any(|&flag| flag != NO_BOOLEAN),
            })
            .collect();
        columns.sort();
        columns
    }

    /// A numeric column, dense. NaN: no value.
    pub fn numbers(&self, metric: &str) -> Arc<Vec<f64>> {
        let make = || match self.column(metric, Kind::Number)? {
            (Values::Numbers(values), rows) => Some(self.spread(values, rows, f64::NAN)),
            _ => None,
        };
        self.numbers.of(metric, make, || vec![f64::NAN; self.len()])
    }

    /// A text column, dense.
    pub fn texts(&self, metric: &str) -> Arc<TextValues> {
        let make = || match self.column(metric, Kind::Text)? {
            (Values::Texts(texts), rows) => Some(TextValues {
                dictionary: texts.dictionary.clone(),
                codes: self.spread(&texts.codes, rows, NO_TEXT),
            }),
            _ => None,
        };
        let absent = || TextValues { dictionary: Vec::new(), codes: vec![NO_TEXT; self.len()] };
        self.texts.of(metric, make, absent)
    }

    /// A column of flags, dense: 0 false, 1 true, 255 no value.
    pub fn booleans(&self, metric: &str) -> Arc<Vec<u8>> {
        let make = || match self.column(metric, Kind::Boolean)? {
            (Values::Booleans(flags), rows) => Some(self.spread(flags, rows, NO_BOOLEAN)),
            _ => None,
        };
        self.booleans.of(metric, make, || vec![NO_BOOLEAN; self.len()])
    }

    fn column(&self, metric: &str, kind: Kind) -> Option<(&Values, Option<&[u32]>)> {
        if !self.sees(metric) {
            return None;
        }
        self.batch.column(metric, kind).map(|column| (&column.values, column.rows.as_deref()))
    }

    fn spread<T: Copy>(&self, values: &[T], rows: Option<&[u32]>, missing: T) -> Vec<T> {
        match (&self.selected, rows) {
            (None, None) => values.to_vec(),
            (Some(selected), None) => selected.iter().map(|&row| values[row as usize]).collect(),
            (None, Some(rows)) => {
                let mut dense = vec![missing; self.batch.rows()];
                for (&row, &value) in rows.iter().zip(values) {
                    dense[row as usize] = value;
                }
                dense
            }
            (Some(selected), Some(rows)) => {
                // Both ascend: one walk along the two.
                let mut stored = rows.iter().zip(values).peekable();
                selected
                    .iter()
                    .map(|row| {
                        while stored.next_if(|(stored, _)| *stored < row).is_some() {}
                        stored.next_if(|(stored, _)| *stored == row).map_or(missing, |(_, &value)| value)
                    })
                    .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchBuilder;

    #[test]
    fn rows_show_the_same_values_whatever_the_selection() {
        let mut b = BatchBuilder::new();
        for i in 0..20_u32 {
            b.begin(DeviceHandle(i % 4), Timestamp(i.into()));
            b.number("dense", f64::from(i)).unwrap();
            if i % 7 == 0 {
                b.number("sparse", f64::from(i)).unwrap();
                b.boolean("flag", i % 2 == 0).unwrap();
                b.text("mode", "x").unwrap();
            }
            b.commit();
        }
        let batch = Arc::new(b.finish());
        let of = |selected: Option<Vec<u32>>, metrics: &[&str]| {
            Rows::new(
                "readings".into(),
                batch.clone(),
                selected,
                metrics.iter().map(|m| m.to_string()).collect(),
            )
        };
        let all = of(None, &[]);
        assert_eq!(all.columns().len(), 4);
        for selected in [vec![], vec![0], vec![7, 8, 14], (0..20).collect::<Vec<_>>()] {
            let rows = of(Some(selected.clone()), &[]);
            let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan();
            for metric in ["dense", "sparse", "absent"] {
                let (some, every) = (rows.numbers(metric), all.numbers(metric));
                assert_eq!(some.len(), selected.len());
                assert!(
                    some.iter().zip(&selected).all(|(&x, &row)| same(x, every[row as usize])),
                    "{metric}"
                );
            }
            let flags: Vec<u8> = selected.iter().map(|&row| all.booleans("flag")[row as usize]).collect();
            assert_eq!(*rows.booleans("flag"), flags);
            assert_eq!(rows.devices().len(), selected.len());
        }
        assert_eq!(of(Some(vec![1, 2]), &[]).columns(), [("dense".into(), Kind::Number)]);
        let narrow = of(None, &["sp*"]);
        assert_eq!(narrow.columns(), [("sparse".into(), Kind::Number)]);
        assert!(narrow.numbers("dense").iter().all(|x| x.is_nan()));
    }

    #[test]
    fn names_that_the_batch_lacks_cost_one_column() {
        let mut b = BatchBuilder::new();
        b.begin(DeviceHandle(0), Timestamp(0));
        b.number("x", 1.0).unwrap();
        b.commit();
        let rows = Rows::new("readings".into(), Arc::new(b.finish()), None, Arc::new([]));
        let first = rows.numbers("absent");
        for i in 0..1000 {
            assert!(Arc::ptr_eq(&first, &rows.numbers(&format!("absent {i}"))));
            assert!(Arc::ptr_eq(&rows.texts("x"), &rows.texts(&format!("absent {i}"))));
            assert!(Arc::ptr_eq(&rows.booleans("x"), &rows.booleans(&format!("absent {i}"))));
        }
        assert_eq!(*rows.numbers("x"), [1.0]);
        assert_eq!(rows.numbers.present.lock().unwrap().len(), 1);
    }
}
