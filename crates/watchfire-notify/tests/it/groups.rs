//! Routing decisions as plain functions, over random sequences.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;
use watchfire_model::{Duration, Severity, Timestamp};
use watchfire_notify::NotifyConfig;
use watchfire_notify::stages::fleet::Fleet;
use watchfire_notify::stages::hold::Flags;
use watchfire_notify::stages::plan::{Found, Groups, Settings};
use watchfire_notify::stages::silence::Silences;
use watchfire_store::silences::{Silence, SilenceMatcher};
use watchfire_store::{
    AlertRow, AlertSource, AlertState, Flush, GroupRow, GroupRows, LabelSet, MemberRow, Outbox, PendingRow,
    fingerprint,
};

fn labels(device: &str) -> LabelSet {
    [("alertname", "hot"), ("device", device), ("severity", "major")]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .into()
}

fn event(sequence: i64, device: &str, kind: &str, now: Timestamp) -> Outbox {
    Outbox {
        sequence,
        transition: format!("t/{sequence}"),
        transition_sequence: sequence,
        kind: kind.into(),
        alert: device.into(),
        labels: labels(device),
        severity: Severity::Major,
        from_severity: None,
        from_since: None,
        reason: None,
        actor: None,
        comment: None,
        summary: "hot".into(),
        details: Vec::new(),
        at: now,
        recorded_at: now,
        raised_at: now,
        rule: "hot".into(),
        rule_version: 1,
        generator_url: None,
    }
}

fn settings(more: &str) -> Settings {
    let text = format!("[[receiver]]\nname = \"hook\"\nwebhook = {{ url = \"http://h/\" }}\n{more}");
    let config: NotifyConfig = toml::from_str(&text).unwrap();
    Settings::new(&config).unwrap()
}

fn timers(wait: u64, interval: u64, max_alerts: usize) -> Settings {
    settings(&format!(
        "max_alerts = {max_alerts}\n[route]\ngroup_by = [\"alertname\"]\ngroup_wait = {wait}\n\
         group_interval = {interval}\nrepeat_interval = 0"
    ))
}

/// The groups, with what a store would keep of them.
struct World {
    settings: Settings,
    groups: Groups,
    now: Timestamp,
    sequence: i64,
    alerts: BTreeMap<String, AlertRow>,
    transitions: HashMap<i64, Outbox>,
    kept: BTreeMap<i64, GroupRow>,
    members: BTreeMap<(i64, String), MemberRow>,
    pending: BTreeMap<(i64, i64), PendingRow>,
    bounds: Option<String>,
    silences: Vec<Silence>,
    /// What people did, as the rows of alerts have it.
    flags: HashMap<String, Flags>,
}

impl World {
    fn new(settings: Settings) -> Self {
        let (groups, _) = Groups::restore(GroupRows::default(), &[], HashMap::new(), None, &settings, &[]);
        Self {
            settings,
            groups,
            now: Timestamp(1_000_000_000),
            sequence: 0,
            alerts: BTreeMap::new(),
            transitions: HashMap::new(),
            kept: BTreeMap::new(),
            members: BTreeMap::new(),
            pending: BTreeMap::new(),
            bounds: None,
            silences: Vec::new(),
            flags: HashMap::new(),
        }
    }

    fn outbox(&mut self, device: &str, kind: &str) -> Outbox {
        self.sequence += 1;
        let item = event(self.sequence, device, kind, self.now);
        self.transitions.insert(self.sequence, item.clone());
        self.flags.entry(device.into()).or_default().take(&item);
        match kind {
            "raised" => drop(self.alerts.insert(device.into(), row(&item))),
            "resolved" => self.alerts.get_mut(device).unwrap().state = AlertState::Resolved,
            _ => {}
        }
        item
    }

    /// Something happens, and whatever is due by now is decided.
    fn flush(&mut self, outbox: &[Outbox]) -> Flush {
        let Self { settings, groups, now, .. } = self;
        groups.take(settings, &Fleet::default(), outbox, *now);
        let mut rounds = 0;
        while let Some(wanted) = groups.round(settings, *now) {
            rounds += 1;
            assert!(rounds < 1000, "a flush ends");
            let alerts = wanted.alerts.iter().filter_map(|id| self.alerts.get_key_value(id));
            let transitions =
                wanted.transitions.iter().filter_map(|place| self.transitions.get_key_value(place));
            let found = Found {
                alerts: alerts.map(|(id, row)| (id.clone(), row.clone())).collect(),
                transitions: transitions.map(|(place, item)| (*place, item.clone())).collect(),
            };
            groups.work(settings, &found, *now);
        }
        let flush = groups.finish(settings, *now);
        self.keep(&flush);
        flush
    }

    fn keep(&mut self, flush: &Flush) {
        for row in &flush.groups {
            self.kept.insert(row.id, row.clone());
        }
        for id in &flush.ended {
            self.kept.remove(id);
            self.members.retain(|(group, _), _| group != id);
            self.pending.retain(|(group, _), _| group != id);
        }
        for key in &flush.left {
            self.members.remove(key);
        }
        for row in &flush.members {
            self.members.insert((row.group, row.fingerprint.clone()), row.clone());
        }
        for id in &flush.emptied {
            self.pending.retain(|(group, _), _| group != id);
        }
        for row in &flush.pending {
            self.pending.insert((row.group, row.position), row.clone());
        }
        for (_, value) in &flush.settings {
            self.bounds = Some(value.clone());
        }
    }

    fn restart(&mut self) {
        let rows = GroupRows {
            groups: self.kept.values().cloned().collect(),
            members: self.members.values().cloned().collect(),
            pending: self.pending.values().cloned().collect(),
        };
        let pending: Vec<Outbox> =
            rows.pending.iter().map(|row| self.transitions[&row.transition].clone()).collect();
        let active = self.alerts.values().filter(|row| row.state == AlertState::Active);
        let active: Vec<LabelSet> = active.map(|row| row.labels.clone()).collect();
        let (groups, damaged) = Groups::restore(
            rows,
            &pending,
            self.flags.clone(),
            self.bounds.as_deref(),
            &self.settings,
            &active,
        );
        assert!(damaged.is_empty(), "{damaged:?}");
        self.groups = groups;
        self.groups.silence(Silences::new(&self.silences));
    }

    fn silence(&mut self, device: &str, seconds: u64) {
        let matcher =
            SilenceMatcher { name: "device".into(), value: device.into(), is_regex: false, is_equal: true };
        self.silences.push(Silence {
            id: format!("s-{}", self.silences.len()),
            matchers: vec![matcher],
            starts_at: self.now,
            ends_at: self.now + Duration::from_secs(seconds),
            created_by: "anna".into(),
            comment: "works there".into(),
            annotations: BTreeMap::new(),
            updated_at: self.now,
            until_resolved: false,
        });
        self.groups.silence(Silences::new(&self.silences));
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }
}

fn row(item: &Outbox) -> AlertRow {
    AlertRow {
        id: item.alert.clone(),
        sequence: item.sequence,
        rule: item.rule.clone(),
        device: item.alert.clone(),
        key: String::new(),
        severity: item.severity,
        summary: item.summary.clone(),
        details: Vec::new(),
        fingerprint: fingerprint(&item.labels),
        labels: item.labels.clone(),
        state: AlertState::Active,
        raised_at: item.at,
        severity_since: item.at,
        cleared_at: None,
        resolved_at: None,
        resolve_reason: None,
        last_seen: item.at,
        count: 1,
        acknowledged_at: None,
        acknowledged_by: None,
        acknowledge_comment: None,
        partition: 0,
        position: "1/0/0".into(),
        rule_version: 1,
        module: None,
        source: AlertSource::Rule,
        generator_url: String::new(),
        response: Default::default(),
    }
}

/// What a delivery says: each alert of what changed with its status.
fn told(flush: &Flush) -> Vec<String> {
    let mut all = Vec::new();
    for delivery in &flush.deliveries {
        let body: serde_json::Value = serde_json::from_str(&delivery.payload).unwrap();
        for alert in &body["alerts"].as_array().unwrap()[..delivery.alerts.len().min(20)] {
            all.push(format!(
                "{} {}",
                alert["labels"]["device"].as_str().unwrap_or("-"),
                alert["status"].as_str().unwrap()
            ));
        }
    }
    all
}

proptest! {
    /// Whatever comes when, and however often it is restarted: each device's story as told is its story as
    /// it happened, no two deliveries share an id, and no message is longer than it may be.
    #[test]
    fn every_story_is_told_whole_and_in_order(
        steps in proptest::collection::vec((0_u8..4, 0_u64..20, any::<bool>()), 1..60),
        wait in 0_u64..30, interval in 0_u64..30, max_alerts in 1_usize..5,
    ) {
        let mut world = World::new(timers(wait, interval, max_alerts));
        let mut active: HashMap<u8, bool> = HashMap::new();
        let mut happened: HashMap<String, Vec<String>> = HashMap::new();
        let mut said: HashMap<String, Vec<String>> = HashMap::new();
        let mut ids = HashSet::new();
        let end = steps.len();
        for (i, (device, pass, restart)) in steps.into_iter().enumerate() {
            let firing = !active.get(&device).copied().unwrap_or(false);
            active.insert(device, firing);
            let name = format!("d-{device}");
            let status = if firing { "firing" } else { "resolved" };
            happened.entry(name.clone()).or_default().push(format!("{name} {status}"));
            let mut items = vec![world.outbox(&name, if firing { "raised" } else { "resolved" })];
            // The last turn waits until nothing is due any more.
            loop {
                let flush = world.flush(&items);
                items.clear();
                for delivery in &flush.deliveries {
                    prop_assert!(ids.insert(delivery.id.clone()));
                    let body: serde_json::Value = serde_json::from_str(&delivery.payload).unwrap();
                    prop_assert!(body["alerts"].as_array().unwrap().len() <= max_alerts);
                }
                for text in told(&flush) {
                    said.entry(text.split(' ').next().unwrap().into()).or_default().push(text);
                }
                match world.groups.next() {
                    Some(next) if i + 1 == end => world.now = world.now.max(next),
                    _ => break,
                }
            }
            if restart {
                let next = world.groups.next();
                world.restart();
                prop_assert_eq!(world.groups.next(), next);
            }
            world.pass(pass);
        }
        for (device, happened) in happened {
            prop_assert_eq!(said.remove(&device).unwrap_or_default(), happened);
        }
        if active.values().all(|firing| !firing) {
            prop_assert!(world.groups.is_empty() && world.kept.is_empty() && world.members.is_empty());
            prop_assert!(world.pending.is_empty());
        }
    }
}

#[test]
fn a_group_without_changes_is_told_again_and_the_repetition_gives_way() {
    let mut world = World::new(settings("[route]\nrepeat_interval = \"1h\""));
    let raised = world.outbox("d", "raised");
    assert_eq!(told(&world.flush(&[raised])), ["d firing"]);
    assert_eq!(world.groups.next(), Some(world.now + Duration::from_secs(3600)));
    world.pass(3600);
    let flush = world.flush(&[]);
    assert_eq!(flush.deliveries[0].reason, "repeat interval elapsed");
    let repetition = flush.deliveries[0].id.clone();
    let resolved = world.outbox("d", "resolved");
    let flush = world.flush(&[resolved]);
    assert_eq!(flush.superseded, [repetition]);
    assert_eq!(flush.deliveries[0].reason, "all alerts resolved");
    assert_eq!(flush.ended.len(), 1);
    assert!(world.groups.is_empty() && world.groups.next().is_none());
}

#[test]
fn a_resolve_goes_to_those_who_were_told_whatever_the_routes_say_by_now() {
    let mut world = World::new(timers(0, 0, 10));
    // Never told: nobody hears of its end.
    world.outbox("other", "raised");
    let resolved = world.outbox("other", "resolved");
    let flush = world.flush(&[resolved]);
    assert_eq!((flush.deliveries.len(), flush.routed.len()), (0, 1));
    let raised = world.outbox("d", "raised");
    world.flush(&[raised]);
    world.settings = Settings::new(&NotifyConfig::default()).unwrap();
    let resolved = world.outbox("d", "resolved");
    let flush = world.flush(&[resolved]);
    assert_eq!(
        (flush.deliveries[0].receiver.as_str(), flush.deliveries[0].status.as_str()),
        ("hook", "resolved")
    );
}

#[test]
fn what_a_silence_holds_is_told_once_it_ends_if_it_still_fires() {
    for restart in [false, true] {
        let mut world = World::new(settings("[route]\nrepeat_interval = 0"));
        world.silence("d", 600);
        world.silence("e", 600);
        let raised = [world.outbox("d", "raised"), world.outbox("e", "raised"), world.outbox("f", "raised")];
        let flush = world.flush(&raised);
        assert_eq!(told(&flush), ["f firing"]);
        assert_eq!(decided(&flush), [("d", "silence", "held"), ("e", "silence", "held")]);
        if restart {
            world.restart();
        }
        world.pass(60);
        // Over before anybody was told: nobody hears of it.
        let resolved = world.outbox("e", "resolved");
        let flush = world.flush(&[resolved]);
        assert_eq!((told(&flush).len(), flush.decisions[0].outcome.as_str()), (0, "dropped"));
        // One that was told, then silenced: its end is told.
        world.silence("f", 600);
        let resolved = world.outbox("f", "resolved");
        assert_eq!(told(&world.flush(&[resolved])), ["f resolved"]);
        world.pass(540);
        let flush = world.flush(&[]);
        assert_eq!(told(&flush), ["d firing"], "restart: {restart}");
        assert_eq!(flush.decisions[0].outcome, "released");
        let resolved = world.outbox("d", "resolved");
        assert_eq!(told(&world.flush(&[resolved])), ["d resolved"]);
        assert!(world.groups.is_empty() && world.kept.is_empty() && world.members.is_empty());
    }
}

#[test]
fn what_is_over_the_bound_on_messages_comes_as_one_digest() {
    let bounded = "max_per_minute = 3\nbypass = [['device=\"fire\"']]\n[route]\ngroup_by = [\"device\"]";
    let mut world = World::new(settings(bounded));
    for i in 0..3 {
        let raised = world.outbox(&format!("d-{i}"), "raised");
        assert_eq!(world.flush(&[raised]).deliveries.len(), 1);
    }
    let more: Vec<Outbox> = (3..1000).map(|i| world.outbox(&format!("d-{i}"), "raised")).collect();
    assert_eq!(world.flush(&more).deliveries, []);
    let fire = world.outbox("fire", "raised");
    assert_eq!(told(&world.flush(&[fire])), ["fire firing"], "what is of safety is not held back");
    world.restart();
    world.pass(30);
    let over = world.outbox("d-500", "resolved");
    assert_eq!(world.flush(&[over]).deliveries, []);
    world.now = world.groups.next().unwrap();
    let flush = world.flush(&[]);
    assert_eq!(flush.deliveries.len(), 1);
    let body: serde_json::Value = serde_json::from_str(&flush.deliveries[0].payload).unwrap();
    // The one that was over meanwhile is told as begun and ended.
    assert_eq!((&body["digest"]["firing"], &body["digest"]["resolved"]), (&997.into(), &1.into()));
    assert_eq!(body["alerts"].as_array().unwrap().len(), 20);
    assert_eq!(flush.deliveries[0].alerts.len(), 997);
    let resolved = world.outbox("d-4", "resolved");
    world.pass(60);
    assert_eq!(told(&world.flush(&[resolved])), ["d-4 resolved"]);
}

#[test]
fn what_no_bound_holds_back_takes_along_what_its_group_tells_before() {
    let bounded = "max_per_minute = 3\nbypass = [['severity=\"critical\"']]\n[route]\ngroup_by = [\"device\"]\n\
                   group_wait = 10";
    let mut world = World::new(settings(bounded));
    let raised = world.outbox("d", "raised");
    let mut worse = world.outbox("d", "severity_changed");
    (worse.severity, worse.from_severity) = (Severity::Critical, Some(Severity::Major));
    worse.labels = watchfire_store::labels::with_severity(&worse.labels, Severity::Critical);
    world.transitions.insert(worse.transition_sequence, worse.clone());
    assert_eq!(world.flush(&[raised, worse]).deliveries, []);
    world.pass(10);
    assert_eq!(told(&world.flush(&[])), ["d firing", "d resolved", "d firing"]);
}

#[test]
fn who_does_not_acknowledge_is_not_the_last_to_be_told() {
    let text = "[[receiver]]\nname = \"lead\"\nwebhook = { url = \"http://l/\" }\n[[escalation]]\nname = \"plant\"\n\
                [[escalation.steps]]\nafter = \"5m\"\nreceivers = [\"lead\"]\n\
                [route]\nreceiver = \"hook\"\nescalation = \"plant\"\nrepeat_interval = 0";
    let mut world = World::new(settings(text));
    let raised = [world.outbox("d", "raised"), world.outbox("e", "raised")];
    assert_eq!(told(&world.flush(&raised)).len(), 2);
    world.pass(60);
    let acknowledged = world.outbox("e", "acknowledged");
    assert_eq!(told(&world.flush(&[acknowledged])), Vec::<String>::new());
    world.restart();
    world.pass(240);
    let flush = world.flush(&[]);
    assert_eq!(told(&flush), ["d firing"]);
    assert_eq!(flush.deliveries[0].receiver, "lead");
    assert_eq!(flush.decisions[0].detail, "step 1 of plant: nobody acknowledged");
    let resolved = world.outbox("d", "resolved");
    let flush = world.flush(&[resolved]);
    let mut to: Vec<&str> = flush.deliveries.iter().map(|delivery| delivery.receiver.as_str()).collect();
    to.sort_unstable();
    assert_eq!(to, ["hook", "lead"]);
}

/// Each decision: alert, stage, outcome.
fn decided(flush: &Flush) -> Vec<(&str, &str, &str)> {
    let all = flush.decisions.iter();
    all.map(|one| (one.alert.as_str(), one.stage.as_str(), one.outcome.as_str())).collect()
}

#[test]
fn what_is_shelved_is_held_and_told_again_once_its_time_is_over() {
    for restart in [false, true] {
        let mut world = World::new(settings("[route]\nrepeat_interval = \"1h\""));
        // Shelved in front of its raise, as of a condition that is shelved.
        let raised = [
            world.outbox("told", "raised"),
            world.outbox("held", "shelved"),
            world.outbox("held", "raised"),
            world.outbox("quiet", "suppressed"),
            world.outbox("quiet", "raised"),
        ];
        let flush = world.flush(&raised);
        assert_eq!(told(&flush), ["told firing"]);
        assert_eq!(decided(&flush), [("held", "shelved", "held"), ("quiet", "suppressed", "held")]);
        let shelved = world.outbox("told", "shelved");
        assert_eq!(told(&world.flush(&[shelved])), Vec::<String>::new());
        if restart {
            world.restart();
        }
        // It stands, but nobody is told of it once more.
        world.pass(3600);
        assert_eq!(told(&world.flush(&[])), Vec::<String>::new(), "restart: {restart}");
        let expired = |item: Outbox| Outbox { reason: Some("expired".into()), ..item };
        let over = [expired(world.outbox("told", "unshelved")), expired(world.outbox("held", "unshelved"))];
        let flush = world.flush(&over);
        let mut said = told(&flush);
        said.sort();
        assert_eq!(said, ["held firing", "told firing"], "restart: {restart}");
        assert!(flush.decisions.iter().all(|row| row.outcome == "released"), "{:?}", flush.decisions);
        // Whoever brings something back by hand knows: what was told is not told again, what was held is.
        let back = [world.outbox("told", "shelved"), world.outbox("told", "unshelved")];
        assert_eq!(told(&world.flush(&back)), Vec::<String>::new());
        let back = world.outbox("quiet", "unsuppressed");
        assert_eq!(told(&world.flush(&[back])), ["quiet firing"]);
        let resolved = ["told", "held", "quiet"].map(|name| world.outbox(name, "resolved"));
        assert_eq!(told(&world.flush(&resolved)).len(), 3);
        assert!(world.groups.is_empty() && world.kept.is_empty() && world.members.is_empty());
    }
}

#[test]
fn an_acknowledgement_stops_the_escalation_and_its_end_begins_it_anew() {
    let text = "[[receiver]]\nname = \"lead\"\nwebhook = { url = \"http://l/\" }\n[[escalation]]\nname = \"plant\"\n\
                [[escalation.steps]]\nafter = \"5m\"\nreceivers = [\"lead\"]\n\
                [route]\nreceiver = \"hook\"\nescalation = \"plant\"\nrepeat_interval = 0";
    let mut world = World::new(settings(text));
    let raised = world.outbox("d", "raised");
    assert_eq!(told(&world.flush(&[raised])), ["d firing"]);
    let acknowledged = world.outbox("d", "acknowledged");
    world.flush(&[acknowledged]);
    world.restart();
    world.pass(3600);
    assert_eq!(world.flush(&[]).deliveries, [], "somebody looks after it");
    let ended = world.outbox("d", "unacknowledged");
    let flush = world.flush(&[ended]);
    assert_eq!((told(&flush), flush.deliveries[0].receiver.as_str()), (vec!["d firing".into()], "hook"));
    world.pass(299);
    assert_eq!(world.flush(&[]).deliveries, []);
    world.pass(1);
    let flush = world.flush(&[]);
    assert_eq!((told(&flush), flush.deliveries[0].receiver.as_str()), (vec!["d firing".into()], "lead"));
}
