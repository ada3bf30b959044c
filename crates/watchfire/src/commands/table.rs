//! Answers, for people as aligned tables, for programs as JSON.

use std::io::{IsTerminal as _, Write as _};

use serde_json::Value;

#[derive(Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// A list: the named members of each item as columns.
    pub(super) fn list(self, items: &[Value], columns: &[&str]) {
        if self.json {
            print(&Value::from(items.to_vec()).to_string());
            return;
        }
        let rows: Vec<Vec<String>> =
            items.iter().map(|item| columns.iter().map(|column| cell(item, column)).collect()).collect();
        print(&align(columns, &rows));
    }

    /// A list that is shown again and again: on a terminal in the place of the one before.
    pub(super) fn screen(self, title: &str, items: &[Value], columns: &[&str]) {
        let _ = write!(std::io::stdout(), "\x1b[H\x1b[2J");
        print(title);
        self.list(items, columns);
    }

    /// Whether a person looks at it as it comes.
    pub(super) fn is_watched(self) -> bool {
        !self.json && std::io::stdout().is_terminal()
    }

    /// One document: its members below each other.
    pub(super) fn document(self, document: &Value) {
        if self.json || !document.is_object() {
            print(&document.to_string());
            return;
        }
        let members = document.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let members: Vec<(&String, String)> =
            members.map(|(name, value)| (name, text(value, true))).collect();
        let width = members.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let lines: Vec<String> = members
            .iter()
            .map(|(name, value)| {
                format!("{name:width$}  {}", value.replace('\n', &format!("\n{:width$}  ", "")))
            })
            .collect();
        print(&lines.join("\n"));
    }

    /// What was done, in a sentence; programs get the document.
    pub(super) fn done(self, sentence: &str, document: &Value) {
        if self.json { print(&document.to_string()) } else { print(sentence) }
    }

    /// Progress: for a person at a terminal only.
    pub(super) fn progress(self, sentence: &str) {
        if !self.json && std::io::stderr().is_terminal() {
            let _ = writeln!(std::io::stderr(), "{sentence}");
        }
    }

    /// A line of something that goes on.
    pub(super) fn line(self, text: &str) {
        print(text);
    }
}

fn print(text: &str) {
    if text.is_empty() {
        return;
    }
    // A reader that is gone (`| head`) is no failure of ours.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A member by name; `a.b` looks into a member.
fn cell(item: &Value, column: &str) -> String {
    let value = column.split('.').fold(item, |value, name| &value[name]);
    // One line each: a table must stay a table, and the backtrace behind a reason is for who looks at it alone.
    let text = text(value, false);
    let mut lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first} …") } else { first.to_string() }
}

fn text(value: &Value, long: bool) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.chars().filter(|c| !c.is_control() || *c == '\n').collect(),
        Value::Array(items) if items.iter().all(|item| !item.is_object()) => {
            items.iter().map(|item| text(item, long)).collect::<Vec<_>>().join(", ")
        }
        Value::Array(_) | Value::Object(_) if long => serde_json::to_string_pretty(value).unwrap_or_default(),
        value => value.to_string(),
    }
}

fn align(columns: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> =
        columns.iter().map(|column| column.replace(['_', '.'], " ").to_uppercase()).collect();
    let width = |i: usize| rows.iter().chain([&head]).map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_string()
    };
    std::iter::once(&head).chain(rows).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_are_aligned_and_stay_tables() {
        let items = [json!({"id": "a", "s": {"n": 1}}), json!({"id": "\nlong\tname\nand more\n", "s": {}})];
        let columns = ["id", "s.n"];
        let rows: Vec<Vec<String>> =
            items.iter().map(|item| columns.iter().map(|column| cell(item, column)).collect()).collect();
        assert_eq!(align(&columns, &rows), "ID          S N\na           1\nlongname …  -");
    }

    #[test]
    fn escape_sequences_of_devices_do_not_reach_the_terminal() {
        assert_eq!(text(&json!("\u{1b}[31mred"), true), "[31mred");
    }
}
