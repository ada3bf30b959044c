//! The pages behind links: one file of HTML each, without scripts, pictures or anything that is loaded.

use std::fmt::Write as _;

use watchfire_model::Value;
use watchfire_notify::channel::text::escape;
use watchfire_notify::message::value_text;
use watchfire_store::{AlertDetail, AlertState};

use crate::links::Link;

/// What browsers may do with a page: show it with its own style, and send its form where it came from.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; \
     frame-ancestors 'none'; base-uri 'none'";

const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:0 auto;padding:1rem;\
     color:#222;background:#fff}h1{font-size:1.3rem}table{border-collapse:collapse;display:block;overflow-x:auto}\
     td,th{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}\
     input,button{font:inherit;width:100%;box-sizing:border-box;padding:.6rem;margin:.3rem 0}\
     .named{font-weight:bold}";

/// Rows of the evidence that are shown, the latest.
const ROWS: usize = 10;
/// Lines of the history that are shown, the latest.
const HISTORY: usize = 20;

fn whole(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>{body}</body></html>"
    )
}

/// A page that says one thing.
pub(super) fn plain(title: &str, text: &str) -> String {
    whole(title, &format!("<p>{}</p>", escape(text)))
}

/// The alert, what it rests on, what happened to it, and what can be done about it.
pub(super) fn alert(detail: &AlertDetail, link: &Link, form: &str) -> String {
    let mut body = facts(detail);
    if detail.alert.state == AlertState::Active {
        body.push_str(&buttons(detail, link, form));
    }
    body.push_str(&evidence(detail));
    body.push_str(&history(detail));
    whole(&detail.alert.summary, &body)
}

fn facts(detail: &AlertDetail) -> String {
    let (alert, response) = (&detail.alert, &detail.alert.response);
    let mut lines: Vec<(&str, String)> = vec![
        ("State", alert.state.as_str().into()),
        ("Severity", alert.severity.to_string()),
        ("Device", alert.device.clone()),
        ("Rule", format!("{}, version {}", alert.rule, alert.rule_version)),
        ("Since", alert.raised_at.to_string()),
    ];
    lines.extend(alert.labels.get("site").filter(|site| !site.is_empty()).map(|site| ("Site", site.clone())));
    lines.extend(alert.resolved_at.map(|at| ("Over since", at.to_string())));
    let by = |by: &Option<String>, at, comment: &Option<String>| {
        let said = comment.as_ref().map(|comment| format!(": {comment}")).unwrap_or_default();
        format!("by {} at {at}{said}", by.as_deref().unwrap_or("nobody"))
    };
    if let Some(at) = alert.acknowledged_at {
        lines.push(("Acknowledged", by(&alert.acknowledged_by, at, &alert.acknowledge_comment)));
    }
    if let Some(at) = response.shelved_at {
        lines.push(("Shelved", by(&response.shelved_by, at, &response.shelve_reason)));
        lines.extend(response.shelved_until.map(|until| ("Shelved until", until.to_string())));
    }
    lines.extend(response.assigned_to.as_ref().map(|to| ("Assigned to", to.clone())));
    let details = alert.details.iter().map(|detail| (detail.name.as_str(), value_text(&detail.value)));
    table(lines.into_iter().chain(details))
}

fn table<'a>(lines: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut text = String::from("<table>");
    for (name, value) in lines {
        // Writing to a String does not fail.
        let _ = write!(text, "<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(&value));
    }
    text + "</table>"
}

fn buttons(detail: &AlertDetail, link: &Link, form: &str) -> String {
    let button =
        |action: &str, text: &str| format!("<button name=\"action\" value=\"{action}\">{text}</button>");
    let mut buttons = String::new();
    if detail.alert.acknowledged_at.is_none() {
        buttons.push_str(&button("acknowledge", "Acknowledge"));
    }
    if link.shelve && detail.alert.response.shelved_at.is_none() {
        buttons.push_str(&button("shelve", "Shelve for an hour"));
    }
    if buttons.is_empty() {
        return String::new();
    }
    format!(
        "<form method=\"post\"><input type=\"hidden\" name=\"form\" value=\"{}\">\
         <label>Your name <input name=\"name\" maxlength=\"{}\" autocomplete=\"name\"></label>\
         <label>Remark <input name=\"comment\" maxlength=\"1000\"></label>{buttons}</form>",
        escape(form),
        super::NAME,
    )
}

/// The rows behind the verdict, with the one that the rule named set apart.
fn evidence(detail: &AlertDetail) -> String {
    let Some(evidence) = &detail.evidence else { return String::new() };
    let rows = evidence["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return String::new();
    }
    let named = evidence["row"].as_u64().and_then(|row| usize::try_from(row).ok());
    let mut text = String::from("<h2>What it rests on</h2><table>");
    for (place, row) in rows.iter().enumerate().skip(rows.len().saturating_sub(ROWS)) {
        let class = if named == Some(place) { " class=\"named\"" } else { "" };
        let values = row["metrics"].as_object().into_iter().flatten().map(|(name, value)| {
            let value = serde_json::from_value::<Value>(value.clone()).map(|value| value_text(&value));
            format!("{name} {}", value.unwrap_or_else(|_| "?".into()))
        });
        let values = values.collect::<Vec<_>>().join(", ");
        let time = row["time"].as_str().map_or_else(|| row["time"].to_string(), String::from);
        let _ = write!(text, "<tr{class}><th>{}</th><td>{}</td></tr>", escape(&time), escape(&values));
    }
    text + "</table>"
}

fn history(detail: &AlertDetail) -> String {
    let latest = detail.history.iter().skip(detail.history.len().saturating_sub(HISTORY));
    let times: Vec<String> = latest.clone().map(|event| event.at.to_string()).collect();
    let lines = latest.zip(&times).map(|(event, time)| {
        let actor = event.actor.as_ref().map(|actor| format!(" by {actor}")).unwrap_or_default();
        let said = event.comment.as_ref().map(|comment| format!(": {comment}")).unwrap_or_default();
        (time.as_str(), format!("{}{actor}{said}", event.kind.replace('_', " ")))
    });
    format!("<h2>What happened</h2>{}", table(lines))
}
