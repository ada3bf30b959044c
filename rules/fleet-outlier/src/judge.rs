//! The third step, at the device: how far it is from its peers.

use watchfire_rule::prelude::*;

use crate::Names;

state! {
    /// Whether the device differs.
    struct Differs { differs: bool }
}

/// Alerts on devices that are far from the median of their peers.
pub struct Judge {
    names: Names,
    key: String,
    trigger: f64,
    clear: f64,
    severity: Severity,
    state: DeviceState<Differs>,
}

impl Judge {
    pub fn new(names: Names, (trigger, clear): (f64, f64), severity: Severity) -> Self {
        let state = DeviceState::new(slot_of(&names.metric));
        Self { key: names.metric.clone() + ".outlier", names, trigger, clear, severity, state }
    }

    pub fn on_batch(&mut self, batch: &Batch) {
        let [values, medians, deviations, peers] =
            [&self.names.metric, &self.names.median, &self.names.deviation, &self.names.peers]
                .map(|metric| batch.numbers(metric));
        let devices = batch.devices();
        self.state.load(devices);
        for (row, &device) in devices.iter().enumerate() {
            let (value, median, deviation) = (values[row], medians[row], deviations[row]);
            if value.is_nan() {
                continue;
            }
            let before = self.state.get(device).differs;
            // Peers that are all the same have nothing to measure by. Neither those, nor too few (no median), say that a
            // device is an outlier, and who has no peers any more is none.
            let deviations = if deviation > 0.0 { (value - median) / deviation } else { f64::NAN };
            let distance = deviations.abs();
            if distance > self.trigger || (before && distance > self.clear) {
                Alert::new(
                    device,
                    &self.key,
                    self.severity,
                    &(self.names.metric.clone() + " is not as that of its peers"),
                )
                .detail("value", value)
                .detail("median", median)
                .detail("deviation", deviation)
                .detail("deviations", deviations)
                .detail("peers", peers[row])
                .row(row)
                .trigger();
                self.state.set(device, Differs { differs: true });
            } else if before {
                clear(device, &self.key, Some(row));
                self.state.set(device, Differs::default());
            }
        }
        self.state.save();
    }
}
