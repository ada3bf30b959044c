//! Storms: when a gateway or a site is in trouble, people are told of that, once, with the count and what the devices
//! have in common, and not of each device below it.
//!
//! A *parent* is a value of a label that devices have in common, such as `gateway` or `site`. It is in a storm while at
//! least a share of its children alert, and it is down while a device of that name has an alert that says so. Either way
//! alerts of its children are held from then on; those that were told before stay told. It is over once it was calm for
//! some time, in which most of what was held ends by itself. What is still there then is looked at again, and told if
//! nobody was told before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use watchfire_model::{Duration, Severity, Timestamp};
use watchfire_store::{LabelSet, fingerprint};

use crate::matcher::Matcher;
use crate::stages::fleet::{Fleet, Trait};
use crate::stages::notice::{Event, Notice};

/// The name of the alert that tells of a storm.
pub const ALERT: &str = "watchfire-storm";
/// So long a storm goes on before it is told, so that the count says something.
const SETTLES: Duration = Duration::from_secs(5);
/// It is told again once so many times as many devices alert.
const GREW: u64 = 2;
/// It calms down when less than this share of what began it is left: not at the same count, or it would come and go.
const OVER: f64 = 0.5;

/// Alerts of the devices below one parent are one storm.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StormConfig {
    /// The label whose values are the parents, such as `gateway`, `site`, `network`.
    pub parent: String,
    /// The share of the devices below a parent that must alert. Default 0.2.
    #[serde(default = "share")]
    pub share: f64,
    /// At least so many devices must alert, however few there are. Default 10.
    #[serde(default = "least")]
    pub least: u64,
    /// Which alerts count, and are held. Default: all.
    #[serde(default)]
    pub matchers: Vec<String>,
    /// Which alerts of the device that has the name of the parent say that it is down. Default: none do.
    #[serde(default)]
    pub down: Vec<String>,
    /// So long few must alert, and nothing say that the parent is down, until alerts are not held any more. Default 1 min.
    #[serde(default = "calm")]
    pub calm: Duration,
    /// Of the notice. Default major.
    #[serde(default = "severity")]
    pub severity: Severity,
}

fn share() -> f64 {
    0.2
}
fn least() -> u64 {
    10
}
fn calm() -> Duration {
    Duration::from_secs(60)
}
fn severity() -> Severity {
    Severity::Major
}

impl StormConfig {
    /// Says what is wrong, if anything is.
    pub fn check(&self) -> Result<(), String> {
        if self.parent.is_empty() {
            return Err("parent: names no label".into());
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            return Err(format!("share: {} is not above 0 and at most 1", self.share));
        }
        if self.least < 2 {
            return Err("least: one device is no storm, so it is at least 2".into());
        }
        matchers(&self.matchers).and(matchers(&self.down)).map(drop)
    }
}

fn matchers(texts: &[String]) -> Result<Vec<Matcher>, String> {
    texts.iter().map(|text| text.parse()).collect()
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    config: StormConfig,
    matchers: Vec<Matcher>,
    down: Vec<Matcher>,
}

impl Rule {
    fn counts(&self, labels: &LabelSet) -> bool {
        self.matchers.iter().all(|matcher| matcher.matches(labels))
    }

    fn says_down(&self, labels: &LabelSet) -> bool {
        !self.down.is_empty() && self.down.iter().all(|matcher| matcher.matches(labels))
    }
}

/// A parent: the label and its value. The label is that of one `[[storm]]`.
type ParentId = (String, String);

#[derive(Clone, Debug, Default)]
struct Parent {
    /// Alerts that fire, by device.
    devices: HashMap<String, u32>,
    /// How many of those devices have each label.
    with: HashMap<Trait, u64>,
    /// Alerts that fire, by their name.
    names: BTreeMap<String, u64>,
    /// Alerts that say that it is down.
    down: BTreeSet<String>,
    /// It was down, and is not any more or not for long enough yet.
    was_down: Option<Down>,
    storm: Option<Storm>,
}

/// A parent that is down, or was until lately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// The fingerprint of an alert that said so.
    by: String,
    /// Since when nothing says so any more.
    up_since: Option<Timestamp>,
}

/// What is kept of a storm over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// Since when.
    pub since: Timestamp,
    /// How many devices alerted when it was told last; 0: not told yet.
    pub told: u64,
    /// Since when so few alert that it will be over.
    #[serde(default)]
    pub calm_since: Option<Timestamp>,
}

/// What is kept over a restart, by label and value of the parent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    storms: Vec<(String, String, Storm)>,
    down: Vec<(String, String, Down)>,
}

/// All parents of which something is known.
#[derive(Clone, Debug, Default)]
pub struct Storms {
    rules: Arc<Vec<Rule>>,
    parents: HashMap<ParentId, Parent>,
    /// Parents to look at: something changed, or a storm is to be told.
    touched: HashSet<ParentId>,
}

/// Why an alert is held, or `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The label.
    pub parent: String,
    /// Its value.
    pub value: String,
    /// The parent is down; otherwise too many of its children alert.
    pub down: bool,
}

/// What came of a look at storms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settled {
    /// What is to be told of them.
    pub notices: Vec<Notice>,
    /// Something that held alerts does not any more.
    pub released: bool,
    /// What is kept over a restart is another.
    pub changed: bool,
}

/// Parents whose children's alerts are held, each with the fingerprint of the alert that says why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    rules: Arc<Vec<Rule>>,
    parents: BTreeMap<ParentId, String>,
}

impl Standing {
    /// The fingerprint of what holds an alert with these labels: that its parent is down, or the storm.
    pub fn held_by(&self, labels: &LabelSet) -> Option<&str> {
        if self.parents.is_empty() || labels.get("alertname").is_some_and(|name| name == ALERT) {
            return None;
        }
        parents_of(&self.rules, labels).find_map(|id| self.parents.get(&id)).map(String::as_str)
    }
}

/// The parents that may hold an alert with these labels.
fn parents_of<'a>(rules: &'a [Rule], labels: &'a LabelSet) -> impl Iterator<Item = ParentId> + 'a {
    rules.iter().filter(|rule| rule.counts(labels)).filter_map(|rule| {
        let name = &rule.config.parent;
        let value = labels.get(name)?;
        // What says that the parent is down is told, whatever label the parent has of itself.
        let itself = labels.get("device") == Some(value) && rule.says_down(labels);
        (!itself).then(|| (name.clone(), value.clone()))
    })
}

fn labels_of((name, value): &ParentId, severity: Severity) -> LabelSet {
    [("alertname", ALERT), ("rule", ALERT), (name.as_str(), value.as_str()), ("severity", severity.as_str())]
        .map(|(label, value)| (label.to_string(), value.to_string()))
        .into()
}

impl Storms {
    /// Without any parent yet. Configurations that [`StormConfig::check`] refuses are left out.
    pub fn new(configs: &[StormConfig]) -> Self {
        let rule = |config: &StormConfig| {
            let (counted, down) = (matchers(&config.matchers).ok()?, matchers(&config.down).ok()?);
            Some(Rule { config: config.clone(), matchers: counted, down })
        };
        Self { rules: Arc::new(configs.iter().filter_map(rule).collect()), ..Self::default() }
    }

    /// Whether there is anything to do.
    pub fn is_off(&self) -> bool {
        self.rules.is_empty()
    }

    /// An alert fires, counted once for each label set.
    pub fn fires(&mut self, labels: &LabelSet) {
        self.count(labels, true);
    }

    /// An alert that fired with these labels does not any more.
    pub fn resolved(&mut self, labels: &LabelSet) {
        self.count(labels, false);
    }

    fn count(&mut self, labels: &LabelSet, fires: bool) {
        let Some(device) = labels.get("device") else { return };
        let Self { rules, parents, touched } = self;
        for rule in rules.iter() {
            let name = &rule.config.parent;
            if rule.says_down(labels) {
                let id = (name.clone(), device.clone());
                let down = &mut parents.entry(id.clone()).or_default().down;
                let changed =
                    if fires { down.insert(fingerprint(labels)) } else { down.remove(&fingerprint(labels)) };
                if changed {
                    touched.insert(id);
                }
            }
            let Some(value) = labels.get(name).filter(|_| rule.counts(labels)) else { continue };
            let id = (name.clone(), value.clone());
            let parent = parents.entry(id.clone()).or_default();
            parent.count(device, labels, fires);
            touched.insert(id);
        }
    }

    /// Why an alert with these labels is held, if it is.
    pub fn holds(&self, labels: &LabelSet) -> Option<Held> {
        if labels.get("alertname").is_some_and(|name| name == ALERT) {
            return None;
        }
        parents_of(&self.rules, labels).find_map(|(parent, value)| {
            let of = self.parents.get(&(parent.clone(), value.clone()))?;
            let down = of.is_down();
            (down || of.storm.is_some()).then_some(Held { parent, value, down })
        })
    }

    /// What holds alerts now, for whoever only looks.
    pub fn standing(&self) -> Standing {
        let severity = |name: &str| {
            let of = |rule: &&Rule| rule.config.parent == name;
            self.rules.iter().find(of).map_or(Severity::Major, |rule| rule.config.severity)
        };
        let says = |(id, parent): (&ParentId, &Parent)| {
            let storm = || fingerprint(&labels_of(id, severity(&id.0)));
            let was_down = || parent.was_down.as_ref().map(|down| down.by.clone());
            let by = parent.down.first().cloned().or_else(was_down);
            let by = by.or_else(|| parent.storm.as_ref().map(|_| storm()))?;
            Some((id.clone(), by))
        };
        Standing { rules: self.rules.clone(), parents: self.parents.iter().filter_map(says).collect() }
    }

    /// Looks at what changed, and at what time makes of storms.
    pub fn settle(&mut self, fleet: &Fleet, now: Timestamp) -> Settled {
        let mut settled = Settled::default();
        let Self { rules, parents, touched } = self;
        let mut ids: Vec<ParentId> = touched.drain().collect();
        // The order of a hash table must not decide the order of messages.
        ids.sort_unstable();
        for id in ids {
            let Some(rule) = rules.iter().find(|rule| rule.config.parent == id.0) else { continue };
            let Some(parent) = parents.get_mut(&id) else { continue };
            let before = (parent.storm.clone(), parent.was_down.clone());
            let alerting = parent.devices.len() as u64;
            let children = fleet.count(&id.0, &id.1);
            let share = (children as f64 * rule.config.share).ceil() as u64;
            let threshold =
                if parent.down.is_empty() { share.max(rule.config.least) } else { rule.config.least };
            let few = (alerting as f64) < threshold as f64 * OVER;
            // The storm that is told of, and when it ended.
            let mut told: Option<(Storm, Option<Timestamp>)> = None;
            match &mut parent.storm {
                None if alerting >= threshold => {
                    parent.storm = Some(Storm { since: now, told: 0, calm_since: None });
                    touched.insert(id.clone());
                }
                None => {}
                // What nobody was told of held nothing for long: what stands is told now.
                Some(Storm { told: 0, .. }) if few => {
                    parent.storm = None;
                    settled.released = true;
                }
                Some(storm) if few => {
                    let since = *storm.calm_since.get_or_insert(now);
                    if since + rule.config.calm <= now {
                        told = Some((storm.clone(), Some(now)));
                        parent.storm = None;
                        settled.released = true;
                    } else {
                        touched.insert(id.clone());
                    }
                }
                Some(storm) => {
                    storm.calm_since = None;
                    let due = storm.since + SETTLES <= now;
                    if due && (storm.told == 0 || alerting >= storm.told * GREW) {
                        storm.told = alerting;
                        told = Some((storm.clone(), None));
                    } else if !due {
                        touched.insert(id.clone());
                    }
                }
            }
            if let Some((storm, ended)) = told {
                let text = parent.text(&id, fleet);
                settled.notices.push(notice(&rule.config, &id, &storm, ended, text));
            }
            match (parent.down.first(), &mut parent.was_down) {
                (Some(by), was_down) => *was_down = Some(Down { by: by.clone(), up_since: None }),
                (None, Some(was_down)) => {
                    if *was_down.up_since.get_or_insert(now) + rule.config.calm <= now {
                        parent.was_down = None;
                        settled.released = true;
                    } else {
                        touched.insert(id.clone());
                    }
                }
                (None, None) => {}
            }
            settled.changed |= before != (parent.storm.clone(), parent.was_down.clone());
            if parent.is_quiet() {
                parents.remove(&id);
            }
        }
        settled
    }

    /// When [`Storms::settle`] has something to do even if nothing changes.
    pub fn next(&self) -> Option<Timestamp> {
        let times = |id: &ParentId| {
            let parent = self.parents.get(id)?;
            let calm = self.rules.iter().find(|rule| rule.config.parent == id.0)?.config.calm;
            let storm = parent.storm.as_ref();
            let told = storm.filter(|storm| storm.told == 0).map(|storm| storm.since + SETTLES);
            let calms = storm.and_then(|storm| storm.calm_since);
            let up = parent.was_down.as_ref().and_then(|down| down.up_since);
            told.into_iter().chain(calms.into_iter().chain(up).map(|since| since + calm)).min()
        };
        self.touched.iter().filter_map(times).min()
    }

    /// The clock was set back, to `now`: nothing waits for longer than if it began to wait now.
    pub fn set_back(&mut self, now: Timestamp) {
        for parent in self.parents.values_mut() {
            if let Some(storm) = &mut parent.storm {
                // One that was told is known by when it began.
                if storm.told == 0 {
                    storm.since = storm.since.min(now);
                }
                storm.calm_since = storm.calm_since.map(|since| since.min(now));
            }
            if let Some(down) = &mut parent.was_down {
                down.up_since = down.up_since.map(|since| since.min(now));
            }
        }
    }

    /// What must outlive a restart: the counts come from the alerts that fire.
    pub fn kept(&self) -> Kept {
        let mut kept = Kept::default();
        for ((name, value), parent) in &self.parents {
            kept.storms.extend(parent.storm.clone().map(|storm| (name.clone(), value.clone(), storm)));
            kept.down.extend(parent.was_down.clone().map(|down| (name.clone(), value.clone(), down)));
        }
        kept.storms.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
        kept.down.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
        kept
    }

    /// After all that fires was counted again: what was known goes on.
    pub fn restore(&mut self, kept: Kept) {
        for (name, value, storm) in kept.storms {
            if let Some(parent) = self.known(name, value) {
                parent.storm = Some(storm);
            }
        }
        for (name, value, down) in kept.down {
            if let Some(parent) = self.known(name, value) {
                parent.was_down = Some(down);
            }
        }
    }

    /// A parent to look at, if the configuration still has such parents.
    fn known(&mut self, name: String, value: String) -> Option<&mut Parent> {
        self.rules.iter().find(|rule| rule.config.parent == name)?;
        let id = (name, value);
        self.touched.insert(id.clone());
        Some(self.parents.entry(id).or_default())
    }
}

impl Parent {
    /// It is down, or was until lately.
    fn is_down(&self) -> bool {
        !self.down.is_empty() || self.was_down.is_some()
    }

    /// Nothing is known of it any more.
    fn is_quiet(&self) -> bool {
        self.devices.is_empty() && !self.is_down() && self.storm.is_none()
    }

    fn count(&mut self, device: &str, labels: &LabelSet, fires: bool) {
        let name = labels.get("alertname").cloned().unwrap_or_default();
        let alerts = self.names.entry(name.clone()).or_default();
        *alerts = if fires { *alerts + 1 } else { alerts.saturating_sub(1) };
        if *alerts == 0 {
            self.names.remove(&name);
        }
        let of_device = self.devices.entry(device.to_string()).or_default();
        let before = *of_device;
        *of_device = if fires { before + 1 } else { before.saturating_sub(1) };
        let now = *of_device;
        if now == 0 {
            self.devices.remove(device);
        }
        if (before == 0) == (now == 0) {
            return;
        }
        for (label, value) in labels.iter().filter(|(label, _)| describes_device(label)) {
            let count = self.with.entry((label.clone(), value.clone())).or_default();
            *count = if fires { *count + 1 } else { count.saturating_sub(1) };
        }
        self.with.retain(|_, count| *count > 0);
    }

    /// "1204 of 8000 devices of site lyon alert (silence 1200, threshold 4); 98 % have firmware 2.3.1, 12 % of the fleet".
    fn text(&self, (name, value): &ParentId, fleet: &Fleet) -> String {
        let alerting = self.devices.len() as u64;
        let children = fleet.count(name, value).max(alerting);
        let mut text = format!("{alerting} of {children} devices of {name} {value} alert");
        let mut names: Vec<(&String, &u64)> = self.names.iter().collect();
        names.sort_by(|one, other| other.1.cmp(one.1).then(one.0.cmp(other.0)));
        let more = names.len().saturating_sub(3);
        let mut listed: Vec<String> =
            names.iter().take(3).map(|(alert, count)| format!("{alert} {count}")).collect();
        if more > 0 {
            listed.push(format!("{more} others"));
        }
        if !listed.is_empty() {
            text.push_str(&format!(" ({})", listed.join(", ")));
        }
        if !self.down.is_empty() {
            text.push_str(&format!("; {value} itself is down"));
        }
        let common = fleet.common(alerting, self.with.iter().map(|(one, count)| (one, *count)), name);
        if let Some(factor) = common {
            let percent = |share: f64| (share * 100.0).round();
            text.push_str(&format!(
                "; {} % have {} {}, {} % of the fleet",
                percent(factor.share),
                factor.name,
                factor.value,
                percent(factor.fleet_share)
            ));
        }
        text
    }
}

/// Labels that say something of the device and not of the alert.
fn describes_device(label: &str) -> bool {
    !["alertname", "rule", "device", "key", "severity"].contains(&label)
}

fn notice(
    config: &StormConfig,
    id: &ParentId,
    storm: &Storm,
    ended: Option<Timestamp>,
    text: String,
) -> Notice {
    let (name, value) = id;
    let labels = labels_of(id, config.severity);
    let summary = match ended {
        Some(_) => format!("The storm of {name} {value} is over"),
        None => format!("Storm: {text}"),
    };
    let part = match ended {
        Some(_) => "resolved".to_string(),
        None => format!("firing/{}", storm.told),
    };
    let description = match ended {
        Some(_) => format!("{summary}: {text}"),
        None => format!("{summary}\nFurther alerts of devices of {name} {value} are held until it is over"),
    };
    Notice {
        cause: format!("storm/{name}/{value}/{}#{part}", storm.since.0),
        transition: None,
        event: if ended.is_some() { Event::Resolved } else { Event::Raised },
        alert: format!("storm-{}", fingerprint(&labels)),
        fingerprint: fingerprint(&labels),
        annotations: [("summary", summary), ("description", description)]
            .map(|(name, text)| (name.to_string(), text))
            .into(),
        labels,
        starts_at: storm.since,
        ends_at: ended,
        url: String::new(),
        recorded_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_model::DeviceSpec;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    fn labels(device: &str, more: &[(&str, &str)]) -> LabelSet {
        let fixed = [("alertname", "silence"), ("device", device), ("severity", "major"), ("site", "lyon")];
        fixed.iter().chain(more).map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    /// 100 presses in lyon, ten of them on a firmware of their own.
    fn fleet() -> Fleet {
        let mut fleet = Fleet::default();
        for i in 0..100 {
            let firmware = if i < 10 { "2.3.1" } else { "2.2.0" };
            fleet.add(&DeviceSpec {
                id: format!("p{i}"),
                site: "lyon".into(),
                labels: [("firmware".to_string(), firmware.to_string())].into(),
                ..DeviceSpec::default()
            });
        }
        fleet
    }

    fn storms(more: &str) -> Storms {
        let config: StormConfig =
            toml::from_str(&format!("parent = \"site\"\nshare = 0.1\nleast = 4\n{more}")).unwrap();
        assert_eq!(config.check(), Ok(()));
        Storms::new(&[config])
    }

    #[test]
    fn a_storm_is_told_once_with_the_count_and_the_common_factor() {
        let (mut storms, fleet) = (storms(""), fleet());
        let device = |i: u32| labels(&format!("p{i}"), &[("firmware", "2.3.1")]);
        for i in 0..9 {
            storms.fires(&device(i));
        }
        assert_eq!(storms.settle(&fleet, at(0)), Settled::default());
        assert_eq!(storms.holds(&device(50)), None, "nine of a hundred are no storm where ten are");
        storms.fires(&device(9));
        assert_eq!(storms.settle(&fleet, at(1)).notices, []);
        let held = Held { parent: "site".into(), value: "lyon".into(), down: false };
        assert_eq!(storms.holds(&device(50)), Some(held));
        assert_eq!(storms.holds(&labels("x", &[("site", "oslo")])), None);
        assert_eq!(storms.next(), Some(at(6)));
        storms.fires(&labels("p10", &[("firmware", "2.2.0")]));
        let told = storms.settle(&fleet, at(6)).notices;
        assert_eq!(told.len(), 1);
        assert_eq!(
            told[0].annotations["summary"],
            "Storm: 11 of 100 devices of site lyon alert (silence 11); 91 % have firmware 2.3.1, 10 % of the fleet"
        );
        assert!(told[0].fires() && told[0].starts_at == at(1));
        assert_eq!(storms.holds(&told[0].labels), None, "the notice of a storm is not held by it");
        assert_eq!(storms.settle(&fleet, at(60)), Settled::default(), "once");

        // A restart: the counts come from what fires, the storm from what was kept.
        let kept = storms.kept();
        let mut again = self::storms("");
        (0..10).for_each(|i| again.fires(&device(i)));
        again.fires(&labels("p10", &[("firmware", "2.2.0")]));
        again.restore(kept);
        assert_eq!(again.settle(&fleet, at(70)), Settled::default());
        assert!(again.holds(&device(50)).is_some());

        // Twice as many: told again. Few are left: over.
        (11..22).for_each(|i| again.fires(&device(i)));
        let told = again.settle(&fleet, at(80)).notices;
        assert!(
            told.len() == 1 && told[0].annotations["summary"].starts_with("Storm: 22 of 100"),
            "{told:?}"
        );
        (0..10).for_each(|i| again.resolved(&device(i)));
        (11..18).for_each(|i| again.resolved(&device(i)));
        assert_eq!(again.settle(&fleet, at(90)), Settled::default(), "five are half of ten: not yet calm");
        again.resolved(&device(18));
        let calm = again.settle(&fleet, at(91));
        assert!(calm.notices.is_empty() && !calm.released && calm.changed);
        assert_eq!(again.next(), Some(at(151)));

        // One comes back: it has to be calm for as long again, over another restart.
        again.fires(&device(18));
        again.settle(&fleet, at(100));
        assert_eq!(again.next(), None);
        again.resolved(&device(18));
        again.settle(&fleet, at(120));
        let kept = again.kept();
        let mut last = self::storms("");
        (19..22).for_each(|i| last.fires(&device(i)));
        last.fires(&labels("p10", &[("firmware", "2.2.0")]));
        last.restore(kept);
        assert_eq!(last.settle(&fleet, at(179)), Settled::default());
        assert!(last.holds(&device(50)).is_some());
        let over = last.settle(&fleet, at(180));
        assert!(over.notices.len() == 1 && over.notices[0].ends_at == Some(at(180)) && over.released);
        assert_eq!(over.notices[0].fingerprint, told[0].fingerprint);
        assert_eq!(last.holds(&device(50)), None);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_storm_longer() {
        let (mut storms, fleet) = (storms("calm = \"30s\""), fleet());
        let all: Vec<LabelSet> = (0..10).map(|i| labels(&format!("p{i}"), &[])).collect();
        all.iter().for_each(|labels| storms.fires(labels));
        storms.settle(&fleet, at(3600));
        storms.set_back(at(0));
        assert_eq!(storms.next(), Some(at(5)));
        assert_eq!(storms.settle(&fleet, at(5)).notices.len(), 1);
        all.iter().for_each(|labels| storms.resolved(labels));
        storms.settle(&fleet, at(7200));
        storms.set_back(at(10));
        assert_eq!(storms.next(), Some(at(40)));
        let over = storms.settle(&fleet, at(40));
        assert_eq!(over.notices[0].starts_at, at(0), "as it was told");
    }

    #[test]
    fn a_storm_that_is_over_before_it_is_told_is_not_told() {
        let (mut storms, fleet) = (storms(""), fleet());
        let all: Vec<LabelSet> = (0..10).map(|i| labels(&format!("p{i}"), &[])).collect();
        all.iter().for_each(|labels| storms.fires(labels));
        storms.settle(&fleet, at(0));
        all.iter().for_each(|labels| storms.resolved(labels));
        let settled = storms.settle(&fleet, at(4));
        assert!(settled.notices.is_empty() && settled.released);
        assert!(storms.parents.is_empty() && storms.kept() == Kept::default() && storms.next().is_none());
    }

    #[test]
    fn what_hangs_on_a_gateway_that_is_down_is_held() {
        let config: StormConfig =
            toml::from_str("parent = \"gateway\"\ndown = ['alertname=\"silence\"']").unwrap();
        let (mut storms, fleet) = (Storms::new(&[config]), Fleet::default());
        let child = labels("p1", &[("gateway", "g1")]);
        assert_eq!(storms.holds(&child), None);
        // The gateway has a gateway label of its own, as registries have it.
        let gateway = labels("g1", &[("gateway", "g1")]);
        storms.fires(&gateway);
        assert!(!storms.settle(&fleet, at(0)).released);
        assert!(storms.holds(&child).is_some_and(|held| held.down));
        assert_eq!(storms.holds(&gateway), None);
        assert_eq!(storms.holds(&labels("p2", &[("gateway", "g2")])), None);

        // It is back: what hangs on it has a minute to be too, over a restart.
        storms.resolved(&gateway);
        assert!(!storms.settle(&fleet, at(10)).released);
        let mut again = Storms { rules: storms.rules.clone(), ..Storms::default() };
        again.restore(storms.kept());
        assert!(!again.settle(&fleet, at(69)).released && again.next() == Some(at(70)));
        assert!(again.standing().held_by(&child) == Some(fingerprint(&gateway).as_str()));
        assert!(again.settle(&fleet, at(70)).released && again.holds(&child).is_none());
        assert!(again.parents.is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, said) in [
            ("parent = \"\"", "names no label"),
            ("parent = \"site\"\nshare = 0.0", "share"),
            ("parent = \"site\"\nshare = 1.5", "share"),
            ("parent = \"site\"\nleast = 1", "least"),
            ("parent = \"site\"\nmatchers = ['=']", "is no matcher"),
        ] {
            let config: StormConfig = toml::from_str(text).unwrap();
            assert!(config.check().unwrap_err().contains(said), "{text}");
        }
    }
}
