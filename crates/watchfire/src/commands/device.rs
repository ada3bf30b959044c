//! Devices.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Client, ClientError, read_file, segment};
use super::table::Output;

/// Commands about devices.
#[derive(Subcommand, Debug)]
pub enum DeviceCommand {
    /// Register a device, or change what is known of it: what is not named stays as it is
    Add {
        /// Its id
        id: String,
        /// What kind of machine it is
        #[arg(long = "type")]
        kind: Option<String>,
        /// Where it stands
        #[arg(long)]
        site: Option<String>,
        /// A label; may be repeated; without a value it is taken away
        #[arg(long, value_name = "NAME=VALUE")]
        label: Vec<String>,
        /// How often it reports: 10s
        #[arg(long)]
        interval: Option<String>,
        /// Another device that it may speak for, as a gateway: an id, with `*` for any run of characters; may be
        /// repeated, and replaces those from before; empty: none
        #[arg(long, value_name = "PATTERN")]
        speaks_for: Vec<String>,
    },
    /// Register many devices: a JSON document a line
    Import {
        /// The file; `-` reads standard input
        file: PathBuf,
    },
    /// List devices
    Ls {
        /// Only of this type
        #[arg(long = "type")]
        kind: Option<String>,
        /// Only at this site
        #[arg(long)]
        site: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Show a device with its last values
    Show {
        /// Its id
        id: String,
    },
    /// Say why a device is or is not heard
    Why {
        /// Its id
        id: String,
    },
    /// Show the past of a metric, from the sink that keeps it
    History {
        /// Its id
        id: String,
        /// The metric
        #[arg(long)]
        metric: String,
        /// From then on: a time, or a span such as 2h that ends now
        #[arg(long, default_value = "1h")]
        from: String,
        /// Before then; not given: now
        #[arg(long)]
        to: Option<String>,
        /// What a point stands for, such as 1m or 1h; not given: each value is a point
        #[arg(long)]
        step: Option<String>,
        /// The stream
        #[arg(long, default_value = "readings")]
        stream: String,
    },
    /// Delete a device, with its state and alerts
    Rm {
        /// Its id
        id: String,
    },
    /// Make a credential for a device; the secret is shown this once
    Credential {
        /// Its id
        id: String,
        /// Read a password that the device has already from standard input, instead of making a token
        #[arg(long)]
        password_stdin: bool,
        /// Take this credential back instead
        #[arg(long, value_name = "CREDENTIAL", conflicts_with = "password_stdin")]
        revoke: Option<String>,
    },
}

pub(super) async fn run(command: DeviceCommand, client: &Client, output: Output) -> Result<(), ClientError> {
    let path = |id: &str| format!("/devices/{}", segment(id));
    match command {
        DeviceCommand::Add { id, kind, site, label, interval, speaks_for } => {
            let known = client.find(&path(&id)).await?.unwrap_or_default();
            let mut body = Map::new();
            for name in ["type", "site", "interval", "speaks_for"] {
                body.extend((!known[name].is_null()).then(|| (name.to_string(), known[name].clone())));
            }
            for (name, value) in [("type", kind), ("site", site), ("interval", interval)] {
                body.extend(value.map(|value| (name.to_string(), json!(value))));
            }
            if !speaks_for.is_empty() {
                let patterns: Vec<String> = speaks_for.into_iter().filter(|p| !p.is_empty()).collect();
                body.insert("speaks_for".into(), json!(patterns));
            }
            let mut labels = known["labels"].as_object().cloned().unwrap_or_default();
            for label in label {
                let (name, value) = label
                    .split_once('=')
                    .ok_or_else(|| ClientError::Usage(format!("--label {label}: is not NAME=VALUE")))?;
                match value {
                    "" => labels.remove(name),
                    value => labels.insert(name.into(), json!(value)),
                };
            }
            body.insert("labels".into(), Value::Object(labels));
            let answer = client.call(Method::PUT, &path(&id), Some(&Value::Object(body))).await?;
            output.done(&format!("device {id} is registered"), &answer);
        }
        DeviceCommand::Import { file } => {
            let bytes = match file.as_os_str() == "-" {
                false => read_file(&file)?,
                true => read_stdin()?.into_bytes(),
            };
            output.progress(&format!("sending {} bytes", bytes.len()));
            let answer = client.upload("/devices:import", "application/x-ndjson", bytes).await?;
            let sentence = format!(
                "{} created, {} updated, {} refused",
                answer["created"], answer["updated"], answer["rejected"]
            );
            output.done(&sentence, &answer);
            if !output.is_json() {
                for fault in answer["errors"].as_array().into_iter().flatten() {
                    output.line(&format!(
                        "  line {}: {}",
                        fault["line"],
                        fault["reason"].as_str().unwrap_or("")
                    ));
                }
            }
            if answer["rejected"].as_u64().unwrap_or(0) > 0 {
                return Err(ClientError::Failed("some lines were refused".into()));
            }
        }
        DeviceCommand::Ls { kind, site, limit } => {
            let mut query = Vec::new();
            query.extend(kind.map(|kind| ("type", kind)));
            query.extend(site.map(|site| ("site", site)));
            let items = client.list("/devices", query, limit).await?;
            output.list(&items, &["id", "type", "site", "interval", "last_seen"]);
        }
        DeviceCommand::Show { id } => {
            let mut device = client.get(&path(&id), &[]).await?;
            device["metrics"] = client.get(&format!("{}/state", path(&id)), &[]).await?["metrics"].take();
            output.document(&device);
        }
        DeviceCommand::Why { id } => output.document(&client.get(&format!("{}/why", path(&id)), &[]).await?),
        DeviceCommand::History { id, metric, from, to, step, stream } => {
            let from = match from.parse::<watchfire_model::Duration>() {
                Ok(span) => (watchfire_model::Timestamp::from(jiff::Timestamp::now()) - span).to_string(),
                Err(_) => from,
            };
            let mut query = vec![("metric", metric), ("from", from), ("stream", stream)];
            query.extend(to.map(|to| ("to", to)));
            query.extend(step.map(|step| ("step", step)));
            let answer = client.get(&format!("{}/history", path(&id)), &query).await?;
            let points = answer["points"].as_array().cloned().unwrap_or_default();
            output.list(&points, &["time", "min", "max", "avg", "count", "last"]);
        }
        DeviceCommand::Rm { id } => {
            client.call(Method::DELETE, &path(&id), None).await?;
            output.done(&format!("device {id} is deleted"), &json!({"deleted": id}));
        }
        DeviceCommand::Credential { id, password_stdin, revoke } => {
            let credentials = format!("{}/credentials", path(&id));
            if let Some(credential) = revoke {
                let path = format!("{credentials}/{}", segment(&credential));
                client.call(Method::DELETE, &path, None).await?;
                output.done("the credential is taken back", &json!({"revoked": credential}));
                return Ok(());
            }
            let body = match password_stdin {
                true => json!({"password": read_stdin()?.trim_end_matches(['\r', '\n'])}),
                false => json!({}),
            };
            output.document(&client.call(Method::POST, &credentials, Some(&body)).await?);
        }
    }
    Ok(())
}

fn read_stdin() -> Result<String, ClientError> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|source| ClientError::File {
        action: "read",
        path: "standard input".into(),
        source,
    })?;
    Ok(text)
}
