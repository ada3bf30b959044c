//! Receivers: ours has one channel, Alertmanager's any number.

use std::collections::HashSet;

use super::channels::{self, Channel};
use super::document::{Fields, Lines, Notes};
use super::routes::Names;
use super::{ImportError, error};

/// Writes all receivers. Returns what each has become.
pub(super) fn write(
    file: &mut Fields<'_>,
    global: &mut Fields<'_>,
    lines: &mut Lines,
    notes: &mut Notes,
) -> Result<Names, ImportError> {
    let mut given = Vec::new();
    for node in file.list("receivers")? {
        let mut fields = node.fields()?;
        let name = fields.text("name")?.filter(|name| !name.is_empty());
        given.push((name.ok_or_else(|| error(fields.within("name"), "is missing"))?, fields));
    }
    // Names that are taken, so that what is made of one never has the name of another.
    let mut taken: HashSet<String> = given.iter().map(|(name, _)| name.clone()).collect();
    if taken.len() < given.len() {
        return Err(error("receivers", "two have the same name"));
    }
    let mut names = Names::new();
    let mut used: HashSet<&'static str> = HashSet::new();
    for (name, mut fields) in given {
        let place = fields.place.clone();
        let mut found: Vec<Channel> = Vec::new();
        for kind in channels::KINDS {
            for config in fields.list(kind.key)? {
                found.push((kind.read)(config.fields()?, global, notes)?);
                used.extend(kind.globals);
            }
        }
        fields.rest(notes, |key| match key.strip_suffix("_configs") {
            Some("msteams") => "Microsoft has ended these connectors: make a workflow, and a receiver `teams` with its address".into(),
            Some(kind) => format!("there is no channel {kind:?}: whom it told is not told over it"),
            None => "receivers have no such thing".into(),
        });
        let single = found.len() == 1;
        let mut ours = Vec::new();
        for channel in found {
            let own = if single { name.clone() } else { free(&name, channel.table, &mut taken) };
            lines.section("[[receiver]]");
            lines.key("name", own.as_str());
            if let Some(most) = channel.max_alerts {
                lines.key("max_alerts", most);
            }
            lines.section(&format!("[receiver.{}]", channel.table));
            for (key, value) in channel.keys {
                lines.key(key, value);
            }
            ours.push(own);
        }
        if ours.is_empty() {
            notes.add(
                &place,
                format!("{name:?} has no channel that was carried over: routes to it tell nobody"),
            );
        }
        names.insert(name, ours);
    }
    for key in used {
        global.take(key);
    }
    Ok(names)
}

/// `team-email`, or the first of `team-email-2`, ... that nobody has.
fn free(name: &str, table: &str, taken: &mut HashSet<String>) -> String {
    let plain = format!("{name}-{table}");
    let mut free = plain.clone();
    let mut number = 1;
    while !taken.insert(free.clone()) {
        number += 1;
        free = format!("{plain}-{number}");
    }
    free
}
