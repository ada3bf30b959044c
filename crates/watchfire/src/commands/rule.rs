//! Rules.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Client, ClientError, explain, read_file, segment};
use super::table::Output;

/// Commands about rules on a server.
#[derive(Subcommand, Debug)]
pub enum RuleCommand {
    /// Deploy a rule: a project folder, a component, or a module that the server knows
    Deploy(Deploy),
    /// List rules
    Ls {
        /// Also those that were removed
        #[arg(long)]
        removed: bool,
    },
    /// Show a rule
    Show {
        /// Its name
        name: String,
    },
    /// List the versions of a rule
    Versions {
        /// Its name
        name: String,
    },
    /// Go back to an earlier version
    Rollback {
        /// Its name
        name: String,
        /// The version; without it, the one before the present
        #[arg(long)]
        to: Option<u32>,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        /// Wait until every partition swapped
        #[arg(long)]
        wait: bool,
    },
    /// Stop calling a rule
    Pause {
        /// Its name
        name: String,
    },
    /// Call a paused rule again
    Resume {
        /// Its name
        name: String,
    },
    /// Remove a rule
    Rm {
        /// Its name
        name: String,
    },
    /// Watch a rule at work
    Tail {
        /// Its name
        name: String,
    },
}

/// How to deploy a rule.
#[derive(Args, Debug)]
pub struct Deploy {
    /// A project folder, a component file, or the name of a module on the server
    what: String,
    /// The name of the rule; without it, the name of the module
    #[arg(long)]
    name: Option<String>,
    /// Which devices: type=press, site=lyon, device=press-1, or label.NAME=value; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    select: Vec<(String, String)>,
    /// A parameter: a number, true, false, JSON, or text; `a.b=1` sets a member of a member
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// The stream that it reads
    #[arg(long)]
    input: Option<String>,
    /// The stream that it publishes
    #[arg(long)]
    output: Option<String>,
    /// Why; kept with the version
    #[arg(long)]
    reason: Option<String>,
    /// State that the module cannot read is dropped
    #[arg(long)]
    discard_state: bool,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// Wait until every partition swapped
    #[arg(long)]
    wait: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

pub(super) async fn run(command: RuleCommand, client: &Client, output: Output) -> Result<(), ClientError> {
    let path = |name: &str| format!("/rules/{}", segment(name));
    match command {
        RuleCommand::Deploy(command) => deploy(command, client, output).await?,
        RuleCommand::Ls { removed } => {
            let query = vec![("removed", removed.to_string())];
            let items = client.list("/rules", query, usize::MAX).await?;
            output.list(
                &items,
                &[
                    "name",
                    "version",
                    "state",
                    "module",
                    "devices",
                    "health.calls",
                    "health.failures",
                    "updated_at",
                ],
            );
        }
        RuleCommand::Show { name } => output.document(&client.get(&path(&name), &[]).await?),
        RuleCommand::Versions { name } => {
            let items = client.list(&format!("{}/versions", path(&name)), Vec::new(), usize::MAX).await?;
            output.list(&items, &["version", "state", "module", "by", "at", "reason", "refusal"]);
        }
        RuleCommand::Rollback { name, to, reason, wait } => {
            let body = json!({"to": to, "reason": reason});
            let path = format!("{}/rollback?wait={wait}", path(&name));
            let answer = client.call(Method::POST, &path, Some(&body)).await?;
            output.done(&format!("rule {name}: version {} ({})", answer["version"], word(&answer)), &answer);
        }
        RuleCommand::Pause { name } => {
            let answer = client.call(Method::POST, &format!("{}/pause", path(&name)), None).await?;
            output.done(&format!("rule {name} is paused"), &answer);
        }
        RuleCommand::Resume { name } => {
            let answer = client.call(Method::POST, &format!("{}/resume", path(&name)), None).await?;
            output.done(&format!("rule {name} goes on"), &answer);
        }
        RuleCommand::Rm { name } => {
            client.call(Method::DELETE, &path(&name), None).await?;
            output.done(&format!("rule {name} is removed"), &json!({"removed": name}));
        }
        RuleCommand::Tail { name } => {
            let each = |event: &str, data: &str| match output.is_json() {
                true => output.line(&format!("{{\"event\":{},\"data\":{data}}}", json!(event))),
                false => output.line(&format!("{event:9}  {data}")),
            };
            client.follow(&format!("{}/tail", path(&name)), each).await?;
        }
    }
    Ok(())
}

fn word(answer: &Value) -> &str {
    answer["state"].as_str().unwrap_or("pending")
}

/// Builds and uploads what is a folder or a file; anything else is a module that the server knows.
pub(super) async fn module(what: &str, client: &Client, output: Output) -> Result<Value, ClientError> {
    let path = Path::new(what);
    if !path.exists() {
        return client.get(&format!("/modules/{}", segment(what)), &[]).await;
    }
    let bytes = match path.is_dir() {
        true => {
            output.progress(&format!("building {what}"));
            let folder = PathBuf::from(path);
            // Cargo runs for seconds to minutes.
            let built = tokio::task::spawn_blocking(move || watchfire_host::build::build_rust_rule(&folder));
            match built.await {
                Ok(built) => built.map_err(|error| ClientError::Usage(explain(&error)))?,
                Err(error) => return Err(ClientError::Usage(format!("the build ended early: {error}"))),
            }
        }
        false => read_file(path)?,
    };
    output.progress(&format!("uploading {} bytes", bytes.len()));
    client.upload("/modules", "application/wasm", bytes).await
}

async fn deploy(command: Deploy, client: &Client, output: Output) -> Result<(), ClientError> {
    let module = module(&command.what, client, output).await?;
    let name = command.name.or_else(|| module["name"].as_str().map(String::from)).unwrap_or_default();
    let mut body = json!({
        "module": module["digest"],
        "select": selector(&command.select)?,
        "discard_state": command.discard_state,
    });
    if !command.set.is_empty() {
        body["parameters"] = parameters(&command.set)?;
    }
    for (key, value) in [("input", command.input), ("output", command.output), ("reason", command.reason)] {
        if let Some(value) = value {
            body[key] = json!(value);
        }
    }
    let path = format!("/rules/{}?dry_run={}&wait={}", segment(&name), command.dry_run, command.wait);
    let answer = client.call(Method::PUT, &path, Some(&body)).await?;
    match command.dry_run {
        true if output.is_json() => output.document(&answer),
        true => {
            output.line(&format!("rule {name}: {}", answer["change"].as_str().unwrap_or("none")));
            differences(&answer, output);
        }
        false => {
            output.done(&format!("rule {name}: version {} ({})", answer["version"], word(&answer)), &answer);
        }
    }
    Ok(())
}

/// Prints what would change.
pub(super) fn differences(answer: &Value, output: Output) {
    for difference in answer["differences"].as_array().into_iter().flatten() {
        let path = difference["path"].as_str().unwrap_or("");
        output.line(&format!("  {path}: {} -> {}", difference["from"], difference["to"]));
    }
}

fn selector(pairs: &[(String, String)]) -> Result<Value, ClientError> {
    let mut selector = Map::new();
    let add = |object: &mut Map<String, Value>, key: &str, value: &str| {
        if let Value::Array(values) = object.entry(key).or_insert_with(|| json!([])) {
            values.push(json!(value));
        }
    };
    let mut labels = Map::new();
    for (key, value) in pairs {
        match key.as_str() {
            "type" | "site" | "devices" => add(&mut selector, key, value),
            "device" => add(&mut selector, "devices", value),
            key => match key.strip_prefix("label.").or(key.strip_prefix("labels.")) {
                Some(label) if !label.is_empty() => add(&mut labels, label, value),
                _ => {
                    return Err(ClientError::Usage(format!(
                        "--select {key}: there are type, site, device and label.NAME"
                    )));
                }
            },
        }
    }
    if !labels.is_empty() {
        selector.insert("labels".into(), Value::Object(labels));
    }
    Ok(Value::Object(selector))
}

fn parameters(pairs: &[(String, String)]) -> Result<Value, ClientError> {
    let mut all = json!({});
    for (key, text) in pairs {
        let mut place = &mut all;
        for name in key.split('.') {
            if place.is_null() {
                *place = json!({});
            }
            let Value::Object(members) = place else {
                return Err(ClientError::Usage(format!("--set {key}: a part of it has a value already")));
            };
            place = members.entry(name).or_insert(Value::Null);
        }
        *place = serde_json::from_str(text).unwrap_or_else(|_| json!(text));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(texts: &[&str]) -> Vec<(String, String)> {
        texts.iter().map(|text| pair(text).unwrap()).collect()
    }

    #[test]
    fn selectors_and_parameters_are_read() {
        assert_eq!(
            selector(&pairs(&["type=press", "site=lyon", "site=oslo", "label.line=3", "device=a"])).unwrap(),
            json!({"type": ["press"], "site": ["lyon", "oslo"], "labels": {"line": ["3"]}, "devices": ["a"]})
        );
        assert!(selector(&pairs(&["colour=red"])).is_err());
        assert_eq!(
            parameters(&pairs(&["limit=80.5", "on=true", "metric=temp", "list=[1,2]", "a.b=1", "a.c=x=y"]))
                .unwrap(),
            json!({"limit": 80.5, "on": true, "metric": "temp", "list": [1, 2], "a": {"b": 1, "c": "x=y"}})
        );
        assert!(parameters(&pairs(&["a=1", "a.b=2"])).is_err());
        assert!(pair("nothing").is_err());
    }
}
