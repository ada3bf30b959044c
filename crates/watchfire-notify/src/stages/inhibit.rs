//! Inhibition: an alert that says more keeps others from being told.

use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;
use watchfire_store::LabelSet;

use crate::matcher::Matchers;

/// A rule of what inhibits what.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InhibitConfig {
    /// What it is called, for people.
    #[serde(default)]
    pub name: Option<String>,
    /// Alerts that inhibit: all must match.
    pub source_matchers: Vec<String>,
    /// Alerts that are inhibited: all must match.
    pub target_matchers: Vec<String>,
    /// Labels that both have with the same value. One that is missing counts as empty.
    #[serde(default)]
    pub equal: Vec<String>,
}

impl InhibitConfig {
    /// What is wrong with it, if anything is: the key, and the fault.
    pub fn check(&self) -> Result<(), (String, String)> {
        compile(self).map(drop)
    }
}

/// A rule, and the alerts that fire on its source side.
#[derive(Clone, Debug)]
struct Rule {
    source: Matchers,
    target: Matchers,
    equal: Vec<String>,
    /// By the values of the labels that must be equal.
    sources: HashMap<Vec<String>, Sources>,
}

/// Fingerprints of alerts that inhibit.
#[derive(Clone, Debug, Default)]
struct Sources {
    /// Of those that match the source side alone.
    one_sided: BTreeSet<String>,
    /// Of those that match the target side as well.
    two_sided: BTreeSet<String>,
}

/// What fires and may inhibit, by the rules of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Inhibitor {
    rules: Vec<Rule>,
    /// By fingerprint, where an alert stands as a source: which rule, and the values of its labels there.
    places: HashMap<String, Vec<(usize, Vec<String>)>>,
}

impl Inhibitor {
    /// Without any alert yet. A rule that [`InhibitConfig::check`] refuses inhibits nothing.
    pub fn new(configs: &[InhibitConfig]) -> Self {
        let rules = configs.iter().filter_map(|config| compile(config).ok()).collect();
        Self { rules, places: HashMap::new() }
    }

    /// An alert fires. Says whether it may inhibit others.
    pub fn add(&mut self, fingerprint: &str, labels: &LabelSet) -> bool {
        self.remove(fingerprint);
        let mut places = Vec::new();
        for (i, rule) in self.rules.iter_mut().enumerate().filter(|(_, rule)| rule.source.matches(labels)) {
            let values = values(&rule.equal, labels);
            let sources = rule.sources.entry(values.clone()).or_default();
            let side =
                if rule.target.matches(labels) { &mut sources.two_sided } else { &mut sources.one_sided };
            side.insert(fingerprint.to_string());
            places.push((i, values));
        }
        let inhibits = !places.is_empty();
        if inhibits {
            self.places.insert(fingerprint.to_string(), places);
        }
        inhibits
    }

    /// An alert fires no more. Says whether it may have inhibited others.
    pub fn remove(&mut self, fingerprint: &str) -> bool {
        let Some(places) = self.places.remove(fingerprint) else { return false };
        for (i, values) in places {
            let rule = &mut self.rules[i];
            if let Some(sources) = rule.sources.get_mut(&values) {
                sources.one_sided.remove(fingerprint);
                sources.two_sided.remove(fingerprint);
                if sources.one_sided.is_empty() && sources.two_sided.is_empty() {
                    rule.sources.remove(&values);
                }
            }
        }
        true
    }

    /// What inhibits this label set: one fingerprint for each rule that does, sorted. One, because a failure of much may
    /// leave thousands that each would do. An alert that matches both sides of a rule is not inhibited by others that do,
    /// and so not by itself.
    pub fn inhibited_by(&self, labels: &LabelSet, fingerprint: &str) -> Vec<String> {
        let mut found = BTreeSet::new();
        for rule in self.rules.iter().filter(|rule| !rule.sources.is_empty() && rule.target.matches(labels)) {
            let Some(sources) = rule.sources.get(&values(&rule.equal, labels)) else { continue };
            let two_sided = (!rule.source.matches(labels)).then(|| sources.two_sided.first()).flatten();
            let first = sources.one_sided.first().into_iter().chain(two_sided).min();
            found.extend(first.filter(|other| *other != fingerprint));
        }
        found.into_iter().cloned().collect()
    }

    /// How many alerts may inhibit others.
    pub fn sources(&self) -> usize {
        self.places.len()
    }
}

fn values(equal: &[String], labels: &LabelSet) -> Vec<String> {
    equal.iter().map(|name| labels.get(name).cloned().unwrap_or_default()).collect()
}

fn compile(config: &InhibitConfig) -> Result<Rule, (String, String)> {
    let side = |key: &str, texts: &[String]| {
        if texts.is_empty() {
            // Alertmanager takes it, and then every alert matches.
            let fault = "names no matcher: alertname=~\".*\" would stand for every alert";
            return Err((key.to_string(), fault.to_string()));
        }
        Matchers::all(texts).map_err(|(i, fault)| (format!("{key}[{i}]"), fault))
    };
    let mut equal = config.equal.clone();
    equal.sort_unstable();
    equal.dedup();
    if equal.first().is_some_and(String::is_empty) {
        return Err(("equal".into(), "the name of a label is missing".into()));
    }
    Ok(Rule {
        source: side("source_matchers", &config.source_matchers)?,
        target: side("target_matchers", &config.target_matchers)?,
        equal,
        sources: HashMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(source: &str, target: &str, equal: &[&str]) -> InhibitConfig {
        InhibitConfig {
            name: None,
            source_matchers: vec![source.into()],
            target_matchers: vec![target.into()],
            equal: equal.iter().map(ToString::to_string).collect(),
        }
    }

    fn set(labels: &str) -> LabelSet {
        let pairs = labels.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    /// Alerts are their own fingerprints.
    fn check(rules: &[InhibitConfig], firing: &[&str], asked: &str, expected: &[&str]) {
        let mut inhibitor = Inhibitor::new(rules);
        for labels in firing {
            inhibitor.add(labels, &set(labels));
        }
        assert_eq!(inhibitor.inhibited_by(&set(asked), asked), expected, "{asked} beside {firing:?}");
    }

    #[test]
    fn the_labels_that_must_be_equal() {
        let rules = [rule("severity=critical", "severity=minor", &["site", "line"])];
        check(
            &rules,
            &["severity=critical site=a line=1"],
            "severity=minor site=a line=1",
            &["severity=critical site=a line=1"],
        );
        check(&rules, &["severity=critical site=a line=2"], "severity=minor site=a line=1", &[]);
        check(&rules, &["severity=critical site=a"], "severity=minor site=a line=1", &[]);
        // Missing on both sides is equal.
        check(&rules, &["severity=critical"], "severity=minor", &["severity=critical"]);
        check(&rules, &["severity=critical"], "severity=major", &[]);
        check(&rules, &["severity=major"], "severity=minor", &[]);
    }

    #[test]
    fn an_alert_of_both_sides_does_not_inhibit_itself_or_its_like() {
        let rules = [rule("down=yes", "site=a", &["site"])];
        let both = "down=yes site=a";
        check(&rules, &[both], both, &[]);
        check(&rules, &[both, "down=yes site=a x=1"], both, &[]);
        // One that matches the target side alone is inhibited by it.
        check(&rules, &[both], "site=a", &[both]);
        // And one that matches both sides, by another that matches the source side alone.
        let rules = [rule("down=yes", "key=x", &["site"])];
        check(&rules, &["down=yes site=a"], "down=yes key=x site=a", &["down=yes site=a"]);
    }

    #[test]
    fn each_rule_that_inhibits_names_one_source() {
        let rules = [rule("a=1", "x=1", &[]), rule("b=1", "x=1", &[]), rule("a=1", "x=~\"1|2\"", &[])];
        check(&rules, &["a=1", "b=1", "a=1 c=2"], "x=1", &["a=1", "b=1"]);
    }

    #[test]
    fn what_is_over_inhibits_no_more() {
        let mut inhibitor = Inhibitor::new(&[rule("a=1", "x=1", &["site"])]);
        assert!(inhibitor.add("one", &set("a=1")));
        assert!(inhibitor.add("two", &set("a=1 b=2")));
        // Once more is no change.
        assert!(inhibitor.add("one", &set("a=1")));
        assert!(!inhibitor.add("other", &set("b=1")));
        assert_eq!(inhibitor.sources(), 2);
        assert_eq!(inhibitor.inhibited_by(&set("x=1"), "x"), ["one"]);
        assert!(inhibitor.remove("one"));
        assert!(!inhibitor.remove("one"));
        assert_eq!(inhibitor.inhibited_by(&set("x=1"), "x"), ["two"]);
        assert!(inhibitor.remove("two") && !inhibitor.remove("other"));
        assert!(inhibitor.inhibited_by(&set("x=1"), "x").is_empty());
        assert!(inhibitor.rules[0].sources.is_empty());
    }

    #[test]
    fn a_rule_says_what_is_wrong_with_it() {
        let fault = |rule: InhibitConfig| rule.check().unwrap_err();
        assert_eq!(fault(rule("a=1", "b", &[])).0, "target_matchers[0]");
        assert_eq!(
            fault(InhibitConfig { source_matchers: vec![], ..rule("a=1", "b=1", &[]) }).0,
            "source_matchers"
        );
        assert_eq!(fault(rule("a=1", "b=1", &[""])).0, "equal");
        assert!(rule("{a=1,b=2}", "b=1", &["c", "c"]).check().is_ok());
    }
}
