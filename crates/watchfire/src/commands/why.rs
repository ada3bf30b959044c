//! Why an alert is and who was told, for people.

use serde_json::Value;

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

fn items<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What of these members there is, in this order.
fn parts(item: &Value, members: &[&str]) -> String {
    let there = members.iter().filter(|name| !item[**name].is_null() && item[**name] != "");
    there.map(|name| text(&item[*name]).replace('_', " ")).collect::<Vec<_>>().join("  ")
}

/// A heading and its lines; nothing where there is none.
fn section(lines: &mut Vec<String>, title: &str, of: Vec<String>) {
    if !of.is_empty() {
        lines.extend([String::new(), title.to_string()]);
        lines.extend(of.into_iter().map(|line| format!("  {line}")));
    }
}

/// The answer of `/alerts/{id}/rerun`.
pub(super) fn again(answer: &Value) -> Vec<String> {
    let mut lines = vec![
        format!("{}: {}", text(&answer["outcome"]), text(&answer["reason"])),
        format!("module {}", text(&answer["module"])),
        format!("then  {}", answer["verdict"]),
    ];
    if !answer["again"].is_null() {
        lines.push(format!("now   {}", answer["again"]));
    }
    lines.extend(items(answer, "missing").iter().map(|what| format!("not kept: {}", text(what))));
    lines
}

/// The answer of `/alerts/{id}/why`: who was told first, then what led there.
pub(super) fn lines(answer: &Value) -> Vec<String> {
    let (alert, evidence) = (&answer["alert"], &answer["evidence"]);
    let mut lines = vec![
        format!(
            "{}  {} of {}: {}",
            text(&alert["id"]),
            text(&alert["rule"]),
            text(&alert["device"]),
            text(&alert["summary"])
        ),
        format!(
            "{}, {}, since {}",
            text(&alert["severity"]),
            text(&alert["state"]),
            text(&alert["raised_at"])
        ),
    ];
    let told = |item: &Value| {
        let told = text(&item["told"]).replace('_', " ");
        format!("{}  {told}: {}", text(&item["receiver"]), text(&item["reason"]))
    };
    section(&mut lines, "who was told", items(answer, "receivers").iter().map(told).collect());
    section(&mut lines, "what it rests on", verdict(answer, alert, evidence));
    let steps = items(answer, "steps").iter();
    let steps = steps.map(|step| parts(step, &["at", "kind", "severity", "reason", "actor", "comment"]));
    section(&mut lines, "what happened", steps.collect());
    let routes = items(answer, "routes").iter();
    section(
        &mut lines,
        "where routes lead",
        routes.map(|route| parts(route, &["receiver", "group_key"])).collect(),
    );
    let decisions = items(answer, "decisions").iter();
    let decisions = decisions.map(|one| parts(one, &["at", "receiver", "stage", "outcome", "detail"]));
    section(&mut lines, "what was decided", decisions.collect());
    let mut messages = Vec::new();
    for delivery in items(answer, "deliveries") {
        messages.push(parts(delivery, &["created_at", "receiver", "status", "state", "reason", "id"]));
        let tries = items(delivery, "tries").iter();
        messages.extend(tries.map(|one| {
            format!("  {}", parts(one, &["attempt", "at", "outcome", "status", "error", "took"]))
        }));
    }
    section(&mut lines, "messages", messages);
    lines
}

fn verdict(answer: &Value, alert: &Value, evidence: &Value) -> Vec<String> {
    let mut lines = vec![format!("rule {}, version {}", text(&alert["rule"]), alert["rule_version"])];
    let module = &answer["module"];
    if !module.is_null() {
        let name = match module["name"].as_str() {
            Some(name) => format!("{name} {}", text(&module["version"])),
            None => "deleted".into(),
        };
        lines.push(format!("module {name}, {}", text(&module["digest"])));
    }
    if evidence.is_null() {
        lines.extend(answer["no_evidence"].as_str().map(String::from));
        return lines;
    }
    lines.push(format!("parameters {}", evidence["parameters"]));
    lines.push(format!("callback {} at {}", text(&evidence["callback"]), text(&evidence["now"])));
    for (slot, state) in evidence["state_before"].as_object().into_iter().flatten() {
        lines.push(format!("state before, slot {slot}: {}", text(state)));
    }
    for (place, row) in items(evidence, "rows").iter().enumerate() {
        let named = if evidence["row"] == place { " <- named by the rule" } else { "" };
        let values = row["metrics"].as_object().into_iter().flatten();
        let values: Vec<_> = values.map(|(name, value)| format!("{name} {}", text(value))).collect();
        lines.push(format!("row {}  {}{named}", text(&row["time"]), values.join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_told_from_who_was_told_to_each_attempt() {
        let answer = json!({
            "alert": {"id": "ab", "rule": "hot", "device": "press-1", "summary": "91 °C", "severity": "major",
                "state": "active", "raised_at": "2026-01-01T00:00:00Z", "rule_version": 3},
            "module": {"digest": "sha256:00"},
            "evidence": {"parameters": {"above": 80}, "callback": "batch", "now": "2026-01-01T00:00:01Z",
                "state_before": {"0": "0a"}, "row": 0,
                "rows": [{"time": "2026-01-01T00:00:00Z", "metrics": {"temperature": 91.0}}]},
            "steps": [{"at": "t1", "kind": "raised", "severity": "major"}],
            "routes": [], "decisions": [{"at": "t2", "receiver": "ops", "stage": "silence", "outcome": "held",
                "detail": "silenced by 17"}],
            "deliveries": [{"created_at": "t3", "receiver": "ops", "status": "firing", "state": "pending",
                "reason": "first notification", "id": "d1", "tries": [{"attempt": 1, "at": "t4",
                "outcome": "later", "status": 503, "error": "answered 503", "took": "2ms"}]}],
            "receivers": [{"receiver": "ops", "told": "not_told", "reason": "held by silence"}],
        });
        let lines = lines(&answer);
        for line in [
            "  ops  not told: held by silence",
            "  module deleted, sha256:00",
            "  state before, slot 0: 0a",
            "  row 2026-01-01T00:00:00Z  temperature 91.0 <- named by the rule",
            "  t2  ops  silence  held  silenced by 17",
            "    1  t4  later  503  answered 503  2ms",
        ] {
            assert!(lines.iter().any(|one| one == line), "{line:?} is missing in {lines:#?}");
        }
        assert!(!lines.iter().any(|line| line == "where routes lead"), "there are none");
    }
}
