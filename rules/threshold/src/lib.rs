//! Limits: a metric above its high or below its low limit.

use watchfire_rule::devices;
use watchfire_rule::prelude::*;

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde")]
struct Parameters {
    metric: Option<String>,
    high: Option<f64>,
    low: Option<f64>,
    severity: Severity,
    deadband: f64,
    limits: Vec<Limit>,
}

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde")]
struct Limit {
    metric: String,
    high: Option<f64>,
    low: Option<f64>,
    severity: Severity,
    deadband: f64,
}

/// A severity as it is stored: from 1; 0 is "within its limits".
fn code(severity: Severity) -> u8 {
    severity as u8 + 1
}

fn severity(code: u8) -> Severity {
    Severity::ALL[usize::from(code.clamp(1, 5)) - 1]
}

state! {
    /// How bad a metric of a device is, by the codes above; 0: not at all.
    struct Standing { high: u8, low: u8 }
}

/// One limit of one side of a metric. A low limit is kept with its sign turned: then both sides are "above".
struct Step {
    limit: f64,
    /// Where it counts as back within the limit.
    clear: f64,
    level: u8,
}

/// The limits of one side of a metric, the first one first reached.
#[derive(Default)]
struct Side(Vec<Step>);

impl Side {
    fn add(&mut self, limit: f64, deadband: f64, severity: Severity) {
        self.0.push(Step { limit, clear: limit - deadband, level: code(severity) });
    }

    /// Farther limits must be worse: else the worse one would hide behind the other.
    fn sort(&mut self, metric: &str) -> Result<(), String> {
        self.0.sort_by(|a, b| a.limit.total_cmp(&b.limit));
        if self.0.windows(2).any(|pair| pair[0].level >= pair[1].level || pair[0].limit == pair[1].limit) {
            return Err(format!(
                "{metric}: of two limits of one side the farther one must be the more severe"
            ));
        }
        Ok(())
    }

    fn first(&self) -> f64 {
        self.0.first().map_or(f64::INFINITY, |step| step.limit)
    }

    /// The worst limit that the value is above, or was above and is not far enough below again.
    fn standing(&self, value: f64, before: u8) -> Option<&Step> {
        self.0.iter().rev().find(|step| value > step.limit || (before >= step.level && value > step.clear))
    }
}

/// A metric with its limits.
struct Watch {
    metric: String,
    high: Side,
    low: Side,
    high_key: String,
    low_key: String,
    state: DeviceState<Standing>,
}

struct Threshold {
    watches: Vec<Watch>,
}

impl Watch {
    fn check(&mut self, batch: &Batch, version: u64) {
        let values = batch.numbers(&self.metric);
        // The common case: everything within its limits, and nothing to clear. Then only this column was
        // fetched, and not even whose values they are.
        let (high, low) = (self.high.first(), -self.low.first());
        let beyond = values.iter().fold(false, |beyond, &value| beyond | (value > high) | (value < low));
        if !beyond && self.state.covers_selected(version) && self.state.occupied() == 0 {
            return;
        }
        self.state.load(batch.devices());
        if !beyond && self.state.occupied() == 0 {
            return;
        }
        for (row, (&value, &device)) in values.iter().zip(batch.devices()).enumerate() {
            let before = self.state.get(device);
            if value.is_nan() || (before == Standing::default() && value <= high && value >= low) {
                continue;
            }
            let high = self.high.standing(value, before.high);
            let low = self.low.standing(-value, before.low);
            let now = Standing { high: high.map_or(0, |s| s.level), low: low.map_or(0, |s| s.level) };
            let sides = [
                (high.map(|step| step.limit), now.high, before.high, &self.high_key, "over"),
                (low.map(|step| -step.limit), now.low, before.low, &self.low_key, "under"),
            ];
            for (limit, now, before, key, word) in sides {
                match limit {
                    // Said again with each reading: it keeps the alert's value current, and raises it again
                    // where it was resolved by hand while the value stayed out of its limits.
                    Some(limit) => Alert::new(device, key, severity(now), &summary(&self.metric, word))
                        .detail("value", value)
                        .detail("limit", limit)
                        .row(row)
                        .trigger(),
                    None if before > 0 => clear(device, key, Some(row)),
                    None => {}
                }
            }
            self.state.set(device, now);
        }
        self.state.save();
    }
}

fn summary(metric: &str, word: &str) -> String {
    [metric, " is ", word, " its limit"].concat()
}

impl Rule for Threshold {
    type Parameters = Parameters;

    const MANIFEST: Manifest = Manifest {
        name: "threshold",
        version: env!("CARGO_PKG_VERSION"),
        description: "A metric above its high or below its low limit, with a deadband and several severities.",
        parameters: include_str!("../parameters.json"),
        state_version: 1,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let mut limits = parameters.limits;
        if let Some(metric) = parameters.metric {
            let Parameters { high, low, severity, deadband, .. } = parameters;
            limits.push(Limit { metric, high, low, severity, deadband });
        }
        if limits.is_empty() {
            return Err("give a metric with a limit, or a list of limits".into());
        }
        let mut watches: Vec<Watch> = Vec::new();
        for limit in limits {
            let place = watches.iter().position(|watch| watch.metric == limit.metric);
            let place = place.unwrap_or_else(|| {
                watches.push(Watch {
                    high: Side::default(),
                    low: Side::default(),
                    high_key: limit.metric.clone() + ".high",
                    low_key: limit.metric.clone() + ".low",
                    state: DeviceState::new(slot_of(&limit.metric)),
                    metric: limit.metric.clone(),
                });
                watches.len() - 1
            });
            let watch = &mut watches[place];
            if limit.high.is_none() && limit.low.is_none() {
                return Err(format!("{}: give a high limit, a low limit, or both", limit.metric));
            }
            if let (Some(high), Some(low)) = (limit.high, limit.low)
                && low >= high
            {
                return Err(format!("{}: the low limit is not below the high one", limit.metric));
            }
            if let Some(high) = limit.high {
                watch.high.add(high, limit.deadband, limit.severity);
            }
            if let Some(low) = limit.low {
                watch.low.add(-low, limit.deadband, limit.severity);
            }
        }
        for watch in &mut watches {
            watch.high.sort(&watch.metric)?;
            watch.low.sort(&watch.metric)?;
        }
        let subscription = Subscription::metrics(watches.iter().map(|watch| watch.metric.clone()));
        Ok((Self { watches }, subscription))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        let version = devices::version();
        for watch in &mut self.watches {
            watch.check(batch, version);
        }
        Ok(())
    }
}

watchfire_rule::export_rule!(Threshold);
