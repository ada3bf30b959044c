//! Write a Watchfire rule in Rust.
//!
//! A rule is a value of your type: [`Rule::start`] makes it from the parameters of the deployment, and the
//! callbacks are its methods. [`export_rule!`] makes a module of it. A whole one:
//!
//! ```no_run
//! use watchfire_rule::prelude::*;
//!
//! #[derive(Deserialize)]
//! #[serde(crate = "watchfire_rule::serde")]
//! struct Parameters { high: f64 }
//!
//! struct Hot { high: f64 }
//!
//! impl Rule for Hot {
//!     type Parameters = Parameters;
//!     const MANIFEST: Manifest = Manifest {
//!         name: "hot",
//!         version: "0.1.0",
//!         description: "Temperature over a limit.",
//!         parameters: r#"{"type":"object","properties":{"high":{"type":"number","default":80,"unit":"°C"}}}"#,
//!         state_version: 0,
//!     };
//!     fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
//!         Ok((Hot { high: parameters.high }, Subscription::metrics(["temperature"])))
//!     }
//!     fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
//!         for (row, &value) in batch.numbers("temperature").iter().enumerate() {
//!             if value > self.high {
//!                 Alert::new(batch.device(row), "hot", Severity::Major, "temperature over the limit")
//!                     .detail("value", value)
//!                     .row(row)
//!                     .trigger();
//!             }
//!         }
//!         Ok(())
//!     }
//! }
//!
//! export_rule!(Hot);
//! ```
//!
//! Build it as a `cdylib` with `panic = "abort"`; `watchfire rule build` does the rest.
//!
//! What a rule keeps in its fields is a cache. The host may replace the instance before any callback, and
//! where a batch is cut is chance; so everything that a later verdict depends on belongs into
//! [`DeviceState`], which stores what changed at the end of each callback. After a callback that returned an
//! error the rule is made anew, since what it stored was dropped.

mod alert;
mod batch;
#[allow(missing_docs)]
pub mod bindings {
    //! What `wit/rule.wit` looks like from a rule, generated: everything the comfort layer does not cover.
    wit_bindgen::generate!({
        world: "full-rule",
        path: "wit",
        pub_export_macro: true,
        default_bindings_module: "watchfire_rule::bindings",
        export_macro_name: "export_module",
    });
}
#[doc(hidden)]
pub mod glue;
mod rule;
mod state;

pub use alert::{Alert, clear};
pub use batch::Batch;
pub use bindings::watchfire::rule::alerts::Severity;
pub use bindings::watchfire::rule::readings::{Column, Kind, TextColumn};
pub use bindings::watchfire::rule::timers::Timer;
pub use bindings::watchfire::rule::types::{Detail, Device, Timestamp, Value};
pub use bindings::watchfire::rule::{devices, log, output, timers};
pub use rule::{Manifest, Rule, Schedule, Silence, SilentDevice, States, Subscription};
pub use serde;
pub use state::{DeviceState, Field, State, slot_of};

/// The time of the log at this callback, in microseconds since the Unix epoch: the only clock there is.
pub fn now() -> Timestamp {
    bindings::watchfire::rule::clock::now()
}

/// What most rules use.
pub mod prelude {
    pub use crate::serde::Deserialize;
    pub use crate::{
        Alert, Batch, Device, DeviceState, Manifest, Rule, Schedule, Severity, Silence, SilentDevice,
        Subscription, Timer, Timestamp, clear, export_rule, slot_of, state,
    };
}
