//! Which devices a rule is for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::device::DeviceSpec;

/// Members AND, list entries OR; an empty selector takes every device. In JSON a member is one text or a
/// list of texts: `{"type":"press","site":["lyon","oslo"],"labels":{"line":"3"}}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selector {
    /// Device types.
    #[serde(rename = "type", skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    pub types: Vec<String>,
    /// Sites.
    #[serde(rename = "site", skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    pub sites: Vec<String>,
    /// Labels, each with the values that are taken.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, OneOrMany>,
    /// Device ids.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    pub devices: Vec<String>,
}

/// One text or a list of texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// Just this one.
    One(String),
    /// Any of these.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The texts.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    })
}

impl Selector {
    /// Whether the rule is for this device.
    pub fn matches(&self, device: &DeviceSpec) -> bool {
        let any = |wanted: &[String], has: &str| wanted.is_empty() || wanted.iter().any(|w| w == has);
        any(&self.types, &device.kind)
            && any(&self.sites, &device.site)
            && any(&self.devices, &device.id)
            && self.labels.iter().all(|(name, wanted)| {
                device.labels.get(name).is_some_and(|has| wanted.as_slice().contains(has))
            })
    }

    /// Whether every device is taken.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, expected: bool) {
        let device = DeviceSpec {
            id: "press-0042".into(),
            kind: "press".into(),
            site: "lyon".into(),
            labels: [("line".to_string(), "3".to_string())].into(),
            ..DeviceSpec::default()
        };
        let selector: Selector = serde_json::from_str(selector).unwrap();
        assert_eq!(selector.matches(&device), expected, "{selector:?}");
        let again: Selector = serde_json::from_str(&serde_json::to_string(&selector).unwrap()).unwrap();
        assert_eq!(again, selector);
    }

    #[test]
    fn members_and_entries_or() {
        check("{}", true);
        check(r#"{"type":"press","site":["oslo","lyon"]}"#, true);
        check(r#"{"type":"press","site":"oslo"}"#, false);
        check(r#"{"labels":{"line":"3"}}"#, true);
        check(r#"{"labels":{"line":["1","2"]}}"#, false);
        check(r#"{"labels":{"hall":"3"}}"#, false);
        check(r#"{"devices":["press-0042"]}"#, true);
        assert!(serde_json::from_str::<Selector>(r#"{"sites":"x"}"#).is_err());
    }
}
