//! Band: a metric outside of, or inside, a band around what it should be.

use watchfire_rule::devices;
use watchfire_rule::prelude::*;

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(crate = "watchfire_rule::serde", rename_all = "lowercase")]
enum When {
    Outside,
    Inside,
}

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde")]
struct Parameters {
    metric: String,
    setpoint: Option<f64>,
    setpoint_metric: Option<String>,
    above: Option<f64>,
    below: Option<f64>,
    when: When,
    deadband: f64,
    settle: f64,
    severity: Severity,
}

state! {
    /// The setpoint that the device said, since when (event time), and which conditions stand.
    struct Standing { setpoint: f64, since: i64, known: bool, above: bool, below: bool, inside: bool }
}

/// What a value should be.
enum Setpoint {
    Fixed(f64),
    /// The device says it: in the readings of the metric or in others.
    Metric(String),
}

struct Band {
    metric: String,
    setpoint: Setpoint,
    /// Widths; infinite: the band has no such end.
    above: f64,
    below: f64,
    inside: bool,
    deadband: f64,
    /// In microseconds.
    settle: i64,
    severity: Severity,
    above_key: String,
    below_key: String,
    inside_key: String,
    state: DeviceState<Standing>,
}

impl Band {
    /// Whether a value is neither beyond an end of a fixed band nor anything that could clear.
    fn is_quiet(&mut self, values: &[f64]) -> bool {
        let Setpoint::Fixed(setpoint) = self.setpoint else { return false };
        if self.inside {
            return false;
        }
        let (high, low) = (setpoint + self.above, setpoint - self.below);
        let beyond = values.iter().fold(false, |beyond, &value| beyond | (value > high) | (value < low));
        !beyond && self.state.covers_selected(devices::version()) && self.state.occupied() == 0
    }

    fn judge(&self, device: Device, row: usize, value: f64, setpoint: f64, before: Standing) -> Standing {
        let deviation = value - setpoint;
        let mut now = before;
        if self.inside {
            // On an end is inside; it is left once the metric is farther out than the deadband.
            let back = if before.inside { self.deadband } else { 0.0 };
            now.inside = deviation <= self.above + back && -deviation <= self.below + back;
            self.say(
                device,
                row,
                (value, setpoint),
                (&self.inside_key, "inside"),
                (before.inside, now.inside),
            );
            return now;
        }
        let beyond = |distance: f64, width: f64, stood: bool| {
            distance > width || (stood && distance > width - self.deadband)
        };
        now.above = beyond(deviation, self.above, before.above);
        now.below = beyond(-deviation, self.below, before.below);
        self.say(device, row, (value, setpoint), (&self.above_key, "above"), (before.above, now.above));
        self.say(device, row, (value, setpoint), (&self.below_key, "below"), (before.below, now.below));
        now
    }

    fn say(
        &self,
        device: Device,
        row: usize,
        (value, setpoint): (f64, f64),
        (key, word): (&str, &str),
        (stood, stands): (bool, bool),
    ) {
        if stands {
            // Said again with each reading: it keeps the alert's value current.
            Alert::new(device, key, self.severity, &[&self.metric, " is ", word, " its band"].concat())
                .detail("value", value)
                .detail("setpoint", setpoint)
                .detail("deviation", value - setpoint)
                .row(row)
                .trigger();
        } else if stood {
            clear(device, key, Some(row));
        }
    }
}

impl Rule for Band {
    type Parameters = Parameters;

    const MANIFEST: Manifest = Manifest {
        name: "band",
        version: env!("CARGO_PKG_VERSION"),
        description: "A metric outside of, or inside, a band around a setpoint that is fixed or another metric.",
        parameters: include_str!("../parameters.json"),
        state_version: 1,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let Parameters { metric, above, below, deadband, .. } = parameters;
        let setpoint = match (parameters.setpoint, parameters.setpoint_metric) {
            (Some(setpoint), None) => Setpoint::Fixed(setpoint),
            (None, Some(metric)) => Setpoint::Metric(metric),
            _ => return Err("give either setpoint or setpoint_metric".into()),
        };
        if above.is_none() && below.is_none() {
            return Err("give above, below, or both: a band has an end".into());
        }
        let inside = parameters.when == When::Inside;
        if let (Some(above), Some(below), false) = (above, below, inside)
            && deadband > above + below
        {
            return Err("the deadband is wider than the band: an alert would never clear".into());
        }
        let mut metrics = vec![metric.clone()];
        if let Setpoint::Metric(setpoint) = &setpoint {
            if *setpoint == metric {
                return Err("setpoint_metric is the metric itself".into());
            }
            metrics.push(setpoint.clone());
        }
        let rule = Self {
            above_key: metric.clone() + ".above",
            below_key: metric.clone() + ".below",
            inside_key: metric.clone() + ".inside",
            state: DeviceState::new(slot_of(&metric)),
            metric,
            setpoint,
            above: above.unwrap_or(f64::INFINITY),
            below: below.unwrap_or(f64::INFINITY),
            inside,
            deadband,
            settle: seconds(parameters.settle),
            severity: parameters.severity,
        };
        Ok((rule, Subscription::metrics(metrics)))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        let values = batch.numbers(&self.metric);
        if self.is_quiet(&values) {
            return Ok(());
        }
        let (devices, times) = (batch.devices(), batch.times());
        let said = match &self.setpoint {
            Setpoint::Fixed(_) => Vec::new(),
            Setpoint::Metric(metric) => batch.numbers(metric),
        };
        self.state.load(devices);
        for (row, ((&value, &device), &time)) in values.iter().zip(devices).zip(times).enumerate() {
            let mut standing = self.state.get(device);
            // A setpoint from before the present one was first said is late.
            if let Some(&said) = said.get(row)
                && !said.is_nan()
                && (!standing.known || (said != standing.setpoint && time >= standing.since))
            {
                standing = Standing { setpoint: said, since: time, known: true, ..standing };
            }
            let setpoint = match self.setpoint {
                Setpoint::Fixed(setpoint) => Some(setpoint),
                Setpoint::Metric(_) => {
                    let settled = time.saturating_sub(standing.since) >= self.settle;
                    (standing.known && settled).then_some(standing.setpoint)
                }
            };
            if let Some(setpoint) = setpoint
                && !value.is_nan()
            {
                standing = self.judge(device, row, value, setpoint, standing);
            }
            self.state.set(device, standing);
        }
        self.state.save();
        Ok(())
    }
}

watchfire_rule::export_rule!(Band);
