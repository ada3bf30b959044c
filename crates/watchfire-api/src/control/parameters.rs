//! Condition options and limits of a request.

use serde_json::Value;
use watchfire_model::rule::ConditionSet;
use watchfire_model::{BreakerOptions, Limits};

use super::ControlError;

const OPTIONS: [&str; 7] =
    ["on_delay", "minimum_repeat", "repeat_within", "off_delay", "latched", "chatter", "realarm"];

/// Reads condition options. A misspelt one is refused here, since an option that is silently ignored is an
/// alert too many or too few.
pub(super) fn condition(value: Option<Value>) -> Result<ConditionSet, ControlError> {
    let Some(value) = value else { return Ok(ConditionSet::default()) };
    check_names("/condition", &value, &[&OPTIONS[..], &["keys"]].concat())?;
    if let Some(keys) = value.get("keys").and_then(Value::as_object) {
        for (key, options) in keys {
            let pointer = format!("/condition/keys/{}", key.replace('~', "~0").replace('/', "~1"));
            check_names(&pointer, options, &OPTIONS)?;
        }
    }
    serde_json::from_value(value)
        .map_err(|error| ControlError::invalid("condition", "/condition", error.to_string()))
}

fn check_names(pointer: &str, value: &Value, known: &[&str]) -> Result<(), ControlError> {
    let object =
        value.as_object().ok_or_else(|| ControlError::invalid("condition", pointer, "is not an object"))?;
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(ControlError::invalid(
            "condition",
            format!("{pointer}/{name}"),
            format!("{name:?} is no condition option; there are {}", known.join(", ")),
        )),
        None => Ok(()),
    }
}

/// Refuses limits that no rule could run under, or that no machine could keep.
pub(super) fn check_limits(limits: &Limits) -> Result<(), ControlError> {
    let refuse =
        |name: &str, detail: &str| Err(ControlError::invalid("limits", format!("/limits/{name}"), detail));
    let seconds = limits.time.as_secs_f64();
    if !(0.001..=60.0).contains(&seconds) {
        return refuse("time", "the time of a call is between 1 ms and 60 s");
    }
    if !(64 << 10..=4 << 30).contains(&limits.memory) {
        return refuse("memory", "the memory of an instance is between 64 KiB and 4 GiB");
    }
    if limits.fuel == Some(0) {
        return refuse("fuel", "no call runs without fuel");
    }
    if limits.effects == 0 || limits.output == 0 || limits.host_calls == 0 {
        return refuse("effects", "a limit of 0 leaves a rule nothing to do");
    }
    Ok(())
}

/// Refuses what no breaker could work with.
pub(super) fn check_breaker(breaker: &BreakerOptions) -> Result<(), ControlError> {
    let refuse = |(name, detail)| ControlError::invalid("breaker", format!("/breaker/{name}"), detail);
    breaker.check().map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(value: Value, expected: Result<(), &str>) {
        let found = condition(Some(value.clone())).map(drop).map_err(|error| match error {
            ControlError::Invalid { pointer, .. } => pointer,
            other => other.to_string(),
        });
        assert_eq!(found, expected.map_err(String::from), "{value}");
    }

    #[test]
    fn misspelt_options_are_refused_where_they_stand() {
        check(json!({"on_delay": "30s", "keys": {"hot": {"latched": true}}}), Ok(()));
        check(json!({"on_dely": "30s"}), Err("/condition/on_dely"));
        check(json!({"keys": {"a/b": {"keys": {}}}}), Err("/condition/keys/a~1b/keys"));
        check(json!([]), Err("/condition"));
        check(json!({"on_delay": "soon"}), Err("/condition"));
    }

    #[test]
    fn limits_stay_within_reason() {
        assert!(check_limits(&Limits::default()).is_ok());
        for limits in [
            Limits { memory: 1, ..Limits::default() },
            Limits { time: watchfire_model::Duration::from_secs(3600), ..Limits::default() },
            Limits { fuel: Some(0), ..Limits::default() },
            Limits { effects: 0, ..Limits::default() },
        ] {
            assert!(check_limits(&limits).is_err(), "{limits:?}");
        }
    }
}
