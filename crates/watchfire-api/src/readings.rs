//! Rows of the log as readings in their common form, for people and dead letters.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use watchfire_model::batch::{NO_BOOLEAN, NO_TEXT, Values};
use watchfire_model::{Batch, BatchBuilder, Column, DeviceHandle, Registry, Timestamp};

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

/// What [`reading`] gave.
#[derive(Deserialize)]
struct Reading {
    device: String,
    time: Timestamp,
    metrics: Map<String, Value>,
}

/// Adds readings, a line each, of the devices with these handles: exactly what they were made of. Left out are
/// those of devices that were deleted since: one that was registered again under the same name is another one.
pub(crate) fn add_readings(
    builder: &mut BatchBuilder,
    lines: &[u8],
    handles: &[u32],
    registry: &Registry,
) -> Result<(), serde_json::Error> {
    for (line, &handle) in lines.split(|&byte| byte == b'\n').zip(handles) {
        let Reading { device, time, metrics } = serde_json::from_slice(line)?;
        let handle = DeviceHandle(handle);
        let known = registry.get(handle).filter(|known| !known.deleted);
        if known.is_none_or(|known| known.spec.id != device) {
            continue;
        }
        builder.begin(handle, time);
        for (metric, value) in &metrics {
            // A name stands once in an object.
            let _ = match value {
                Value::Number(number) => number.as_f64().map_or(Ok(()), |x| builder.number(metric, x)),
                Value::String(text) => builder.text(metric, text),
                Value::Bool(flag) => builder.boolean(metric, *flag),
                _ => Ok(()),
            };
        }
        builder.commit();
    }
    Ok(())
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
    use watchfire_model::DeviceSpec;

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

    #[test]
    fn what_is_read_back_is_the_same_to_the_bit_and_of_no_other_device() {
        let mut registry = Registry::default();
        for id in ["a", "b\"\\ü"] {
            registry.put(DeviceSpec { id: id.into(), ..DeviceSpec::default() });
        }
        // Numbers that are easily read as another, and texts that look like lines.
        let numbers = [0.1 + 0.2, -0.0, 5e-324, f64::MAX, 1e23, 8.41e21, 9_007_199_254_740_993.0, 90.0];
        let mut builder = BatchBuilder::new();
        let mut random = 88_172_645_463_325_252_u64;
        for row in 0..500_u32 {
            builder.begin(DeviceHandle(row % 2), Timestamp(1_767_225_600_000_001 + i64::from(row) * 7));
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let x = numbers.get(row as usize).copied().unwrap_or(f64::from_bits(random));
            if x.is_finite() {
                builder.number("a", x).unwrap();
            }
            if row % 3 == 0 {
                builder.text("mode", "x\n{\"device\":\"a\",").unwrap();
                builder.boolean("open", row % 2 == 0).unwrap();
            }
            builder.commit();
        }
        let batch = builder.finish();
        let line = |row| reading(&batch, row, &registry).to_string();
        let lines = (0..500).map(line).collect::<Vec<_>>().join("\n");
        let handles: Vec<u32> = batch.devices.iter().map(|device| device.0).collect();
        let back = |registry: &Registry| {
            let mut builder = BatchBuilder::new();
            add_readings(&mut builder, lines.as_bytes(), &handles, registry).unwrap();
            builder.finish()
        };
        // The shape of the columns is chosen anew, so they are compared as each row shows them.
        let same = back(&registry);
        assert_eq!((&same.devices, &same.times), (&batch.devices, &batch.times));
        let bits = |batch: &Batch, row| {
            let value = |name: &str| {
                let columns = batch.columns.iter().filter(|column| *column.metric == *name);
                columns.filter_map(|column| value(column, row)).next()
            };
            let number = value("a").map(|x| x.as_f64().unwrap().to_bits());
            (number, value("mode"), value("open"))
        };
        for row in 0..500 {
            assert_eq!(bits(&same, row), bits(&batch, row), "row {row}");
        }
        registry.delete("a");
        registry.put(DeviceSpec { id: "a".into(), ..DeviceSpec::default() });
        let rest = back(&registry);
        assert_eq!((rest.rows(), rest.devices.iter().all(|device| device.0 == 1)), (250, true));
        let mut none = BatchBuilder::new();
        add_readings(&mut none, b"{}", &[0], &registry).unwrap_err();
    }
}
