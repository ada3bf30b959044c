//! Silences.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, ClientError, segment};
use super::table::Output;

/// Commands about silences.
#[derive(Subcommand, Debug)]
pub enum SilenceCommand {
    /// Tell nobody of alerts with these labels for a while
    Add {
        /// All must hold: 'site="oslo"', 'severity=~"info|warning"', with =, !=, =~ or !~
        #[arg(required = true, value_name = "MATCHER")]
        matchers: Vec<String>,
        /// Why
        #[arg(long)]
        comment: String,
        /// For so long: 2h
        #[arg(long = "for", value_name = "SPAN", conflicts_with = "ends")]
        span: Option<String>,
        /// From then on: 2026-01-01T00:00:00Z; now where it is not said
        #[arg(long, value_name = "TIME")]
        starts: Option<String>,
        /// Until then
        #[arg(long, value_name = "TIME")]
        ends: Option<String>,
        /// It also ends once the last alert that it matched has resolved
        #[arg(long)]
        until_resolved: bool,
        /// Change this silence
        #[arg(long, value_name = "ID")]
        id: Option<String>,
    },
    /// List silences that hold or will hold
    Ls {
        /// Only these: active, pending or expired
        #[arg(long)]
        state: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show a silence
    Show {
        /// Its id
        id: String,
    },
    /// End silences now
    Expire {
        /// Their ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// List silences that hold for long, or match nothing
    Forgotten {
        /// Hold for longer than this
        #[arg(long, value_name = "SPAN", default_value = "7d")]
        active: String,
        /// Have matched nothing for longer than this
        #[arg(long, value_name = "SPAN", default_value = "1d")]
        idle: String,
    },
}

/// The matchers of a silence in one line, as they are written.
fn shown(silence: &Value) -> Value {
    let matchers = silence["matchers"].as_array().into_iter().flatten().map(|matcher| {
        let operator = match (matcher["is_equal"] != false, matcher["is_regex"] == true) {
            (true, false) => "=",
            (false, false) => "!=",
            (true, true) => "=~",
            (false, true) => "!~",
        };
        format!("{}{operator}{}", matcher["name"].as_str().unwrap_or(""), matcher["value"])
    });
    let mut shown = silence.clone();
    shown["matchers"] = matchers.collect::<Vec<_>>().join(" ").into();
    shown
}

fn list(output: Output, items: &[Value], columns: &[&str]) {
    if output.is_json() {
        output.list(items, columns);
    } else {
        output.list(&items.iter().map(shown).collect::<Vec<_>>(), columns);
    }
}

pub(super) async fn run(command: SilenceCommand, client: &Client, output: Output) -> Result<(), ClientError> {
    let path = |id: &str| format!("/silences/{}", segment(id));
    match command {
        SilenceCommand::Add { matchers, comment, span, starts, ends, until_resolved, id } => {
            let mut body =
                json!({"matchers": matchers, "comment": comment, "until_resolved": until_resolved});
            for (name, value) in [("for", span), ("starts_at", starts), ("ends_at", ends), ("id", id)] {
                if let Some(value) = value {
                    body[name] = value.into();
                }
            }
            let answer = client.call(Method::POST, "/silences", Some(&body)).await?;
            // The id alone on its line: `watchfire silence expire $(watchfire silence add ...)`.
            output.done(answer["id"].as_str().unwrap_or(""), &answer);
        }
        SilenceCommand::Ls { state, limit } => {
            let query = state.map(|state| ("state", state)).into_iter().collect();
            let items = client.list("/silences", query, limit).await?;
            list(
                output,
                &items,
                &["id", "state", "starts_at", "ends_at", "alerts", "created_by", "matchers", "comment"],
            );
        }
        SilenceCommand::Show { id } => output.document(&client.get(&path(&id), &[]).await?),
        SilenceCommand::Expire { ids } => {
            for id in ids {
                client.call(Method::DELETE, &path(&id), None).await?;
                output.done(&format!("silence {id} is over"), &json!({"expired": id}));
            }
        }
        SilenceCommand::Forgotten { active, idle } => {
            let query = [("active", active), ("idle", idle)];
            let answer = client.get("/silences:forgotten", &query).await?;
            let items = answer["items"].as_array().cloned().unwrap_or_default();
            list(
                output,
                &items,
                &["id", "starts_at", "ends_at", "matched_at", "created_by", "matchers", "comment"],
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers_are_shown_as_they_are_written() {
        let matchers = json!([
            {"name": "site", "value": "oslo", "is_regex": false, "is_equal": true},
            {"name": "severity", "value": "info|warning", "is_regex": true, "is_equal": false},
        ]);
        let shown = shown(&json!({"id": "s", "matchers": matchers}));
        assert_eq!(shown["matchers"], "site=\"oslo\" severity!~\"info|warning\"");
    }
}
