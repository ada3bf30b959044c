//! The selected devices of this partition by their site, as of one version of the registry.

use std::collections::{BTreeMap, HashMap};

use watchfire_rule::{Device, Value, devices};

/// Devices that one call of the host gives.
const AT_ONCE: u32 = 4096;

/// Kept until the registry changes.
#[derive(Default)]
pub struct Sites {
    version: Option<u64>,
    by_site: BTreeMap<String, Vec<Device>>,
    of: HashMap<Device, String>,
}

impl Sites {
    /// Asks the host again where the registry has changed.
    pub fn refresh(&mut self) {
        let version = Some(devices::version());
        if self.version == version {
            return;
        }
        *self = Self { version, ..Self::default() };
        let mut after = None;
        loop {
            let some = devices::selected(after, AT_ONCE);
            let Some(&last) = some.last() else { return };
            for (&device, site) in some.iter().zip(devices::attribute("site", &some)) {
                // A device without a site is none of this rule's.
                let Some(Value::Text(site)) =
                    site.filter(|site| !matches!(site, Value::Text(text) if text.is_empty()))
                else {
                    continue;
                };
                self.by_site.entry(site.clone()).or_default().push(device);
                self.of.insert(device, site);
            }
            after = Some(last);
        }
    }

    /// The site of a device.
    pub fn of(&self, device: Device) -> Option<&str> {
        self.of.get(&device).map(String::as_str)
    }

    /// The devices of a site, in order of their handles.
    pub fn devices(&self, site: &str) -> &[Device] {
        self.by_site.get(site).map_or(&[], Vec::as_slice)
    }

    /// All sites, by name.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.by_site.keys().map(String::as_str)
    }
}

/// What this partition is called where counts of several come together: as its first device, which is another one in
/// each. Handles are permanent, so that is the same for ever; the number of a partition is none of a rule's business.
pub fn partition() -> String {
    devices::name(0)
}
