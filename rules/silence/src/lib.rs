//! Silence: a device that stopped reporting.

use watchfire_rule::devices;
use watchfire_rule::prelude::*;

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde")]
struct Parameters {
    after: Option<f64>,
    severity: Severity,
}

const KEY: &str = "silent";

state! {
    /// Whether the device was reported as silent.
    struct Reported { silent: bool }
}

struct Silent {
    severity: Severity,
    state: DeviceState<Reported>,
}

impl Rule for Silent {
    type Parameters = Parameters;

    const MANIFEST: Manifest = Manifest {
        name: "silence",
        version: env!("CARGO_PKG_VERSION"),
        description: "A device that has not reported for too long; its next reading clears.",
        parameters: include_str!("../parameters.json"),
        state_version: 1,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let silence = match parameters.after {
            Some(seconds) => Silence::After((seconds * 1e6) as u64),
            None => Silence::Registry,
        };
        let rule = Self { severity: parameters.severity, state: DeviceState::new(0) };
        // Any reading ends the silence, so the rule gets all of them; it looks at none.
        Ok((rule, Subscription::everything().silence(silence)))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        // The common case: nobody was silent, so whose readings these are need not be known.
        if self.state.covers_selected(devices::version()) && self.state.occupied() == 0 {
            return Ok(());
        }
        self.state.load(batch.devices());
        if self.state.occupied() == 0 {
            return Ok(());
        }
        for (row, &device) in batch.devices().iter().enumerate() {
            if self.state.get(device).silent {
                clear(device, KEY, Some(row));
                self.state.set(device, Reported::default());
            }
        }
        self.state.save();
        Ok(())
    }

    fn on_silence(&mut self, silent: &[SilentDevice]) -> Result<(), String> {
        let now = watchfire_rule::now();
        let devices: Vec<Device> = silent.iter().map(|silent| silent.device).collect();
        self.state.load(&devices);
        for silent in silent {
            let alert = Alert::new(silent.device, KEY, self.severity, "the device has stopped reporting");
            match silent.last {
                Some(last) => alert.detail("seconds", now.saturating_sub(last) as f64 / 1e6),
                None => alert.detail("ever", false),
            }
            .trigger();
            self.state.set(silent.device, Reported { silent: true });
        }
        self.state.save();
        Ok(())
    }
}

watchfire_rule::export_rule!(Silent);
