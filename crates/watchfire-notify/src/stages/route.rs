//! Who is told: the tree of routes, as Alertmanager walks it.

use watchfire_model::Duration;
use watchfire_store::LabelSet;

use crate::config::{ConfigError, NotifyConfig, RouteConfig};
use crate::matcher::Matcher;
use crate::stages::hold::Times;

/// What labels a group is made of.
#[derive(Clone, Debug, PartialEq)]
enum GroupBy {
    All,
    Labels(Vec<String>),
}

/// The timers of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Timers {
    /// The first notice of a group waits so long.
    pub wait: Duration,
    /// Changes wait so long after the last notice.
    pub interval: Duration,
    /// A group without changes is told again after so long; zero: never.
    pub repeat: Duration,
}

/// A place where an alert goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Who is told.
    pub receiver: String,
    /// The group: the path of the route, and the labels of the group.
    pub group_key: String,
    /// What the alerts of the group have in common.
    pub group_labels: LabelSet,
    /// When.
    pub timers: Timers,
    /// Within which times of day and year.
    pub times: Times,
    /// Who is told next where nobody acknowledges.
    pub escalation: Option<String>,
}

#[derive(Clone, Debug)]
struct Route {
    /// The matchers of this route and its parents, as in Alertmanager's group keys.
    path: String,
    receiver: Option<String>,
    group_by: GroupBy,
    timers: Timers,
    times: Times,
    escalation: Option<String>,
    matchers: Vec<Matcher>,
    goes_on: bool,
    routes: Vec<Route>,
}

/// The tree, ready to be walked.
#[derive(Clone, Debug)]
pub struct Router {
    root: Route,
}

impl Router {
    /// The tree of a configuration.
    pub fn new(config: &NotifyConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let only = match &config.receivers[..] {
            [only] => Some(only.name.clone()),
            _ => None,
        };
        let parent = Route {
            path: String::new(),
            receiver: only,
            group_by: GroupBy::Labels(vec!["alertname".into(), "device".into()]),
            timers: Timers {
                wait: Duration::ZERO,
                interval: Duration::ZERO,
                repeat: Duration::from_secs(4 * 3600),
            },
            times: Times::default(),
            escalation: None,
            matchers: Vec::new(),
            goes_on: false,
            routes: Vec::new(),
        };
        Ok(Self { root: compile(&config.route, &parent)? })
    }

    /// Where an alert with these labels goes; nowhere without any receiver.
    pub fn route(&self, labels: &LabelSet) -> Vec<Target> {
        let mut found = Vec::new();
        walk(&self.root, labels, &mut found);
        found.into_iter().filter_map(|route| target(route, labels)).collect()
    }
}

fn compile(config: &RouteConfig, parent: &Route) -> Result<Route, ConfigError> {
    let matchers = config
        .matchers
        .iter()
        .map(|text| text.parse().map_err(|fault| ConfigError { place: "route".into(), fault }))
        .collect::<Result<Vec<Matcher>, _>>()?;
    let own = matchers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let slash = if parent.path.is_empty() { "" } else { "/" };
    let group_by = match &config.group_by {
        None => parent.group_by.clone(),
        Some(labels) if labels.iter().any(|label| label == "...") => GroupBy::All,
        Some(labels) => GroupBy::Labels(labels.clone()),
    };
    let mut route = Route {
        path: format!("{}{slash}{{{own}}}", parent.path),
        receiver: config.receiver.clone().or_else(|| parent.receiver.clone()),
        group_by,
        timers: Timers {
            wait: config.group_wait.unwrap_or(parent.timers.wait),
            interval: config.group_interval.unwrap_or(parent.timers.interval),
            repeat: config.repeat_interval.unwrap_or(parent.timers.repeat),
        },
        // Not inherited, as in Alertmanager: times are those of the route that names them.
        times: Times { mute: config.mute_time_intervals.clone(), active: config.active_time_intervals.clone() },
        escalation: config.escalation.clone().or_else(|| parent.escalation.clone()),
        matchers,
        goes_on: config.r#continue,
        routes: Vec::new(),
    };
    route.routes = config.routes.iter().map(|child| compile(child, &route)).collect::<Result<_, _>>()?;
    Ok(route)
}

/// Whether the route or one below it took the alert.
fn walk<'a>(route: &'a Route, labels: &LabelSet, found: &mut Vec<&'a Route>) -> bool {
    if !route.matchers.iter().all(|matcher| matcher.matches(labels)) {
        return false;
    }
    let before = found.len();
    for child in &route.routes {
        if walk(child, labels, found) && !child.goes_on {
            break;
        }
    }
    if found.len() == before {
        found.push(route);
    }
    true
}

fn target(route: &Route, labels: &LabelSet) -> Option<Target> {
    let group_labels: LabelSet = match &route.group_by {
        GroupBy::All => labels.clone(),
        GroupBy::Labels(names) => names
            .iter()
            .filter_map(|name| labels.get_key_value(name))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect(),
    };
    let shown = group_labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>();
    Some(Target {
        receiver: route.receiver.clone()?,
        group_key: format!("{}:{{{}}}", route.path, shown.join(", ")),
        group_labels,
        timers: route.timers,
        times: route.times.clone(),
        escalation: route.escalation.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(labels: &[(&str, &str)], expected: &[(&str, &str)]) {
        let config: NotifyConfig = toml::from_str(
            r#"
            [[receiver]]
            name = "all"
            webhook = { url = "http://h/" }
            [[receiver]]
            name = "night"
            webhook = { url = "http://h/" }
            [[receiver]]
            name = "log"
            webhook = { url = "http://h/" }
            [route]
            receiver = "all"
            group_by = ["alertname"]
            [[route.routes]]
            matchers = ['severity=~"major|critical"']
            receiver = "log"
            continue = true
            group_by = ["..."]
            [[route.routes]]
            matchers = ['severity="critical"']
            receiver = "night"
            [[route.routes.routes]]
            matchers = ['site="oslo"']
            group_wait = "30s"
            "#,
        )
        .unwrap();
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let found = Router::new(&config).unwrap().route(&labels);
        let found: Vec<_> = found.iter().map(|t| (t.receiver.as_str(), t.group_key.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_tree_is_walked_as_alertmanager_does() {
        check(&[("alertname", "hot")], &[("all", "{}:{alertname=\"hot\"}")]);
        check(&[("severity", "major")], &[("log", "{}/{severity=~\"major|critical\"}:{severity=\"major\"}")]);
        check(
            &[("severity", "critical")],
            &[
                ("log", "{}/{severity=~\"major|critical\"}:{severity=\"critical\"}"),
                ("night", "{}/{severity=\"critical\"}:{}"),
            ],
        );
        check(
            &[("alertname", "x"), ("severity", "critical"), ("site", "oslo")],
            &[
                (
                    "log",
                    "{}/{severity=~\"major|critical\"}:{alertname=\"x\", severity=\"critical\", site=\"oslo\"}",
                ),
                ("night", "{}/{severity=\"critical\"}/{site=\"oslo\"}:{alertname=\"x\"}"),
            ],
        );
    }

    #[test]
    fn without_a_receiver_nobody_is_told() {
        assert!(Router::new(&NotifyConfig::default()).unwrap().route(&LabelSet::new()).is_empty());
    }
}
