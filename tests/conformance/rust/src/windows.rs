//! What is remembered of numbers: means, rates, windows.

use watchfire_rule::prelude::*;

use crate::{MANIFEST, Parameters};

const MINUTE: i64 = 60_000_000;

/// ewma
pub struct Odd {
    alpha: f64,
}

impl DeviceRule for Odd {
    type Parameters = Parameters;
    type State = Ewma;
    const MANIFEST: Manifest = MANIFEST;

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        if parameters.alpha <= 0.0 {
            return Err("alpha is not above 0".into());
        }
        Ok((Self { alpha: parameters.alpha }, Subscription::metrics(["vibration"])))
    }

    fn on_reading(
        &mut self,
        device: &DeviceRef,
        reading: &Reading<'_>,
        state: &mut Ewma,
    ) -> Result<(), String> {
        let Some(x) = reading.number("vibration") else { return Ok(()) };
        let deviation = state.deviation(x);
        if state.count >= 10 && deviation.abs() > 3.0 {
            device.alert("odd", Severity::Minor, "vibration deviates").detail("z", deviation).trigger();
        }
        state.update(x, self.alpha);
        reading.derive("vibration_mean", state.mean);
        reading.derive("vibration_variance", state.variance);
        Ok(())
    }
}

/// sliding
pub struct Sliding {
    window: SlidingWindow,
}

impl DeviceRule for Sliding {
    type Parameters = Parameters;
    type State = ();
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        let window = SlidingWindow::new(slot_of("window"), 6, MINUTE);
        Ok((Self { window }, Subscription::metrics(["flow"])))
    }

    fn on_reading(&mut self, device: &DeviceRef, reading: &Reading<'_>, (): &mut ()) -> Result<(), String> {
        let Some(x) = reading.number("flow") else { return Ok(()) };
        self.window.add(device, reading.time(), x);
        let over = self.window.over(device, reading.time());
        reading.derive("flow_mean", over.mean);
        reading.derive("flow_min", over.min);
        reading.derive("flow_max", over.max);
        reading.derive("flow_count", over.count as f64);
        Ok(())
    }

    fn windows(&mut self) -> Vec<&mut SlidingWindow> {
        vec![&mut self.window]
    }
}

/// tumbling
pub struct Tumbling;

impl DeviceRule for Tumbling {
    type Parameters = Parameters;
    type State = TumblingWindow;
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["flow"])))
    }

    fn on_reading(
        &mut self,
        device: &DeviceRef,
        reading: &Reading<'_>,
        state: &mut TumblingWindow,
    ) -> Result<(), String> {
        let Some(x) = reading.number("flow") else { return Ok(()) };
        if let Some(closed) = state.add(reading.time(), x, MINUTE) {
            emit(&device.name(), "flow_1m", closed.mean, closed.end);
            emit(&device.name(), "flow_1m_max", closed.max, closed.end);
        }
        Ok(())
    }
}

/// rate
pub struct Rate;

impl DeviceRule for Rate {
    type Parameters = Parameters;
    type State = RateOfChange;
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["level"])))
    }

    fn on_reading(
        &mut self,
        _: &DeviceRef,
        reading: &Reading<'_>,
        state: &mut RateOfChange,
    ) -> Result<(), String> {
        let Some(x) = reading.number("level") else { return Ok(()) };
        reading.derive("level_rate", state.update(reading.time(), x).unwrap_or(f64::NAN));
        Ok(())
    }
}
