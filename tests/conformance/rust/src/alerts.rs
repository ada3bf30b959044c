//! Alerts: from numbers, flags, texts, and from what the registry says.

use watchfire_rule::prelude::*;

use crate::{MANIFEST, Parameters};

state! {
    pub struct Active { active: bool }
}

pub struct Threshold {
    high: f64,
    low: f64,
}

impl DeviceRule for Threshold {
    type Parameters = Parameters;
    type State = Active;
    const MANIFEST: Manifest = MANIFEST;

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let Parameters { high, deadband, .. } = parameters;
        Ok((Self { high, low: high - deadband }, Subscription::metrics(["temperature"])))
    }

    fn on_reading(
        &mut self,
        device: &DeviceRef,
        reading: &Reading<'_>,
        state: &mut Active,
    ) -> Result<(), String> {
        let Some(x) = reading.number("temperature") else { return Ok(()) };
        if !state.active && x > self.high {
            state.active = true;
            device
                .alert("hot", Severity::Major, "temperature over the limit")
                .detail("value", x)
                .detail("limit", self.high)
                .trigger();
        } else if state.active && x < self.low {
            state.active = false;
            device.clear("hot");
        }
        Ok(())
    }
}

/// The same over columns, with state by hand.
pub struct ThresholdBatch {
    high: f64,
    low: f64,
    state: DeviceState<Active>,
}

impl Rule for ThresholdBatch {
    type Parameters = Parameters;
    const MANIFEST: Manifest = MANIFEST;

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let Parameters { high, deadband, .. } = parameters;
        let rule = Self { high, low: high - deadband, state: DeviceState::new(0) };
        Ok((rule, Subscription::metrics(["temperature"])))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        let values = batch.numbers("temperature");
        self.state.load(batch.devices());
        for (row, (&x, &device)) in values.iter().zip(batch.devices()).enumerate() {
            // NaN, no value, is neither above nor below.
            let active = self.state.get(device).active;
            if !active && x > self.high {
                self.state.set(device, Active { active: true });
                Alert::new(device, "hot", Severity::Major, "temperature over the limit")
                    .detail("value", x)
                    .detail("limit", self.high)
                    .row(row)
                    .trigger();
            } else if active && x < self.low {
                self.state.set(device, Active { active: false });
                clear(device, "hot", Some(row));
            }
        }
        self.state.save();
        Ok(())
    }
}

/// hysteresis
pub struct Level {
    on: f64,
    off: f64,
}

impl DeviceRule for Level {
    type Parameters = Parameters;
    type State = Hysteresis;
    const MANIFEST: Manifest = MANIFEST;

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let Parameters { high, deadband, .. } = parameters;
        Ok((Self { on: high, off: high - deadband }, Subscription::metrics(["level"])))
    }

    fn on_reading(
        &mut self,
        device: &DeviceRef,
        reading: &Reading<'_>,
        state: &mut Hysteresis,
    ) -> Result<(), String> {
        let Some(x) = reading.number("level") else { return Ok(()) };
        match state.update(x, self.on, self.off) {
            Edge::Rising => device.alert("level", Severity::Major, "level is high").trigger(),
            Edge::Falling => device.clear("level"),
            Edge::Unchanged => {}
        }
        Ok(())
    }
}

state! {
    pub struct Opening { debounce: Debounce, raised: bool }
}

/// debounce
pub struct Open {
    hold: i64,
}

impl DeviceRule for Open {
    type Parameters = Parameters;
    type State = Opening;
    const MANIFEST: Manifest = MANIFEST;

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self { hold: seconds(parameters.hold) }, Subscription::metrics(["open"])))
    }

    fn on_reading(
        &mut self,
        device: &DeviceRef,
        reading: &Reading<'_>,
        state: &mut Opening,
    ) -> Result<(), String> {
        let Some(open) = reading.flag("open") else { return Ok(()) };
        let held = state.debounce.update(open, reading.time(), self.hold);
        if held && !state.raised {
            state.raised = true;
            device
                .alert("open", Severity::Warning, "open for too long")
                .detail("since", state.debounce.since)
                .trigger();
        } else if !open && state.raised {
            state.raised = false;
            device.clear("open");
        }
        Ok(())
    }
}

/// parameters
pub struct Limit {
    high: f64,
}

impl DeviceRule for Limit {
    type Parameters = Parameters;
    type State = ();
    const MANIFEST: Manifest = MANIFEST;

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self { high: parameters.high }, Subscription::metrics(["temperature"])))
    }

    fn on_reading(&mut self, device: &DeviceRef, reading: &Reading<'_>, (): &mut ()) -> Result<(), String> {
        let Some(x) = reading.number("temperature") else { return Ok(()) };
        if x > self.high {
            device.alert("limit", Severity::Major, "temperature over the limit").trigger();
        } else {
            device.clear("limit");
        }
        Ok(())
    }
}

/// text-flag
pub struct Fault;

impl DeviceRule for Fault {
    type Parameters = Parameters;
    type State = ();
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["mode", "running"])))
    }

    fn on_reading(&mut self, device: &DeviceRef, reading: &Reading<'_>, (): &mut ()) -> Result<(), String> {
        match (reading.text("mode"), reading.flag("running")) {
            (Some(mode @ "fault"), Some(true)) => device
                .alert("fault", Severity::Critical, "fault while running")
                .detail("mode", mode)
                .detail("running", true)
                .trigger(),
            (Some("fault") | None, _) => {}
            (Some(_), _) => device.clear("fault"),
        }
        Ok(())
    }
}

/// missing
pub struct Missing;

impl DeviceRule for Missing {
    type Parameters = Parameters;
    type State = ();
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["a", "b"])))
    }

    fn on_reading(&mut self, device: &DeviceRef, reading: &Reading<'_>, (): &mut ()) -> Result<(), String> {
        match (reading.number("a"), reading.number("b")) {
            (Some(_), _) => device.clear("a-missing"),
            (None, Some(_)) => device.alert("a-missing", Severity::Major, "a is missing").trigger(),
            (None, None) => {}
        }
        Ok(())
    }
}

/// devices
pub struct Seen {
    name: String,
}

impl DeviceRule for Seen {
    type Parameters = Parameters;
    type State = ();
    const MANIFEST: Manifest = MANIFEST;

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self { name: parameters.name }, Subscription::metrics(["temperature"])))
    }

    fn on_reading(&mut self, device: &DeviceRef, _: &Reading<'_>, (): &mut ()) -> Result<(), String> {
        device
            .alert("seen", Severity::Info, "device seen")
            .detail("name", &*device.name())
            .detail("type", device.kind().as_deref().unwrap_or("none"))
            .detail("line", device.label("line").as_deref().unwrap_or("none"))
            .detail("found", find(&self.name).is_some())
            .trigger();
        Ok(())
    }
}
