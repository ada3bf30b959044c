//! Write a Watchfire rule in Rust.
//!
//! A rule is a value of your type: `start` makes it from the parameters of the deployment, and the callbacks
//! are its methods. There are two levels. [`DeviceRule`] looks at one reading of one device at a time, and is
//! what most rules want:
//!
//! ```no_run
//! use watchfire_rule::prelude::*;
//!
//! parameters! {
//!     struct Parameters {
//!         /// Alert when the temperature is above.
//!         high: f64 = 80, minimum = -50, maximum = 500, unit = "°C";
//!     }
//! }
//!
//! state! {
//!     struct Standing { hot: bool }
//! }
//!
//! struct Hot { high: f64 }
//!
//! impl DeviceRule for Hot {
//!     type Parameters = Parameters;
//!     type State = Standing;
//!     const MANIFEST: Manifest = Manifest {
//!         name: "hot",
//!         version: "0.1.0",
//!         description: "Temperature over a limit.",
//!         parameters: Parameters::SCHEMA,
//!         state_version: 1,
//!     };
//!     fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
//!         Ok((Hot { high: parameters.high }, Subscription::metrics(["temperature"])))
//!     }
//!     fn on_reading(
//!         &mut self,
//!         device: &DeviceRef,
//!         reading: &Reading<'_>,
//!         state: &mut Standing,
//!     ) -> Result<(), String> {
//!         let Some(x) = reading.number("temperature") else { return Ok(()) };
//!         if x > self.high {
//!             state.hot = true;
//!             device.alert("hot", Severity::Major, "temperature over the limit").detail("value", x).trigger();
//!         } else if state.hot {
//!             state.hot = false;
//!             device.clear("hot");
//!         }
//!         Ok(())
//!     }
//! }
//!
//! export_device_rule!(Hot);
//! ```
//!
//! [`Rule`] gets a whole batch, as columns, and sees to its state itself: for speed, and for what looks at
//! many devices at once.
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
//! where a batch is cut is chance; so everything that a later verdict depends on belongs into the state of a
//! device, which is stored at the end of each callback. After a callback that returned an error the rule is
//! made anew, since what it stored was dropped.

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
mod bytes;
mod device;
mod device_rule;
mod effects;
#[doc(hidden)]
pub mod glue;
mod helpers;
pub mod log;
mod parameters;
mod reading;
mod rule;
#[doc(hidden)]
pub mod schema;
mod state;
mod window;

pub use alert::{Alert, clear};
pub use batch::Batch;
pub use bindings::watchfire::rule::alerts::Severity;
pub use bindings::watchfire::rule::readings::{Column, Kind, TextColumn};
pub use bindings::watchfire::rule::timers::Timer;
pub use bindings::watchfire::rule::types::{Detail, Device, Timestamp, Value};
pub use bindings::watchfire::rule::{devices, output, timers};
pub use bytes::DeviceBytes;
pub use device::{DeviceRef, find, selected_devices};
pub use device_rule::{DeviceRule, Migrated, PerDevice, migrate_each};
pub use effects::emit;
pub use glue::now;
pub use helpers::{Debounce, Edge, Ewma, Hysteresis, RateOfChange, TumblingWindow, Window};
#[doc(hidden)]
pub use parameters::Members;
pub use parameters::{Parameter, parameters_of};
pub use reading::Reading;
pub use rule::{Manifest, Rule, Schedule, Silence, SilentDevice, States, Subscription};
pub use serde;
/// What a parameter is before [`Parameter::from_json`].
pub use serde_json::Value as Json;
pub use state::{DeviceState, Field, State, bytes_of, slot_of, state_of};
pub use window::SlidingWindow;

// So that what the macros expand to finds the crate from within as well.
extern crate self as watchfire_rule;

/// Microseconds of so many seconds, to the nearest: times and spans of the contract are in microseconds.
pub fn seconds(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
}

/// What most rules use.
pub mod prelude {
    pub use crate::serde::Deserialize;
    pub use crate::{
        Alert, Batch, Debounce, Device, DeviceRef, DeviceRule, DeviceState, Edge, Ewma, Hysteresis, Manifest,
        Migrated, RateOfChange, Reading, Rule, Schedule, Severity, Silence, SilentDevice, SlidingWindow,
        Subscription, Timer, Timestamp, TumblingWindow, choice, clear, emit, export_device_rule, export_rule,
        find, log, now, parameters, seconds, selected_devices, slot_of, state,
    };
}
