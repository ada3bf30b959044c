//! Every case of the conformance suite, in one component: the parameter `case` says which. What each does is
//! in the table of ../README.md; it is the same in every language.

mod alerts;
mod failures;
mod streams;
mod times;
mod windows;

use watchfire_rule::prelude::*;
use watchfire_rule::{PerDevice, States};

parameters! {
    pub struct Parameters {
        case: String = "threshold";
        /// Above it.
        high: f64 = 80, minimum = -1000, maximum = 1000, unit = "°C";
        deadband: f64 = 5;
        alpha: f64 = 0.1, minimum = 0, maximum = 1;
        hold: f64 = 30, unit = "s";
        name: String = "plant";
    }
}

/// What every case says of itself: there is one component.
const MANIFEST: Manifest = Manifest {
    name: "conformance",
    version: "0.1.0",
    description: "Every case of the conformance suite.",
    parameters: Parameters::SCHEMA,
    state_version: 2,
};

/// The callbacks of a case, whichever it is.
trait Case {
    fn on_batch(&mut self, batch: &Batch) -> Result<(), String>;
    fn on_timers(&mut self, due: &[Timer]) -> Result<(), String>;
    fn on_silence(&mut self, devices: &[SilentDevice]) -> Result<(), String>;
    fn on_schedule(&mut self, name: &str, at: Timestamp) -> Result<(), String>;
}

impl<R: Rule> Case for R {
    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        Rule::on_batch(self, batch)
    }
    fn on_timers(&mut self, due: &[Timer]) -> Result<(), String> {
        Rule::on_timers(self, due)
    }
    fn on_silence(&mut self, devices: &[SilentDevice]) -> Result<(), String> {
        Rule::on_silence(self, devices)
    }
    fn on_schedule(&mut self, name: &str, at: Timestamp) -> Result<(), String> {
        Rule::on_schedule(self, name, at)
    }
}

type Started = Result<(Box<dyn Case>, Subscription), String>;

/// A case of the per-device level.
fn each<R: DeviceRule<Parameters = Parameters> + 'static>(parameters: Parameters) -> Started {
    batch::<PerDevice<R>>(parameters)
}

/// A case of the batch level.
fn batch<R: Rule<Parameters = Parameters> + 'static>(parameters: Parameters) -> Started {
    let (rule, subscription) = R::start(parameters)?;
    Ok((Box::new(rule), subscription))
}

struct Conformance(Box<dyn Case>);

impl Rule for Conformance {
    type Parameters = Parameters;

    const MANIFEST: Manifest = MANIFEST;

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let start = match parameters.case.as_str() {
            "threshold" => each::<alerts::Threshold>,
            "threshold-batch" => batch::<alerts::ThresholdBatch>,
            "hysteresis" => each::<alerts::Level>,
            "debounce" => each::<alerts::Open>,
            "parameters" => each::<alerts::Limit>,
            "text-flag" => each::<alerts::Fault>,
            "missing" => each::<alerts::Missing>,
            "devices" => each::<alerts::Seen>,
            "ewma" => each::<windows::Odd>,
            "sliding" => each::<windows::Sliding>,
            "tumbling" => each::<windows::Tumbling>,
            "rate" => each::<windows::Rate>,
            "timers" => each::<times::Overdue>,
            "silence" => each::<times::Silent>,
            "schedule" => each::<times::Hourly>,
            "late" => each::<times::Late>,
            "stream" => each::<streams::Power>,
            "keep" => each::<streams::Changed>,
            "emit-site" => each::<streams::Site>,
            "math" => each::<streams::Math>,
            "restart" => each::<failures::Third>,
            "migration" => each::<failures::Total>,
            "error" => each::<failures::Poison>,
            "trap" => each::<failures::Trap>,
            "log" => each::<failures::Talkative>,
            other => return Err(format!("unknown case {other}")),
        };
        let (case, subscription) = start(parameters)?;
        Ok((Self(case), subscription))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        self.0.on_batch(batch)
    }

    fn on_timers(&mut self, due: &[Timer]) -> Result<(), String> {
        self.0.on_timers(due)
    }

    fn on_silence(&mut self, devices: &[SilentDevice]) -> Result<(), String> {
        self.0.on_silence(devices)
    }

    fn on_schedule(&mut self, name: &str, at: Timestamp) -> Result<(), String> {
        self.0.on_schedule(name, at)
    }

    // Called in an instance that was not started: whatever the case, it is that of the case "migration".
    fn migrate(old_version: u32, slot: u32, states: States) -> Result<States, String> {
        <PerDevice<failures::Total> as Rule>::migrate(old_version, slot, states)
    }
}

export_rule!(Conformance);
