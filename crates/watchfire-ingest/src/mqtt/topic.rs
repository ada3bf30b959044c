//! Which topics there are, who may use them, and what payloads on them look like.

use serde::Deserialize;
use watchfire_decode::{Framing, Mapping, Shape};

use crate::contract::{Principal, Role};
use crate::intake::Content;

/// Bytes of a topic or filter. Longer ones are no names but attacks on tables.
pub(crate) const TOPIC_BYTES: usize = 512;
/// Levels of a topic or filter.
const LEVELS: usize = 16;

/// A mapping for devices that exist already: `[[source.mqtt.mapping]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MappingConfig {
    /// A pattern of topics: `+` stands for one level, `#` at the end for the rest, `{device}` and `{metric}` for a
    /// level that names the device or the metric.
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
#[error("mapping of topic {topic:?}: {what}")]
pub struct MappingConfigError {
    topic: String,
    what: String,
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
pub struct TopicMapping {
    levels: Vec<Level>,
    mapping: Mapping,
}

impl TryFrom<&MappingConfig> for TopicMapping {
    type Error = MappingConfigError;
    fn try_from(config: &MappingConfig) -> Result<Self, MappingConfigError> {
        let error = |what: String| MappingConfigError { topic: config.topic.clone(), what };
        let pointer =
            |text: &str| text.parse().map_err(|e: watchfire_decode::MappingError| error(e.to_string()));
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
        let named = config.metric.iter().map(|(name, at)| Ok((name.clone(), pointer(at)?)));
        let mapping = Mapping {
            device: config.device.as_deref().map(pointer).transpose()?,
            time: config.time.as_deref().map(pointer).transpose()?,
            metrics: pointer(&config.metrics)?,
            named: named.collect::<Result<_, MappingConfigError>>()?,
        };
        Ok(Self { levels, mapping })
    }
}

impl TopicMapping {
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

/// What a topic to which something is published is for.
#[derive(Debug)]
pub(crate) enum Route<'a> {
    /// Telemetry, or what is refused as such and kept as a dead letter.
    Intake(Content<'a>),
    /// For subscribers.
    Fanout,
}

/// Whether a topic name is well-formed: something, no wildcard, no NUL, bounded, and not of the broker's own.
pub(crate) fn is_topic(topic: &str) -> bool {
    !topic.is_empty()
        && topic.len() <= TOPIC_BYTES
        && !topic.bytes().any(|byte| matches!(byte, b'+' | b'#' | 0))
        && topic.bytes().filter(|byte| *byte == b'/').count() < LEVELS
        // rumqttd's router takes the first byte for a character.
        && topic.as_bytes()[0].is_ascii()
        && !topic.starts_with('$')
}

/// Whether a filter is well-formed.
pub(crate) fn is_filter(filter: &str) -> bool {
    let levels = filter.split('/').count();
    !filter.is_empty()
        && filter.len() <= TOPIC_BYTES
        && levels <= LEVELS
        && !filter.contains('\0')
        && filter.as_bytes()[0].is_ascii()
        && !filter.starts_with('$')
        && filter.split('/').enumerate().all(|(i, level)| match level {
            "#" => i + 1 == levels,
            "+" => true,
            _ => !level.contains(['+', '#']),
        })
}

/// The device whose telemetry topic this is.
fn telemetry_device(topic: &str) -> Option<&str> {
    topic.strip_prefix("devices/")?.strip_suffix("/telemetry").filter(|device| !device.contains('/'))
}

const NOT_AUTHORISED: &str = watchfire_decode::code::NOT_AUTHORISED;

/// What becomes of a message on a well-formed topic.
pub(crate) fn route<'a>(principal: &Principal, mappings: &'a [TopicMapping], topic: &'a str) -> Route<'a> {
    let refused = |reason: String| Route::Intake(Content::Refused { code: NOT_AUTHORISED, reason });
    if let Some(device) = telemetry_device(topic) {
        if !principal.may_send_for(device) {
            return refused(format!("{} may not send for device {device:?}", principal.name()));
        }
        return Route::Intake(Content::Items(Shape::Device(device), Framing::Auto));
    }
    for mapped in mappings {
        let Some((device, metric)) = mapped.matches(topic) else { continue };
        if device.is_some_and(|device| !principal.may_send_for(device)) {
            return refused(format!("{} may not send for device {device:?}", principal.name()));
        }
        let shape = Shape::Mapped { mapping: &mapped.mapping, device, metric };
        return Route::Intake(Content::Items(shape, Framing::Auto));
    }
    let below =
        topic.strip_prefix("devices/").and_then(|rest| rest.split_once('/')).map(|(device, _)| device);
    let allowed = match principal {
        Principal::Anonymous => true,
        Principal::User { role, .. } => *role >= Role::Operator,
        Principal::Device(_) | Principal::Gateway { .. } => {
            below.is_some_and(|device| principal.may_send_for(device))
        }
    };
    if allowed {
        Route::Fanout
    } else {
        refused(format!("{} may not publish to {topic:?}", principal.name()))
    }
}

/// Whether someone may subscribe with a well-formed filter. A device hears what is sent to it, and nothing else.
pub(crate) fn may_subscribe(principal: &Principal, filter: &str) -> bool {
    match principal {
        Principal::Anonymous | Principal::User { .. } => true,
        Principal::Device(_) | Principal::Gateway { .. } => {
            let Some((device, rest)) = filter.strip_prefix("devices/").and_then(|rest| rest.split_once('/'))
            else {
                return false;
            };
            let commands = rest == "commands" || rest.starts_with("commands/");
            let wild = device.contains(['+', '#']);
            commands && if wild { principal.may_send_for_all() } else { principal.may_send_for(device) }
        }
    }
}

/// Whether a filter may match more than commands: then telemetry is worth handing to subscribers.
pub(crate) fn hears_telemetry(filter: &str) -> bool {
    let mut levels = filter.split('/');
    !(levels.next() == Some("devices")
        && levels.next().is_some_and(|l| l != "#")
        && levels.next() == Some("commands"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_filters() {
        for good in ["a", "devices/press-1/telemetry", "a//b", "/"] {
            assert!(is_topic(good), "{good}");
        }
        let long = "x".repeat(513);
        for bad in ["", "a/+", "#", "a\0", "$SYS/x", "Ünicode", long.as_str(), &"a/".repeat(20)] {
            assert!(!is_topic(bad), "{bad}");
        }
        for good in ["#", "+", "a/+/b", "a/#", "+/+"] {
            assert!(is_filter(good), "{good}");
        }
        for bad in ["", "a/#/b", "a+", "#a", "$share/g/a", "ü/#"] {
            assert!(!is_filter(bad), "{bad}");
        }
    }

    #[test]
    fn who_may_do_what() {
        let device = Principal::Device("a".into());
        let gateway = Principal::Gateway { name: "g".into(), devices: vec!["a*".into()] };
        let viewer = Principal::User { name: "v".into(), role: Role::Viewer };
        let check = |who: &Principal, topic, expected| {
            let seen = match route(who, &[], topic) {
                Route::Intake(Content::Items(..)) => "telemetry",
                Route::Intake(Content::Refused { .. }) => "refused",
                Route::Fanout => "fanout",
            };
            assert_eq!(seen, expected, "{who:?} {topic}");
        };
        check(&device, "devices/a/telemetry", "telemetry");
        check(&device, "devices/b/telemetry", "refused");
        check(&device, "devices/a/status", "fanout");
        check(&device, "devices/b/status", "refused");
        check(&device, "other", "refused");
        check(&gateway, "devices/a7/telemetry", "telemetry");
        check(&gateway, "devices/b/telemetry", "refused");
        check(&viewer, "devices/a/commands/x", "refused");
        check(&Principal::Anonymous, "other", "fanout");
        let filters = |who: &Principal| {
            ["devices/a/commands/#", "devices/b/commands/#", "devices/+/commands/#", "devices/a/#", "#"]
                .map(|f| may_subscribe(who, f))
        };
        assert_eq!(filters(&device), [true, false, false, false, false]);
        assert_eq!(filters(&gateway), [true, false, false, false, false]);
        assert_eq!(filters(&viewer), [true; 5]);
        assert!(hears_telemetry("#") && hears_telemetry("devices/#") && hears_telemetry("plant/#"));
        assert!(!hears_telemetry("devices/a/commands/#") && !hears_telemetry("devices/+/commands/x"));
    }

    #[test]
    fn mappings() {
        let config = |text: &str| toml::from_str::<MappingConfig>(text).unwrap();
        let mapping = TopicMapping::try_from(&config("topic = 'plant/{device}/{metric}'")).unwrap();
        assert_eq!(mapping.matches("plant/p1/temperature"), Some((Some("p1"), Some("temperature"))));
        assert_eq!(mapping.matches("plant/p1"), None);
        assert_eq!(mapping.matches("plant/p1/a/b"), None);
        let mapping = TopicMapping::try_from(&config("topic = 'x/+/#'\ndevice = '/id'")).unwrap();
        assert_eq!(mapping.matches("x/y"), Some((None, None)));
        assert_eq!(mapping.matches("x/y/z/w"), Some((None, None)));
        for bad in [
            "topic = 'a/b'",
            "topic = '{device}/{device}'",
            "topic = '#/{device}'",
            "topic = 'a{device}'",
            "topic = '{device}'\ntime = 'x'",
        ] {
            assert!(TopicMapping::try_from(&config(bad)).is_err(), "{bad}");
        }
    }
}
