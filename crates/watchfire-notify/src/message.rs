//! What a message says by default: what, which device and where, the value against its limit, since when,
//! which rule, and where to look. Written once, when the notice is made, so that every attempt and every
//! channel says the same.

use std::collections::BTreeMap;

use watchfire_model::alert::Detail;
use watchfire_model::{Duration, Timestamp, Value};
use watchfire_store::{LabelSet, Outbox};

/// A value as people read it: whole numbers without a fraction, others with up to six digits after the point.
pub fn value_text(value: &Value) -> String {
    match value {
        Value::Boolean(flag) => flag.to_string(),
        Value::Text(text) => text.clone(),
        Value::Number(number) if *number == number.trunc() && number.abs() < 1e15 => format!("{number:.0}"),
        Value::Number(number) if number.abs() >= 1e-3 && number.abs() < 1e15 => {
            format!("{number:.6}").trim_end_matches('0').to_string()
        }
        Value::Number(number) => format!("{number:e}"),
    }
}

/// A span as people read it: its two largest units.
fn span_text(span: Duration) -> String {
    let seconds = span.0 / 1_000_000;
    if seconds == 0 {
        return format!("{} ms", span.0 / 1000);
    }
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let mut rest = seconds;
    let parts: Vec<String> = units
        .iter()
        .filter_map(|(size, unit)| {
            let number = rest / size;
            rest %= size;
            (number > 0).then(|| format!("{number} {unit}"))
        })
        .take(2)
        .collect();
    parts.join(" ")
}

/// To the second: finer is noise to people.
fn time_text(time: Timestamp) -> String {
    format!("{:.0}", time.to_jiff()).replace('T', " ").replace('Z', " UTC")
}

/// `value` against `limit`, with `unit` and `metric` where the rule says them; then the rest, each by name.
fn details_text(details: &[Detail]) -> Option<String> {
    let find = |name: &str| details.iter().find(|detail| detail.name == name).map(|d| value_text(&d.value));
    let mut parts = Vec::new();
    let known = ["value", "limit", "unit", "metric"];
    let main = find("value").is_some();
    if let Some(value) = find("value") {
        let unit = find("unit").map(|unit| format!(" {unit}")).unwrap_or_default();
        let metric = find("metric").map(|metric| format!("{metric} ")).unwrap_or_default();
        let limit = find("limit").map(|limit| format!(", limit {limit}{unit}")).unwrap_or_default();
        parts.push(format!("{metric}{value}{unit}{limit}"));
    }
    for detail in details {
        if !(main && known.contains(&detail.name.as_str())) {
            parts.push(format!("{} {}", detail.name, value_text(&detail.value)));
        }
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Where people look at an alert.
pub fn alert_url(public_url: Option<&str>, alert: &str) -> Option<String> {
    public_url.map(|base| format!("{}/api/v1/alerts/{alert}", base.trim_end_matches('/')))
}

/// The annotations of a notice: `summary`, `description`, `alert_url` where there is a public address, and
/// each detail by its name.
pub fn annotations(
    outbox: &Outbox,
    labels: &LabelSet,
    ended: Option<Timestamp>,
    public_url: Option<&str>,
) -> BTreeMap<String, String> {
    let mut annotations: BTreeMap<String, String> =
        outbox.details.iter().map(|detail| (detail.name.clone(), value_text(&detail.value))).collect();
    // Those of others are what they said, and nothing else but where we show it.
    if outbox.generator_url.is_some() {
        if let Some(url) = alert_url(public_url, &outbox.alert) {
            annotations.entry("alert_url".into()).or_insert(url);
        }
        return annotations;
    }
    annotations.insert("summary".into(), outbox.summary.clone());
    annotations.insert("description".into(), description(outbox, labels, ended, public_url));
    if let Some(url) = alert_url(public_url, &outbox.alert) {
        annotations.insert("alert_url".into(), url);
    }
    annotations
}

/// The default message, a line for each thing.
pub fn description(
    outbox: &Outbox,
    labels: &LabelSet,
    ended: Option<Timestamp>,
    public_url: Option<&str>,
) -> String {
    let label = |name: &str| labels.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let mut lines = vec![outbox.summary.clone()];
    let mut device = format!("Device {}", label("device").unwrap_or("unknown"));
    if let Some(kind) = label("type") {
        device.push_str(&format!(" ({kind})"));
    }
    if let Some(site) = label("site") {
        device.push_str(&format!(", site {site}"));
    }
    if let Some(key) = label("key") {
        device.push_str(&format!(", {key}"));
    }
    lines.push(device);
    lines.extend(details_text(&outbox.details));
    let since = time_text(outbox.raised_at);
    lines.push(match ended {
        Some(ended) => {
            let why = match outbox.reason.as_deref() {
                None | Some("cleared") => "",
                Some("operator") => ", reset by an operator",
                Some("rule_removed") => ", the rule was removed",
                Some("deselected") => ", the rule does not select the device any more",
                Some("device_deleted") => ", the device was deleted",
                Some("rolled_back") => ", the rule went back to a version that had not raised it",
                Some(_) => ", another alert took its place",
            };
            let lasted = span_text(ended.since(outbox.raised_at));
            format!("Since {since}, over since {} ({lasted}{why})", time_text(ended))
        }
        None => format!("Since {since}, severity {}", outbox.severity),
    });
    lines.push(format!("Rule {}, version {}", outbox.rule, outbox.rule_version));
    lines.extend(alert_url(public_url, &outbox.alert));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_model::Severity;

    fn outbox(details: &[(&str, Value)]) -> Outbox {
        Outbox {
            sequence: 1,
            transition: "t".into(),
            transition_sequence: 1,
            kind: "raised".into(),
            alert: "0123456789abcdef".into(),
            labels: LabelSet::new(),
            severity: Severity::Major,
            from_severity: None,
            from_since: None,
            reason: None,
            actor: None,
            comment: None,
            summary: "Bearing too hot".into(),
            details: details.iter().map(|(n, v)| Detail { name: n.to_string(), value: v.clone() }).collect(),
            at: "2026-01-01T00:00:00Z".parse().unwrap(),
            recorded_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            raised_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            rule: "hot".into(),
            rule_version: 3,
            generator_url: None,
        }
    }

    fn check(details: &[(&str, Value)], labels: &[(&str, &str)], ended: Option<&str>, expected: &str) {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let ended = ended.map(|time| time.parse().unwrap());
        let text = description(&outbox(details), &labels, ended, Some("https://plant.example/"));
        assert_eq!(text, expected);
    }

    #[test]
    fn the_default_message_says_what_where_how_much_since_when_and_why() {
        check(
            &[
                ("metric", Value::Text("temperature".into())),
                ("value", Value::Number(91.25)),
                ("limit", Value::Number(90.0)),
                ("unit", Value::Text("°C".into())),
                ("sigma", Value::Number(4.5)),
            ],
            &[("device", "press-0042"), ("type", "press"), ("site", "lyon"), ("key", "high")],
            None,
            "Bearing too hot\nDevice press-0042 (press), site lyon, high\ntemperature 91.25 °C, limit 90 °C, \
             sigma 4.5\nSince 2026-01-01 00:00:00 UTC, severity major\nRule hot, version 3\n\
             https://plant.example/api/v1/alerts/0123456789abcdef",
        );
        check(
            &[],
            &[("device", "press-0042")],
            Some("2026-01-01T00:31:07Z"),
            "Bearing too hot\nDevice press-0042\nSince 2026-01-01 00:00:00 UTC, over since 2026-01-01 00:31:07 \
             UTC (31 min 7 s)\nRule hot, version 3\nhttps://plant.example/api/v1/alerts/0123456789abcdef",
        );
    }

    #[test]
    fn numbers_are_for_people() {
        for (number, text) in [
            (90.0, "90"),
            (91.5, "91.5"),
            (0.1 + 0.2, "0.3"),
            (1e-9, "1e-9"),
            (-3.25, "-3.25"),
            (1e20, "1e20"),
        ] {
            assert_eq!(value_text(&Value::Number(number)), text);
        }
    }
}
