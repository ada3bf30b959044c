//! A rule: a named deployment of a module.

use serde::{Deserialize, Serialize};

use crate::alert::ConditionOptions;
use crate::breaker::BreakerOptions;
use crate::id::Digest;
use crate::selector::Selector;
use crate::time::Duration;

/// What `PUT /rules/{name}` deploys, complete: names resolved to digests, defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleSpec {
    /// 1 to 64 characters of `a-z 0-9 - _ .`, unique.
    pub name: String,
    /// The module that it runs.
    pub module: Digest,
    /// The stream that it reads.
    #[serde(default = "readings")]
    pub input: String,
    /// The stream that it publishes, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Columns of the input that its output stream carries on, by name; a trailing `*` matches any suffix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass: Vec<String>,
    /// The devices that it is for.
    #[serde(default)]
    pub select: Selector,
    /// Valid against the schema of the module, defaults filled in: a JSON object.
    #[serde(default = "empty_object")]
    pub parameters: serde_json::Value,
    /// What lies between a trigger and an alert.
    #[serde(default)]
    pub condition: ConditionSet,
    /// What a call may cost.
    #[serde(default)]
    pub limits: Limits,
    /// When it is taken out of a partition because it keeps failing.
    #[serde(default)]
    pub breaker: BreakerOptions,
}

fn readings() -> String {
    crate::READINGS.into()
}

fn empty_object() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}

impl RuleSpec {
    /// Refuses a name that could not be one.
    pub fn check_name(name: &str) -> Result<(), String> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(good) || name.starts_with(['-', '.']) {
            return Err(format!(
                "{name:?} is no name: 1 to 64 characters of a-z, 0-9, '-', '_' and '.', the first no '-' or '.'"
            ));
        }
        Ok(())
    }
}

/// Whether a metric is meant by a pattern: equal, or the pattern ends in `*` and the metric starts with
/// what is before it.
pub fn metric_matches(pattern: &str, metric: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => metric.starts_with(prefix),
        None => pattern == metric,
    }
}

/// Condition options for all keys of a rule, and for single keys in their place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConditionSet {
    /// For every key that has none of its own.
    #[serde(flatten)]
    pub all: ConditionOptions,
    /// For single keys.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub keys: std::collections::BTreeMap<String, ConditionOptions>,
}

impl ConditionSet {
    /// The options of a key.
    pub fn of(&self, key: &str) -> &ConditionOptions {
        self.keys.get(key).unwrap_or(&self.all)
    }
}

/// What one call of a rule, and one instance of it, may cost, and what the rule may keep from call to call
/// (in one partition each). Each limit names itself when it is met. A call that meets one fails and leaves
/// nothing behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wall time of one call. Default 500 ms: a hundred times what an interpreted rule takes for a full
    /// record, and short enough that one bad rule delays the alerts of its partition by half a second once.
    /// It does not bound what a rule costs in sum.
    pub time: Duration,
    /// Instructions of one call, as wasmtime counts fuel; `None`: not counted (counting costs 15 to 40 %).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// Linear memory of one instance, in bytes. Default 64 MiB: what the largest runtime needs
    /// (SpiderMonkey) with nothing kept.
    pub memory: u64,
    /// Effects of one call, counted: triggers, clears, emitted readings, derived columns, timers. Default
    /// 100 000: every device of a large partition at once, and still less than a loop that forgot to end.
    pub effects: u32,
    /// Bytes of one call: derived and emitted values, state stored, summaries and details. Default 32 MiB.
    pub output: u64,
    /// Host calls of one callback. Default 1 000 000.
    pub host_calls: u32,
    /// Bytes of log messages of one call; what is over is cut and counted. Default 16 KiB.
    pub log: u32,
    /// Bytes of state that the rule keeps, of all devices and slots; each blob counts
    /// [`BLOB_OVERHEAD`](crate::state::BLOB_OVERHEAD) bytes beyond its own. Default 256 MiB: a window of a
    /// thousand values for each of 30 000 devices. All of it is in memory, up to some three times over, and what is
    /// kept of versions that were left once or twice more.
    pub state: u64,
    /// Slots of state in use. Default 4096: a slot for each of some hundred metrics, or a long window in
    /// pieces; more of them are keys made of data, which never end.
    pub slots: u32,
    /// Timers that are set. Default 200 000: two for each device of a large partition.
    pub timers: u32,
    /// Conditions that stand or wait, of one device. Default 1000: two sides of some hundred metrics; more of
    /// them are keys made of data. A condition that is over does not count.
    pub keys: u32,
    /// Conditions that stand or wait, of all devices. Default 200 000: two for each device of a large
    /// partition. Each of them is an alert that somebody is told of.
    pub conditions: u32,
}

impl Limits {
    /// Refuses what a rule would keep as state: bytes ([`KeyedState::size`](crate::KeyedState::size)) and
    /// slots in use, before a call and after it. A rule that is over a limit, since that was lowered, may
    /// keep less and as much as before.
    pub fn check_state(&self, before: (u64, usize), after: (u64, usize)) -> Result<(), String> {
        check("bytes of state", "state", self.state, before.0, after.0)?;
        check("slots of state", "slots", self.slots.into(), before.1 as u64, after.1 as u64)
    }

    /// Refuses timers, as [`Limits::check_state`] does state.
    pub fn check_timers(&self, before: usize, after: usize) -> Result<(), String> {
        check("timers", "timers", self.timers.into(), before as u64, after as u64)
    }

    /// Refuses conditions of one device, as [`Limits::check_state`] does state.
    pub fn check_keys(&self, device: &str, before: usize, after: usize) -> Result<(), String> {
        check("conditions", "keys", self.keys.into(), before as u64, after as u64)
            .map_err(|text| format!("{text} a device ({device})"))
    }

    /// Refuses conditions of all devices, as [`Limits::check_state`] does state.
    pub fn check_conditions(&self, before: usize, after: usize) -> Result<(), String> {
        check("conditions", "conditions", self.conditions.into(), before as u64, after as u64)
    }
}

fn check(what: &str, name: &str, limit: u64, before: u64, after: u64) -> Result<(), String> {
    if after > limit && after > before {
        return Err(format!("it would keep {after} {what}, its limit ({name}) is {limit}"));
    }
    Ok(())
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_millis(500),
            fuel: None,
            memory: 64 << 20,
            effects: 100_000,
            output: 32 << 20,
            host_calls: 1_000_000,
            log: 16 << 10,
            state: 256 << 20,
            slots: 4096,
            timers: 200_000,
            keys: 1000,
            conditions: 200_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_needs_only_a_name_and_a_module() {
        let text = format!(r#"{{"name":"hot","module":"{}"}}"#, Digest::of(b""));
        let spec: RuleSpec = serde_json::from_str(&text).unwrap();
        assert_eq!((spec.input.as_str(), &spec.limits), ("readings", &Limits::default()));
        let again: RuleSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn names_and_patterns() {
        for bad in ["", "Hot", "a b", "-a", ".", &"a".repeat(65)] {
            assert!(RuleSpec::check_name(bad).is_err(), "{bad}");
        }
        assert!(RuleSpec::check_name("boiler-pressure_2.high").is_ok());
        assert!(
            metric_matches("temp*", "temperature")
                && metric_matches("*", "x")
                && !metric_matches("temp", "temperature")
        );
    }

    #[test]
    fn what_a_rule_keeps_is_bounded_and_may_always_become_less() {
        let limits = Limits { state: 100, slots: 2, timers: 5, keys: 1, conditions: 3, ..Limits::default() };
        assert_eq!(limits.check_state((0, 0), (100, 2)), Ok(()));
        let text = "it would keep 101 bytes of state, its limit (state) is 100";
        assert_eq!(limits.check_state((100, 2), (101, 2)), Err(text.into()));
        let text = "it would keep 3 slots of state, its limit (slots) is 2";
        assert_eq!(limits.check_state((100, 2), (99, 3)), Err(text.into()));
        assert_eq!(limits.check_state((300, 30), (200, 30)), Ok(()));
        assert!(limits.check_timers(5, 6).unwrap_err().contains("6 timers"));
        assert_eq!(limits.check_timers(9, 9), Ok(()));
        let text = "it would keep 2 conditions, its limit (keys) is 1 a device (d7)";
        assert_eq!(limits.check_keys("d7", 0, 2), Err(text.into()));
        assert!(limits.check_conditions(3, 4).is_err());
    }

    #[test]
    fn a_key_may_have_options_of_its_own() {
        let set: ConditionSet =
            serde_json::from_str(r#"{"on_delay":"30s","keys":{"silent":{"latched":true}}}"#).unwrap();
        assert_eq!(set.of("x").on_delay, Duration::from_secs(30));
        assert!(set.of("silent").latched && set.of("silent").on_delay == Duration::ZERO);
        assert_eq!(serde_json::from_str::<ConditionSet>(&serde_json::to_string(&set).unwrap()).unwrap(), set);
    }
}
