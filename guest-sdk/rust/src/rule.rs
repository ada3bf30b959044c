//! What a rule is.

use serde::de::DeserializeOwned;

use crate::bindings::exports::watchfire::rule::handler;
use crate::{Batch, Timer, Timestamp};

pub use crate::bindings::exports::watchfire::rule::silence_handler::SilentDevice;
pub use crate::bindings::watchfire::rule::types::Blobs as States;

/// A rule. Only `start` and `on_batch` have to be written.
pub trait Rule: Sized {
    /// What the deployment gives, valid against the schema in the manifest, defaults filled in. Use
    /// [`serde::de::IgnoredAny`] for a rule without.
    type Parameters: DeserializeOwned;

    /// What the module says of itself.
    const MANIFEST: Manifest;

    /// Makes the rule and says what it wants to be called for: a pure function of the parameters. An error
    /// refuses the deploy. May log, and call nothing else.
    fn start(parameters: Self::Parameters) -> Result<(Self, Subscription), String>;

    /// Readings. An error is a text for the operator; what the callback did is dropped.
    fn on_batch(&mut self, batch: &Batch) -> Result<(), String>;

    /// Timers that are due at one time.
    fn on_timers(&mut self, due: &[Timer]) -> Result<(), String> {
        let _ = due;
        Ok(())
    }

    /// Devices that fell silent at one time; see [`Subscription::silence`].
    fn on_silence(&mut self, devices: &[SilentDevice]) -> Result<(), String> {
        let _ = devices;
        Ok(())
    }

    /// A schedule of the subscription.
    fn on_schedule(&mut self, name: &str, at: Timestamp) -> Result<(), String> {
        let _ = (name, at);
        Ok(())
    }

    /// State of an older [`Manifest::state_version`], brought up to the present one; an entry each.
    fn migrate(old_version: u32, slot: u32, states: States) -> Result<States, String> {
        let _ = (slot, states);
        Err(format!("state of version {old_version} cannot be taken over"))
    }
}

/// What a module says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Manifest {
    /// 1 to 64 characters of `a-z 0-9 - _ .`.
    pub name: &'static str,
    /// The version of the module.
    pub version: &'static str,
    /// One or two sentences.
    pub description: &'static str,
    /// JSON Schema of the parameters, with units and defaults; empty: none.
    pub parameters: &'static str,
    /// Version of the layout of the state, from 1; 0: keeps none.
    pub state_version: u32,
}

/// What a rule wants to be called for.
#[derive(Clone, Debug, Default)]
pub struct Subscription {
    /// Metrics of the readings that it gets; empty: all. A trailing `*` matches any suffix.
    pub metrics: Vec<String>,
    /// When a device counts as silent.
    pub silence: Silence,
    /// When it is called whatever comes.
    pub schedules: Vec<Schedule>,
}

impl Subscription {
    /// Readings with any of these metrics.
    pub fn metrics<T: Into<String>>(metrics: impl IntoIterator<Item = T>) -> Self {
        Self { metrics: metrics.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// All readings.
    pub fn everything() -> Self {
        Self::default()
    }

    /// As before, and called when a device falls silent.
    pub fn silence(mut self, silence: Silence) -> Self {
        self.silence = silence;
        self
    }

    /// As before, and called at these times.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedules.push(schedule);
        self
    }
}

/// When a device counts as silent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Silence {
    /// Never.
    #[default]
    Off,
    /// After twice the interval that the registry expects of the device.
    Registry,
    /// After so many microseconds.
    After(u64),
}

/// A time at which a rule is called.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// What the rule calls it.
    pub name: String,
    /// Five-field cron in its Unix meaning.
    pub cron: String,
    /// IANA time zone; `None`: UTC.
    pub zone: Option<String>,
}

impl From<Subscription> for handler::Subscription {
    fn from(subscription: Subscription) -> Self {
        Self {
            metrics: subscription.metrics,
            silence: match subscription.silence {
                Silence::Off => handler::Silence::Off,
                Silence::Registry => handler::Silence::Registry,
                Silence::After(span) => handler::Silence::After(span),
            },
            schedules: subscription
                .schedules
                .into_iter()
                .map(|s| handler::Schedule { name: s.name, cron: s.cron, zone: s.zone })
                .collect(),
            extra: None,
        }
    }
}

impl From<Manifest> for handler::Manifest {
    fn from(manifest: Manifest) -> Self {
        Self {
            name: manifest.name.into(),
            version: manifest.version.into(),
            description: manifest.description.into(),
            parameters: manifest.parameters.into(),
            state_version: manifest.state_version,
            extra: None,
        }
    }
}
