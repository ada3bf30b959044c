//! boiler-pressure: the pressure of a boiler was above its limit for some time.
//!
//! The limit has a deadband, so that a pressure that wavers around it is one excursion; and it has to last,
//! since a relief valve takes some seconds.

use watchfire_rule::prelude::*;

parameters! {
    struct Parameters {
        /// Alert when the pressure is above.
        high: f64 = 12, minimum = 0, maximum = 400, unit = "bar";
        /// How far below the limit the pressure must be to count as back.
        deadband: f64 = 0.5, minimum = 0, unit = "bar";
        /// For how long it must be above.
        hold: f64 = 10, minimum = 0, unit = "s";
    }
}

state! {
    /// What is known of one boiler.
    struct Boiler { over: Hysteresis, long: Debounce, raised: bool }
}

struct BoilerPressure {
    high: f64,
    low: f64,
    hold: i64,
}

impl DeviceRule for BoilerPressure {
    type Parameters = Parameters;
    type State = Boiler;

    const MANIFEST: Manifest = Manifest {
        name: "boiler-pressure",
        version: env!("CARGO_PKG_VERSION"),
        description: "The pressure of a boiler was above its limit for some time.",
        parameters: Parameters::SCHEMA,
        // One up whenever the layout of the state changes.
        state_version: 1,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let Parameters { high, deadband, hold } = parameters;
        let rule = Self { high, low: high - deadband, hold: seconds(hold) };
        Ok((rule, Subscription::metrics(["pressure"])))
    }

    fn on_reading(
        &mut self,
        device: &DeviceRef,
        reading: &Reading<'_>,
        state: &mut Boiler,
    ) -> Result<(), String> {
        // What came may have been a text.
        let Some(pressure) = reading.number("pressure") else { return Ok(()) };
        state.over.update(pressure, self.high, self.low);
        let over = state.over.active;
        if state.long.update(over, reading.time(), self.hold) {
            state.raised = true;
            // Said again with each reading: it keeps the values of the alert current.
            device
                .alert("pressure", Severity::Critical, "the pressure is too high")
                .detail("pressure", pressure)
                .detail("limit", self.high)
                .trigger();
        } else if !over && state.raised {
            state.raised = false;
            device.clear("pressure");
        }
        Ok(())
    }
}

export_device_rule!(BoilerPressure);
