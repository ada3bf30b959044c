//! Commands about devices.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::broadcast;
use watchfire_model::{Actor, Control, DeviceSpec};

use super::{ControlError, ControlPlane};

/// Devices of one record at most.
const DEVICES_PER_RECORD: usize = 5_000;

/// Patterns of devices that one device may speak for: each is tried for each reading that it brings.
const PATTERNS: usize = 64;

/// Refuses what could not be a device, or could be too much of one.
pub(crate) fn check_device(spec: &DeviceSpec) -> Result<(), String> {
    check_properties(spec)?;
    match check_grant(spec) {
        Ok(()) => Ok(()),
        Err((_, fault)) => Err(fault),
    }
}

/// Refuses a grant that says nothing or too much; gives the member at fault too, as a JSON pointer.
fn check_grant(spec: &DeviceSpec) -> Result<(), (String, String)> {
    if spec.speaks_for.len() > PATTERNS {
        let fault = format!("speaks_for has {} patterns; {PATTERNS} are allowed", spec.speaks_for.len());
        return Err(("/speaks_for".into(), fault));
    }
    spec.speaks_for.iter().enumerate().try_for_each(|(i, pattern)| {
        DeviceSpec::check_pattern(pattern).map_err(|fault| (format!("/speaks_for/{i}"), fault))
    })
}

fn check_properties(spec: &DeviceSpec) -> Result<(), String> {
    DeviceSpec::check_id(&spec.id)?;
    let long = |name: &str, text: &str| match text.chars().count() {
        n if n > 256 => Err(format!("{name} has {n} characters; 256 are allowed")),
        _ => Ok(()),
    };
    long("type", &spec.kind)?;
    long("site", &spec.site)?;
    if spec.labels.len() > 64 {
        return Err(format!("there are {} labels; 64 are allowed", spec.labels.len()));
    }
    for (name, value) in &spec.labels {
        if name.is_empty() || matches!(name.as_str(), "type" | "site") {
            return Err(format!("{name:?} is no name for a label"));
        }
        long("the name of a label", name)?;
        long(name, value)?;
    }
    if spec.interval.is_some_and(|interval| interval.0 == 0) {
        return Err("an interval of 0 expects too much".into());
    }
    Ok(())
}

impl ControlPlane {
    /// Registers devices, or changes what is known of them. Gives for each whether it is new. Devices that
    /// are what they should be already are not logged again.
    pub async fn put_devices(
        self: &Arc<Self>,
        devices: Vec<DeviceSpec>,
        by: Actor,
    ) -> Result<Vec<bool>, ControlError> {
        for spec in &devices {
            check_properties(spec).map_err(|fault| ControlError::invalid("device", "/", fault))?;
            check_grant(spec).map_err(|(at, fault)| ControlError::invalid("device", at, fault))?;
        }
        self.uninterrupted(|this| async move {
            let _order = this.order.lock().await;
            let registries = this.registries();
            let known = |spec: &DeviceSpec| {
                let (partition, handle) = registries.find(&spec.id)?;
                registries.0[usize::from(partition.0)].get(handle).cloned()
            };
            let present: Vec<_> = devices.iter().map(known).collect();
            let new = present.iter().map(Option::is_none).collect();
            let regranted: HashSet<String> = devices
                .iter()
                .zip(&present)
                .filter(|(spec, present)| {
                    present.as_ref().is_some_and(|present| present.spec.speaks_for != spec.speaks_for)
                })
                .map(|(spec, _)| spec.id.clone())
                .collect();
            let changed: Vec<DeviceSpec> = devices
                .into_iter()
                .zip(present)
                .filter(|(spec, present)| present.as_ref().is_none_or(|present| present.spec != *spec))
                .map(|(spec, _)| spec)
                .collect();
            drop(registries);
            for devices in changed.chunks(DEVICES_PER_RECORD) {
                this.commit(Control::DevicesPut { devices: devices.to_vec(), by: by.clone() }).await?;
                devices
                    .iter()
                    .filter(|spec| regranted.contains(&spec.id))
                    .for_each(|spec| this.recheck(&spec.id));
            }
            Ok(new)
        })
        .await
    }

    /// Deletes a device, with its state, timers and alerts.
    pub async fn delete_device(self: &Arc<Self>, id: &str, by: Actor) -> Result<(), ControlError> {
        let id = id.to_string();
        self.uninterrupted(|this| async move {
            let _order = this.order.lock().await;
            if this.registries().find(&id).is_none() {
                return Err(ControlError::not_found("device", &id));
            }
            this.commit(Control::DeviceDeleted { id: id.clone(), by }).await?;
            this.recheck(&id);
            Ok(())
        })
        .await
    }
}

impl ControlPlane {
    /// Devices that may do other things than before, or nothing any more: whoever is connected as one has to show again
    /// who it is. Told once the directory says so too, so that it is let in as what it is now.
    pub fn rechecks(&self) -> broadcast::Receiver<String> {
        self.rechecks.subscribe()
    }

    fn recheck(&self, id: &str) {
        // Nobody listens: nobody was let in.
        let _ = self.rechecks.send(id.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(document: serde_json::Value, expected: bool) {
        let spec: DeviceSpec = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(check_device(&spec).is_ok(), expected, "{document}");
    }

    #[test]
    fn devices_that_could_not_be_are_refused() {
        use serde_json::json;
        check(json!({"id": "press-1", "type": "press", "labels": {"line": "3"}, "interval": "10s"}), true);
        check(json!({"id": "a/b"}), false);
        check(json!({"id": "a", "site": "x".repeat(257)}), false);
        check(json!({"id": "a", "labels": {"type": "b"}}), false);
        check(json!({"id": "a", "labels": {"": "b"}}), false);
        check(json!({"id": "a", "interval": 0}), false);
        check(json!({"id": "a", "speaks_for": ["press-*", "line-3"]}), true);
        check(json!({"id": "a", "speaks_for": ["press-*", "a/b"]}), false);
        check(json!({"id": "a", "speaks_for": vec!["a"; 65]}), false);
    }
}
