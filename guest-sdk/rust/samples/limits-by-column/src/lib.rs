//! limits-by-column: several metrics above one limit each, a column at a time.
//!
//! The level of batches: a loop over a column of numbers costs a few nanoseconds a reading, and what is within
//! its limits is nothing but that loop.

use watchfire_rule::devices;
use watchfire_rule::prelude::*;

parameters! {
    struct Parameters {
        /// The metrics that are watched.
        metrics: Vec<String> = ["temperature"];
        /// Their limits, in the same order.
        limits: Vec<f64> = [80], unit = "of the metric";
        severity: Severity = "major";
    }
}

state! {
    /// Whether a metric of a device is above its limit.
    struct Standing { above: bool }
}

struct Column {
    metric: String,
    limit: f64,
    /// In the slot of the metric's name: parameters may come in another order.
    state: DeviceState<Standing>,
}

struct LimitsByColumn {
    columns: Vec<Column>,
    severity: Severity,
}

impl Column {
    fn check(&mut self, batch: &Batch, version: u64, severity: Severity) {
        // NaN, no value, is not above.
        let values = batch.numbers(&self.metric);
        let any = values.iter().fold(false, |any, &value| any | (value > self.limit));
        // The common case: nothing is above, and nothing was. Then not even whose values they are is asked.
        if !any && self.state.covers_selected(version) && self.state.occupied() == 0 {
            return;
        }
        self.state.load(batch.devices());
        for (row, (&value, &device)) in values.iter().zip(batch.devices()).enumerate() {
            if value > self.limit {
                self.state.set(device, Standing { above: true });
                Alert::new(device, &self.metric, severity, "above its limit")
                    .detail("value", value)
                    .detail("limit", self.limit)
                    .row(row)
                    .trigger();
            } else if value <= self.limit && self.state.get(device).above {
                self.state.set(device, Standing { above: false });
                clear(device, &self.metric, Some(row));
            }
        }
        // What was set is stored with the alerts, or, if this call failed, not at all.
        self.state.save();
    }
}

impl Rule for LimitsByColumn {
    type Parameters = Parameters;

    const MANIFEST: Manifest = Manifest {
        name: "limits-by-column",
        version: env!("CARGO_PKG_VERSION"),
        description: "Several metrics above one limit each.",
        parameters: Parameters::SCHEMA,
        state_version: 1,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let Parameters { metrics, limits, severity } = parameters;
        if metrics.len() != limits.len() {
            return Err(format!("{} metrics and {} limits: each has one", metrics.len(), limits.len()));
        }
        let subscription = Subscription::metrics(metrics.clone());
        let column = |(metric, limit): (String, f64)| Column {
            state: DeviceState::new(slot_of(&metric)),
            metric,
            limit,
        };
        Ok((Self { columns: metrics.into_iter().zip(limits).map(column).collect(), severity }, subscription))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        let version = devices::version();
        for column in &mut self.columns {
            column.check(batch, version, self.severity);
        }
        Ok(())
    }
}

export_rule!(LimitsByColumn);
