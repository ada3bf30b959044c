//! The rules of the demonstration, deployed over the API as an operator would.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use reqwest::StatusCode;
use serde_json::{Value, json};

/// A rule: its name, and what `PUT /rules/{name}` takes.
pub type Rule = (String, Value);

/// The files of rules that work in a chain, as they come with their modules.
const OUTLIER_REPORT: &str = include_str!("../../../../rules/fleet-outlier/deploy/outlier-report.toml");
const OUTLIER_COMPARE: &str = include_str!("../../../../rules/fleet-outlier/deploy/outlier-compare.toml");
const OUTLIER: &str = include_str!("../../../../rules/fleet-outlier/deploy/outlier.toml");
const SILENT_REPORT: &str = include_str!("../../../../rules/site-silence/deploy/silent-report.toml");
const SITE_SILENT: &str = include_str!("../../../../rules/site-silence/deploy/site-silent.toml");

/// Rules for the simulated fleet: all that come along, but the one that alerts on nothing.
pub fn fleet() -> Result<Vec<Rule>> {
    let rule = |name: &str, module: &str, parameters: Value| {
        (name.to_string(), json!({ "module": module, "parameters": parameters }))
    };
    Ok(vec![
        rule(
            "limits",
            "threshold",
            json!({ "limits": [
                { "metric": "temperature", "high": 90, "deadband": 5, "severity": "critical" },
                { "metric": "pressure", "high": 8, "deadband": 0.5, "severity": "major" },
            ] }),
        ),
        rule("temperature-jump", "rate-of-change", json!({ "metric": "temperature", "rise": 20, "per": 1 })),
        rule(
            "odd-current",
            "ewma-anomaly",
            json!({ "metrics": ["current"], "alpha": 0.02, "trigger_sigmas": 6, "warm_up": 4, "least_deviation": 0.3 }),
        ),
        rule("stuck-vibration", "stuck-sensor", json!({ "metric": "vibration", "after": 4 })),
        // Not the halls, which are devices too and never say anything.
        (
            "silent".into(),
            json!({ "module": "silence", "select": { "type": "machine" }, "parameters": { "after": 4 } }),
        ),
        rule(
            "pressure-band",
            "band",
            json!({ "metric": "pressure", "setpoint": 5, "above": 2, "below": 2, "deadband": 0.5 }),
        ),
        rule("no-humidity", "missing-metric", json!({ "metrics": ["humidity"], "readings": 3, "after": 2 })),
        // Half a minute is not long: what is usually a matter of minutes is one of seconds here.
        quicker("outlier-report", OUTLIER_REPORT, json!({ "every": 2 }))?,
        quicker("outlier-compare", OUTLIER_COMPARE, json!({ "fresh": 6, "least_deviation": 0.08 }))?,
        quicker("outlier", OUTLIER, json!({}))?,
        quicker("silent-report", SILENT_REPORT, json!({ "after": 4 }))?,
        quicker("site-silent", SITE_SILENT, json!({ "settle": 1 }))?,
    ])
}

/// The rule of a file, with some other parameters.
fn quicker(name: &str, file: &str, others: Value) -> Result<Rule> {
    let mut body: Value = toml::from_str(file).with_context(|| format!("the file of the rule {name}"))?;
    let parameters = body["parameters"].as_object_mut().context("the file of a rule has parameters")?;
    parameters.extend(others.as_object().cloned().unwrap_or_default());
    Ok((name.to_string(), body))
}

/// The rules of the folder `deploy` beside a recording, or ones that fit any.
pub fn beside(recording: &Path) -> Result<Vec<Rule>> {
    let beside = recording.parent().unwrap_or(Path::new("")).join("deploy");
    if beside.is_dir() {
        return folder(&beside);
    }
    let odd = json!({ "module": "ewma-anomaly", "parameters": { "trigger_sigmas": 8 } });
    Ok(vec![
        ("odd".to_string(), odd),
        ("silent".to_string(), json!({ "module": "silence", "parameters": { "after": 600 } })),
    ])
}

/// The rules of a folder of TOML files, as `watchfire apply` takes them.
pub fn folder(folder: &Path) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let mut body: Value = toml::from_str(&text).with_context(|| path.display().to_string())?;
        let named = body.as_object_mut().and_then(|body| body.remove("name"));
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        rules.push((named.and_then(|name| name.as_str().map(String::from)).unwrap_or(stem), body));
    }
    if rules.is_empty() {
        bail!("{} has no rules (*.toml)", folder.display());
    }
    rules.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(rules)
}

/// Deploys them and waits until every partition runs them. A rule whose module is not there is passed over, since not
/// every machine has the tools of every language; without any it is an error.
pub async fn deploy(http: SocketAddr, rules: &[Rule]) -> Result<()> {
    let client = reqwest::Client::new();
    let mut deployed = 0;
    for (name, body) in rules {
        let module = body["module"].as_str().unwrap_or_default();
        let known = client.get(format!("http://{http}/api/v1/modules/{module}")).send().await;
        if known.with_context(|| format!("module {module}"))?.status() == StatusCode::NOT_FOUND {
            println!("rule       {name} is left out: there is no module {module}");
            continue;
        }
        let url = format!("http://{http}/api/v1/rules/{name}?wait=true");
        let answer = client.put(url).json(body).send().await.with_context(|| format!("rule {name}"))?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("rule {name} was refused: {status}: {text}");
        }
        println!("rule       {name} ({module})");
        deployed += 1;
    }
    if deployed == 0 {
        bail!("there is no module of any of the rules");
    }
    Ok(())
}
