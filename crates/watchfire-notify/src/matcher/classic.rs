//! Matchers as Alertmanager read them before it took any UTF-8 label name, after its `pkg/labels/parse.go` (0.34). It
//! tolerates what the strict parser refuses: a value without quotes that holds quotes with backslashes, a backslash that
//! escapes nothing, an empty value.

use super::{Matcher, Operator};

/// What `\s` is in Go's regular expressions.
const SPACE: [char; 5] = ['\t', '\n', '\x0c', '\r', ' '];

/// One matcher.
pub(super) fn parse(text: &str) -> Result<Matcher, String> {
    let text = text.trim_matches(SPACE);
    let name =
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).next().unwrap_or("");
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("the name of the label is missing or wrong".into());
    }
    let after = text[name.len()..].trim_start_matches(SPACE);
    let operators = [
        ("=~", Operator::Matches),
        ("=", Operator::Equal),
        ("!=", Operator::NotEqual),
        ("!~", Operator::MatchesNot),
    ];
    let (operator, raw) = operators
        .into_iter()
        .find_map(|(written, operator)| Some((operator, after.strip_prefix(written)?)))
        .ok_or("no =, !=, =~ or !~")?;
    Matcher::new(name, operator, unescape(raw.trim_start_matches(SPACE))?)
}

fn unescape(raw: &str) -> Result<String, String> {
    let fault = || Err("the quotes do not fit".to_string());
    let (raw, mut quoted) = match raw.strip_prefix('"') {
        Some(inside) => (inside, true),
        None => (raw, false),
    };
    let last = raw.len().saturating_sub(1);
    let mut value = String::with_capacity(raw.len());
    let mut escaped = false;
    for (at, c) in raw.char_indices() {
        if escaped {
            escaped = false;
            match c {
                'n' => value.push('\n'),
                '"' | '\\' => value.push(c),
                // It escapes nothing, and stands for itself.
                c => value.extend(['\\', c]),
            }
            continue;
        }
        match c {
            '\\' if at < last => escaped = true,
            '"' if !quoted || at < last => return fault(),
            '"' => quoted = false,
            c => value.push(c),
        }
    }
    if quoted { fault() } else { Ok(value) }
}

/// A list with commas between, of which those within quotes do not count; braces around it may be there, or one of them.
pub(super) fn parse_list(text: &str) -> Result<Vec<Matcher>, String> {
    let text = text.strip_prefix('{').unwrap_or(text);
    let text = text.strip_suffix('}').unwrap_or(text);
    let (mut inside, mut escaped) = (false, false);
    let mut begin = 0;
    let mut matchers = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            ',' if !inside => {
                matchers.push(parse(&text[begin..at])?);
                begin = at + 1;
            }
            ',' => (),
            '"' if escaped => escaped = false,
            '"' => inside = !inside,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    if !text[begin..].trim().is_empty() {
        matchers.push(parse(text[begin..].trim())?);
    }
    Ok(matchers)
}
