//! Conditions on labels, in Alertmanager's notation.
//!
//! What is a matcher and what it means is what Alertmanager 0.34 makes of the same text. It has two parsers: one for any
//! UTF-8 label name (`strict.rs`, after its `matcher/parse`), and an older one that tolerates more (`classic.rs`, after
//! its `pkg/labels`). Where both accept a text and read something else, the older one counts (its `matcher/compat`); so
//! that one is asked first, and the other where it refuses. One thing is stricter here: a name that is empty is refused,
//! since no label has it.

use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};
use watchfire_store::LabelSet;
use watchfire_store::silences::SilenceMatcher;

mod classic;
mod strict;
#[cfg(test)]
mod tests;

/// Bytes of a regular expression of a configuration, compiled.
const CONFIGURED_BYTES: usize = 10 << 20;
/// Bytes of one of a silence: there may be thousands.
const SILENCE_BYTES: usize = 1 << 20;

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Matches,
    /// `!~`
    MatchesNot,
}

impl Operator {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Matches => "=~",
            Self::MatchesNot => "!~",
        }
    }
}

/// `name="value"`, `!=`, `=~`, `!~`; the quotes may be left out where nothing in the value needs them. Regular
/// expressions are anchored at both ends. A label that an alert does not have counts as empty.
#[derive(Clone, Debug)]
pub struct Matcher {
    name: String,
    operator: Operator,
    value: String,
    /// Of the two operators that need one.
    regex: Option<Regex>,
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.operator, &self.value) == (&other.name, other.operator, &other.value)
    }
}

impl Eq for Matcher {}

impl Matcher {
    /// One of its parts; an error where the name is empty or the value is no regular expression.
    pub fn new(
        name: impl Into<String>,
        operator: Operator,
        value: impl Into<String>,
    ) -> Result<Self, String> {
        Self::bounded(name.into(), operator, value.into(), CONFIGURED_BYTES)
    }

    fn bounded(name: String, operator: Operator, value: String, bytes: usize) -> Result<Self, String> {
        if name.is_empty() {
            return Err("the name of the label is missing".into());
        }
        let regex = match operator {
            Operator::Equal | Operator::NotEqual => None,
            Operator::Matches | Operator::MatchesNot => {
                let built = RegexBuilder::new(&format!("^(?:{value})$")).size_limit(bytes).build();
                Some(built.map_err(|error| match error {
                    regex::Error::CompiledTooBig(most) => {
                        format!("its value, a regular expression, takes more than {most} bytes of memory")
                    }
                    _ => format!("its value {value:?} is no regular expression"),
                })?)
            }
        };
        Ok(Self { name, operator, value, regex })
    }

    /// That of a silence. Its regular expression may be smaller than that of a configuration: anybody who may silence
    /// may write one.
    pub fn of_silence(matcher: &SilenceMatcher) -> Result<Self, String> {
        let operator = match (matcher.is_regex, matcher.is_equal) {
            (false, true) => Operator::Equal,
            (false, false) => Operator::NotEqual,
            (true, true) => Operator::Matches,
            (true, false) => Operator::MatchesNot,
        };
        Self::bounded(matcher.name.clone(), operator, matcher.value.clone(), SILENCE_BYTES)
    }

    /// In the words of a silence.
    pub fn to_silence(&self) -> SilenceMatcher {
        SilenceMatcher {
            name: self.name.clone(),
            value: self.value.clone(),
            is_regex: matches!(self.operator, Operator::Matches | Operator::MatchesNot),
            is_equal: matches!(self.operator, Operator::Equal | Operator::Matches),
        }
    }

    /// The label.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is compared with.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// How.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// Whether it holds for these labels.
    pub fn matches(&self, labels: &LabelSet) -> bool {
        self.matches_value(labels.get(&self.name).map_or("", String::as_str))
    }

    /// Whether it holds for a label of this value; empty: there is none.
    pub fn matches_value(&self, value: &str) -> bool {
        let matched = || self.regex.as_ref().is_some_and(|regex| regex.is_match(value));
        match self.operator {
            Operator::Equal => value == self.value,
            Operator::NotEqual => value != self.value,
            Operator::Matches => matched(),
            Operator::MatchesNot => !matched(),
        }
    }

    /// The values that the label may have, where they can be counted: that of `=`, and those of a `=~` which is nothing
    /// but words with `|` between. `None` also where an alert without the label matches. For indexes: whatever matches
    /// has one of them.
    pub fn values(&self) -> Option<Vec<&str>> {
        let values: Vec<&str> = match self.operator {
            Operator::Equal => vec![&self.value],
            Operator::Matches if !self.value.contains(META) => self.value.split('|').collect(),
            _ => return None,
        };
        values.iter().all(|value| !value.is_empty()).then_some(values)
    }
}

/// What makes a regular expression more than words with `|` between.
const META: [char; 14] = ['\\', '.', '+', '*', '?', '(', ')', '[', ']', '{', '}', '^', '$', '\n'];

impl FromStr for Matcher {
    type Err = String;
    /// Exactly one, without braces.
    fn from_str(text: &str) -> Result<Self, String> {
        let fault =
            |what: &str| format!("{text:?} is no matcher ({what}), such as severity=~\"major|critical\"");
        if text.starts_with('{') || text.ends_with('}') {
            return Err(fault("one matcher has no braces around it"));
        }
        let strict = || {
            let mut all = strict::parse(text)?;
            match (all.pop(), all.is_empty()) {
                (Some(one), true) => Ok(one),
                (None, _) => Err("there is none".into()),
                (Some(_), false) => Err("these are several".to_string()),
            }
        };
        classic::parse(text).or_else(|_| strict()).map_err(|what| fault(&what))
    }
}

impl fmt::Display for Matcher {
    /// As Alertmanager writes it: so it is read back as the same one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name that the classic parser cannot read is in quotes, and so with the escapes of the strict one.
        if self.name.contains(strict::is_reserved) {
            quote(f, &self.name)?;
            f.write_str(self.operator.as_str())?;
            return quote(f, &self.value);
        }
        write!(f, "{}{}\"", self.name, self.operator.as_str())?;
        for c in self.value.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' => f.write_str("\\\"")?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '\\' => f.write_str("\\\\")?,
            '"' => f.write_str("\\\"")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\x07' => f.write_str("\\a")?,
            '\x08' => f.write_str("\\b")?,
            '\x0b' => f.write_str("\\v")?,
            '\x0c' => f.write_str("\\f")?,
            c if c.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(c))?,
            c if c.is_whitespace() && c != ' ' => write!(f, "\\u{:04x}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

/// A list of matchers, all of which must hold: `{a="b",c=~"d"}`; the braces may be left out. Without any it holds for
/// every alert.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matchers(pub Vec<Matcher>);

impl Matchers {
    /// Those of several texts, each of which may be a list, as in configurations. The error names the text by its number.
    pub fn all(texts: &[String]) -> Result<Self, (usize, String)> {
        let mut all = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            let one: Self = text.parse().map_err(|fault| (i, fault))?;
            if one.0.is_empty() {
                return Err((i, format!("{text:?} is no matcher (there is none)")));
            }
            all.extend(one.0);
        }
        Ok(Self(all))
    }

    /// Whether all hold for these labels.
    pub fn matches(&self, labels: &LabelSet) -> bool {
        self.0.iter().all(|matcher| matcher.matches(labels))
    }
}

impl FromStr for Matchers {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        classic::parse_list(text)
            .or_else(|_| strict::parse(text))
            .map(Self)
            .map_err(|what| format!("{text:?} is no matcher ({what}), such as severity=~\"major|critical\""))
    }
}

impl fmt::Display for Matchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, matcher) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{matcher}")?;
        }
        f.write_str("}")
    }
}
