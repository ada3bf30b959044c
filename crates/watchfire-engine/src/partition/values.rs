//! The last value of each metric of each device.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use watchfire_model::batch::{NO_BOOLEAN, NO_TEXT};
use watchfire_model::{Batch, DeviceHandle, Timestamp, Value, Values};

/// By device: its metrics in order of first appearance. A device keeps its few metrics together, so a fleet
/// of many types costs what its devices have, not devices times metrics.
#[derive(Default)]
pub(crate) struct LastValues {
    metrics: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
    devices: Vec<Vec<Last>>,
    dirty: Vec<bool>,
}

#[derive(Clone, Debug)]
struct Last {
    metric: u32,
    time: Timestamp,
    value: LastValue,
}

#[derive(Clone, Debug)]
enum LastValue {
    Number(f64),
    Text(Arc<str>),
    Boolean(bool),
}

impl LastValues {
    /// Notes the rows of a record. An older value than the one that is known changes nothing.
    pub fn note(&mut self, batch: &Batch) {
        let most = batch.devices.iter().max().map_or(0, |device| device.0 as usize + 1);
        if most > self.devices.len() {
            self.devices.resize_with(most, Vec::new);
            self.dirty.resize(most, false);
        }
        for device in &batch.devices {
            self.dirty[device.0 as usize] = true;
        }
        for column in &batch.columns {
            let metric = self.metric(&column.metric);
            // Devices of one type have a metric at the same place.
            let mut guess = 0;
            for i in 0..column.values.len() {
                let value = match &column.values {
                    Values::Numbers(numbers) if numbers[i].is_nan() => continue,
                    Values::Numbers(numbers) => LastValue::Number(numbers[i]),
                    Values::Texts(texts) if texts.codes[i] == NO_TEXT => continue,
                    Values::Texts(texts) => {
                        LastValue::Text(texts.dictionary[texts.codes[i] as usize].clone())
                    }
                    Values::Booleans(flags) if flags[i] == NO_BOOLEAN => continue,
                    Values::Booleans(flags) => LastValue::Boolean(flags[i] != 0),
                };
                let row = column.rows.as_ref().map_or(i, |rows| rows[i] as usize);
                let time = batch.times[row];
                let known = &mut self.devices[batch.devices[row].0 as usize];
                if known.get(guess).is_none_or(|last| last.metric != metric) {
                    guess = known.iter().position(|last| last.metric == metric).unwrap_or(known.len());
                }
                match known.get_mut(guess) {
                    Some(last) if last.time <= time => (last.time, last.value) = (time, value),
                    Some(_) => {}
                    None => known.push(Last { metric, time, value }),
                }
            }
        }
    }

    fn metric(&mut self, name: &Arc<str>) -> u32 {
        if let Some(&metric) = self.metrics.get(name) {
            return metric;
        }
        let metric = self.names.len() as u32;
        self.names.push(name.clone());
        self.metrics.insert(name.clone(), metric);
        metric
    }

    /// The values of a device.
    pub fn of(&self, device: DeviceHandle) -> BTreeMap<String, (Timestamp, Value)> {
        let known = self.devices.get(device.0 as usize).into_iter().flatten();
        let mut values: BTreeMap<String, (Timestamp, Value)> = BTreeMap::new();
        for last in known {
            let value = match &last.value {
                LastValue::Number(number) => Value::Number(*number),
                LastValue::Text(text) => Value::Text(text.to_string()),
                LastValue::Boolean(flag) => Value::Boolean(*flag),
            };
            values.insert(self.names[last.metric as usize].to_string(), (last.time, value));
        }
        values
    }

    /// Forgets a device.
    pub fn remove(&mut self, device: DeviceHandle) {
        if let Some(known) = self.devices.get_mut(device.0 as usize) {
            known.clear();
            self.dirty[device.0 as usize] = true;
        }
    }

    /// The devices whose values have changed since the last call.
    pub fn take_dirty(&mut self) -> Vec<DeviceHandle> {
        let dirty = self.dirty.iter_mut().enumerate();
        dirty.filter_map(|(i, dirty)| std::mem::take(dirty).then_some(DeviceHandle(i as u32))).collect()
    }

    /// Every device counts as changed.
    pub fn mark_all_dirty(&mut self) {
        self.dirty.fill(true);
    }

    /// The values of a device as bytes; empty: none.
    pub fn encode(&self, device: DeviceHandle) -> Vec<u8> {
        let mut w = crate::bytes::Writer::default();
        for last in self.devices.get(device.0 as usize).into_iter().flatten() {
            w.text(&self.names[last.metric as usize]).i64(last.time.0);
            match &last.value {
                LastValue::Number(number) => w.u8(0).u64(number.to_bits()),
                LastValue::Text(text) => w.u8(1).text(text),
                LastValue::Boolean(flag) => w.u8(2).u8(u8::from(*flag)),
            };
        }
        w.finish()
    }

    /// What [`LastValues::encode`] gave.
    pub fn decode(&mut self, device: DeviceHandle, bytes: &[u8]) -> Option<()> {
        let i = device.0 as usize;
        if i >= self.devices.len() {
            self.devices.resize_with(i + 1, Vec::new);
            self.dirty.resize(i + 1, false);
        }
        let mut r = crate::bytes::Reader(bytes);
        while !r.is_empty() {
            let name: Arc<str> = r.text()?.into();
            let time = Timestamp(r.i64()?);
            let value = match r.u8()? {
                0 => LastValue::Number(f64::from_bits(r.u64()?)),
                1 => LastValue::Text(r.text()?.into()),
                2 => LastValue::Boolean(r.u8()? != 0),
                _ => return None,
            };
            let metric = self.metric(&name);
            self.devices[i].push(Last { metric, time, value });
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_model::BatchBuilder;

    #[test]
    fn the_newest_value_by_event_time_is_kept_and_read_back() {
        let mut values = LastValues::default();
        for (time, x) in [(10, 1.0), (30, 3.0), (20, 2.0)] {
            let mut b = BatchBuilder::new();
            b.begin(DeviceHandle(7), Timestamp(time));
            b.number("x", x).unwrap();
            if time == 20 {
                b.text("mode", "auto").unwrap();
                b.boolean("on", true).unwrap();
            }
            b.commit();
            values.note(&b.finish());
        }
        let of = values.of(DeviceHandle(7));
        assert_eq!(of["x"], (Timestamp(30), Value::Number(3.0)));
        assert_eq!(of["mode"], (Timestamp(20), Value::Text("auto".into())));
        assert_eq!(values.take_dirty(), [DeviceHandle(7)]);
        let mut again = LastValues::default();
        again.decode(DeviceHandle(7), &values.encode(DeviceHandle(7))).unwrap();
        assert_eq!(again.of(DeviceHandle(7)), of);
        values.remove(DeviceHandle(7));
        assert!(values.of(DeviceHandle(7)).is_empty());
    }
}
