//! Output streams.

use watchfire_rule::prelude::*;

use crate::{MANIFEST, Parameters};

/// stream
pub struct Power;

impl DeviceRule for Power {
    type Parameters = Parameters;
    type State = ();
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["voltage", "current"])))
    }

    fn on_reading(&mut self, _: &DeviceRef, reading: &Reading<'_>, (): &mut ()) -> Result<(), String> {
        if let (Some(voltage), Some(current)) = (reading.number("voltage"), reading.number("current")) {
            reading.derive("power", voltage * current);
        }
        Ok(())
    }
}

/// keep
pub struct Changed;

impl DeviceRule for Changed {
    type Parameters = Parameters;
    type State = ();
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["changed"])))
    }

    fn on_reading(&mut self, _: &DeviceRef, reading: &Reading<'_>, (): &mut ()) -> Result<(), String> {
        reading.keep(reading.number("changed").is_some_and(|changed| changed > 0.0));
        Ok(())
    }
}

/// emit-site
pub struct Site;

impl DeviceRule for Site {
    type Parameters = Parameters;
    type State = ();
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["temperature"])))
    }

    fn on_reading(&mut self, device: &DeviceRef, reading: &Reading<'_>, (): &mut ()) -> Result<(), String> {
        if let (Some(x), Some(site)) = (reading.number("temperature"), device.site()) {
            emit(&site, "site_temperature", x, reading.time());
        }
        Ok(())
    }
}

/// math
pub struct Math;

impl DeviceRule for Math {
    type Parameters = Parameters;
    type State = ();
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["x"])))
    }

    fn on_reading(&mut self, _: &DeviceRef, reading: &Reading<'_>, (): &mut ()) -> Result<(), String> {
        let Some(x) = reading.number("x") else { return Ok(()) };
        reading.derive("sum", x + 0.1);
        reading.derive("difference", x - 0.1);
        reading.derive("product", x * 1.1);
        reading.derive("quotient", x / 3.0);
        reading.derive("root", x.abs().sqrt());
        reading.derive("sine", x.sin());
        reading.derive("exponential", (x / 100.0).exp());
        reading.derive("logarithm", (x.abs() + 1.0).ln());
        reading.derive("power", x.abs().powf(0.3));
        reading.derive("floor", x.floor());
        Ok(())
    }
}
