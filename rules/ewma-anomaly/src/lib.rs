//! Anomaly: a metric far from its own exponentially weighted mean.

use watchfire_rule::Kind;
use watchfire_rule::prelude::*;

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde")]
struct Parameters {
    metrics: Vec<String>,
    alpha: f64,
    trigger_sigmas: f64,
    clear_sigmas: f64,
    warm_up: u32,
    least_deviation: f64,
    severity: Severity,
}

state! {
    /// Exponentially weighted mean and variance of one metric of one device, after so many readings.
    struct Average { mean: f64, variance: f64, count: u32, anomalous: bool }
}

struct Metric {
    name: String,
    state: DeviceState<Average>,
}

impl Metric {
    fn new(name: String) -> Self {
        Self { state: DeviceState::new(slot_of(&name)), name }
    }
}

struct EwmaAnomaly {
    metrics: Vec<Metric>,
    /// Metrics are taken as they come: the subscription has a pattern.
    open: bool,
    settings: Settings,
}

struct Settings {
    alpha: f64,
    trigger: f64,
    clear: f64,
    warm_up: u32,
    least_variance: f64,
    severity: Severity,
}

impl Settings {
    fn check(&self, metric: &mut Metric, batch: &Batch) {
        let Metric { name, state } = metric;
        let values = batch.numbers(name);
        let devices = batch.devices();
        state.load(devices);
        for (row, (&value, &device)) in values.iter().zip(devices).enumerate() {
            if value.is_nan() {
                continue;
            }
            let average = state.modify(device);
            if average.count == 0 {
                *average = Average { mean: value, variance: 0.0, count: 1, anomalous: false };
                continue;
            }
            let delta = value - average.mean;
            let square = delta * delta;
            // Verdict first: a reading is judged by what came before it.
            if average.count >= self.warm_up {
                let variance = average.variance.max(self.least_variance);
                if square > self.trigger * variance && variance > 0.0 {
                    average.anomalous = true;
                    self.trigger(name, row, device, value, average.mean, variance);
                } else if average.anomalous && square <= self.clear * variance {
                    average.anomalous = false;
                    clear(device, name, Some(row));
                }
            }
            // Finch, "Incremental calculation of weighted mean and variance" (2009), section 9.
            average.mean += self.alpha * delta;
            average.variance = (1.0 - self.alpha) * (average.variance + self.alpha * square);
            average.count = average.count.saturating_add(1);
        }
        state.save();
    }

    #[cold]
    fn trigger(&self, name: &str, row: usize, device: Device, value: f64, mean: f64, variance: f64) {
        let sigma = variance.sqrt();
        Alert::new(device, name, self.severity, &[name, " is far from its usual values"].concat())
            .detail("value", value)
            .detail("mean", mean)
            .detail("sigma", sigma)
            .detail("sigmas", (value - mean) / sigma)
            .row(row)
            .trigger();
    }
}

impl Rule for EwmaAnomaly {
    type Parameters = Parameters;

    const MANIFEST: Manifest = Manifest {
        name: "ewma-anomaly",
        version: env!("CARGO_PKG_VERSION"),
        description: "A metric that is many standard deviations away from its own moving mean, by device.",
        parameters: include_str!("../parameters.json"),
        state_version: 1,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        if parameters.clear_sigmas > parameters.trigger_sigmas {
            return Err("clear_sigmas must not be above trigger_sigmas".into());
        }
        let subscription = Subscription::metrics(parameters.metrics.iter().cloned());
        let open = parameters.metrics.iter().any(|metric| metric.ends_with('*'));
        let settings = Settings {
            alpha: parameters.alpha,
            trigger: parameters.trigger_sigmas * parameters.trigger_sigmas,
            clear: parameters.clear_sigmas * parameters.clear_sigmas,
            warm_up: parameters.warm_up.max(1),
            least_variance: parameters.least_deviation * parameters.least_deviation,
            severity: parameters.severity,
        };
        let metrics = if open { Vec::new() } else { parameters.metrics };
        Ok((Self { metrics: metrics.into_iter().map(Metric::new).collect(), open, settings }, subscription))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        if self.open {
            // The batch shows only metrics that the subscription asked for.
            for column in batch.columns() {
                let known = self.metrics.iter().any(|metric| metric.name == column.metric);
                if column.kind == Kind::Number && !known {
                    self.metrics.push(Metric::new(column.metric));
                }
            }
        }
        for metric in &mut self.metrics {
            self.settings.check(metric, batch);
        }
        Ok(())
    }
}

watchfire_rule::export_rule!(EwmaAnomaly);
