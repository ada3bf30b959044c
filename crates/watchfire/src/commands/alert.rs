//! Alerts.

use clap::Subcommand;
use reqwest::Method;
use serde_json::json;

use super::client::{Client, ClientError, segment};
use super::table::Output;

/// Commands about alerts.
#[derive(Subcommand, Debug)]
pub enum AlertCommand {
    /// List alerts, the latest first
    Ls {
        /// Also those that are over
        #[arg(long)]
        all: bool,
        /// Only these, with commas: critical,major
        #[arg(long)]
        severity: Option<String>,
        /// Only of this rule
        #[arg(long)]
        rule: Option<String>,
        /// Only of this device
        #[arg(long)]
        device: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Only their ids, a line each, for the next command
        #[arg(long)]
        ids: bool,
    },
    /// Show an alert with its history, evidence and deliveries
    Show {
        /// Its id
        id: String,
    },
    /// Say that you know of it
    Ack {
        /// Its id
        id: String,
        /// A remark
        #[arg(long)]
        comment: Option<String>,
    },
    /// Add a remark
    Comment {
        /// Its id
        id: String,
        /// The remark
        text: String,
    },
    /// Reset a latched alert, or end one by force
    Reset {
        /// Its id
        id: String,
        /// Also where the condition still stands
        #[arg(long)]
        force: bool,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
}

pub(super) async fn run(command: AlertCommand, client: &Client, output: Output) -> Result<(), ClientError> {
    let path = |id: &str, action: &str| format!("/alerts/{}{action}", segment(id));
    match command {
        AlertCommand::Ls { all, severity, rule, device, limit, ids } => {
            let mut query = Vec::new();
            query.extend((!all).then(|| ("state", "active".to_string())));
            for (name, value) in [("severity", severity), ("rule", rule), ("device", device)] {
                query.extend(value.map(|value| (name, value)));
            }
            let items = client.list("/alerts", query, limit).await?;
            if ids && !output.is_json() {
                items.iter().filter_map(|item| item["id"].as_str()).for_each(|id| output.line(id));
                return Ok(());
            }
            output.list(
                &items,
                &[
                    "id",
                    "severity",
                    "state",
                    "rule",
                    "device",
                    "key",
                    "raised_at",
                    "acknowledged_by",
                    "summary",
                ],
            );
        }
        AlertCommand::Show { id } => output.document(&client.get(&path(&id, ""), &[]).await?),
        AlertCommand::Ack { id, comment } => {
            let body = json!({"comment": comment});
            let answer = client.call(Method::POST, &path(&id, "/acknowledge"), Some(&body)).await?;
            output.done(&format!("alert {id} is acknowledged"), &answer);
        }
        AlertCommand::Comment { id, text } => {
            let body = json!({"comment": text});
            let answer = client.call(Method::POST, &path(&id, "/comment"), Some(&body)).await?;
            output.done(&format!("the remark stands with alert {id}"), &answer);
        }
        AlertCommand::Reset { id, force, reason } => {
            let body = json!({"force": force, "reason": reason});
            client.call(Method::POST, &path(&id, "/reset"), Some(&body)).await?;
            output.done(&format!("alert {id} is being reset"), &json!({"reset": id}));
        }
    }
    Ok(())
}
