//! Alerts.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, ClientError, segment};
use super::table::Output;
use super::why;

/// Which alerts.
#[derive(Args, Debug)]
pub struct Which {
    /// Only these, with commas: critical,major
    #[arg(long)]
    severity: Option<String>,
    /// Only of this rule
    #[arg(long)]
    rule: Option<String>,
    /// Only of this device
    #[arg(long)]
    device: Option<String>,
    /// Only those that somebody acknowledged
    #[arg(long, conflicts_with = "unacknowledged")]
    acknowledged: bool,
    /// Only those that nobody acknowledged
    #[arg(long)]
    unacknowledged: bool,
    /// Only those that are shelved
    #[arg(long)]
    shelved: bool,
    /// Only those that are suppressed: by design, or because something is out of service
    #[arg(long)]
    suppressed: bool,
    /// Only those that are assigned to this person
    #[arg(long)]
    assigned_to: Option<String>,
}

impl Which {
    fn query(self) -> Vec<(&'static str, String)> {
        let acknowledged = (self.acknowledged || self.unacknowledged).then(|| self.acknowledged.to_string());
        let said = |flag: bool| flag.then(|| "true".to_string());
        [
            ("severity", self.severity),
            ("rule", self.rule),
            ("device", self.device),
            ("acknowledged", acknowledged),
            ("shelved", said(self.shelved)),
            ("suppressed", said(self.suppressed)),
            ("assigned_to", self.assigned_to),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

/// Until when something counts.
#[derive(Args, Debug)]
pub struct End {
    /// Until this time: 2026-01-01T06:00:00Z
    #[arg(long, conflicts_with = "span")]
    until: Option<String>,
    /// For so long: 4h
    #[arg(long = "for", value_name = "SPAN")]
    span: Option<String>,
}

/// Commands about alerts.
#[derive(Subcommand, Debug)]
pub enum AlertCommand {
    /// List alerts, the latest first
    Ls {
        /// Also those that are over
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        which: Which,
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
    /// Say why it is, and who was told of it or was not, and why
    Why {
        /// Its id
        id: String,
        /// Only what concerns this receiver
        #[arg(long = "for", value_name = "RECEIVER")]
        receiver: Option<String>,
    },
    /// Make the verdict behind it once more, from its evidence alone
    Rerun {
        /// Its id
        id: String,
    },
    /// Say that you know of it
    Ack {
        /// Its id
        id: String,
        #[command(flatten)]
        end: End,
        /// A remark
        #[arg(long)]
        comment: Option<String>,
    },
    /// Say that nobody looks after it any more
    Unack {
        /// Its id
        id: String,
        /// A remark
        #[arg(long)]
        comment: Option<String>,
    },
    /// Say that something was done about it
    Confirm {
        /// Its id
        id: String,
        /// What
        #[arg(long)]
        comment: Option<String>,
    },
    /// Hear nothing of it for a while, or until it ends
    Shelve {
        /// Its id
        id: String,
        #[command(flatten)]
        end: End,
        /// Until it ends
        #[arg(long, conflicts_with_all = ["until", "span"])]
        one_shot: bool,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// Hear of it again
    Unshelve {
        /// Its id
        id: String,
        /// A remark
        #[arg(long)]
        comment: Option<String>,
    },
    /// List the conditions that are shelved for a time, also where no alert is active
    Shelves {
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Give it to somebody
    Assign {
        /// Its id
        id: String,
        /// Whose it is; nobody's where nobody is named
        to: Option<String>,
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
    /// Say how good the alerts are: rates, floods, bad actors, what chatters and what stands
    Stats {
        /// So far back from now: 24h
        #[arg(long, default_value = "24h", value_name = "SPAN")]
        since: String,
        /// Only of devices of this site
        #[arg(long)]
        site: Option<String>,
        /// Only of this rule
        #[arg(long)]
        rule: Option<String>,
        /// Alerts that ended within this are fleeting
        #[arg(long, default_value = "30s", value_name = "SPAN")]
        fleeting: String,
        /// So many of the worst
        #[arg(long, default_value_t = 10)]
        top: u32,
    },
    /// Devices and rules whose alerts nobody is told of
    #[command(subcommand)]
    Service(ServiceCommand),
}

/// What it is about.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub struct Named {
    /// This device
    #[arg(long)]
    device: Option<String>,
    /// This rule
    #[arg(long)]
    rule: Option<String>,
}

/// Commands about what is out of service.
#[derive(Subcommand, Debug)]
pub enum ServiceCommand {
    /// List what is out of service, or suppressed by design
    Ls {
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Take a device, a rule, or a rule on a device out of service
    Out {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        end: End,
        /// Suppressed by design, and not out of service
        #[arg(long)]
        by_design: bool,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// Bring it back
    In {
        #[command(flatten)]
        named: Named,
        /// A remark
        #[arg(long)]
        comment: Option<String>,
    },
}

pub(super) async fn run(command: AlertCommand, client: &Client, output: Output) -> Result<(), ClientError> {
    let path = |id: &str, action: &str| format!("/alerts/{}{action}", segment(id));
    // A command that does something to one alert: what to call, with what, and what to say then.
    let (id, action, body, said) = match command {
        AlertCommand::Ls { all, which, limit, ids } => {
            let mut query = which.query();
            query.extend((!all).then(|| ("state", "active".to_string())));
            let items = client.list("/alerts", query, limit).await?;
            if ids && !output.is_json() {
                items.iter().filter_map(|item| item["id"].as_str()).for_each(|id| output.line(id));
                return Ok(());
            }
            list(&items, output);
            return Ok(());
        }
        AlertCommand::Show { id } => {
            output.document(&client.get(&path(&id, ""), &[]).await?);
            return Ok(());
        }
        AlertCommand::Why { id, receiver } => {
            let query: Vec<_> = receiver.map(|receiver| ("receiver", receiver)).into_iter().collect();
            let answer = client.get(&path(&id, "/why"), &query).await?;
            if output.is_json() {
                output.document(&answer);
            } else {
                why::lines(&answer).iter().for_each(|line| output.line(line));
            }
            return Ok(());
        }
        AlertCommand::Rerun { id } => {
            let answer = client.call(Method::POST, &path(&id, "/rerun"), None).await?;
            if output.is_json() {
                output.document(&answer);
            } else {
                why::again(&answer).iter().for_each(|line| output.line(line));
            }
            return Ok(());
        }
        AlertCommand::Shelves { limit } => {
            let items = client.list("/shelves", Vec::new(), limit).await?;
            output.list(&items, &["rule", "device", "key", "until", "shelved_by", "reason", "alert"]);
            return Ok(());
        }
        AlertCommand::Stats { since, site, rule, fleeting, top } => {
            let mut query = vec![("span", since), ("fleeting", fleeting), ("top", top.to_string())];
            for (name, value) in [("site", site), ("rule", rule)] {
                query.extend(value.map(|value| (name, value)));
            }
            let answer = client.get("/alerts/statistics", &query).await?;
            if output.is_json() {
                output.document(&answer);
            } else {
                statistics(&answer, output);
            }
            return Ok(());
        }
        AlertCommand::Service(command) => return service(command, client, output).await,
        AlertCommand::Reset { id, force, reason } => {
            let body = json!({"force": force, "reason": reason});
            client.call(Method::POST, &path(&id, "/reset"), Some(&body)).await?;
            output.done(&format!("alert {id} is being reset"), &json!({"reset": id}));
            return Ok(());
        }
        AlertCommand::Ack { id, end: End { until, span }, comment } => {
            let body = json!({"until": until, "for": span, "comment": comment});
            (id, "acknowledge", body, "is acknowledged")
        }
        AlertCommand::Unack { id, comment } => {
            (id, "unacknowledge", json!({"comment": comment}), "is not acknowledged any more")
        }
        AlertCommand::Confirm { id, comment } => (id, "confirm", json!({"comment": comment}), "is confirmed"),
        AlertCommand::Shelve { id, end: End { until, span }, one_shot, reason } => {
            let body = json!({"until": until, "for": span, "one_shot": one_shot, "reason": reason});
            (id, "shelve", body, "is shelved")
        }
        AlertCommand::Unshelve { id, comment } => {
            (id, "unshelve", json!({"comment": comment}), "is not shelved any more")
        }
        AlertCommand::Assign { id, to, comment } => {
            let said = if to.is_some() { "is assigned" } else { "is nobody's" };
            (id, "assign", json!({"to": to, "comment": comment}), said)
        }
        AlertCommand::Comment { id, text } => (id, "comment", json!({"comment": text}), "has the remark"),
    };
    let answer = client.call(Method::POST, &path(&id, &format!("/{action}")), Some(&body)).await?;
    output.done(&format!("alert {id} {said}"), &answer);
    Ok(())
}

/// What people did to an alert, in few words.
fn flags(item: &Value) -> String {
    let mut flags = Vec::new();
    for (member, name) in
        [("acknowledged_at", "acknowledged"), ("confirmed_at", "confirmed"), ("shelved_at", "shelved")]
    {
        flags.extend(item[member].is_string().then(|| name.to_string()));
    }
    flags.extend(item["suppressed_as"].as_str().map(|kind| kind.replace('_', "-")));
    flags.extend(item["assigned_to"].as_str().map(|to| format!("of {to}")));
    flags.join(", ")
}

fn list(items: &[Value], output: Output) {
    let columns = ["id", "severity", "state", "rule", "device", "key", "raised_at", "flags", "summary"];
    if output.is_json() {
        return output.list(items, &columns);
    }
    let mut items = items.to_vec();
    for item in &mut items {
        item["flags"] = flags(item).into();
    }
    output.list(&items, &columns);
}

fn percent(value: &Value) -> String {
    format!("{:.1} %", value.as_f64().unwrap_or(0.0) * 100.0)
}

/// The measures for people: a few lines, then the worst.
fn statistics(answer: &Value, output: Output) {
    let text = |value: &Value| match value {
        Value::Null => "-".to_string(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let raised = &answer["raised"];
    let average = raised["average"].as_f64().unwrap_or(0.0);
    output.line(&format!("from {} to {}", text(&answer["from"]), text(&answer["to"])));
    output.line(&format!(
        "raised {}: {average:.2} in ten minutes on average, {} in the worst; flood {} of the time",
        raised["count"],
        raised["peak"],
        percent(&raised["flood_share"])
    ));
    output.line(&format!(
        "active {}: standing for more than a day {}, unacknowledged {}, shelved {}, suppressed {}",
        answer["active"],
        answer["standing"],
        answer["unacknowledged"],
        answer["shelved"],
        answer["suppressed"]
    ));
    output.line(&format!(
        "acknowledged {}: half of them within {}, 95 of a hundred within {}",
        answer["acknowledged"],
        text(&answer["acknowledge_median"]),
        text(&answer["acknowledge_p95"])
    ));
    output.line(&format!(
        "fleeting (ended within {}) {}; conditions that chatter {}",
        text(&answer["fleeting_within"]),
        answer["fleeting"],
        answer["chattering_conditions"]
    ));
    for (title, member) in
        [("severity", "severities"), ("rule", "rules"), ("device", "devices"), ("site", "sites")]
    {
        let items: Vec<Value> = answer[member].as_array().into_iter().flatten().map(|item| {
            json!({title: item["name"], "alerts": item["count"], "share": percent(&item["share"])})
        }).collect();
        if !items.is_empty() {
            output.line(&format!("\nby {title}"));
            output.list(&items, &[title, "alerts", "share"]);
        }
    }
    let chattering = answer["chattering"].as_array().cloned().unwrap_or_default();
    if !chattering.is_empty() {
        output.line("\nchattering");
        output.list(&chattering, &["rule", "device", "key", "raises"]);
    }
    let receivers: Vec<Value> = answer["receivers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| {
            let messages = &item["messages"];
            json!({"receiver": item["receiver"], "messages": messages["count"], "worst": messages["peak"],
            "flood": percent(&messages["flood_share"])})
        })
        .collect();
    if !receivers.is_empty() {
        output.line("\nmessages");
        output.list(&receivers, &["receiver", "messages", "worst", "flood"]);
    }
}

async fn service(command: ServiceCommand, client: &Client, output: Output) -> Result<(), ClientError> {
    let address = |named: &Named| {
        let named = [("device", &named.device), ("rule", &named.rule)];
        let parts = named
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", segment(value.as_ref()?))));
        format!("/out-of-service?{}", parts.collect::<Vec<_>>().join("&"))
    };
    match command {
        ServiceCommand::Ls { limit } => {
            let items = client.list("/out-of-service", Vec::new(), limit).await?;
            output.list(&items, &["device", "rule", "kind", "until", "created_by", "created_at", "reason"]);
        }
        ServiceCommand::Out { named, end: End { until, span }, by_design, reason } => {
            let body = json!({"reason": reason, "by_design": by_design, "until": until, "for": span});
            let answer = client.call(Method::PUT, &address(&named), Some(&body)).await?;
            output.done("nobody is told of its alerts", &answer);
        }
        ServiceCommand::In { named, comment } => {
            client.call(Method::DELETE, &address(&named), Some(&json!({"comment": comment}))).await?;
            output
                .done("people are told of its alerts", &json!({"device": named.device, "rule": named.rule}));
        }
    }
    Ok(())
}
