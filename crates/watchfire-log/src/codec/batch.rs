//! A batch of readings: devices, times, then each column, sparse or dense as it is in memory. What is read
//! back is the same to the bit, so that a replay sees what the first run saw.

use std::sync::Arc;

use watchfire_model::batch::{NO_BOOLEAN, NO_TEXT, TextValues};
use watchfire_model::{Batch, Column, DeviceHandle, Timestamp, Values};

use super::{CodecError, Input, put_bytes, put_column};

const NUMBERS: u8 = 0;
const TEXTS: u8 = 1;
const BOOLEANS: u8 = 2;
/// Added to the kind of a column that has row indexes.
const SPARSE: u8 = 16;
/// Name length, kind and number of values: the least that a column takes.
const LEAST_COLUMN: usize = 9;

/// Appends the bytes of a batch.
pub fn encode(batch: &Batch, out: &mut Vec<u8>) {
    out.reserve(batch.size());
    out.extend_from_slice(&(batch.devices.len() as u32).to_le_bytes());
    put_column(out, &batch.devices, |device| device.0.to_le_bytes());
    put_column(out, &batch.times, |time| time.0.to_le_bytes());
    out.extend_from_slice(&(batch.columns.len() as u32).to_le_bytes());
    for column in &batch.columns {
        put_bytes(out, column.metric.as_bytes());
        let kind = match &column.values {
            Values::Numbers(_) => NUMBERS,
            Values::Texts(_) => TEXTS,
            Values::Booleans(_) => BOOLEANS,
        };
        out.push(kind + if column.rows.is_some() { SPARSE } else { 0 });
        out.extend_from_slice(&(column.values.len() as u32).to_le_bytes());
        if let Some(rows) = &column.rows {
            put_column(out, rows, u32::to_le_bytes);
        }
        match &column.values {
            Values::Numbers(numbers) => put_column(out, numbers, f64::to_le_bytes),
            Values::Booleans(flags) => out.extend_from_slice(flags),
            Values::Texts(texts) => {
                out.extend_from_slice(&(texts.dictionary.len() as u32).to_le_bytes());
                for text in &texts.dictionary {
                    put_bytes(out, text.as_bytes());
                }
                put_column(out, &texts.codes, u32::to_le_bytes);
            }
        }
    }
}

/// Reads a batch and checks what those who use it rely on: lengths, row indexes, codes of texts.
pub(crate) fn decode(input: &mut Input<'_>) -> Result<Batch, CodecError> {
    let rows = input.u32("the number of rows")? as usize;
    let devices = input.column(rows, "the devices", |b| DeviceHandle(u32::from_le_bytes(b)))?;
    let times = input.column(rows, "the times", |b| Timestamp(i64::from_le_bytes(b)))?;
    let count = input.count(LEAST_COLUMN, "the columns")?;
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        columns.push(column(input, rows)?);
    }
    Ok(Batch { devices, times, columns })
}

fn column(input: &mut Input<'_>, rows: usize) -> Result<Column, CodecError> {
    let metric: Arc<str> = input.text("the name of a metric")?.into();
    let kind = input.u8("the kind of a column")?;
    let count = input.u32("the number of values")? as usize;
    let indexes = if kind & SPARSE != 0 {
        let indexes = input.column(count, "the rows of a column", u32::from_le_bytes)?;
        let ascending = indexes.is_sorted_by(|a, b| a < b);
        if !ascending || indexes.last().is_some_and(|&last| last as usize >= rows) {
            return Err(CodecError::Invalid("the rows of a column are not ascending rows of its batch"));
        }
        Some(indexes)
    } else if count == rows {
        None
    } else {
        return Err(CodecError::Invalid("a dense column has not as many values as its batch has rows"));
    };
    let values = match kind & !SPARSE {
        NUMBERS => Values::Numbers(input.column(count, "numbers", f64::from_le_bytes)?),
        BOOLEANS => {
            let flags = input.take(count, "flags")?;
            if flags.iter().any(|&flag| flag > 1 && flag != NO_BOOLEAN) {
                return Err(CodecError::Invalid("a flag is neither 0, 1 nor absent"));
            }
            Values::Booleans(flags.to_vec())
        }
        TEXTS => {
            let entries = input.count(4, "the dictionary of a column")?;
            let mut dictionary = Vec::with_capacity(entries);
            for _ in 0..entries {
                dictionary.push(input.text("a text of a dictionary")?.into());
            }
            let codes = input.column(count, "codes of texts", u32::from_le_bytes)?;
            if codes.iter().any(|&code| code != NO_TEXT && code as usize >= entries) {
                return Err(CodecError::Invalid("a text is not in its dictionary"));
            }
            Values::Texts(TextValues { dictionary, codes })
        }
        _ => return Err(CodecError::Invalid("a column of no known kind")),
    };
    Ok(Column { metric, rows: indexes, values })
}
