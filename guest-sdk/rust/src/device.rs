//! A device as the per-device level hands it out: nothing but its handle until something is asked of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::bindings::watchfire::rule::devices;
use crate::{Alert, Device, Severity, Timestamp, Value, clear, effects};

/// A device. Within [`crate::DeviceRule::on_reading`] its alerts carry the reading by themselves.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRef {
    handle: Device,
    row: Option<u32>,
}

impl DeviceRef {
    #[inline]
    pub(crate) fn of_row(handle: Device, row: usize) -> Self {
        Self { handle, row: Some(row as u32) }
    }

    /// What the functions of the batch level take.
    #[inline]
    pub fn handle(&self) -> Device {
        self.handle
    }

    /// Its name in the registry. Asked of the host once, until the registry changes.
    pub fn name(&self) -> Rc<str> {
        REGISTRY.with_borrow_mut(|registry| registry.name(self.handle))
    }

    /// Its type in the registry.
    pub fn kind(&self) -> Option<Rc<str>> {
        self.label("type")
    }

    /// Its site in the registry.
    pub fn site(&self) -> Option<Rc<str>> {
        self.label("site")
    }

    /// One of its labels in the registry, if it has it. Asked of the host once, until the registry changes.
    pub fn label(&self, name: &str) -> Option<Rc<str>> {
        REGISTRY.with_borrow_mut(|registry| registry.label(self.handle, name))
    }

    /// An alert of this device: add details, then [`Alert::trigger`].
    pub fn alert(&self, key: &str, severity: Severity, summary: &str) -> Alert {
        let alert = Alert::new(self.handle, key, severity, summary);
        match self.row {
            Some(row) => alert.row(row as usize),
            None => alert,
        }
    }

    /// Says that a condition of this device does not stand.
    pub fn clear(&self, key: &str) {
        clear(self.handle, key, self.row.map(|row| row as usize));
    }

    /// Has the rule called for this device at a time of the log, once. Setting the same tag again moves it.
    pub fn set_timer(&self, tag: u32, at: Timestamp) {
        effects::set_timer(self.handle, tag, at);
    }

    /// Takes back [`DeviceRef::set_timer`].
    pub fn cancel_timer(&self, tag: u32) {
        effects::cancel_timer(self.handle, tag);
    }
}

impl PartialEq for DeviceRef {
    fn eq(&self, other: &Self) -> bool {
        self.handle == other.handle
    }
}

impl Eq for DeviceRef {}

/// Outside of a row: alerts have the time of the callback.
impl From<Device> for DeviceRef {
    fn from(handle: Device) -> Self {
        Self { handle, row: None }
    }
}

impl From<DeviceRef> for Device {
    #[inline]
    fn from(device: DeviceRef) -> Self {
        device.handle
    }
}

impl From<&DeviceRef> for Device {
    #[inline]
    fn from(device: &DeviceRef) -> Self {
        device.handle
    }
}

/// The registered device of a name, if it is of this partition.
pub fn find(name: &str) -> Option<DeviceRef> {
    devices::find(name).map(DeviceRef::from)
}

/// Devices that one call of the host gives.
const AT_ONCE: u32 = 4096;

/// The devices that the rule selects, in order of handle.
pub fn selected_devices() -> impl Iterator<Item = DeviceRef> {
    let mut page = devices::selected(None, AT_ONCE).into_iter();
    let mut last = None;
    std::iter::from_fn(move || {
        let next = page.next().or_else(|| {
            // The page is read; without a last device there was none, and nothing follows.
            page = devices::selected(Some(last?), AT_ONCE).into_iter();
            page.next()
        })?;
        last = Some(next);
        Some(next.into())
    })
}

/// What was asked of the registry, as of one version of it.
#[derive(Default)]
struct Registry {
    /// The version was compared in this callback.
    fresh: bool,
    version: Option<u64>,
    names: HashMap<Device, Rc<str>>,
    labels: HashMap<String, HashMap<Device, Option<Rc<str>>>>,
}

thread_local! {
    static REGISTRY: RefCell<Registry> = RefCell::default();
}

/// Before a callback: the registry may have changed since the one before.
pub(crate) fn begin() {
    REGISTRY.with_borrow_mut(|registry| registry.fresh = false);
}

impl Registry {
    fn check_version(&mut self) {
        if self.fresh {
            return;
        }
        self.fresh = true;
        let version = Some(devices::version());
        if self.version != version {
            self.version = version;
            self.names.clear();
            self.labels.clear();
        }
    }

    fn name(&mut self, device: Device) -> Rc<str> {
        self.check_version();
        self.names.entry(device).or_insert_with(|| devices::name(device).into()).clone()
    }

    fn label(&mut self, device: Device, name: &str) -> Option<Rc<str>> {
        self.check_version();
        if !self.labels.contains_key(name) {
            self.labels.insert(name.into(), HashMap::new());
        }
        let known = self.labels.get_mut(name)?;
        known
            .entry(device)
            .or_insert_with(|| text(devices::attribute(name, &[device]).pop().flatten()))
            .clone()
    }
}

fn text(value: Option<Value>) -> Option<Rc<str>> {
    match value? {
        Value::Text(text) => Some(text.into()),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Boolean(flag) => Some(flag.to_string().into()),
    }
}
