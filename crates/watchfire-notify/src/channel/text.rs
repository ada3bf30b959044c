//! What a message says to people, out of the body that a delivery holds: the same for every channel, cut to what each
//! takes.

use super::payload::{ACKNOWLEDGE_URL, Alert, Message};

/// A message in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// One line.
    pub title: String,
    /// Something in it fires.
    pub fires: bool,
    /// The worst severity of what fires; of what is over where nothing does.
    pub severity: String,
    /// Its alerts, what changed first.
    pub lines: Vec<Line>,
    /// Alerts that are not in it.
    pub left_out: usize,
    /// Where people look at this installation, or nothing.
    pub url: String,
}

/// An alert in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Whether it fires.
    pub fires: bool,
    /// As it is told.
    pub severity: String,
    /// What.
    pub summary: String,
    /// The whole of it.
    pub description: String,
    /// Where people look at it.
    pub url: Option<String>,
    /// Where they say that they know of it.
    pub acknowledge: Option<String>,
    /// Of its labels: the same for the alert from its beginning to its end.
    pub fingerprint: String,
    /// Its device, or what else it is about.
    pub source: String,
    /// Its rule.
    pub rule: String,
    /// What somebody did, where the message tells of that: "acknowledged by anna: on my way".
    pub response: Option<String>,
}

/// Severities from the worst; what is none of them stands behind all.
const SEVERITIES: [&str; 5] = ["critical", "major", "minor", "warning", "info"];

fn line(alert: &Alert) -> Line {
    let label = |name: &str| alert.labels.get(name).cloned().unwrap_or_default();
    let said = |name: &str| alert.annotations.get(name).cloned().filter(|text| !text.is_empty());
    let name = label("alertname");
    let summary = said("summary").unwrap_or_else(|| name.clone());
    Line {
        fires: alert.status == "firing",
        severity: label("severity"),
        description: said("description").unwrap_or_else(|| summary.clone()),
        summary,
        url: said("alert_url").or_else(|| Some(alert.generator_url.clone()).filter(|url| !url.is_empty())),
        acknowledge: said(ACKNOWLEDGE_URL),
        fingerprint: alert.fingerprint.clone(),
        source: [label("device"), label("instance"), name.clone()]
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or_default(),
        response: alert.response.as_ref().map(|what| {
            let by = said("response_by").map(|by| format!(" by {by}")).unwrap_or_default();
            let comment = said("response_comment").map(|comment| format!(": {comment}")).unwrap_or_default();
            format!("{}{by}{comment}", response(what))
        }),
        rule: name,
    }
}

/// What somebody did, in words.
fn response(what: &str) -> &str {
    match what {
        "acknowledged" => "acknowledged",
        "unacknowledged" => "nobody looks after it any more",
        "shelve_expiring" => "shelving ends soon",
        other => other,
    }
}

/// Whether a text has this name in it, by itself and not as a part of another: `press-1` is not named by `press-12`.
fn names(text: &str, name: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(part_of_name) && !after.is_some_and(part_of_name)
    })
}

impl Text {
    /// Of a message; at most so many alerts.
    pub fn of(message: &Message, most: usize) -> Self {
        let lines: Vec<Line> = message.alerts.iter().take(most).map(line).collect();
        let left_out = message.alerts.len() - lines.len() + message.truncated_alerts;
        let fires = message.status == "firing";
        let place =
            |line: &&Line| SEVERITIES.iter().position(|one| *one == line.severity).unwrap_or(usize::MAX);
        let worst = lines.iter().filter(|line| line.fires == fires).min_by_key(place);
        let severity = worst.map(|line| line.severity.clone()).unwrap_or_default();
        let title = match (&message.digest, &lines[..]) {
            (Some(_), _) => message.common_annotations.get("summary").cloned().unwrap_or_default(),
            (None, [one]) if left_out == 0 => {
                let state = if one.fires { one.severity.to_uppercase() } else { "RESOLVED".into() };
                let response =
                    one.response.as_ref().map(|response| format!(", {response}")).unwrap_or_default();
                // Whoever reads only this line, cut to the width of a telephone, has to know where to go.
                let known = one.source == one.rule || names(&one.summary, &one.source);
                let place = if known { String::new() } else { format!(" {}", one.source) };
                format!("{state}{place}{response}: {}", one.summary)
            }
            _ => {
                let firing = message.alerts.iter().filter(|alert| alert.status == "firing").count();
                let (over, firing) = (message.alerts.len() - firing, firing + message.truncated_alerts);
                let of = message.common_labels.get("alertname").map(|name| format!(" of {name}"));
                let counts = [(firing, "firing"), (over, "resolved")];
                let counts = counts.iter().filter(|(count, _)| *count > 0);
                let counts: Vec<String> = counts.map(|(count, what)| format!("{count} {what}")).collect();
                format!("{}{}", counts.join(", "), of.unwrap_or_default())
            }
        };
        let title = title.replace(['\r', '\n'], " ");
        Self { title, fires, severity, lines, left_out, url: message.external_url.clone() }
    }

    /// What is not in it, in words.
    pub fn rest(&self) -> Option<String> {
        (self.left_out > 0).then(|| format!("and {} more", self.left_out))
    }
}

/// The beginning of a text, at most so many characters, with a sign that it was cut.
pub fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_string();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// As text of HTML, and within its quotation marks.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// The beginning of a text, at most so many bytes of it, with a sign that it was cut: for what was escaped already, of
/// which no sequence is left open.
pub fn cut_bytes(text: &str, most: usize) -> String {
    const SIGN: char = '…';
    if text.len() <= most {
        return text.to_string();
    }
    let mut end = most.saturating_sub(SIGN.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut head = &text[..end];
    // An entity of HTML, or a backslash that escapes what is not there any more.
    if let Some(start) = head.rfind('&').filter(|start| !head[*start..].contains(';') && end - start < 8) {
        head = &head[..start];
    }
    let backslashes = head.bytes().rev().take_while(|byte| *byte == b'\\').count();
    head = &head[..head.len() - backslashes % 2];
    format!("{head}{SIGN}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_by_its_whole_name() {
        assert!(names("press-1 is too hot", "press-1") && names("Too hot: press-1.", "press-1"));
        assert!(!names("press-12 is too hot", "press-1") && !names("my-press-1", "press-1"));
        assert!(names("press-12, press-1", "press-1"));
    }

    #[test]
    fn what_is_cut_is_cut_between_characters_and_sequences() {
        let check = |text: &str, most: usize, expected: &str| assert_eq!(cut_bytes(text, most), expected);
        check("press", 5, "press");
        check("presses", 6, "pre…");
        check("äöü-ä", 6, "ä…");
        check("a &lt; b and more", 9, "a &lt;…");
        check("a &lt; b and more", 8, "a …");
        check("ab\\_c and more", 6, "ab…");
        check("ab\\\\c and more", 7, "ab\\\\…");
        assert_eq!(escape("<'a' & \"b\">"), "&lt;&#39;a&#39; &amp; &quot;b&quot;&gt;");
    }
}
