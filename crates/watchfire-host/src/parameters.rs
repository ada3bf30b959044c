//! Parameters of a rule against the JSON Schema in its module's manifest.

use serde::Serialize;
use serde_json::{Map, Value};
use watchfire_model::call::Manifest;

/// What is wrong with parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// JSON pointer to the place.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

/// The parameters with the defaults of the schema filled in, if they are valid then. A default of a nested
/// object is filled in where the object is there.
pub fn validate(manifest: &Manifest, parameters: &Value) -> Result<Value, Vec<Problem>> {
    let problem = |path: String, message: String| Problem { path, message };
    let mut filled = match parameters {
        Value::Null => Value::Object(Map::new()),
        other => other.clone(),
    };
    let Value::Object(members) = &filled else {
        return Err(vec![problem(String::new(), "parameters are a JSON object".into())]);
    };
    if manifest.parameters.is_null() {
        return match members.keys().next() {
            None => Ok(filled),
            Some(name) => Err(vec![problem(format!("/{name}"), "the module takes no parameters".into())]),
        };
    }
    fill(&manifest.parameters, &mut filled, 0);
    let validator = jsonschema::validator_for(&manifest.parameters)
        .map_err(|error| vec![problem(String::new(), format!("the module's schema is no good: {error}"))])?;
    let problems: Vec<Problem> = validator
        .iter_errors(&filled)
        .map(|error| problem(error.instance_path().to_string(), error.to_string()))
        .collect();
    if problems.is_empty() { Ok(filled) } else { Err(problems) }
}

/// Refuses a schema that is none.
pub(crate) fn check_schema(schema: &Value) -> Result<(), String> {
    if !schema.is_object() {
        return Err("the JSON Schema of the parameters is no object".into());
    }
    jsonschema::validator_for(schema)
        .map(drop)
        .map_err(|error| format!("the JSON Schema of the parameters is none: {error}"))
}

/// How deep defaults are looked for: schemas of parameters are shallow, and a guest writes them.
const DEEPEST: usize = 16;

fn fill(schema: &Value, value: &mut Value, depth: usize) {
    if depth > DEEPEST {
        return;
    }
    match value {
        Value::Object(members) => {
            let Some(Value::Object(properties)) = schema.get("properties") else { return };
            for (name, property) in properties {
                if let Some(default) = property.get("default")
                    && !members.contains_key(name)
                {
                    members.insert(name.clone(), default.clone());
                }
                if let Some(member) = members.get_mut(name) {
                    fill(property, member, depth + 1);
                }
            }
        }
        Value::Array(entries) => {
            let Some(items) = schema.get("items") else { return };
            for entry in entries {
                fill(items, entry, depth + 1);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(parameters: Value, expected: Result<Value, &str>) {
        let schema = json!({
            "type": "object",
            "properties": {
                "high": {"type": "number"},
                "deadband": {"type": "number", "minimum": 0, "default": 0},
                "limits": {"type": "array", "items": {
                    "type": "object",
                    "properties": {"severity": {"enum": ["minor", "major"], "default": "minor"}},
                }},
            },
            "required": ["high"],
            "additionalProperties": false,
        });
        let manifest = Manifest {
            name: "x".into(),
            version: "1".into(),
            description: String::new(),
            parameters: schema,
            state_version: 0,
        };
        let result = validate(&manifest, &parameters);
        match expected {
            Ok(value) => assert_eq!(result, Ok(value)),
            Err(path) => assert_eq!(result.unwrap_err()[0].path, path, "{parameters}"),
        }
    }

    #[test]
    fn defaults_are_filled_in_and_problems_have_a_place() {
        check(json!({"high": 3}), Ok(json!({"high": 3, "deadband": 0})));
        check(
            json!({"high": 3, "limits": [{}, {"severity": "major"}]}),
            Ok(json!({"high": 3, "deadband": 0, "limits": [{"severity": "minor"}, {"severity": "major"}]})),
        );
        check(Value::Null, Err(""));
        check(json!([]), Err(""));
        check(json!({"high": "3"}), Err("/high"));
        check(json!({"high": 3, "deadband": -1}), Err("/deadband"));
        check(json!({"high": 3, "limits": [{"severity": "bad"}]}), Err("/limits/0/severity"));
    }

    #[test]
    fn a_schema_must_be_one() {
        assert!(check_schema(&json!({"type": "object"})).is_ok());
        assert!(check_schema(&json!({"type": 7})).is_err());
        assert!(check_schema(&json!("x")).is_err());
    }
}
