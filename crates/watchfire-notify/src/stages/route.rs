//! Who is told: the tree of routes, as Alertmanager walks it.

use watchfire_model::Duration;
use watchfire_store::LabelSet;

use crate::config::{ConfigError, NotifyConfig, RouteConfig};
use crate::matcher::Matchers;
use crate::stages::interval::Times;

mod outline;

pub use outline::{Explained, Step};

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
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
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
    /// Where it stands in the configuration.
    place: String,
    /// The matchers of this route and its parents, as in Alertmanager's group keys.
    path: String,
    receivers: Vec<String>,
    group_by: GroupBy,
    timers: Timers,
    times: Times,
    escalation: Option<String>,
    matchers: Matchers,
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
            [only] => vec![only.name.clone()],
            _ => Vec::new(),
        };
        let parent = Route {
            place: String::new(),
            path: String::new(),
            receivers: only,
            group_by: GroupBy::Labels(vec!["alertname".into(), "device".into()]),
            timers: Timers {
                wait: Duration::ZERO,
                interval: Duration::ZERO,
                repeat: Duration::from_secs(4 * 3600),
            },
            times: Times::default(),
            escalation: None,
            matchers: Matchers::default(),
            goes_on: false,
            routes: Vec::new(),
        };
        Ok(Self { root: compile(&config.route, &parent, "route".into())? })
    }

    /// Where an alert with these labels goes; nowhere without any receiver.
    pub fn route(&self, labels: &LabelSet) -> Vec<Target> {
        let mut found = Vec::new();
        walk(&self.root, labels, &mut found);
        found.into_iter().flat_map(|route| targets(route, labels)).collect()
    }
}

fn compile(config: &RouteConfig, parent: &Route, place: String) -> Result<Route, ConfigError> {
    let matchers = Matchers::all(&config.matchers)
        .map_err(|(i, fault)| ConfigError { place: format!("{place}.matchers[{i}]"), fault })?;
    let slash = if parent.path.is_empty() { "" } else { "/" };
    let group_by = match &config.group_by {
        None => parent.group_by.clone(),
        Some(labels) if labels.iter().any(|label| label == "...") => GroupBy::All,
        Some(labels) => GroupBy::Labels(labels.clone()),
    };
    let mut route = Route {
        path: format!("{}{slash}{matchers}", parent.path),
        receivers: match (&config.receivers, &config.receiver) {
            (Some(several), _) => several.clone(),
            (None, Some(one)) => vec![one.clone()],
            (None, None) => parent.receivers.clone(),
        },
        group_by,
        timers: Timers {
            wait: config.group_wait.unwrap_or(parent.timers.wait),
            interval: config.group_interval.unwrap_or(parent.timers.interval),
            repeat: config.repeat_interval.unwrap_or(parent.timers.repeat),
        },
        // As in Alertmanager they are those of the route that names them, and not of those below it.
        times: Times {
            mute: config.mute_time_intervals.clone(),
            active: config.active_time_intervals.clone(),
        },
        escalation: config.escalation.clone().or_else(|| parent.escalation.clone()),
        matchers,
        goes_on: config.r#continue,
        routes: Vec::new(),
        place,
    };
    let below = config.routes.iter().enumerate();
    route.routes = below
        .map(|(i, child)| compile(child, &route, format!("{}.routes[{i}]", route.place)))
        .collect::<Result<_, _>>()?;
    Ok(route)
}

/// Whether the route or one below it took the alert.
fn walk<'a>(route: &'a Route, labels: &LabelSet, found: &mut Vec<&'a Route>) -> bool {
    if !route.matchers.matches(labels) {
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

/// One for each receiver of a route.
fn targets(route: &Route, labels: &LabelSet) -> impl Iterator<Item = Target> {
    let group_labels: LabelSet = match &route.group_by {
        GroupBy::All => labels.clone(),
        GroupBy::Labels(names) => names
            .iter()
            .filter_map(|name| labels.get_key_value(name))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect(),
    };
    let shown = group_labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>();
    let group_key = format!("{}:{{{}}}", route.path, shown.join(", "));
    route.receivers.iter().map(move |receiver| Target {
        receiver: receiver.clone(),
        group_key: group_key.clone(),
        group_labels: group_labels.clone(),
        timers: route.timers,
        times: route.times.clone(),
        escalation: route.escalation.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn router() -> Router {
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
            matchers = ['{severity="critical"}']
            receiver = "night"
            mute_time_intervals = ["old"]
            [[route.routes.routes]]
            matchers = ['site="oslo"']
            group_wait = "30s"
            [[route.routes]]
            matchers = ["key=both"]
            receivers = ["night", "log"]
            [[route.routes]]
            matchers = ["key=none"]
            receivers = []
            [[route.routes.routes]]
            matchers = ["site=oslo"]
            [[time_interval]]
            name = "old"
            years = [1999]
            "#,
        )
        .unwrap();
        Router::new(&config).unwrap()
    }

    fn check(labels: &[(&str, &str)], expected: &[(&str, &str)]) {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let found = router().route(&labels);
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
    fn several_are_told_or_nobody_is() {
        let both = "{}/{key=\"both\"}:{}";
        check(&[("key", "both")], &[("night", both), ("log", both)]);
        check(&[("key", "none")], &[]);
        check(&[("key", "none"), ("site", "oslo")], &[]);
    }

    #[test]
    fn time_intervals_are_those_of_the_route_that_names_them() {
        let muted = |site: &str| {
            let labels = [("severity", "critical"), ("site", site)];
            let labels = labels.map(|(name, value)| (name.to_string(), value.to_string())).into();
            router().route(&labels).into_iter().map(|target| target.times.mute).collect::<Vec<_>>()
        };
        assert_eq!(muted("lyon"), [vec![], vec!["old".to_string()]]);
        assert_eq!(muted("oslo"), [Vec::<String>::new(), vec![]]);
    }

    #[test]
    fn without_a_receiver_nobody_is_told() {
        assert!(Router::new(&NotifyConfig::default()).unwrap().route(&LabelSet::new()).is_empty());
    }
}
