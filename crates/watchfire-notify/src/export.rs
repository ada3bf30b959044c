//! Our routing as the configuration of an Alertmanager: for tools that ask one for it, such as `amtool config routes`.
//!
//! It decides as ours does, and holds no secret: each receiver is a webhook whose address is `<secret>`, which
//! Alertmanager's own answers have in such places, and its programs accept.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use watchfire_model::Duration;

use crate::config::{NotifyConfig, RouteConfig};
use crate::matcher::Matchers;
use crate::stages::interval::SpanConfig;

/// What Alertmanager takes for "at once": it refuses a `group_interval` of nothing.
const AT_ONCE: &str = "1ms";
/// What Alertmanager takes for "never": it refuses a `repeat_interval` of nothing.
const NEVER: &str = "100y";

/// The text of an `alertmanager.yml` that routes as this configuration does, which must have passed
/// [`NotifyConfig::check`].
pub fn alertmanager(config: &NotifyConfig) -> String {
    let mut receivers = Receivers::new(config);
    let mut yaml = Yaml::default();
    yaml.line(0, "route:");
    root(config, &mut receivers, &mut yaml);
    if !config.inhibit.is_empty() {
        yaml.line(0, "inhibit_rules:");
    }
    for rule in &config.inhibit {
        let mut item = Item::new(1);
        if let Some(name) = &rule.name {
            item.line(&mut yaml, &format!("name: {}", quote(name)));
        }
        item.line(&mut yaml, &format!("source_matchers: {}", matchers(&rule.source_matchers)));
        item.line(&mut yaml, &format!("target_matchers: {}", matchers(&rule.target_matchers)));
        if !rule.equal.is_empty() {
            item.line(&mut yaml, &format!("equal: {}", list(&rule.equal)));
        }
    }
    yaml.line(0, "receivers:");
    for (name, hooks) in receivers.finish() {
        let mut item = Item::new(1);
        item.line(&mut yaml, &format!("name: {}", quote(&name)));
        if hooks > 0 {
            item.line(&mut yaml, "webhook_configs:");
        }
        for _ in 0..hooks {
            yaml.line(2, "- url: \"<secret>\"");
        }
    }
    if !config.time_intervals.is_empty() {
        yaml.line(0, "time_intervals:");
    }
    for interval in &config.time_intervals {
        let mut item = Item::new(1);
        item.line(&mut yaml, &format!("name: {}", quote(&interval.name)));
        item.line(&mut yaml, "time_intervals:");
        for one in interval.spans() {
            span(&one, &mut yaml);
        }
    }
    // Its programs write it always.
    yaml.line(0, "templates: []");
    yaml.0
}

#[derive(Default)]
struct Yaml(String);

impl Yaml {
    fn line(&mut self, depth: usize, text: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "{}{text}", "  ".repeat(depth));
    }
}

/// An element of a list that is a mapping: its first line has the dash.
struct Item {
    depth: usize,
    begun: bool,
}

impl Item {
    fn new(depth: usize) -> Self {
        Self { depth, begun: false }
    }

    fn line(&mut self, yaml: &mut Yaml, text: &str) {
        let dash = if self.begun { "  " } else { "- " };
        self.begun = true;
        yaml.line(self.depth - 1, &format!("{dash}{text}"));
    }
}

/// The receivers of the configuration, and those that stand for several of them, or for nobody.
struct Receivers {
    /// By name: how many addresses it has.
    all: BTreeMap<String, usize>,
    /// By what they stand for.
    made: BTreeMap<Vec<String>, String>,
}

impl Receivers {
    fn new(config: &NotifyConfig) -> Self {
        let all = config.receivers.iter().map(|receiver| (receiver.name.clone(), 1)).collect();
        Self { all, made: BTreeMap::new() }
    }

    /// The one that tells these.
    fn of(&mut self, names: &[String]) -> String {
        if let [one] = names {
            return one.clone();
        }
        if let Some(made) = self.made.get(names) {
            return made.clone();
        }
        let plain = if names.is_empty() { "nobody".to_string() } else { names.join(" + ") };
        let mut name = plain.clone();
        let mut number = 1;
        while self.all.contains_key(&name) {
            number += 1;
            name = format!("{plain} {number}");
        }
        self.all.insert(name.clone(), names.len());
        self.made.insert(names.to_vec(), name.clone());
        name
    }

    fn finish(self) -> BTreeMap<String, usize> {
        self.all
    }
}

fn root(config: &NotifyConfig, receivers: &mut Receivers, yaml: &mut Yaml) {
    let root = &config.route;
    let only = match &config.receivers[..] {
        [only] => vec![only.name.clone()],
        _ => Vec::new(),
    };
    let told = own_receivers(root).unwrap_or(only);
    let defaults = ["alertname".to_string(), "device".to_string()];
    yaml.line(1, &format!("receiver: {}", quote(&receivers.of(&told))));
    yaml.line(1, &format!("group_by: {}", group_by(root.group_by.as_deref().unwrap_or(&defaults))));
    let wait = root.group_wait.unwrap_or(Duration::ZERO);
    yaml.line(1, &format!("group_wait: {}", span_of_time(wait, "0s")));
    let interval = root.group_interval.unwrap_or(Duration::ZERO);
    yaml.line(1, &format!("group_interval: {}", span_of_time(interval, AT_ONCE)));
    let repeat = root.repeat_interval.unwrap_or(Duration::from_secs(4 * 3600));
    yaml.line(1, &format!("repeat_interval: {}", span_of_time(repeat, NEVER)));
    below(root, 2, receivers, yaml);
}

fn below(route: &RouteConfig, depth: usize, receivers: &mut Receivers, yaml: &mut Yaml) {
    if route.routes.is_empty() {
        return;
    }
    yaml.line(depth - 1, "routes:");
    for child in &route.routes {
        let mut item = Item::new(depth);
        item.line(yaml, &format!("matchers: {}", matchers(&child.matchers)));
        if let Some(told) = own_receivers(child) {
            item.line(yaml, &format!("receiver: {}", quote(&receivers.of(&told))));
        }
        if let Some(labels) = &child.group_by {
            item.line(yaml, &format!("group_by: {}", group_by(labels)));
        }
        for (key, given, zero) in [
            ("group_wait", child.group_wait, "0s"),
            ("group_interval", child.group_interval, AT_ONCE),
            ("repeat_interval", child.repeat_interval, NEVER),
        ] {
            if let Some(given) = given {
                item.line(yaml, &format!("{key}: {}", span_of_time(given, zero)));
            }
        }
        for (key, names) in [
            ("mute_time_intervals", &child.mute_time_intervals),
            ("active_time_intervals", &child.active_time_intervals),
        ] {
            if !names.is_empty() {
                item.line(yaml, &format!("{key}: {}", list(names)));
            }
        }
        if child.r#continue {
            item.line(yaml, "continue: true");
        }
        below(child, depth + 1, receivers, yaml);
    }
}

/// Whom a route names itself.
fn own_receivers(route: &RouteConfig) -> Option<Vec<String>> {
    route.receivers.clone().or_else(|| route.receiver.clone().map(|one| vec![one]))
}

fn span(span: &SpanConfig, yaml: &mut Yaml) {
    let mut item = Item::new(2);
    if !span.times.is_empty() {
        let time = |time: &crate::stages::interval::TimeRange| {
            format!("{{start_time: {}, end_time: {}}}", quote(&time.start_time), quote(&time.end_time))
        };
        let times: Vec<String> = span.times.iter().map(time).collect();
        item.line(yaml, &format!("times: [{}]", times.join(", ")));
    }
    for (key, ranges) in [
        ("weekdays", &span.weekdays),
        ("days_of_month", &span.days_of_month),
        ("months", &span.months),
        ("years", &span.years),
    ] {
        if !ranges.is_empty() {
            // Alertmanager takes no spaces within a range.
            let ranges: Vec<String> = ranges.iter().map(|range| range.0.replace(' ', "")).collect();
            item.line(yaml, &format!("{key}: {}", list(&ranges)));
        }
    }
    if let Some(location) = &span.location {
        item.line(yaml, &format!("location: {}", quote(location)));
    }
}

/// Those of a list that was checked, one by one.
fn matchers(texts: &[String]) -> String {
    let all = Matchers::all(texts).unwrap_or_default();
    list(&all.0.iter().map(ToString::to_string).collect::<Vec<_>>())
}

/// Alertmanager refuses a label that is named twice.
fn group_by(labels: &[String]) -> String {
    let mut seen = HashSet::new();
    list(&labels.iter().filter(|label| seen.insert(*label)).cloned().collect::<Vec<_>>())
}

fn list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quote(text)).collect();
    format!("[{}]", quoted.join(", "))
}

/// In whole milliseconds, which is the smallest unit there; never less than one where it is not nothing.
fn span_of_time(span: Duration, zero: &str) -> String {
    if span == Duration::ZERO {
        return zero.into();
    }
    Duration::from_millis(span.0.div_ceil(1000)).to_string()
}

/// A text in double quotes, by the rules of YAML and of JSON.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // What does not print is no character of YAML.
            '\u{0}'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::stages::route::Router;

    const OURS: &str = r#"
        [[receiver]]
        name = "ops"
        webhook = { url = "http://h/?key=s3cret", headers = { Authorization = "Bearer s3cret" } }
        [[receiver]]
        name = "night: \"shift\" é"
        webhook = { url = { file = "/run/secrets/night" } }
        [[receiver]]
        name = "nobody"
        webhook = { url = "http://h/" }
        [route]
        receiver = "ops"
        [[route.routes]]
        matchers = ['severity=~"major|critical"', '{"größe x"!="1",key!~"a\\d"}']
        receivers = ["ops", "night: \"shift\" é"]
        group_by = ["site", "site"]
        group_wait = "30s"
        group_interval = "0s"
        repeat_interval = "0s"
        continue = true
        mute_time_intervals = ["old"]
        active_time_intervals = ["office", "old"]
        [[route.routes.routes]]
        matchers = ["site=oslo"]
        receivers = []
        group_by = ["..."]
        [[route.routes]]
        group_by = []
        group_interval = "1500us"
        [[inhibit]]
        name = "down"
        source_matchers = ['alertname="down"']
        target_matchers = ['alertname!="down"']
        equal = ["site"]
        [[inhibit]]
        source_matchers = ['a="b"']
        target_matchers = ['c=~"d"']
        [[time_interval]]
        name = "old"
        years = [1999]
        [[time_interval]]
        name = "office"
        [[time_interval.any]]
        weekdays = ["Monday : friday"]
        times = [{ start_time = "09:00", end_time = "24:00" }]
        location = "Europe/Oslo"
        [[time_interval.any]]
        days_of_month = [1, "-3:-1"]
        months = ["may"]
    "#;

    /// The check reads secrets that stand in files, so that of the text is there.
    fn config(text: &str) -> NotifyConfig {
        static SECRET: LazyLock<tempfile::NamedTempFile> = LazyLock::new(|| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), "http://h/?key=s3cret").unwrap();
            file
        });
        let text = text.replace("/run/secrets/night", SECRET.path().to_str().unwrap());
        let config: NotifyConfig = toml::from_str(&text).unwrap();
        assert_eq!(config.check(), Ok(()));
        config
    }

    #[test]
    fn what_is_written_is_read_back_and_decides_the_same() {
        let ours = config(OURS);
        let yaml = alertmanager(&ours);
        assert!(!yaml.contains("s3cret") && !yaml.contains("file"), "{yaml}");
        assert!(yaml.matches("url: \"<secret>\"").count() == 5, "{yaml}");
        let imported = crate::import::alertmanager(&yaml.replace("<secret>", "http://h/")).unwrap();
        let back = config(&imported.toml);
        let tree = |config: &NotifyConfig| Router::new(config).unwrap().outline();
        let (ours_tree, mut back_tree) = (tree(&ours), tree(&back));
        // What Alertmanager cannot say: at once, never, and which receivers one name stands for.
        for (step, ours) in back_tree.iter_mut().zip(&ours_tree) {
            for (span, ours) in [
                (&mut step.timers.interval, ours.timers.interval),
                (&mut step.timers.repeat, ours.timers.repeat),
            ] {
                let stands_for_nothing = [Duration::from_millis(1), Duration::from_secs(100 * 365 * 86_400)];
                if ours == Duration::ZERO && stands_for_nothing.contains(span) {
                    *span = Duration::ZERO;
                }
            }
            if ours.receivers.len() == 2 {
                assert_eq!(step.receivers.len(), 2, "{yaml}");
                step.receivers.clone_from(&ours.receivers);
            }
            if ours.timers.interval == Duration(1500) {
                step.timers.interval = Duration(1500);
            }
            let mut group_by = ours.group_by.clone();
            group_by.dedup();
            assert_eq!(step.group_by, group_by);
            step.group_by.clone_from(&ours.group_by);
        }
        assert_eq!(back_tree, ours_tree, "{yaml}");
        assert_eq!(back.inhibit, ours.inhibit);
        let intervals =
            |config: &NotifyConfig| format!("{:?}", config.time_intervals).replace("Monday : f", "Monday:f");
        assert_eq!(intervals(&back), intervals(&ours));
    }

    #[test]
    fn what_alertmanager_demands_is_there() {
        let yaml = alertmanager(&NotifyConfig::default());
        assert!(yaml.starts_with("route:\n  receiver: \"nobody\"\n"), "{yaml}");
        assert!(yaml.contains("receivers:\n- name: \"nobody\"\n"), "{yaml}");
        let yaml = alertmanager(&config(OURS));
        // Ours has that name, so the receiver of nobody has another one.
        assert!(yaml.contains("- name: \"nobody 2\"\n- name"), "{yaml}");
        assert!(yaml.contains("group_interval: 1ms\n") && yaml.contains("repeat_interval: 100y\n"), "{yaml}");
        assert!(yaml.contains("group_by: [\"site\"]\n"), "{yaml}");
        assert!(yaml.contains("group_interval: 2ms\n"), "a span is not cut to nothing: {yaml}");
    }

    #[test]
    fn texts_are_quoted() {
        assert_eq!(quote("a \"b\" \\ é🙂\n\t\u{7f}\u{1}"), r#""a \"b\" \\ é🙂\n\t\u007f\u0001""#);
    }
}
