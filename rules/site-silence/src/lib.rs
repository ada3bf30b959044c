//! Site silence: a large share of the devices of a site is silent.
//!
//! Devices of one site are in several partitions, and a rule sees those of one. So it is two rules in a chain, a [`Step`]
//! each.
//!
//! [`report`] counts, in each partition and by site, the devices and those of them that are silent, and publishes the
//! counts for the device that stands for the site. [`judge`] adds up there what the partitions said.

mod judge;
mod parts;
mod report;
mod sites;

use watchfire_rule::prelude::*;

use judge::Judge;
use report::Report;

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde", rename_all = "lowercase")]
enum StepName {
    Report,
    Judge,
}

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde")]
struct Parameters {
    step: StepName,
    after: Option<f64>,
    prefix: String,
    names: u32,
    share: f64,
    clear_share: f64,
    least_devices: u32,
    settle: f64,
    severity: Severity,
}

// What the stream of sites carries.

/// Who counted: the partition.
const PART: &str = "part";
/// The devices of the site in it.
const DEVICES: &str = "devices";
/// How many of them are silent.
const SILENT: &str = "silent";
/// The first of these by name, with [`BETWEEN`] between them.
const NAMES: &str = "names";

/// No id of a device has it.
const BETWEEN: char = '/';

/// The rule of the chain that this deployment is.
enum Step {
    Report(Report),
    Judge(Judge),
}

impl Rule for Step {
    type Parameters = Parameters;

    const MANIFEST: Manifest = Manifest {
        name: "site-silence",
        version: env!("CARGO_PKG_VERSION"),
        description: "A large share of a site's devices is silent. Two rules in a chain, a step each.",
        parameters: include_str!("../parameters.json"),
        state_version: 1,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let most_names = parameters.names as usize;
        Ok(match parameters.step {
            StepName::Report => {
                let silence = match parameters.after {
                    Some(after) => Silence::After((after * 1e6) as u64),
                    None => Silence::Registry,
                };
                let minute = Schedule { name: "count".into(), cron: "* * * * *".into(), zone: None };
                // Any reading ends the silence, so it gets all of them; it looks at none.
                let subscription = Subscription::everything().silence(silence).schedule(minute);
                (Self::Report(Report::new(parameters.prefix, most_names)), subscription)
            }
            StepName::Judge => {
                let Parameters { share, clear_share, least_devices, settle, severity, .. } = parameters;
                if clear_share > share {
                    return Err("clear_share must not be above share".into());
                }
                let limits =
                    judge::Limits { share, clear_share, least_devices: least_devices.into(), most_names };
                let subscription = Subscription::metrics([PART, DEVICES, SILENT, NAMES]);
                (Self::Judge(Judge::new(limits, settle, severity)), subscription)
            }
        })
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        match self {
            Self::Report(report) => report.on_batch(batch),
            Self::Judge(judge) => judge.on_batch(batch),
        }
        Ok(())
    }

    fn on_timers(&mut self, due: &[Timer]) -> Result<(), String> {
        let devices: Vec<Device> = due.iter().map(|timer| timer.device).collect();
        match self {
            Self::Report(report) => report.publish_sites_of(&devices),
            Self::Judge(judge) => judge.judge(&devices),
        }
        Ok(())
    }

    fn on_silence(&mut self, silent: &[SilentDevice]) -> Result<(), String> {
        if let Self::Report(report) = self {
            report.on_silence(silent);
        }
        Ok(())
    }

    fn on_schedule(&mut self, _: &str, _: Timestamp) -> Result<(), String> {
        if let Self::Report(report) = self {
            report.publish_all();
        }
        Ok(())
    }
}

watchfire_rule::export_rule!(Step);
