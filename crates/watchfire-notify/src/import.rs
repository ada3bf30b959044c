//! An Alertmanager configuration turned into ours.
//!
//! What a file of Alertmanager 0.34 says of receivers, routes, inhibition and time intervals becomes TOML of ours that
//! decides the same. Where our defaults differ, those of Alertmanager are written down. Whatever has no place in ours is
//! named, with its place in the file and why: nothing is left out without a word. What would change *who is told* if it
//! were left out, such as a matcher that cannot be read, is an error.

use std::fmt;

use crate::matcher::{Matcher, Matchers, Operator};

mod channels;
mod document;
mod receivers;
mod routes;
#[cfg(test)]
mod tests;

use document::{Fields, Lines, Node, Notes};

/// What came of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// A configuration of ours. Secrets stand in it as they stood in the file.
    pub toml: String,
    /// What was not carried over.
    pub notes: Vec<Note>,
}

/// Something that was not carried over. Never holds a value of the file, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Note {
    /// Where it stands in the file: `receivers[0].email_configs[1].html`.
    pub place: String,
    /// Why not, and what to do about it.
    pub why: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}

/// The file cannot be turned into a configuration of ours.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{place}: {fault}")]
pub struct ImportError {
    /// Where in the file.
    pub place: String,
    /// What is wrong.
    pub fault: String,
}

fn error(place: impl Into<String>, fault: impl Into<String>) -> ImportError {
    ImportError { place: place.into(), fault: fault.into() }
}

/// Turns the text of an `alertmanager.yml` into a configuration of ours.
pub fn alertmanager(yaml: &str) -> Result<Imported, ImportError> {
    // The text of the file is not shown in errors: it may hold secrets.
    let options = serde_saphyr::options! { with_snippet: false };
    let document: serde_json::Value = serde_saphyr::from_str_with_options(yaml, options)
        .map_err(|fault| error("the file", format!("is no YAML that can be read: {fault}")))?;
    let mut notes = Notes::default();
    let mut file = Node::root(&document).fields()?;
    let mut lines = Lines::default();
    lines.comment("Made of an Alertmanager configuration by `watchfire route import`. Secrets stand here as they stood there:");
    lines.comment("better is to put each into a file of its own, and to name it with { file = \"PATH\" }.");

    let mut global = match file.take("global") {
        Some(node) => node.fields()?,
        None => Fields::none("global"),
    };
    let names = receivers::write(&mut file, &mut global, &mut lines, &mut notes)?;
    let root = file.take("route").ok_or_else(|| error("route", "is missing: nobody would be told"))?;
    routes::write(root, &names, &mut lines, &mut notes)?;
    for (i, rule) in file.list("inhibit_rules")?.into_iter().enumerate() {
        inhibit(rule.fields()?, i, &mut lines, &mut notes)?;
    }
    for key in ["mute_time_intervals", "time_intervals"] {
        for interval in file.list(key)? {
            time_interval(interval.fields()?, &mut lines, &mut notes)?;
        }
    }
    global.rest(&mut notes, |key| match key {
        "resolve_timeout" => "alerts of others without an end are `[alertmanager] resolve_timeout`".into(),
        "http_config" => "each receiver that it holds for has what could be carried of it".into(),
        _ if key.starts_with("smtp_") => "mail is sent without".into(),
        _ => "no receiver that was carried over needs it".into(),
    });
    file.rest(&mut notes, |key| match key {
        "templates" => "templates are written anew: ours are not those of Go".into(),
        "tracing" | "event_recorder" => "is about Alertmanager itself".into(),
        _ => "is not known".into(),
    });
    Ok(Imported { toml: lines.finish(), notes: notes.finish() })
}

/// The matchers of a list, and of the two older ways to write them, in which keys are labels.
fn matchers(
    fields: &mut Fields<'_>,
    list: &str,
    equal: &str,
    regex: &str,
) -> Result<Vec<String>, ImportError> {
    let mut all = Vec::new();
    for (key, operator) in [(equal, Operator::Equal), (regex, Operator::Matches)] {
        let Some(node) = fields.take(key) else { continue };
        for (name, value) in node.fields()?.all() {
            let matcher =
                Matcher::new(name, operator, value.text()?).map_err(|fault| error(&value.place, fault))?;
            all.push(matcher.to_string());
        }
    }
    for node in fields.list(list)? {
        let found: Matchers = node.text()?.parse().map_err(|fault| error(&node.place, fault))?;
        all.extend(found.0.iter().map(ToString::to_string));
    }
    Ok(all)
}

fn inhibit(
    mut rule: Fields<'_>,
    number: usize,
    lines: &mut Lines,
    notes: &mut Notes,
) -> Result<(), ImportError> {
    lines.section("[[inhibit]]");
    if let Some(name) = rule.text("name")? {
        lines.key("name", name);
    }
    for side in ["source", "target"] {
        let list = format!("{side}_matchers");
        let mut all = matchers(&mut rule, &list, &format!("{side}_match"), &format!("{side}_match_re"))?;
        if all.is_empty() {
            // Alertmanager takes the absence of matchers for a match.
            all.push("alertname=~\".*\"".into());
            notes.add(
                format!("inhibit_rules[{number}].{list}"),
                "there is none, so every alert matches; it is written as alertname=~\".*\"",
            );
        }
        lines.key(&list, all);
    }
    let equal = rule.texts("equal")?;
    if !equal.is_empty() {
        lines.key("equal", equal);
    }
    rule.rest(notes, |_| "is not known".into());
    Ok(())
}

fn time_interval(mut interval: Fields<'_>, lines: &mut Lines, notes: &mut Notes) -> Result<(), ImportError> {
    let name = interval.text("name")?.ok_or_else(|| error(interval.within("name"), "is missing"))?;
    let spans = interval.list("time_intervals")?;
    lines.section("[[time_interval]]");
    lines.key("name", name);
    if spans.is_empty() {
        notes.add(
            interval.within("time_intervals"),
            "is empty, so it never holds; it is written as the year 1",
        );
        lines.key("years", vec!["1"]);
    }
    let several = spans.len() > 1;
    for span in spans {
        if several {
            lines.section("[[time_interval.any]]");
        }
        time_span(span.fields()?, lines, notes)?;
    }
    interval.rest(notes, |_| "is not known".into());
    Ok(())
}

fn time_span(mut span: Fields<'_>, lines: &mut Lines, notes: &mut Notes) -> Result<(), ImportError> {
    // Alertmanager takes a list without anything in it for a condition that nothing fulfils.
    let never = "is an empty list, which nothing fulfils: remove it, or what it stands in";
    let mut said = false;
    if span.has("times") {
        let mut times = Vec::new();
        for time in span.list("times")? {
            let mut time = time.fields()?;
            let mut range = toml::Table::new();
            for key in ["start_time", "end_time"] {
                let text = time.text(key)?.ok_or_else(|| error(time.within(key), "is missing"))?;
                range.insert(key.into(), text.into());
            }
            time.rest(notes, |_| "is not known".into());
            times.push(toml::Value::Table(range));
        }
        if times.is_empty() {
            return Err(error(span.within("times"), never));
        }
        lines.key("times", times);
        said = true;
    }
    for key in ["weekdays", "days_of_month", "months", "years"] {
        if span.has(key) {
            let ranges = span.texts(key)?;
            if ranges.is_empty() {
                return Err(error(span.within(key), never));
            }
            lines.key(key, ranges);
            said = true;
        }
    }
    if !said {
        notes.add(&span.place, "says nothing, so it always holds; it is written as all months");
        lines.key("months", vec!["1:12"]);
    }
    if let Some(location) = span.text("location")? {
        lines.key("location", location);
    }
    span.rest(notes, |_| "is not known".into());
    Ok(())
}
