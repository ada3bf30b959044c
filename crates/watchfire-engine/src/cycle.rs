//! Rules that read and publish streams make a graph, which must have no cycle: a cycle would feed itself
//! for ever.

use std::collections::{BTreeMap, BTreeSet};

use watchfire_model::RuleSpec;

/// A deployment that would close a cycle of streams.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rule would close a cycle of streams: {}", .path.join(" -> "))]
pub struct CycleError {
    /// The streams, from the input of the rule back to it.
    pub path: Vec<String>,
}

/// Refuses a rule that, beside the others, closes a cycle of streams. A rule of the same name among the
/// others is the one that it replaces.
pub fn check_streams<'a>(
    new: &RuleSpec,
    others: impl IntoIterator<Item = &'a RuleSpec>,
) -> Result<(), CycleError> {
    let Some(output) = &new.output else { return Ok(()) };
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for rule in others {
        if let Some(output) = rule.output.as_ref().filter(|_| rule.name != new.name) {
            next.entry(&rule.input).or_default().insert(output);
        }
    }
    // From the output of the new rule: is its input reached?
    let mut path = vec![new.input.as_str(), output.as_str()];
    let mut seen = BTreeSet::new();
    if reaches(output, &new.input, &next, &mut seen, &mut path) {
        return Err(CycleError { path: path.into_iter().map(String::from).collect() });
    }
    Ok(())
}

fn reaches<'a>(
    from: &'a str,
    to: &str,
    next: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    seen: &mut BTreeSet<&'a str>,
    path: &mut Vec<&'a str>,
) -> bool {
    if from == to {
        return true;
    }
    if !seen.insert(from) {
        return false;
    }
    for stream in next.get(from).into_iter().flatten() {
        path.push(stream);
        if reaches(stream, to, next, seen, path) {
            return true;
        }
        path.pop();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_model::Digest;

    fn rule(name: &str, input: &str, output: Option<&str>) -> RuleSpec {
        let json = serde_json::json!({"name": name, "module": Digest::of(b""), "input": input});
        RuleSpec { output: output.map(String::from), ..serde_json::from_value(json).unwrap() }
    }

    fn check(new: RuleSpec, expected: Option<&str>) {
        let others = [
            rule("a", "readings", Some("smooth")),
            rule("b", "smooth", Some("site")),
            rule("c", "smooth", Some("other")),
            rule("d", "site", None),
        ];
        let found = check_streams(&new, &others).err().map(|error| error.path.join(">"));
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn cycles_are_found_and_told() {
        check(rule("x", "site", Some("smooth")), Some("site>smooth>site"));
        check(rule("x", "s", Some("s")), Some("s>s"));
        check(rule("x", "other", Some("readings")), Some("other>readings>smooth>other"));
        check(rule("x", "other", Some("site")), None);
        check(rule("x", "site", None), None);
        // Instead of the one that would close it.
        check(rule("b", "site", Some("smooth")), None);
    }
}
