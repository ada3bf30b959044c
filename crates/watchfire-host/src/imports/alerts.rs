//! `alerts`.

use wasmtime::Result;
use watchfire_model::alert::Detail;
use watchfire_model::call::AlertEffect;
use watchfire_model::{Severity, Value};

use super::{from_guest, size};
use crate::bindings::alerts;
use crate::data::{Data, Need};
use crate::failure::trap;

/// The longest key of a condition, in bytes: it is part of ids, of an index and of labels.
const LONGEST_KEY: usize = 256;

fn check_key(function: &str, key: &str) -> Result<()> {
    if key.len() > LONGEST_KEY {
        return Err(trap(format!("{function}: a key of {} bytes, {LONGEST_KEY} are allowed", key.len())));
    }
    Ok(())
}

/// A detail is written as JSON, which knows no NaN and no infinity: they go on as text.
fn finite(value: Value) -> Value {
    match value {
        Value::Number(number) if !number.is_finite() => Value::Text(number.to_string()),
        other => other,
    }
}

impl alerts::Host for Data {
    fn trigger(&mut self, alert: alerts::Alert) -> Result<()> {
        const NAME: &str = "alerts.trigger";
        self.enter(NAME, Need::Callback)?;
        let device = self.check_device(NAME, alert.device)?;
        self.check_row(NAME, alert.row)?;
        check_key(NAME, &alert.key)?;
        let details: Vec<Detail> = alert
            .details
            .into_iter()
            .map(|detail| Detail { name: detail.name, value: finite(from_guest(detail.value)) })
            .collect();
        // An empty detail takes its place in the list all the same.
        let bytes = details.iter().map(|detail| 48 + detail.name.len() + size(&detail.value)).sum::<usize>();
        self.count_effects(1)?;
        self.count_output(alert.key.len() + alert.summary.len() + bytes)?;
        let severity = match alert.severity {
            alerts::Severity::Info => Severity::Info,
            alerts::Severity::Warning => Severity::Warning,
            alerts::Severity::Minor => Severity::Minor,
            alerts::Severity::Major => Severity::Major,
            alerts::Severity::Critical => Severity::Critical,
        };
        self.effects.alerts.push(AlertEffect::Trigger {
            device,
            key: alert.key,
            severity,
            summary: alert.summary,
            details,
            row: alert.row,
        });
        Ok(())
    }

    fn clear(&mut self, device: u32, key: String, row: Option<u32>) -> Result<()> {
        const NAME: &str = "alerts.clear";
        self.enter(NAME, Need::Callback)?;
        let device = self.check_device(NAME, device)?;
        self.check_row(NAME, row)?;
        check_key(NAME, &key)?;
        self.count_effects(1)?;
        self.count_output(key.len())?;
        self.effects.alerts.push(AlertEffect::Clear { device, key, row });
        Ok(())
    }
}
