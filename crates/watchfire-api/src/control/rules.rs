//! What the control records of the log add up to for rules: every version of every rule, and what each
//! partition made of it. Pure: the control plane and the projector apply the same records to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use watchfire_model::{Actor, Control, Digest, Offset, Position, RuleSpec, RuleVersion, Timestamp};

/// All rules, by name; removed ones stay listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    rules: BTreeMap<String, Rule>,
    /// What partitions said of versions whose deployment was not applied here yet: a partition may be quicker
    /// than whoever waits for the append to be durable.
    early: BTreeMap<(String, RuleVersion), BTreeMap<u16, Swap>>,
}

/// A rule with its history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Every version there ever was.
    pub versions: BTreeMap<RuleVersion, Version>,
    /// The version that runs, or is about to; `None`: removed, or refused before it ever ran.
    pub current: Option<RuleVersion>,
    /// It gets no callbacks.
    pub paused: bool,
    /// The record that last ended it, in each partition.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ended_at: BTreeMap<u16, Position>,
}

/// One version of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Its number, from 1.
    pub version: RuleVersion,
    /// What was deployed.
    pub spec: Arc<RuleSpec>,
    /// The earlier version that came back with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<RuleVersion>,
    /// The version that ran until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<RuleVersion>,
    /// Who and why.
    pub by: Actor,
    /// When.
    pub at: Timestamp,
    /// The record, in each partition.
    pub activated_at: BTreeMap<u16, Position>,
    /// What each partition made of it; a partition that said nothing yet is missing.
    #[serde(default)]
    pub swaps: BTreeMap<u16, Swap>,
    /// A partition refused it and it was taken back everywhere.
    #[serde(default)]
    pub withdrawn: bool,
}

/// What a partition made of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Swap {
    /// It runs it.
    Activated,
    /// It goes on with the old one.
    Refused {
        /// Why.
        reason: String,
    },
}

/// How far a version got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Some partitions have not said yet.
    Pending,
    /// Every partition runs it, or ran it.
    Activated,
    /// This partition refused it.
    Refused(u16, String),
}

impl Version {
    /// How far it got, where there are this many partitions.
    pub fn progress(&self, partitions: u16) -> Progress {
        let refused = self.swaps.iter().find_map(|(&partition, swap)| match swap {
            Swap::Refused { reason } => Some(Progress::Refused(partition, reason.clone())),
            Swap::Activated => None,
        });
        let all = self.swaps.len() >= usize::from(partitions);
        refused.unwrap_or(if all { Progress::Activated } else { Progress::Pending })
    }
}

impl Rule {
    /// What runs, or is about to.
    pub fn active(&self) -> Option<&Version> {
        self.versions.get(&self.current?)
    }

    fn end(&mut self, positions: &[Position]) {
        self.ended_at.extend(positions.iter().map(|position| (position.partition.0, *position)));
    }

    /// Whether something may still call a module for this rule: it runs, or a partition whose log begins at the
    /// offset that `first` gives may replay records from before it ended. Versions that are not current count too: a
    /// rollback needs them.
    pub fn needs(&self, module: Digest, partitions: u16, first: impl Fn(u16) -> Offset) -> bool {
        let ended = |partition| self.ended_at.get(&partition).is_some_and(|at| at.offset < first(partition));
        let over = self.current.is_none() && (0..partitions).all(ended);
        !over && self.versions.values().any(|version| version.spec.module == module)
    }

    /// The number that the next version gets.
    pub fn next_version(&self) -> RuleVersion {
        self.versions.keys().next_back().map_or(1, |last| last + 1)
    }

    /// The version that a rollback without a target goes back to: the newest before the current one that was
    /// not withdrawn. Going back from a version that is itself a rollback continues from where that one
    /// went, so that two rollbacks in a row go two versions back and not back and forth.
    pub fn previous(&self) -> Option<RuleVersion> {
        let mut from = self.current?;
        while let Some(restores) = self.versions.get(&from).and_then(|version| version.restores) {
            from = restores;
        }
        self.versions.range(..from).rev().find(|(_, version)| !version.withdrawn).map(|(&number, _)| number)
    }
}

impl Rules {
    /// What was stored of an earlier run.
    pub fn restore(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self {
            rules: rules.into_iter().map(|rule| (rule.name.clone(), rule)).collect(),
            early: BTreeMap::new(),
        }
    }

    /// All rules by name, the removed ones included.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values()
    }

    /// A rule, removed or not.
    pub fn get(&self, name: &str) -> Option<&Rule> {
        self.rules.get(name)
    }

    /// What runs: the specifications of all rules that are not removed.
    pub fn active(&self) -> impl Iterator<Item = &Version> {
        self.rules.values().filter_map(Rule::active)
    }

    /// Applies a control record that stands at these positions: all of them at once, or the one in partition 0
    /// before those in others, which then only add where they are. Returns the rule that changed.
    pub fn apply(&mut self, control: &Control, positions: &[Position], at: Timestamp) -> Option<String> {
        if positions.iter().all(|position| position.partition.0 != 0) {
            let (name, version) = match control {
                Control::RuleDeployed { spec, version, .. } => (&spec.name, version),
                Control::RuleRolledBack { name, version: version @ 1.., .. } => (name, version),
                Control::RuleRemoved { name, .. } | Control::RuleRolledBack { name, spec: None, .. } => {
                    self.rules.get_mut(name)?.end(positions);
                    return Some(name.clone());
                }
                _ => return None,
            };
            let version = self.rules.get_mut(name)?.versions.get_mut(version)?;
            version.activated_at.extend(positions.iter().map(|position| (position.partition.0, *position)));
            return Some(name.clone());
        }
        match control {
            Control::RuleDeployed { spec, version, by, .. } => {
                self.add(spec, *version, None, by, positions, at);
                Some(spec.name.clone())
            }
            Control::RuleRolledBack { name, from, to, version, spec, by, .. } => {
                if *version > 0 {
                    if let Some(spec) = spec {
                        self.add(spec, *version, Some(*to), by, positions, at);
                    }
                } else if let Some(rule) = self.rules.get_mut(name) {
                    if let Some(refused) = rule.versions.get_mut(from) {
                        refused.withdrawn = true;
                    }
                    // A deployment that came after the refused one stands.
                    if rule.current == Some(*from) {
                        rule.current = spec.as_ref().map(|_| *to);
                    }
                    if spec.is_none() {
                        rule.end(positions);
                    }
                }
                Some(name.clone())
            }
            Control::RulePaused { name, .. } => self.set_paused(name, true),
            Control::RuleResumed { name, .. } => self.set_paused(name, false),
            Control::RuleRemoved { name, .. } => {
                let rule = self.rules.get_mut(name)?;
                (rule.current, rule.paused) = (None, false);
                rule.end(positions);
                Some(name.clone())
            }
            Control::DevicesPut { .. }
            | Control::DeviceDeleted { .. }
            | Control::RuleCatchUp { .. }
            | Control::RuleMissedSkipped { .. }
            | Control::ConditionCleared { .. } => None,
        }
    }

    /// Notes what a partition made of a version. Returns whether the rule changed.
    pub fn note_swap(&mut self, rule: &str, version: RuleVersion, partition: u16, swap: Swap) -> bool {
        match self.rules.get_mut(rule).and_then(|rule| rule.versions.get_mut(&version)) {
            Some(version) => version.swaps.insert(partition, swap.clone()) != Some(swap),
            None => {
                self.early.entry((rule.to_string(), version)).or_default().insert(partition, swap);
                false
            }
        }
    }

    /// Current versions that a partition refused: they are to be taken back everywhere.
    pub fn refused(&self) -> Vec<(String, RuleVersion, String)> {
        let of = |rule: &Rule| {
            let version = rule.active().filter(|version| !version.withdrawn)?;
            match version.progress(u16::MAX) {
                Progress::Refused(partition, reason) => Some((
                    rule.name.clone(),
                    version.version,
                    format!("partition {partition} refused it: {reason}"),
                )),
                _ => None,
            }
        };
        self.rules.values().filter_map(of).collect()
    }

    fn add(
        &mut self,
        spec: &RuleSpec,
        version: RuleVersion,
        restores: Option<RuleVersion>,
        by: &Actor,
        positions: &[Position],
        at: Timestamp,
    ) {
        let rule = self.rules.entry(spec.name.clone()).or_insert_with(|| Rule {
            name: spec.name.clone(),
            versions: BTreeMap::new(),
            current: None,
            paused: false,
            ended_at: BTreeMap::new(),
        });
        let replaces = rule.current.replace(version);
        rule.versions.entry(version).or_insert_with(|| Version {
            version,
            spec: Arc::new(spec.clone()),
            restores,
            replaces,
            by: by.clone(),
            at,
            activated_at: positions.iter().map(|position| (position.partition.0, *position)).collect(),
            swaps: self.early.remove(&(spec.name.clone(), version)).unwrap_or_default(),
            withdrawn: false,
        });
    }

    fn set_paused(&mut self, name: &str, paused: bool) -> Option<String> {
        self.rules.get_mut(name)?.paused = paused;
        Some(name.to_string())
    }
}

/// The streams that rules would form a circle over, if there were one: `a -> b -> a`. A rule leads from its
/// input to its output.
pub fn stream_cycle<'a>(specs: impl IntoIterator<Item = &'a RuleSpec>) -> Option<Vec<String>> {
    let mut edges: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for spec in specs {
        if let Some(output) = &spec.output {
            edges.entry(&spec.input).or_default().push(output);
        }
    }
    // Depth first with the path at hand: 1 while a stream is on it, 2 once nothing behind it leads back.
    let mut seen: BTreeMap<&str, u8> = BTreeMap::new();
    for &start in edges.keys() {
        if seen.contains_key(start) {
            continue;
        }
        let mut path = vec![(start, 0_usize)];
        seen.insert(start, 1);
        while let Some((stream, next)) = path.last_mut() {
            let following = edges.get(stream).and_then(|outputs| outputs.get(*next)).copied();
            *next += 1;
            match following {
                None => {
                    seen.insert(stream, 2);
                    path.pop();
                }
                Some(output) => match seen.get(output) {
                    Some(1) => {
                        let from = path.iter().position(|(stream, _)| *stream == output).unwrap_or(0);
                        let names = path[from..].iter().map(|(stream, _)| stream.to_string());
                        return Some(names.chain([output.to_string()]).collect());
                    }
                    Some(_) => {}
                    None => {
                        seen.insert(output, 1);
                        path.push((output, 0));
                    }
                },
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_model::{Epoch, PartitionId};

    fn spec(name: &str, input: &str, output: Option<&str>) -> RuleSpec {
        let text = serde_json::json!({
            "name": name, "module": Digest::of(b"m").to_string(), "input": input, "output": output,
        });
        serde_json::from_value(text).unwrap()
    }

    fn positions(offset: u64) -> Vec<Position> {
        (0..2).map(|p| Position { epoch: Epoch(1), partition: PartitionId(p), offset }).collect()
    }

    fn deploy(rules: &mut Rules, version: RuleVersion) {
        let control = Control::RuleDeployed {
            spec: Box::new(spec("hot", "readings", None)),
            version,
            discard_state: false,
            by: Actor::default(),
        };
        rules.apply(&control, &positions(version.into()), Timestamp(0));
    }

    fn withdraw(rules: &mut Rules, from: RuleVersion, to: Option<RuleVersion>) {
        let control = Control::RuleRolledBack {
            name: "hot".into(),
            from,
            to: to.unwrap_or(0),
            version: 0,
            spec: to.map(|_| Box::new(spec("hot", "readings", None))),
            state: Default::default(),
            by: Actor::default(),
        };
        rules.apply(&control, &positions(9), Timestamp(0));
    }

    #[test]
    fn a_version_is_active_once_every_partition_said_so() {
        let mut rules = Rules::default();
        // The second partition is quicker than whoever waits for the append.
        assert!(!rules.note_swap("hot", 1, 1, Swap::Activated));
        deploy(&mut rules, 1);
        assert_eq!(rules.get("hot").unwrap().active().unwrap().progress(2), Progress::Pending);
        assert!(rules.note_swap("hot", 1, 0, Swap::Activated));
        assert!(!rules.note_swap("hot", 1, 0, Swap::Activated), "said twice is said once");
        assert_eq!(rules.get("hot").unwrap().active().unwrap().progress(2), Progress::Activated);
    }

    #[test]
    fn one_refusal_takes_the_version_back() {
        let mut rules = Rules::default();
        deploy(&mut rules, 1);
        deploy(&mut rules, 2);
        rules.note_swap("hot", 2, 0, Swap::Activated);
        rules.note_swap("hot", 2, 1, Swap::Refused { reason: "no memory".into() });
        assert_eq!(rules.refused(), [("hot".into(), 2, "partition 1 refused it: no memory".to_string())]);
        withdraw(&mut rules, 2, Some(1));
        assert_eq!((rules.refused().len(), rules.get("hot").unwrap().current), (0, Some(1)));
        deploy(&mut rules, 3);
        assert_eq!(rules.get("hot").unwrap().previous(), Some(1), "a withdrawn version is no way back");
    }

    #[test]
    fn a_first_version_that_is_refused_leaves_no_rule() {
        let mut rules = Rules::default();
        deploy(&mut rules, 1);
        withdraw(&mut rules, 1, None);
        let rule = rules.get("hot").unwrap();
        assert_eq!((rule.current, rule.next_version(), rule.previous()), (None, 2, None));
    }

    #[test]
    fn a_module_is_needed_until_the_log_forgot_the_end_of_its_rules() {
        let mut rules = Rules::default();
        deploy(&mut rules, 1);
        let module = Digest::of(b"m");
        let needed = |rules: &Rules, first| rules.get("hot").unwrap().needs(module, 2, |_| first);
        assert!(needed(&rules, 100), "it runs");
        let removed = Control::RuleRemoved { name: "hot".into(), by: Actor::default() };
        // The other partition says so later, as at a start.
        rules.apply(&removed, &positions(7)[..1], Timestamp(0));
        assert!(needed(&rules, 100));
        rules.apply(&removed, &positions(7)[1..], Timestamp(0));
        assert!(needed(&rules, 7) && !needed(&rules, 8));
        assert!(!rules.get("hot").unwrap().needs(Digest::of(b"other"), 2, |_| 0));
    }

    #[test]
    fn rollbacks_in_a_row_go_further_back() {
        let mut rules = Rules::default();
        (1..=3).for_each(|version| deploy(&mut rules, version));
        for (version, expected) in [(4, 2), (5, 1)] {
            let rule = rules.get("hot").unwrap();
            assert_eq!(rule.previous(), Some(expected));
            let control = Control::RuleRolledBack {
                name: "hot".into(),
                from: rule.current.unwrap(),
                to: expected,
                version,
                spec: Some(Box::new(spec("hot", "readings", None))),
                state: Default::default(),
                by: Actor::default(),
            };
            rules.apply(&control, &positions(version.into()), Timestamp(0));
        }
        assert_eq!(rules.get("hot").unwrap().previous(), None);
    }

    fn check_cycle(edges: &[(&str, &str)], expected: Option<&str>) {
        let specs: Vec<_> = edges.iter().map(|(input, output)| spec("r", input, Some(output))).collect();
        let found = stream_cycle(&specs).map(|names| names.join(" -> "));
        assert_eq!(found.as_deref(), expected, "{edges:?}");
    }

    #[test]
    fn cycles_among_streams_are_found() {
        check_cycle(&[], None);
        check_cycle(&[("readings", "a"), ("a", "b"), ("readings", "b")], None);
        check_cycle(&[("a", "a")], Some("a -> a"));
        check_cycle(&[("readings", "a"), ("a", "b"), ("b", "c"), ("c", "a")], Some("a -> b -> c -> a"));
        check_cycle(&[("readings", "x"), ("x", "readings")], Some("readings -> x -> readings"));
    }
}
