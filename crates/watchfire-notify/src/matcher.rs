//! Conditions on labels, in Alertmanager's notation.

use std::fmt;
use std::str::FromStr;

use regex::Regex;
use watchfire_store::LabelSet;

#[derive(Clone, Debug)]
enum Test {
    Equal,
    NotEqual,
    Matches(Regex),
    MatchesNot(Regex),
}

/// `name="value"`, `!=`, `=~`, `!~`; the quotes may be left out. Regular expressions are anchored at both
/// ends. A label that an alert does not have counts as empty.
#[derive(Clone, Debug)]
pub struct Matcher {
    name: String,
    value: String,
    test: Test,
}

impl Matcher {
    /// Whether it holds for these labels.
    pub fn matches(&self, labels: &LabelSet) -> bool {
        let value = labels.get(&self.name).map_or("", String::as_str);
        match &self.test {
            Test::Equal => value == self.value,
            Test::NotEqual => value != self.value,
            Test::Matches(regex) => regex.is_match(value),
            Test::MatchesNot(regex) => !regex.is_match(value),
        }
    }
}

impl FromStr for Matcher {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let fault =
            |what: &str| format!("{text:?} is no matcher ({what}), such as severity=~\"major|critical\"");
        let at = text.find(['=', '!']).ok_or_else(|| fault("no =, !=, =~ or !~"))?;
        let name = text[..at].trim();
        if name.is_empty() || name.contains(['"', '{', '}', ',']) {
            return Err(fault("the name of the label is missing or wrong"));
        }
        let operator = ["=~", "!~", "!=", "="]
            .into_iter()
            .find(|operator| text[at..].starts_with(operator))
            .ok_or_else(|| fault("no =, !=, =~ or !~"))?;
        let raw = text[at + operator.len()..].trim();
        let value = if raw.starts_with('"') {
            // The escapes of JSON are those that people use here: \" \\ \n.
            serde_json::from_str::<String>(raw).map_err(|_| fault("the quotes do not fit"))?
        } else if raw.contains('"') {
            return Err(fault("the quotes do not fit"));
        } else {
            raw.to_string()
        };
        let regex =
            || Regex::new(&format!("^(?:{value})$")).map_err(|_| fault("its value is no regular expression"));
        let test = match operator {
            "=~" => Test::Matches(regex()?),
            "!~" => Test::MatchesNot(regex()?),
            "!=" => Test::NotEqual,
            _ => Test::Equal,
        };
        Ok(Self { name: name.into(), value, test })
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = match self.test {
            Test::Equal => "=",
            Test::NotEqual => "!=",
            Test::Matches(_) => "=~",
            Test::MatchesNot(_) => "!~",
        };
        write!(f, "{}{operator}{:?}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, labels: &[(&str, &str)], expected: bool) {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        assert_eq!(text.parse::<Matcher>().unwrap().matches(&labels), expected, "{text} on {labels:?}");
    }

    #[test]
    fn the_four_tests() {
        let major = [("severity", "major")];
        check("severity=\"major\"", &major, true);
        check("severity = major", &major, true);
        check("severity!=\"major\"", &major, false);
        check("severity=~\"major|critical\"", &major, true);
        check("severity=~\"maj\"", &major, false);
        check("severity!~\"maj.*\"", &major, false);
        check("site=\"\"", &major, true);
        check("site!=\"\"", &major, false);
        check("line=~\".+\"", &major, false);
        check(r#"a="say \"hi\"""#, &[("a", "say \"hi\"")], true);
    }

    #[test]
    fn what_is_no_matcher_is_said() {
        for bad in ["", "severity", "=x", "a=\"b", "a=b\"", "a=~\"(\"", "{a}=b"] {
            assert!(bad.parse::<Matcher>().unwrap_err().contains("is no matcher"), "{bad}");
        }
    }
}
