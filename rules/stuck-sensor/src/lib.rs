//! Stuck sensor: a metric that does not change for too long.

use watchfire_rule::prelude::*;

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde")]
struct Parameters {
    metric: String,
    epsilon: f64,
    after: f64,
    severity: Severity,
}

state! {
    /// The value that the sensor shows, the event time of the first reading with it, and what was said.
    struct Shown { since: i64, value: f64, known: bool, stuck: bool }
}

struct StuckSensor {
    metric: String,
    key: String,
    epsilon: f64,
    /// In microseconds.
    after: i64,
    severity: Severity,
    state: DeviceState<Shown>,
}

impl Rule for StuckSensor {
    type Parameters = Parameters;

    const MANIFEST: Manifest = Manifest {
        name: "stuck-sensor",
        version: env!("CARGO_PKG_VERSION"),
        description: "A metric that shows the same value, within epsilon, for too long.",
        parameters: include_str!("../parameters.json"),
        state_version: 1,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let rule = Self {
            key: parameters.metric.clone() + ".stuck",
            epsilon: parameters.epsilon,
            after: (parameters.after * 1e6) as i64,
            severity: parameters.severity,
            state: DeviceState::new(slot_of(&parameters.metric)),
            metric: parameters.metric,
        };
        let subscription = Subscription::metrics([rule.metric.clone()]);
        Ok((rule, subscription))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        let values = batch.numbers(&self.metric);
        let (devices, times) = (batch.devices(), batch.times());
        self.state.load(devices);
        for (row, ((&value, &device), &time)) in values.iter().zip(devices).zip(times).enumerate() {
            let shown = self.state.get(device);
            // A reading from before the present value was first seen says nothing of it.
            if value.is_nan() || (shown.known && time < shown.since) {
                continue;
            }
            if shown.known && (value - shown.value).abs() <= self.epsilon {
                let span = time - shown.since;
                if span >= self.after {
                    // Said again with each reading: it keeps the alert's details current.
                    Alert::new(device, &self.key, self.severity, &(self.metric.clone() + " does not change"))
                        .detail("value", value)
                        .detail("seconds", span as f64 / 1e6)
                        .row(row)
                        .trigger();
                    self.state.set(device, Shown { stuck: true, ..shown });
                }
                continue;
            }
            if shown.stuck {
                clear(device, &self.key, Some(row));
            }
            self.state.set(device, Shown { since: time, value, known: true, stuck: false });
        }
        self.state.save();
        Ok(())
    }
}

watchfire_rule::export_rule!(StuckSensor);
