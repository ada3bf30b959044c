//! What is known at the end, from every side: the ledgers of the clients, what the receiver got, what the
//! API says, and the log as it lies on the disk.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::device::Ledger;
use crate::engine::{Api, Engine};
use crate::outlets::Outlet;
use crate::receiver::Arrival;

/// A change of a rule that the API said is durable.
#[derive(Clone, Debug)]
pub struct Change {
    /// The version that it made.
    pub version: u64,
    /// Where the API said that it stands, in each partition.
    pub positions: Vec<String>,
    /// The limit that was asked for; `None`: a rollback.
    pub high: Option<f64>,
}

/// An alert, as the API tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// The rule.
    pub rule: String,
    /// Its version.
    pub version: u64,
    /// The device.
    pub device: String,
    /// When it began, in microseconds.
    pub raised: i64,
    /// When it ended.
    pub resolved: Option<i64>,
    /// The record that raised it.
    pub position: String,
}

/// A record of the log.
#[derive(Clone, Debug)]
pub struct Record {
    /// `epoch/partition/offset`.
    pub position: String,
    /// Its partition.
    pub partition: u64,
    /// Microseconds.
    pub appended_at: i64,
    /// What it is.
    pub what: What,
}

/// What a record can be, as far as it matters here.
#[derive(Clone, Debug)]
pub enum What {
    /// Rows of devices.
    Rows(Vec<Row>),
    /// A version of a rule is deployed, or comes back.
    Rule {
        rule: String,
        version: u64,
        /// With a rollback: the version that comes back.
        restores: Option<u64>,
        metric: String,
        high: f64,
        deadband: f64,
    },
    /// A partition runs a version.
    Activated { rule: String, version: u64 },
    /// What must not be there: a refused version, a failed call, rejects.
    Bad(String),
    /// Anything else.
    Other,
}

/// A row of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The handle of its device in its partition.
    pub handle: u64,
    /// Microseconds.
    pub time: i64,
    /// See [`crate::device::Reading`].
    pub serial: u64,
    /// All of them.
    pub metrics: Value,
}

impl Row {
    /// One of its numbers.
    pub fn number(&self, metric: &str) -> Option<f64> {
        self.metrics[metric].as_f64()
    }
}

/// All of it.
#[derive(Clone)]
pub struct Evidence {
    /// Of each device.
    pub ledgers: Vec<Ledger>,
    /// Of whoever changed the rule that comes and goes, in order.
    pub changes: Vec<Change>,
    /// At the receiver, in order.
    pub arrivals: Vec<Arrival>,
    /// All alerts.
    pub alerts: Vec<Alert>,
    /// Id and state of all deliveries, as the API tells them.
    pub deliveries: Vec<(String, String)>,
    /// Version and limit of the rule that comes and goes, as the API tells them.
    pub versions: Vec<(u64, f64)>,
    /// In the order in which it was written.
    pub log: Vec<Record>,
    /// Where results flowed to, if they did.
    pub outlet: Option<Outlet>,
}

/// Microseconds since the epoch of an RFC 3339 time.
pub fn micros(value: &Value) -> Result<i64> {
    let text = value.as_str().with_context(|| format!("{value} is no time"))?;
    let time: jiff::Timestamp = text.parse().with_context(|| format!("{text:?} is no time"))?;
    Ok(time.as_microsecond())
}

/// All alerts.
pub async fn alerts(api: &Api) -> Result<Vec<Alert>> {
    let of = |item: &Value| {
        let text = |name: &str| item[name].as_str().unwrap_or_default().to_string();
        Ok(Alert {
            rule: text("rule"),
            version: item["rule_version"].as_u64().context("an alert without a version")?,
            device: text("device"),
            raised: micros(&item["raised_at"])?,
            resolved: item.get("resolved_at").map(micros).transpose()?,
            position: text("position"),
        })
    };
    api.list("/alerts").await?.iter().map(of).collect()
}

/// Id and state of all deliveries.
pub async fn deliveries(api: &Api) -> Result<Vec<(String, String)>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let items = api.list("/deliveries").await?;
    Ok(items.iter().map(|item| (text(&item["id"]), text(&item["state"]))).collect())
}

/// Versions of the rule that comes and goes.
pub async fn versions(api: &Api) -> Result<Vec<(u64, f64)>> {
    let of = |item: &Value| {
        let high = item["spec"]["parameters"]["high"].as_f64().context("a version without a limit")?;
        Ok((item["version"].as_u64().context("a version without a number")?, high))
    };
    api.list("/rules/churn/versions").await?.iter().map(of).collect()
}

/// Everything in the log of an engine that does not run.
pub fn log(engine: &Engine) -> Result<Vec<Record>> {
    let dump = engine.dump_log()?;
    let line = |line: &str| {
        let entry: Value = serde_json::from_str(line)?;
        record(&entry).with_context(|| format!("{line:.300}"))
    };
    dump.lines().map(line).collect()
}

fn record(entry: &Value) -> Result<Record> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let number = |value: &Value| value.as_f64().context("a number is missing");
    let whole = |value: &Value| value.as_u64().context("a whole number is missing");
    let control = &entry["control"];
    let what = match (entry["kind"].as_str(), control["type"].as_str()) {
        (Some("readings"), _) if entry["stream"] == "readings" => {
            let rows = entry["rows"].as_array().context("no rows")?;
            let row = |row: &Value| {
                Ok(Row {
                    handle: whole(&row["device"])?,
                    time: micros(&row["time"])?,
                    serial: number(&row["metrics"]["serial"])? as u64,
                    metrics: row["metrics"].clone(),
                })
            };
            What::Rows(rows.iter().map(row).collect::<Result<_>>()?)
        }
        (_, Some(kind @ ("rule_deployed" | "rule_rolled_back"))) => {
            let spec = &control["spec"];
            What::Rule {
                rule: text(&spec["name"]),
                version: whole(&control["version"])?,
                restores: (kind == "rule_rolled_back").then(|| whole(&control["to"])).transpose()?,
                metric: text(&spec["parameters"]["metric"]),
                high: number(&spec["parameters"]["high"])?,
                deadband: number(&spec["parameters"]["deadband"])?,
            }
        }
        (Some("activated"), _) => {
            What::Activated { rule: text(&entry["rule"]), version: whole(&entry["version"])? }
        }
        (Some("refused" | "skipped" | "redo" | "rejects"), _) => What::Bad(entry.to_string()),
        _ => What::Other,
    };
    Ok(Record {
        position: text(&entry["position"]),
        partition: whole(&entry["partition"])?,
        appended_at: micros(&entry["appended_at"])?,
        what,
    })
}
