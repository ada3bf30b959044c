//! Fleet outlier: a device that differs from its peers, which are those of its type at its site.
//!
//! Devices of one site are in several partitions, and a rule sees those of one. So it is three rules, a [`Step`] each,
//! in a chain of streams.
//!
//! [`report`] publishes what each device has, for the device that stands for its site; the log carries it to the
//! partition of that one. [`compare`] sees all of a site there, and answers each value with what the peers have: published
//! for the device that it came from, so it goes back to where that one lives. [`judge`] alerts there: an alert can be
//! raised for devices of the own partition only.

mod compare;
mod judge;
mod peers;
mod report;

use watchfire_rule::prelude::*;

use compare::Compare;
use judge::Judge;
use report::Report;

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde", rename_all = "lowercase")]
enum StepName {
    Report,
    Compare,
    Judge,
}

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde")]
struct Parameters {
    step: StepName,
    metric: String,
    every: f64,
    prefix: String,
    least_peers: u32,
    fresh: f64,
    least_deviation: f64,
    trigger_deviations: f64,
    clear_deviations: f64,
    severity: Severity,
}

/// What the streams call things: names made of that of the metric, so that chains of several metrics may share streams.
struct Names {
    metric: String,
    median: String,
    deviation: String,
    peers: String,
}

/// On the stream of sites: which device a value is of, and of which type that is.
const DEVICE: &str = "device";
const TYPE: &str = "type";

impl Names {
    fn new(metric: String) -> Self {
        Self {
            median: metric.clone() + "_median",
            deviation: metric.clone() + "_deviation",
            peers: metric.clone() + "_peers",
            metric,
        }
    }
}

/// The rule of the chain that this deployment is.
enum Step {
    Report(Report),
    Compare(Compare),
    Judge(Judge),
}

impl Rule for Step {
    type Parameters = Parameters;

    const MANIFEST: Manifest = Manifest {
        name: "fleet-outlier",
        version: env!("CARGO_PKG_VERSION"),
        description: "A device that differs from those of its type at its site. Three rules in a chain, a step each.",
        parameters: include_str!("../parameters.json"),
        state_version: 1,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let names = Names::new(parameters.metric);
        Ok(match parameters.step {
            StepName::Report => {
                let subscription = Subscription::metrics([names.metric.clone()]);
                (Self::Report(Report::new(names, parameters.every, parameters.prefix)), subscription)
            }
            StepName::Compare => {
                let subscription = Subscription::metrics([&names.metric, DEVICE, TYPE]);
                let least = (parameters.least_peers as usize, parameters.least_deviation);
                (Self::Compare(Compare::new(names, least, parameters.fresh)), subscription)
            }
            StepName::Judge => {
                let Parameters { trigger_deviations, clear_deviations, severity, .. } = parameters;
                if clear_deviations > trigger_deviations {
                    return Err("clear_deviations must not be above trigger_deviations".into());
                }
                let Names { metric, median, deviation, peers } = &names;
                let subscription =
                    Subscription::metrics([metric, median, deviation, peers].map(String::as_str));
                (
                    Self::Judge(Judge::new(names, (trigger_deviations, clear_deviations), severity)),
                    subscription,
                )
            }
        })
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        match self {
            Self::Report(report) => report.on_batch(batch),
            Self::Compare(compare) => compare.on_batch(batch),
            Self::Judge(judge) => judge.on_batch(batch),
        }
        Ok(())
    }
}

watchfire_rule::export_rule!(Step);
