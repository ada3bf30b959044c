//! The per-device level: a rule that sees one reading of one device at a time, made a [`Rule`].

use serde::de::DeserializeOwned;

use crate::reading::{Columns, Reading};
use crate::state::{DeviceState, State, bytes_of};
use crate::{
    Batch, Device, DeviceRef, Manifest, Rule, SilentDevice, SlidingWindow, States, Subscription, Timer,
    Timestamp,
};

/// A rule that looks at one reading of one device at a time. Only `start` and `on_reading` have to be written,
/// and [`crate::export_device_rule!`] makes a module of it.
///
/// It costs no call of the host for a row: columns, devices, times and state are fetched once a batch, and
/// what the rule does is handed over once, at its end; an alert is handed over at once.
///
/// An error fails the whole callback: what it did is dropped, and the rule is made anew from what is stored.
pub trait DeviceRule: Sized {
    /// What the deployment gives: made by [`crate::parameters!`], or any type that serde reads.
    type Parameters: DeserializeOwned;

    /// What is kept for each device, in slot 0: made by [`crate::state!`]; `()` for nothing. Stored again
    /// where it is another after a callback.
    type State: State;

    /// What the module says of itself.
    const MANIFEST: Manifest;

    /// Makes the rule and says what it wants to be called for: a pure function of the parameters. An error
    /// refuses the deploy. May log, and call nothing else.
    fn start(parameters: Self::Parameters) -> Result<(Self, Subscription), String>;

    /// A reading that has one of the metrics of the subscription, in the order of the log.
    fn on_reading(
        &mut self,
        device: &DeviceRef,
        reading: &Reading<'_>,
        state: &mut Self::State,
    ) -> Result<(), String>;

    /// A timer that the rule set is due; `at` is what it was set to.
    fn on_timer(
        &mut self,
        device: &DeviceRef,
        tag: u32,
        at: Timestamp,
        state: &mut Self::State,
    ) -> Result<(), String> {
        let _ = (device, tag, at, state);
        Ok(())
    }

    /// A device fell silent; `last` is the time of its last reading, if there ever was one. See
    /// [`Subscription::silence`].
    fn on_silence(
        &mut self,
        device: &DeviceRef,
        last: Option<Timestamp>,
        state: &mut Self::State,
    ) -> Result<(), String> {
        let _ = (device, last, state);
        Ok(())
    }

    /// A schedule of the subscription. Of the states, [`DeviceState::load_selected`] loads those of all
    /// selected devices; what changes is saved by the SDK.
    fn on_schedule(
        &mut self,
        name: &str,
        at: Timestamp,
        states: &mut DeviceState<Self::State>,
    ) -> Result<(), String> {
        let _ = (name, at, states);
        Ok(())
    }

    /// The sliding windows of the rule: the SDK loads them for the devices of a callback and saves them.
    fn windows(&mut self) -> Vec<&mut SlidingWindow> {
        Vec::new()
    }

    /// One state of an older [`Manifest::state_version`], brought up to the present one: `Ok(state.into())`,
    /// or its bytes. [`crate::state_of`] reads the old one.
    fn migrate(old_version: u32, slot: u32, blob: &[u8]) -> Result<Migrated, String> {
        let _ = (slot, blob);
        Err(format!("state of version {old_version} cannot be taken over"))
    }
}

/// What a migration makes of one blob.
pub struct Migrated(Vec<u8>);

impl<T: State> From<T> for Migrated {
    fn from(state: T) -> Self {
        Self(bytes_of(&state))
    }
}

impl From<Vec<u8>> for Migrated {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Migrated {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

/// Migrates blobs one by one: for [`Rule::migrate`].
pub fn migrate_each(
    states: &States,
    mut one: impl FnMut(&[u8]) -> Result<Migrated, String>,
) -> Result<States, String> {
    let mut migrated = States { lengths: Vec::with_capacity(states.lengths.len()), data: Vec::new() };
    let mut rest = &states.data[..];
    for &length in &states.lengths {
        let (blob, others) = rest.split_at_checked(length as usize).ok_or("the states are cut short")?;
        rest = others;
        let Migrated(bytes) = one(blob)?;
        migrated.lengths.push(bytes.len() as u32);
        migrated.data.extend(bytes);
    }
    Ok(migrated)
}

/// A [`DeviceRule`] as a [`Rule`].
pub struct PerDevice<R: DeviceRule> {
    rule: R,
    state: DeviceState<R::State>,
    columns: Columns,
}

impl<R: DeviceRule> PerDevice<R> {
    fn load(&mut self, devices: &[Device]) {
        // A rule without state asks for none.
        if R::State::SIZE > 0 {
            self.state.load(devices);
        }
        self.rule.windows().into_iter().for_each(|window| window.load(devices));
    }

    fn save(&mut self) {
        self.state.save();
        self.rule.windows().into_iter().for_each(SlidingWindow::save);
    }

    #[inline]
    fn with_state(
        &mut self,
        device: Device,
        call: impl FnOnce(&mut R, &mut R::State) -> Result<(), String>,
    ) -> Result<(), String> {
        let Self { rule, state, .. } = self;
        if R::State::SIZE == 0 {
            return call(rule, &mut R::State::default());
        }
        state.update(device, |state| call(rule, state))
    }
}

impl<R: DeviceRule> Rule for PerDevice<R> {
    type Parameters = R::Parameters;

    const MANIFEST: Manifest = R::MANIFEST;

    fn start(parameters: R::Parameters) -> Result<(Self, Subscription), String> {
        let (rule, subscription) = R::start(parameters)?;
        Ok((Self { rule, state: DeviceState::new(0), columns: Columns::default() }, subscription))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        let devices = batch.devices();
        self.load(devices);
        self.columns.clear();
        // Apart, so that a reading can look at them while the rule changes.
        let columns = std::mem::take(&mut self.columns);
        for (row, &handle) in devices.iter().enumerate() {
            let device = DeviceRef::of_row(handle, row);
            let reading = Reading { batch, columns: &columns, row };
            self.with_state(handle, |rule, state| rule.on_reading(&device, &reading, state))?;
        }
        self.columns = columns;
        self.save();
        Ok(())
    }

    fn on_timers(&mut self, due: &[Timer]) -> Result<(), String> {
        self.load(&due.iter().map(|timer| timer.device).collect::<Vec<_>>());
        for timer in due {
            let device = DeviceRef::from(timer.device);
            self.with_state(timer.device, |rule, state| rule.on_timer(&device, timer.tag, timer.at, state))?;
        }
        self.save();
        Ok(())
    }

    fn on_silence(&mut self, silent: &[SilentDevice]) -> Result<(), String> {
        self.load(&silent.iter().map(|silent| silent.device).collect::<Vec<_>>());
        for silent in silent {
            let device = DeviceRef::from(silent.device);
            self.with_state(silent.device, |rule, state| rule.on_silence(&device, silent.last, state))?;
        }
        self.save();
        Ok(())
    }

    fn on_schedule(&mut self, name: &str, at: Timestamp) -> Result<(), String> {
        self.rule.on_schedule(name, at, &mut self.state)?;
        self.save();
        Ok(())
    }

    fn migrate(old_version: u32, slot: u32, states: States) -> Result<States, String> {
        migrate_each(&states, |blob| R::migrate(old_version, slot, blob))
    }
}

/// Makes a module of a type that implements [`DeviceRule`].
#[macro_export]
macro_rules! export_device_rule {
    ($rule:ty) => {
        $crate::export_rule!($crate::PerDevice<$rule>);
    };
}
