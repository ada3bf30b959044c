//! Mappings for devices that exist already and know no form of ours: what their topics and paths say, and where things
//! stand in their payloads.

use serde::Deserialize;
use watchfire_decode::{Mapping, Shape};

/// A mapping: `[[mqtt.mapping]]` with a `topic`, `[[http.mapping]]` with a `path`, which stands below `/ingest/v1/`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MappingConfig {
    /// A pattern of topics or paths: `+` stands for one level, `#` at the end for the rest, `{device}` and `{metric}` for a
    /// level that names the device or the metric.
    #[serde(alias = "path")]
    pub topic: String,
    /// JSON pointer to the device id.
    #[serde(default)]
    pub device: Option<String>,
    /// JSON pointer to the time.
    #[serde(default)]
    pub time: Option<String>,
    /// JSON pointer to the metrics: an object, or one value where the topic names the metric. Default: the whole
    /// payload.
    #[serde(default)]
    pub metrics: String,
    /// Single metrics: name to JSON pointer. Where there are any, `metrics` is not used.
    #[serde(default)]
    pub metric: std::collections::BTreeMap<String, String>,
}

/// A mapping cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("mapping of {topic:?}: {what}")]
pub struct MappingConfigError {
    topic: String,
    what: String,
}

impl MappingConfigError {
    pub(crate) fn new(config: &MappingConfig, what: impl Into<String>) -> Self {
        Self { topic: config.topic.clone(), what: what.into() }
    }
}

/// Where things stand in the payloads of a mapping.
pub(crate) fn pointers(config: &MappingConfig) -> Result<Mapping, MappingConfigError> {
    let pointer = |text: &str| {
        text.parse()
            .map_err(|e: watchfire_decode::MappingError| MappingConfigError::new(config, e.to_string()))
    };
    let named = config.metric.iter().map(|(name, at)| Ok((name.clone(), pointer(at)?)));
    Ok(Mapping {
        device: config.device.as_deref().map(pointer).transpose()?,
        time: config.time.as_deref().map(pointer).transpose()?,
        metrics: pointer(&config.metrics)?,
        named: named.collect::<Result<_, MappingConfigError>>()?,
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Is(String),
    Any,
    Device,
    Metric,
    Rest,
}

/// A mapping, ready to be used.
#[derive(Clone, Debug)]
pub struct AddressMapping {
    levels: Vec<Level>,
    mapping: Mapping,
}

impl TryFrom<&MappingConfig> for AddressMapping {
    type Error = MappingConfigError;
    fn try_from(config: &MappingConfig) -> Result<Self, MappingConfigError> {
        let error = |what: String| MappingConfigError::new(config, what);
        let levels: Vec<Level> = config
            .topic
            .split('/')
            .map(|level| match level {
                "+" => Ok(Level::Any),
                "#" => Ok(Level::Rest),
                "{device}" => Ok(Level::Device),
                "{metric}" => Ok(Level::Metric),
                _ if level.contains(['+', '#', '{', '}']) => {
                    Err(error(format!("level {level:?} mixes text and pattern")))
                }
                _ => Ok(Level::Is(level.into())),
            })
            .collect::<Result<_, _>>()?;
        let count = |wanted: Level| levels.iter().filter(|level| **level == wanted).count();
        if count(Level::Device) > 1 || count(Level::Metric) > 1 {
            return Err(error("{device} and {metric} stand in it once at most".into()));
        }
        if levels.iter().rev().skip(1).any(|level| *level == Level::Rest) {
            return Err(error("# stands at the end only".into()));
        }
        if count(Level::Device) == 0 && config.device.is_none() {
            return Err(error("neither {device} nor a pointer says which device it is".into()));
        }
        Ok(Self { levels, mapping: pointers(config)? })
    }
}

impl AddressMapping {
    /// What the items at a topic or path look like, where it is one of these.
    pub fn shape<'a>(&'a self, address: &'a str) -> Option<Shape<'a>> {
        let (device, metric) = self.matches(address)?;
        Some(Shape::Mapped { mapping: &self.mapping, device, metric })
    }

    /// Device and metric that a topic names, where it is one of these.
    fn matches<'a>(&self, topic: &'a str) -> Option<(Option<&'a str>, Option<&'a str>)> {
        let (mut device, mut metric) = (None, None);
        let mut parts = topic.split('/');
        for level in &self.levels {
            if *level == Level::Rest {
                return Some((device, metric));
            }
            let part = parts.next()?;
            match level {
                Level::Is(text) if text != part => return None,
                Level::Device => device = Some(part),
                Level::Metric => metric = Some(part),
                _ => {}
            }
        }
        parts.next().is_none().then_some((device, metric))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings() {
        let config = |text: &str| toml::from_str::<MappingConfig>(text).unwrap();
        let mapping = AddressMapping::try_from(&config("topic = 'plant/{device}/{metric}'")).unwrap();
        assert_eq!(mapping.matches("plant/p1/temperature"), Some((Some("p1"), Some("temperature"))));
        assert_eq!(mapping.matches("plant/p1"), None);
        assert_eq!(mapping.matches("plant/p1/a/b"), None);
        let mapping = AddressMapping::try_from(&config("topic = 'x/+/#'\ndevice = '/id'")).unwrap();
        assert_eq!(mapping.matches("x/y"), Some((None, None)));
        assert_eq!(mapping.matches("x/y/z/w"), Some((None, None)));
        for bad in [
            "topic = 'a/b'",
            "topic = '{device}/{device}'",
            "topic = '#/{device}'",
            "topic = 'a{device}'",
            "topic = '{device}'\ntime = 'x'",
        ] {
            assert!(AddressMapping::try_from(&config(bad)).is_err(), "{bad}");
        }
    }
}
