//! One row of the batch, and the columns behind it.

use std::cell::OnceCell;

use crate::bindings::watchfire::rule::readings;
use crate::{Batch, TextColumn, Timestamp, effects};

/// A reading: what one device said at one time.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    pub(crate) batch: &'a Batch,
    pub(crate) columns: &'a Columns,
    pub(crate) row: usize,
}

impl Reading<'_> {
    /// When the device says it measured (event time). May go back from one reading to the next.
    #[inline]
    pub fn time(&self) -> Timestamp {
        self.batch.time(self.row)
    }

    /// The number that a metric has in this reading.
    #[inline]
    pub fn number(&self, metric: &str) -> Option<f64> {
        let number = self.columns.column(metric).numbers()[self.row];
        (!number.is_nan()).then_some(number)
    }

    /// The text that a metric has in this reading.
    pub fn text(&self, metric: &str) -> Option<&str> {
        let texts = self.columns.column(metric).texts();
        texts.dictionary.get(texts.codes[self.row] as usize).map(String::as_str)
    }

    /// The flag that a metric has in this reading.
    #[inline]
    pub fn flag(&self, metric: &str) -> Option<bool> {
        match self.columns.column(metric).flags()[self.row] {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// Adds a value to this row of the output stream; NaN: none. Give it a name that no input has.
    #[inline]
    pub fn derive(&self, metric: &str, value: f64) {
        effects::derive(self.row, metric, value);
    }

    /// Leaves this row out of the output stream.
    pub fn drop(&self) {
        self.keep(false);
    }

    /// Whether this row goes into the output stream; it does where nothing is said.
    pub fn keep(&self, yes: bool) {
        effects::keep(self.row, yes);
    }

    /// Which row of the batch it is, for the functions of the batch level.
    pub fn row(&self) -> usize {
        self.row
    }
}

/// The columns that the rule asked for, in the order in which it first did: a rule asks for the same few in
/// each row, so they are found with the first look or two. Fetched when a batch is first asked for them.
#[derive(Default)]
pub(crate) struct Columns {
    first: OnceCell<Box<Column>>,
}

pub(crate) struct Column {
    ends: Ends,
    metric: String,
    numbers: OnceCell<Vec<f64>>,
    texts: OnceCell<TextColumn>,
    flags: OnceCell<Vec<u8>>,
    next: OnceCell<Box<Column>>,
}

impl Columns {
    /// Forgets the values, not the names: the next batch will be asked for the same.
    pub fn clear(&mut self) {
        let mut place = &mut self.first;
        while let Some(column) = place.get_mut() {
            column.numbers.take();
            column.texts.take();
            column.flags.take();
            place = &mut column.next;
        }
    }

    #[inline(always)]
    fn column(&self, metric: &str) -> &Column {
        let ends = Ends::of(metric);
        let mut place = &self.first;
        loop {
            let column = match place.get() {
                Some(column) => column,
                None => place.get_or_init(|| Column::new(metric)),
            };
            if column.ends == ends && (ends.length <= 16 || column.metric == metric) {
                return column;
            }
            place = &column.next;
        }
    }
}

impl Column {
    #[cold]
    fn new(metric: &str) -> Box<Self> {
        Box::new(Self {
            ends: Ends::of(metric),
            metric: metric.into(),
            numbers: OnceCell::new(),
            texts: OnceCell::new(),
            flags: OnceCell::new(),
            next: OnceCell::new(),
        })
    }

    #[inline]
    fn numbers(&self) -> &[f64] {
        self.numbers.get_or_init(|| readings::numbers(&self.metric))
    }

    #[inline]
    fn texts(&self) -> &TextColumn {
        self.texts.get_or_init(|| readings::texts(&self.metric))
    }

    #[inline]
    fn flags(&self) -> &[u8] {
        self.flags.get_or_init(|| readings::booleans(&self.metric))
    }
}

/// A name to be found again in each row: its length and both its ends, as words. That is all of it up to 16
/// bytes, and for a name that is written out the compiler has it ready.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ends {
    length: usize,
    first: u64,
    last: u64,
}

impl Ends {
    #[inline(always)]
    fn of(name: &str) -> Self {
        let bytes = name.as_bytes();
        let (first, last) = match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
            (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
            _ => match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
                (Some(first), Some(last)) => {
                    (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into())
                }
                _ => (bytes.iter().fold(0, |all, &byte| all << 8 | u64::from(byte)), 0),
            },
        };
        Self { length: bytes.len(), first, last }
    }
}
