//! Events and states as messages.

use serde_json::{Value, json};
use watchfire_outbound::mqtt::{Message, level};
use watchfire_store::AlertRow;

use super::config::MqttSinkConfig;
use crate::events::Events;

/// An event of a chunk.
pub(super) fn event(config: &MqttSinkConfig, encoded: &Events, place: usize) -> Message {
    let event = &encoded.events[place];
    let topic = match &event.stream {
        Some(stream) => config.topic.replace("{stream}", &level(stream)),
        None => config.events_topic.clone(),
    };
    Message {
        topic: topic.replace("{device}", &level(&event.device)),
        payload: encoded.event(place).to_vec(),
        retain: false,
    }
}

/// What is active at a device: a retained message that is small enough for the broker. `more`: not all are given.
pub(super) fn state(
    config: &MqttSinkConfig,
    device: &str,
    alerts: &[AlertRow],
    mut more: bool,
    largest: usize,
) -> Message {
    let mut shown = alerts.len();
    loop {
        let mut state = json!({
            "device": device,
            "alerts": alerts[..shown].iter().map(active).collect::<Vec<_>>(),
        });
        if more {
            state["more"] = json!(true);
        }
        let message = Message {
            topic: config.state_topic.replace("{device}", &level(device)),
            payload: serde_json::to_vec(&state).unwrap_or_default(),
            retain: true,
        };
        if shown == 0 || message.size() <= largest {
            return message;
        }
        (shown, more) = (shown / 2, true);
    }
}

fn active(alert: &AlertRow) -> Value {
    json!({
        "id": alert.id,
        "rule": alert.rule,
        "key": alert.key,
        "severity": alert.severity,
        "summary": alert.summary,
        "details": alert.details,
        "labels": alert.labels,
        "raised_at": alert.raised_at,
        "severity_since": alert.severity_since,
        "cleared_at": alert.cleared_at,
        "acknowledged_at": alert.acknowledged_at,
        "acknowledged_by": alert.acknowledged_by,
    })
}
