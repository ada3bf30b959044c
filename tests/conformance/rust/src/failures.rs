//! Instances that are replaced, callbacks that fail, state of an older version, and the log.

use watchfire_rule::prelude::*;
use watchfire_rule::state_of;

use crate::{MANIFEST, Parameters};

state! {
    pub struct Count { count: i64 }
}

/// restart
pub struct Third;

impl DeviceRule for Third {
    type Parameters = Parameters;
    type State = Count;
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["n"])))
    }

    fn on_reading(&mut self, device: &DeviceRef, _: &Reading<'_>, state: &mut Count) -> Result<(), String> {
        state.count += 1;
        if state.count % 3 == 0 {
            device.alert("third", Severity::Info, "every third").detail("count", state.count).trigger();
        }
        Ok(())
    }
}

state! {
    pub struct CountAndTotal { count: i64, total: f64 }
}

/// migration
pub struct Total;

impl DeviceRule for Total {
    type Parameters = Parameters;
    type State = CountAndTotal;
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["n"])))
    }

    fn on_reading(
        &mut self,
        device: &DeviceRef,
        reading: &Reading<'_>,
        state: &mut CountAndTotal,
    ) -> Result<(), String> {
        let Some(x) = reading.number("n") else { return Ok(()) };
        state.count += 1;
        state.total += x;
        device
            .alert("total", Severity::Info, "total so far")
            .detail("count", state.count)
            .detail("total", state.total)
            .trigger();
        Ok(())
    }

    fn migrate(old_version: u32, slot: u32, blob: &[u8]) -> Result<Migrated, String> {
        if old_version != 1 {
            return Err(format!("state of version {old_version} cannot be taken over"));
        }
        if slot != 0 {
            return Err("no such slot".into());
        }
        // Of another size: nothing, as everywhere.
        let Count { count } = state_of(blob).unwrap_or_default();
        Ok(CountAndTotal { count, total: count as f64 * 1.0 }.into())
    }
}

fn count(reading: &Reading<'_>, state: &mut Count) {
    state.count += 1;
    reading.derive("count", state.count as f64);
}

/// error
pub struct Poison;

impl DeviceRule for Poison {
    type Parameters = Parameters;
    type State = Count;
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["n"])))
    }

    fn on_reading(&mut self, _: &DeviceRef, reading: &Reading<'_>, state: &mut Count) -> Result<(), String> {
        let Some(x) = reading.number("n") else { return Ok(()) };
        if x == 666.0 {
            return Err("poison: 666".into());
        }
        count(reading, state);
        Ok(())
    }
}

/// trap
pub struct Trap;

impl DeviceRule for Trap {
    type Parameters = Parameters;
    type State = Count;
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["n"])))
    }

    fn on_reading(&mut self, _: &DeviceRef, reading: &Reading<'_>, state: &mut Count) -> Result<(), String> {
        let Some(x) = reading.number("n") else { return Ok(()) };
        assert!(x != 667.0, "trap: 667");
        count(reading, state);
        Ok(())
    }
}

/// log
pub struct Talkative;

impl DeviceRule for Talkative {
    type Parameters = Parameters;
    type State = ();
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics(["n"])))
    }

    fn on_reading(&mut self, _: &DeviceRef, reading: &Reading<'_>, (): &mut ()) -> Result<(), String> {
        let Some(n) = reading.number("n") else { return Ok(()) };
        log::info(&format!("n is {}", n as i64));
        Ok(())
    }
}
