//! What a rule says of readings that were recorded: without an expectation, only the rule itself can fail.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value as Json, json};
use watchfire_model::call::Module;
use watchfire_model::rule::ConditionSet;
use watchfire_model::{DeviceSpec, Limits, Selector, Severity, Timestamp, Value};

use crate::case::{Action, Case, Kind, Row, What};
use crate::compare::judge;
use crate::file::CaseError;
use crate::play::{Change, MODES, Played, play};
use crate::recording::Recording;
use crate::report::CaseReport;
use crate::timeline::flat;
use crate::words;

/// Changes of alerts that are told; all are counted.
const MOST_TOLD: usize = 500;
/// Rows of the output stream that a saved case compares at most.
const MOST_PUBLISHED: usize = 500;

/// What a rule is given beside the readings.
#[derive(Clone, Debug, Default)]
pub struct Deployed {
    /// Parameters.
    pub parameters: Json,
    /// What lies between trigger and alert.
    pub condition: ConditionSet,
    /// Which devices.
    pub select: Selector,
    /// What a call may cost.
    pub limits: Limits,
    /// Columns that the output stream carries on.
    pub pass: Vec<String>,
}

impl Case {
    /// A case that expects nothing: these readings, at the times at which they came, of these devices.
    pub fn of_recording(
        name: &str,
        recording: &Recording,
        devices: Vec<DeviceSpec>,
        deployed: Deployed,
    ) -> Result<Self, CaseError> {
        let mut actions = Vec::with_capacity(recording.all().len());
        for reading in recording.all() {
            let metrics = flat(reading).map_err(|message| CaseError {
                file: name.into(),
                line: 1,
                message: format!("{} at {}: {message}", reading.device, reading.time),
            })?;
            let row = Row { line: 0, at: reading.time, device: reading.device.clone(), metrics };
            actions.push(Action { at: reading.came(), what: What::Reading(row) });
        }
        let Deployed { parameters, condition, select, limits, pass } = deployed;
        Ok(Self {
            name: name.into(),
            file: name.into(),
            start: recording.first(),
            parameters,
            condition,
            select,
            limits,
            pass,
            devices,
            before: None,
            actions,
            expect: None,
            never: Vec::new(),
            publishes: None,
            samples: Vec::new(),
            keeps: None,
            logs: None,
            fails: Vec::new(),
            refused: None,
        })
    }
}

/// What came of a case that expects nothing.
#[derive(Debug, Serialize)]
pub struct Told {
    /// Whether all calls passed, and all ways to play it did the same.
    pub report: CaseReport,
    /// Readings that were played.
    pub readings: usize,
    /// Changes of alerts, in order of time.
    pub changes: Vec<ToldChange>,
    /// Rows of the output stream.
    pub published: usize,
    #[serde(skip)]
    case: Case,
    #[serde(skip)]
    played: Played,
}

/// A change of an alert.
#[derive(Clone, Debug, Serialize)]
pub struct ToldChange {
    /// When.
    pub at: Timestamp,
    /// `trigger`, `clear`, `latched` or `realarm`.
    pub change: String,
    /// The device.
    pub device: String,
    /// Which condition of the device.
    pub key: String,
    /// How bad.
    pub severity: Severity,
    /// For people.
    pub summary: String,
    /// Values.
    pub details: serde_json::Map<String, Json>,
}

fn details(change: &Change) -> serde_json::Map<String, Json> {
    change.details.iter().map(|detail| (detail.name.clone(), json!(detail.value))).collect()
}

/// Plays a case and tells what the rule says.
pub(crate) fn tell(module: &Arc<dyn Module>, case: &Case) -> Told {
    let report = judge(module, case);
    let mut played = play(module, case, MODES[0]).unwrap_or_default();
    played.changes.sort_by_key(|change| change.at);
    let change = |change: &Change| ToldChange {
        at: change.at,
        change: change.kind.to_string(),
        device: change.device.clone(),
        key: change.key.clone(),
        severity: change.severity,
        summary: change.summary.clone(),
        details: details(change),
    };
    let readings = case.actions.iter().filter(|action| matches!(action.what, What::Reading(_))).count();
    let changes = played.changes.iter().map(change).collect();
    Told { report, readings, changes, published: played.published.len(), case: case.clone(), played }
}

impl Told {
    /// The case as a file, with what the rule said as what is expected: changes of alerts, rows that it published (as
    /// long as people can look through them), and calls that failed. Its readings stand in `readings`, a file beside
    /// it ([`Told::to_ndjson`]).
    pub fn to_yaml(&self, module: &str, readings: &str) -> String {
        let case = &self.case;
        let mut text =
            format!("# What {module} said of what was recorded. Change what it should have said instead.\n");
        let mut line = |name: &str, value: Json| {
            // JSON is YAML, and writing to a String does not fail.
            let _ = writeln!(text, "{name}: {value}");
        };
        line("name", json!(case.name));
        line("parameters", case.parameters.clone());
        if case.condition != ConditionSet::default() {
            line("condition", json!(case.condition));
        }
        if case.select != Selector::default() {
            line("select", json!(case.select));
        }
        if case.limits != Limits::default() {
            line("limits", json!(case.limits));
        }
        if !case.pass.is_empty() {
            line("pass", json!(case.pass));
        }
        line("start", json!(case.start));
        let device = |spec: &DeviceSpec| {
            let mut device = json!({ "id": spec.id });
            for (name, value) in [("type", &spec.kind), ("site", &spec.site)] {
                if !value.is_empty() {
                    device[name] = json!(value);
                }
            }
            if !spec.labels.is_empty() {
                device["labels"] = json!(spec.labels);
            }
            if let Some(interval) = spec.interval {
                device["interval"] = json!(interval);
            }
            device
        };
        let list = |items: Vec<Json>| {
            items.iter().fold(String::new(), |text, item| text + "\n  - " + &item.to_string())
        };
        let expected = |change: &Change| {
            let mut identity = json!({ "device": change.device, "key": change.key });
            if matches!(change.kind, Kind::Trigger | Kind::Realarm) {
                identity["severity"] = json!(change.severity);
                identity["summary"] = json!(change.summary);
                if !change.details.is_empty() {
                    identity["details"] = Json::Object(details(change));
                }
            }
            let mut expected = json!({ "at": change.at });
            expected[change.kind.to_string()] = identity;
            expected
        };
        let devices = list(case.devices.iter().map(device).collect());
        let _ = writeln!(text, "devices:{}", if devices.is_empty() { " []" } else { &devices });
        let _ = writeln!(text, "timeline:\n  - {}", json!({ "at": "0s", "file": readings }));
        let changes = list(self.played.changes.iter().map(expected).collect());
        let _ = writeln!(text, "expect:{}", if changes.is_empty() { " []" } else { &changes });
        let published = &self.played.published;
        if published.len() > MOST_PUBLISHED {
            let _ = writeln!(
                text,
                "# It published {} rows, too many to look through: they are not compared.",
                published.len()
            );
        } else if !published.is_empty() {
            let row = |row: &Row| json!({ "at": row.at, "device": row.device, "metrics": row.metrics });
            let _ = writeln!(text, "publishes:{}", list(published.iter().map(row).collect()));
        }
        if !self.played.failures.is_empty() {
            // The first line says what went wrong; a backtrace is of one build only.
            let fails = self.played.failures.iter().map(|failure| {
                json!({ "at": failure.at, "text": failure.text.lines().next().unwrap_or_default() })
            });
            let _ = writeln!(text, "fails:{}", list(fails.collect()));
        }
        text
    }

    /// The readings, as NDJSON.
    pub fn to_ndjson(&self) -> String {
        let mut text = String::new();
        for action in &self.case.actions {
            let What::Reading(row) = &action.what else { continue };
            let metrics: serde_json::Map<String, Json> = row
                .metrics
                .iter()
                .map(|(name, value): (&String, &Value)| (name.clone(), json!(value)))
                .collect();
            let line =
                json!({ "device": row.device, "time": row.at, "received": action.at, "metrics": metrics });
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.case.actions.last().map_or(self.case.start, |action| action.at);
        writeln!(f, "{}: {} readings, {} to {last}", self.case.name, self.readings, self.case.start)?;
        for change in self.played.changes.iter().take(MOST_TOLD) {
            writeln!(f, "  {}  {}", change.at, words::change_at(change))?;
        }
        if self.changes.len() > MOST_TOLD {
            writeln!(f, "  and {} more", self.changes.len() - MOST_TOLD)?;
        }
        for message in self.report.log.iter().take(MOST_TOLD) {
            writeln!(f, "  {}  log {}: {}", message.at, message.level, message.text)?;
        }
        for difference in &self.report.differences {
            writeln!(f, "{difference}")?;
        }
        write!(
            f,
            "{} changes of alerts, {} rows published, {} calls failed",
            self.changes.len(),
            self.published,
            self.played.failures.len()
        )
    }
}
