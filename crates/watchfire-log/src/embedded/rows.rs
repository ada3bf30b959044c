//! Rows of one partition in the open group, in as many records as it takes.

use std::ops::Range;

use watchfire_model::batch::{Column, TextValues, Values};
use watchfire_model::{Batch, BatchBuilder};

/// Rows of one record at most: a record is one callback of each rule, which has the time that its limits allow for
/// it, and rules in slow languages get through some hundred thousand rows a second. So many make the cost of a call
/// small beside that of its rows; more would win nothing.
pub(super) const RECORD_ROWS: usize = 8192;

/// Collects rows.
#[derive(Clone, Default)]
pub(super) struct Rows {
    full: Vec<Batch>,
    open: BatchBuilder,
}

impl Rows {
    /// Adds the rows of a batch behind those that are here.
    pub fn append(&mut self, batch: &Batch) {
        if batch.rows() <= RECORD_ROWS {
            return self.append_whole(batch);
        }
        // Rare: one upload of very many.
        for start in (0..batch.rows()).step_by(RECORD_ROWS) {
            self.append_whole(&slice(batch, start..(start + RECORD_ROWS).min(batch.rows())));
        }
    }

    fn append_whole(&mut self, batch: &Batch) {
        if !self.open.is_empty() && self.open.rows() + batch.rows() > RECORD_ROWS {
            self.full.push(self.open.take());
        }
        self.open.append(batch);
    }

    /// The batches, in order.
    pub fn finish(mut self) -> Vec<Batch> {
        if !self.open.is_empty() {
            self.full.push(self.open.finish());
        }
        self.full
    }
}

/// Some rows of a batch. Columns may be left without a value, and dictionaries with texts that nobody uses: a
/// builder leaves both out.
fn slice(batch: &Batch, range: Range<usize>) -> Batch {
    let columns = batch.columns.iter().map(|column| {
        let (rows, entries) = match &column.rows {
            None => (None, range.clone()),
            Some(rows) => {
                let place = |row: usize| rows.partition_point(|&other| (other as usize) < row);
                let entries = place(range.start)..place(range.end);
                let moved = rows[entries.clone()].iter().map(|row| row - range.start as u32).collect();
                (Some(moved), entries)
            }
        };
        let values = match &column.values {
            Values::Numbers(numbers) => Values::Numbers(numbers[entries].to_vec()),
            Values::Texts(texts) => Values::Texts(TextValues {
                dictionary: texts.dictionary.clone(),
                codes: texts.codes[entries].to_vec(),
            }),
            Values::Booleans(flags) => Values::Booleans(flags[entries].to_vec()),
        };
        Column { metric: column.metric.clone(), rows, values }
    });
    Batch {
        columns: columns.collect(),
        devices: batch.devices[range.clone()].to_vec(),
        times: batch.times[range.clone()].to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use watchfire_model::{DeviceHandle, Timestamp};

    use super::*;

    /// Rows with these numbers: one dense metric, one that few rows have, texts.
    fn batch(numbers: Range<u32>) -> Batch {
        let mut batch = BatchBuilder::new();
        for number in numbers {
            batch.begin(DeviceHandle(number), Timestamp(i64::from(number)));
            batch.number("value", f64::from(number)).unwrap();
            batch.text("mode", ["auto", "manual"][number as usize % 2]).unwrap();
            if number.is_multiple_of(1000) {
                batch.boolean("open", true).unwrap();
            }
            batch.commit();
        }
        batch.finish()
    }

    fn check(appended: &[Range<u32>], expected: &[Range<u32>]) {
        let mut rows = Rows::default();
        for range in appended {
            rows.append(&batch(range.clone()));
        }
        let expected: Vec<Batch> = expected.iter().map(|range| batch(range.clone())).collect();
        assert_eq!(rows.finish(), expected, "{appended:?}");
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "a list of one record")]
    fn records_have_so_many_rows_and_all_are_there_in_order() {
        check(&[], &[]);
        check(&[0..10, 10..20], &[0..20]);
        check(&[0..8192, 8192..8193], &[0..8192, 8192..8193]);
        // What comes together stays together where it can.
        check(&[0..8000, 8000..9000, 9000..9100], &[0..8000, 8000..9100]);
        check(&[0..10, 10..20_000], &[0..10, 10..8202, 8202..16_394, 16_394..20_000]);
    }
}
