//! Counts readings and adds them up: the second version of a module that only counted. It takes the counts over,
//! but for 13, which it has something against.

use watchfire_rule::prelude::*;
use watchfire_rule::state_of;

parameters! {
    struct Parameters {
        /// From so many readings on there is an alert.
        most: u32 = 3;
    }
}

state! {
    struct Count { count: u32 }
}

state! {
    struct CountAndTotal { count: u64, total: f64 }
}

struct Tally {
    most: u32,
}

impl DeviceRule for Tally {
    type Parameters = Parameters;
    type State = CountAndTotal;

    const MANIFEST: Manifest = Manifest {
        name: "tally",
        version: "2.0.0",
        description: "Counts readings and adds them up.",
        parameters: Parameters::SCHEMA,
        state_version: 2,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self { most: parameters.most }, Subscription::metrics(["n"])))
    }

    fn on_reading(
        &mut self,
        device: &DeviceRef,
        reading: &Reading<'_>,
        state: &mut CountAndTotal,
    ) -> Result<(), String> {
        state.count += 1;
        state.total += reading.number("n").unwrap_or_default();
        if state.count >= u64::from(self.most) {
            let alert = device.alert("many", Severity::Info, "many readings");
            alert.detail("count", state.count as f64).detail("total", state.total).trigger();
        }
        Ok(())
    }

    fn migrate(old_version: u32, slot: u32, blob: &[u8]) -> Result<Migrated, String> {
        match (old_version, slot, state_of::<Count>(blob)) {
            (1, 0, Some(Count { count: 13 })) => Err("13 is no count".into()),
            (1, 0, Some(old)) => Ok(CountAndTotal { count: old.count.into(), total: 0.0 }.into()),
            _ => Err(format!("state of version {old_version} cannot be taken over")),
        }
    }
}

watchfire_rule::export_device_rule!(Tally);
