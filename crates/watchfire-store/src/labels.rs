//! What an alert is called towards the outside: the label set and its fingerprint.

use std::collections::BTreeMap;

use watchfire_model::{DeviceSpec, Severity};

/// Names and values, sorted by name.
pub type LabelSet = BTreeMap<String, String>;

/// The labels of an alert: those of its device, and above them the ones that every alert has. Empty values
/// are left out, as Alertmanager does.
pub fn labels(rule: &str, device: &DeviceSpec, key: &str, severity: Severity) -> LabelSet {
    let mut labels = device.labels.clone();
    for (name, value) in [
        ("alertname", rule),
        ("rule", rule),
        ("device", &device.id),
        ("key", key),
        ("severity", severity.as_str()),
        ("type", &device.kind),
        ("site", &device.site),
    ] {
        // A label of the device never stands in for one of ours, not even where ours is empty.
        labels.insert(name.to_string(), value.to_string());
    }
    labels.retain(|_, value| !value.is_empty());
    labels
}

/// The same labels with another severity.
pub fn with_severity(labels: &LabelSet, severity: Severity) -> LabelSet {
    let mut labels = labels.clone();
    labels.insert("severity".into(), severity.as_str().into());
    labels
}

/// The fingerprint that Alertmanager gives a label set (prometheus/common, `model.LabelSet.Fingerprint`):
/// 64-bit FNV-1a over each name, 0xFF, value, 0xFF, sorted by name; 16 hex digits.
pub fn fingerprint(labels: &LabelSet) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for (name, value) in labels {
        feed(name.as_bytes());
        feed(&[0xff]);
        feed(value.as_bytes());
        feed(&[0xff]);
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_those_of_alertmanager() {
        // The offset basis is what prometheus/common gives for an empty set.
        assert_eq!(fingerprint(&LabelSet::new()), "cbf29ce484222325");
        // Computed by hand: FNV-1a of "a" 0xFF "b" 0xFF.
        let set = LabelSet::from([("a".to_string(), "b".to_string())]);
        let by_hand =
            [b'a', 0xff, b'b', 0xff].into_iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte: u8| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        assert_eq!(fingerprint(&set), format!("{by_hand:016x}"));
    }

    #[test]
    fn labels_of_the_device_never_replace_ours() {
        let device = DeviceSpec {
            id: "press-1".into(),
            kind: "press".into(),
            labels: [("rule", "mine"), ("key", "mine"), ("line", "3"), ("empty", "")]
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .into(),
            ..DeviceSpec::default()
        };
        let set = labels("hot", &device, "", Severity::Major);
        let expected = [
            ("alertname", "hot"),
            ("device", "press-1"),
            ("line", "3"),
            ("rule", "hot"),
            ("severity", "major"),
            ("type", "press"),
        ];
        assert_eq!(set, expected.map(|(name, value)| (name.to_string(), value.to_string())).into());
        assert_ne!(fingerprint(&set), fingerprint(&with_severity(&set, Severity::Critical)));
    }
}
