//! Modules, dead letters, deliveries, tokens, receivers, the audit trail, backup.

use std::path::Path;

use clap::{Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, ClientError, segment};
use super::table::Output;

/// Commands about modules.
#[derive(Subcommand, Debug)]
pub enum ModuleCommand {
    /// Upload a component, or build a project and upload it
    Add {
        /// A component file or a project folder
        what: String,
    },
    /// List modules
    Ls,
    /// Show a module: what it imports and which parameters it takes
    Show {
        /// A digest, a name, or name@version
        module: String,
    },
    /// Delete a module that no rule uses
    Rm {
        /// Its digest
        digest: String,
    },
}

pub(super) async fn module(
    command: ModuleCommand,
    client: &Client,
    output: Output,
) -> Result<(), ClientError> {
    match command {
        ModuleCommand::Add { what } => {
            let found = super::rule::find(&what, client, output).await?;
            let answer = found.upload(client, output).await?;
            output.done(
                &format!(
                    "{} {}",
                    answer["name"].as_str().unwrap_or(""),
                    answer["digest"].as_str().unwrap_or("")
                ),
                &answer,
            );
        }
        ModuleCommand::Ls => {
            let items = client.list("/modules", Vec::new(), usize::MAX).await?;
            output.list(&items, &["name", "version", "language", "size", "uploaded_at", "digest"]);
        }
        ModuleCommand::Show { module } => {
            output.document(&client.get(&format!("/modules/{}", segment(&module)), &[]).await?);
        }
        ModuleCommand::Rm { digest } => {
            client.call(Method::DELETE, &format!("/modules/{}", segment(&digest)), None).await?;
            output.done("the module is deleted", &json!({"deleted": digest}));
        }
    }
    Ok(())
}

/// Commands about the clock.
#[derive(Subcommand, Debug)]
pub enum ClockCommand {
    /// It is right: intake that was paused because it jumped ahead, or was far ahead at a start, goes on
    Confirm,
}

pub(super) async fn clock(command: ClockCommand, client: &Client, output: Output) -> Result<(), ClientError> {
    let ClockCommand::Confirm = command;
    let answer = client.call(Method::POST, "/clock/confirm", None).await?;
    let sentence =
        if answer["resumed"] == true { "intake goes on" } else { "intake was not paused by the clock" };
    output.done(sentence, &answer);
    Ok(())
}

/// Commands about dead letters.
#[derive(Subcommand, Debug)]
pub enum DeadLetterCommand {
    /// List dead letters, the latest first
    Ls {
        /// Only of this device
        #[arg(long)]
        device: Option<String>,
        /// Only of this rule
        #[arg(long)]
        rule: Option<String>,
        /// Only with this code
        #[arg(long)]
        code: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show a dead letter, whole
    Show {
        /// Its id
        id: String,
    },
    /// Use a dead letter once more, or all that a rule left
    Replay {
        /// Its id
        #[arg(required_unless_present = "rule", conflicts_with = "rule")]
        id: Option<String>,
        /// All of this rule that were not replayed, the earliest first
        #[arg(long)]
        rule: Option<String>,
        /// Of those only these: trapped, time, refused, fuel, memory, stack, output or load
        #[arg(long, value_name = "CODE", requires = "rule")]
        reason: Option<String>,
    },
    /// Delete a dead letter
    Rm {
        /// Its id
        id: String,
    },
}

pub(super) async fn dead_letter(
    command: DeadLetterCommand,
    client: &Client,
    output: Output,
) -> Result<(), ClientError> {
    let path = |id: &str| format!("/dead-letters/{}", segment(&id.replace('/', "-")));
    match command {
        DeadLetterCommand::Ls { device, rule, code, limit } => {
            let mut query = Vec::new();
            for (name, value) in [("device", device), ("rule", rule), ("code", code)] {
                query.extend(value.map(|value| (name, value)));
            }
            let items = client.list("/dead-letters", query, limit).await?;
            output.list(
                &items,
                &["id", "at", "kind", "source", "device", "rule", "code", "replayed_at", "reason"],
            );
        }
        DeadLetterCommand::Show { id } => output.document(&client.get(&path(&id), &[]).await?),
        DeadLetterCommand::Replay { id: None, rule, reason } => {
            replay_all(rule.unwrap_or_default(), reason, client, output).await?;
        }
        DeadLetterCommand::Replay { id: Some(id), .. } => {
            let answer = client.call(Method::POST, &format!("{}/replay", path(&id)), None).await?;
            output.done(&format!("dead letter {id}: {}", answer["outcome"].as_str().unwrap_or("")), &answer);
        }
        DeadLetterCommand::Rm { id } => {
            client.call(Method::DELETE, &path(&id), None).await?;
            output.done(&format!("dead letter {id} is deleted"), &json!({"deleted": id}));
        }
    }
    Ok(())
}

/// Letters that are used with one call: some seconds' worth, since each waits for the disk.
const SLICE: u32 = 200;

/// Uses all dead letters of a rule, slice by slice.
async fn replay_all(
    rule: String,
    reason: Option<String>,
    client: &Client,
    output: Output,
) -> Result<(), ClientError> {
    let code = reason.map(|code| format!("&code={}", segment(&code))).unwrap_or_default();
    let path = format!("/dead-letters:replay?kind=rule&rule={}{code}&limit={SLICE}", segment(&rule));
    let (mut replayed, mut refused, mut refusals) = (0, 0, Vec::new());
    let mut next = String::new();
    loop {
        let mut answer = client.call(Method::POST, &format!("{path}{next}"), None).await?;
        replayed += answer["replayed"].as_u64().unwrap_or(0);
        refused += answer["refused"].as_u64().unwrap_or(0);
        if let Value::Array(more) = answer["refusals"].take() {
            refusals.extend(more);
            refusals.truncate(20);
        }
        output.progress(&format!("{replayed} dead letters are replayed, {refused} refused"));
        match answer["next"].as_str() {
            Some(cursor) => next = format!("&cursor={}", segment(cursor)),
            None => break,
        }
    }
    let document = json!({"rule": rule, "replayed": replayed, "refused": refused, "refusals": refusals});
    let first = refusals.first().and_then(|refusal| refusal["detail"].as_str());
    let why = first.map(|detail| format!(", such as: {detail}")).unwrap_or_default();
    output.done(
        &format!("rule {rule}: {replayed} dead letters are replayed, {refused} refused{why}"),
        &document,
    );
    match refused {
        0 => Ok(()),
        refused => Err(ClientError::Failed(format!("{refused} dead letters stay as they are"))),
    }
}

/// Commands about deliveries.
#[derive(Subcommand, Debug)]
pub enum DeliveryCommand {
    /// List deliveries, the latest first
    Ls {
        /// Only of this alert
        #[arg(long)]
        alert: Option<String>,
        /// Only to this receiver
        #[arg(long)]
        receiver: Option<String>,
        /// pending, delivered, superseded, expired or refused
        #[arg(long)]
        state: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show a delivery with its message and every attempt
    Show {
        /// Its id
        id: String,
    },
}

pub(super) async fn delivery(
    command: DeliveryCommand,
    client: &Client,
    output: Output,
) -> Result<(), ClientError> {
    match command {
        DeliveryCommand::Ls { alert, receiver, state, limit } => {
            let mut query = Vec::new();
            for (name, value) in [("alert", alert), ("receiver", receiver), ("state", state)] {
                query.extend(value.map(|value| (name, value)));
            }
            let items = client.list("/deliveries", query, limit).await?;
            output.list(
                &items,
                &["id", "receiver", "status", "state", "attempts", "created_at", "finished_at", "last_error"],
            );
        }
        DeliveryCommand::Show { id } => {
            output.document(&client.get(&format!("/deliveries/{}", segment(&id)), &[]).await?);
        }
    }
    Ok(())
}

/// What a token may do.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Role {
    /// Look
    Viewer,
    /// Handle alerts and dead letters
    Operator,
    /// Deploy rules, register devices
    Author,
    /// Everything
    Admin,
}

/// Commands about tokens.
#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Make a token; its secret is shown this once
    Create {
        /// What people call it
        name: String,
        /// What it may do
        #[arg(long)]
        role: Role,
        /// It stops working after this span: 30d
        #[arg(long, value_name = "SPAN")]
        expires_in: Option<String>,
    },
    /// List tokens
    Ls,
    /// Take a token back for good
    Revoke {
        /// Its id
        id: String,
    },
}

pub(super) async fn token(command: TokenCommand, client: &Client, output: Output) -> Result<(), ClientError> {
    match command {
        TokenCommand::Create { name, role, expires_in } => {
            let role = role.to_possible_value().map(|value| value.get_name().to_string());
            let body = json!({"name": name, "role": role, "expires_in": expires_in});
            let answer = client.call(Method::POST, "/tokens", Some(&body)).await?;
            // The secret alone on its line: `export WATCHFIRE_TOKEN=$(watchfire token create …)`.
            output.done(answer["secret"].as_str().unwrap_or(""), &answer);
        }
        TokenCommand::Ls => {
            let items = client.list("/tokens", Vec::new(), usize::MAX).await?;
            output.list(
                &items,
                &["id", "name", "role", "created_by", "created_at", "expires_at", "last_used", "revoked_at"],
            );
        }
        TokenCommand::Revoke { id } => {
            client.call(Method::DELETE, &format!("/tokens/{}", segment(&id)), None).await?;
            output.done(&format!("token {id} is revoked"), &json!({"revoked": id}));
        }
    }
    Ok(())
}

/// Commands about receivers.
#[derive(Subcommand, Debug)]
pub enum ReceiverCommand {
    /// List receivers
    Ls,
    /// Send a test message
    Test {
        /// Its name
        name: String,
    },
}

pub(super) async fn receiver(
    command: ReceiverCommand,
    client: &Client,
    output: Output,
) -> Result<(), ClientError> {
    match command {
        ReceiverCommand::Ls => {
            output.list(
                &client.list("/receivers", Vec::new(), usize::MAX).await?,
                &["name", "channels", "state", "waiting", "last_delivered", "last_error"],
            );
        }
        ReceiverCommand::Test { name } => {
            let answer =
                client.call(Method::POST, &format!("/receivers/{}/test", segment(&name)), None).await?;
            let body = answer["body"].as_str().map(|body| format!(": {body}")).unwrap_or_default();
            let said =
                format!("receiver {name} took it, {}{body}", answer["answer"].as_str().unwrap_or_default());
            output.done(&said, &answer);
        }
    }
    Ok(())
}

/// Commands about sinks.
#[derive(Subcommand, Debug)]
pub enum SinkCommand {
    /// List sinks, and how each does
    Ls,
    /// Show a sink with its lanes
    Show {
        /// Its name
        name: String,
    },
}

pub(super) async fn sink(command: SinkCommand, client: &Client, output: Output) -> Result<(), ClientError> {
    let sinks = client.list("/sinks", Vec::new(), usize::MAX).await?;
    match command {
        SinkCommand::Ls => {
            output.list(&sinks, &["name", "state", "behind", "rows", "refused", "in_force", "reason"]);
        }
        SinkCommand::Show { name } => match sinks.iter().find(|sink| sink["name"] == name.as_str()) {
            Some(sink) => output.document(sink),
            None => return Err(ClientError::Failed(format!("there is no sink {name:?}"))),
        },
    }
    Ok(())
}

/// Commands about the audit trail.
#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// List who did what, the latest first
    Ls {
        /// Only by this one
        #[arg(long)]
        actor: Option<String>,
        /// Only this action, or the first part of some: rule
        #[arg(long)]
        action: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
}

pub(super) async fn audit(command: AuditCommand, client: &Client, output: Output) -> Result<(), ClientError> {
    let AuditCommand::Ls { actor, action, limit } = command;
    let mut query = Vec::new();
    query.extend(actor.map(|actor| ("actor", actor)));
    query.extend(action.map(|action| ("action", action)));
    let items = client.list("/audit", query, limit).await?;
    output.list(&items, &["at", "actor", "action", "subject", "outcome", "detail", "request"]);
    Ok(())
}

pub(super) async fn backup(file: &Path, client: &Client, output: Output) -> Result<(), ClientError> {
    output.progress("copying");
    let size = client.download("/backup", file).await?;
    let document = json!({"file": file.display().to_string(), "bytes": size});
    output.done(&format!("{} ({size} bytes)", file.display()), &document);
    Ok(())
}
