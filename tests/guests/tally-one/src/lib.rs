//! Counts readings: the first of two versions of a module, which keep state of different layouts.

use watchfire_rule::prelude::*;

parameters! {
    struct Parameters {
        /// From so many readings on there is an alert.
        most: u32 = 3;
    }
}

state! {
    struct Count { count: u32 }
}

struct Tally {
    most: u32,
}

impl DeviceRule for Tally {
    type Parameters = Parameters;
    type State = Count;

    const MANIFEST: Manifest = Manifest {
        name: "tally",
        version: "1.0.0",
        description: "Counts readings.",
        parameters: Parameters::SCHEMA,
        state_version: 1,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self { most: parameters.most }, Subscription::metrics(["n"])))
    }

    fn on_reading(&mut self, device: &DeviceRef, _: &Reading<'_>, state: &mut Count) -> Result<(), String> {
        state.count += 1;
        if state.count >= self.most {
            device.alert("many", Severity::Info, "many readings").detail("count", state.count).trigger();
        }
        Ok(())
    }
}

watchfire_rule::export_device_rule!(Tally);
