//! The tree of routes.

use std::collections::HashMap;

use super::document::{Lines, Node, Notes, duration};
use super::{ImportError, error, matchers};

/// The names of our receivers, by the name of Alertmanager's that they were made of: none, where nothing of it could be
/// carried over, and several, where it tells over several channels.
pub(super) type Names = HashMap<String, Vec<String>>;

/// Alertmanager's defaults of the root, which are not ours (`dispatch.DefaultRouteOpts`).
const DEFAULTS: [(&str, &str); 3] =
    [("group_wait", "30s"), ("group_interval", "5m"), ("repeat_interval", "4h")];

pub(super) fn write(
    root: Node<'_>,
    names: &Names,
    lines: &mut Lines,
    notes: &mut Notes,
) -> Result<(), ImportError> {
    route(root, 0, names, lines, notes)
}

fn route(
    node: Node<'_>,
    depth: usize,
    names: &Names,
    lines: &mut Lines,
    notes: &mut Notes,
) -> Result<(), ImportError> {
    let mut fields = node.fields()?;
    if depth == 0 {
        lines.section("[route]");
    } else {
        lines.section(&format!("[[route{}]]", ".routes".repeat(depth)));
    }
    let all = matchers(&mut fields, "matchers", "match", "match_re")?;
    if !all.is_empty() {
        lines.key("matchers", all);
    }
    match fields.text("receiver")?.filter(|name| !name.is_empty()) {
        Some(name) => {
            let ours = names
                .get(&name)
                .ok_or_else(|| error(fields.within("receiver"), format!("there is no receiver {name:?}")))?;
            match &ours[..] {
                [one] => lines.key("receiver", one.as_str()),
                several => lines.key("receivers", several.to_vec()),
            }
        }
        None if depth == 0 => return Err(error("route.receiver", "is missing: the root names one")),
        None => (),
    }
    if depth == 0 || fields.has("group_by") {
        // Alertmanager's default is one group for everything.
        lines.key("group_by", fields.texts("group_by")?);
    }
    for (key, default) in DEFAULTS {
        match fields.take(key) {
            Some(span) => lines.key(key, duration(&span)?.to_string()),
            None if depth == 0 => lines.key(key, default),
            None => (),
        }
    }
    for key in ["mute_time_intervals", "active_time_intervals"] {
        let intervals = fields.texts(key)?;
        if !intervals.is_empty() {
            lines.key(key, intervals);
        }
    }
    if fields.flag("continue")? == Some(true) {
        lines.key("continue", true);
    }
    let below = fields.list("routes")?;
    fields.rest(notes, |key| match key {
        "labels" => "routes give no labels to messages".into(),
        _ => "is not known".into(),
    });
    for child in below {
        route(child, depth + 1, names, lines, notes)?;
    }
    Ok(())
}
