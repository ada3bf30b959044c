//! A verdict made once more, from what is kept with an alert: the module, its parameters, the state of the device before
//! the callback, and what the callback was made for. A module is a function of these and of nothing else that changes,
//! so the same comes of it; unless it looked at what an alert does not keep, such as other devices.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use watchfire_model::alert::{Evidence, Verdict};
use watchfire_model::batch::BatchBuilder;
use watchfire_model::call::{
    AlertEffect, CallFailure, Callback, Context, DeviceSet, FailureKind, Module, Rows, Setup, SilentDevice,
    Timer,
};
use watchfire_model::device::Registry;
use watchfire_model::state::KeyedState;
use watchfire_model::{Limits, Value};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::partition::finite;

/// At most so many at once.
static RERUNS: Semaphore = Semaphore::const_new(2);

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rerun {
    /// What the rule says now of the condition; `None`: nothing.
    pub verdict: Option<Verdict>,
    /// Time in the callback.
    pub took: Duration,
}

impl Engine {
    /// Makes the callback of the evidence again, in an instance of its own: nothing of it is left. `key` is the condition.
    pub async fn rerun(
        &self,
        rule: String,
        limits: Limits,
        key: String,
        evidence: Evidence,
    ) -> Result<Result<Rerun, CallFailure>, EngineError> {
        // Each takes an instance, and perhaps a compilation; threads that block are shared with the whole process.
        let _one = RERUNS.acquire().await.map_err(|_| EngineError::Stopped)?;
        let modules = self.modules.clone();
        // A module that no rule has any more is compiled anew: that takes seconds.
        let made = tokio::task::spawn_blocking(move || {
            let module = modules.get(evidence.module)?;
            rerun(&*module, &rule, limits, &key, &evidence)
        });
        made.await.map_err(|_| EngineError::Stopped)
    }
}

fn rerun(
    module: &dyn Module,
    rule: &str,
    limits: Limits,
    key: &str,
    evidence: &Evidence,
) -> Result<Rerun, CallFailure> {
    let unreadable =
        |what: &str| CallFailure::new(FailureKind::Load, format!("the evidence cannot be read: {what}"));
    let mut registry = Registry::default();
    let device = evidence.device.as_ref().ok_or_else(|| unreadable("the device"))?;
    let (handle, _) = registry.put(device.clone());
    let mut selected = DeviceSet::default();
    selected.set(handle, true);
    let mut state = KeyedState::new();
    for (slot, hex) in &evidence.state_before {
        let blob = bytes(hex).ok_or_else(|| unreadable(&format!("the state of slot {slot}")))?;
        state.set(*slot, handle, &blob);
    }
    let mut batch = BatchBuilder::new();
    for row in &evidence.rows {
        batch.begin(handle, row.time);
        for (metric, value) in &row.metrics {
            let put = match value {
                Value::Number(number) => batch.number(metric, *number),
                Value::Text(text) => batch.text(metric, text),
                Value::Boolean(flag) => batch.boolean(metric, *flag),
            };
            put.map_err(|_| unreadable(&format!("the metric {metric}")))?;
        }
        batch.commit();
    }
    let callback = match evidence.callback.as_str() {
        "batch" => Callback::Batch(Arc::new(Rows::new(
            evidence.stream.as_str().into(),
            Arc::new(batch.finish()),
            None,
            Arc::from([]),
        ))),
        "timers" => Callback::Timers(
            evidence
                .timers
                .iter()
                .map(|timer| Timer { device: handle, tag: timer.tag, at: timer.at })
                .collect(),
        ),
        "silence" => Callback::Silence(vec![SilentDevice { device: handle, last: evidence.last_reading }]),
        other => match other.strip_prefix("schedule ") {
            Some(name) => Callback::Schedule { name: name.into(), at: evidence.now },
            None => return Err(unreadable(&format!("the callback {other:?}"))),
        },
    };
    // What passed once may take longer on a machine that has more to do.
    let setup =
        Setup { rule: rule.into(), parameters: Arc::new(evidence.parameters.clone()), limits, replay: true };
    let (mut instance, _) = module.start(&setup)?;
    let context =
        Context { now: evidence.now, devices: Arc::new(registry), selected: Arc::new(selected), state };
    let outcome = instance.call(callback, context);
    let took = Duration::from_nanos(outcome.cost.nanoseconds);
    let row = evidence.row.map(|row| row as u32);
    let said = outcome.result?.alerts.into_iter().find_map(|effect| match effect {
        AlertEffect::Trigger { device, key: of, severity, summary, details, row: named }
            if device == handle && of == key && (row.is_none() || named == row) =>
        {
            Some(Verdict { severity, summary, details: finite(details) })
        }
        _ => None,
    });
    Ok(Rerun { verdict: said, took })
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(digits).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use watchfire_model::alert::{Detail, EvidenceRow};
    use watchfire_model::call::{Effects, Subscription};
    use watchfire_model::{DeviceSpec, Epoch, PartitionId, Position, Severity, Timestamp};
    use watchfire_testkit::NativeModule;

    use super::*;

    const NOW: Timestamp = Timestamp(1_767_225_600_000_000);

    /// Says every bit that it sees of the rows and of the device.
    fn module() -> NativeModule {
        NativeModule::new("t", Subscription::default(), |guest| {
            let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
            let device = rows.devices()[0];
            let spec = &guest.context.devices.get(device).unwrap().spec;
            let mut seen = vec![];
            for name in ["type", "site", "rule", "device", "severity", "line"] {
                seen.push(format!("{name} {:?}", spec.attribute(name)));
            }
            seen.extend(rows.numbers("x").iter().map(|x| format!("{:016x}", x.to_bits())));
            seen.extend(rows.texts("said").dictionary.iter().map(|text| text.to_string()));
            let details = [("bits".to_string(), Value::Text(seen.join(", ")))];
            let details = details.map(|(name, value)| Detail { name, value }).into();
            let (key, summary, severity) = ("".into(), "seen".into(), Severity::Major);
            let alert = AlertEffect::Trigger { device, key, severity, summary, details, row: None };
            Ok(Effects { alerts: vec![alert], ..Effects::default() })
        })
    }

    #[test]
    fn the_rule_sees_the_same_bits_and_every_label() {
        let labels = [("rule", "mine"), ("device", "other"), ("severity", "low"), ("line", "3")]
            .map(|(name, value)| (name.to_string(), value.to_string()));
        let numbers =
            [0.1 + 0.2, -0.0, 0.0, 5e-324, f64::MAX, f64::MIN_POSITIVE, 1e23, 9_007_199_254_740_993.0];
        let row = |x: &f64| EvidenceRow {
            time: NOW,
            metrics: BTreeMap::from([
                ("x".into(), Value::Number(*x)),
                ("said".into(), Value::Text("inf".into())),
            ]),
        };
        let position = Position { epoch: Epoch(1), partition: PartitionId(0), offset: 1 };
        let evidence = Evidence {
            device: Some(DeviceSpec { id: "press-1".into(), labels: labels.into(), ..DeviceSpec::default() }),
            rows: numbers.iter().map(row).collect(),
            ..watchfire_testkit::evidence(position, NOW)
        };
        // As the store keeps it, and whoever asks reads it.
        let text = serde_json::to_string(&evidence).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let read: Evidence = serde_json::from_value(read).unwrap();
        let made = rerun(&module(), "r", Limits::default(), "", &read).unwrap();
        let mut expected = vec!["type None".to_string(), "site None".into()];
        for (name, value) in [("rule", "mine"), ("device", "other"), ("severity", "low"), ("line", "3")] {
            expected.push(format!("{name} {:?}", Some(Value::Text(value.into()))));
        }
        expected.extend(numbers.map(|x| format!("{:016x}", x.to_bits())));
        expected.push("inf".into());
        let details = made.verdict.unwrap().details;
        assert_eq!(details[0].value, Value::Text(expected.join(", ")));
    }
}
