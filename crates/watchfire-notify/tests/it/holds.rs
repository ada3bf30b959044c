//! What holds notices back, against an oracle that is written straight from Alertmanager's documentation and asks
//! everything one by one.

use std::collections::BTreeSet;

use jiff::ZonedDateTime;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use watchfire_model::{Duration, Timestamp};
use watchfire_notify::stages::inhibit::{InhibitConfig, Inhibitor};
use watchfire_notify::stages::interval::{Intervals, TimeIntervalConfig};
use watchfire_notify::stages::silence::Silences;
use watchfire_store::{LabelSet, Silence, SilenceMatcher};

/// A matcher as the oracle knows it: regular expressions are alternatives of words, or anything but nothing.
#[derive(Clone, Debug)]
struct Condition {
    name: &'static str,
    operator: &'static str,
    words: Vec<&'static str>,
}

impl Condition {
    fn value(&self) -> String {
        match (self.operator, &self.words[..]) {
            ("=~" | "!~", []) => ".+".into(),
            ("=" | "!=", words) => words.first().copied().unwrap_or_default().into(),
            (_, words) => words.join("|"),
        }
    }

    /// "A missing label and a label with an empty value are the same thing."
    fn holds(&self, labels: &LabelSet) -> bool {
        let value = labels.get(self.name).map_or("", String::as_str);
        let matched = match self.operator {
            "=" | "!=" => value == self.value(),
            _ if self.words.is_empty() => !value.is_empty(),
            _ => self.words.contains(&value),
        };
        matched == self.operator.starts_with('=')
    }

    fn text(&self) -> String {
        format!("{}{}\"{}\"", self.name, self.operator, self.value())
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d e"];
const VALUES: [&str; 3] = ["1", "2", "3"];

fn condition() -> impl Strategy<Value = Condition> {
    let operator = prop::sample::select(vec!["=", "=", "=~", "!=", "!~"]);
    let words = prop::sample::subsequence(VALUES.to_vec(), 0..=2);
    (prop::sample::select(NAMES.to_vec()), operator, words).prop_map(|(name, operator, words)| Condition {
        name,
        operator,
        words,
    })
}

fn conditions() -> impl Strategy<Value = Vec<Condition>> {
    prop::collection::vec(condition(), 1..4)
}

fn label_set() -> impl Strategy<Value = LabelSet> {
    let label = (prop::sample::select(NAMES.to_vec()), prop::sample::select(VALUES.to_vec()));
    prop::collection::vec(label, 0..4)
        .prop_map(|labels| labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
}

fn all_hold(conditions: &[Condition], labels: &LabelSet) -> bool {
    conditions.iter().all(|condition| condition.holds(labels))
}

fn texts(conditions: &[Condition]) -> Vec<String> {
    // A name that is no classic one stands in quotes.
    let quoted = |condition: &Condition| match condition.name.contains(' ') {
        true => condition.text().replacen(condition.name, &format!("{:?}", condition.name), 1),
        false => condition.text(),
    };
    conditions.iter().map(quoted).collect()
}

fn silence(number: usize, conditions: &[Condition], from: i64, span: i64) -> Silence {
    let matcher = |condition: &Condition| SilenceMatcher {
        name: condition.name.into(),
        value: condition.value(),
        is_regex: condition.operator.ends_with('~'),
        is_equal: condition.operator.starts_with('='),
    };
    Silence {
        id: number.to_string(),
        matchers: conditions.iter().map(matcher).collect(),
        starts_at: Timestamp(from),
        ends_at: Timestamp(from + span),
        created_by: "anna".into(),
        comment: String::new(),
        annotations: Default::default(),
        updated_at: Timestamp(from),
        until_resolved: false,
    }
}

#[derive(Clone, Debug)]
struct Rule {
    source: Vec<Condition>,
    target: Vec<Condition>,
    equal: Vec<&'static str>,
}

impl Rule {
    /// "An alert that matches both the target and the source side of a rule cannot be inhibited by alerts for which the
    /// same is true (including itself)."
    fn inhibits(&self, source: &LabelSet, target: &LabelSet) -> bool {
        let both = |labels| all_hold(&self.source, labels) && all_hold(&self.target, labels);
        let value = |labels: &LabelSet, name: &str| labels.get(name).cloned().unwrap_or_default();
        all_hold(&self.source, source)
            && all_hold(&self.target, target)
            && self.equal.iter().all(|name| value(source, name) == value(target, name))
            && !(both(source) && both(target))
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let equal = prop::sample::subsequence(NAMES.to_vec(), 0..3);
    (conditions(), conditions(), equal).prop_map(|(source, target, equal)| Rule { source, target, equal })
}

/// Minutes of a day, days of the week, days of the month, months.
#[derive(Clone, Debug)]
struct When {
    times: Vec<(i32, i32)>,
    weekdays: Vec<(i8, i8)>,
    days: Vec<(i8, i8)>,
    months: Vec<(i8, i8)>,
    zone: &'static str,
}

const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

impl When {
    fn holds(&self, time: Timestamp) -> bool {
        let local = ZonedDateTime::new(time.to_jiff(), TimeZone::get(self.zone).unwrap());
        let minute = i32::from(local.hour()) * 60 + i32::from(local.minute());
        let weekday = local.weekday().to_sunday_zero_offset();
        let last = local.days_in_month();
        let day = |day: i8| if day < 0 { last + 1 + day } else { day };
        let one = |given: usize, holds: bool| given == 0 || holds;
        one(self.times.len(), self.times.iter().any(|(from, to)| *from <= minute && minute < *to))
            && one(
                self.weekdays.len(),
                self.weekdays.iter().any(|(from, to)| *from <= weekday && weekday <= *to),
            )
            && one(
                self.days.len(),
                self.days.iter().any(|(from, to)| day(*from) <= local.day() && local.day() <= day(*to)),
            )
            && one(
                self.months.len(),
                self.months.iter().any(|(from, to)| *from <= local.month() && local.month() <= *to),
            )
    }

    fn text(&self) -> String {
        let clock = |minute: i32| format!("{:02}:{:02}", minute / 60, minute % 60);
        let times = self.times.iter().map(|(from, to)| {
            format!("{{ start_time = \"{}\", end_time = \"{}\" }}", clock(*from), clock(*to))
        });
        let weekdays = self
            .weekdays
            .iter()
            .map(|(from, to)| format!("\"{}:{}\"", DAYS[*from as usize], DAYS[*to as usize]));
        let range = |(from, to): &(i8, i8)| format!("\"{from}:{to}\"");
        format!(
            "times = [{}]\nweekdays = [{}]\ndays_of_month = [{}]\nmonths = [{}]\nlocation = \"{}\"",
            times.collect::<Vec<_>>().join(", "),
            weekdays.collect::<Vec<_>>().join(", "),
            self.days.iter().map(range).collect::<Vec<_>>().join(", "),
            self.months.iter().map(range).collect::<Vec<_>>().join(", "),
            self.zone
        )
    }
}

fn in_order<T: PartialOrd + Copy>((a, b): (T, T)) -> (T, T) {
    if a <= b { (a, b) } else { (b, a) }
}

fn when() -> impl Strategy<Value = When> {
    // Half hours about the hours at which clocks are changed, and the rest of the day.
    let minute = prop_oneof![0..=8_i32, 0..=48_i32].prop_map(|half| half * 30);
    let time =
        (minute.clone(), minute).prop_filter("a time range has a length", |(a, b)| a != b).prop_map(in_order);
    let day = prop_oneof![
        (1..=31_i8, 1..=31_i8).prop_map(in_order),
        (-31..=-1_i8, -31..=-1_i8).prop_map(in_order),
        (1..=10_i8, -10..=-1_i8),
    ];
    let zones = vec!["UTC", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Asia/Kolkata"];
    (
        prop::collection::vec(time, 0..3),
        prop::collection::vec((0..=6_i8, 0..=6_i8).prop_map(in_order), 0..2),
        prop::collection::vec(day, 0..2),
        prop::collection::vec((1..=12_i8, 1..=12_i8).prop_map(in_order), 0..2),
        prop::sample::select(zones),
    )
        .prop_filter("it says something", |(times, weekdays, days, months, _)| {
            times.len() + weekdays.len() + days.len() + months.len() > 0
        })
        .prop_map(|(times, weekdays, days, months, zone)| When { times, weekdays, days, months, zone })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn silences_hold_what_the_oracle_says(
        given in prop::collection::vec((conditions(), 0..30_i64, 1..30_i64), 0..12),
        sets in prop::collection::vec(label_set(), 1..8),
        now in -1..61_i64,
    ) {
        let silences: Vec<Silence> =
            given.iter().enumerate().map(|(i, (conditions, from, span))| silence(i, conditions, *from, *span)).collect();
        let all = Silences::new(&silences);
        // "At least one matcher must not match the empty string", where only one that asks for a value counts as one
        // that matches it: `!=` and `!~` do not.
        let usable = |conditions: &[Condition]| {
            let asks = |condition: &Condition| !condition.operator.starts_with('!');
            !conditions.iter().all(|condition| asks(condition) && condition.holds(&LabelSet::new()))
        };
        let expected = |labels: &LabelSet, now: i64| -> Vec<String> {
            given
                .iter()
                .enumerate()
                .filter(|(_, (conditions, from, span))| {
                    usable(conditions) && *from <= now && now < from + span && all_hold(conditions, labels)
                })
                .map(|(i, _)| i.to_string())
                .collect()
        };
        for labels in &sets {
            prop_assert_eq!(all.holding(labels, Timestamp(now)), expected(labels, now));
        }
        prop_assert_eq!(all.faulty().len(), given.iter().filter(|one| !usable(&one.0)).count());
        // Nothing changes before the next edge.
        let next = all.next_edge(Timestamp(now)).map_or(100, |edge| edge.0);
        prop_assert!(next > now);
        for labels in &sets {
            for later in now..next {
                prop_assert_eq!(expected(labels, later), expected(labels, now));
            }
        }
    }

    #[test]
    fn inhibition_is_as_the_oracle_says(
        rules in prop::collection::vec(rule(), 1..4),
        steps in prop::collection::vec((label_set(), prop::bool::weighted(0.7)), 1..24),
        asked in prop::collection::vec(label_set(), 1..6),
    ) {
        let configs: Vec<InhibitConfig> = rules
            .iter()
            .map(|rule| InhibitConfig {
                name: None,
                source_matchers: texts(&rule.source),
                target_matchers: texts(&rule.target),
                equal: rule.equal.iter().map(ToString::to_string).collect(),
            })
            .collect();
        for config in &configs {
            prop_assert_eq!(config.check(), Ok(()));
        }
        let mut inhibitor = Inhibitor::new(&configs);
        let mut firing: BTreeSet<LabelSet> = BTreeSet::new();
        let fingerprint = watchfire_store::fingerprint;
        for (labels, fires) in steps {
            let known = rules.iter().any(|rule| all_hold(&rule.source, &labels));
            if fires {
                prop_assert_eq!(inhibitor.add(&fingerprint(&labels), &labels), known);
                firing.insert(labels);
            } else {
                let was = firing.remove(&labels);
                prop_assert_eq!(inhibitor.remove(&fingerprint(&labels)), was && known);
            }
        }
        for target in asked.iter().chain(&firing) {
            let found = inhibitor.inhibited_by(target, &fingerprint(target));
            // Each rule names the first of those that inhibit by it.
            let first = |rule: &Rule| {
                firing.iter().filter(|source| rule.inhibits(source, target)).map(fingerprint).min()
            };
            let expected: BTreeSet<String> = rules.iter().filter_map(first).collect();
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn intervals_hold_when_the_oracle_says(
        whens in prop::collection::vec(when(), 1..3),
        // Half hours of 2026 and the first weeks of 2027, so that all changes of clocks are among them.
        halves in prop::collection::vec(0..18_500_i64, 1..4),
        // Weeks in which a clock is changed: Berlin, Santiago, Lord Howe.
        change in prop::sample::select(vec!["2026-03-28", "2026-04-04", "2026-09-05", "2026-10-03", "2026-10-24"]),
        near in 0..144_i64,
    ) {
        let mut configs = Vec::new();
        for (i, when) in whens.iter().enumerate() {
            let text = format!("name = \"{i}\"\n{}", when.text());
            let config: TimeIntervalConfig = toml::from_str(&text).unwrap();
            // Ranges of days that a month of 28 days could not have are refused, as Alertmanager does.
            prop_assume!(config.check().is_ok());
            configs.push(config);
        }
        let all = Intervals::new(&configs).unwrap();
        let half = Duration::from_secs(1800);
        let begin: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let changes: Timestamp = format!("{change}T00:00:00Z").parse().unwrap();
        let starts = halves.iter().map(|count| begin + Duration(half.0 * *count as u64));
        for start in starts.chain([changes + Duration(half.0 * near as u64)]) {
            let now = start + Duration::from_secs(601);
            let states = |time: Timestamp| -> Vec<bool> { whens.iter().map(|when| when.holds(time)).collect() };
            for (i, when) in whens.iter().enumerate() {
                prop_assert_eq!(all.is_active(&i.to_string(), now), when.holds(now), "{:?} at {}", when, now);
            }
            let next = all.next_edge(now).unwrap();
            let horizon = now + Duration::from_secs(40 * 86_400);
            prop_assert!(now < next && next <= horizon);
            // Nothing changes before it (all edges are at half hours here), and something does then.
            let mut time = Timestamp(now.0 - now.0.rem_euclid(half.0 as i64)) + half;
            while time < next {
                prop_assert_eq!(states(time), states(now), "{:?} changes at {}, before {}", whens, time, next);
                time = time + half;
            }
            if next < horizon {
                prop_assert_ne!(states(next), states(now), "{:?} does not change at {}", whens, next);
            }
        }
    }
}
