//! Rows of the log as readings in their common form, for people and dead letters.

use serde_json::{Map, Value, json};
use watchfire_model::batch::{NO_BOOLEAN, NO_TEXT, Values};
use watchfire_model::{Batch, Column, Registry};

/// A row as `{"device","time","metrics"}`.
pub(crate) fn reading(batch: &Batch, row: u32, registry: &Registry) -> Value {
    let at = row as usize;
    let device = batch.devices.get(at).and_then(|&handle| registry.get(handle));
    let metrics: Map<String, Value> = batch
        .columns
        .iter()
        .filter_map(|column| Some((column.metric.to_string(), value(column, row)?)))
        .collect();
    json!({
        "device": device.map_or("", |device| device.spec.id.as_str()),
        "time": batch.times.get(at),
        "metrics": metrics,
    })
}

fn value(column: &Column, row: u32) -> Option<Value> {
    let place = match &column.rows {
        None => row as usize,
        Some(rows) => rows.binary_search(&row).ok()?,
    };
    match &column.values {
        Values::Numbers(numbers) => numbers.get(place).filter(|number| number.is_finite()).map(|&n| json!(n)),
        Values::Texts(texts) => {
            let code = *texts.codes.get(place)?;
            (code != NO_TEXT).then(|| texts.dictionary.get(code as usize).map(|text| json!(**text)))?
        }
        Values::Booleans(flags) => {
            flags.get(place).filter(|&&flag| flag != NO_BOOLEAN).map(|&f| json!(f != 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_model::{BatchBuilder, DeviceHandle, DeviceSpec, Timestamp};

    #[test]
    fn a_row_shows_what_was_sent_and_nothing_else() {
        let mut registry = Registry::default();
        registry.put(DeviceSpec { id: "press-1".into(), ..DeviceSpec::default() });
        let mut builder = BatchBuilder::new();
        for row in 0..9 {
            builder.begin(DeviceHandle(0), Timestamp(row));
            builder.number("temperature", 20.5).unwrap();
            if row == 4 {
                builder.text("mode", "auto").unwrap();
                builder.boolean("door_open", true).unwrap();
            }
            builder.commit();
        }
        let batch = builder.finish();
        let metrics = |row| reading(&batch, row, &registry)["metrics"].clone();
        assert_eq!(metrics(3), json!({"temperature": 20.5}));
        assert_eq!(metrics(4), json!({"temperature": 20.5, "mode": "auto", "door_open": true}));
        assert_eq!(reading(&batch, 4, &registry)["device"], "press-1");
        assert_eq!(reading(&batch, 99, &registry)["device"], "");
    }
}
