//! Timers, silence, schedules, and readings that come late.

use watchfire_rule::prelude::*;

use crate::{MANIFEST, Parameters};

/// timers
pub struct Overdue;

impl DeviceRule for Overdue {
    type Parameters = Parameters;
    type State = ();
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["start", "done"])))
    }

    fn on_reading(&mut self, device: &DeviceRef, reading: &Reading<'_>, (): &mut ()) -> Result<(), String> {
        if reading.flag("start") == Some(true) {
            device.set_timer(1, now() + seconds(10.0));
        }
        if reading.flag("done") == Some(true) {
            device.cancel_timer(1);
            device.clear("overdue");
        }
        Ok(())
    }

    fn on_timer(&mut self, device: &DeviceRef, tag: u32, _: Timestamp, (): &mut ()) -> Result<(), String> {
        device.alert("overdue", Severity::Major, "not done in time").detail("tag", tag).trigger();
        Ok(())
    }
}

state! {
    pub struct Silence30 { silent: bool }
}

/// silence
pub struct Silent;

impl DeviceRule for Silent {
    type Parameters = Parameters;
    type State = Silence30;
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        let silence = Silence::After(30_000_000);
        Ok((Self, Subscription::metrics(["temperature"]).silence(silence)))
    }

    fn on_reading(
        &mut self,
        device: &DeviceRef,
        _: &Reading<'_>,
        state: &mut Silence30,
    ) -> Result<(), String> {
        if state.silent {
            state.silent = false;
            device.clear("silent");
        }
        Ok(())
    }

    fn on_silence(
        &mut self,
        device: &DeviceRef,
        last: Option<Timestamp>,
        state: &mut Silence30,
    ) -> Result<(), String> {
        state.silent = true;
        let mut alert = device.alert("silent", Severity::Warning, "no readings");
        if let Some(last) = last {
            alert = alert.detail("last", last);
        }
        alert.trigger();
        Ok(())
    }
}

state! {
    pub struct Count { count: i64 }
}

/// schedule
pub struct Hourly {
    name: String,
}

impl DeviceRule for Hourly {
    type Parameters = Parameters;
    type State = Count;
    const MANIFEST: Manifest = MANIFEST;

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let hourly = Schedule { name: "hourly".into(), cron: "0 * * * *".into(), zone: None };
        let subscription = Subscription::metrics(["temperature"]).schedule(hourly);
        Ok((Self { name: parameters.name }, subscription))
    }

    fn on_reading(&mut self, _: &DeviceRef, _: &Reading<'_>, state: &mut Count) -> Result<(), String> {
        state.count += 1;
        Ok(())
    }

    fn on_schedule(&mut self, _: &str, at: Timestamp, states: &mut DeviceState<Count>) -> Result<(), String> {
        states.load_selected();
        let (mut total, mut devices) = (0, 0_i64);
        for device in selected_devices() {
            total += states.get(device.handle()).count;
            devices += 1;
            states.set(device.handle(), Count { count: 0 });
        }
        emit(&self.name, "readings", total, at);
        emit(&self.name, "devices", devices, at);
        Ok(())
    }
}

state! {
    pub struct Last { last: i64, count: i64 }
}

/// late
pub struct Late;

impl DeviceRule for Late {
    type Parameters = Parameters;
    type State = Last;
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["n"])))
    }

    fn on_reading(
        &mut self,
        device: &DeviceRef,
        reading: &Reading<'_>,
        state: &mut Last,
    ) -> Result<(), String> {
        if reading.time() < state.last {
            state.count += 1;
            device
                .alert("late", Severity::Info, "a late reading")
                .detail("by", state.last - reading.time())
                .detail("count", state.count)
                .trigger();
        } else {
            state.last = reading.time();
        }
        Ok(())
    }
}
