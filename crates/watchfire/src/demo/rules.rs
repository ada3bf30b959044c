//! The rules of the demonstration, deployed over the API as an operator would.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A rule: its name, and what `PUT /rules/{name}` takes.
pub type Rule = (String, Value);

/// Rules for the simulated fleet, one of each shipped module.
pub fn fleet() -> Vec<Rule> {
    let rule = |name: &str, module: &str, parameters: Value| {
        (name.to_string(), json!({ "module": module, "parameters": parameters }))
    };
    vec![
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
        rule("silent", "silence", json!({ "after": 4 })),
    ]
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

/// Deploys them and waits until every partition runs them.
pub async fn deploy(http: SocketAddr, rules: &[Rule]) -> Result<()> {
    let client = reqwest::Client::new();
    for (name, body) in rules {
        let url = format!("http://{http}/api/v1/rules/{name}?wait=true");
        let answer = client.put(url).json(body).send().await.with_context(|| format!("rule {name}"))?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("rule {name} was refused: {status}: {text}");
        }
        println!("rule       {name} ({})", body["module"].as_str().unwrap_or_default());
    }
    Ok(())
}
