//! Rules.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};
use watchfire_model::Digest;

use super::client::{Client, ClientError, read_file, segment};
use super::plan::{show_difference, show_plan};
use super::table::Output;

/// Commands about rules on a server.
#[derive(Subcommand, Debug)]
pub enum RuleCommand {
    /// Deploy a rule: a project folder, a component, or a module that the server knows. Of a rule that runs, what is
    /// not named stays as it is
    Deploy(Box<Deploy>),
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
    /// List the versions of a rule, or compare two of them
    Versions {
        /// Its name
        name: String,
        /// What differs between two versions; of one, from the version before it
        #[arg(long, value_name = "VERSION", num_args = 1..=2)]
        diff: Vec<u32>,
    },
    /// Go back to an earlier version, and to the state from when it was left
    Rollback {
        /// Its name
        name: String,
        /// The version; without it, the one before the present
        #[arg(long)]
        to: Option<u32>,
        /// Go on with the state as it is now
        #[arg(long)]
        keep_state: bool,
        /// Begin without state
        #[arg(long, conflicts_with = "keep_state")]
        discard_state: bool,
        /// Why; kept with the version
        #[arg(long)]
        reason: Option<String>,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
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
    /// Have a rule that is out, or was, evaluate what it missed; and try it again now
    CatchUp {
        /// Its name
        name: String,
    },
    /// Pass over what a rule missed while it was out
    SkipMissed {
        /// Its name
        name: String,
    },
    /// What each rule costs, the dearest first; again each second on a terminal
    Top(super::top::Top),
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
    /// What lies between trigger and alert: on_delay=30s, minimum_repeat=3, repeat_within=10m, off_delay=1m,
    /// latched=true, chatter.count=3, realarm=1h; keys.KEY.on_delay=30s for one key
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    condition: Vec<(String, String)>,
    /// What a call may cost: time=200ms, memory=33554432, fuel=1000000, effects=1000
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    limit: Vec<(String, String)>,
    /// When it is taken out because it keeps failing: failures=0.5, time=0.1, calls=20, span=1m, wait=10s,
    /// longest_wait=10m, on_recovery=skip, enabled=false
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    breaker: Vec<(String, String)>,
    /// A column of the input that the output stream carries on; `temp*` takes all that begin so; may be repeated
    #[arg(long, value_name = "METRIC")]
    pass: Vec<String>,
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
    /// Begin with the defaults: what is not named does not stay as it is in the version that runs
    #[arg(long)]
    reset: bool,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// Wait until every partition swapped
    #[arg(long)]
    wait: bool,
}

pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

pub(super) async fn run(command: RuleCommand, client: &Client, output: Output) -> Result<(), ClientError> {
    let path = |name: &str| format!("/rules/{}", segment(name));
    match command {
        RuleCommand::Deploy(command) => deploy(*command, client, output).await?,
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
                    "health.breaker",
                    "updated_at",
                ],
            );
        }
        RuleCommand::Show { name } => output.document(&client.get(&path(&name), &[]).await?),
        RuleCommand::Versions { name, diff } if diff.is_empty() => {
            let items = client.list(&format!("{}/versions", path(&name)), Vec::new(), usize::MAX).await?;
            output.list(
                &items,
                &[
                    "version",
                    "state",
                    "module",
                    "restores",
                    "by",
                    "at",
                    "state_kept_as_of",
                    "reason",
                    "refusal",
                ],
            );
        }
        RuleCommand::Versions { name, diff } => {
            let query: Vec<_> = match diff[..] {
                [from, to, ..] => vec![("from", from.to_string()), ("to", to.to_string())],
                _ => diff.iter().map(|to| ("to", to.to_string())).collect(),
            };
            let answer = client.get(&format!("{}/difference", path(&name)), &query).await?;
            if output.is_json() {
                output.document(&answer);
            } else {
                show_difference(&name, &answer, output);
            }
        }
        RuleCommand::Rollback { name, to, keep_state, discard_state, reason, dry_run, wait } => {
            let body = json!({
                "to": to, "keep_state": keep_state, "discard_state": discard_state, "reason": reason,
            });
            let path = format!("{}/rollback?wait={wait}&dry_run={dry_run}", path(&name));
            let answer = client.call(Method::POST, &path, Some(&body)).await?;
            if dry_run {
                return show_plan(&name, &answer, output);
            }
            output.done(&done(&name, &answer), &answer);
        }
        RuleCommand::Pause { name } => {
            let answer = client.call(Method::POST, &format!("{}/pause", path(&name)), None).await?;
            output.done(&format!("rule {name} is paused"), &answer);
        }
        RuleCommand::Resume { name } => {
            let answer = client.call(Method::POST, &format!("{}/resume", path(&name)), None).await?;
            output.done(&format!("rule {name} goes on"), &answer);
        }
        RuleCommand::CatchUp { name } => {
            let answer = client.call(Method::POST, &format!("{}/catch-up", path(&name)), None).await?;
            output.done(&format!("rule {name} is tried again, and catches up once it passes"), &answer);
        }
        RuleCommand::SkipMissed { name } => {
            let answer = client.call(Method::POST, &format!("{}/skip-missed", path(&name)), None).await?;
            output.done(&format!("what rule {name} missed is passed over"), &answer);
        }
        RuleCommand::Top(command) => super::top::run(command, client, output).await?,
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

/// What was done, and what the rule goes on with.
fn done(name: &str, answer: &Value) -> String {
    let state = answer["state"].as_str().unwrap_or("pending");
    let done = format!("rule {name}: version {} ({state})", answer["version"]);
    match answer["goes_on_with"]["text"].as_str() {
        Some(text) => format!("{done}; {text}"),
        None => done,
    }
}

/// A module that a rule is to run.
pub(super) enum Found {
    /// The server has it.
    Known(Value),
    /// It is only here.
    Here {
        /// What the user calls it.
        what: String,
        /// What it will be known by.
        digest: Digest,
        /// The component.
        bytes: Vec<u8>,
    },
}

impl Found {
    /// Its digest, as requests name it.
    pub(super) fn digest(&self) -> Value {
        match self {
            Self::Known(module) => module["digest"].clone(),
            Self::Here { digest, .. } => json!(digest),
        }
    }

    /// Uploads it where the server does not have it; gives what it is.
    pub(super) async fn upload(&self, client: &Client, output: Output) -> Result<Value, ClientError> {
        self.send("/modules", "uploading", client, output).await
    }

    /// Has the server look at it where it does not have it, so that a dry run may name it; gives what it is.
    pub(super) async fn show(&self, client: &Client, output: Output) -> Result<Value, ClientError> {
        self.send("/modules?dry_run=true", "sending, to be looked at,", client, output).await
    }

    async fn send(
        &self,
        path: &str,
        doing: &str,
        client: &Client,
        output: Output,
    ) -> Result<Value, ClientError> {
        let (what, bytes) = match self {
            Self::Known(module) => return Ok(module.clone()),
            Self::Here { what, bytes, .. } => (what, bytes),
        };
        output.progress(&format!("{doing} {} bytes", bytes.len()));
        let answer = client.upload(path, "application/wasm", bytes.clone()).await;
        answer.map_err(|error| match error {
            // The server knows it by its digest alone.
            ClientError::Refused(mut document) if document["type"] == "urn:watchfire:problem:module" => {
                let reason = document["detail"].as_str().unwrap_or_default();
                document["detail"] = json!(no_rule(what, reason));
                ClientError::Refused(document)
            }
            error => error,
        })
    }
}

fn no_rule(what: &str, reason: impl std::fmt::Display) -> String {
    format!("{what} is no rule: {reason}")
}

/// A folder is built, a file is read; anything else is a module that the server knows. Changes nothing there.
///
/// What can be seen without compiling is refused here, before it is sent. Everything else the server says, which has
/// to compile it: tens of seconds for one from an interpreted language, so nobody does that here as well.
pub(super) async fn find(what: &str, client: &Client, output: Output) -> Result<Found, ClientError> {
    let path = Path::new(what);
    if !path.exists() {
        return Ok(Found::Known(client.get(&format!("/modules/{}", segment(what)), &[]).await?));
    }
    let bytes = match path.is_dir() {
        true => {
            output.progress(&format!("building {what}"));
            let folder = PathBuf::from(path);
            // A compiler runs for seconds to minutes.
            let built = tokio::task::spawn_blocking(move || crate::project::component(&folder));
            match built.await {
                Ok(built) => built.map_err(|error| ClientError::Failed(format!("{error:#}")))?,
                Err(error) => return Err(ClientError::Failed(format!("the build ended early: {error}"))),
            }
        }
        false => read_file(path)?,
    };
    let digest = Digest::of(&bytes);
    if let Some(known) = client.find(&format!("/modules/{}", segment(&digest.to_string()))).await? {
        return Ok(Found::Known(known));
    }
    watchfire_host::inspect(&bytes).map_err(|refusal| ClientError::Failed(no_rule(what, refusal)))?;
    Ok(Found::Here { what: what.into(), digest, bytes })
}

/// What a deployment would change; changes nothing. The server has the module, or was shown it.
pub(super) async fn plan(
    name: &str,
    body: &Value,
    module: &Found,
    client: &Client,
) -> Result<Value, ClientError> {
    let path = format!("/rules/{}?dry_run=true", segment(name));
    let mut answer = client.call(Method::PUT, &path, Some(body)).await?;
    if let Found::Here { digest, .. } = module {
        answer["upload"] = json!(digest);
    }
    Ok(answer)
}

async fn deploy(command: Deploy, client: &Client, output: Output) -> Result<(), ClientError> {
    let module = find(&command.what, client, output).await?;
    // What is used wrongly is said before anything is sent.
    request(&command, &module, Value::Null)?;
    let info = match command.dry_run {
        true => module.show(client, output).await?,
        false => module.upload(client, output).await?,
    };
    let name = command.name.as_deref().or(info["name"].as_str()).unwrap_or_default();
    let running = match command.reset {
        true => None,
        false => client.find(&format!("/rules/{}", segment(name))).await?,
    };
    let spec = running.map(|mut rule| rule["spec"].take()).unwrap_or_default();
    let body = request(&command, &module, spec)?;
    if command.dry_run {
        let answer = plan(name, &body, &module, client).await?;
        return show_plan(name, &answer, output);
    }
    let path = format!("/rules/{}?wait={}", segment(name), command.wait);
    let answer = client.call(Method::PUT, &path, Some(&body)).await?;
    output.done(&done(name, &answer), &answer);
    Ok(())
}

/// What is sent: the specification that runs, or nothing, with what the command names in place of what it had.
fn request(command: &Deploy, module: &Found, spec: Value) -> Result<Value, ClientError> {
    let mut body = if spec.is_object() { spec } else { json!({}) };
    if let Some(members) = body.as_object_mut() {
        members.remove("name");
    }
    body["module"] = module.digest();
    body["discard_state"] = json!(command.discard_state);
    if !command.select.is_empty() {
        body["select"] = selector(&command.select)?;
    }
    if !command.pass.is_empty() {
        body["pass"] = json!(command.pass);
    }
    let groups = [
        ("parameters", "--set", &command.set),
        ("condition", "--condition", &command.condition),
        ("limits", "--limit", &command.limit),
        ("breaker", "--breaker", &command.breaker),
    ];
    for (member, flag, pairs) in groups.into_iter().filter(|(_, _, pairs)| !pairs.is_empty()) {
        body[member] = with_values(body[member].take(), flag, pairs)?;
    }
    for (key, value) in [("input", &command.input), ("output", &command.output), ("reason", &command.reason)]
    {
        if let Some(value) = value {
            body[key] = json!(value);
        }
    }
    Ok(body)
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

/// A document with values set in it; `a.b=1` sets a member of a member.
pub(crate) fn with_values(from: Value, flag: &str, pairs: &[(String, String)]) -> Result<Value, ClientError> {
    let mut all = if from.is_object() { from } else { json!({}) };
    for (key, text) in pairs {
        let mut place = &mut all;
        for name in key.split('.') {
            if place.is_null() {
                *place = json!({});
            }
            let Value::Object(members) = place else {
                return Err(ClientError::Usage(format!("{flag} {key}: a part of it has a value already")));
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
        let set = |from: Value, texts: &[&str]| with_values(from, "--set", &pairs(texts));
        assert_eq!(
            set(Value::Null, &["limit=80.5", "on=true", "metric=temp", "list=[1,2]", "a.b=1", "a.c=x=y"])
                .unwrap(),
            json!({"limit": 80.5, "on": true, "metric": "temp", "list": [1, 2], "a": {"b": 1, "c": "x=y"}})
        );
        assert_eq!(
            set(json!({"high": 80, "keep": {"x": 1}}), &["high=90", "keep.y=2"]).unwrap(),
            json!({"high": 90, "keep": {"x": 1, "y": 2}})
        );
        assert!(set(Value::Null, &["a=1", "a.b=2"]).is_err());
        assert!(pair("nothing").is_err());
    }
}
