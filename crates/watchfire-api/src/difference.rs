//! What differs between two documents.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Each member that differs, as `{path, from, to}`; lists are compared as a whole.
pub fn differences(from: &Value, to: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    compare("", from, to, &mut found);
    found
}

fn compare(path: &str, from: &Value, to: &Value, found: &mut Vec<Value>) {
    if let (Value::Object(before), Value::Object(after)) = (from, to) {
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            let of =
                |members: &serde_json::Map<String, Value>| members.get(name).cloned().unwrap_or_default();
            compare(&format!("{path}/{name}"), &of(before), &of(after), found);
        }
    } else if from != to {
        found.push(json!({"path": path, "from": from, "to": to}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_member_by_member() {
        let (from, to) = (
            json!({"parameters": {"limit": 80, "key": "a"}, "input": "readings"}),
            json!({"parameters": {"limit": 85, "key": "a"}, "input": "readings", "output": "x"}),
        );
        assert_eq!(
            differences(&from, &to),
            [
                json!({"path": "/output", "from": null, "to": "x"}),
                json!({"path": "/parameters/limit", "from": 80, "to": 85}),
            ]
        );
    }
}
