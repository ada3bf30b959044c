//! Rate of change: a metric that rises or falls too fast.

use watchfire_rule::prelude::*;

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde")]
struct Parameters {
    metric: String,
    rise: Option<f64>,
    fall: Option<f64>,
    per: f64,
    over: f64,
    deadband: f64,
    severity: Severity,
}

state! {
    /// The reading that the next one is compared with, and what was said.
    struct Before { time: i64, value: f64, known: bool, rising: bool, falling: bool }
}

struct RateOfChange {
    metric: String,
    /// Limits per microsecond; infinite: none.
    rise: f64,
    fall: f64,
    deadband: f64,
    /// The least time between two readings that are compared, in microseconds.
    over: i64,
    per_second: f64,
    severity: Severity,
    rise_key: String,
    fall_key: String,
    state: DeviceState<Before>,
}

impl RateOfChange {
    /// Says whether one side stands now.
    fn side(
        &self,
        row: usize,
        device: Device,
        rate: f64,
        limit: f64,
        stood: bool,
        (key, word): (&str, &str),
    ) -> bool {
        let stands = rate > limit || (stood && rate > limit - self.deadband);
        if stands {
            Alert::new(device, key, self.severity, &[&self.metric, " ", word, " too fast"].concat())
                .detail("rate", rate * self.per_second)
                .detail("limit", limit * self.per_second)
                .row(row)
                .trigger();
        } else if stood {
            clear(device, key, Some(row));
        }
        stands
    }
}

impl Rule for RateOfChange {
    type Parameters = Parameters;

    const MANIFEST: Manifest = Manifest {
        name: "rate-of-change",
        version: env!("CARGO_PKG_VERSION"),
        description: "A metric that rises or falls faster than a limit.",
        parameters: include_str!("../parameters.json"),
        state_version: 1,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        if parameters.rise.is_none() && parameters.fall.is_none() {
            return Err("give a limit for rise, for fall, or both".into());
        }
        // Rates are compared per microsecond: the unit of event times.
        let per = parameters.per * 1e6;
        let rule = Self {
            rise: parameters.rise.map_or(f64::INFINITY, |limit| limit / per),
            fall: parameters.fall.map_or(f64::INFINITY, |limit| limit / per),
            deadband: parameters.deadband / per,
            over: (parameters.over * 1e6) as i64,
            per_second: per,
            severity: parameters.severity,
            rise_key: parameters.metric.clone() + ".rise",
            fall_key: parameters.metric.clone() + ".fall",
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
            if value.is_nan() {
                continue;
            }
            let before = self.state.get(device);
            if !before.known {
                self.state.set(device, Before { time, value, known: true, ..before });
                continue;
            }
            // A late reading, or one too close to the last: it says nothing of the rate now.
            let span = time.saturating_sub(before.time);
            if span <= 0 || span < self.over {
                continue;
            }
            let rate = (value - before.value) / span as f64;
            let rising = self.side(row, device, rate, self.rise, before.rising, (&self.rise_key, "rises"));
            let falling = self.side(row, device, -rate, self.fall, before.falling, (&self.fall_key, "falls"));
            self.state.set(device, Before { time, value, known: true, rising, falling });
        }
        self.state.save();
        Ok(())
    }
}

watchfire_rule::export_rule!(RateOfChange);
