//! What a version of a rule would change, for people: read before it is deployed.

use serde_json::Value;

use super::client::ClientError;
use super::table::Output;

/// Prints what would become of a rule. An error where it would be refused: whoever asks in a script is to notice.
pub(super) fn show_plan(name: &str, answer: &Value, output: Output) -> Result<(), ClientError> {
    if output.is_json() {
        output.document(answer);
    } else {
        print_plan(name, answer, output);
    }
    refusal(name, answer)
}

/// Why it would be refused, where it would be.
pub(super) fn refusal(name: &str, answer: &Value) -> Result<(), ClientError> {
    match answer["refusal"]["detail"].as_str() {
        Some(detail) => Err(ClientError::Failed(format!("rule {name} would be refused: {detail}"))),
        None => Ok(()),
    }
}

/// Prints it for people.
pub(super) fn print_plan(name: &str, answer: &Value, output: Output) {
    for line in lines(name, answer) {
        output.line(&line);
    }
}

/// Prints what differs between two versions.
pub(super) fn show_difference(name: &str, answer: &Value, output: Output) {
    let (from, to) = (&answer["from"], &answer["to"]);
    output.line(&format!("rule {name}: version {} -> {}", from["version"], to["version"]));
    for version in [from, to] {
        let reason = version["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
        let (by, at) = (plain(&version["by"]), plain(&version["at"]));
        output.line(&format!("  {}  {at} by {by}{reason}", version["version"]));
    }
    if from["digest"] != to["digest"] {
        output.line(&format!("  module: {} -> {}", plain(&from["module"]), plain(&to["module"])));
    }
    let differences = changed(answer, &[]);
    if differences.is_empty() {
        output.line("  nothing differs");
    }
    for difference in differences {
        output.line(&format!("  {difference}"));
    }
}

fn lines(name: &str, answer: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let change = plain(&answer["change"]);
    let of = &answer["from_version"];
    lines.push(match change.as_str() {
        "none" => format!("rule {name}: none, version {of} is the same"),
        "update" => format!("rule {name}: update of version {of}"),
        "rollback" => format!("rule {name}: rollback from version {of} to {}", answer["restores"]),
        _ => format!("rule {name}: {change}"),
    });
    if let Some(digest) = answer["upload"].as_str() {
        lines.push(format!("  the module {digest} is not on the server yet"));
    }
    let mut say = |label: &str, text: String| {
        for (i, line) in text.lines().enumerate() {
            lines.push(format!("  {:12}{line}", if i == 0 { label } else { "" }));
        }
    };
    if change != "none" {
        say("module", modules(&answer["module"]));
        say("imports", imports(&answer["imports"]));
        say("metrics", both(&answer["metrics"], |list| if list == "[]" { "all".into() } else { list }));
        if answer["silence"]["from"] != answer["silence"]["to"] || answer["silence"]["to"] != "off" {
            say("silence", both(&answer["silence"], |text| text));
        }
        if !is_empty(&answer["schedules"]["from"]) || !is_empty(&answer["schedules"]["to"]) {
            say("schedules", both(&answer["schedules"], |text| text));
        }
        say("parameters", parameters(answer));
        say("condition", changed(answer, &["/condition"]).join("\n"));
        say("limits", changed(answer, &["/limits"]).join("\n"));
        say("select", changed(answer, &["/select"]).join("\n"));
        say(
            "reads",
            streams(&answer["streams"]["input"], "published by", &answer["streams"]["published_by"]),
        );
        let output = streams(&answer["streams"]["output"], "read by", &answer["streams"]["read_by"]);
        say("publishes", output);
        if !is_empty(&answer["streams"]["lost_by"]) {
            let readers = listed(&answer["streams"]["lost_by"]);
            say("", format!("{readers} would not get what it publishes now any more"));
        }
        say("passes on", changed(answer, &["/pass"]).join("\n"));
        say("devices", devices(&answer["devices"]));
        say("alerts", alerts(answer));
        say("state", state(&answer["state"]));
    }
    if let Some(detail) = answer["refusal"]["detail"].as_str() {
        say("refused", detail.into());
    }
    lines
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        // What others wrote must not move the cursor of a terminal.
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        value => value.to_string(),
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_none_or(Vec::is_empty)
}

fn listed(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(plain).collect::<Vec<_>>().join(", ")
}

/// Before and after, where they differ; else what it is.
fn both(change: &Value, word: impl Fn(String) -> String) -> String {
    let text = |value: &Value| {
        word(match value {
            Value::Array(items) if items.iter().all(Value::is_string) && !items.is_empty() => listed(value),
            value => plain(value),
        })
    };
    let (from, to) = (&change["from"], &change["to"]);
    if from.is_null() || from == to { text(to) } else { format!("{} -> {}", text(from), text(to)) }
}

fn modules(change: &Value) -> String {
    let name = |module: &Value| {
        let digest = plain(&module["digest"]);
        // Enough to tell two builds of one version apart.
        let short: String = digest.chars().take("sha256:".len() + 12).collect();
        format!("{}@{} ({short})", plain(&module["name"]), plain(&module["version"]))
    };
    let (from, to) = (&change["from"], &change["to"]);
    if from.is_null() || from == to { name(to) } else { format!("{} -> {}", name(from), name(to)) }
}

fn imports(names: &Value) -> String {
    let all = |list: &Value| if is_empty(list) { "none".into() } else { listed(list) };
    if names["from"].is_null() || names["from"] == names["to"] {
        return all(&names["to"]);
    }
    let mut text = all(&names["to"]);
    for (word, list) in [("new", &names["added"]), ("not any more", &names["removed"])] {
        if !is_empty(list) {
            text += &format!("\n{word}: {}", listed(list));
        }
    }
    text
}

fn parameters(answer: &Value) -> String {
    let is_update = !answer["from_version"].is_null();
    let one = |parameter: &Value| {
        let (name, from, to) = (plain(&parameter["name"]), &parameter["from"], &parameter["to"]);
        if is_update && from != to { format!("{name}: {from} -> {to}") } else { format!("{name}: {to}") }
    };
    let all: Vec<String> = answer["parameters"].as_array().into_iter().flatten().map(one).collect();
    if all.is_empty() { "none".into() } else { all.join("\n") }
}

/// The differences below these paths; of all, where there is none. Of a new rule there is nothing to compare.
fn changed(answer: &Value, paths: &[&str]) -> Vec<String> {
    if answer["change"] == "create" {
        return Vec::new();
    }
    let below = |path: &str| {
        paths
            .iter()
            .any(|of| path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    let differences = answer["differences"].as_array().into_iter().flatten();
    let of = differences.filter_map(|difference| {
        let path = difference["path"].as_str()?;
        let name = path.trim_start_matches('/').replace('/', ".");
        (paths.is_empty() || below(path))
            .then(|| format!("{name}: {} -> {}", difference["from"], difference["to"]))
    });
    of.filter(|line| !paths.is_empty() || !line.starts_with("module: ")).collect()
}

fn streams(change: &Value, word: &str, rules: &Value) -> String {
    let text = both(change, |name| if name == "-" { "nothing".into() } else { name });
    if is_empty(rules) { text } else { format!("{text} ({word} {})", listed(rules)) }
}

fn devices(devices: &Value) -> String {
    let part = |word: &str, of: &Value| {
        let count = of["count"].as_u64().unwrap_or(0);
        let named = of["names"].as_array().map_or(0, Vec::len) as u64;
        let more = if count > named { ", ..." } else { "" };
        if count == 0 { String::new() } else { format!("\n{count} {word}: {}{more}", listed(&of["names"])) }
    };
    let (before, after) = (&devices["before"], &devices["after"]);
    let total = if before == after { after.to_string() } else { format!("{before} -> {after}") };
    format!("{total}{}{}", part("gained", &devices["gained"]), part("lost", &devices["lost"]))
}

fn alerts(answer: &Value) -> String {
    let resolved = &answer["resolved"];
    let count = resolved["count"].as_u64().unwrap_or(0);
    let mut lines = Vec::new();
    if count > 0 {
        let first = resolved["first"].as_array();
        let named = first.into_iter().flatten().map(|alert| {
            format!("{} {} ({})", plain(&alert["device"]), plain(&alert["key"]), plain(&alert["severity"]))
        });
        let named: Vec<String> = named.collect();
        let more = if count > named.len() as u64 { ", ..." } else { "" };
        lines.push(format!("{count} would be resolved with their devices: {}{more}", named.join(", ")));
    }
    let then = |member: &str| answer["state"][member].as_u64().filter(|count| *count > 0);
    if let Some(count) = then("raises") {
        lines.push(format!("{count} would be raised again, which stood then"));
    }
    if let Some(count) = then("resolves") {
        lines.push(format!("{count} would be resolved, which did not stand then"));
    }
    if lines.is_empty() { "none would be resolved".into() } else { lines.join("\n") }
}

fn state(state: &Value) -> String {
    // Why it is refused stands by itself.
    let mut text = match state["fate"].as_str() {
        Some("refused") => {
            format!("of layout {}, which does not become {}", state["from_layout"], state["to_layout"])
        }
        _ => plain(&state["text"]),
    };
    if let (Some(blobs), Some(bytes)) = (state["blobs"].as_u64(), state["bytes"].as_u64()) {
        text += &format!("\n{blobs} blobs of {bytes} bytes");
    }
    let trial = &state["trial"];
    if trial.is_object() {
        let outcome = match trial["failure"].as_str() {
            Some(_) if state["fate"] == "refused" => "it failed".into(),
            Some(failure) => format!("it said: {failure}"),
            None => format!("{} bytes came of it", trial["new_bytes"]),
        };
        text += &format!(
            "\nmigrate was tried on copies of {} blobs of {} devices, {} ms: {outcome}",
            trial["blobs"], trial["devices"], trial["milliseconds"]
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan() -> Value {
        json!({
            "change": "update", "from_version": 3, "refusal": null,
            "module": {
                "from": {"digest": "sha256:0123456789abcdef", "name": "t", "version": "1.0.0"},
                "to": {"digest": "sha256:fedcba9876543210", "name": "t", "version": "2.0.0"},
            },
            "imports": {"from": ["a", "b"], "to": ["a", "c"], "added": ["c"], "removed": ["b"]},
            "metrics": {"from": ["x"], "to": []},
            "silence": {"from": "off", "to": "off"}, "schedules": {"from": [], "to": []},
            "differences": [
                {"path": "/limits/time", "from": "500ms", "to": "1s"},
                {"path": "/parameters/high", "from": 80, "to": 90},
            ],
            "parameters": [{"name": "high", "from": 80, "to": 90}, {"name": "metric", "from": "x", "to": "x"}],
            "streams": {
                "input": {"from": "readings", "to": "readings"}, "published_by": [],
                "output": {"from": "a", "to": null}, "read_by": [], "lost_by": ["other"],
            },
            "devices": {
                "before": 30, "after": 5,
                "gained": {"count": 0, "names": []}, "lost": {"count": 25, "names": ["p-1", "p-2"]},
            },
            "resolved": {"count": 1, "first": [{"device": "p-1", "key": "hot", "severity": "major"}]},
            "state": {
                "fate": "migrated", "from_layout": 1, "to_layout": 2,
                "text": "the module migrates the state from layout 1 to 2", "blobs": 4, "bytes": 32,
                "trial": {"devices": 2, "blobs": 4, "bytes": 32, "new_bytes": 64, "milliseconds": 1.5},
            },
        })
    }

    #[test]
    fn a_plan_says_what_changes_and_what_it_costs() {
        let expected = "\
rule r: update of version 3
  module      t@1.0.0 (sha256:0123456789ab) -> t@2.0.0 (sha256:fedcba987654)
  imports     a, c
              new: c
              not any more: b
  metrics     x -> all
  parameters  high: 80 -> 90
              metric: \"x\"
  limits      limits.time: \"500ms\" -> \"1s\"
  reads       readings
  publishes   a -> nothing
              other would not get what it publishes now any more
  devices     30 -> 5
              25 lost: p-1, p-2, ...
  alerts      1 would be resolved with their devices: p-1 hot (major)
  state       the module migrates the state from layout 1 to 2
              4 blobs of 32 bytes
              migrate was tried on copies of 4 blobs of 2 devices, 1.5 ms: 64 bytes came of it";
        assert_eq!(lines("r", &plan()).join("\n"), expected);
    }

    #[test]
    fn what_would_be_refused_is_an_error() {
        let mut plan = plan();
        assert!(refusal("r", &plan).is_ok());
        plan["refusal"] = json!({"code": "state-migration", "detail": "no way"});
        assert_eq!(refusal("r", &plan).unwrap_err().to_string(), "rule r would be refused: no way");
        assert!(lines("r", &plan).last().unwrap().ends_with("refused     no way"));
        plan["state"]["fate"] = json!("refused");
        plan["state"]["trial"]["failure"] = json!("no way");
        let text = lines("r", &plan).join("\n");
        assert!(
            text.contains("state       of layout 1, which does not become 2")
                && text.contains("1.5 ms: it failed")
        );
        assert_eq!(text.matches("no way").count(), 1, "once is enough");
        // What cannot be migrated and may go says why it goes.
        plan["state"]["fate"] = json!("dropped");
        assert!(lines("r", &plan).join("\n").contains("1.5 ms: it said: no way"));
    }

    #[test]
    fn a_rollback_says_which_alerts_change() {
        let mut plan = plan();
        (plan["change"], plan["restores"]) = (json!("rollback"), json!(1));
        (plan["state"]["raises"], plan["state"]["resolves"]) = (json!(2), json!(7));
        let text = lines("r", &plan).join("\n");
        for expected in [
            "rule r: rollback from version 3 to 1",
            "1 would be resolved with their devices: p-1 hot (major)",
            "2 would be raised again, which stood then",
            "7 would be resolved, which did not stand then",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
