//! `output`: the rule's stream.

use wasmtime::Result;
use watchfire_model::Timestamp;
use watchfire_model::call::EmittedReading;

use super::{from_guest, size};
use crate::bindings::output;
use crate::data::{Data, Need};
use crate::failure::trap;

impl output::Host for Data {
    fn keep(&mut self, mask: Vec<u8>) -> Result<()> {
        const NAME: &str = "output.keep";
        self.enter(NAME, Need::Batch)?;
        self.check_entries(NAME, mask.len())?;
        if self.effects.keep.is_some() {
            return Err(trap("output.keep: it was called before in this callback"));
        }
        self.count_output(mask.len())?;
        self.effects.keep = Some(mask);
        Ok(())
    }

    fn derive(&mut self, metric: String, values: Vec<f64>) -> Result<()> {
        const NAME: &str = "output.derive";
        self.enter(NAME, Need::Batch)?;
        self.check_entries(NAME, values.len())?;
        check_metric(NAME, &metric)?;
        if values.iter().any(|value| value.is_infinite()) {
            return Err(trap(format!("output.derive: {metric} has an infinite value")));
        }
        self.count_output(metric.len() + values.len() * 8)?;
        match self.effects.derived.iter_mut().find(|(derived, _)| *derived == metric) {
            Some((_, before)) => *before = values,
            None => {
                // Counted, as each further name is compared with all before it.
                self.count_effects(1)?;
                self.effects.derived.push((metric, values));
            }
        }
        Ok(())
    }

    fn emit(&mut self, readings: Vec<output::Reading>) -> Result<()> {
        const NAME: &str = "output.emit";
        self.enter(NAME, Need::Callback)?;
        self.count_effects(readings.len())?;
        self.effects.emitted.reserve(readings.len());
        for reading in readings {
            check_metric(NAME, &reading.metric)?;
            let value = from_guest(reading.value);
            if matches!(value, watchfire_model::Value::Number(number) if !number.is_finite()) {
                return Err(trap(format!("output.emit: {} is no finite number", reading.metric)));
            }
            self.count_output(reading.device.len() + reading.metric.len() + size(&value) + 8)?;
            self.effects.emitted.push(EmittedReading {
                device: reading.device,
                time: Timestamp(reading.time),
                metric: reading.metric,
                value,
            });
        }
        Ok(())
    }
}

/// As decode does with what devices send.
fn check_metric(function: &str, metric: &str) -> Result<()> {
    if metric.is_empty() || metric.len() > 256 {
        return Err(trap(format!("{function}: a metric's name has 1 to 256 bytes, not {}", metric.len())));
    }
    Ok(())
}
