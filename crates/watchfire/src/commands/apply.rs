//! Rules kept as files, made so on the server.
//!
//! Each `.toml`, `.yaml` or `.yml` file of the folder is one rule: what `PUT /rules/{name}` takes, with
//! `module` as the name of a module on the server or the path of a component or project, relative to the
//! file. Its name is the member `name`, or the name of the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::client::{Client, ClientError, read_file, segment};
use super::plan::{print_plan, refusal};
use super::rule::{Found, find, plan};
use super::table::Output;

/// How to apply a folder.
#[derive(Args, Debug)]
pub struct Apply {
    /// The folder
    folder: PathBuf,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Why; kept with each version
    #[arg(long)]
    reason: Option<String>,
    /// Remove rules that have no file
    #[arg(long)]
    prune: bool,
}

pub(super) async fn run(command: Apply, client: &Client, output: Output) -> Result<(), ClientError> {
    let mut rules = read(&command.folder)?;
    let running = client.list("/rules", Vec::new(), usize::MAX).await?;
    let surplus: Vec<String> = running
        .iter()
        .filter_map(|rule| rule["name"].as_str())
        .filter(|name| !rules.contains_key(*name))
        .map(String::from)
        .collect();
    // Everything is checked before anything is changed: a broken file leaves the server as it is.
    let (mut changes, mut uploads, mut plans) = (Vec::new(), Vec::new(), Vec::new());
    let mut refused = Ok(());
    for (name, body) in &mut rules {
        let reference = body["module"].as_str().unwrap_or_default().to_string();
        let module = find(&reference, client, output).await?;
        module.show(client, output).await?;
        body["module"] = module.digest();
        if let Some(reason) = &command.reason {
            body["reason"] = reason.as_str().into();
        }
        let answer = plan(name, body, &module, client).await?;
        if !output.is_json() {
            print_plan(name, &answer, output);
        }
        // All of them are looked at, so that all that is wrong is said at once.
        refused = refused.and(refusal(name, &answer));
        if answer["change"] != "none" {
            changes.push(name.clone());
        }
        if matches!(module, Found::Here { .. }) {
            uploads.push(module);
        }
        plans.push(serde_json::json!({"rule": name, "plan": answer}));
    }
    if refused.is_err() && output.is_json() {
        output.document(&serde_json::json!({"plans": plans}));
    }
    refused?;
    if !output.is_json() {
        for name in &surplus {
            let fate = if command.prune { "remove" } else { "has no file (--prune removes it)" };
            output.line(&format!("rule {name}: {fate}"));
        }
    }
    if !command.dry_run {
        for module in &uploads {
            module.upload(client, output).await?;
        }
        for name in &changes {
            client.call(Method::PUT, &format!("/rules/{}?wait=true", segment(name)), rules.get(name)).await?;
        }
        for name in surplus.iter().filter(|_| command.prune) {
            client.call(Method::DELETE, &format!("/rules/{}", segment(name)), None).await?;
        }
    }
    let document = serde_json::json!({
        "changed": changes, "surplus": surplus, "dry_run": command.dry_run, "plans": plans,
    });
    let verb = if command.dry_run { "would change" } else { "changed" };
    output.done(
        &format!("{} rules {verb}, {} as they were", changes.len(), rules.len() - changes.len()),
        &document,
    );
    Ok(())
}

fn read(folder: &Path) -> Result<BTreeMap<String, Value>, ClientError> {
    let failed = |source| ClientError::File { action: "list", path: folder.display().to_string(), source };
    let mut rules = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
        if !matches!(kind, "toml" | "yaml" | "yml") {
            continue;
        }
        let bytes = read_file(&path)?;
        let usage = |what: &dyn std::fmt::Display| ClientError::Usage(format!("{}: {what}", path.display()));
        let text = std::str::from_utf8(&bytes).map_err(|error| usage(&error))?;
        let (name, body) = parse(kind, text, &path).map_err(|what| usage(&what))?;
        if rules.insert(name.clone(), body).is_some() {
            return Err(usage(&format!("there is another file for rule {name:?}")));
        }
    }
    if rules.is_empty() {
        return Err(ClientError::Usage(format!("{} holds no rules (.toml, .yaml)", folder.display())));
    }
    Ok(rules)
}

/// The name and the body of a rule in a file.
fn parse(kind: &str, text: &str, path: &Path) -> Result<(String, Value), String> {
    let mut body: Value = match kind {
        "toml" => toml::from_str(text).map_err(|error| error.to_string())?,
        _ => serde_saphyr::from_str(text).map_err(|error| error.to_string())?,
    };
    let members = body.as_object_mut().ok_or("is not a table of members")?;
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name = match members.remove("name") {
        None => stem.to_string(),
        Some(Value::String(name)) => name,
        Some(_) => return Err("the name is not a text".into()),
    };
    let Some(Value::String(module)) = members.get_mut("module") else {
        return Err("has no module".into());
    };
    // A path is relative to the file, wherever the command is called.
    let beside = path.parent().unwrap_or(Path::new("")).join(&*module);
    if beside.exists() {
        *module = beside.display().to_string();
    } else if module.contains('/') || module.ends_with(".wasm") {
        return Err(format!("there is no module {module}"));
    }
    Ok((name, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_rule() {
        let of = |kind: &str, text: &str| parse(kind, text, Path::new("/nowhere/hot.toml"));
        let (name, body) = of("toml", "module = \"threshold\"\n[parameters]\nabove = 80\n").unwrap();
        assert_eq!((name.as_str(), &body["parameters"]["above"]), ("hot", &serde_json::json!(80)));
        let (name, body) = of("yaml", "name: cold\nmodule: threshold\nselect:\n  type: press\n").unwrap();
        assert_eq!((name.as_str(), &body["select"]["type"]), ("cold", &serde_json::json!("press")));
        assert!(of("toml", "x = 1").unwrap_err().contains("no module"));
        assert!(of("toml", "module = \"./gone.wasm\"").unwrap_err().contains("gone"));
        assert!(of("toml", "=").is_err());
    }
}
