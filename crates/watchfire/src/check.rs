//! `watchfire rule check`: what a server would say of a component, without one, and what its calls cost here.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use watchfire_api::contract::ModuleInfo;
use watchfire_model::Limits;
use watchfire_scenario::{Cost, Rule, RunError};

use crate::commands::{pair, with_values};
use crate::{adapters, project};

/// Of the time and memory that a rule may have, a part that is a lot: on a server other rules run beside it.
const A_LOT: u64 = 10;

/// Bytes of a component that take noticeably long to send, to keep and to compile.
const LARGE: u64 = 32 << 20;

/// Which component.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A component, or a project, which is built
    what: PathBuf,
    /// A parameter to start it with: a number, true, false, JSON, or text; `a.b=1` sets a member of a member
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
}

/// Says all of it; an error where a server would refuse the component.
pub fn run(options: Options, json: bool) -> Result<()> {
    let parameters = with_values(Value::Null, "--set", &options.set)?;
    let component = component(&options.what)?;
    let rule = match Rule::load(&component) {
        Ok(rule) => rule,
        Err(RunError::Refused(refusal)) => {
            if json {
                let code = adapters::code(&refusal);
                println!("{}", json!({ "ok": false, "reason": code, "detail": refusal.to_string() }));
            }
            bail!("{}: {refusal}", options.what.display());
        }
        Err(error) => return Err(error.into()),
    };
    let info = adapters::info(rule.report.clone());
    let cost = rule.measure(&parameters);
    let warnings = warnings(&info, &cost, !options.set.is_empty());
    if json {
        println!("{}", serde_json::to_string_pretty(&document(&info, &cost, &warnings)?)?);
    } else {
        print!("{}", text(&info, &cost, &warnings));
    }
    // With parameters of the user's a server would refuse the deployment.
    match cost {
        Err(reason) if !options.set.is_empty() => bail!("{}: {reason}", options.what.display()),
        _ => Ok(()),
    }
}

fn component(what: &Path) -> Result<Vec<u8>> {
    if what.is_dir() {
        return project::component(what);
    }
    std::fs::read(what).with_context(|| format!("{} cannot be read", what.display()))
}

/// What is not wrong, and should be known.
fn warnings(info: &ModuleInfo, cost: &Result<Cost, String>, given: bool) -> Vec<String> {
    let mut all = Vec::new();
    let mut warn = |text: String| all.push(text);
    let limits = Limits::default();
    if info.language.is_none() {
        warn("it does not say what it was written in".into());
    }
    if info.size > LARGE {
        warn(format!("it has {}: each server keeps and compiles it", bytes(info.size)));
    }
    if info.state_version > 1 && !info.migrates {
        let version = info.state_version;
        warn(format!("its state is of version {version}, and it cannot take over state of an earlier one"));
    }
    let cost = match cost {
        Ok(cost) => cost,
        Err(reason) if given => {
            warn(format!("it does not start with these parameters, so its cost is not known: {reason}"));
            return all;
        }
        Err(reason) => {
            warn(format!("it needs parameters, so its cost is not known (give them with --set): {reason}"));
            return all;
        }
    };
    if cost.metrics.is_empty() {
        warn("it reads all metrics: name those that it needs, and the others cost nothing".into());
    }
    if let Some(failure) = &cost.failure {
        warn(format!("a call with numbers that are made up failed: {failure}"));
    }
    if cost.state > 0 && info.state_version == 0 {
        warn("it keeps state and says that it keeps none (state_version 0)".into());
    }
    if let Some(time) = cost.call_nanoseconds
        && time > limits.time.0 * 1000 / A_LOT
    {
        let part = limits.time;
        warn(format!("a call takes {} of the {part} that it may take", nanoseconds(time)));
    }
    if cost.memory > limits.memory / 2 {
        let (memory, most) = (bytes(cost.memory), bytes(limits.memory));
        warn(format!("an instance has {memory} of memory, and may have {most}"));
    }
    if cfg!(debug_assertions) {
        warn(
            "this program was built for debugging: it measures more than a server of a release takes".into(),
        );
    }
    all
}

fn document(info: &ModuleInfo, cost: &Result<Cost, String>, warnings: &[String]) -> Result<Value> {
    let mut document = json!(info);
    if let Some(members) = document.as_object_mut() {
        members.remove("uploaded_at");
        members.insert("ok".into(), json!(true));
        members.insert("limits".into(), serde_json::to_value(Limits::default())?);
        members.insert("warnings".into(), json!(warnings));
        if let Ok(cost) = cost {
            members.insert("metrics".into(), json!(cost.metrics));
            members.insert("cost".into(), json!(cost));
        }
    }
    Ok(document)
}

fn text(info: &ModuleInfo, cost: &Result<Cost, String>, warnings: &[String]) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let mut line = |name: &str, value: String| {
        let value = value.replace('\n', &format!("\n{:12}", ""));
        let _ = writeln!(text, "{name:12}{value}");
    };
    let list = |items: &[String]| if items.is_empty() { "none".to_string() } else { items.join(", ") };
    line("module", format!("{} {}", info.name, info.version));
    if !info.description.is_empty() {
        line("", info.description.clone());
    }
    line("digest", info.digest.to_string());
    line("language", info.language.clone().unwrap_or_else(|| "unknown".into()));
    line("size", bytes(info.size));
    line("imports", list(&info.imports));
    line("exports", list(&info.exports));
    line("parameters", parameters(&info.parameters));
    line(
        "state",
        match (info.state_version, info.migrates) {
            (0, _) => "keeps none".into(),
            (version, true) => format!("version {version}; takes over earlier ones"),
            (version, false) => format!("version {version}"),
        },
    );
    let limits = Limits::default();
    line(
        "limits",
        format!(
            "where a deployment says nothing: time {}, memory {}, effects {}, output {}, state {}",
            limits.time,
            bytes(limits.memory),
            limits.effects,
            bytes(limits.output),
            bytes(limits.state)
        ),
    );
    if let Ok(cost) = cost {
        let metrics = if cost.metrics.is_empty() { "all".into() } else { list(&cost.metrics) };
        line("reads", metrics);
        line("start", format!("{} until an instance has started", nanoseconds(cost.start_nanoseconds)));
        if let Some(time) = cost.call_nanoseconds {
            let per_row = time as f64 / cost.rows as f64;
            let what = format!(
                "{} for a call of {} rows, {per_row:.0} ns a row\nmedian of {} calls with numbers from 0 to 100 for {}, of {} devices\n{} of memory, {} of state, at most {} effects a call",
                nanoseconds(time),
                cost.rows,
                cost.calls,
                list(&cost.columns),
                cost.devices,
                bytes(cost.memory),
                bytes(cost.state),
                cost.effects
            );
            line("cost", what);
        }
    }
    for warning in warnings {
        line("warning", warning.clone());
    }
    text
}

/// A line for each parameter of a schema.
fn parameters(schema: &Value) -> String {
    let nothing = Map::new();
    let members = schema["properties"].as_object().unwrap_or(&nothing);
    let required = |name: &str| schema["required"].as_array().is_some_and(|all| all.contains(&json!(name)));
    let lines = members.iter().map(|(name, of)| {
        let kind = match &of["type"] {
            Value::String(kind) => kind.clone(),
            Value::Null => "any".into(),
            kinds => kinds.to_string(),
        };
        let mut parts = vec![kind];
        if let Some(unit) = of["unit"].as_str() {
            parts.push(format!("unit {unit}"));
        }
        for (member, word) in [
            ("default", "default"),
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
            ("enum", "one of"),
        ] {
            if !of[member].is_null() {
                parts.push(format!("{word} {}", of[member]));
            }
        }
        if required(name) {
            parts.push("must be given".into());
        }
        let description = of["description"].as_str().map(|text| format!(": {text}")).unwrap_or_default();
        format!("{name} ({}){description}", parts.join(", "))
    });
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() { "none".into() } else { lines.join("\n") }
}

fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} bytes"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

fn nanoseconds(count: u64) -> String {
    match count {
        0..1000 => format!("{count} ns"),
        1000..1_000_000 => format!("{:.1} us", count as f64 / 1e3),
        _ => format!("{:.1} ms", count as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_a_line_for_each_parameter() {
        let schema = json!({
            "properties": {
                "high": { "type": "number", "default": 80, "minimum": -1000, "unit": "°C", "description": "Above it." },
                "metric": { "type": "string" },
                "mode": { "enum": ["a", "b"] },
            },
            "required": ["metric"],
        });
        assert_eq!(
            parameters(&schema),
            "high (number, unit °C, default 80, from -1000): Above it.\n\
             metric (string, must be given)\n\
             mode (any, one of [\"a\",\"b\"])"
        );
        assert_eq!(parameters(&Value::Null), "none");
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!([bytes(7), bytes(2048), bytes(3 << 20)], ["7 bytes", "2.0 KiB", "3.0 MiB"]);
        assert_eq!(
            [nanoseconds(999), nanoseconds(1500), nanoseconds(2_000_000)],
            ["999 ns", "1.5 us", "2.0 ms"]
        );
    }
}
