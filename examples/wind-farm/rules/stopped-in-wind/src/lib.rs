//! A turbine that gives no power although the wind is good. How long that must stand before it is an alert is said
//! at the deployment (`condition.on_delay`): the rule keeps no state.

use watchfire_rule::prelude::*;

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde")]
struct Parameters {
    wind_mps: f64,
    power_kw: f64,
    severity: Severity,
}

struct StoppedInWind(Parameters);

impl Rule for StoppedInWind {
    type Parameters = Parameters;

    const MANIFEST: Manifest = Manifest {
        name: "stopped-in-wind",
        version: env!("CARGO_PKG_VERSION"),
        description: "A turbine that gives no power although the wind is good.",
        parameters: include_str!("../parameters.json"),
        state_version: 0,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self(parameters), Subscription::metrics(["power_kw", "wind_speed_mps"])))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        let (power, wind) = (batch.numbers("power_kw"), batch.numbers("wind_speed_mps"));
        for (row, (&power, &wind)) in power.iter().zip(wind.iter()).enumerate() {
            // Without both nothing can be said.
            if power.is_nan() || wind.is_nan() {
                continue;
            }
            let device = batch.device(row);
            if power < self.0.power_kw && wind > self.0.wind_mps {
                Alert::new(device, "stopped", self.0.severity, "no power in good wind")
                    .detail("power_kw", power)
                    .detail("wind_speed_mps", wind)
                    .row(row)
                    .trigger();
            } else {
                clear(device, "stopped", Some(row));
            }
        }
        Ok(())
    }
}

watchfire_rule::export_rule!(StoppedInWind);
