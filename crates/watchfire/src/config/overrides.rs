//! A file and the environment over it, as one configuration.

use std::path::PathBuf;

use toml::{Table, Value};

use super::{Config, ConfigError};

/// What stands above the sections, by the variable that sets it. Other names without `__` are of commands.
const ABOVE: &[(&str, &str)] =
    &[("WATCHFIRE_DATA", "data"), ("WATCHFIRE_RULES", "rules"), ("WATCHFIRE_PUBLIC_URL", "public_url")];

/// The configuration of a text with what these variables override.
pub fn merge(
    text: &str,
    name: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    // Of the text itself first: its faults are told with their lines.
    let mut config: Config = toml::from_str(text).map_err(|error| {
        let line =
            error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        ConfigError::Wrong { place: format!("{name}, line {line}"), fault: explain(error.message()) }
    })?;
    let mut table: Table = toml::from_str(text).unwrap_or_default();
    let mut variables: Vec<_> = variables.into_iter().collect();
    variables.sort();
    for (name, value) in variables {
        let wrong = |fault: String| ConfigError::Wrong { place: name.clone(), fault };
        let above = ABOVE.iter().find(|(variable, _)| *variable == name);
        let path: Vec<String> = match (above, name.strip_prefix("WATCHFIRE_")) {
            (Some((_, key)), _) => vec![key.to_string()],
            (None, Some(rest)) if rest.contains("__") => rest.split("__").map(str::to_lowercase).collect(),
            _ => continue,
        };
        // No key ends in _file itself: it names the file that holds the value.
        let Some(stem) = path.last().and_then(|last| last.strip_suffix("_file")) else {
            (table, config) = attempt(&table, &path, &value).map_err(wrong)?;
            continue;
        };
        let file = PathBuf::from(&value);
        let text =
            std::fs::read_to_string(&file).map_err(|source| ConfigError::Read { path: file, source })?;
        let mut named = path[..path.len() - 1].to_vec();
        named.push(stem.to_string());
        (table, config) = match secret(&table, &named, &value) {
            Some(done) => done,
            None => attempt(&table, &named, text.trim_end_matches(['\r', '\n'])).map_err(wrong)?,
        };
    }
    Ok(config)
}

/// The table with a secret that names its file, to be read again whenever it is wanted; `None`: the key is of no secret.
fn secret(table: &Table, path: &[String], file: &str) -> Option<(Table, Config)> {
    let try_keys = |keys: &[&str]| {
        let named = keys.iter().map(|key| (key.to_string(), Value::String(file.into()))).collect();
        let mut table = table.clone();
        set(&mut table, path, Value::Table(named)).ok()?;
        let config = Value::Table(table.clone()).try_into::<Config>().ok()?;
        Some((table, config))
    };
    // What takes any key is a list of names, such as headers.
    if try_keys(&["file", "other"]).is_some() { None } else { try_keys(&["file"]) }
}

/// The table with a value set, where that is a configuration: read as TOML first, then as plain text.
fn attempt(table: &Table, path: &[String], value: &str) -> Result<(Table, Config), String> {
    let mut fault = None;
    let as_toml =
        toml::from_str::<Table>(&format!("value = {value}")).ok().and_then(|mut table| table.remove("value"));
    for candidate in [as_toml, Some(Value::String(value.into()))].into_iter().flatten() {
        let mut table = table.clone();
        set(&mut table, path, candidate)?;
        match Value::Table(table.clone()).try_into::<Config>() {
            Ok(config) => return Ok((table, config)),
            Err(error) => fault = Some(explain(error.message())),
        }
    }
    Err(fault.unwrap_or_default())
}

fn set(table: &mut Table, path: &[String], value: Value) -> Result<(), String> {
    let Some((first, rest)) = path.split_first() else { return Ok(()) };
    if rest.is_empty() {
        table.insert(first.clone(), value);
        return Ok(());
    }
    let below = table.entry(first.clone()).or_insert_with(|| {
        // A number behind a name: the name is that of a list.
        if rest[0].parse::<usize>().is_ok() { Value::Array(Vec::new()) } else { Value::Table(Table::new()) }
    });
    match below {
        Value::Table(below) => set(below, rest, value),
        Value::Array(list) => {
            let count = list.len();
            let index: usize = rest[0]
                .parse()
                .map_err(|_| format!("{first} is a list: its elements are numbered from 0"))?;
            match list.get_mut(index) {
                Some(Value::Table(below)) if rest.len() > 1 => set(below, &rest[1..], value),
                Some(element) if rest.len() == 1 => {
                    *element = value;
                    Ok(())
                }
                Some(_) => Err(format!("{first}[{index}] has nothing below it")),
                None => Err(format!("there are {count} of {first} in the file, there is no number {index}")),
            }
        }
        _ => Err(format!("{first} has nothing below it")),
    }
}

/// What serde says of an unknown key, with the key that is most like it.
fn explain(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let suggestion = match quoted.split_first() {
        Some((wrong, known)) if message.starts_with("unknown ") => known
            .iter()
            .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
            .min()
            .filter(|(distance, name)| *distance <= 1 + name.len() / 3)
            .map(|(_, name)| format!("; did you mean `{name}`?")),
        _ => None,
    };
    format!("{}{}", message.trim_end(), suggestion.unwrap_or_default())
}
