//! Silences: which of them hold a label set at a time.

use std::collections::HashMap;

use watchfire_model::Timestamp;
use watchfire_store::{LabelSet, Silence, SilenceMatcher};

use crate::matcher::{Matcher, Matchers, Operator};

#[derive(Clone, Debug)]
struct Compiled {
    id: String,
    matchers: Matchers,
    starts_at: Timestamp,
    ends_at: Timestamp,
}

/// All silences, compiled once, to be asked about many label sets.
///
/// Each silence stands in the bucket of one of its matchers that names the values which the label may have (`=`, or `=~`
/// with nothing but words and `|`), the one that fewest others share. So a label set is held against the silences that
/// name one of its labels, and against those few that name none.
#[derive(Clone, Debug, Default)]
pub struct Silences {
    silences: Vec<Compiled>,
    /// By name and value of a label, places in `silences`.
    buckets: HashMap<String, HashMap<String, Vec<usize>>>,
    /// Those that are in no bucket.
    others: Vec<usize>,
    /// Begins and ends, in order.
    edges: Vec<Timestamp>,
    faulty: Vec<(String, String)>,
}

impl Silences {
    /// These silences. One that cannot be understood holds nothing: see [`Silences::faulty`].
    pub fn new(silences: &[Silence]) -> Self {
        let mut all = Self::default();
        for silence in silences {
            match compile(silence) {
                Ok(compiled) => all.silences.push(compiled),
                Err(fault) => all.faulty.push((silence.id.clone(), fault)),
            }
        }
        let mut shared: HashMap<(&str, &str), usize> = HashMap::new();
        for silence in &all.silences {
            for (name, value) in silence.matchers.0.iter().flat_map(named) {
                *shared.entry((name, value)).or_default() += 1;
            }
        }
        let others_at = |matcher: &Matcher| -> Option<usize> {
            let count = |value: &str| shared.get(&(matcher.name(), value)).copied().unwrap_or_default();
            Some(matcher.values()?.into_iter().map(count).max().unwrap_or_default())
        };
        for (place, silence) in all.silences.iter().enumerate() {
            let narrowest = silence
                .matchers
                .0
                .iter()
                .filter_map(|matcher| Some((others_at(matcher)?, matcher)))
                .min_by_key(|(others, _)| *others);
            let Some((_, matcher)) = narrowest else {
                all.others.push(place);
                continue;
            };
            let bucket = all.buckets.entry(matcher.name().to_string()).or_default();
            for (_, value) in named(matcher) {
                let places = bucket.entry(value.to_string()).or_default();
                // `a|a` names one value.
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
        all.edges = all.silences.iter().flat_map(|silence| [silence.starts_at, silence.ends_at]).collect();
        all.edges.sort_unstable();
        all.edges.dedup();
        all
    }

    /// The ids of the silences that hold this label set now, in the order in which they were given.
    pub fn holding(&self, labels: &LabelSet, now: Timestamp) -> Vec<String> {
        let mut places: Vec<usize> = labels
            .iter()
            .filter_map(|(name, value)| self.buckets.get(name)?.get(value))
            .chain([&self.others])
            .flatten()
            .copied()
            .filter(|&place| {
                let silence = &self.silences[place];
                silence.starts_at <= now && now < silence.ends_at && silence.matchers.matches(labels)
            })
            .collect();
        places.sort_unstable();
        places.into_iter().map(|place| self.silences[place].id.clone()).collect()
    }

    /// When one begins or ends next, after now.
    pub fn next_edge(&self, now: Timestamp) -> Option<Timestamp> {
        self.edges.get(self.edges.partition_point(|edge| *edge <= now)).copied()
    }

    /// Those that cannot be understood, by id, and why: to be counted and logged.
    pub fn faulty(&self) -> &[(String, String)] {
        &self.faulty
    }

    /// How many there are that can be.
    pub fn len(&self) -> usize {
        self.silences.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.silences.is_empty()
    }
}

fn named(matcher: &Matcher) -> impl Iterator<Item = (&str, &str)> {
    matcher.values().unwrap_or_default().into_iter().map(|value| (matcher.name(), value))
}

/// The conditions of a silence, checked as Alertmanager does; an error says which one is wrong, and why.
pub fn conditions(matchers: &[SilenceMatcher]) -> Result<Matchers, String> {
    let read = |(i, matcher): (usize, &SilenceMatcher)| {
        // In Alertmanager's words, which its clients show.
        Matcher::of_silence(matcher).map_err(|fault| match &*matcher.name {
            "" => format!("invalid label matcher {i}: invalid label name \"\""),
            _ => {
                format!("invalid label matcher {i}: invalid regular expression {:?}: {fault}", matcher.value)
            }
        })
    };
    let read = matchers.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    if read.is_empty() {
        return Err("at least one matcher is required".into());
    }
    // A silence of everything by mistake. One matcher that excludes is no such, though it holds for an empty label.
    let names_nothing = |matcher: &Matcher| {
        matches!(matcher.operator(), Operator::Equal | Operator::Matches) && matcher.matches_value("")
    };
    if read.iter().all(names_nothing) {
        return Err("at least one matcher must not match the empty string".into());
    }
    Ok(Matchers(read))
}

fn compile(silence: &Silence) -> Result<Compiled, String> {
    Ok(Compiled {
        id: silence.id.clone(),
        matchers: conditions(&silence.matchers)?,
        starts_at: silence.starts_at,
        ends_at: silence.ends_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silence(id: &str, matchers: &str, from: i64, to: i64) -> Silence {
        Silence {
            id: id.into(),
            matchers: matchers.parse::<Matchers>().unwrap().0.iter().map(Matcher::to_silence).collect(),
            starts_at: Timestamp(from),
            ends_at: Timestamp(to),
            created_by: "anna".into(),
            comment: "works".into(),
            annotations: Default::default(),
            updated_at: Timestamp(from),
            until_resolved: false,
        }
    }

    fn check(silences: &Silences, labels: &str, now: i64, expected: &[&str]) {
        let set = labels.split_whitespace().filter_map(|pair| pair.split_once('='));
        let set = set.map(|(name, value)| (name.to_string(), value.to_string())).collect();
        assert_eq!(silences.holding(&set, Timestamp(now)), expected, "{labels} at {now}");
    }

    #[test]
    fn what_holds_when() {
        let all = Silences::new(&[
            silence("oslo", "site=oslo", 10, 20),
            silence("presses", "type=press, site!=oslo", 0, 100),
            silence("two", "device=~\"press-1|press-2|press-1\"", 15, 30),
            silence("any", "severity!=critical, device=~\"press-.*\"", 50, 60),
        ]);
        check(&all, "site=oslo", 9, &[]);
        check(&all, "site=oslo", 10, &["oslo"]);
        check(&all, "site=oslo", 19, &["oslo"]);
        check(&all, "site=oslo", 20, &[]);
        check(&all, "type=press site=lyon device=press-1", 15, &["presses", "two"]);
        check(&all, "type=press site=oslo device=press-3", 15, &["oslo"]);
        check(&all, "device=press-2 site=oslo", 15, &["oslo", "two"]);
        check(&all, "device=press-9", 55, &["any"]);
        check(&all, "device=press-9 severity=critical", 55, &[]);
        check(&all, "", 15, &[]);
        let edges =
            [-1, 0, 10, 14, 15, 60, 99, 100].map(|now| all.next_edge(Timestamp(now)).map(|edge| edge.0));
        let expected = [Some(0), Some(10), Some(15), Some(15), Some(20), Some(100), Some(100), None];
        assert_eq!(edges, expected);
    }

    #[test]
    fn what_cannot_be_understood_holds_nothing_and_is_named() {
        let mut wrong = silence("wrong", "site=oslo", 0, 10);
        wrong.matchers[0] = watchfire_store::SilenceMatcher {
            is_regex: true,
            value: "(".into(),
            ..wrong.matchers[0].clone()
        };
        let all = Silences::new(&[
            wrong,
            silence("all", "", 0, 10),
            silence("nearly all", "site=~\".*\"", 0, 10),
            silence("right", "site=oslo", 0, 10),
        ]);
        check(&all, "site=oslo", 5, &["right"]);
        assert_eq!(
            all.faulty().iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(),
            ["wrong", "all", "nearly all"]
        );
        assert!(all.faulty()[0].1.contains("invalid regular expression"));
        assert_eq!((all.len(), all.is_empty()), (1, false));
    }

    #[test]
    fn a_silence_of_everything_by_mistake_is_refused() {
        let matcher = |name: &str, value: &str, is_regex, is_equal| SilenceMatcher {
            name: name.into(),
            value: value.into(),
            is_regex,
            is_equal,
        };
        for (matchers, said) in [
            (vec![], "at least one matcher is required"),
            (vec![matcher("a", "", false, true)], "must not match the empty string"),
            (vec![matcher("a", ".*", true, true)], "must not match the empty string"),
            (
                vec![matcher("a", "(", true, true)],
                "invalid label matcher 0: invalid regular expression \"(\"",
            ),
            (vec![matcher("", "b", false, true)], "invalid label name \"\""),
            (vec![matcher("a", "(?:.{999}){999}", true, true)], "takes more than 1048576 bytes of memory"),
        ] {
            let fault = conditions(&matchers).unwrap_err();
            assert!(fault.contains(said), "{fault:?} does not say {said:?}");
        }
        // What excludes one value holds nearly everything, and is meant.
        let all = Silences::new(&[silence("others", "site!=oslo", 0, 10)]);
        check(&all, "site=lyon", 5, &["others"]);
        check(&all, "site=oslo", 5, &[]);
    }

    #[test]
    fn a_label_set_is_held_against_few_of_many() {
        let one = |i: usize| silence(&i.to_string(), &format!("alertname=hot, device=d{i}"), 0, 10);
        let all = Silences::new(&(0..5000).map(one).collect::<Vec<_>>());
        // The name of the rule is shared by all of them, so none stands in its bucket.
        assert!(all.others.is_empty() && !all.buckets.contains_key("alertname"));
        assert!(all.buckets["device"].values().all(|places| places.len() == 1));
        check(&all, "alertname=hot device=d4711", 5, &["4711"]);
    }
}
