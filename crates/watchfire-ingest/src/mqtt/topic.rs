//! Which topics there are, who may use them, and what payloads on them look like.

use watchfire_decode::{Framing, Shape};

use crate::contract::{Principal, Role};
use crate::intake::Content;
use crate::mapping::AddressMapping;

/// Bytes of a topic or filter. Longer ones are no names but attacks on tables.
pub(crate) const TOPIC_BYTES: usize = 512;
/// Levels of a topic or filter.
const LEVELS: usize = 16;

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
        && !topic.starts_with('$')
}

/// Whether a filter is well-formed.
pub(crate) fn is_filter(filter: &str) -> bool {
    let levels = filter.split('/').count();
    !filter.is_empty()
        && filter.len() <= TOPIC_BYTES
        && levels <= LEVELS
        && !filter.contains('\0')
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
pub(crate) fn route<'a>(principal: &Principal, mappings: &'a [AddressMapping], topic: &'a str) -> Route<'a> {
    let refused = |reason: String| Route::Intake(Content::Refused { code: NOT_AUTHORISED, reason });
    if let Some(device) = telemetry_device(topic) {
        if !principal.may_send_for(device) {
            return refused(format!("{} may not send for device {device:?}", principal.name()));
        }
        return Route::Intake(Content::Items(Shape::Device(device), Framing::Auto));
    }
    for mapped in mappings {
        let Some(shape) = mapped.shape(topic) else { continue };
        let device = if let Shape::Mapped { device, .. } = shape { device } else { None };
        if device.is_some_and(|device| !principal.may_send_for(device)) {
            return refused(format!("{} may not send for device {device:?}", principal.name()));
        }
        return Route::Intake(Content::Items(shape, Framing::Auto));
    }
    let below =
        topic.strip_prefix("devices/").and_then(|rest| rest.split_once('/')).map(|(device, _)| device);
    let allowed = match principal {
        Principal::Anonymous => true,
        Principal::User { role, .. } => *role >= Role::Operator,
        // Also a gateway: what it brings for others are their readings. Whatever else it could say in their name, such
        // as commands, is none of its business.
        Principal::Device(id) | Principal::Gateway { name: id, .. } => below == Some(id.as_str()),
    };
    if allowed {
        Route::Fanout
    } else {
        refused(format!("{} may not publish to {topic:?}", principal.name()))
    }
}

/// What payloads on a topic look like when somebody sends them; `None`: it carries no telemetry. For what came once and
/// is replayed: mappings count as they are now.
pub fn content<'a>(
    principal: &Principal,
    mappings: &'a [AddressMapping],
    topic: &'a str,
) -> Option<Content<'a>> {
    match route(principal, mappings, topic) {
        Route::Intake(content) => Some(content),
        Route::Fanout => None,
    }
}

/// Whether someone may subscribe with a well-formed filter. A device hears what is sent to it, and nothing else; a
/// gateway what is sent to those it speaks for, each named by a filter. A filter for all devices (`+`) is for gateways
/// that speak for all: one that was narrowed to what is granted would say less than it seems to, and nobody would be told.
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

/// Whether a topic is one of commands to a device.
pub(crate) fn is_command(topic: &str) -> bool {
    let below = topic.strip_prefix("devices/").and_then(|rest| rest.split_once('/')).map(|(_, below)| below);
    below.is_some_and(|below| below == "commands" || below.starts_with("commands/"))
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
        for good in ["a", "devices/press-1/telemetry", "a//b", "/", "Übung"] {
            assert!(is_topic(good), "{good}");
        }
        let long = "x".repeat(513);
        for bad in ["", "a/+", "#", "a\0", "$SYS/x", long.as_str(), &"a/".repeat(20)] {
            assert!(!is_topic(bad), "{bad}");
        }
        for good in ["#", "+", "a/+/b", "a/#", "+/+", "ü/#"] {
            assert!(is_filter(good), "{good}");
        }
        for bad in ["", "a/#/b", "a+", "#a", "$share/g/a"] {
            assert!(!is_filter(bad), "{bad}");
        }
    }

    #[test]
    fn commands_are_told_apart() {
        assert!(is_command("devices/a/commands") && is_command("devices/a/commands/open/now"));
        assert!(!is_command("devices/a/telemetry") && !is_command("devices/commands") && !is_command("x"));
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
        check(&gateway, "devices/g/status", "fanout");
        check(&gateway, "devices/a7/commands/open", "refused");
        check(&gateway, "devices/a7/status", "refused");
        check(&viewer, "devices/a/commands/x", "refused");
        check(&Principal::Anonymous, "other", "fanout");
        let filters = |who: &Principal| {
            ["devices/a/commands/#", "devices/b/commands/#", "devices/+/commands/#", "devices/a/#", "#"]
                .map(|f| may_subscribe(who, f))
        };
        assert_eq!(filters(&device), [true, false, false, false, false]);
        assert_eq!(filters(&gateway), [true, false, false, false, false]);
        let all = Principal::Gateway { name: "g".into(), devices: vec!["*".into()] };
        assert_eq!(filters(&all), [true, true, true, false, false]);
        assert!(may_subscribe(&gateway, "devices/g/commands/#"));
        assert_eq!(filters(&viewer), [true; 5]);
        assert!(hears_telemetry("#") && hears_telemetry("devices/#") && hears_telemetry("plant/#"));
        assert!(!hears_telemetry("devices/a/commands/#") && !hears_telemetry("devices/+/commands/x"));
    }
}
