//! The device registry, as a plain value that control records are applied to.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{DeviceHandle, PartitionId};
use crate::index::Index;
use crate::time::Duration;
use crate::value::Value;

/// What is known of a device: what `PUT /devices/{id}` takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// 1 to 128 characters, unique in the installation.
    pub id: String,
    /// What kind of machine it is; empty: not said.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Where it stands; empty: not said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub site: String,
    /// Further names and values to select and group by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How often it reports; `None`: not said, and nothing is expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// Other devices that it may speak for, as a gateway does: ids, in which `*` stands for any run of characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub speaks_for: Vec<String>,
}

/// A registered device. A deleted one keeps its handle, which stays valid in what was recorded with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What is known of it.
    #[serde(flatten)]
    pub spec: DeviceSpec,
    /// It was deleted: it is selected by no rule and found by no name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// The devices of one partition as of one place in its log. Handles are places in `devices`.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    devices: Vec<Arc<Device>>,
    /// Follows from `devices`.
    by_id: Index,
    version: u64,
}

impl PartialEq for Registry {
    fn eq(&self, other: &Self) -> bool {
        (&self.devices, self.version) == (&other.devices, other.version)
    }
}

impl Eq for Registry {}

impl Registry {
    /// The registry that [`Registry::devices`] and [`Registry::version`] described.
    pub fn restore(devices: Vec<Arc<Device>>, version: u64) -> Self {
        let mut by_id = Index::default();
        for (i, device) in devices.iter().enumerate().filter(|(_, device)| !device.deleted) {
            by_id.insert(&device.spec.id, DeviceHandle(i as u32));
        }
        Self { devices, by_id, version }
    }

    /// Registers a device or changes what is known of it; returns its handle and whether it is new.
    pub fn put(&mut self, spec: DeviceSpec) -> (DeviceHandle, bool) {
        self.version += 1;
        if let Some(handle) = self.by_id.find(&spec.id) {
            self.devices[handle.0 as usize] = Arc::new(Device { spec, deleted: false });
            return (handle, false);
        }
        let handle = DeviceHandle(self.devices.len() as u32);
        self.by_id.insert(&spec.id, handle);
        self.devices.push(Arc::new(Device { spec, deleted: false }));
        (handle, true)
    }

    /// Deletes a device; returns the handle that it had.
    pub fn delete(&mut self, id: &str) -> Option<DeviceHandle> {
        let handle = self.by_id.remove(id)?;
        self.version += 1;
        let device = &mut self.devices[handle.0 as usize];
        *device = Arc::new(Device { spec: device.spec.clone(), deleted: true });
        Some(handle)
    }

    /// The handle of a device that is registered and not deleted.
    pub fn find(&self, id: &str) -> Option<DeviceHandle> {
        self.by_id.find(id)
    }

    /// The device of a handle, deleted or not.
    pub fn get(&self, handle: DeviceHandle) -> Option<&Arc<Device>> {
        self.devices.get(handle.0 as usize)
    }

    /// All devices by handle, the deleted ones included.
    pub fn devices(&self) -> &[Arc<Device>] {
        &self.devices
    }

    /// Grows with each change.
    pub fn version(&self) -> u64 {
        self.version
    }
}

impl DeviceSpec {
    /// `type`, `site`, or a label, as rules see it; `None` where it is not said.
    pub fn attribute(&self, name: &str) -> Option<Value> {
        let text = match name {
            "type" => &self.kind,
            "site" => &self.site,
            label => self.labels.get(label)?,
        };
        (!text.is_empty()).then(|| Value::Text(text.clone()))
    }

    /// Refuses an id that could not be a device: length 1 to 128, no control characters, none of `+ # /`
    /// (they would break MQTT topics), and no `$` in front (reserved by MQTT 5, section 4.7.2).
    pub fn check_id(id: &str) -> Result<(), String> {
        name_fault(id).map_or(Ok(()), |fault| Err(format!("device id {fault}")))
    }

    /// Refuses a member of `speaks_for` that no id could match. Each `*` costs a search in every reading, so there are
    /// 4 at most; two in a row say no more than one.
    pub fn check_pattern(pattern: &str) -> Result<(), String> {
        let fault = match name_fault(pattern) {
            Some(fault) => fault,
            None if pattern.contains("**") => "contains \"**\"; one '*' stands for any run".to_string(),
            None if pattern.matches('*').count() > 4 => "contains '*' more than 4 times".to_string(),
            None => return Ok(()),
        };
        Err(format!("pattern {pattern:?} {fault}"))
    }
}

/// What is wrong with a name that stands in topics.
fn name_fault(name: &str) -> Option<String> {
    match name.chars().count() {
        0 => return Some("is empty".into()),
        n if n > 128 => return Some(format!("has {n} characters; 128 are allowed")),
        _ => {}
    }
    match name.chars().find(|c| c.is_control() || matches!(c, '+' | '#' | '/')) {
        Some(c) => Some(format!("contains {c:?}")),
        None => name.starts_with('$').then(|| "starts with '$'".into()),
    }
}

/// The registry of every partition: where sources look devices up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries(pub Vec<Registry>);

impl Registries {
    /// Empty registries for this many partitions.
    pub fn new(partitions: u16) -> Self {
        Self(vec![Registry::default(); usize::from(partitions)])
    }

    /// The partition that owns a device, registered or not.
    pub fn partition_of(&self, id: &str) -> PartitionId {
        PartitionId::of(id, self.0.len() as u16)
    }

    /// Where a registered device is.
    pub fn find(&self, id: &str) -> Option<(PartitionId, DeviceHandle)> {
        let partition = self.partition_of(id);
        Some((partition, self.0.get(usize::from(partition.0))?.find(id)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(id: &str) -> DeviceSpec {
        DeviceSpec { id: id.into(), ..DeviceSpec::default() }
    }

    #[test]
    fn handles_are_dense_permanent_and_never_reused() {
        let mut registry = Registry::default();
        assert_eq!(registry.put(spec("a")), (DeviceHandle(0), true));
        assert_eq!(registry.put(spec("b")), (DeviceHandle(1), true));
        assert_eq!(registry.put(spec("a")), (DeviceHandle(0), false));
        assert_eq!(registry.delete("a"), Some(DeviceHandle(0)));
        assert_eq!(registry.find("a"), None);
        assert!(registry.get(DeviceHandle(0)).unwrap().deleted);
        assert_eq!(registry.put(spec("a")), (DeviceHandle(2), true));
        assert_eq!(registry.version(), 5);
        let again = Registry::restore(registry.devices().to_vec(), registry.version());
        assert_eq!(again, registry);
    }

    #[test]
    fn ids_that_would_break_topics_are_refused() {
        for bad in ["", "a/b", "a+", "#", "$SYS", "a\u{0}b", &"x".repeat(129)] {
            assert!(DeviceSpec::check_id(bad).is_err(), "{bad}");
        }
        for good in ["press-0042", "Presse-Ü", "leaf4:HundredGigE0.0"] {
            assert_eq!(DeviceSpec::check_id(good), Ok(()));
        }
    }

    #[test]
    fn patterns_that_no_device_could_match_are_refused() {
        for bad in ["", "devices/+", "a/*", "#", "$SYS*", "press-**", "*a*b*c*d*e", &"x".repeat(129)] {
            assert!(DeviceSpec::check_pattern(bad).is_err(), "{bad}");
        }
        for good in ["press-0042", "press-*", "*", "line-*-press-*"] {
            assert_eq!(DeviceSpec::check_pattern(good), Ok(()));
        }
    }
}
