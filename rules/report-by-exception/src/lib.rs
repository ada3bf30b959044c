//! Report by exception: of a metric only what changed goes on, on an output stream.

use watchfire_rule::output;
use watchfire_rule::prelude::*;

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde")]
struct Parameters {
    metric: String,
    change: f64,
    every: f64,
}

state! {
    /// The reading that was let through last.
    struct Last { time: i64, value: f64, known: bool }
}

struct ReportByException {
    metric: String,
    change: f64,
    /// In microseconds; `i64::MAX`: never for its age alone.
    every: i64,
    state: DeviceState<Last>,
}

impl Rule for ReportByException {
    type Parameters = Parameters;

    const MANIFEST: Manifest = Manifest {
        name: "report-by-exception",
        version: env!("CARGO_PKG_VERSION"),
        description: "Lets through only readings whose metric changed, for streams that need no more.",
        parameters: include_str!("../parameters.json"),
        state_version: 1,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let rule = Self {
            change: parameters.change,
            every: if parameters.every > 0.0 { (parameters.every * 1e6) as i64 } else { i64::MAX },
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
        let mut mask = vec![0; batch.rows()];
        for (row, ((&value, &device), &time)) in values.iter().zip(devices).zip(times).enumerate() {
            if value.is_nan() {
                continue;
            }
            let last = self.state.get(device);
            let age = time.saturating_sub(last.time);
            // A late reading is older than what was let through: it is no news.
            let news = age >= 0 && ((value - last.value).abs() > self.change || age >= self.every);
            if !last.known || news {
                mask[row] = 1;
                self.state.set(device, Last { time, value, known: true });
            }
        }
        output::keep(&mask);
        self.state.save();
        Ok(())
    }
}

watchfire_rule::export_rule!(ReportByException);
