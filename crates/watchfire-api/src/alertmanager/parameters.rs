//! The query of an address, as Alertmanager reads it: repeated matchers, flags with defaults.

use regex::Regex;
use watchfire_notify::matcher::Matcher;
use watchfire_store::{LabelSet, SilenceMatcher};

/// Names and values of a query, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parameters(pub(crate) Vec<(String, String)>);

impl Parameters {
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// A flag; `true` where it is not said.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, String> {
        match self.all(name).last() {
            None | Some("") => Ok(true),
            Some(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "y" | "on" | "t" => Ok(true),
                "false" | "0" | "no" | "n" | "off" | "f" => Ok(false),
                _ => Err(format!("{name} in query must be of type boolean: {text:?}")),
            },
        }
    }

    /// All matchers of this name.
    pub(crate) fn matchers(&self, name: &str) -> Result<Vec<Matcher>, String> {
        self.all(name).map(str::parse::<Matcher>).collect()
    }

    /// The matchers of this name, in the words of a silence.
    pub(crate) fn silence_matchers(&self, name: &str) -> Result<Vec<SilenceMatcher>, String> {
        self.all(name).map(silence_matcher).collect()
    }

    /// The regular expression that a receiver must match, anchored at both ends.
    pub(crate) fn receiver(&self) -> Result<Option<Regex>, String> {
        self.all("receiver")
            .last()
            .map(|text| Regex::new(&format!("^(?:{text})$")))
            .transpose()
            .map_err(|error| format!("failed to parse receiver param: {error}"))
    }

    /// Our receivers have no labels: these matchers hold for all of them, or for none.
    pub(crate) fn receivers_match(&self) -> Result<bool, String> {
        let matchers = self
            .matchers("receiver_matchers")
            .map_err(|fault| format!("failed to parse receiver_matchers param: {fault}"))?;
        Ok(matchers.iter().all(|matcher| matcher.matches(&LabelSet::new())))
    }
}

/// A matcher as text, in the words of a silence: `site=~"oslo|lyon"`.
pub(crate) fn silence_matcher(text: &str) -> Result<SilenceMatcher, String> {
    text.parse::<Matcher>().map(|matcher| matcher.to_silence())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_defaults_and_last_words() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            Parameters(pairs).flag("active")
        };
        assert_eq!(of(&[]), Ok(true));
        assert_eq!(of(&[("active", "false")]), Ok(false));
        assert_eq!(of(&[("active", "false"), ("active", "1")]), Ok(true));
        assert!(of(&[("active", "perhaps")]).unwrap_err().contains("boolean"));
    }

    #[test]
    fn matchers_are_told_in_the_words_of_silences() {
        let check = |text: &str, name: &str, value: &str, is_regex, is_equal| {
            let expected = SilenceMatcher { name: name.into(), value: value.into(), is_regex, is_equal };
            assert_eq!(silence_matcher(text), Ok(expected), "{text}");
        };
        check("site=oslo", "site", "oslo", false, true);
        check("site != \"oslo\"", "site", "oslo", false, false);
        check("site=~\"oslo|lyon\"", "site", "oslo|lyon", true, true);
        check("site!~o.*", "site", "o.*", true, false);
        check("a=\"b=c\"", "a", "b=c", false, true);
        assert!(silence_matcher("site").unwrap_err().contains("no matcher"));
    }
}
