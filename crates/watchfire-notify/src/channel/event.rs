//! An alert of a message by itself, as JSON: for channels that carry alerts one by one and not messages.

use serde_json::{Value, json};

use super::payload::{Alert, Message};

/// The alert as it stands in the message, under the id of the delivery, with why it is told and to whom. Where the message
/// is a digest, what that says in numbers stands beside.
pub(super) fn event(id: &str, message: &Message, alert: &Alert) -> Value {
    let mut event = json!(alert);
    for (name, value) in [
        ("id", id),
        ("reason", &message.notification_reason),
        ("receiver", &message.receiver),
        ("groupKey", &message.group_key),
    ] {
        event[name] = json!(value);
    }
    if let Some(digest) = &message.digest {
        event["digest"] = json!(digest);
    }
    event
}

/// A label that is there and not empty.
pub(super) fn label<'a>(alert: &'a Alert, name: &str) -> Option<&'a str> {
    alert.labels.get(name).map(String::as_str).filter(|value| !value.is_empty())
}
